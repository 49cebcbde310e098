"""Training runs on the tiny model: what they leave, that the loss is the one meant, that nothing of a run is lost."""

from __future__ import annotations

import json
import os
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

from fabrictune import processes
from fabrictune.config import COMPUTED, GENERATED_MEASURES, Config, typed
from fabrictune.convert import conversion
from fabrictune.dialogue import Exchange
from fabrictune.merge import merging
from fabrictune.model import models
from fabrictune.model.encoding import prompt
from fabrictune.train import accelerators, planning, training
from fabrictune.train.trainer import newest_checkpoint

ROOT = Path(__file__).resolve().parent.parent
TIMINGS = ("seconds", "tokens_per_second")  # what differs from run to run
STEPS = 4
LONGEST = 300  # seconds of one train.py


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
        "eval.sample=2",
        "eval.sample_tokens=48",
        "lora.rank=4",
        "lora.dropout=0.1",
        *more,
    ]


def config(tiny_model: Path, outputs: Path, *more: str) -> Config:
    return composed(overrides(tiny_model, outputs, *more))


def composed(words: list[str]) -> Config:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return typed(compose("config", words))


def script(*words: str, **more: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "train.py"), *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LONGEST, **more)


@contextmanager
def started(words: list[str], said: Path) -> Iterator[subprocess.Popen[bytes]]:
    """train.py, running while the block does; what it says is added to the file `said`."""
    command = [sys.executable, str(ROOT / "train.py"), *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with said.open("a") as output, processes.program(command, environment, output, grace=0) as process:
        yield process


def wait_until(process: subprocess.Popen[bytes], happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + LONGEST
    while not happened():
        assert process.poll() is None, "the run has ended before"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def stopped(words: list[str], said: Path, happened: Callable[[], object]) -> None:
    """Runs train.py, which gets SIGTERM when that has happened, and must have saved."""
    said.touch()
    with started(words, said) as process:
        wait_until(process, happened)
        process.send_signal(signal.SIGTERM)
        assert process.wait(LONGEST) == 75, said.read_text()[-3000:]


def metrics(folder: Path, key: str) -> list[float]:
    return [line[key] for line in curve(folder) if key in line]


def curve(folder: Path) -> list[dict[str, float]]:
    """The lines of a train folder's metrics.jsonl without what a clock says."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.endswith(TIMINGS)} for line in lines]


def saved_step(folder: Path) -> int:
    checkpoint = newest_checkpoint(folder)
    return int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0


def beside(converted: Path, outputs: Path) -> Path:
    """The train folder of a run of its own on the same converted data."""
    shutil.copytree(converted, outputs / "default" / "main" / "convert")
    return outputs / "default" / "main" / "train"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory) -> Iterator[None]:
    """Tokens are made here, whatever the user's cache holds of other runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FABRICTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def converted(tiny_model, tmp_path_factory) -> Path:
    outputs = tmp_path_factory.mktemp("converted")
    conversion.convert(config(tiny_model, outputs))
    return outputs / "default" / "main" / "convert"


@pytest.fixture(scope="module")
def trained(converted, tiny_model, tmp_path_factory) -> Path:
    """The train folder of a finished run of four steps, made by the script."""
    outputs = tmp_path_factory.mktemp("trained here")  # a name that has to be quoted
    folder = beside(converted, outputs)
    run = script(*overrides(tiny_model, outputs))
    assert run.returncode == 0, run.stderr[-3000:]
    (folder / "said").write_text(run.stderr)
    return folder


def test_a_run_leaves_curves_a_best_adapter_and_its_record(trained) -> None:
    assert metrics(trained, "loss")[-1] < metrics(trained, "loss")[0] and len(metrics(trained, "loss")) == STEPS
    assert len(metrics(trained, "eval_loss")) == 2
    for key in ("eval_token_acc", "eval_sentence_acc"):
        assert len(metrics(trained, key)) == 2 and all(0 <= value <= 1 for value in metrics(trained, key))
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


def test_the_closing_lines_name_what_to_type_next_and_typed_it_is_the_same_run(trained, tiny_model) -> None:
    said = (trained / "said").read_text()
    assert f"adapter: {trained / 'best'}" in said
    python, merge, *words = shlex.split(said.rpartition("next: ")[2])
    assert (python, merge) == ("python", "merge.py")
    mine, typed = config(tiny_model, trained.parent.parent.parent), composed(words)
    for of_training in ("train", "launcher", "wandb"):  # which say nothing to merge.py
        setattr(typed, of_training, getattr(mine, of_training))
    assert typed == mine


def test_what_is_shared_away_is_said_and_counted(trained) -> None:
    assert "are shared away" in (trained / "said").read_text()
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


# Two steps, each over all training rows; without a warmup the first update counts. The second one needs what the
# optimizer keeps, and the evaluation behind it shows whether that was right.
ALL_AT_ONCE = (
    *("train.batch_size=1000", "train.epochs=2", "train.max_steps=2", "train.warmup_ratio=0", "train.eval_steps=100"),
    *("train/loss_weights=react", "lora.dropout=0", "wandb.mode=disabled", "eval.every=0"),
)
# Five test exchanges, which two ranks cannot share evenly; with two calls and three answers.
GENERATING = ("eval.every=1", "eval.sample=5", "eval.sample_tokens=80")


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
    more = [*ALL_AT_ONCE, "train.max_steps=1", f"train.packing={packing}", *(f"train.{word}" for word in rest)]
    training.train(config(tiny_model, tmp_path, *more))
    assert metrics(folder, "loss")[0] == pytest.approx(first_loss, rel=1e-5)


@pytest.fixture(scope="module")
def one_rank(converted, tiny_model, tmp_path_factory) -> Path:
    """The train folder of two steps over all training rows on one rank."""
    outputs = tmp_path_factory.mktemp("once")
    folder = beside(converted, outputs)
    training.train(config(tiny_model, outputs, *ALL_AT_ONCE, *GENERATING))
    return folder


@pytest.mark.e2e
@pytest.mark.parametrize(
    "launcher",
    [
        "launcher=torchrun",
        "launcher=torchrun train.packing=none",
        "launcher=deepspeed launcher.zero=0",
        "launcher=deepspeed launcher.zero=2",
        "launcher=deepspeed launcher.zero=3 train.gradient_checkpointing=true",
    ],
)
def test_two_ranks_train_as_one_does(converted, one_rank, first_loss, tiny_model, tmp_path, launcher: str) -> None:
    folder = beside(converted, tmp_path)
    words = [*ALL_AT_ONCE, *GENERATING, *launcher.split(), "launcher.gpus=2"]
    run = script(*overrides(tiny_model, tmp_path, *words))
    assert run.returncode == 0, run.stderr[-3000:]
    assert metrics(folder, "loss")[0] == pytest.approx(first_loss, rel=1e-5)
    assert metrics(folder, "eval_loss") == pytest.approx(metrics(one_rank, "eval_loss"), rel=1e-5)
    assert metrics(folder, "loss") == pytest.approx(metrics(one_rank, "loss"), rel=1e-5)
    assert (folder / "samples.jsonl").read_bytes() == (one_rank / "samples.jsonl").read_bytes()
    generated = {key for line in curve(one_rank) for key in line if key.startswith("eval_")} - COMPUTED
    assert {"eval_call_exact", "eval_rouge_l", "eval_not_stopped"} <= generated
    for key in generated:
        assert metrics(folder, key) == metrics(one_rank, key)
    if "zero=0" not in launcher:  # where DeepSpeed tells no norm
        assert metrics(folder, "grad_norm") == pytest.approx(metrics(one_rank, "grad_norm"), rel=1e-5)
    merging.merge(config(tiny_model, tmp_path, *words))  # takes only an adapter in peft's layout that fits the base
    assert (tmp_path / "default" / "main" / "merge" / "model" / "model.safetensors").exists()


@pytest.mark.e2e
def test_two_ranks_in_bfloat16_train_nearly_as_one_does(converted, tiny_model, tmp_path) -> None:
    one, two = (beside(converted, tmp_path / name) for name in ("one", "two"))
    words = [*ALL_AT_ONCE, "model.dtype=bfloat16"]
    training.train(config(tiny_model, tmp_path / "one", *words))
    more = ["launcher=deepspeed", "launcher.zero=2", "launcher.gpus=2"]
    run = script(*overrides(tiny_model, tmp_path / "two", *words, *more))
    assert run.returncode == 0, run.stderr[-3000:]
    assert metrics(two, "loss") == pytest.approx(metrics(one, "loss"), rel=1e-2)


@pytest.mark.e2e
def test_two_ranks_that_were_stopped_go_on_as_one_that_was_not(converted, tiny_model, tmp_path) -> None:
    whole, folder = (beside(converted, tmp_path / name) for name in ("whole", "stopped"))
    words = ["train.epochs=2", "train.max_steps=8", "train.eval_steps=100", "train.learning_rate=1e-3"]
    words += ["lora.dropout=0", "wandb.mode=disabled", "eval.every=0"]
    training.train(config(tiny_model, tmp_path / "whole", *words))
    more = ["launcher=deepspeed", "launcher.zero=2", "launcher.gpus=2"]
    words = overrides(tiny_model, tmp_path / "stopped", *words, *more)
    stopped(words, tmp_path / "said", (folder / "metrics.jsonl").exists)
    assert saved_step(folder) < 8
    run = script(*words, "resume=true")
    assert run.returncode == 0, run.stderr[-3000:]
    for key in ("step", "loss", "grad_norm", "eval_loss"):
        assert metrics(folder, key) == pytest.approx(metrics(whole, key), rel=1e-4), key


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


# A run of 14 steps to be killed and stopped; it saves every second one, and has a line of the curve in between.
LAST = 14
LONG = ("train.epochs=3", f"train.max_steps={LAST}", "train.eval_steps=2", "train.logging_steps=3", "eval.every=3")
LONG += ("wandb.mode=disabled",)


@pytest.fixture(scope="module")
def long_run(converted, tiny_model, tmp_path_factory) -> Path:
    """The train folder of such a run that was left alone."""
    outputs = tmp_path_factory.mktemp("long")
    folder = beside(converted, outputs)
    training.train(config(tiny_model, outputs, *LONG))
    return folder


def assert_ends_as(whole: Path, folder: Path, words: list[str]) -> None:
    """Resumed, the run in the folder ends with the very curve, samples and adapter of the whole one."""
    run = script(*words, "resume=true")
    assert run.returncode == 0, run.stderr[-3000:]
    assert curve(folder) == curve(whole)
    assert (folder / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()
    one, other = (load_file(each / "best" / "adapter_model.safetensors") for each in (folder, whole))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# What a run has just written when it is killed, and for how many seconds more it may go on: in and out of saving.
MOMENTS = [
    (".checkpoint-*.part/*", 0.0),
    ("checkpoint-*", 0.0),
    (".checkpoint-*.part/optimizer.pt", 0.01),
    ("checkpoint-*", 0.3),
    (".checkpoint-*.part", 0.05),
]


@pytest.mark.e2e
def test_a_run_killed_again_and_again_ends_with_the_curve_of_one_that_was_not(
    long_run, converted, tiny_model, tmp_path
) -> None:
    folder, words = beside(converted, tmp_path), overrides(tiny_model, tmp_path, *LONG)
    draw = random.Random(0)
    for number, (pattern, longest) in enumerate(MOMENTS):
        began = time.time_ns()
        with started([*words, *(["resume=true"] if number else [])], tmp_path / "said") as process:
            wait_until(process, lambda: was_written(folder, pattern, began))  # noqa: B023
            time.sleep(draw.uniform(0, longest))
            assert process.poll() is None, "the run was too quick to be killed"
            os.killpg(process.pid, signal.SIGKILL)
    assert_ends_as(long_run, folder, words)
    assert len(json.loads((folder / "run.json").read_text())["resumed"]) == len(MOMENTS)
    assert not list(folder.glob(".*.part")), "what a killed run left half-written is gone"


def was_written(folder: Path, pattern: str, began: int) -> bool:
    """Whether something of that name is there that no earlier run left."""
    with suppress(FileNotFoundError):  # renamed since it was listed
        return any(path.stat().st_mtime_ns > began for path in folder.glob(pattern))
    return False


@pytest.mark.e2e
def test_sigterm_saves_and_the_run_goes_on_as_if_it_had_not_been(long_run, converted, tiny_model, tmp_path) -> None:
    folder, words = beside(converted, tmp_path), overrides(tiny_model, tmp_path, *LONG)
    stopped(words, tmp_path / "said", (folder / "checkpoint-2").exists)
    assert 2 < saved_step(folder) < LAST
    assert_ends_as(long_run, folder, words)


@pytest.mark.e2e
def test_an_evaluation_that_sigterm_cuts_short_is_made_up_for(long_run, converted, tiny_model, tmp_path) -> None:
    folder, words = beside(converted, tmp_path), overrides(tiny_model, tmp_path, *LONG)
    said = [tmp_path / "first", tmp_path / "again", tmp_path / "last"]
    stopped(words, said[0], lambda: "evaluating" in said[0].read_text())
    assert saved_step(folder) == 2 and evaluation_is_due(folder)
    words.append("resume=true")
    stopped(words, said[1], lambda: "evaluating" in said[1].read_text())
    assert saved_step(folder) == 2 and evaluation_is_due(folder), "it was cut short once more"
    stopped(words, said[2], lambda: metrics(folder, "step")[-1] == LAST)
    assert saved_step(folder) == LAST and evaluation_is_due(folder), "the last step's too"
    assert_ends_as(long_run, folder, words)


def evaluation_is_due(folder: Path) -> bool:
    state = json.loads((folder / f"checkpoint-{saved_step(folder)}" / "trainer_state.json").read_text())
    return state["stateful_callbacks"]["fabrictune"]["evaluation_due"]


@pytest.mark.e2e
def test_sigterm_while_replies_are_generated_is_heard_between_two_batches(converted, tiny_model, tmp_path) -> None:
    folder = beside(converted, tmp_path)
    more = ["wandb.mode=disabled", "eval.sample=15", "eval.sample_tokens=130"]  # two batches
    said = tmp_path / "said"
    stopped(overrides(tiny_model, tmp_path, *more), said, lambda: "generating" in said.read_text())
    assert saved_step(folder) == 2 and evaluation_is_due(folder)
    assert not (folder / "samples.jsonl").exists() and not metrics(folder, "eval_loss"), "it is made up for as a whole"


def test_replies_are_generated_at_every_third_evaluation_and_at_the_last(long_run) -> None:
    lines = [json.loads(line) for line in (long_run / "samples.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [6, 6, 12, 12, 14, 14]
    evaluated = [line for line in curve(long_run) if "eval_loss" in line]
    assert [line["step"] for line in evaluated if "eval_rouge_l" in line] == [6, 12, 14]
    assert len(evaluated) == LAST // 2


def test_the_best_checkpoint_has_the_most_right_or_the_least_wrong(tiny_model, tmp_path) -> None:
    good = {"eval_token_acc", "eval_sentence_acc", "eval_call_exact", "eval_rouge_l"}
    plain = config(tiny_model, tmp_path)
    switches = planning.switches(plain, accelerators.machine())
    for name in COMPUTED | GENERATED_MEASURES:
        for best_by in (name, f"{name}/shop"):
            plain.train.best_by = best_by
            args = training.arguments(plain, tmp_path, 4, switches)
            assert args.greater_is_better == (name in good), name


def test_the_best_checkpoint_may_be_chosen_by_what_is_generated(converted, tiny_model, tmp_path) -> None:
    folder = beside(converted, tmp_path)
    best = training.train(config(tiny_model, tmp_path, "wandb.mode=disabled", "train.best_by=eval_not_stopped"))
    run = json.loads((folder / "run.json").read_text())
    assert best == run["results"]["best"] == min(metrics(folder, "eval_not_stopped"))
    assert run["settings"]["eval"] == {"sample": 2, "sample_tokens": 48}, "another sample could choose another one"


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
        (["train.attention=flash", "train.packing=flat"], "train.attention is flash, but"),
        (["train.best_by=eval_loss/agent"], r"train.best_by is eval_loss/agent, but the sources with test rows are"),
        (["train.best_by=eval_rouge_l/agent"], r"eval_rouge_l/agent, but the 2 test .* tell eval_needless_call, "),
        (["train.best_by=eval_call_exact"], r"eval_call_exact, but the 2 test exchanges .* tell eval_needless_call, "),
        (["train.best_by=eval_no_call", "eval.sample_tokens=4"], r"the 0 test exchanges .* 4 tokens, tell nothing"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence_before_a_run_is_begun(
    converted, tiny_model, tmp_path, words, said
) -> None:
    folder = beside(converted, tmp_path)
    with pytest.raises(ValueError, match=said):
        training.train(config(tiny_model, tmp_path, *words))
    assert not folder.exists(), "the corrected command needs no overwrite=true"


def test_a_tokenizer_without_a_chat_template_is_refused(converted, tiny_model, tmp_path) -> None:
    bare = shutil.copytree(tiny_model, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink(missing_ok=True)
    folder = beside(converted, tmp_path)
    with pytest.raises(ValueError, match="no chat template"):
        training.train(config(tiny_model, tmp_path, f"model.id={bare}"))
    assert not folder.exists()


def test_what_is_refused_does_not_cost_the_run_that_it_was_to_replace(trained, tiny_model) -> None:
    def held() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}

    before = held()
    with pytest.raises(ValueError, match="'nothing' is no linear layer"):
        training.train(config(tiny_model, trained.parent.parent.parent, "overwrite=true", "lora.targets=[nothing]"))
    assert held() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train.eval_steps=100"], r"the loss is (nan|inf) at step 2.*learning_rate"),
        (["train.eval_steps=1"], r"the eval loss is (nan|inf) at step 1.*learning_rate"),
    ],
)
def test_a_loss_that_is_no_number_ends_the_run_before_it_is_saved(converted, tiny_model, tmp_path, words, said) -> None:
    folder = beside(converted, tmp_path)
    words = ["train.learning_rate=1e38", "train.max_grad_norm=1e38", "train.warmup_ratio=0", *words]
    with pytest.raises(ValueError, match=said):
        training.train(config(tiny_model, tmp_path, "wandb.mode=disabled", *words))
    assert not list(folder.glob("*checkpoint-*"))


@pytest.mark.e2e
def test_a_full_disk_ends_in_one_sentence_and_leaves_no_half_a_checkpoint(converted, tiny_model, tmp_path) -> None:
    folder = beside(converted, tmp_path)
    words = ["wandb.mode=disabled", "lora.rank=64"]
    training.train(config(tiny_model, tmp_path, *words, "dry_run=true"))  # so that the tokens are there
    # A bound on the size of files stands for a full disk: both fail in the middle of writing.
    bound = (400_000, 400_000)
    run = script(
        *overrides(tiny_model, tmp_path, *words), preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, bound)
    )
    assert run.returncode == 1
    (said,) = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert "checkpoint-2 cannot be written" in said and "resume=true" in said
    assert "Traceback" not in run.stderr and not list(folder.glob("*checkpoint-*"))


@pytest.mark.e2e
def test_a_failing_rank_ends_the_run_with_its_message(converted, tiny_model, tmp_path) -> None:
    beside(converted, tmp_path)
    words = ["launcher=torchrun", "launcher.gpus=2", "train.learning_rate=1e38", "train.max_grad_norm=1e38"]
    words += ["train.eval_steps=100", "wandb.mode=disabled"]
    run = script(*overrides(tiny_model, tmp_path, *words))
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
    assert run.returncode == 1, run.stderr[-3000:]
    assert "7,721,324,544" in run.stdout and "refused: " in run.stdout and "convert.py" in run.stdout
    assert not run.stderr.count("error: ") and not list(tmp_path.iterdir())
