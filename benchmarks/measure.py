"""What the benchmarks share: a command timed with all its processes, the machine it ran on, a table of markdown."""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich import box
from rich.console import Console
from rich.table import Table

from fabrictune import processes, record

LOAD = 1.0  # of the machine before we begin; above it the seconds are doubtful
MIB = 1 << 20


@dataclass(frozen=True)
class Used:
    """What a command took: seconds, processor seconds of all its processes, their memory at most in bytes."""

    seconds: float
    cpu_seconds: float
    memory: int


def timed(words: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> Used:
    """Runs the command with its output in `log`. Raises RuntimeError with the log's end where it fails."""
    os.sync()  # so that nobody waits for what another has left to be written
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with log.open("w+", encoding="utf-8") as file, ThreadPoolExecutor(1) as watching:
        start = time.monotonic()
        with processes.program(words, os.environ | (environment or {}), file) as process:
            memory = watching.submit(peak_memory, process.pid)
            code = process.wait()
            seconds = time.monotonic() - start
        file.seek(0)
        if code:
            raise RuntimeError(f"{shlex.join(words)} failed with code {code}:\n{file.read()[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Used(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, memory.result())


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


def machine() -> str:
    """What the numbers depend on beside the code: processor, cores, memory, load."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "unknown CPU")
    cores, memory = len(os.sched_getaffinity(0)), psutil.virtual_memory().total / (1 << 30)
    return (
        f"{model}, {cores} cores, {memory:.0f} GiB of memory, Python {platform.python_version()}, commit "
        f"{record.commit()}; load before: {os.getloadavg()[0]:.2f}."
    )


def parser(about: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has, `about` above them."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--scratch", type=Path, help="a folder for input and output (default: the system's own)")
    made.add_argument("--markdown", type=Path, help="also write machine, command and table into this file")
    return made


def begin() -> str:
    """`machine`, said; warns where others use it."""
    facts = machine()
    say(facts)
    warn_of_load()
    return facts


def warn_of_load() -> None:
    if os.getloadavg()[0] > LOAD:
        say(f"warning: others use this machine (load above {LOAD:g}); the seconds will be too many")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[str] = ("side",)) -> str:
    """The rows as markdown; columns named in `left` are aligned left, all others right."""
    shown = Table(box=box.MARKDOWN)
    for column in columns:
        shown.add_column(column, justify="left" if column in left else "right", no_wrap=True)
    for row in rows:
        shown.add_row(*row)
    console = Console(width=1000, color_system=None)
    with console.capture() as captured:
        console.print(shown)
    return "\n".join(line.rstrip() for line in captured.get().strip().splitlines())


def report(script: str, words: Sequence[str], parts: Iterable[str], markdown: Path | None) -> None:
    """Prints the command and the parts below it; writes the same into the markdown file if one is named."""
    text = "\n\n".join([f"`{shlex.join(['python', script, *words])}`", *parts])
    print(text)
    if markdown:
        with record.replacing(markdown) as file:
            file.write(f"{text}\n")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
