"""95 % intervals of scores: the percentile bootstrap over dialogues, as arrays.

Dialogues are drawn anew, with all of their rows, because turns of one dialogue are not independent; a score is the sum
over the sum of counts, so long dialogues weigh as much as they do in the score itself. A score that is 0 or 1 in every
dialogue has an interval of no width, which says little when the dialogues are few.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

# scipy.stats.bootstrap takes 10 ms for one measure of 300 dialogues, so 24 s of processor time for 30 measures in the
# 80 cells of two models. Here a cell is drawn once for all of its measures: 12 ms.
RESAMPLES = 2000
TAILS = (0.025, 0.975)
DRAWN_AT_ONCE = 1 << 22  # dialogues, which bounds the memory at about 100 MB however many there are

Array = NDArray[np.float64]


def drawn(sides: Sequence[Array], are_perplexities: NDArray[np.bool_], seed: int) -> list[Array]:
    """The statistic of each side, its totals (2, D, M), in each resample (RESAMPLES, M): the same dialogues for all."""
    found: list[list[Array]] = [[] for _ in sides]
    for weights in _weights(sides[0].shape[1], seed):
        for side, blocks in zip(sides, found, strict=True):
            blocks.append(statistic(weights @ side, are_perplexities))
    return [np.concatenate(blocks) for blocks in found]


def _weights(dialogues: int, seed: int) -> Iterator[Array]:
    """How often each dialogue is drawn, (resamples, D), in blocks that have RESAMPLES resamples together."""
    generator = np.random.default_rng(random.Random(f"{seed}/intervals").getrandbits(128))
    block = max(1, DRAWN_AT_ONCE // dialogues)
    for start in range(0, RESAMPLES, block):
        size = min(block, RESAMPLES - start)
        drawn = generator.integers(dialogues, size=(size, dialogues)) + dialogues * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * dialogues).reshape(size, dialogues).astype(np.float64)


def statistic(totals: Array, are_perplexities: NDArray[np.bool_]) -> Array:
    """The scores (..., M) of sums and counts (2, ..., M); NaN where the count is 0."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        means = totals[0] / totals[1]
        return np.where(are_perplexities, np.exp(means), means)


def bounds(draws: Array, dialogues: NDArray[np.int64]) -> list[tuple[float, float]]:
    """The interval of each measure's draws (RESAMPLES, M); NaN where fewer than two dialogues have the measure.

    Resamples without any dialogue that has it say nothing of it. A draw that is infinite leaves no interval either.
    """
    found = []
    for column, having in zip(draws.T, dialogues, strict=True):
        said = column[~np.isnan(column)]
        sure = having > 1 and said.size and np.isfinite(said).all()
        low, high = np.quantile(said, TAILS) if sure else (math.nan, math.nan)
        found.append((float(low), float(high)))
    return found
