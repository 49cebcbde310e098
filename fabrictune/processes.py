"""Other programs that we start: none of their processes outlives us, however we end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO

import psutil

GRACE = 15.0  # seconds between asking a program to end and ending it


@contextmanager
def program(
    words: Sequence[str], environment: Mapping[str, str], output: IO[str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """The command, running in a process group of its own while the block runs; all of the group is ended with it.

    SIGTERM unwinds the stack inside the block as Ctrl-C does; by default it would leave the group behind.
    """
    with _unwinding_on_sigterm():
        process = subprocess.Popen(
            words, env=environment, stdout=output, stderr=subprocess.STDOUT if output else None, start_new_session=True
        )
        try:
            yield process
        finally:
            _end(process)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the whole process group, asked first; a second Ctrl-C while waiting does not leave it behind."""
    try:
        _signal_group(process, signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        while _lives(process.pid) and time.monotonic() < deadline:
            process.poll()
            time.sleep(0.05)
    finally:
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _lives(group: int) -> bool:
    """Whether a process of the group still runs; one that has ended but that nobody has waited for does not."""
    for process in psutil.process_iter(["status"]):
        with suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                return True
    return False


@contextmanager
def _unwinding_on_sigterm() -> Iterator[None]:
    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    known = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, known)
