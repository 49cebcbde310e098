"""Other programs and worker processes that we start: none of them outlives us, however we end."""

from __future__ import annotations

import ctypes
import math
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TypeVar

import psutil

Item = TypeVar("Item")
Result = TypeVar("Result")

GRACE = 15.0  # seconds between asking a program to end and ending it
PR_SET_PDEATHSIG = 1  # linux/prctl.h


@contextmanager
def program(
    words: Sequence[str],
    environment: Mapping[str, str],
    output: IO[str] | None = None,
    grace: float | None = None,
    *,
    dies_with_us: bool = False,
) -> Iterator[subprocess.Popen[bytes]]:
    """The command, running in a process group of its own while the block runs; all of the group is ended with it.

    `grace` is the seconds between asking it to end and ending it (GRACE if not given).

    SIGTERM unwinds the stack inside the block as Ctrl-C does; by default it would leave the group behind. With
    `dies_with_us` the program gets SIGTERM even if we are killed, on Linux: it alone, not the rest of its group, and
    as the kernel has it when the thread ends that entered the block, which is to stay in it.
    """
    with _unwinding_on_sigterm():
        process = subprocess.Popen(
            words,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            start_new_session=True,
            preexec_fn=_asking_for_our_death() if dies_with_us and sys.platform == "linux" else None,
        )
        try:
            yield process
        finally:
            _end(process, GRACE if grace is None else grace)


def cpus(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """How many CPUs this process may use; of a container that has a share of their time, as many as that fills."""
    count = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    with suppress(OSError):  # only a container that cgroup v2 limits has the file
        time_given, period = quota.read_text(encoding="ascii").split()
        if time_given != "max":
            return min(count, math.ceil(int(time_given) / int(period)))
    return count


@contextmanager
def workers(count: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes, started with the first item and ended with the block, or with us if we are killed.

    At the end of the block they finish what they are at; what else is queued is given up.
    """
    # A fork has all modules at once, which take seconds to load; other systems' own libraries do not survive one.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    pool = ProcessPoolExecutor(count, context, _set_up_worker)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C nobody takes what is queued


def in_order(
    pool: ProcessPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """function(item) of every item, in the items' order; items are read at most `ahead` before their result is taken.

    Raises what the function raises, RuntimeError where a worker was killed.
    """
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _set_up_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its workers
    # A thread per CPU in each worker would be too many, and those that the parent has are missing after a fork.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for its next item for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def held_port() -> Iterator[int]:
    """A port that no other program is given while the block runs, for a server that sets SO_REUSEADDR, as torch's does.

    Between `free_port` and the start of a server that takes seconds to load, somebody else may be given the same.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("", 0))  # bound, never listening
        port: int = holder.getsockname()[1]
        yield port


def is_running(pid: int) -> bool:
    """Whether the process runs; one that has ended but that nobody has waited for does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def signal_that_ended(pid: int) -> int:
    """The signal that ended another program's child for which that one has not waited yet; 0 if it is not known."""
    with suppress(OSError, IndexError):  # on Linux only, and soon gone
        state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return int(fields[48]) & 127 if state == "Z" else 0  # proc(5): exit_code, its 52nd field
    return 0


def _asking_for_our_death() -> Callable[[], None]:
    """What a child of ours calls before it becomes another program, so that it gets SIGTERM when we end."""
    prctl = ctypes.CDLL(None).prctl  # loaded here: after a fork other threads' locks stay locked
    parent = os.getpid()

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # we ended before it could ask
            os._exit(128 + signal.SIGTERM)

    return ask


def _end(process: subprocess.Popen[bytes], grace: float) -> None:
    """Ends the whole process group, asked first; a second Ctrl-C while waiting does not leave it behind."""
    try:
        _signal_group(process, signal.SIGTERM)
        deadline = time.monotonic() + grace
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
