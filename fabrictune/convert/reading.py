"""One source of a mix: its rows drawn, converted onto its shelf, and divided into train and test."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from fabrictune.convert import mixture, rows
from fabrictune.convert.keeping import Kept
from fabrictune.convert.mixture import Part, Sides
from fabrictune.convert.rows import Converted, Recipe, Reject, Row
from fabrictune.convert.shelf import Shelf
from fabrictune.convert.summary import Summary
from fabrictune.formats import captured, captured_conversations, captured_log
from fabrictune.log import bar, logger, progress
from fabrictune.sources import files

CHUNK = 128  # rows that a worker gets at once
FEW = 1000  # rows that are converted in this process, sooner than a worker would have started
MEASURED = 2000  # rows of each source, about, whose lengths make its histogram

Run = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]  # as map


@dataclass
class Reading:
    """A source while it is read: where its rows come from, its converted rows, and the Part that each has in the end.

    `rows` yields them in their order from the start, of a generator as many as are asked for (its argument).
    `held_back` is how many of them, at most, are kept from training to test general chat on.
    """

    name: str
    recipe: Recipe
    rows: Callable[[int], Iterator[Row]]
    is_generated: bool
    is_tested: bool
    held_back: int
    shelf: Shelf
    parts: np.ndarray = field(default_factory=lambda: np.empty(0, np.int8))

    @property
    def used(self) -> int:
        """How many rows are trained or tested on, those held back aside."""
        return len(self.places(Part.train, Part.test, Part.heldout))

    def places(self, *parts: Part) -> list[int]:
        """The places on the shelf of the rows that are for these parts."""
        places: list[int] = np.flatnonzero(np.isin(self.parts, parts)).tolist()
        return places


def file_rows(paths: Sequence[Path], are_captured: bool) -> Iterator[Row]:
    """The rows of the files, numbered through; of captured requests only the last of each conversation.

    A capture log may go on from file to file. Of several files one may be empty. Raises as `files.records` does.
    """
    records = _captured(paths) if are_captured else _records(paths, len(paths) > 1)
    for number, ((path, line), text) in enumerate(records):
        yield Row(number, str(path), line, text)


def _records(paths: Iterable[Path], may_be_empty: bool) -> Iterator[tuple[tuple[Path, int], str]]:
    """((file, number), text) of the files' records."""
    for path in paths:
        for line, text in file_records(path, may_be_empty):
            yield (path, line), text


def _captured(paths: Sequence[Path]) -> Iterator[tuple[tuple[Path, int], str]]:
    """The records that no later one of the same conversation covers: of the same file, or of the same log."""
    may_be_empty = len(paths) > 1
    was_log = False

    def goes_on(path: Path) -> bool:
        nonlocal was_log
        is_log = _is_log(path, may_be_empty)
        was_log = was_log if is_log is None else is_log
        return was_log

    for is_log, group in groupby(paths, goes_on):
        if is_log:
            yield from captured_conversations.conversations(_records(group, may_be_empty))
            continue
        for path in group:
            for line, text in captured.uncovered(file_records(path, may_be_empty)):
                yield (path, line), text


def _is_log(path: Path, may_be_empty: bool) -> bool | None:
    """Whether it is a capture log, by its first record that is not torn; None if it has none."""
    told = (captured_log.is_log(text) for _, text in file_records(path, may_be_empty))
    return next((is_log for is_log in told if is_log is not None), None)


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

    The rows that may be held back are drawn from the other end, until there are as many as the reading says; they and
    their near-duplicates do not count among those wanted. Rejects are counted and written as lines to `rejected`;
    `run` maps in worker processes.
    """
    shelf, own = reading.shelf, summary.sources[reading.name]
    drawn = own.rows if wanted is None else min(own.rows, wanted)
    recipe = replace(reading.recipe, measured_share=MEASURED / max(drawn, 1))
    order = mixture.sample(own.rows, None, seed, f"{reading.name}/count")
    place = np.argsort(order)
    twins = Kept()
    front, back = 0, own.rows  # what is drawn before the one and from the other on is converted
    good = [0, 0]
    while front < back:
        ahead = min(back - front, own.rows if wanted is None else _more(wanted, front, good[0]))
        behind = min(back - front - ahead, _more(reading.held_back, own.rows - back, good[1]))
        if not ahead + behind:
            break
        chosen = np.zeros(own.rows, bool)
        chosen[order[front : front + ahead]] = chosen[order[back - behind : back]] = True
        # A file that grows while it is read has rows beyond those counted; conversion.py refuses it at the end.
        picked = (row for row in reading.rows(own.rows) if row.number < own.rows and chosen[row.number])
        for kept, rejects in _converted(reading.name, recipe, picked, ahead + behind, run):
            doubles = {row.row: twin for row in kept if row.row and (twin := _twin(row, twins))}
            for row in kept:
                if row.row not in doubles:
                    shelf.add(row, heldout_families)
            for reject in _with_doubles(reading.name, rejects, doubles):
                summary.reject(reject)
                rejected.write(json.dumps(vars(reject)) + "\n")  # ASCII: it may be no valid UTF-8
        front, back = front + ahead, back - behind
        places = place[shelf.numbers]
        to_train = ~np.logical_or(*_held_back(reading, own.rows, seed, Sides()))
        good = [int((places[to_train] < front).sum()), int((places >= back).sum())]
    own.not_drawn = back - front


def _twin(row: Converted, twins: Kept) -> str | None:
    """Where a row of a capture log stands of which this one is a near-duplicate, None if it is none."""
    if row.likeness is None or row.row is None:
        return None
    return twins.twin(row.likeness, f"{row.row.file}:{row.row.line}")


def _with_doubles(name: str, rejects: Sequence[Reject], doubles: Mapping[Row, str]) -> Iterator[Reject]:
    """The rejects, and those of near-duplicates, which may have been kept in part before."""
    places = {(row.file, row.line) for row in doubles}
    yield from (reject for reject in rejects if (reject.file, reject.line) not in places)
    for row, twin in doubles.items():
        yield Reject(name, row.file, row.line, f"a near-duplicate: of the dialogue in {twin}", False, 0, row.text)


def _converted(
    name: str, recipe: Recipe, picked: Iterator[Row], total: int, run: Run
) -> Iterator[tuple[list[Converted], list[Reject]]]:
    """What became of the rows, chunk by chunk, behind a bar."""
    jobs = ((recipe, chunk) for chunk in _chunks(picked))
    results = map(rows.convert, jobs) if total <= FEW else run(rows.convert, jobs)
    with bar(f"converting {name}", total) as moving:
        for kept, rejects in results:
            yield kept, rejects
            moving.update(len(kept) + sum(not reject.in_part for reject in rejects))


def _more(wanted: int, done: int, good: int) -> int:
    """How many more rows it takes if the same share of them is good as of those done."""
    if good >= wanted:
        return 0
    return math.ceil((wanted - good) * done / max(good, 1)) if done else wanted


def _held_back(reading: Reading, rows: int, seed: int, sides: Sides) -> tuple[np.ndarray, np.ndarray]:
    """Which rows on the shelf are held back, and which others are their near-duplicates, (n,) bool each.

    Of the source's `rows` the last in the order of drawing may be held back, one in 20 of them all: a bound that does
    not depend on how many are wanted. The keys of those held back join `sides`.
    """
    shelf, purpose = reading.shelf, f"{reading.name}/count"
    if not reading.held_back:  # a source of agent data may have 400,000 rows, whose keys would be read for nothing
        return np.zeros(len(shelf), bool), np.zeros(len(shelf), bool)
    known = shelf.rows(np.arange(len(shelf)), mixture.priorities(rows, seed, purpose))
    late = np.isin(shelf.numbers, mixture.sample(rows, None, seed, purpose)[rows - rows // mixture.HELD_BACK :])
    held = mixture.hold_back(known, late, reading.held_back, sides)
    return held, mixture.stands_in(known, known.keys[held[known.owners]]) & ~held


def divide(reading: Reading, wanted: int | None, seed: int, test_ratio: float, sides: Sides, summary: Summary) -> None:
    """Gives each row on the shelf its Part; the keys of the rows used join `sides`."""
    shelf, own = reading.shelf, summary.sources[reading.name]
    draws = mixture.priorities(own.rows, seed, f"{reading.name}/count")
    order = np.argsort(draws[shelf.numbers], kind="stable")
    held, alike = _held_back(reading, own.rows, seed, sides)
    own.held_back = int(held.sum())
    kept = np.sort(order[~(held | alike)[order]][:wanted])
    if wanted is not None and len(kept) < wanted:
        logger.info(
            "%s: only %d of the %d rows wanted are there; all are used%s%s",
            *(reading.name, len(shelf), wanted, f", {own.held_back} of them held back" if own.held_back else ""),
            f", but for {alike.sum()} near-duplicates of those" if alike.any() else "",
        )
    chosen = shelf.rows(kept, mixture.priorities(own.rows, seed, f"{reading.name}/test"))
    parts = mixture.split(chosen, test_ratio, sides) if reading.is_tested else mixture.beside(chosen, sides)
    reading.parts = np.full(len(shelf), Part.unused, np.int8)
    reading.parts[held] = Part.general
    reading.parts[kept] = parts
    own.not_drawn += len(shelf) - len(kept) - own.held_back - int(alike.sum())
    own.used = reading.used
    own.not_used = len(kept) - own.used + int(alike.sum())
    summary.heldout_not_used += int((chosen.heldout & (parts == Part.unused)).sum())
    if reading.is_tested and test_ratio and not reading.places(Part.test, Part.heldout):
        logger.warning(
            "%s: no row is left to test on; of %d rows %d are complete, and near-duplicates go to one side whole",
            *(reading.name, len(kept), chosen.complete.sum()),
        )


def _chunks(picked: Iterator[Row]) -> Iterator[list[Row]]:
    while chunk := list(islice(picked, CHUNK)):
        yield chunk
