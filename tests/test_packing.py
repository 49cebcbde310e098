"""Packed rows give the losses and gradients of the separate sequences, whatever tree they form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from fabrictune import attention, models, packing
from fabrictune.encoding import Encoded
from fabrictune.training import collate, weighted_nll


def encoded(ids: list[int], weighted: int) -> Encoded:
    """A sequence of the ids whose last `weighted` tokens have weight 1, 2, 1, 2, ..."""
    weights = np.zeros(len(ids), np.float32)
    weights[len(ids) - weighted :] = [1 + i % 2 for i in range(weighted)]
    return Encoded(np.array(ids, np.int64), weights)


# Few distinct tokens, so that sequences share prefixes of all lengths.
sequences = st.lists(
    st.lists(st.integers(0, 2), min_size=2, max_size=12).flatmap(
        lambda ids: st.integers(1, len(ids) - 1).map(lambda weighted: encoded(ids, weighted))
    ),
    min_size=1,
    max_size=8,
)


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


@pytest.fixture(scope="module")
def pair(tiny_model):
    """The same float32 model and adapter twice: over packed rows, and transformers' own attention."""

    def build(kind: str) -> torch.nn.Module:
        model = models.attach(models.load(tiny_model, "float32", kind), rank=4, alpha=8, dropout=0.0, seed=1)
        generator = torch.Generator().manual_seed(2)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero at first, which would hide errors in half of the gradients
                parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
        return model

    return build(attention.NAME), build("sdpa")


def gradients(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])


@settings(max_examples=15, deadline=None)
@given(sequences)
def test_loss_and_lora_gradients_equal_those_of_separate_sequences(pair, made: list[Encoded]) -> None:
    packed, plain = pair
    for model in pair:
        model.zero_grad()
    losses, _ = weighted_nll(packed, collate([packing.pack(made)]))
    losses.sum().backward()
    total = torch.zeros(())
    for one in made:
        ids = torch.from_numpy(one.ids)[None]
        nll = cross_entropy(plain(input_ids=ids).logits[0, :-1], ids[0, 1:], reduction="none")
        total = total + (nll * torch.from_numpy(one.weights[1:])).sum()
    total.backward()
    assert losses.sum().item() == pytest.approx(total.item(), rel=1e-5)
    torch.testing.assert_close(gradients(packed), gradients(plain), rtol=1e-4, atol=1e-5)


def test_a_run_longer_than_a_block_attends_as_transformers_does(pair) -> None:
    ids = np.random.default_rng(0).integers(3, 200, 3 * attention.BLOCK + 5).tolist()
    one = encoded(ids, len(ids) - 1)
    packed, plain = pair
    losses, _ = weighted_nll(packed, collate([packing.pack([one])]))
    tensor = torch.tensor([ids])
    nll = cross_entropy(plain(input_ids=tensor).logits[0, :-1], tensor[0, 1:], reduction="none")
    torch.testing.assert_close(losses, nll * torch.from_numpy(one.weights[1:]), rtol=1e-4, atol=1e-5)


def test_a_packed_model_refuses_rows_without_their_blocks(pair) -> None:
    with pytest.raises(ValueError, match="packed rows only"):
        pair[0](input_ids=torch.tensor([[1, 2, 3]]))


@given(st.lists(sequences, min_size=1, max_size=6), st.integers(4, 30))
def test_rows_hold_every_sequence_whole_and_keep_to_their_size(groups: list[list[Encoded]], row_tokens: int) -> None:
    rows = list(packing.fill(groups, row_tokens))
    flat = [one for group in groups for one in group]
    assert sum(len(row.targets) for row in rows) == sum(int((one.weights > 0).sum()) for one in flat)
    longest = max(len(one) for one in flat)
    assert all(len(row) <= max(row_tokens, longest) for row in rows)
