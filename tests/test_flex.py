"""flex_attention and flash are told the tree, and the sequences, that the row has."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounter
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from transformers.modeling_flash_attention_utils import prepare_fa_kwargs_from_position_ids

from fabrictune.model import models
from fabrictune.model.encoding import Encoded
from fabrictune.train import flex, packing


def row_of(*sequences: list[int]) -> packing.Row:
    return packing.pack([Encoded(np.array(ids, np.int64), np.ones(len(ids), np.float32)) for ids in sequences])


def random_ids(length: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(3, 250, length).tolist()


def rule(subtree_end: np.ndarray) -> torch.Tensor:
    """(T, T): may the query of a line see the key of a column."""
    index = np.arange(len(subtree_end))
    return torch.from_numpy((index[None] <= index[:, None]) & (index[:, None] < subtree_end[None]))


# Few distinct tokens, so that sequences share prefixes of all lengths; no first token twice in a flat row.
trees = st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=14), min_size=1, max_size=8)
flat = st.lists(st.integers(1, 9), min_size=1, max_size=6).map(
    lambda lengths: row_of(*[[place, *range(100, 100 + length)] for place, length in enumerate(lengths)])
)


@settings(deadline=None)
@given(trees, st.sampled_from([2, 3, 5, 128]))
def test_the_block_mask_is_the_one_that_torch_finds_by_trying_every_pair(made: list[list[int]], size: int) -> None:
    ends = row_of(*made).subtree_end
    ours, tokens = flex.block_mask(ends, "cpu", size), len(ends)
    table = rule(ends)
    theirs = create_block_mask(lambda b, h, q, k: table[q, k], None, None, tokens, tokens, "cpu", size)
    assert ours.seq_lengths == theirs.seq_lengths
    for kind in ("kv", "full_kv", "q", "full_q"):
        counts = getattr(theirs, f"{kind}_num_blocks")
        torch.testing.assert_close(getattr(ours, f"{kind}_num_blocks"), counts)
        for line, count in enumerate(counts.flatten().tolist()):
            chosen = [getattr(mask, f"{kind}_indices")[0, 0, line, :count] for mask in (ours, theirs)]
            torch.testing.assert_close(*chosen)


@pytest.fixture(scope="module")
def pair(tiny_model):
    return models.load(tiny_model, "float32", "flex_attention"), models.load(tiny_model, "float32", "sdpa")


PREFIX = random_ids(150, 0)
BRANCHES = [[*PREFIX, *random_ids(length, length)] for length in (40, 90, 7)] + [random_ids(60, 1)]
SHORT = [[5, 6, 7, 8], [5, 6, 9]]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("made", [BRANCHES, SHORT], ids=["several blocks", "less than one"])
def test_a_row_under_flex_attention_gives_what_sdpa_and_the_separate_sequences_give(pair, made) -> None:
    flexible, plain = pair
    row = row_of(*made)
    ids, positions = torch.from_numpy(row.ids)[None], torch.from_numpy(row.positions)[None]
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        found = flexible(**flex.inputs(row, "cpu"), use_cache=False).logits[0, : len(row)]
        masked = plain(input_ids=ids, position_ids=positions, attention_mask=rule(row.subtree_end)[None, None])
        separate = [plain(input_ids=torch.tensor([ids])).logits[0] for ids in made]
    torch.testing.assert_close(found, masked.logits[0], rtol=0, atol=1e-5)
    pasts = [np.flatnonzero(seen) for seen in rule(row.subtree_end).numpy()]
    paths = {tuple(row.ids[past].tolist()): past for past in pasts}
    for ids, logits in zip(made, separate, strict=True):
        torch.testing.assert_close(found[paths[tuple(ids)]], logits, rtol=0, atol=1e-5)


@pytest.mark.e2e  # half a minute of C++ compiler
@pytest.mark.skipif(not shutil.which("g++"), reason="torch compiles with g++ on a CPU")
def test_the_compiled_kernel_computes_the_blocks_that_it_is_given_and_no_others(pair) -> None:
    flexible, plain = pair
    row = row_of(*BRANCHES)
    torch._dynamo.reset()
    with torch.no_grad():
        found = flexible(**flex.inputs(row, "cpu"), use_cache=False).logits
        mask = rule(row.subtree_end)[None, None]
        positions = torch.from_numpy(row.positions)[None]
        right = plain(input_ids=torch.from_numpy(row.ids)[None], position_ids=positions, attention_mask=mask).logits
    torch._dynamo.reset()
    torch.testing.assert_close(found, right, rtol=0, atol=1e-5)


def test_rows_of_all_lengths_are_computed_by_two_compilations() -> None:
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(flex_attention, backend=counter)
    for length in (347, 512, 900, 90, 1, 129, 130, 128, 1501):
        given_row = flex.inputs(row_of(random_ids(length, length)), "cpu")
        tokens = torch.zeros(1, 2, given_row["input_ids"].shape[1], 16)
        compiled(tokens, tokens, tokens, block_mask=given_row["attention_mask"])
    torch._dynamo.reset()
    assert counter.frame_count == 2, "torch gives up and computes T x T after torch._dynamo.config.recompile_limit"


@given(flat)
def test_flash_is_told_the_sequence_bounds_that_transformers_reads_off_position_ids(row: packing.Row) -> None:
    (queries, keys), (longest, _) = prepare_fa_kwargs_from_position_ids(torch.from_numpy(row.positions)[None])
    told = flex.flash_inputs(row, "cpu")
    torch.testing.assert_close(told["cu_seq_lens_q"], queries)
    torch.testing.assert_close(told["cu_seq_lens_k"], keys)
    assert told["max_length_q"] == told["max_length_k"] == int(longest)


def test_flash_refuses_a_row_whose_sequences_share_a_prefix() -> None:
    with pytest.raises(ValueError, match="1 of 2 sequences of a row share a prefix; give train.packing=flat"):
        flex.flash_inputs(row_of(*SHORT), "cpu")
