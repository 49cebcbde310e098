"""What `dry_run=true` prints: what is in the way and what to type, and nothing is begun."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from fabrictune.config import Config, typed
from fabrictune.train import accelerators, dry_run, estimates

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURE = (
    "{model_type: llama, hidden_size: 64, intermediate_size: 96, num_hidden_layers: 2, num_attention_heads: 4, "
    "num_key_value_heads: 2, head_dim: 16, vocab_size: 300, tie_word_embeddings: true}"
)


def config(outputs: Path, *more: str) -> Config:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return typed(compose("config", [f"outputs={outputs}", *more]))


def test_a_dry_run_ends_with_what_is_in_the_way_and_that_nothing_was_begun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="1"):
        dry_run.show(
            config(tmp_path, "model=folder", f"model.id={tmp_path}/none", f"+model.architecture={ARCHITECTURE}")
        )
    said = capsys.readouterr().out
    assert "refused: " in said and "python convert.py name=default\n" in said, "a command stays on one line"
    assert f"memory is compared with │ {estimates.card(accelerators.machine().memory)[1]}" in said
    assert said.rstrip().splitlines()[-1].startswith("Nothing was begun.")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(accelerators.machine().memory is not None, reason="needs a machine without a GPU")
def test_without_a_gpu_only_the_way_of_the_launcher_is_estimated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ("model=folder", f"model.id={tmp_path}/none", f"+model.architecture={ARCHITECTURE}")
    said = {}
    for launcher in ("single", "deepspeed"):
        with pytest.raises(SystemExit, match="1"):
            dry_run.show(config(tmp_path, *model, f"launcher={launcher}"))
        said[launcher] = capsys.readouterr().out
    assert "no ZeRO *" in said["single"] and "ZeRO-2" not in said["single"] and dry_run.ON_CPU in said["single"]
    assert "ZeRO-2" in said["deepspeed"] and dry_run.ON_CPU not in said["deepspeed"]


def test_a_model_of_which_nothing_is_known_can_be_told_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="nothing is known of the model: ") as raised:
        dry_run.show(config(tmp_path, "model=folder", f"model.id={tmp_path}/none"))
    (word,) = shlex.split(str(raised.value).partition("config.json says, as ")[2])
    with pytest.raises(SystemExit, match="1"):
        dry_run.show(config(tmp_path, "model=folder", f"model.id={tmp_path}/none", word))
    assert "7,6" in capsys.readouterr().out, "the parameters of Qwen2.5-7B, 7.6 billion"
