"""The steps of a run that were begun, as their run.json tells of them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fabrictune.command_line import MAIN, MANNER

Plain = Mapping[str, Any]


@dataclass(frozen=True)
class Step:
    """A step that was begun in this run, or in `main` for a point of a sweep. `run` is its run.json."""

    name: str  # of its folder in the run's, as evaluate/agentfabric
    folder: Path
    run: Plain
    is_shared: bool = False

    @property
    def is_finished(self) -> bool:
        return self.run.get("finished") is not None

    @property
    def command(self) -> str:
        words = self.run.get("command")
        return shlex.join(["python", *words]) if words else "(its run.json names no command)"

    @property
    def overrides(self) -> list[str]:
        """What was typed, of a sweep for this point, without how it was run."""
        typed = self.run["overrides"] if "overrides" in self.run else self.run.get("command", [])[1:]
        return [word for word in typed if "=" in word and not word.startswith(MANNER)]

    @property
    def is_scored(self) -> bool:
        return self.name.startswith("evaluate/") and self.is_finished and (self.folder / "scores.json").exists()


def steps(run: Path) -> Iterator[Step]:
    """The steps that were begun, in their order; the converted data of `main` where the run has none of its own.

    A folder that is only being deleted, as evaluate/.agentfabric.4711.old, is no step.
    """
    for name in ("convert", "train", "merge"):
        if (known := read(run / name / "run.json")) is not None:
            yield Step(name, run / name, known)
        elif name == "convert" and (shared := read(run.parent / MAIN / name / "run.json")) is not None:
            yield Step(name, run.parent / MAIN / name, shared, is_shared=True)
    for file in sorted(run.glob("evaluate/[!.]*/run.json")):
        yield Step(f"evaluate/{file.parent.name}", file.parent, read(file) or {})


def read(path: Path) -> Plain | None:
    """A JSON file of a run, None if it is not there."""
    if not path.exists():
        return None
    found: Plain = json.loads(path.read_text(encoding="utf-8"))
    return found
