"""Tasks played at a model, many at a time: each ends as a row of predictions.jsonl, so a run can go on later."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fabrictune import log, record
from fabrictune.dialogue import Json
from fabrictune.evaluate.tasks import Asked, Task

HEARTBEAT = 4.0  # seconds after which the bar is shown again though no task has ended


async def play(
    tasks: Sequence[Task],
    asked: Asked,
    label: str,
    file: Path,
    *,
    concurrency: int,
    done: int,
    total: int,
    what: str = "turns",
) -> None:
    """Plays the tasks, `concurrency` at a time, and appends the row of each to the file when it ends.

    They are begun in their order, in which those that share a prompt are neighbours: the server has computed it then.
    The bar counts them, as `what` they are, from `done` to `total`. The first task that fails ends the others; rows
    written by then stay.
    Raises ConnectionError or RuntimeError if the endpoint fails, AssertionError naming the task for any other error.
    """
    waiting = iter(tasks)
    error: BaseException | None = None
    with file.open("a", encoding="ascii") as output, log.bar(f"{label}: {what}", total, done) as bar:

        async def work() -> None:
            for task in waiting:
                line = await _line(task, asked, label)
                output.write(line + "\n")
                output.flush()
                bar.update()

        beat = asyncio.create_task(_refresh(bar))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(concurrency, len(tasks))):
                    group.create_task(work())
        except BaseExceptionGroup as failed:
            error = failed.exceptions[0]
        finally:
            beat.cancel()
    if error is not None:
        raise error


def read(file: Path) -> list[dict[str, Json]]:
    """The rows of the file, none if it is not there; a last line that a crash cut short is removed from it.

    Raises ValueError naming the line that is no row.
    """
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    if lines[-1]:
        record.write_lines(file, lines[:-1])
    return [_row(file, number, line) for number, line in enumerate(lines[:-1], start=1)]


def _row(file: Path, number: int, line: str) -> dict[str, Json]:
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError("no JSON object")
    except ValueError as error:
        raise ValueError(
            f"{file}:{number}: not a row of an evaluation ({error}); delete the line and go on with resume=true, or "
            "begin anew with overwrite=true"
        ) from error
    return row


async def _line(task: Task, asked: Asked, label: str) -> str:
    """The task's row as JSON, in ASCII because a lone surrogate in a reply has no UTF-8."""
    known = {"model": label, "key": task.key, "dialogue": task.dialogue, "labels": dict(task.labels)}
    try:
        return json.dumps(known | await task.play(asked), ensure_ascii=True)
    except (ConnectionError, RuntimeError):
        raise
    except Exception as error:
        raise AssertionError(f"task '{task.key}' played at {label} raised {type(error).__name__}: {error}") from error


async def _refresh(bar: Any) -> None:
    while True:
        await asyncio.sleep(HEARTBEAT)
        bar.refresh()
