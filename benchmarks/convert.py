"""Times convert.py beside the plain loop of the tutorial (convert_plain.py), on the same generated records.

    python benchmarks/convert.py                                  3,000, 30,000 and 300,000 rows
    python benchmarks/convert.py --sizes 400000 --only ours       our memory alone

docs/benchmarks.md says what each side does and how it is measured.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import shutil
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measure
from benchmarks.measure import MIB, Used, say
from fabrictune.dialogue import Dialogue, Step, Turn
from fabrictune.formats import ms_agent
from fabrictune.record import ROOT
from fabrictune.sources import synthetic

SIZES = (3_000, 30_000, 300_000)
MANY = 100_000  # rows from which one run is enough
COLUMNS = (
    *("rows", "side", "runs", "seconds, median", "least", "processor seconds", "rows/s", "peak MiB", "written MiB"),
    *("rows/s ÷ plain", "peak ÷ plain"),
)


@dataclass(frozen=True)
class Run(Used):
    """One conversion: what it took, and the bytes it has written."""

    written: int


@dataclass(frozen=True)
class Measured:
    """The runs of one side on one number of rows."""

    rows: int
    side: str
    runs: tuple[Run, ...]

    @property
    def rate(self) -> float:
        """Rows a second in the median run."""
        return self.rows / statistics.median(run.seconds for run in self.runs)

    @property
    def memory(self) -> int:
        return max(run.memory for run in self.runs)


@dataclass(frozen=True)
class Side:
    """A way to convert: `words(source, folder)` is the command, `kept(folder)` how many rows it then has converted."""

    label: str
    words: Callable[[Path, Path], list[str]]
    kept: Callable[[Path], int]


def _ours(source: Path, folder: Path) -> list[str]:
    return [
        str(ROOT / "convert.py"),
        "data/mix=files",
        f"data.mix.file.path={source}",
        "name=ours",
        f"outputs={folder}",
    ]


def _ours_kept(folder: Path) -> int:
    stats = json.loads((folder / "ours/main/convert/stats.json").read_text(encoding="utf-8"))
    own: dict[str, int] = stats["sources"]["file"]
    return own["rows"] - own["rejected"] - own["not_drawn"] - own["not_used"]


def _plain(source: Path, folder: Path) -> list[str]:
    return [str(ROOT / "benchmarks" / "convert_plain.py"), str(source), str(folder / "plain.jsonl")]


def _plain_kept(folder: Path) -> int:
    with (folder / "plain.jsonl").open("rb") as file:
        return sum(1 for _ in file)


SIDES = {
    "ours": Side("ours", _ours, _ours_kept),
    "uncounted": Side(
        "ours, tokens not counted",
        lambda source, folder: [*_ours(source, folder), "data.count_tokens=false"],
        _ours_kept,
    ),
    "plain": Side("plain loop", _plain, _plain_kept),
}


def write_records(path: Path, rows: int, unique: float, seed: int) -> float:
    """Writes ms_agent records, half of them Chinese; returns the share of tool lines that occur once among them.

    The catalogue behind the records has a few hundred tools, and a converter that knows a line again would look faster
    than it is on a platform with thousands. So this share of the tools gets a name and a description that no other
    record has.
    """
    seen: Counter[int] = Counter()
    with path.open("w", encoding="utf-8") as file:
        made = synthetic.generate(seed, rows, ["zh", "en"], dialogues_per_agent=1)
        for number, dialogue in enumerate(made):
            varied = _varied(dialogue, number, unique, random.Random(f"{seed}/unique/{number}"))
            seen.update(hash((tool.name, tool.description, str(tool.parameters))) for tool in varied.tools)
            file.write(json.dumps(ms_agent.render(varied), ensure_ascii=False) + "\n")
    return sum(count == 1 for count in seen.values()) / seen.total()


def _varied(dialogue: Dialogue, number: int, unique: float, rng: random.Random) -> Dialogue:
    """The dialogue with about this share of its tools as no other record has them."""
    names = {tool.name: f"{tool.name}_{number:x}" for tool in dialogue.tools if rng.random() < unique}

    def renamed(step: Step) -> Step:
        return replace(step, call=replace(step.call, name=names.get(step.call.name, step.call.name)))

    def varied(turn: Turn) -> Turn:
        return replace(turn, steps=tuple(map(renamed, turn.steps)))

    tools = tuple(
        replace(tool, name=names[tool.name], description=f"{tool.description} [{number:x}]")
        if tool.name in names
        else tool
        for tool in dialogue.tools
    )
    return replace(dialogue, tools=tools, turns=tuple(map(varied, dialogue.turns)))


def write_inputs(folder: Path, sizes: Sequence[int], unique: float, seed: int) -> tuple[dict[int, Path], str]:
    """One file for each size, each the beginning of the largest, and a sentence on what the largest holds."""
    paths = {rows: folder / f"{rows}.jsonl" for rows in sizes}
    largest = max(sizes)
    share = write_records(paths[largest], largest, unique, seed)
    for rows in sizes:
        if rows < largest:
            with paths[largest].open("rb") as whole, paths[rows].open("wb") as part:
                part.writelines(islice(whole, rows))
    size = paths[largest].stat().st_size
    return (
        paths,
        f"Input: {largest:,} records of {size / largest:,.0f} bytes; {share:.0%} of the tool lines occur once.",
    )


def run(side: Side, source: Path, rows: int, folder: Path, overrides: Sequence[str] = ()) -> Run:
    """Converts the source in a process of its own and removes what it wrote.

    Raises RuntimeError where the process fails or has not converted every row.
    """
    folder.mkdir()
    words = [sys.executable, *side.words(source, folder), *overrides]
    used = measure.timed(words, folder / "log")
    if (kept := side.kept(folder)) != rows:
        raise RuntimeError(f"{shlex.join(words)} converted {kept} rows of {rows}")
    written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != "log")
    shutil.rmtree(folder)
    return Run(**vars(used), written=written)


def take_turns(
    paths: dict[int, Path], sides: Sequence[str], repeats: int | None, scratch: Path, overrides: Sequence[str]
) -> Iterator[Measured]:
    """All sides on each size in turn, so that a slow minute of the machine hits none of them alone."""
    for rows, source in paths.items():
        count = repeats or (1 if rows >= MANY else 3)
        runs: dict[str, list[Run]] = {name: [] for name in sides}
        for number in range(count):
            for name in sides:
                extra = () if name == "plain" else overrides
                one = run(SIDES[name], source, rows, scratch / "out", extra)
                runs[name].append(one)
                say(
                    f"{rows:,} rows, {SIDES[name].label}, run {number + 1} of {count}: {one.seconds:.2f} s "
                    f"({one.cpu_seconds:.2f} s of processors), {one.memory / MIB:,.0f} MiB"
                )
        yield from (Measured(rows, name, tuple(own)) for name, own in runs.items())


def lines(measured: Sequence[Measured]) -> Iterator[tuple[str, ...]]:
    """The table's lines, one for each side and size; ratios are to the plain loop, where it was run."""
    plain = {one.rows: one for one in measured if one.side == "plain"}
    for one in measured:
        peer = plain.get(one.rows)
        yield (
            f"{one.rows:,}",
            SIDES[one.side].label,
            str(len(one.runs)),
            f"{statistics.median(run.seconds for run in one.runs):.2f}",
            f"{min(run.seconds for run in one.runs):.2f}",
            f"{statistics.median(run.cpu_seconds for run in one.runs):.2f}",
            f"{one.rate:,.0f}",
            f"{one.memory / MIB:,.0f}",
            f"{one.runs[0].written / MIB:,.1f}",
            f"{one.rate / peer.rate:.2f}" if peer else "",
            f"{one.memory / peer.memory:.2f}" if peer else "",
        )


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = measure.parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of rows")
    parser.add_argument("--only", nargs="+", choices=SIDES, default=list(SIDES), help="sides to run")
    parser.add_argument("--repeats", type=int, help=f"runs of each (default: 3, but 1 from {MANY:,} rows)")
    parser.add_argument("--unique", type=float, default=0.5, help="share of the tools made to occur once")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides for our convert.py")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    options = _options(words)
    facts = measure.begin()
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        paths, told = write_inputs(Path(scratch), options.sizes, options.unique, options.seed)
        say(told)
        measured = list(take_turns(paths, options.only, options.repeats, Path(scratch), options.set))
    parts = (f"{facts} {told}", measure.table(COLUMNS, lines(measured)))
    measure.report("benchmarks/convert.py", sys.argv[1:] if words is None else words, parts, options.markdown)


if __name__ == "__main__":
    main()
