"""Training runs on the tiny model: what they leave, that the loss is the one meant, that nothing of a run is lost."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

from fabrictune import conversion, merging, models, training
from fabrictune.config import Config, typed
from fabrictune.dialogue import Exchange
from fabrictune.encoding import prompt

ROOT = Path(__file__).resolve().parent.parent
TIMINGS = ("seconds", "tokens_per_second")  # what differs from run to run
STEPS = 4


def overrides(tiny_model: Path, outputs: Path, *more: str) -> list[str]:
    return [
        "model=folder",
        f"model.id={tiny_model}",
        "model.dtype=float32",
        f"outputs={outputs}",
        "data.mix.synthetic.count=24",
        "data.test_ratio=0.2",
        "data.max_length=4000",
        "train.row_tokens=4000",
        "train.batch_size=4",
        f"train.max_steps={STEPS}",
        "train.eval_steps=2",
        "train.logging_steps=1",
        "train.learning_rate=1e-2",
        "train.samples=2",
        "train.sample_tokens=4",
        "lora.rank=4",
        "lora.dropout=0.1",
        *more,
    ]


def config(tiny_model: Path, outputs: Path, *more: str) -> Config:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return typed(compose("config", overrides(tiny_model, outputs, *more)))


def script(*words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "train.py", *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def metrics(folder: Path, key: str) -> list[float]:
    return [line[key] for line in curve(folder) if key in line]


def curve(folder: Path) -> list[dict[str, float]]:
    """The lines of a train folder's metrics.jsonl without what a clock says."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.endswith(TIMINGS)} for line in lines]


def beside(converted: Path, outputs: Path) -> Path:
    """The train folder of a run of its own on the same converted data."""
    shutil.copytree(converted, outputs / "default" / "main" / "convert")
    return outputs / "default" / "main" / "train"


@pytest.fixture(scope="module")
def converted(tiny_model, tmp_path_factory) -> Path:
    outputs = tmp_path_factory.mktemp("converted")
    conversion.convert(config(tiny_model, outputs))
    return outputs / "default" / "main" / "convert"


@pytest.fixture(scope="module")
def trained(converted, tiny_model, tmp_path_factory) -> Path:
    """The train folder of a finished run of four steps, made by the script."""
    outputs = tmp_path_factory.mktemp("trained")
    folder = beside(converted, outputs)
    run = script(*overrides(tiny_model, outputs))
    assert run.returncode == 0, run.stderr[-3000:]
    (folder / "said").write_text(run.stderr)
    return folder


def test_a_run_leaves_curves_a_best_adapter_and_its_record(trained) -> None:
    assert metrics(trained, "loss")[-1] < metrics(trained, "loss")[0] and len(metrics(trained, "loss")) == STEPS
    assert len(metrics(trained, "eval_loss")) == 2
    assert all(0 <= value <= 1 for key in ("token_acc", "sentence_acc") for value in metrics(trained, f"eval_{key}"))
    assert (trained / "best" / "adapter_model.safetensors").exists()
    best = json.loads((trained / "run.json").read_text())["results"]["best_step"]
    assert {path.name for path in trained.glob("checkpoint-*")} == {f"checkpoint-{best}", "checkpoint-4"}
    assert {"train_loss.png", "eval_loss.png"} <= {path.name for path in (trained / "images").iterdir()}
    assert [json.loads(line)["step"] for line in (trained / "samples.jsonl").read_text().splitlines()] == [2, 2, 4, 4]
    assert list((trained / "wandb").glob("offline-run-*")), "W&B keeps the run without a key or a network"
    run = json.loads((trained / "run.json").read_text())
    assert run["finished"] and run["results"]["steps"] == STEPS and run["settings"]["seed"] == 42
    losses = dict(zip((2, 4), metrics(trained, "eval_loss"), strict=True))
    assert run["results"]["best_step"] == min(losses, key=losses.__getitem__)
    assert run["results"]["best"] == min(losses.values())
    assert {"train.jsonl", "test.jsonl"} == set(run["settings"]["data"]) and run["command"][0] == "train.py"


def test_the_closing_lines_name_what_to_type_next(trained) -> None:
    said = (trained / "said").read_text()
    assert f"adapter: {trained / 'best'}" in said and "python merge.py name=default variant=main" in said
    assert "are shared away" in said
    stats = json.loads((trained / "stats.json").read_text())
    assert stats["all"]["shared_away"] > 0.3 * stats["all"]["unshared"], "exchanges of an agent share their prompt"
    assert stats["all"]["shared_away"] + stats["all"]["computed"] == stats["all"]["unshared"]


def exchanges(path: Path) -> list[Exchange]:
    return [Exchange.from_line(line) for line in path.read_text().splitlines()]


def weighted_mean_nll(model: torch.nn.Module, folder: Path, path: Path, weights: dict[str, float]) -> float:
    """sum(w * NLL) / sum(w) over a file's replies one by one, a byte a token; as the definition says."""
    tokenizer = models.load_tokenizer(folder)
    total = weight = 0.0
    for exchange in exchanges(path):
        asked = tokenizer(prompt(exchange, tokenizer), add_special_tokens=False)["input_ids"]
        said = [(byte, weights.get(span.part, 1.0)) for span in exchange.reply for byte in span.text.encode()]
        ids = tokenizer(exchange.reply_text + "<|im_end|>", add_special_tokens=False)["input_ids"]
        assert len(ids) == len(said) + 1, "the tiny tokenizer has a token a byte"
        if len(asked) + len(ids) > 4000:
            continue
        with torch.no_grad():
            logits = model(torch.tensor([asked + ids])).logits[0, len(asked) - 1 : -1]
        nll = torch.nn.functional.cross_entropy(logits, torch.tensor(ids), reduction="none")
        own = torch.tensor([*(weight for _, weight in said), 1.0])
        total += float((nll * own).sum())
        weight += float(own.sum())
    return total / weight


def test_eval_loss_is_the_mean_over_all_supervised_tokens(trained, converted, tiny_model) -> None:
    from peft import PeftModel

    model = PeftModel.from_pretrained(models.load(tiny_model, "float32", "sdpa"), trained / "best")
    best = json.loads((trained / "run.json").read_text())["results"]["best"]
    assert best == pytest.approx(weighted_mean_nll(model, tiny_model, converted / "test.jsonl", {}), rel=1e-5)


ALL_AT_ONCE = ("train.batch_size=1000", "train.max_steps=1", "lora.dropout=0", "wandb.mode=disabled", "train.samples=0")


@pytest.fixture(scope="module")
def first_loss(converted, tiny_model) -> float:
    """What the first loss over all training rows must be, with react's weights."""
    weights = {"tool": 2.0, "arguments": 2.0}
    model = models.load(tiny_model, "float32", "sdpa")
    return weighted_mean_nll(model, tiny_model, converted / "train.jsonl", weights)


@pytest.mark.parametrize("layout", ["tree row_tokens=4000", "tree row_tokens=1500", "flat row_tokens=9000", "none"])
def test_the_loss_is_the_weighted_mean_over_the_batch_however_it_is_laid_out(
    converted, first_loss, tiny_model, tmp_path, layout: str
) -> None:
    packing, *rest = layout.split()
    folder = beside(converted, tmp_path)
    more = [f"train.packing={packing}", *(f"train.{word}" for word in rest), "train/loss_weights=react", *ALL_AT_ONCE]
    training.train(config(tiny_model, tmp_path, *more))
    assert metrics(folder, "loss")[0] == pytest.approx(first_loss, rel=1e-5)


@pytest.fixture(scope="module")
def all_at_once(converted, tiny_model, tmp_path_factory) -> dict[str, float]:
    """The first step over all training rows on one rank."""
    outputs = tmp_path_factory.mktemp("once")
    folder = beside(converted, outputs)
    training.train(config(tiny_model, outputs, "train/loss_weights=react", *ALL_AT_ONCE))
    return curve(folder)[0]


@pytest.mark.e2e
@pytest.mark.parametrize(
    "launcher",
    [
        ["launcher=torchrun"],
        ["launcher=torchrun", "train.packing=none"],
        ["launcher=deepspeed", "launcher.zero=2"],
        ["launcher=deepspeed", "launcher.zero=3"],
    ],
    ids=" ".join,
)
def test_two_ranks_train_as_one_does(
    converted, all_at_once, first_loss, tiny_model, tmp_path, launcher: list[str]
) -> None:
    folder = beside(converted, tmp_path)
    words = overrides(tiny_model, tmp_path, *launcher, "launcher.gpus=2", "train/loss_weights=react", *ALL_AT_ONCE)
    run = script(*words)
    assert run.returncode == 0, run.stderr[-3000:]
    first = curve(folder)[0]
    assert first["loss"] == pytest.approx(first_loss, rel=1e-5)
    assert first["grad_norm"] == pytest.approx(all_at_once["grad_norm"], rel=1e-4)
    settings = config(tiny_model, tmp_path, *launcher, "launcher.gpus=2", *ALL_AT_ONCE)
    merging.merge(settings)  # takes only an adapter in peft's layout that fits the base
    assert (tmp_path / "default" / "main" / "merge" / "model" / "model.safetensors").exists()


def test_the_same_seed_gives_the_same_curve_and_another_one_another(trained, converted, tiny_model, tmp_path) -> None:
    folder = beside(converted, tmp_path)
    training.train(config(tiny_model, tmp_path))
    assert curve(folder) == curve(trained)
    training.train(config(tiny_model, tmp_path, "overwrite=true", "seed=43", "train.max_steps=1"))
    assert curve(folder)[0] != curve(trained)[0]


def test_a_finished_run_is_refused_and_with_resume_left_as_it_is(trained, tiny_model) -> None:
    before = (trained / "metrics.jsonl").read_bytes()
    outputs = trained.parent.parent.parent
    with pytest.raises(FileExistsError, match="overwrite=true"):
        training.train(config(tiny_model, outputs))
    assert training.train(config(tiny_model, outputs, "resume=true")) == min(metrics(trained, "eval_loss"))
    with pytest.raises(ValueError, match="train.learning_rate"):
        training.train(config(tiny_model, outputs, "resume=true", "train.learning_rate=0.5"))
    assert (trained / "metrics.jsonl").read_bytes() == before


@pytest.fixture
def killed(converted, tiny_model, tmp_path) -> Iterator[tuple[Path, list[str]]]:
    """The train folder of a run to kill, and the words that start it."""
    words = overrides(tiny_model, tmp_path, "wandb.mode=disabled", "train.eval_steps=1", "train.logging_steps=3")
    yield beside(converted, tmp_path), words


def start(words: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "train.py", *words],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def wait_until(process: subprocess.Popen[bytes], happened, seconds: float = 120) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while process.poll() is None and not happened():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.e2e
def test_a_run_killed_again_and_again_ends_with_the_curve_of_one_that_was_not(killed, tiny_model, tmp_path) -> None:
    folder, words = killed
    whole = beside(folder.parent / "convert", tmp_path / "whole")
    training.train(config(tiny_model, tmp_path / "whole", *words[-3:]))
    draw = random.Random(0)
    # While it saves (the folder aside is there), right after, and somewhere between.
    moments = [
        lambda: list(folder.glob(".checkpoint-1.part/*")),
        lambda: list(folder.glob("checkpoint-1")),
        lambda: list(folder.glob(".checkpoint-2.part/trainer_state.json")),
        lambda: list(folder.glob("checkpoint-2")) and draw.random() < 0.01,
        lambda: list(folder.glob(".checkpoint-3.part")),
        lambda: list(folder.glob("checkpoint-4")),
    ]
    kills = 0
    for moment in moments:
        process = start([*words, *(["resume=true"] if kills else [])])
        wait_until(process, moment)
        kills += process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert kills >= 5, "the run was too quick to be killed"
    run = script(*words, "resume=true")
    assert run.returncode == 0, run.stderr[-3000:]
    assert curve(folder) == curve(whole)
    one, other = (load_file(each / "best" / "adapter_model.safetensors") for each in (folder, whole))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert len(json.loads((folder / "run.json").read_text())["resumed"]) == len(moments)
    assert not list(folder.glob(".*.part")), "what a killed run left half-written is gone"


@pytest.mark.e2e
def test_sigterm_saves_and_the_exit_code_says_so(trained, converted, tiny_model, tmp_path) -> None:
    folder = beside(converted, tmp_path)
    words = overrides(tiny_model, tmp_path, "train.eval_steps=100", "train.max_steps=5")
    process = start(words)
    wait_until(process, lambda: (folder / "metrics.jsonl").exists())
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    (checkpoint,) = folder.glob("checkpoint-*")
    step = int(checkpoint.name.removeprefix("checkpoint-"))
    assert 1 <= step < 5 and len(metrics(folder, "loss")) == step
    run = script(*words, "resume=true")
    assert run.returncode == 0, run.stderr[-3000:]
    assert len(metrics(folder, "loss")) == 5 and len(metrics(folder, "eval_loss")) == 1


def test_only_the_adapter_of_every_linear_layer_but_the_head_is_trained(tiny_model) -> None:
    model = models.attach(models.load(tiny_model, "float32", "sdpa"), rank=4, alpha=8, dropout=0.0, seed=0)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    targets = {name.split(".lora_")[0].rpartition(".")[2] for name in trained}
    assert targets == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert all("lora_" in name for name in trained)


def test_gradient_checkpointing_changes_memory_and_not_the_curve(converted, tiny_model, tmp_path) -> None:
    one, other = (beside(converted, tmp_path / name) for name in ("one", "other"))
    plain = ["lora.dropout=0", "wandb.mode=disabled"]
    training.train(config(tiny_model, tmp_path / "one", *plain))
    training.train(config(tiny_model, tmp_path / "other", *plain, "train.gradient_checkpointing=true"))
    assert metrics(other, "loss") == pytest.approx(metrics(one, "loss"), rel=1e-5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.max_length=10"], r"none of its \d+ exchanges fits data.max_length=10 tokens.*raise it"),
        (["lora.targets=[c_attn]"], r"lora.targets: 'c_attn' is no linear layer .* q_proj"),
        (["train.learning_rate=1e38", "train.max_grad_norm=1e38"], r"the loss is (nan|inf) at step \d.*learning_rate"),
        (["train.quantization=nf4", "launcher=deepspeed", "launcher.zero=3"], "train.quantization"),
        (["train.attention=flash", "train.packing=flat"], "train.attention is flash, but"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(converted, tiny_model, tmp_path, words, said) -> None:
    beside(converted, tmp_path)
    with pytest.raises(ValueError, match=said):
        training.train(config(tiny_model, tmp_path, *words))


def test_a_tokenizer_without_a_chat_template_is_refused(converted, tiny_model, tmp_path) -> None:
    bare = shutil.copytree(tiny_model, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink(missing_ok=True)
    beside(converted, tmp_path)
    with pytest.raises(ValueError, match="no chat template"):
        training.train(config(tiny_model, tmp_path, f"model.id={bare}"))


@pytest.mark.e2e
def test_a_full_disk_ends_in_one_sentence_and_leaves_no_half_a_checkpoint(converted, tiny_model, tmp_path) -> None:
    folder = beside(converted, tmp_path)
    # A bound on the size of files stands for a full disk: both fail in the middle of writing.
    run = subprocess.run(
        [sys.executable, "train.py", *overrides(tiny_model, tmp_path, "wandb.mode=disabled", "lora.rank=64")],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000)),
    )
    assert run.returncode == 1
    (said,) = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert "checkpoint-2 cannot be written" in said and "resume=true" in said
    assert "Traceback" not in run.stderr and not list(folder.glob("*checkpoint-*"))


@pytest.mark.e2e
def test_a_failing_rank_ends_the_run_with_its_message(converted, tiny_model, tmp_path) -> None:
    beside(converted, tmp_path)
    words = ["launcher=torchrun", "launcher.gpus=2", "train.learning_rate=1e38", "train.max_grad_norm=1e38"]
    run = script(*overrides(tiny_model, tmp_path, *words, "wandb.mode=disabled"))
    assert run.returncode == 1
    (said,) = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert "the loss is" in said and "Traceback" not in run.stderr


@pytest.mark.e2e
def test_a_sweep_trains_its_points_apart_and_passes_over_those_that_are_finished(
    converted, tiny_model, tmp_path
) -> None:
    folder = beside(converted, tmp_path)
    words = overrides(tiny_model, tmp_path, "wandb.mode=disabled", "train.max_steps=1", "resume=true")
    words = [word for word in words if not word.startswith("lora.rank")]
    first = script("-m", *words, "lora.rank=2,4")
    assert first.returncode == 0, first.stderr[-3000:]
    points = {path.name for path in folder.parent.parent.iterdir() if (path / "train").exists()}
    assert points == {"lora.rank-2", "lora.rank-4"}, "they share what was converted for main"
    again = script("-m", *words, "lora.rank=4,8")
    assert again.returncode == 0 and "lora.rank-4/train is finished already" in again.stderr
    assert (folder.parent.parent / "lora.rank-8" / "train" / "best").exists()


@pytest.mark.e2e
def test_a_dry_run_says_what_a_prepared_run_takes_and_writes_nothing(converted, tiny_model, tmp_path) -> None:
    folder = beside(converted, tmp_path)
    run = script(*overrides(tiny_model, tmp_path, "dry_run=true", "launcher=deepspeed", "launcher.gpus=2"))
    assert run.returncode == 0, run.stderr[-3000:]
    for words in ("synthetic", "trainable parameters", "ZeRO-3", "A100-80GB", '"stage": 2', "4 dialogues a step"):
        assert words in run.stdout
    assert "Nothing would be refused." in run.stdout
    assert not folder.exists()


@pytest.mark.e2e
def test_a_dry_run_of_a_7b_model_needs_no_weights_and_says_what_is_missing(tmp_path) -> None:
    run = script("+experiment=qwen7b_mix2", f"outputs={tmp_path}", "dry_run=true")
    assert run.returncode == 0, run.stderr[-3000:]
    assert "7,721,324,544" in run.stdout and "refused: " in run.stdout and "convert.py" in run.stdout
