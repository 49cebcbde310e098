"""Several ranks of one training run: torchrun on this machine, or DeepSpeed's launcher on one or several nodes."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from fabrictune import processes, record
from fabrictune.log import logger
from fabrictune.train import nodes, ranks
from fabrictune.train.ranks import Note, Stop, Stopped

GRACE = 300.0  # seconds that the ranks have to save and stop: a step, and a checkpoint
SWEEP = 2.0  # seconds between asking what is left to end and ending it
CODES = "codes.json"  # torchrun's exit codes by rank, among the notes


class RankFailed(RuntimeError):
    """A rank ended the run. `exit_code` is its own, or 128 and the number of the signal that killed it."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def launch(
    kind: str,
    gpus: int | None,
    script: Path,
    arguments: Sequence[str],
    folder: Path,
    hostfile: Path | None = None,
    grace: float = GRACE,
) -> Any:
    """Runs the script once a rank, as `kind` (torchrun, deepspeed) does; returns what rank 0 gave as its results.

    Ctrl-C and SIGTERM ask the ranks to save and stop, for which they have `grace` seconds; Stopped is raised if they
    did. Raises RankFailed with the message of the rank that failed first, and ValueError if this machine cannot run
    so many. Logs of the ranks are folder/rank-K.log; of rank 0, which writes to the terminal, only a traceback.
    """
    placed = nodes.place(gpus, hostfile)
    problems = nodes.problems(kind, placed, hostfile)
    if problems:
        raise ValueError("; ".join(problems))
    notes = folder.resolve() / ".ranks"
    _clear(notes)
    command = [str(script.resolve()), *arguments]
    try:
        with (
            processes.held_port() as port,
            processes.program(
                [*nodes.launcher(kind, placed, port, hostfile, notes), *nodes.quoted(command, hostfile)],
                nodes.environment(kind, placed, notes, hostfile),
                grace=SWEEP,
            ) as process,
            ranks.stopping() as stop,
        ):
            silent = _wait(process, stop, notes, grace)
    finally:
        _sweep(notes)
    return _outcome(kind, sum(placed.values()), process.returncode, silent, notes)


def use_no_compiler() -> None:
    """Keeps DeepSpeed on a CPU from building an extension at start, which takes a minute and a C++ compiler."""
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _clear(notes: Path) -> None:
    shutil.rmtree(notes, ignore_errors=True)
    notes.mkdir(parents=True)
    (notes / ranks.ALIVE).touch()
    for log in notes.parent.glob("rank-*.log"):
        log.unlink()


def _wait(process: subprocess.Popen[bytes], stop: Stop, notes: Path, grace: float) -> dict[int, int]:
    """Waits for the launcher to end; returns ranks that ended without a word, the first one first, with their signals.

    Raises RankFailed if the ranks were asked to stop and did not.
    """
    deadline = None
    silent: dict[int, int] = {}
    while process.poll() is None:
        if stop.signal is not None and deadline is None:
            deadline = time.monotonic() + grace
            logger.info("asked the ranks to save and stop; they have %.0f s, and a second request ends them", grace)
        if deadline is not None and time.monotonic() > deadline:
            assert stop.signal is not None
            raise RankFailed(
                f"the ranks did not save and stop within {grace:.0f} s and were ended; the last checkpoint stands, "
                "and resume=true goes on from it",
                128 + stop.signal,
            )
        with suppress(OSError):  # a network file system may be away for a while
            (notes / ranks.ALIVE).touch()
            _note_silent(silent, notes)
            if deadline is not None:
                (notes / ranks.STOP).touch()
        time.sleep(0.2)
    _note_silent(silent, notes)
    return silent


def _note_silent(silent: dict[int, int], notes: Path) -> None:
    """Adds the ranks of this machine that have ended, but whose notes say that they run, and their signals."""
    gone = {note.number: note.pid for note in _here(notes) if note.code is None and not processes.is_running(note.pid)}
    # Read again: a rank leaves its note before it ends, so one that has ended by now has left it.
    for note in _here(notes):
        if note.number in gone and note.code is None:
            silent.setdefault(note.number, processes.signal_that_ended(note.pid))


def _here(notes: Path) -> list[Note]:
    return [note for note in ranks.read_notes(notes) if note.host == socket.gethostname()]


def _sweep(notes: Path) -> None:
    """Ends the ranks that outlived their launcher: torchrun gives each a session, which its own end does not reach."""
    left = []
    for note in _here(notes):
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(note.pid)
            if abs(process.create_time() - note.started) < 1:
                left += [*process.children(recursive=True), process]
    _, alive = psutil.wait_procs(left, timeout=SWEEP)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _outcome(kind: str, count: int, code: int, silent: Mapping[int, int], notes: Path) -> Any:
    """The results of rank 0. Raises RankFailed or Stopped if there is another end than that.

    An exit code of 0 is not taken for success: DeepSpeed's runner gives it also where its child was killed.
    """
    left = ranks.read_notes(notes)
    failed = sorted((note for note in left if note.failed), key=lambda note: (note.another, note.time))
    stopped = [note for note in left if note.code == ranks.STOPPED]
    result = notes / ranks.RESULT
    if failed and not failed[0].another:
        raise _said(failed[0], notes)
    if silent:
        rank, number = next(iter(silent.items()))
        raise _killed(rank, number or _signal(rank, code, notes))
    if stopped:
        raise Stopped(stopped[0].message)
    if failed and code >= 0:
        raise _said(failed[0], notes)
    if code or not result.exists():
        raise _unclear(kind, count, code, left, notes.parent)
    results = json.loads(result.read_text(encoding="utf-8"))
    shutil.rmtree(notes, ignore_errors=True)
    for log in notes.parent.glob("rank-*.log"):
        if log.stat().st_size == 0:
            log.unlink()
    return results


def _said(note: Note, notes: Path) -> RankFailed:
    assert note.code is not None
    log = notes.parent / f"rank-{note.number}.log"
    return RankFailed(f"rank {note.number}: {note.message} (see {log})", note.code)


def _signal(rank: int, code: int, notes: Path) -> int:
    """The signal that torchrun noted for the rank, or that DeepSpeed's exit code, modulo 256, stands for."""
    with suppress(FileNotFoundError):
        return -int(json.loads((notes / CODES).read_text(encoding="utf-8")).get(str(rank), 0))
    return 256 - code


def _killed(rank: int, number: int) -> RankFailed:
    if number not in {item.value for item in signal.Signals}:
        return RankFailed(f"rank {rank} ended without a word; if it was killed, the kernel's log (dmesg) may say why")
    hint = ""
    if number == signal.SIGKILL:
        hint = "; the kernel does this where the machine's memory runs out: a smaller train.row_tokens needs less"
    return RankFailed(f"rank {rank} was killed by {signal.Signals(number).name}{hint}", 128 + number)


def _unclear(kind: str, count: int, code: int, left: Sequence[Note], folder: Path) -> RankFailed:
    """`folder` is where the ranks' logs lie."""
    if code < 0:
        return RankFailed(f"{kind}'s launcher was killed by {signal.Signals(-code).name}", 128 - code)
    missing = sorted(set(range(count)) - {note.number for note in left})
    if missing:
        return RankFailed(
            f"rank {missing[0]} of {count} under {kind} ended before it began (exit code {code}); "
            "its message, if it had one, stands above",
            code or 1,
        )
    return RankFailed(
        f"the {count} ranks under {kind} left no result (exit code {code}); what they said stands above and in "
        f"{folder}/rank-*.log",
        code or 1,
    )


def _torchrun(notes: Path, words: Sequence[str]) -> None:
    """torchrun, which leaves the ranks' exit codes among the notes instead of printing a page about them."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.CRITICAL)
    try:
        run.run(run.parse_args(list(words)))
    except ChildFailedError as error:
        record.write_json(notes / CODES, {rank: failure.exitcode for rank, failure in error.failures.items()})
        raise SystemExit(1) from None
    except SignalException as error:
        raise SystemExit(128 + error.sigval) from None


if __name__ == "__main__":
    _torchrun(Path(sys.argv[1]), sys.argv[2:])
