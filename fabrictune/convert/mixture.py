"""Choosing rows, pure and seeded: a source sampled, near-duplicates kept together, train and test split.

A source's rows are numbered from 0. Whatever is drawn is drawn by `priorities`, one number a row that depends on the
seed, the purpose and the row's number alone, so that neither another source nor a row added at the end reshuffles the
others.
"""

from __future__ import annotations

import enum
import hashlib
import math
import re
import unicodedata
from dataclasses import dataclass, field

import numpy as np

from fabrictune.dialogue import Dialogue


class Part(enum.IntEnum):
    """What a row is for: to train on, to test on, to test on with a family that training never sees, or nothing.

    `general` are rows of general chat that are held back, to test how plain chat fares.
    """

    train = 0
    test = 1
    heldout = 2
    unused = 3
    general = 4


HELD_BACK = 20  # of a source's rows, one in so many may be held back


def priorities(rows: int, seed: int, purpose: str) -> np.ndarray:
    """A uniform number in [0, 1) for each row, (rows,) float64; the rows with the lowest are drawn first."""
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest))).random(rows)


def sample(rows: int, count: int | None, seed: int, purpose: str) -> np.ndarray:
    """The numbers of all rows in the order of being drawn, uniformly; only the first `count` if that is given."""
    return np.argsort(priorities(rows, seed, purpose), kind="stable")[:count]


def keys(dialogue: Dialogue) -> tuple[int, ...]:
    """64-bit keys of a dialogue's queries; dialogues that share one are near-duplicates.

    A query counts with the tools on offer, without case, punctuation, blanks and full-width forms. Of a dialogue that
    calls tools the queries that lead to a call count, else the first one: thanks and greetings recur everywhere.
    """
    offered = "\n".join(sorted(tool.name for tool in dialogue.tools))
    calling = [turn.query for turn in dialogue.turns if turn.calls]
    return tuple({_key(f"{offered}\n\n{_normal(query)}") for query in calling or [dialogue.turns[0].query]})


def _normal(query: str) -> str:
    folded = unicodedata.normalize("NFKC", query).casefold()
    return re.sub(r"[\W_]+", "", folded) or folded  # a query of punctuation alone is itself


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


@dataclass
class Sides:
    """The keys of the rows in the test set and in training, of all sources so far, (keys,) uint64 each.

    `heldout` is how many rows of held-out families may still be tested on, None for any number.
    """

    heldout: int | None = None
    tested: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    trained: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))


@dataclass(frozen=True)
class Rows:
    """What a split needs to know of a source's (n,) rows.

    `keys` (k,) uint64 are those of all rows, `owners` (k,) the row that each belongs to; `complete` (n,) bool says
    whether a row can be tested on, `heldout` (n,) bool whether its family is held out, `order` (n,) how rows are drawn.
    """

    keys: np.ndarray
    owners: np.ndarray
    complete: np.ndarray
    heldout: np.ndarray
    order: np.ndarray


def split(rows: Rows, test_ratio: float, sides: Sides) -> np.ndarray:
    """Each row's Part, (n,) int8; the keys of the rows used join `sides`.

    A share `test_ratio` of the rows of seen families, rounded up, is the test set, but one group at least is left to
    train on. Rows that share a key, directly or through others, make a group, which goes to one side whole: to the
    side that an earlier source chose for one of its keys, else to the test set if it is drawn, still fits in and is
    complete. A group with a held-out row is held out whole, and not used if an earlier source trained on its like.
    """
    _, group = np.unique(_leaders(rows), return_inverse=True)
    size = np.bincount(group)

    def has(marked: np.ndarray) -> np.ndarray:
        return np.bincount(group, marked, minlength=len(size)) > 0

    unseen = has(rows.heldout)
    trained = has(stands_in(rows, sides.trained))
    tested = has(stands_in(rows, sides.tested)) & ~unseen
    may_be_drawn = ~(unseen | tested | trained | has(~rows.complete))
    total = int(size[~unseen].sum())
    wanted, left = math.ceil(round(test_ratio * total, 9)) - int(size[tested].sum()), total - int(size[tested].sum())
    drawn_groups, first = np.unique(group[rows.order], return_index=True)
    for one in drawn_groups[np.argsort(first)]:
        if wanted <= 0:
            break
        if may_be_drawn[one] and size[one] <= min(wanted, left - 1):
            tested[one] = True
            wanted, left = wanted - int(size[one]), left - int(size[one])
    parts = np.where(tested[group], np.where(rows.complete, Part.test, Part.unused), Part.train).astype(np.int8)
    parts[unseen[group]] = Part.unused
    kept = rows.order[((unseen & ~trained)[group] & rows.complete)[rows.order]][: sides.heldout]
    parts[kept] = Part.heldout
    if sides.heldout is not None:
        sides.heldout -= len(kept)
    in_training = parts[rows.owners] == Part.train
    sides.trained = np.union1d(sides.trained, rows.keys[in_training])
    sides.tested = np.union1d(sides.tested, rows.keys[~in_training])
    return parts


def hold_back(rows: Rows, late: np.ndarray, most: int, sides: Sides) -> np.ndarray:
    """Which rows of a source that is only trained on are held back, (n,) bool; their keys join `sides`.

    They are the last `most` of the rows marked in `late` (n,) bool, but for those that cannot be tested on, those of a
    held-out family, and those that share a key with a row that an earlier source has tested or trained on. How many
    rows of this source are trained on makes no difference: training leaves out what shares a key with them.
    """
    last = rows.order[late[rows.order]][::-1][:most]
    held = np.zeros(len(rows.order), bool)
    held[last] = True
    held &= rows.complete & ~rows.heldout & ~stands_in(rows, sides.trained) & ~stands_in(rows, sides.tested)
    sides.tested = np.union1d(sides.tested, rows.keys[held[rows.owners]])
    return held


def beside(rows: Rows, sides: Sides) -> np.ndarray:
    """Each row's Part, (n,) int8, in a source that is only trained on; the keys of the rows used join `sides`.

    A row is not used if it has a key of a test row, or a held-out family.
    """
    parts = np.where(stands_in(rows, sides.tested) | rows.heldout, Part.unused, Part.train).astype(np.int8)
    sides.trained = np.union1d(sides.trained, rows.keys[parts[rows.owners] == Part.train])
    return parts


def stands_in(rows: Rows, side: np.ndarray) -> np.ndarray:
    """Whether each row has a key among those of a side, (n,) bool."""
    return np.bincount(rows.owners, np.isin(rows.keys, side), minlength=len(rows.complete)) > 0


def _leaders(rows: Rows) -> np.ndarray:
    """The number of one row of each row's group, (n,): the same for rows that share a key, directly or not."""
    leader = np.arange(len(rows.complete))

    def lead(row: int) -> int:
        while leader[row] != row:
            leader[row] = leader[leader[row]]
            row = leader[row]
        return row

    _, key, count = np.unique(rows.keys, return_inverse=True, return_counts=True)
    shared = np.flatnonzero(count[key] > 1)
    first: dict[int, int] = {}
    for row, number in zip(rows.owners[shared].tolist(), key[shared].tolist(), strict=True):
        leader[lead(row)] = lead(first.setdefault(number, row))
    return np.array([lead(row) for row in range(len(leader))], dtype=np.int64)
