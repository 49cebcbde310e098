"""Lengths counted in fixed memory, and the histogram of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Histogram:
    """Lengths of one source. `counts[i]` are those from `edges[i]` up to, not including, `edges[i + 1]`.

    The last interval may be wider than the others: it then holds the few that are far longer than the rest.
    """

    unit: str  # "tokens" or "characters"
    edges: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    mean: float = 0.0
    p50: int = 0
    p95: int = 0
    max: int = 0

    @property
    def apart(self) -> int:
        """How many stand in a last interval that is wider than the others; 0 if it is as wide."""
        if len(self.counts) < 2 or self.edges[-1] - self.edges[-2] <= self.edges[1] - self.edges[0]:
            return 0
        return self.counts[-1]


# A length below 256 has a bin of its own; above, each doubling is cut into 128 bins. 40 bits hold a terabyte of text.
_FINE = 128
_BINS = _FINE * (40 - 8 + 2)
_STARTS = np.array([(i % _FINE + _FINE) << (i // _FINE - 1) if i >= _FINE else i for i in range(_BINS + 1)])
_BARS = 40
_TAIL = 0.005  # the share of rows that may share one bar, where the longest are far from the rest
REACH = 2.5  # how far a chart's axis is stretched to show max_length, in widths of what it would show without


class Lengths:
    """Lengths counted in fixed memory (34 KiB), however many are added.

    The quantiles are exact below 256 and within 1/256 of the true value above. Counts, mean and maximum are exact.
    """

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS, dtype=np.int64)
        self._sum = 0
        self._max = 0

    def add(self, value: int) -> None:
        """Counts one length from 0 up to 2**40 - 1."""
        assert value >= 0, value
        shift = max(0, value.bit_length() - 8)
        self._counts[shift * _FINE + (value >> shift)] += 1
        self._sum += value
        self._max = max(self._max, value)

    @property
    def count(self) -> int:
        return int(self._counts.sum())

    def _quantile(self, share: float) -> int:
        """A length that `share` of the lengths do not exceed: the middle of the bin that holds the smallest such."""
        rank = max(1, int(np.ceil(share * self.count)))
        place = int(np.searchsorted(np.cumsum(self._counts), rank))
        return min(int(_STARTS[place] + _STARTS[place + 1]) // 2, self._max)

    def histogram(self, unit: str, mark: int = 0) -> Histogram:
        """The lengths in at most 41 intervals, of which the last may be wide; even ones reach `mark` if it is near.

        The even ones' edges are multiples of a power of two, so that each is the edge of a fine bin too.
        """
        if not self.count:
            return Histogram(unit)
        end = self._end(mark)
        width = 1 << (-(-end // _BARS) - 1).bit_length()
        edges = list(range(0, -(-end // width) * width + 1, width))
        below = np.append(0, np.cumsum(self._counts))[np.searchsorted(_STARTS, edges)]
        counts = [int(count) for count in np.diff(below)]
        if self._max >= edges[-1]:
            edges.append(self._max + 1)
            counts.append(self.count - int(below[-1]))
        mean = self._sum / self.count
        return Histogram(unit, tuple(edges), tuple(counts), mean, self._quantile(0.5), self._quantile(0.95), self._max)

    def _end(self, mark: int) -> int:
        """Where the even intervals end: behind the longest, or before it where only a few lie far out."""
        common = self._quantile(1 - _TAIL)
        if self._max <= 2 * common:
            return self._max + 1
        return max(common + 1, min(mark, self._max + 1) if mark <= REACH * common else 0)
