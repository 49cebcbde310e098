"""Logging and progress of every script: plain lines on stderr, a bar where a terminal shows it."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

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


def progress(items: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
    """The items, with a bar on a terminal and a line every few seconds elsewhere."""
    with tqdm(items, desc=label, total=total, mininterval=_interval(), ncols=100, disable=not _speaks()) as moving:
        yield from moving


def bar(label: str, total: int, done: int = 0) -> tqdm:
    """The same bar for its user to move: `update()` counts one more, `refresh()` shows it though nothing moved."""
    return tqdm(desc=label, total=total, initial=done, mininterval=_interval(), ncols=100, disable=not _speaks())


def _speaks() -> bool:
    """Of several ranks only the first reports progress."""
    return os.environ.get("RANK", "0") == "0"


def _interval() -> float:
    return 0.2 if sys.stderr.isatty() else 4


@contextmanager
def errors_in_one_sentence() -> Iterator[None]:
    """Ends the program with one sentence and exit code 1 where a user can cause the error, 130 on Ctrl-C.

    FABRICTUNE_TRACE=1 shows where it arose. What only we can cause (AssertionError, ...) keeps its traceback.
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
        raise SystemExit(1) from error
    except KeyboardInterrupt:
        if os.environ.get("FABRICTUNE_TRACE"):
            raise
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None  # as shells have it: 128 and the signal's number


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self.start
