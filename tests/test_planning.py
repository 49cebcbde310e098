"""What a run of train.py takes: converted data of `main` serve a variant only if it would have converted them so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from fabrictune.config import Config, typed
from fabrictune.convert import conversion
from fabrictune.dialogue import Exchange, Message, Span
from fabrictune.train import planning

ROOT = Path(__file__).resolve().parent.parent


def config(outputs: Path, *more: str) -> Config:
    words = [f"outputs={outputs}", "data.mix.synthetic.count=20", "data.count_tokens=false", *more]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return typed(compose("config", words))


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outputs")
    conversion.convert(config(folder))
    return folder


def test_a_variant_of_another_training_takes_what_was_converted_for_main(outputs: Path) -> None:
    folder = planning.converted_folder(config(outputs, "variant=x", "lora.rank=2", "data.max_length=99"))
    assert folder == outputs / "default" / "main" / "convert"


@pytest.mark.parametrize(
    ("word", "difference"),
    [
        ("data.general_test=0", "general_test: 200 -> 0"),
        ("data.test_ratio=0.5", "test_ratio: 0.01 -> 0.5"),
        ("data.heldout_max=3", "heldout_max: None -> 3"),
        ("data.mix.synthetic.count=21", "mix.synthetic.count: 20 -> 21"),
    ],
)
def test_a_variant_that_would_have_been_converted_otherwise_is_refused(
    outputs: Path, word: str, difference: str
) -> None:
    with pytest.raises(ValueError, match=rf"other settings \({difference}\); convert .* variant=x"):
        planning.converted_folder(config(outputs, "variant=x", word))


def test_data_that_nobody_converted_are_asked_for_once_for_all_variants(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"make it with: python convert\.py name=default$"):
        planning.converted_folder(config(tmp_path, "variant=x"))


def begin(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{"finished": null, "settings": {}}')


@pytest.mark.parametrize(("begun", "words"), [("x", "name=default variant=x"), ("main", "name=default")])
def test_a_conversion_that_was_killed_is_finished_where_it_was_begun(tmp_path: Path, begun: str, words: str) -> None:
    begin(tmp_path / "default" / begun / "convert")
    with pytest.raises(FileNotFoundError, match=rf"{begun}/convert .* with: python convert\.py {words} resume=true$"):
        planning.converted_folder(config(tmp_path, "variant=x"))


@pytest.mark.parametrize("is_begun", [False, True])
@pytest.mark.parametrize(
    ("swept", "point", "variant"),
    [
        ("++data.mix.general.ratio=0,1", "++data.mix.general.ratio=1", "mix1"),
        ("seed=1,2", "seed=1", "seed-1"),
        ("data.max_length=99,100", "data.max_length=99", None),
        ("lora.rank=2,4", "lora.rank=2", None),
    ],
)
def test_a_point_with_data_of_its_own_is_told_to_convert_for_itself_and_others_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swept: str, point: str, variant: str | None, is_begun: bool
) -> None:
    if is_begun:
        begin(tmp_path / "default" / "main" / "convert")
    made = config(tmp_path, f"variant={variant or 'x'}")
    monkeypatch.setattr("sys.argv", ["train.py", "-m", swept])
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = compose("config", [point, "hydra.mode=MULTIRUN"], return_hydra_config=True)
    HydraConfig.instance().set_config(composed)
    try:
        with pytest.raises(FileNotFoundError) as raised:
            planning.converted_folder(made)
    finally:
        HydraConfig.instance().cfg = None
    words = f"{point} variant={variant}" if variant else f"{point} resume=true" if is_begun else point
    assert str(raised.value).endswith(f"with: python convert.py {words}")


@pytest.mark.parametrize(
    ("dialogues", "more", "said"),
    [
        (9, [], "^9 dialogues make 1 step, .*learning rate 0: too .*; train.epochs=10 train.batch_size=4 makes 30$"),
        (100, [], "^100 dialogues make 7 steps: too few to learn from; train.epochs=2 train.batch_size=4 makes 50$"),
        (9, ["train.warmup_ratio=0"], "^9 dialogues make 1 step: too few"),
        (9, ["train.max_steps=1"], "^$"),
        (160, [], "^$"),
    ],
)
def test_data_that_make_too_few_steps_to_learn_from_are_told_with_what_makes_more(
    tiny_model: Path, tmp_path: Path, dialogues: int, more: list[str], said: str
) -> None:
    file = tmp_path / "train.jsonl"
    asked, reply = (Message("user", "?"),), (Span("yes", "answer"),)
    lines = [Exchange(str(number), 0, 0, "own", asked, reply).to_line() + b"\n" for number in range(dialogues)]
    file.write_bytes(b"".join(lines))
    words = ["data.processes=1", *more]
    batches = planning.plan(config(tmp_path, *words), tmp_path, tiny_model, 1)
    assert re.search(said, planning.few_steps(config(tmp_path, *words), batches))
