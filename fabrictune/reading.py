"""One source of a mix: its rows drawn, converted onto its shelf, and divided into what is trained on and tested on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from fabrictune import mixture, rows
from fabrictune.formats import captured
from fabrictune.log import bar, logger, progress
from fabrictune.mixture import Part, Sides
from fabrictune.rows import Recipe, Row
from fabrictune.shelf import Shelf
from fabrictune.sources import files
from fabrictune.summary import Summary

CHUNK = 128  # rows that a worker gets at once
FEW = 1000  # rows that are converted in this process, sooner than a worker would have started
MEASURED = 2000  # rows of each source, about, whose lengths make its histogram

Run = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]  # as map


@dataclass
class Reading:
    """A source while it is read: where its rows come from, its converted rows, and the Part that each has in the end.

    `rows` yields them in their order from the start, of a generator as many as are asked for (its argument).
    """

    name: str
    recipe: Recipe
    rows: Callable[[int], Iterator[Row]]
    is_generated: bool
    is_tested: bool
    shelf: Shelf
    parts: np.ndarray = field(default_factory=lambda: np.empty(0, np.int8))

    @property
    def used(self) -> int:
        return int((self.parts != Part.unused).sum())

    def places(self, *parts: Part) -> list[int]:
        """The places on the shelf of the rows that are for these parts."""
        return np.flatnonzero(np.isin(self.parts, parts)).tolist()


def file_rows(paths: Sequence[Path], are_captured: bool) -> Iterator[Row]:
    """The rows of the files, numbered through; of captured requests only the last of each conversation.

    Of several files one may be empty. Raises as `files.records` does.
    """
    number = 0
    for path in paths:
        records = file_records(path, may_be_empty=len(paths) > 1)
        for line, text in captured.uncovered(records) if are_captured else records:
            yield Row(number, str(path), line, text)
            number += 1


def file_records(path: Path, may_be_empty: bool) -> Iterator[tuple[int, str]]:
    """(number, text) of the file's records."""
    try:
        yield from files.records(path)
    except files.NoRecords:
        if not may_be_empty:
            raise


def count_rows(reading: Reading, wanted: int | None) -> int:
    """How many rows the source has; a generator has as many as are wanted."""
    if reading.is_generated:
        return wanted or 0
    return sum(1 for _ in progress(reading.rows(0), f"counting {reading.name}"))


def fill(
    reading: Reading,
    wanted: int | None,
    seed: int,
    heldout_families: Collection[str],
    summary: Summary,
    rejected: TextIO,
    run: Run,
) -> None:
    """Converts the rows onto the shelf: all of them, or those drawn until `wanted` are there or none is left.

    Rejects are counted and written as lines to `rejected`; `run` maps in worker processes.
    """
    shelf, own = reading.shelf, summary.sources[reading.name]
    drawn = own.rows if wanted is None else min(own.rows, wanted)
    recipe = replace(reading.recipe, measured_share=MEASURED / max(drawn, 1))
    order = mixture.sample(own.rows, None, seed, f"{reading.name}/count")
    done = 0
    while done < drawn:
        chosen = np.zeros(own.rows, bool)
        chosen[order[done:drawn]] = True
        picked = (row for row in reading.rows(own.rows) if chosen[row.number])
        jobs = ((recipe, chunk) for chunk in _chunks(picked))
        results = map(rows.convert, jobs) if drawn - done <= FEW else run(rows.convert, jobs)
        with bar(f"converting {reading.name}", drawn - done) as moving:
            for kept, rejects in results:
                for row in kept:
                    shelf.add(row, heldout_families)
                for reject in rejects:
                    summary.reject(reject)
                    rejected.write(json.dumps(vars(reject)) + "\n")  # ASCII: it may be no valid UTF-8
                moving.update(len(kept) + sum(not reject.in_part for reject in rejects))
        done = drawn
        if wanted is not None and len(shelf) < wanted:  # as many more as it takes if the same share of them is good
            drawn = min(own.rows, done + math.ceil((wanted - len(shelf)) * done / max(len(shelf), 1)))
    own.not_drawn = own.rows - done


def divide(reading: Reading, wanted: int | None, seed: int, test_ratio: float, sides: Sides, summary: Summary) -> None:
    """Gives each row on the shelf its Part; the keys of the rows used join `sides`."""
    shelf, own = reading.shelf, summary.sources[reading.name]
    drawing = mixture.priorities(own.rows, seed, f"{reading.name}/count")[shelf.numbers]
    kept = np.sort(np.argsort(drawing, kind="stable")[:wanted])
    if wanted is not None and len(kept) < wanted:
        logger.info("%s: only %d of the %d rows wanted are there; all are used", reading.name, len(kept), wanted)
    chosen = shelf.rows(kept, mixture.priorities(own.rows, seed, f"{reading.name}/test"))
    if reading.is_tested:
        parts = mixture.split(chosen, test_ratio, sides)
    else:
        parts = np.where(mixture.stands_in(chosen, sides.tested) | chosen.heldout, Part.unused, Part.train)
    reading.parts = np.full(len(shelf), Part.unused, np.int8)
    reading.parts[kept] = parts
    own.not_drawn += len(shelf) - len(kept)
    own.used = reading.used
    own.not_used = len(kept) - own.used
    summary.heldout_not_used += int((chosen.heldout & (parts == Part.unused)).sum())
    if reading.is_tested and test_ratio and not reading.places(Part.test, Part.heldout):
        logger.warning(
            "%s: no row is left to test on; of %d rows %d are complete, and near-duplicates go to one side whole",
            *(reading.name, len(kept), chosen.complete.sum()),
        )


def _chunks(picked: Iterator[Row]) -> Iterator[list[Row]]:
    while chunk := list(islice(picked, CHUNK)):
        yield chunk
