"""A source's converted rows, kept on the disk until all of them are known and the mixture chooses among them."""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Collection
from pathlib import Path

import numpy as np

from fabrictune.convert.mixture import Rows
from fabrictune.convert.rows import Converted


class Shelf:
    """Rows in an anonymous temporary file, which is gone however we end; in memory some 60 bytes a row."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed with the shelf
        self._ends = array("q", [0])
        self._numbers = array("q")
        self._keys = array("Q")
        self._owners = array("q")
        self._complete = bytearray()
        self._heldout = bytearray()

    def __enter__(self) -> Shelf:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, row: Converted, heldout_families: Collection[str]) -> None:
        """Puts the row at the end."""
        self._keys.extend(row.keys)
        self._owners.extend([len(self)] * len(row.keys))
        self._numbers.append(row.number)
        self._complete.append(row.is_complete)
        self._heldout.append(row.family in heldout_families)
        self._file.write(row.blob)
        self._ends.append(self._ends[-1] + len(row.blob))

    def blob(self, place: int) -> bytes:
        """The lines of the row at a place on the shelf."""
        self._file.flush()
        # Leaves the position where `add` writes alone.
        return os.pread(self._file.fileno(), self._ends[place + 1] - self._ends[place], self._ends[place])

    @property
    def numbers(self) -> np.ndarray:
        """Each row's number in its source, (n,) int64."""
        return np.array(self._numbers)

    def rows(self, kept: np.ndarray, priorities: np.ndarray) -> Rows:
        """What a split needs to know of the rows at the places `kept`; `priorities` are those of all the source's."""
        place = np.full(len(self), -1)
        place[kept] = np.arange(len(kept))
        owners = place[np.array(self._owners, np.int64)]
        return Rows(
            keys=np.array(self._keys, np.uint64)[owners >= 0],
            owners=owners[owners >= 0],
            complete=np.array(self._complete, bool)[kept],
            heldout=np.array(self._heldout, bool)[kept],
            order=np.argsort(priorities[self.numbers[kept]], kind="stable"),
        )
