"""A rank of a training run: how it begins, hears that it is to stop, and ends. `launching` starts ranks."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import psutil

from fabrictune import record

# Set in the ranks: the folder where they and train.py leave each other notes; train.py's process id, if all of them
# run below it on its own machine.
NOTES = "FABRICTUNE_RANKS"
STARTER = "FABRICTUNE_STARTER"

STOPPED = 75  # exit code, sysexits.h's EX_TEMPFAIL: what was trained is saved, and the same command goes on from there

# Files among the notes; every rank has one of its own besides.
STOP = "stop"  # train.py asks the ranks to save and stop
SPARE = "spare"  # room for a last word on a full disk; one a rank
FAILED = "failed"  # a rank has failed
ALIVE = "alive"  # touched by train.py as long as it lives
RESULT = "result.json"  # what rank 0 returns

PATIENCE = 3.0  # seconds that a rank gives itself to end by itself after another one has failed
SILENCE = 120.0  # seconds without train.py's touch until ranks on several nodes end; NFS may keep it back for 60
TWICE = 1.0  # seconds within which a second request to end is the first one, heard twice


class Stopped(SystemExit):
    """Training was asked to stop and has saved itself; unhandled, it ends the program with exit code STOPPED."""

    def __init__(self, message: str) -> None:
        super().__init__(STOPPED)
        self.message = message

    def __str__(self) -> str:
        return self.message


class Stop:
    """Whether training is to save and stop. `signal` is the number of the signal that said so to this process."""

    def __init__(self, note: Path | None = None) -> None:
        self.note = note
        self.signal: int | None = None

    def requested(self) -> bool:
        """Asked once a step on every rank; ranks may hear of it a step apart, so they have to agree on the answer."""
        return self.signal is not None or (self.note is not None and _exists(self.note))


@dataclass
class Note:
    """What a rank leaves about itself: where it runs, and how it ended if it could still say so."""

    number: int
    host: str
    pid: int
    started: float  # as psutil has it, since process ids are used again
    code: int | None = None  # exit code; null while it runs, and for ever if it was killed
    error: str | None = None
    message: str = ""
    another: bool = False  # whether another rank's end is the cause
    time: float = 0.0

    @property
    def failed(self) -> bool:
        return self.code not in (None, 0, STOPPED)


@dataclass
class Rank:
    """One of `count` ranks. What rank 0 puts into `results` before the block ends, `launching.launch` returns."""

    number: int
    count: int
    stop: Stop
    results: Any = None


def is_rank() -> bool:
    """Whether this process is a rank that `launching.launch` started."""
    return NOTES in os.environ


@contextmanager
def rank() -> Iterator[Rank]:
    """This process as the rank that it is; it ends with the block and never returns from it.

    An exception, once noted for train.py, is its end; all but rank 0 write into rank-K.log. SIGTERM asks it to save
    and stop; it ends where train.py or its launcher is gone, another rank has failed, or a later run has its notes.
    """
    notes = Path(os.environ[NOTES])
    me = psutil.Process()
    note = Note(int(os.environ["RANK"]), socket.gethostname(), me.pid, me.create_time())
    log = notes.parent / f"rank-{note.number}.log"
    if note.number:
        _write_into(log)
    _leave_note(notes, note)
    _spare(notes, note).write_bytes(b" " * 8192)
    stop = Stop(notes / STOP)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches train.py, which asks through its note
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # SLURM tells all of a job; train.py asks, as above
    signal.signal(signal.SIGTERM, lambda number, _: setattr(stop, "signal", number))
    threading.Thread(target=_watch, args=(notes, note), daemon=True).start()
    this = Rank(note.number, int(os.environ["WORLD_SIZE"]), stop)
    try:
        yield this
        if note.number == 0:
            record.write_json(notes / RESULT, this.results)
        _meet()
    except Stopped as stopped:
        with suppress(RuntimeError):  # its checkpoint is whole; whoever is missing tells its own story
            _meet()
        _end(notes, replace(note, code=STOPPED, message=stopped.message))
    except BaseException as error:
        _tell(error, log)
        _end(notes, replace(note, **_described(error)))
    _end(notes, replace(note, code=0))


@contextmanager
def stopping() -> Iterator[Stop]:
    """A Stop that SIGTERM and Ctrl-C set while the block runs; the second of them ends the program at once.

    It does so as KeyboardInterrupt, or as SystemExit after SIGTERM. Outside the main thread no signal arrives.
    """
    stop = Stop()
    asked = 0.0

    def hear(number: int, _: object) -> None:
        nonlocal asked
        if stop.signal is None:
            stop.signal, asked = number, time.monotonic()
        elif time.monotonic() - asked > TWICE:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    heard = [signal.SIGTERM, signal.SIGINT]
    if callable(signal.getsignal(signal.SIGUSR2)):  # submitit, which puts a SLURM job that runs out of time back into
        heard.append(signal.SIGUSR2)  # the queue, and ends it: that has to wait until it has saved
    known = {number: signal.signal(number, hear) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in known.items():
            signal.signal(number, handler)
        if stop.signal == signal.SIGUSR2:
            signal.raise_signal(signal.SIGUSR2)


def read_notes(notes: Path) -> list[Note]:
    """What the ranks that have begun left, by rank."""
    found = [msgspec.json.decode(path.read_bytes(), type=Note) for path in notes.glob("rank*.json")]
    return sorted(found, key=lambda note: note.number)


def _leave_note(notes: Path, note: Note) -> None:
    record.write_json(notes / f"rank{note.number}.json", asdict(note))


def _spare(notes: Path, note: Note) -> Path:
    return notes / f"{SPARE}{note.number}"


def _write_into(log: Path) -> None:
    """Sends what this process writes, libraries in C included, into the file."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(file, stream.fileno())
    os.close(file)


def _described(error: BaseException) -> dict[str, Any]:
    code = error.code if isinstance(error, SystemExit) else 1
    name = type(error).__name__
    words = " ".join(str(error).split())
    # What a user can cause is said in its own words; of anything else the kind of error matters.
    plain = isinstance(error, (ValueError, OSError, RuntimeError, ImportError)) and words
    return {
        "code": code if isinstance(code, int) else 1,
        "error": name,
        "message": words if plain else f"{name}: {words}",
        "another": _is_of_another(error),
    }


def _is_of_another(error: BaseException) -> bool:
    """Whether the error only says that another rank does not answer."""
    words = str(error)
    distributed = sys.modules.get("torch.distributed")
    if distributed and isinstance(error, distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and any(name in words for name in ("gloo", "NCCL", "closed by peer"))


def _tell(error: BaseException, log: Path) -> None:
    """Adds the traceback to the rank's log, and shows it where the error is no user's."""
    with suppress(OSError), log.open("a", encoding="utf-8") as file:
        traceback.print_exception(error, file=file)
    mine = isinstance(error, (ValueError, OSError, RuntimeError, ImportError, SystemExit))
    if os.environ["RANK"] == "0" and (os.environ.get("FABRICTUNE_TRACE") or not mine):
        traceback.print_exception(error)


def _meet() -> None:
    """Waits for the other ranks. Where one does not, torch with gloo now and then aborts it at its end."""
    distributed = sys.modules.get("torch.distributed")
    if distributed and distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def _end(notes: Path, note: Note) -> NoReturn:
    """Ends this process with the note's code, and without the teardown of torch, in which some ranks abort."""
    assert note.code is not None
    try:
        if _is_known(notes, note):
            _say_last(notes, note)
        _remove_temporary_folders()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
    finally:
        os._exit(note.code & 255)


def _say_last(notes: Path, note: Note) -> None:
    with suppress(OSError):
        _spare(notes, note).unlink(missing_ok=True)
    with suppress(OSError):  # without a word the exit code has to do
        _leave_note(notes, replace(note, time=time.time()))
        if note.failed:
            (notes / FAILED).touch()


def _remove_temporary_folders() -> None:
    """Does what os._exit keeps the interpreter from: W&B alone has two of them, from its import on."""
    for thing in gc.get_objects():
        if type(thing) is tempfile.TemporaryDirectory:
            with suppress(OSError):
                thing.cleanup()


def _watch(notes: Path, note: Note) -> None:
    """Ends this rank once nobody waits for it, or another rank has failed and this one waits for that one for ever."""
    launcher = os.getppid()
    touched, heard = _touched(notes), time.monotonic()
    failed = None
    while True:
        now = time.monotonic()
        if _touched(notes) != touched:
            touched, heard = _touched(notes), now
        if not _is_known(notes, note):  # train.py was killed and started anew, maybe before SILENCE was over
            _end(notes, replace(note, code=1))
        if os.getppid() != launcher or not _is_descendant():
            _end(notes, replace(note, code=1, message="its launcher was killed", another=True))
        if STARTER not in os.environ and now - heard > SILENCE:
            _end(notes, replace(note, code=1, message="train.py was killed", another=True))
        if failed is None and _exists(notes / FAILED):
            failed = now
        if failed is not None and now - failed > PATIENCE:
            _end(notes, replace(note, code=1, message="another rank failed", another=True))
        time.sleep(1)


def _touched(notes: Path) -> float:
    with suppress(OSError):  # a network file system may be away for a while
        return (notes / ALIVE).stat().st_mtime
    return 0.0


def _exists(path: Path) -> bool:
    """Whether it is there; False while a network file system cannot say."""
    with suppress(OSError):
        return path.exists()
    return False


def _is_known(notes: Path, note: Note) -> bool:
    """Whether this rank's note is still there and its own: a later run of train.py clears them and leaves others."""
    try:
        left = msgspec.json.decode((notes / f"rank{note.number}.json").read_bytes(), type=Note)
    except FileNotFoundError:
        return False
    except (OSError, msgspec.DecodeError):  # a network file system may be away for a while
        return True
    return (left.host, left.pid, left.started) == (note.host, note.pid, note.started)


def _is_descendant() -> bool:
    """Whether train.py is still above this process. What ssh starts, on this machine too, is below its server."""
    starter = os.environ.get(STARTER)
    return starter is None or int(starter) in [parent.pid for parent in psutil.Process().parents()]
