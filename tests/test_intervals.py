"""An interval is the percentile bootstrap's over dialogues, as SciPy computes it, and covers what it should."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, bootstrap

from fabrictune.evaluate import intervals

MEANS = np.array([False])


def interval(right, sizes, seed=0):
    """The interval of one score, of so many right of so many turns in each dialogue."""
    totals = np.array([right, sizes], dtype=float)[:, :, None]
    (draws,) = intervals.drawn([totals], MEANS, seed)
    return intervals.bounds(draws, (totals[1] > 0).sum(0))[0]


def test_the_interval_is_that_of_scipys_bootstrap_over_dialogues():
    generator = np.random.default_rng(3)
    sizes = generator.integers(1, 5, 60)
    right = generator.binomial(sizes, 0.4)
    found = bootstrap(
        (right, sizes), lambda a, b, axis: a.sum(axis) / b.sum(axis), paired=True, n_resamples=20000,
        method="percentile", rng=np.random.default_rng(4),
    ).confidence_interval  # fmt: skip
    assert interval(right, sizes) == pytest.approx((found.low, found.high), abs=0.01)


def test_the_interval_of_single_turns_is_the_binomials():
    expected = binom.ppf([0.025, 0.975], 100, 0.3) / 100
    assert interval([1] * 30 + [0] * 70, [1] * 100) == pytest.approx(tuple(expected), abs=0.0101)


def test_the_interval_covers_the_truth_in_95_of_100_runs():
    found = [interval(np.random.default_rng(seed).integers(0, 2, 80), [1] * 80) for seed in range(200)]
    covered = sum(low <= 0.5 <= high for low, high in found)
    assert 0.91 <= covered / 200 <= 0.985  # binomial noise of 200 runs around 0.95: 0.015


def test_a_perplexity_is_the_exponential_of_each_resamples_mean():
    totals = np.array([[3.0, 8.0, 1.0], [4.0, 2.0, 5.0]])[:, :, None]
    (means,) = intervals.drawn([totals], MEANS, 7)
    (perplexities,) = intervals.drawn([totals], ~MEANS, 7)
    assert means.std() > 0 and perplexities == pytest.approx(np.exp(means))


def test_many_dialogues_drawn_in_blocks_give_what_they_give_at_once(monkeypatch):
    right = np.random.default_rng(5).integers(0, 3, 40)
    at_once = interval(right, [2] * 40)
    monkeypatch.setattr(intervals, "DRAWN_AT_ONCE", 333)
    assert interval(right, [2] * 40) == at_once


def test_both_sides_of_a_comparison_draw_the_same_dialogues():
    totals = np.stack([np.arange(20.0), np.full(20, 30.0)])[:, :, None]
    same, other = intervals.drawn([totals, totals], MEANS, 0)
    assert np.array_equal(same, other) and not np.array_equal(same, intervals.drawn([totals], MEANS, 1)[0])


def test_of_fewer_than_two_dialogues_there_is_no_interval():
    assert all(map(math.isnan, interval([1], [2]))) and all(map(math.isnan, interval([1, 0], [2, 0])))
