"""What a GPU's attention kernels are told of a packed row: a tree's block mask, or the sequences.

Checked on a CPU against torch's own block mask and transformers' own sequence bounds; not yet run on a GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn.attention.flex_attention import BlockMask

from fabrictune.train.packing import Row

BLOCK = 128  # queries and keys of a block, flex_attention's own


def inputs(row: Row, device: torch.device | str) -> dict[str, Any]:
    """The forward's arguments under attn_implementation="flex_attention": ids and positions (1, P), and a BlockMask.

    P = T, but at least BLOCK + 1; what comes out from index T on is padding, and no loss term reads it. A mask of a
    single block would be compiled apart from larger ones, and past 8 compilations torch computes uncompiled, T x T.
    """
    missing = max(0, BLOCK + 1 - len(row))
    alone = len(row) + 1 + np.arange(missing)  # a padding token sees itself only
    return {
        "input_ids": torch.from_numpy(np.pad(row.ids, (0, missing))).to(device)[None],
        "position_ids": torch.from_numpy(np.pad(row.positions, (0, missing))).to(device)[None],
        "attention_mask": block_mask(np.concatenate([row.subtree_end, alone]), device),
    }


def block_mask(subtree_end: np.ndarray, device: torch.device | str, size: int = BLOCK) -> BlockMask:
    """The rule `key <= query < subtree_end[key]` over (T,) tokens as flex_attention takes it."""
    ends = torch.from_numpy(subtree_end.astype(np.int32)).to(device)

    def sees(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= query) & (query < ends[key])

    partial, full = blocks(subtree_end, size)
    made = BlockMask.from_kv_blocks(
        *_listed(partial),
        *_listed(full),
        BLOCK_SIZE=size,
        mask_mod=sees,
        seq_lengths=(len(subtree_end), len(subtree_end)),
    )
    return made.to(device)


def blocks(subtree_end: np.ndarray, size: int = BLOCK) -> tuple[np.ndarray, np.ndarray]:
    """(B, B) booleans by block of queries and block of keys: where some pair attends but not all, and where all do.

    From the smallest and largest subtree end of each block of keys, so that nothing of T x T is ever made.
    """
    starts = np.arange(0, len(subtree_end), size)
    earlier = np.tri(len(starts), k=-1, dtype=bool)
    some = earlier & (np.maximum.reduceat(subtree_end, starts)[None] > starts[:, None])
    np.fill_diagonal(some, True)
    # No subtree ends past the row, so that a last block which is not filled is never a full one, as torch wants it.
    full = earlier & (np.minimum.reduceat(subtree_end, starts)[None] >= (starts + size)[:, None])
    return some & ~full, full


def flash_inputs(row: Row, device: torch.device | str) -> dict[str, Any]:
    """The forward's further arguments under attn_implementation="flash_attention_2": where each sequence begins.

    transformers would find the same from position ids that begin anew, once a layer and with a wait for the GPU.
    Raises ValueError if sequences of the row share a prefix.
    """
    shared = sum(len(segment.prefix) > 0 for segment in row.segments)
    if shared:
        raise ValueError(
            f"flash attention knows no tree, but {shared} of {len(row.segments)} sequences of a row share a prefix; "
            "give train.packing=flat, or train.attention=flex"
        )
    bounds = torch.tensor([0, *(segment.end for segment in row.segments)], dtype=torch.int32, device=device)
    longest = max(segment.end - segment.start for segment in row.segments)
    return {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": longest, "max_length_k": longest}


def _listed(dense: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """How many blocks of keys each block of queries takes, (1, 1, B), and which, first in (1, 1, B, B)."""
    order = np.argsort(~dense, axis=1, kind="stable").astype(np.int32)
    return torch.from_numpy(dense.sum(1, dtype=np.int32))[None, None], torch.from_numpy(order)[None, None]
