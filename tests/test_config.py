"""Every config file composes and fits the types; whatever does not fit is answered with its key, at once."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from fabrictune.config import Config, Format, LauncherKind, ModelSource, typed

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = sorted((ROOT / "conf" / "experiment").glob("*.yaml"))


def composed(*overrides: str) -> Config:
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        return typed(compose("config", list(overrides)))


def refusal(*overrides: str) -> str:
    with pytest.raises(SystemExit) as ended:
        composed(*overrides)
    return str(ended.value)


def heavy_imports(importtime: str) -> list[str]:
    """The heavy ones among the modules that `python -X importtime` lists."""
    return re.findall(r"\| +((?:torch|transformers|peft|vllm)(?:\.\S+)?)$", importtime, re.MULTILINE)


def test_the_default_is_the_embedded_model_on_generated_dialogues() -> None:
    config = composed()
    assert config.model.source is ModelSource.package
    assert config.data.format is Format.agentfabric
    assert list(config.data.mix) == ["synthetic"]
    assert config.launcher.kind is LauncherKind.single
    assert not config.overwrite and not config.resume


def test_there_are_overlays() -> None:
    assert "demo" in [path.stem for path in EXPERIMENTS]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_overlay_fits_and_carries_its_files_name(path: Path) -> None:
    assert composed(f"+experiment={path.stem}").name == path.stem


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_overlay_is_short_and_global(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# @package _global_")
    assert len(lines) < 20


@pytest.mark.parametrize(
    "choice",
    [
        f"{path.parent.relative_to(ROOT / 'conf').as_posix()}={path.stem}"
        for path in sorted((ROOT / "conf").rglob("*.yaml"))
        if path.parent.name not in ("conf", "experiment")
    ],
)
def test_every_choice_of_every_group_fits(choice: str) -> None:
    given = {
        "model=folder": ["model.id=/some/folder"],
        "model=hub": ["model.id=some/model"],
        "data/mix=files": ["data.mix.file.path=some.jsonl"],
    }
    rows = ["train.rows_per_step=8"] if choice.startswith("launcher=") else []
    assert isinstance(composed(choice, *given.get(choice, []), *rows), Config)


def test_a_users_own_file_is_named_on_the_command_line() -> None:
    config = composed("data/mix=files", "data.mix.file.path=mine.jsonl", "data.mix.file.source=ms_agent", "name=mine")
    assert list(config.data.mix) == ["file"]
    assert config.data.mix["file"].path == "mine.jsonl"


def test_a_key_that_does_not_exist_is_named_although_hydra_lets_it_pass() -> None:
    assert "lora.rnak" in refusal("+lora.rnak=8")


@pytest.mark.parametrize(
    ("key", "overrides"),
    [
        ("lora.rank", ["lora.rank=eight"]),
        ("lora.rank", ["lora.rank=0"]),
        ("train.epochs", ["train.epochs=[1]"]),
        ("train.gradient_checkpointing", ["train.gradient_checkpointing=perhaps"]),
        ("model.dtype", ["model.dtype=float17"]),
        ("data.format", ["data.format=agentfabrik"]),
        ("data.mix.synthetic.source", ["data.mix.synthetic.source=ms_agnet"]),
        ("model.id", ["model=hub"]),
        ("data.mix.file.path", ["data/mix=files"]),
        ("data.mix.file.path", ["data/mix=files", "data.mix.file.path=null"]),
        ("data.mix.file.count", ["data/mix=files", "data.mix.file.path=mine.jsonl", "data.mix.file.count=0"]),
        ("data.mix.file.count", ["data/mix=files", "data.mix.file.path=mine.jsonl", "data.mix.file.count=-1"]),
        ("data.mix.synthetic.count", ["data.mix.synthetic.count=null"]),
        ("data.mix.synthetic.count", ["data.mix.synthetic.count=-3"]),
        ("data.heldout_max", ["data.heldout_max=-1"]),
        ("serve.port", ["serve.port=0"]),
        ("serve.port", ["serve.port=65536"]),
        ("data.test_ratio", ["data.test_ratio=2"]),
        ("data.test_ratio", ["data.test_ratio=-0.1"]),
        ("name", ["name=a/b"]),
        ("variant", ["variant=.."]),
        ("train.rows_per_step", ["launcher=torchrun", "train.rows_per_step=3"]),
        ("launcher.ranks", ["launcher=torchrun", "train.rows_per_step=3"]),
        ("launcher.ranks", ["launcher.ranks=2"]),
        ("eval.models", ["eval.models=[base,best]"]),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_its_key_in_one_line(key: str, overrides: list[str]) -> None:
    text = refusal(*overrides)
    assert re.search(rf"(?<![\w.]){re.escape(key)}(?!\w)", text)
    assert text.startswith("config: ") and "\n" not in text


def test_all_values_that_do_not_fit_are_named_together() -> None:
    text = refusal("lora.rank=0", "serve.port=0", "name=a/b")
    assert all(key in text for key in ("lora.rank", "serve.port", "name"))


def test_importing_the_config_imports_nothing_heavy() -> None:
    code = "import sys, fabrictune.config; print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


@pytest.mark.parametrize("typo", ["lora.rnak=8", "+lora.rnak=8"])
def test_a_script_answers_a_typo_before_it_imports_anything_heavy(typo: str) -> None:
    start = time.monotonic()
    command = [sys.executable, "-X", "importtime", "train.py", typo]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - start
    print(f"train.py {typo}: {seconds:.1f} s")
    assert ended.returncode != 0
    said = [line for line in ended.stderr.splitlines() if not line.startswith("import time:")]
    assert "rnak" in "\n".join(said)
    assert "fabrictune.config" in ended.stderr  # the listing is there
    assert heavy_imports(ended.stderr) == []
    assert seconds < 5
