"""The plan of a run: which dialogues each optimiser step takes, and how each rank's share of them becomes rows.

A batch is a set of dialogues, whatever the ranks, the rows and the packing. Everything follows from the arguments, so
that every rank and a resumed run see the same plan; an item is computed when it is asked for.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import astuple, dataclass

import numpy as np
from torch.utils.data import Dataset

from fabrictune.model.encoding import Encoded
from fabrictune.train import packing as layout
from fabrictune.train.packing import PADDING, TREE, Row
from fabrictune.train.tokens import Tokens

# Dialogues that an evaluation lays out together: enough to fill rows well, few enough to compare each with each.
WINDOW = 256


@dataclass(frozen=True)
class Share:
    """One rank's rows of a step.

    The others are of the whole step, over all ranks: the sum of its loss weights, the tokens of all rows, and the
    tokens of its exchanges one by one.
    """

    rows: tuple[Row, ...]
    weight: float
    tokens: int
    unshared: int


@dataclass(frozen=True)
class Counts:
    """What an epoch trains on. `unshared` are the tokens of the exchanges one by one, `supervised` have a loss weight.

    `too_long` exchanges and the dialogues of which nothing was left, `left_out`, are not trained on and not counted
    otherwise; `longer_than_row` ones are, in rows of their own.
    """

    dialogues: int
    exchanges: int
    unshared: int
    supervised: int
    too_long: int
    left_out: int
    longer_than_row: int


@dataclass(frozen=True)
class Estimate:
    """What some steps of the first epoch say of all.

    tokens: of all rows of an epoch. rows: of a step on one rank, on average. largest: the tokens of the longest row
    seen.
    """

    tokens: int
    rows: float
    largest: int


class Batches(Dataset[Share]):
    """Item i is the Share of rank i % ranks in step i // ranks; in a step all ranks have the same number of rows.

    A step takes `batch_size` dialogues, the last of an epoch what is left; each epoch has its own order. Dialogues with
    the same long system message come `together` at a time, or fewer, so that a batch shares it and still is mixed.
    """

    def __init__(
        self,
        tokens: Tokens,
        *,
        max_length: int,
        loss_weights: Mapping[str, float],
        batch_size: int,
        together: int,
        row_tokens: int,
        packing: str,
        ranks: int,
        epochs: float,
        seed: int,
    ) -> None:
        """Raises ValueError naming the file and the way out if no exchange can be trained on."""
        self.tokens = tokens
        self.max_length = max_length
        self.loss_weights = dict(loss_weights)
        self.batch_size = batch_size
        self.together = together
        self.row_tokens = row_tokens
        self.packing = packing
        self.ranks = ranks
        self.seed = seed
        self.numbers, self.starts = _fitting(tokens, max_length, "convert again")
        self.keys = tokens.keys[tokens.dialogues[self.numbers[self.starts[:-1]]]]
        self.steps_per_epoch = math.ceil(len(self.keys) / batch_size)
        self.steps = max(1, math.ceil(self.steps_per_epoch * epochs - 1e-9))
        self._epoch, self._order = -1, np.empty(0, np.int64)  # the order of the epoch last asked for

    def __len__(self) -> int:
        return self.steps * self.ranks

    def __getitem__(self, item: int) -> Share:
        if not 0 <= item < len(self):
            raise IndexError(f"item {item} of {len(self)}")
        step, rank = divmod(item, self.ranks)
        groups = self.groups(step)
        shares = layout.share_out(groups, self.row_tokens, self.ranks, self.packing)
        sequences = [sequence for group in groups for sequence in group]
        return Share(
            rows=tuple(layout.pack(row, self.packing == TREE) if row else PADDING for row in shares[rank]),
            weight=float(sum(sequence.weights[1:].sum(dtype=np.float64) for sequence in sequences)),
            tokens=sum(sum(self._sizes(share)) for share in shares),
            unshared=sum(map(len, sequences)),
        )

    def groups(self, step: int) -> list[list[Encoded]]:
        """The dialogues of a step, each as its exchanges."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._epoch != epoch:
            self._order, self._epoch = _ordered(self.keys, self.together, f"{self.seed}/batches/{epoch}"), epoch
        chosen = self._order[place * self.batch_size : (place + 1) * self.batch_size]
        return [
            _group(self.tokens, self.numbers[slice(*self.starts[one : one + 2])], self.loss_weights) for one in chosen
        ]

    def counts(self) -> Counts:
        """What an epoch trains on."""
        each = [astuple(one) for one in self.counts_by_source().values()]
        return Counts(*map(sum, zip(*each, strict=True)))

    def counts_by_source(self) -> dict[str, Counts]:
        """The same for each source; a dialogue counts where its first exchange belongs."""
        tokens, lengths = self.tokens, self.tokens.lengths
        every = np.arange(len(tokens))
        firsts = self.numbers[self.starts[:-1]]
        _, all_firsts = np.unique(tokens.dialogues, return_index=True)
        left_out = np.setdiff1d(tokens.dialogues, tokens.dialogues[firsts])
        columns = {
            "dialogues": tokens.by_source(firsts),
            "exchanges": tokens.by_source(self.numbers),
            "unshared": tokens.by_source(self.numbers, lengths[self.numbers]),
            "supervised": tokens.by_source(self.numbers, tokens.supervised(self.loss_weights)[self.numbers]),
            "too_long": tokens.by_source(every[lengths > self.max_length]),
            "left_out": tokens.by_source(all_firsts[left_out]),
            "longer_than_row": tokens.by_source(self.numbers[lengths[self.numbers] > self.row_tokens]),
        }
        return {
            source: Counts(**{name: column[source] for name, column in columns.items()})
            for source in tokens.source_names
        }

    def estimate(self, steps: int = 16) -> Estimate:
        """What so many steps, evenly over the first epoch, say of all."""
        chosen = sorted(set(np.linspace(0, self.steps_per_epoch - 1, steps).round().astype(int).tolist()))
        tokens = unshared = rows = largest = 0
        for step in chosen:
            groups = self.groups(step)
            sizes = [self._sizes(own) for own in layout.share_out(groups, self.row_tokens, self.ranks, self.packing)]
            unshared += sum(len(sequence) for group in groups for sequence in group)
            tokens += sum(map(sum, sizes))
            rows += len(sizes[0])
            largest = max(largest, *map(max, sizes))
        whole = int(self.tokens.lengths[self.numbers].sum())
        return Estimate(round(tokens / unshared * whole), rows / len(chosen), largest)

    def _sizes(self, rows: list[list[Encoded]]) -> list[int]:
        return [layout.size(row, self.packing == TREE) if row else len(PADDING) for row in rows]


def evaluation_rows(
    tokens: Tokens,
    *,
    max_length: int,
    loss_weights: Mapping[str, float],
    row_tokens: int,
    packing: str = TREE,
    dialogues: int | None = None,
) -> list[Row]:
    """All exchanges that fit `max_length`, or those of at most `dialogues` dialogues evenly over the file, as rows.

    Raises ValueError naming the file and the way out if there is none.
    """
    way_out = (
        "nothing was kept for tests: general chat, and rows whose last call has no result (xLAM), are only trained on; "
        "if there are other rows raise data.test_ratio, else add a source such as '+data.mix.more={source: synthetic, "
        "count: 500}', and convert again with overwrite=true"
    )
    numbers, starts = _fitting(tokens, max_length, way_out)
    # Evenly over the file, so that seen and unseen tools both count.
    step = 1 if dialogues is None else max(1, math.ceil((len(starts) - 1) / dialogues))
    chosen = np.arange(0, len(starts) - 1, step)
    keys = tokens.keys[tokens.dialogues[numbers[starts[chosen]]]]
    chosen = chosen[np.argsort(keys, kind="stable")]
    rows = []
    for start in range(0, len(chosen), WINDOW):
        groups = [
            _group(tokens, numbers[slice(*starts[one : one + 2])], loss_weights) for one in chosen[start:][:WINDOW]
        ]
        (own,) = layout.share_out(groups, row_tokens, 1, packing)
        rows += [layout.pack(row, packing == TREE) for row in own]
    return rows


def _fitting(tokens: Tokens, max_length: int, if_empty: str) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the exchanges that fit, dialogue by dialogue, and where each dialogue starts among them.

    The starts (D + 1,) end with the number of exchanges. Raises ValueError if there is none.
    """
    if not len(tokens):
        raise ValueError(f"{tokens.path} is empty; {if_empty}")
    numbers = np.flatnonzero(tokens.lengths <= max_length)
    if not len(numbers):
        raise ValueError(
            f"{tokens.path}: none of its {len(tokens)} exchanges fits data.max_length={max_length} tokens, "
            f"the shortest has {tokens.lengths.min()}; raise it"
        )
    numbers = numbers[np.argsort(tokens.dialogues[numbers], kind="stable")]
    owners = tokens.dialogues[numbers]
    return numbers, np.r_[0, np.flatnonzero(np.diff(owners)) + 1, len(numbers)]


def _group(tokens: Tokens, numbers: np.ndarray, loss_weights: Mapping[str, float]) -> list[Encoded]:
    return [tokens.encoded(int(number), loss_weights) for number in numbers]


def _ordered(keys: np.ndarray, together: int, seed: str) -> np.ndarray:
    """(D,) the dialogues in the order of an epoch, given their keys, of which 0 is none.

    Dialogues with one key are drawn into chunks of `together`, and the chunks, of one dialogue where there is no key,
    are in random order.
    """
    generator = np.random.default_rng(random.Random(seed).getrandbits(128))
    drawn = generator.permutation(len(keys))
    drawn = drawn[np.argsort(keys[drawn], kind="stable")]
    sorted_keys, places = keys[drawn], np.arange(len(drawn))
    is_first = np.r_[True, sorted_keys[1:] != sorted_keys[:-1]]
    within = places - np.maximum.accumulate(np.where(is_first, places, 0))
    begins = is_first | (within % together == 0) | (sorted_keys == 0)
    chunks = np.cumsum(begins) - 1
    return drawn[np.argsort(generator.permutation(chunks[-1] + 1)[chunks], kind="stable")]
