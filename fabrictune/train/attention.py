"""Attention over a packed row, for transformers' models: each token sees its ancestors in the tree and itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from fabrictune.train import flex
from fabrictune.train.packing import Row

NAME = "fabrictune_tree"
# Queries of one block. A block computes its keys up to its own end, so a long run of new tokens in one block would
# compute twice what its triangle needs.
BLOCK = 128


@dataclass(frozen=True)
class Block:
    """The tokens [start, end) of a row, one run; `keys` are the ranges of their ancestors and themselves, in order."""

    start: int
    end: int
    keys: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Tree:
    """A row's blocks, and the greatest number of keys that a token of it sees."""

    blocks: tuple[Block, ...]
    depth: int


def tree(row: Row) -> Tree:
    """The row's tokens in order, cut into blocks; made once and used by every layer."""
    made = []
    for segment in row.segments:
        for start in range(segment.start, segment.end, BLOCK):
            end = min(start + BLOCK, segment.end)
            made.append(Block(start, end, _ranges(np.append(segment.prefix, np.arange(segment.start, end)))))
    return Tree(tuple(made), int(row.positions.max(initial=-1)) + 1)


def inputs(model: torch.nn.Module, row: Row) -> dict[str, Any]:
    """What the model's forward needs to compute the row as its tree says, whichever attention it was loaded with.

    (1, T) ids and positions, and for most kinds something to attend by; flex_attention's have some tokens more, behind.
    Raises ValueError for an attention that cannot, and for flash attention over a row with branches.
    """
    device = device_of(model)
    made: dict[str, Any] = {
        "input_ids": torch.from_numpy(row.ids)[None].to(device),
        "position_ids": torch.from_numpy(row.positions)[None].to(device),
    }
    kind = inner(model).config._attn_implementation
    # transformers puts a window into masks of its own only; ours say all that a token sees.
    window = getattr(inner(model).config.get_text_config(), "sliding_window", None)
    if window and kind != "flash_attention_2" and row.positions.max(initial=0) >= window:
        raise ValueError(
            f"an exchange of {row.positions.max() + 1} tokens is longer than the model's window of {window}; give "
            f"data.max_length={window} or less"
        )
    if kind == NAME:
        return made | {"blocks": tree(row)}
    if kind in ("sdpa", "eager"):
        seen = mask(row).to(device)
        if kind == "sdpa":
            return made | {"attention_mask": seen}
        dtype = inner(model).get_input_embeddings().weight.dtype
        hidden = torch.zeros(seen.shape, dtype=dtype, device=device)
        return made | {"attention_mask": hidden.masked_fill_(~seen, torch.finfo(dtype).min)}
    if kind == "flex_attention":
        return flex.inputs(row, device)
    if kind == "flash_attention_2":
        return made | flex.flash_inputs(row, device)
    raise ValueError(f"no attention over packed rows for '{kind}'; choose {NAME}, sdpa, eager, flex_attention")


def mask(row: Row) -> Tensor:
    """(1, 1, T, T) booleans: may the query (third) see the key (fourth)?"""
    place = torch.arange(len(row))
    return ((place[None] <= place[:, None]) & (place[:, None] < torch.from_numpy(row.subtree_end)[None]))[None, None]


@contextmanager
def generating(model: torch.nn.Module) -> Iterator[None]:
    """A context in which `model.generate` works, in evaluation mode and with torch's own attention.

    The tree's takes packed rows only; flex_attention would be compiled for every length, more often than torch allows.
    """
    base = inner(model)
    kind, is_training = base.config._attn_implementation, model.training
    model.eval()
    if kind in (NAME, "flex_attention"):
        base.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        base.set_attn_implementation(kind)
        model.train(is_training)


def tree_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    blocks: Tree | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """(1, H, T, D) queries over (1, G, T, D) keys and values -> (1, T, H, D).

    Raises ValueError without blocks, and for what a model's attention may have that this one has not.
    """
    if blocks is None:
        raise ValueError(f"{NAME} attends over packed rows only: pass blocks=tree(row)")
    if dropout:
        raise ValueError(
            f"{type(module).__name__} has a dropout of attention, which {NAME} has not; give train.attention=sdpa"
        )
    if softcap is not None or s_aux is not None:
        lacking = "sinks" if softcap is None else "soft caps"
        raise ValueError(
            f"{type(module).__name__} has {lacking} of attention, which {NAME} has not; choose another model="
        )
    if sliding_window is not None and blocks.depth > sliding_window:
        raise ValueError(
            f"{blocks.depth} tokens are more than the model's window of {sliding_window}; lower data.max_length"
        )
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    return _TreeAttention.apply(query[0], key[0], value[0], scale, blocks.blocks)[None], None


class _TreeAttention(torch.autograd.Function):
    """(H, T, D), (G, T, D), (G, T, D) -> (T, H, D): plain matrix products a block, over the keys that count only.

    The heads that share a key head stand below each other: one product for all of them. The probabilities are kept
    for the backward pass (16 MB a layer for 2,063 tokens and 9 heads), which adds up keys' and values' gradients in
    float32.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, blocks: tuple[Block, ...]) -> Tensor:
        heads, length, depth = query.shape
        groups = key.shape[0]
        queries = (query * scale).unflatten(0, (groups, -1))
        keys, values = key.contiguous(), value.contiguous()
        out = query.new_empty(length, heads, depth)
        outs = out.unflatten(1, (groups, -1)).permute(1, 2, 0, 3)
        hidden = _hidden(query)
        kept = []
        for block in blocks:
            new = block.end - block.start
            q = queries[:, :, block.start : block.end].flatten(1, 2)
            scores = torch.bmm(q, _gather(keys, block).transpose(1, 2))
            scores.unflatten(1, (-1, new))[..., -new:] += hidden[:new, :new]
            shares = torch.softmax(scores, -1)
            part = torch.bmm(shares, _gather(values, block))
            outs[:, :, block.start : block.end] = part.unflatten(1, (-1, new))
            kept.append(shares)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(queries, keys, values, *kept)
            ctx.scale, ctx.blocks = scale, blocks
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, *kept = ctx.saved_tensors
        groups, shared, length, depth = queries.shape
        grads = grad.unflatten(1, (groups, shared)).permute(1, 2, 0, 3)
        for_query = grad.new_empty(length, groups, shared, depth).permute(1, 2, 0, 3)
        for_key = torch.zeros(keys.shape, dtype=torch.float32, device=keys.device)
        for_value = torch.zeros_like(for_key)
        for block, shares in zip(ctx.blocks, kept, strict=True):
            new = block.end - block.start
            q = queries[:, :, block.start : block.end].flatten(1, 2)
            g = grads[:, :, block.start : block.end].flatten(1, 2)
            for_shares = torch.bmm(g, _gather(values, block).transpose(1, 2))
            for_scores = torch._softmax_backward_data(for_shares, shares, -1, shares.dtype)
            part = torch.bmm(for_scores, _gather(keys, block))
            torch.mul(part.unflatten(1, (shared, new)), ctx.scale, out=for_query[:, :, block.start : block.end])
            _scatter(for_key, block, torch.bmm(for_scores.transpose(1, 2), q))
            _scatter(for_value, block, torch.bmm(shares.transpose(1, 2), g))
        return for_query.flatten(0, 1), for_key.to(keys.dtype), for_value.to(values.dtype), None, None


def _gather(rows: Tensor, block: Block) -> Tensor:
    """The block's keys (G, K, D) out of (G, T, D); a view where they lie side by side."""
    parts = [rows[:, start:end] for start, end in block.keys]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _scatter(total: Tensor, block: Block, part: Tensor) -> None:
    place = 0
    for start, end in block.keys:
        total[:, start:end] += part[:, place : place + end - start]
        place += end - start


def _hidden(like: Tensor) -> Tensor:
    """(BLOCK, BLOCK): minus infinity where the key comes after the query."""
    return torch.full((BLOCK, BLOCK), -torch.inf, dtype=like.dtype, device=like.device).triu_(1)


def _ranges(indices: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Ascending indices as [start, end) ranges of neighbours."""
    breaks = np.flatnonzero(np.diff(indices) != 1)
    starts, ends = indices[np.append(0, breaks + 1)], indices[np.append(breaks, -1)] + 1
    return tuple(zip(starts.tolist(), ends.tolist(), strict=True))


def device_of(model: torch.nn.Module) -> torch.device:
    """Where the model computes; DeepSpeed and DDP say it, since parameters may lie elsewhere under ZeRO-3."""
    return getattr(model, "device", None) or next(model.parameters()).device


def inner(model: torch.nn.Module) -> Any:
    """The transformers model inside what DDP, DeepSpeed and peft put around it."""
    found: Any = model
    while hasattr(found, "module"):
        found = found.module
    return found.get_base_model() if hasattr(found, "get_base_model") else found


AttentionInterface.register(NAME, tree_attention)
AttentionMaskInterface.register(NAME, lambda *_, **__: None)
