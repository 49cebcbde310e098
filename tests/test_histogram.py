"""Lengths are counted in fixed memory, and their histogram says what numpy says of all of them."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabrictune.convert.histogram import Histogram, Lengths


def counted(values: list[int]) -> Lengths:
    lengths = Lengths()
    for value in values:
        lengths.add(value)
    return lengths


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).lognormal(6, 1, 5000).astype(int),
        np.random.default_rng(1).integers(0, 256, 777),
        np.random.default_rng(2).integers(0, 3, 1000),
        np.random.default_rng(3).pareto(0.7, 3000).astype(int),
        np.full(100, 123_456_789),
    ],
    ids=["lognormal", "small", "tiny", "heavy tail", "one value"],
)
def test_quantiles_mean_and_maximum_agree_with_numpy(values: np.ndarray) -> None:
    histogram = counted(values.tolist()).histogram("tokens")
    assert histogram.mean == pytest.approx(values.mean(), rel=1e-12)
    assert histogram.max == values.max()
    for ours, share in ((histogram.p50, 0.5), (histogram.p95, 0.95)):
        true = np.quantile(values, share, method="inverted_cdf")
        assert abs(ours - true) <= (true / 256 if true >= 256 else 0)


LENGTHS = st.lists(st.one_of(st.integers(0, 600), st.integers(0, 2**40 - 1)), min_size=1, max_size=60)


@given(LENGTHS, st.integers(0, 5000))
@settings(deadline=None)
def test_a_histogram_counts_every_length_where_it_belongs(values: list[int], mark: int) -> None:
    histogram = counted(values).histogram("tokens", mark)
    assert sum(histogram.counts) == len(values)
    assert list(histogram.counts) == np.histogram(values, histogram.edges)[0].tolist()
    widths = np.diff(histogram.edges)
    assert len(widths) <= 41 and len(set(widths[:-1].tolist())) <= 1
    assert histogram.apart == (histogram.counts[-1] if len(widths) > 1 and widths[-1] > widths[0] else 0)


def test_few_far_longer_lengths_share_one_interval_and_do_not_squash_the_others() -> None:
    histogram = counted([*range(1, 1000), 60_000]).histogram("tokens")
    assert histogram.apart == 1 and histogram.counts[-1] == 1 and histogram.edges[-1] == 60_001
    assert len([count for count in histogram.counts if count]) > 25


def test_a_near_mark_is_reached_by_even_intervals_and_a_far_one_is_not() -> None:
    lengths = counted([*range(1, 1000), 60_000])
    assert 2048 <= lengths.histogram("tokens", 2048).edges[-2] < 2200
    assert lengths.histogram("tokens", 32768).edges[-2] < 1100


def test_lengths_take_the_same_memory_however_many_are_added() -> None:
    few, many = counted([5]), counted([number * 31 for number in range(100_000)])
    assert len(pickle.dumps(many)) <= len(pickle.dumps(few)) + 16  # larger sum and maximum
    assert len(pickle.dumps(many)) < 40_000
    assert pickle.loads(pickle.dumps(many)).histogram("tokens") == many.histogram("tokens")


def test_no_lengths_make_an_empty_histogram() -> None:
    assert Lengths().histogram("characters") == Histogram("characters")
