"""What to try next with a run: commands that can be run, are sensible at its state, and find this very run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from run_folders import RESULTS, SETTINGS, WHOLE, page, tried, write

from fabrictune import config, run_page
from fabrictune.config import typed

ROOT = Path(__file__).resolve().parent.parent
# What else to do with a trained run: vary it, or of a variant compare it with the others.
OTHERS = {
    "main": ["python", "train.py", "-m", "+experiment=demo", "outputs=a b", "lora.rank=8,32", "resume=true"],
    "lr-1e-4": ["python", "evaluate.py", "+experiment=demo", "outputs=a b", "lora.rank=4", "collect=*"],
}


@pytest.mark.parametrize(
    ("steps", "scripts", "others"),
    [
        (("convert",), "train train", None),
        (("convert", "train..."), "train", None),
        (("convert", "train"), "merge convert train", OTHERS),
        (("convert", "train", "merge"), "evaluate serve serve serve convert train", OTHERS),
        (WHOLE, "serve serve serve convert train", OTHERS),
    ],
)
@pytest.mark.parametrize("variant", ["main", "lr-1e-4"])
def test_what_to_try_next_goes_by_what_is_done_and_is_a_config(
    tmp_path, monkeypatch, steps, scripts, others, variant
) -> None:
    monkeypatch.chdir(tmp_path)
    words = "+experiment=demo 'outputs=a b' lora.rank=4"
    run = write(Path("a b") / "demo" / variant, monkeypatch, *steps, words=words)
    commands = tried(run)
    assert [command[1].removesuffix(".py") for command in commands][: len(scripts.split())] == scripts.split()
    last = commands[len(scripts.split()) :]
    assert last == ([others[variant]] if others else [])
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for command in commands:
            assert command[0] == "python" and (ROOT / command[1]).exists()
            points = [re.sub(r"=8,32$", "=8", word) for word in command[2:] if word != "-m"]
            found = typed(compose("config", points))
            assert found.outputs == "a b"
            if command[1] in ("merge.py", "evaluate.py", "serve.py") and found.collect is None:
                assert (found.name, found.variant, found.lora.rank) == ("demo", variant, 4)


@pytest.mark.parametrize("words", ["seed=3", "name=x seed=3", "'outputs=old place' name=x", "outputs=[ name=x"])
@pytest.mark.parametrize("steps", [("convert",), ("convert", "train..."), ("convert", "train", "merge")])
def test_every_command_about_a_run_that_was_moved_finds_it_where_it_lies(tmp_path, monkeypatch, steps, words) -> None:
    monkeypatch.chdir(tmp_path)
    run = write(Path("new") / "x" / "main", monkeypatch, *steps, words=words)
    commands = tried(run)
    assert commands
    for _, _, *typed_words in commands:
        assert [word for word in typed_words if word.startswith("outputs=")] == ["outputs=new"]
        assert [word for word in typed_words if word.startswith("name=")] in (["name=x"], ["name=mine"])


@pytest.mark.parametrize("words", ["name=x", "name=x outputs=outputs", "name=x 'outputs=${oc.env:HOME}/runs'"])
def test_a_run_where_its_words_say_is_told_with_them_alone(tmp_path, monkeypatch, words) -> None:
    monkeypatch.chdir(tmp_path)
    run = write(tmp_path / "outputs" / "x" / "main", monkeypatch, "convert", words=words)
    assert tried(run)[1] == ["python", "train.py", *shlex.split(words)]


@pytest.mark.parametrize("variant", ["main", "r8"])
def test_a_script_and_the_page_tell_the_same_command(tmp_path, monkeypatch, variant) -> None:
    monkeypatch.chdir(tmp_path)
    told = "resume=true overwrite=false dry_run=false hydra.verbose=false compare=[] collect=null +sweep=lr"
    words = f"name=x seed=3 lora.rank=4 {told} hydra.mode=RUN variant={variant}"
    run = write(Path("outputs") / "x" / variant, monkeypatch, "convert", "train", words=words)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = compose("config", shlex.split(words), return_hydra_config=True)
    HydraConfig.instance().set_config(composed)
    try:
        command = config.command("merge.py", config.Config(name="x", variant=variant))
    finally:
        HydraConfig.instance().cfg = None
    named = [] if variant == "main" else [f"variant={variant}"]
    assert shlex.split(command) == tried(run)[0] == ["python", "merge.py", "name=x", "seed=3", "lora.rank=4", *named]


def test_an_unfinished_step_is_gone_on_with_by_its_own_words(tmp_path, monkeypatch) -> None:
    run = write(
        tmp_path / "x" / "r8", monkeypatch, "convert", "train...", words="name=x +sweep=lr hydra.mode=RUN seed=3"
    )
    words = ["name=x", "seed=3", f"outputs={tmp_path}", "variant=r8", "resume=true"]
    assert tried(run) == [["python", "train.py", *words]]
    assert "**train**: **not finished**" in page(run)
    assert run_page.closing(run)[-1] == f"next: python train.py {shlex.join(words)}"


def test_rows_for_another_trainer_are_not_trained_on_here(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(SETTINGS, "convert", SETTINGS["convert"] | {"format": "openai"})
    run = write(tmp_path / "x" / "main", monkeypatch, "convert", words="name=x")
    assert tried(run) == [] and "another trainer" in page(run)


@pytest.mark.parametrize(
    ("ratio", "word"), [(0.01, "+data.mix.more={source: synthetic, count: 500}"), (0, "data.test_ratio=0.2")]
)
def test_data_without_tests_are_converted_again_and_not_trained_on(tmp_path, monkeypatch, ratio, word) -> None:
    monkeypatch.setitem(SETTINGS, "convert", SETTINGS["convert"] | {"test_ratio": ratio})
    monkeypatch.setitem(RESULTS, "convert", RESULTS["convert"] | {"test": {"dialogues": 0}})
    run = write(tmp_path / "x" / "r8", monkeypatch, "convert", words="name=x data.test_ratio=0.0")
    assert tried(run) == [
        ["python", "convert.py", "name=x", f"outputs={tmp_path}", "variant=r8", word, "overwrite=true"]
    ]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert typed(compose("config", tried(run)[0][2:])).data.mix


def test_words_for_training_alone_are_left_out_where_nothing_is_trained(tmp_path, monkeypatch) -> None:
    of_training = "train.max_steps=3 launcher=torchrun launcher.gpus=2 wandb.mode=disabled train/loss_weights=call"
    run = write(
        tmp_path / "demo" / "main", monkeypatch, *WHOLE, words=f"+experiment=demo lora.rank=4 seed=1 {of_training}"
    )
    for _, script, *words in tried(run):
        if script == "serve.py":
            assert words[:3] == ["+experiment=demo", "lora.rank=4", "seed=1"] and not {*words} & {*of_training.split()}
    (sweep,) = [words for words in tried(run) if "-m" in words]
    assert {*of_training.split()} <= {*sweep}, "there it is trained"
