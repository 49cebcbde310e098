"""Prefix trees: sequences that start alike are laid out so that each distinct prefix is computed once.

The sequences of a row are sorted and written one after the other, each without what it shares with the one before it.
A token's position id is its depth in the tree, and it attends to its ancestors only, which is the rule
`key <= query < end_of_subtree[key]`. The loss and its gradients equal those of the separate sequences.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fabrictune.encoding import Encoded

OPEN_ROWS = 4  # rows that may still grow


@dataclass(frozen=True)
class Segment:
    """A run of new tokens at [start, end) of a row, after the tokens at `prefix` (P,), which are its ancestors."""

    prefix: np.ndarray
    start: int
    end: int


@dataclass(frozen=True)
class Row:
    """A packed row of T tokens with N loss terms.

    ids, positions (T,): tokens and their depths. subtree_end (T,): one past the last descendant of each token.
    sources, targets, weights (N,): the token `targets[n]` is predicted at row index `sources[n]`, with that weight.
    """

    ids: np.ndarray
    positions: np.ndarray
    subtree_end: np.ndarray
    sources: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    segments: tuple[Segment, ...]

    def __len__(self) -> int:
        return len(self.ids)


def pack(sequences: Sequence[Encoded]) -> Row:
    """The sequences as one row. Every token with a weight becomes one loss term, also where sequences share it."""
    ids: list[int] = []
    positions: list[int] = []
    subtree_end: list[int] = []
    terms: list[tuple[int, int, float]] = []
    segments = []
    path: list[int] = []  # row indices of the sequence last written, from its first token to its last
    before = np.array([], np.int64)
    for sequence in sorted(sequences, key=_by_bytes):
        shared = common_prefix(before, sequence.ids)
        for index in path[shared:]:
            subtree_end[index] = len(ids)
        prefix, start = path[:shared], len(ids)
        fresh = range(shared, len(sequence))
        path = prefix + list(range(start, start + len(fresh)))
        ids.extend(sequence.ids[shared:].tolist())
        positions.extend(fresh)
        subtree_end.extend([0] * len(fresh))
        if fresh:
            segments.append(Segment(np.array(prefix, np.int64), start, len(ids)))
        weighted = np.flatnonzero(sequence.weights)
        terms.extend((path[t - 1], int(sequence.ids[t]), float(sequence.weights[t])) for t in weighted)
        before = sequence.ids
    for index in path:
        subtree_end[index] = len(ids)
    sources, targets, weights = zip(*terms, strict=True) if terms else ((), (), ())
    return Row(
        np.array(ids, np.int64),
        np.array(positions, np.int64),
        np.array(subtree_end, np.int64),
        np.array(sources, np.int64),
        np.array(targets, np.int64),
        np.array(weights, np.float32),
        tuple(segments),
    )


def size(sequences: Iterable[Encoded]) -> int:
    """The number of tokens of the row that `pack` makes of the sequences."""
    total, before = 0, np.array([], np.int64)
    for sequence in sorted(sequences, key=_by_bytes):
        total += len(sequence) - common_prefix(before, sequence.ids)
        before = sequence.ids
    return total


def fill(groups: Iterable[Sequence[Encoded]], row_tokens: int) -> Iterator[Row]:
    """Rows of at most `row_tokens` tokens from groups (the exchanges of a dialogue), taken in order.

    Each group joins that one of the last few rows that grows least by it, which is one that shares its prefix. A
    group too large for a row is divided between exchanges, never inside one; a single exchange longer than
    `row_tokens` makes a row of its own.
    """
    rows: list[tuple[int, list[Encoded]]] = []  # (size, sequences), the oldest first
    for group in groups:
        for part in [list(group)] if size(group) <= row_tokens else [[sequence] for sequence in group]:
            grown = [(size([*sequences, *part]), place) for place, (_, sequences) in enumerate(rows)]
            fitting = [(after - rows[place][0], after, place) for after, place in grown if after <= row_tokens]
            if fitting:
                _, after, place = min(fitting)
                rows[place] = (after, [*rows[place][1], *part])
                continue
            rows.append((size(part), part))
            if len(rows) > OPEN_ROWS:
                yield pack(rows.pop(0)[1])
    yield from (pack(sequences) for _, sequences in rows)


def _by_bytes(encoded: Encoded) -> bytes:
    """A sort key under which sequences with a common prefix are neighbours, as they are in any order by element."""
    return encoded.ids.tobytes()


def common_prefix(one: np.ndarray, other: np.ndarray) -> int:
    length = min(len(one), len(other))
    differing = np.flatnonzero(one[:length] != other[:length])
    return int(differing[0]) if len(differing) else length
