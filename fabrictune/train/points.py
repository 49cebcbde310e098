"""The points of a sweep side by side: what each was trained with, and what came of it."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from fabrictune import record
from fabrictune.log import logger

FILE = "train.csv"


def show(home: Path, *, higher_is_better: bool, console: Console | None = None) -> None:
    """Prints the variants in `home` whose training is finished, the best first, and writes them as CSV there.

    Warns of those that another test set was used for, of those that cannot be read, and if there can be no table.
    """
    try:
        _show(home, higher_is_better, console or Console(width=120))
    except Exception as error:  # of whatever kind: the training of the point that asks for the table is finished
        logger.warning("the table of the points could not be made: %s: %s", type(error).__name__, error)


def _show(home: Path, higher_is_better: bool, console: Console) -> None:
    runs = _finished(home)
    if not runs:
        return
    tests = {run["settings"]["data"]["test.jsonl"] for run in runs.values()}
    if len(tests) > 1:
        logger.warning("not all variants in %s have the same test data: their losses cannot be compared", home)
    lines = _lines(runs)
    lines.sort(key=lambda line: -line["best"] if higher_is_better else line["best"])
    path = home / FILE
    with record.replacing(path) as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    console.print(_table(lines))
    logger.info("the variants that are trained, the best first, are in %s", path)


def _finished(home: Path) -> dict[str, dict[str, Any]]:
    """run.json of the trainings that are finished, by variant, but for those that cannot be read, which it warns of."""
    runs = {}
    for path in sorted(home.glob("*/train/run.json")):
        try:
            run = json.loads(path.read_text(encoding="utf-8"))
            if run["finished"] is None:
                continue
            _check(run)
        except FileNotFoundError:  # another job has begun it anew
            continue
        except (OSError, ValueError, LookupError, TypeError) as error:
            logger.warning("%s is not in the table of the points: %s: %s", path, type(error).__name__, error)
        else:
            runs[path.parent.parent.name] = run
    return runs


def _check(run: Mapping[str, Any]) -> None:
    """Raises LookupError, TypeError or ValueError if the run has not what its line needs, as one of older code."""
    settings, results = run["settings"], run["results"]
    _ = settings["data"]["test.jsonl"], settings["train"]["best_by"], float(results["best"])


def _lines(runs: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A line each: the settings in which the variants differ, and the results."""
    settings = {name: _flat(run["settings"]) for name, run in runs.items()}
    keys = dict.fromkeys(key for own in settings.values() for key in own)
    swept = [key for key in keys if len({json.dumps(own.get(key)) for own in settings.values()}) > 1]
    return [
        {"variant": name}
        | {key: settings[name].get(key) for key in swept if key != "train.best_by" and not key.startswith("data.")}
        | {"best_by": settings[name]["train.best_by"]}
        | {key: run["results"].get(key) for key in ("best", "best_step", "steps", "seconds")}
        for name, run in runs.items()
    ]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as typed: `lora.rank`."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _table(lines: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="Variants that are trained, the best first", box=box.SIMPLE)
    for column in lines[0]:
        table.add_column(column.replace("_", " "), justify="left" if column in ("variant", "best_by") else "right")
    for line in lines:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in line.values()))
    return table
