"""Logging and progress of every script: plain lines on stderr, a bar where a terminal shows it."""

from __future__ import annotations

import io
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from tqdm import tqdm

Item = TypeVar("Item")

logger = logging.getLogger("fabrictune")


def set_up() -> None:
    """Sends our messages to stderr as `12:30:01 text`, once, and keeps chatty libraries quiet."""
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO if _speaks() else logging.ERROR)
        logger.propagate = False
    for name in ("httpx", "httpx2", "httpcore", "openai"):
        logging.getLogger(name).setLevel(logging.WARNING)


# A bar of steps that moves within a step too; its mean rate over the whole run, pauses included, says when it ends.
STEPS = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} [{elapsed}<{remaining}{postfix}]"


def progress(items: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
    """The items, with a bar on a terminal and a line every few seconds elsewhere."""
    with tqdm(items, desc=label, total=total, **_manner()) as moving:
        yield from moving


def bar(label: str, total: int, done: int = 0) -> tqdm:
    """The same bar for its user to move: `update()` counts one more, `refresh()` shows it though nothing moved."""
    return tqdm(desc=label, total=total, initial=done, **_manner())


def steps_bar(label: str, total: int, done: int) -> tqdm:
    """A bar of `total` steps, of which `update(0.25)` counts a quarter of one; it shows the time left."""
    return tqdm(desc=label, total=total, initial=done, bar_format=STEPS, smoothing=0, **_manner())


CURSOR_UP = "\x1b[A"  # of a bar within a bar


class _Lines(io.TextIOBase):
    """Where no terminal moves the cursor back, each state of a bar is a line of its own on stderr."""

    def write(self, text: str) -> int:
        if state := text.replace(CURSOR_UP, "").strip():
            sys.stderr.write(state + "\n")
        return len(text)

    def flush(self) -> None:
        sys.stderr.flush()


def _manner() -> dict[str, Any]:
    is_terminal = sys.stderr.isatty()
    return {
        "file": sys.stderr if is_terminal else _Lines(),
        "mininterval": 0.2 if is_terminal else 4,
        "ncols": 100,
        "disable": not _speaks(),
    }


def _speaks() -> bool:
    """Of several ranks only the first reports progress."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def errors_in_one_sentence(point: str = "") -> Iterator[None]:
    """Ends the program with one sentence and exit code 1 where a user can cause the error, 130 on Ctrl-C.

    `point` is what a sweep calls this run. FABRICTUNE_TRACE=1 shows where the error arose. What only we can cause
    (AssertionError, ...) keeps its traceback.
    """
    set_up()
    logger.info("%s: loading the libraries", Path(sys.argv[0]).name)
    try:
        yield
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        if os.environ.get("FABRICTUNE_TRACE"):
            raise
        hint = f" ({error.name}); run `make install`" if isinstance(error, ModuleNotFoundError) else ""
        print(f"error: {error}{hint}", file=sys.stderr)
        if _is_swept():
            _failed.append(f"{point}: {error}")
            raise PointsFailed(_failed) from error
        raise SystemExit(getattr(error, "exit_code", 1)) from error
    except SystemExit as ended:
        if words := getattr(ended, "message", ""):  # one that was asked to stop and has saved
            print(words, file=sys.stderr)
        raise
    except KeyboardInterrupt:
        if os.environ.get("FABRICTUNE_TRACE"):
            raise
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None  # as shells have it: 128 and the signal's number


class PointsFailed(CompactHydraException):
    """Hydra goes on with the sweep's next point; after the last one it says this, all that failed, and ends with 1."""

    def __str__(self) -> str:
        failed: list[str] = self.args[0]
        return "\n".join(f"failed: {point}" for point in failed)


_failed: list[str] = []  # by this process's points


def _is_swept() -> bool:
    return HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self.start
