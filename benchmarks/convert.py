"""Times convert.py beside the plain loop of the tutorial (convert_plain.py), on the same generated records.

    python benchmarks/convert.py                                  3,000, 30,000 and 300,000 rows
    python benchmarks/convert.py --sizes 400000 --only ours       our memory alone

docs/benchmarks.md says what each side does and how it is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import shlex
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import psutil
from rich import box
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fabrictune import processes, record
from fabrictune.dialogue import Dialogue, Step, Turn
from fabrictune.formats import ms_agent
from fabrictune.record import ROOT
from fabrictune.sources import synthetic

SIZES = (3_000, 30_000, 300_000)
MANY = 100_000  # rows from which one run is enough
LOAD = 1.0  # of the machine before we begin; above it the seconds are doubtful
MIB = 1 << 20
COLUMNS = (
    *("rows", "side", "runs", "seconds, median", "least", "processor seconds", "rows/s", "peak MiB", "written MiB"),
    *("rows/s ÷ plain", "peak ÷ plain"),
)


@dataclass(frozen=True)
class Run:
    """One conversion: its seconds, processor seconds of all its processes, their memory at most, bytes written."""

    seconds: float
    cpu_seconds: float
    memory: int
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
    os.sync()  # so that nobody waits for what another has left to be written
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with (folder / "log").open("w+", encoding="utf-8") as log, ThreadPoolExecutor(1) as watching:
        start = time.monotonic()
        with processes.program(words, os.environ, log) as process:
            memory = watching.submit(peak_memory, process.pid)
            code = process.wait()
            seconds = time.monotonic() - start
        log.seek(0)
        if code:
            raise RuntimeError(f"{shlex.join(words)} failed with code {code}:\n{log.read()[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if (kept := side.kept(folder)) != rows:
        raise RuntimeError(f"{shlex.join(words)} converted {kept} rows of {rows}")
    written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != "log")
    shutil.rmtree(folder)
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(seconds, cpu_seconds, memory.result(), written)


def peak_memory(pid: int) -> int:
    """Bytes of memory that a process and all below it hold at most, together, until it ends.

    The sum of their proportional set sizes (PSS) counts a page that several share once. It is sampled all the time: 50
    times a second at first, later 5 times, which costs 1 to 2 % of a core.
    """
    highest, start = 0, time.monotonic()
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        while root.is_running():
            highest = max(highest, sum(map(_memory, [root, *root.children(recursive=True)])))
            time.sleep(min(0.2, max(0.02, (time.monotonic() - start) / 20)))
    return highest


def _memory(process: psutil.Process) -> int:
    with suppress(psutil.NoSuchProcess):
        held: int = process.memory_full_info().pss
        return held
    return 0


def measure(
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
                _say(
                    f"{rows:,} rows, {SIDES[name].label}, run {number + 1} of {count}: {one.seconds:.2f} s "
                    f"({one.cpu_seconds:.2f} s of processors), {one.memory / MIB:,.0f} MiB"
                )
        yield from (Measured(rows, name, tuple(own)) for name, own in runs.items())


def table(measured: Sequence[Measured]) -> str:
    """In Markdown, a line for each side and size; ratios are to the plain loop, where it was run."""
    shown = Table(box=box.MARKDOWN)
    for heading in COLUMNS:
        shown.add_column(heading, justify="left" if heading == "side" else "right")
    plain = {one.rows: one for one in measured if one.side == "plain"}
    for one in measured:
        peer = plain.get(one.rows)
        shown.add_row(
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
    console = Console(width=200, color_system=None)
    with console.capture() as captured:
        console.print(shown)
    return "\n".join(line.rstrip() for line in captured.get().strip().splitlines())


def machine() -> str:
    """What the numbers depend on beside the code: processor, cores, memory, load."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "unknown CPU")
    cores, memory = len(os.sched_getaffinity(0)), psutil.virtual_memory().total / (1 << 30)
    return (
        f"{model}, {cores} cores, {memory:.0f} GiB of memory, Python {platform.python_version()}, commit "
        f"{record.commit()}; load before: {os.getloadavg()[0]:.2f}."
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of rows")
    parser.add_argument("--only", nargs="+", choices=SIDES, default=list(SIDES), help="sides to run")
    parser.add_argument("--repeats", type=int, help=f"runs of each (default: 3, but 1 from {MANY:,} rows)")
    parser.add_argument("--unique", type=float, default=0.5, help="share of the tools made to occur once")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scratch", type=Path, help="where to make a folder for input and output (default: /tmp)")
    parser.add_argument("--markdown", type=Path, help="also write machine, command and table into this file")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides for our convert.py")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    options = _options(words)
    facts = machine()
    _say(facts)
    if os.getloadavg()[0] > LOAD:
        _say(f"warning: others use this machine (load above {LOAD:g}); the seconds will be too many")
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        paths, told = write_inputs(Path(scratch), options.sizes, options.unique, options.seed)
        _say(told)
        measured = list(measure(paths, options.only, options.repeats, Path(scratch), options.set))
    command = shlex.join(["python", "benchmarks/convert.py", *(sys.argv[1:] if words is None else words)])
    text = f"`{command}`\n\n{facts} {told}\n\n{table(measured)}"
    print(text)
    if options.markdown:
        with record.replacing(options.markdown) as file:
            file.write(f"{text}\n")


if __name__ == "__main__":
    main()
