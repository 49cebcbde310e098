"""Training runs on the tiny model: the curves are there, ranks and accumulation agree, an interrupted run goes on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from fabrictune import attention, conversion, models, training
from fabrictune.config import Config, LauncherKind, typed

ROOT = Path(__file__).resolve().parent.parent


def overrides(tiny_model: Path, outputs: Path, *more: str) -> list[str]:
    return [
        "model=folder",
        f"model.id={tiny_model}",
        "model.dtype=float32",
        f"outputs={outputs}",
        "data.mix.synthetic.count=24",
        "data.test_ratio=0.2",
        "train.row_tokens=4000",
        "data.max_length=4000",
        "train.max_steps=4",
        "train.eval_steps=2",
        "train.logging_steps=1",
        "train.rows_per_step=2",
        "train.learning_rate=1e-2",
        "lora.rank=4",
        *more,
    ]


def config(tiny_model: Path, outputs: Path, *more: str) -> Config:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return typed(compose("config", overrides(tiny_model, outputs, *more)))


def metrics(folder: Path, key: str) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


@pytest.fixture(scope="module")
def trained(tiny_model, tmp_path_factory) -> Path:
    """A finished run of four steps."""
    outputs = tmp_path_factory.mktemp("outputs")
    settings = config(tiny_model, outputs)
    conversion.convert(settings)
    training.train(settings)
    return outputs / "default" / "main"


def test_a_run_leaves_curves_a_best_adapter_and_its_record(trained) -> None:
    folder = trained / "train"
    assert metrics(folder, "loss")[-1] < metrics(folder, "loss")[0]
    assert len(metrics(folder, "eval_loss")) == 2 and all(0 <= acc <= 1 for acc in metrics(folder, "eval_token_acc"))
    assert (folder / "best" / "adapter_model.safetensors").exists()
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    run = json.loads((folder / "run.json").read_text())
    assert run["finished"] and run["results"]["steps"] == 4 and run["results"]["eval_loss"] > 0
    assert list((folder / "wandb").glob("offline-run-*")), "W&B keeps the run without a key or a network"


def test_eval_loss_is_the_mean_over_all_supervised_tokens(trained, tiny_model) -> None:
    from peft import PeftModel

    from fabrictune.dialogue import Exchange
    from fabrictune.encoding import encode

    tokenizer = models.load_tokenizer(tiny_model)
    end = models.reply_end(tokenizer)
    model = PeftModel.from_pretrained(models.load(tiny_model, "float32", "sdpa"), trained / "train" / "best")
    total = weight = 0.0
    for line in (trained / "convert" / "test.jsonl").read_text().splitlines():
        encoded = encode(Exchange.from_line(line), tokenizer, end)
        ids = torch.from_numpy(encoded.ids)[None]
        if ids.shape[1] > 4000:
            continue
        with torch.no_grad():
            nll = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="none")
        total += float((nll * torch.from_numpy(encoded.weights[1:])).sum())
        weight += float(encoded.weights.sum())
    best = json.loads((trained / "train" / "run.json").read_text())["results"]["eval_loss"]
    assert best == pytest.approx(total / weight, rel=1e-4)


def test_a_finished_run_is_refused_and_with_resume_left_as_it_is(trained, tiny_model) -> None:
    before = (trained / "train" / "metrics.jsonl").read_bytes()
    outputs = trained.parent.parent
    with pytest.raises(FileExistsError, match="overwrite=true"):
        training.train(config(tiny_model, outputs))
    training.train(config(tiny_model, outputs, "resume=true"))
    with pytest.raises(ValueError, match="train.learning_rate"):
        training.train(config(tiny_model, outputs, "resume=true", "train.learning_rate=0.5"))
    assert (trained / "train" / "metrics.jsonl").read_bytes() == before


def test_an_interrupted_run_goes_on_to_the_same_adapter(trained, tiny_model, tmp_path) -> None:
    from safetensors.torch import load_file

    folder = tmp_path / "default" / "main"
    shutil.copytree(trained, folder)
    run = json.loads((folder / "train" / "run.json").read_text())
    (folder / "train" / "run.json").write_text(json.dumps(run | {"finished": None}))
    shutil.rmtree(folder / "train" / "best")
    # Killed while it saved step 4: that checkpoint is not whole, so the one of step 2 counts.
    (folder / "train" / "checkpoint-4" / "optimizer.pt").unlink()
    assert training.newest_checkpoint(folder / "train", LauncherKind.single) == folder / "train" / "checkpoint-2"
    training.train(config(tiny_model, tmp_path, "resume=true"))
    name = "adapter_model.safetensors"
    expected = load_file(trained / "train" / "checkpoint-4" / name)
    found = load_file(folder / "train" / "checkpoint-4" / name)
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=0, atol=0)


def test_only_the_adapter_of_every_linear_layer_but_the_head_is_trained(tiny_model) -> None:
    model = models.attach(models.load(tiny_model, "float32", attention.NAME), rank=4, alpha=8, dropout=0.0, seed=0)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    targets = {name.split(".lora_")[0].rpartition(".")[2] for name in trained}
    assert targets == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert all("lora_" in name for name in trained)


def test_a_data_set_that_fits_nowhere_is_named(trained, tiny_model) -> None:
    settings = config(tiny_model, trained.parent.parent, "data.max_length=10")
    with pytest.raises(ValueError, match="data.max_length=10"):
        training.training_rows(trained / "convert" / "train.jsonl", models.load_tokenizer(tiny_model), settings)


def test_gradient_checkpointing_changes_memory_and_not_the_curve(trained, tiny_model, tmp_path) -> None:
    shutil.copytree(trained / "convert", tmp_path / "default" / "main" / "convert")
    training.train(config(tiny_model, tmp_path, "train.gradient_checkpointing=true", "wandb.mode=disabled"))
    one, other = (metrics(folder / "train", "loss") for folder in (trained, tmp_path / "default" / "main"))
    assert other == pytest.approx(one, rel=1e-5)


@pytest.mark.e2e
@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])
def test_two_ranks_train_as_one_does(trained, tiny_model, tmp_path, launcher: str) -> None:
    shutil.copytree(trained / "convert", tmp_path / "default" / "main" / "convert")
    words = overrides(tiny_model, tmp_path, f"launcher={launcher}", "launcher.ranks=2", "wandb.mode=disabled")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "train.py", *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]
    one, two = (metrics(folder / "train", "loss") for folder in (trained, tmp_path / "default" / "main"))
    assert two == pytest.approx(one, rel=2e-4)
    evals = [metrics(folder / "train", "eval_loss") for folder in (trained, tmp_path / "default" / "main")]
    assert evals[1] == pytest.approx(evals[0], rel=2e-4)
    assert (tmp_path / "default" / "main" / "train" / "best" / "adapter_model.safetensors").exists()


@pytest.mark.e2e
def test_a_failing_rank_ends_the_run_with_its_message(trained, tiny_model, tmp_path) -> None:
    shutil.copytree(trained / "convert", tmp_path / "default" / "main" / "convert")
    words = overrides(tiny_model, tmp_path, "launcher=torchrun", "launcher.ranks=2", "data.max_length=10")
    run = subprocess.run([sys.executable, "train.py", *words], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1
    assert "error: " in run.stderr and "data.max_length=10" in run.stderr and "a rank of 2" in run.stderr
