"""Prefix trees: sequences that start alike are laid out so that each distinct prefix is computed once.

The sequences of a row are sorted and written one after the other, each without what it shares with the one before it.
A token's position id is its depth in the tree, and it attends to its ancestors only, which is the rule
`key <= query < end_of_subtree[key]`. The loss and its gradients equal those of the separate sequences.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fabrictune.model.encoding import Encoded

TREE, FLAT, NONE = "tree", "flat", "none"
PACKINGS = (TREE, FLAT, NONE)  # prefixes shared; several sequences a row, nothing shared; a sequence a row
# Between two bounds on the tokens of a row this far apart, as a share of them, no better balance is looked for.
BALANCE = 0.01


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
    term_sources, term_sequences (N,): the data source and the exchange that the term belongs to.
    """

    ids: np.ndarray
    positions: np.ndarray
    subtree_end: np.ndarray
    sources: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    segments: tuple[Segment, ...]
    term_sources: np.ndarray
    term_sequences: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


def pack(sequences: Sequence[Encoded], shared: bool = True) -> Row:
    """The sequences as one row. Every token with a weight becomes one loss term, also where sequences share it.

    A sequence's first token is none: there is nothing to predict it from.
    With `shared` false nothing is computed once for several: they stand in their order, each from its first token on.
    """
    ordered = sorted(sequences, key=_by_bytes) if shared else list(sequences)
    overlaps = _overlaps(ordered) if shared else [0] * len(ordered)
    length = sum(map(len, ordered)) - sum(overlaps)
    ids, positions, subtree_end = (np.empty(length, np.int64) for _ in range(3))
    segments, terms = [], []
    path = np.empty(0, np.int64)  # row indices of the sequence last written, from its first token to its last
    start = 0
    for sequence, overlap in zip(ordered, overlaps, strict=True):
        end = start + len(sequence) - overlap
        subtree_end[path[overlap:]] = start
        prefix = path[:overlap]
        path = np.concatenate([prefix, np.arange(start, end)])
        ids[start:end] = sequence.ids[overlap:]
        positions[start:end] = np.arange(overlap, len(sequence))
        if end > start:
            segments.append(Segment(prefix, start, end))
        terms.append(_terms(sequence, path))
        start = end
    subtree_end[path] = start
    sources, targets, weights, term_sources, term_sequences = (
        np.concatenate([part[field] for part in (_NO_TERMS, *terms)]) for field in range(5)
    )
    return Row(ids, positions, subtree_end, sources, targets, weights, tuple(segments), term_sources, term_sequences)


_NO_TERMS = (*(np.empty(0, np.int64) for _ in range(2)), np.empty(0, np.float32), *(np.empty(0, np.int64),) * 2)


def _terms(sequence: Encoded, path: np.ndarray) -> tuple[np.ndarray, ...]:
    """The loss terms of a sequence whose tokens lie at `path`: sources, targets, weights, data source, exchange."""
    places = np.flatnonzero(sequence.weights[1:]) + 1
    return (
        path[places - 1],
        sequence.ids[places].astype(np.int64),
        sequence.weights[places].astype(np.float32),
        np.full(len(places), sequence.source, np.int64),
        np.full(len(places), sequence.number, np.int64),
    )


def size(sequences: Iterable[Encoded], shared: bool = True) -> int:
    """The number of tokens of the row that `pack` makes of the sequences."""
    ordered = sorted(sequences, key=_by_bytes) if shared else list(sequences)
    return sum(map(len, ordered)) - (sum(_overlaps(ordered)) if shared else 0)


def share_out(
    groups: Sequence[Sequence[Encoded]], row_tokens: int, ranks: int = 1, packing: str = TREE
) -> list[list[list[Encoded]]]:
    """For each rank its rows, for each row its sequences; all ranks have the same number of rows, some of them empty.

    A row has at most `row_tokens` tokens as `packing` lays them out. The sequences of a group (a dialogue's exchanges)
    stay in one row, and groups that start alike go together, unless they are too large for it; a single sequence
    longer than `row_tokens` makes a row of its own. Rows are as few as the ranks can share evenly, and about equal.
    Raises ValueError for a packing that there is none of.
    """
    if packing not in PACKINGS:
        raise ValueError(f"train.packing is '{packing}'; choose from {', '.join(PACKINGS)}")
    if packing == TREE:
        units = [unit for group in groups for unit in _divided(list(group), row_tokens)]
    else:
        units = [[sequence] for group in groups for sequence in group]
    sizes = np.array([size(unit, packing == TREE) for unit in units], np.int64)
    if packing == NONE:
        rows, loads = [[unit] for unit in range(len(units))], sizes.tolist()
    else:
        rows, loads = _balanced(sizes, _alike(units, packing == TREE), row_tokens, ranks)
    return [
        [[sequence for unit in row for sequence in units[unit]] for row in own] for own in _dealt(rows, loads, ranks)
    ]


def _divided(group: list[Encoded], row_tokens: int) -> Iterator[list[Encoded]]:
    """The group, in pieces that fit a row if it does not; a piece of one sequence may be longer still."""
    if size(group) <= row_tokens:
        yield group
        return
    piece: list[Encoded] = []
    for sequence in group:
        if piece and size([*piece, sequence]) > row_tokens:
            yield piece
            piece = []
        piece.append(sequence)
    yield piece


def _alike(units: list[list[Encoded]], shared: bool) -> np.ndarray:
    """(U, U) tokens that two units have in common at least: the prefix that their first sequences share."""
    common = np.zeros((len(units), len(units)), np.int64)
    if not shared:
        return common
    firsts = [unit[0] for unit in units]
    order = sorted(range(len(units)), key=lambda unit: _by_bytes(firsts[unit]))
    overlaps = np.array(_overlaps([firsts[unit] for unit in order]), np.int64)
    # Of sequences in this order, two have in common what all neighbours between them have.
    for place in range(len(order) - 1):
        common[order[place], order[place + 1 :]] = np.minimum.accumulate(overlaps[place + 1 :])
    return np.maximum(common, common.T)


def _balanced(sizes: np.ndarray, alike: np.ndarray, row_tokens: int, ranks: int) -> tuple[list[list[int]], list[int]]:
    """The units of each row and the tokens of each row at most.

    One rank gets as few tokens in all as there can be. Several wait for the one with most, so that the bound on a row
    is lowered as long as no further row is needed (Coffman, Garey and Johnson's multifit, where a unit costs what a
    row grows by it), unless spreading the units evenly does better.
    """
    order = _largest_first(sizes, alike)
    best = _filled(order, sizes, alike, row_tokens)
    if ranks == 1:
        return best
    allowed = math.ceil(len(best[0]) / ranks) * ranks
    low, high = int(sizes.max(initial=1)) - 1, max(best[1], default=0)
    while high - low > max(1, BALANCE * high):
        middle = (low + high) // 2
        filled = _filled(order, sizes, alike, middle)
        if len(filled[0]) <= allowed:
            best, high = filled, max(filled[1])
        else:
            low = middle
    even = _spread(sizes, alike, allowed)
    return even if max(even[1], default=0) < max(best[1], default=0) else best


def _spread(sizes: np.ndarray, alike: np.ndarray, count: int) -> tuple[list[list[int]], list[int]]:
    """Each unit, large ones first, in that of `count` rows which has least with it (Graham's longest time first).

    Where nothing is shared this is the better balance; what is shared it spreads too. Returns as `_filled` does.
    """
    rows: list[list[int]] = [[] for _ in range(count)]
    loads = np.zeros(count, np.int64)
    nearest = np.zeros((count, len(sizes)), np.int64)
    for unit in np.argsort(-sizes, kind="stable").tolist():
        after = loads + sizes[unit] - nearest[:, unit]
        row = int(after.argmin())
        loads[row] = after[row]
        rows[row].append(unit)
        np.maximum(nearest[row], alike[unit], out=nearest[row])
    return rows, loads.tolist()


def _largest_first(sizes: np.ndarray, alike: np.ndarray) -> list[int]:
    """The units in the order of being placed: a cluster of those that start alike after the other, large ones first."""
    left = set(np.argsort(-sizes, kind="stable").tolist())
    order: list[int] = []
    clusters = []
    for unit in np.argsort(-sizes, kind="stable").tolist():
        if unit not in left:
            continue
        # A quarter of a unit must be what the others have as well, or there is little to be won.
        related = [other for other in np.flatnonzero(4 * alike[unit] >= sizes).tolist() if other in left]
        cluster = sorted({unit, *related}, key=lambda one: (-sizes[one], one))
        left -= set(cluster)
        clusters.append((sizes[cluster].sum() - sum(alike[unit, other] for other in cluster if other != unit), cluster))
    for _, cluster in sorted(clusters, key=lambda one: -one[0]):
        order += cluster
    return order


def _filled(order: list[int], sizes: np.ndarray, alike: np.ndarray, bound: int) -> tuple[list[list[int]], list[int]]:
    """Each unit in that row which grows least by it, of those that stay within the bound, or in a new row.

    Returns the rows' units and tokens. What rows have in common with a unit is counted by its nearest relative there,
    so that a row's tokens are what is returned or fewer.
    """
    rows: list[list[int]] = []
    loads = np.zeros(len(order), np.int64)
    nearest = np.zeros((len(order), len(sizes)), np.int64)  # of each row, what it has in common with each unit
    for unit in order:
        growth = sizes[unit] - nearest[: len(rows), unit]
        after = loads[: len(rows)] + growth
        fitting = np.flatnonzero(after <= bound)
        if len(fitting):
            # The fullest of those that grow least.
            row = int(fitting[np.lexsort((-after[fitting], growth[fitting]))[0]])
            loads[row] = after[row]
            rows[row].append(unit)
        else:
            row = len(rows)
            loads[row] = sizes[unit]
            rows.append([unit])
        np.maximum(nearest[row], alike[unit], out=nearest[row])
    return rows, loads[: len(rows)].tolist()


def _dealt(rows: list[list[int]], loads: list[int], ranks: int) -> list[list[list[int]]]:
    """The rows of each rank: rows of about one size at a time, the largest of them to the rank with least so far."""
    order = sorted(range(len(rows)), key=lambda row: -loads[row])
    dealt: list[list[list[int]]] = [[] for _ in range(ranks)]
    tokens = [0] * ranks
    for start in range(0, max(len(order), 1), ranks):
        least = sorted(range(ranks), key=lambda rank: tokens[rank])
        for place, rank in enumerate(least, start):
            dealt[rank].append(rows[order[place]] if place < len(order) else [])
            tokens[rank] += loads[order[place]] if place < len(order) else 0
    return dealt


def _by_bytes(encoded: Encoded) -> bytes:
    """A sort key under which sequences with a common prefix are neighbours, as they are in any order by element."""
    return encoded.ids.astype(np.int64, copy=False).tobytes()


def _overlaps(ordered: Sequence[Encoded]) -> list[int]:
    """The tokens that each sequence has in common with the one before it."""
    none = np.empty(0, np.int64)
    before = [none, *(sequence.ids for sequence in ordered[:-1])]
    return [common_prefix(one, sequence.ids) for one, sequence in zip(before, ordered, strict=False)]


def common_prefix(one: np.ndarray, other: np.ndarray) -> int:
    """How many tokens the two start with alike."""
    length = min(len(one), len(other))
    if not length:
        return 0
    differing = one[:length] != other[:length]
    first = int(differing.argmax())
    return first if differing[first] else length


# A row without loss terms, for a rank that has fewer rows than others: all must compute as many, to exchange weights.
PADDING = pack([Encoded(np.zeros(1, np.int64), np.zeros(1, np.float32))])
