"""Attention over trees: the blocks hold the tree's rule, and what a model may ask beyond it is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from fabrictune.model import models
from fabrictune.model.encoding import Encoded
from fabrictune.train import attention, packing


def row_of(*sequences: list[int]) -> packing.Row:
    return packing.pack([Encoded(np.array(ids, np.int64), np.zeros(len(ids), np.float32)) for ids in sequences])


trees = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=8)
LONG = row_of([*range(300)], [*range(140), *[1] * 200], [*range(140), *[1] * 50, *[2] * 20], [9, 9])


def seen_by_blocks(row: packing.Row) -> np.ndarray:
    seen = np.zeros((len(row), len(row)), bool)
    for block in attention.tree(row).blocks:
        keys = np.concatenate([np.arange(start, end) for start, end in block.keys])
        for query in range(block.start, block.end):
            seen[query, keys[keys <= query]] = True
    return seen


@given(trees)
def test_blocks_and_mask_hold_the_rule_of_the_subtree_ends(sequences: list[list[int]]) -> None:
    row = row_of(*sequences)
    rule = [[k <= q < row.subtree_end[k] for k in range(len(row))] for q in range(len(row))]
    assert (seen_by_blocks(row) == rule).all()
    assert (attention.mask(row)[0, 0].numpy() == rule).all()
    assert attention.tree(row).depth == max(map(len, sequences))


def test_keys_that_lie_side_by_side_are_one_range() -> None:
    tree = attention.tree(row_of([1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 6]))
    assert [block.keys for block in tree.blocks] == [((0, 4),), ((0, 3), (4, 5)), ((0, 2), (5, 6))]


def test_a_block_is_never_longer_than_its_bound_and_blocks_cover_the_row() -> None:
    blocks = attention.tree(LONG).blocks
    assert [block.start for block in blocks] == [0, *(block.end for block in blocks[:-1])]
    assert max(block.end - block.start for block in blocks) == attention.BLOCK
    assert (seen_by_blocks(LONG) == attention.mask(LONG)[0, 0].numpy()).all()


@pytest.mark.parametrize(("heads", "groups"), [(4, 2), (3, 3), (6, 1)])
def test_outputs_and_gradients_equal_those_of_torchs_attention_under_the_mask(heads: int, groups: int) -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(1, n, len(LONG), 8, requires_grad=True) for n in (heads, groups, groups)]
    wanted = scaled_dot_product_attention(*tensors, attn_mask=attention.mask(LONG), scale=0.3, enable_gqa=True)
    module = torch.nn.Identity()
    found, _ = attention.tree_attention(module, *tensors, None, scaling=0.3, blocks=attention.tree(LONG))
    torch.testing.assert_close(found, wanted.transpose(1, 2), rtol=1e-5, atol=1e-5)
    slope = torch.randn(found.shape)
    expected = torch.autograd.grad(wanted, tensors, slope.transpose(1, 2))
    for one, other in zip(torch.autograd.grad(found, tensors, slope), expected, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


def test_rows_come_with_what_each_attention_needs(tiny_model) -> None:
    for kind, extra in ((attention.NAME, {"blocks"}), ("sdpa", {"attention_mask"}), ("eager", {"attention_mask"})):
        model = models.load(tiny_model, "float32", kind)
        assert attention.inputs(model, LONG).keys() == {"input_ids", "position_ids"} | extra
    model.config._attn_implementation = "paged"
    with pytest.raises(ValueError, match="no attention over packed rows for 'paged'"):
        attention.inputs(model, LONG)


def test_a_model_for_packed_rows_refuses_others(tiny_model) -> None:
    model = models.load(tiny_model, "float32", attention.NAME)
    with pytest.raises(ValueError, match="packed rows only"):
        model(input_ids=torch.tensor([[1, 2, 3]]))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"dropout": 0.1}, "Identity has a dropout of attention, .*; give train.attention=sdpa"),
        ({"softcap": 30.0}, "has soft caps of attention, .*; choose another model="),
        ({"s_aux": torch.zeros(2)}, "has sinks of attention, .*; choose another model="),
        ({"sliding_window": 200}, "340 tokens are more than the model's window of 200"),
    ],
)
def test_what_a_model_asks_beyond_the_tree_is_refused(asked: dict[str, Any], said: str) -> None:
    tensors = [torch.randn(1, 2, len(LONG), 8) for _ in range(3)]
    with pytest.raises(ValueError, match=said):
        attention.tree_attention(torch.nn.Identity(), *tensors, None, blocks=attention.tree(LONG), **asked)


def test_replies_can_be_generated_between_steps(tiny_model) -> None:
    model = models.attach(models.load(tiny_model, "float32", attention.NAME), 4, 8, 0.0, 1).train()
    plain = models.load(tiny_model, "float32", "sdpa").eval()
    ids = torch.arange(20)[None]
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    with attention.generating(model):
        assert not model.training
        written = model.generate(input_ids=ids, **options)
    assert written.tolist() == plain.generate(input_ids=ids, **options).tolist()
    assert model.training
    assert "blocks" in attention.inputs(model, LONG)
