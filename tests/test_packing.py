"""A row holds each prefix once and every loss term; ranks share all sequences out in rows of about one size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sequences import encoded, sequences

from fabrictune.model.encoding import Encoded
from fabrictune.train import packing


@given(sequences)
def test_a_token_attends_to_exactly_its_own_past(made: list[Encoded]) -> None:
    row = packing.pack(made)
    found = set()
    for query in range(len(row)):
        seen = [key for key in range(query + 1) if query < row.subtree_end[key]]
        assert [int(row.positions[key]) for key in seen] == list(range(len(seen)))
        found.add(tuple(row.ids[seen].tolist()))
    expected = {tuple(one.ids[: t + 1].tolist()) for one in made for t in range(len(one))}
    assert found == expected
    assert len(row) == len(expected) == packing.size(made), "each distinct prefix is computed once"


@given(sequences)
def test_the_segments_hold_the_same_rule_as_the_subtree_ends(made: list[Encoded]) -> None:
    row = packing.pack(made)
    assert sum(segment.end - segment.start for segment in row.segments) == len(row)
    for segment in row.segments:
        for query in range(segment.start, segment.end):
            by_rule = [key for key in range(query + 1) if query < row.subtree_end[key]]
            assert by_rule == [*segment.prefix.tolist(), *range(segment.start, query + 1)]


@given(sequences)
def test_every_weighted_token_is_a_loss_term_predicted_from_its_own_past(made: list[Encoded]) -> None:
    row = packing.pack(made)
    terms = []
    for source, target, weight in zip(row.sources, row.targets, row.weights, strict=True):
        past = [key for key in range(source + 1) if source < row.subtree_end[key]]
        terms.append((tuple(row.ids[past].tolist()), int(target), float(weight)))
    expected = [
        (tuple(one.ids[:t].tolist()), int(one.ids[t]), float(one.weights[t]))
        for one in made
        for t in np.flatnonzero(one.weights)
    ]
    assert sorted(terms) == sorted(expected)


@given(sequences)
def test_without_sharing_sequences_stand_side_by_side_and_see_themselves_only(made: list[Encoded]) -> None:
    row = packing.pack(made, shared=False)
    starts = np.cumsum([0, *map(len, made)])
    assert len(row) == starts[-1] == packing.size(made, shared=False)
    np.testing.assert_array_equal(row.ids, np.concatenate([one.ids for one in made]))
    np.testing.assert_array_equal(row.positions, np.concatenate([np.arange(len(one)) for one in made]))
    np.testing.assert_array_equal(row.subtree_end, np.repeat(starts[1:], np.diff(starts)))
    assert [(one.start, one.end, len(one.prefix)) for one in row.segments] == [
        (start, end, 0) for start, end in zip(starts, starts[1:], strict=False)
    ]


def terms_of(row: packing.Row) -> list[tuple]:
    """Each loss term: what it is predicted from, its target and weight, and where it comes from."""
    terms = []
    columns = (row.sources, row.targets, row.weights, row.term_sources, row.term_sequences)
    for at, target, weight, source, number in zip(*(column.tolist() for column in columns), strict=True):
        past = [key for key in range(at + 1) if at < row.subtree_end[key]]
        terms.append((tuple(row.ids[past].tolist()), target, weight, source, number))
    return terms


def terms_wanted(groups: list[list[Encoded]]) -> list[tuple]:
    return sorted(
        (tuple(one.ids[:t].tolist()), int(one.ids[t]), float(one.weights[t]), one.source, one.number)
        for group in groups
        for one in group
        for t in np.flatnonzero(one.weights)
    )


# Groups whose sequences say where they come from.
groups_of = st.lists(sequences, min_size=1, max_size=6).map(
    lambda groups: [
        [replace(one, source=place % 3, number=100 * place + own) for own, one in enumerate(group)]
        for place, group in enumerate(groups)
    ]
)


@given(groups_of, st.integers(4, 40), st.integers(1, 5), st.sampled_from(packing.PACKINGS))
def test_ranks_share_all_sequences_in_rows_that_keep_to_their_size(groups, row_tokens, ranks, kind) -> None:
    shares = packing.share_out(groups, row_tokens, ranks, kind)
    assert len(shares) == ranks and len({len(share) for share in shares}) == 1, "all have the same number of rows"
    rows = [row for share in shares for row in share]
    given_out = sorted(one.number for row in rows for one in row)
    assert given_out == sorted(one.number for group in groups for one in group), "each exactly once"
    made = [packing.pack(row, kind == packing.TREE) for row in rows if row]
    assert sorted(term for row in made for term in terms_of(row)) == terms_wanted(groups)
    for row, packed in zip([row for row in rows if row], made, strict=True):
        assert len(packed) <= row_tokens or len(row) == 1 or kind == packing.NONE
        assert kind != packing.NONE or len(row) == 1
    assert sum(not row for row in rows) < ranks, "no rank has a row more than the others need"


@given(groups_of, st.integers(4, 40), st.integers(1, 5))
def test_a_group_that_fits_a_row_stays_in_one(groups, row_tokens: int, ranks: int) -> None:
    rows = [{one.number for one in row} for share in packing.share_out(groups, row_tokens, ranks) for row in share]
    for group in groups:
        if packing.size(group) <= row_tokens:
            assert any({one.number for one in group} <= row for row in rows)


def dialogues(seed: int, count: int, prompts: int, prompt: int, own: int) -> list[list[Encoded]]:
    """Groups of two sequences of which the second goes on where the first ends, under one of so many prompts."""
    generator = np.random.default_rng(seed)
    shared = [generator.integers(0, 30_000, prompt).tolist() for _ in range(prompts)]
    groups = []
    for number in range(count):
        first = (
            shared[number % prompts] + generator.integers(0, 30_000, int(generator.integers(own // 2, own))).tolist()
        )
        groups.append([encoded(first, 10), encoded(first + generator.integers(0, 30_000, 50).tolist(), 10)])
    return groups


@pytest.mark.parametrize(("ranks", "row_tokens"), [(1, 8192), (2, 4096), (8, 4096), (8, 8192)])
def test_rows_are_as_few_as_ranks_can_share_and_about_equal(ranks: int, row_tokens: int) -> None:
    groups = dialogues(0, 64, prompts=64, prompt=10, own=900)
    sizes = [[packing.size(row) for row in share] for share in packing.share_out(groups, row_tokens, ranks)]
    total = sum(map(sum, sizes))
    assert len(sizes[0]) <= -(-total // (ranks * row_tokens))
    busiest = max(map(sum, sizes))
    assert busiest * ranks / total < 1.03


@pytest.mark.parametrize("ranks", [1, 4])
def test_dialogues_with_one_prompt_go_where_it_is_computed_already(ranks: int) -> None:
    groups = dialogues(1, 32, prompts=4, prompt=700, own=100)
    everything = packing.size([one for group in groups for one in group])
    rows = [row for share in packing.share_out(groups, 2048, ranks) for row in share]
    assert sum(map(packing.size, rows)) == everything, "each prompt once"
    apart = sum(packing.size(group) for group in groups)
    assert everything < apart / 2


def test_a_prompt_that_one_rank_could_hold_alone_is_repeated_to_keep_all_busy() -> None:
    groups = dialogues(2, 64, prompts=1, prompt=300, own=200)
    sizes = [sum(map(packing.size, share)) for share in packing.share_out(groups, 16_384, 8)]
    assert max(sizes) < 1.05 * sum(sizes) / 8
    assert max(sizes) < packing.size([one for group in groups for one in group]) / 4


def test_a_sequence_longer_than_a_row_has_a_row_of_its_own() -> None:
    groups = [[encoded(list(range(50)), 5), encoded(list(range(7)), 2)], [encoded(list(range(100, 110)), 3)]]
    rows = packing.share_out(groups, 20)[0]
    assert sorted(sorted(map(len, row)) for row in rows) == [[7, 10], [50]]


def test_a_packing_that_there_is_none_of_is_refused() -> None:
    with pytest.raises(ValueError, match="train.packing is 'dense'; choose from tree, flat, none"):
        packing.share_out([], 20, 1, "dense")


def test_padding_is_one_token_without_a_loss_term() -> None:
    assert len(packing.PADDING) == 1 and not len(packing.PADDING.targets) and not packing.PADDING.weights.sum()
