"""The loss of a packed row, computed where it has loss terms and nowhere else, a few terms at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from fabrictune.train import attention
from fabrictune.train.packing import Row

# Logits that are there at a time, in float32: 32 MB on a CPU, where they should stay in its cache, 512 MB on a GPU.
CPU_LOGITS, GPU_LOGITS = 2**23, 2**27


@dataclass(frozen=True)
class Outcome:
    """`total`: the sum of w * NLL in nats, differentiable, float32. `nll` and `right` (N,), of each loss term: its NLL
    without its weight, and whether its target is the most likely token."""

    total: Tensor
    nll: Tensor
    right: Tensor


def of_row(model: nn.Module, row: Row) -> Outcome:
    """The row's loss under a causal language model, also inside peft, DDP or DeepSpeed; the head must be frozen.

    Raises ValueError for a model whose head is trained or quantised, or that changes its logits after the head.
    """
    head = output_head(model)
    device = attention.device_of(model)
    targets, weights = torch.from_numpy(row.targets).to(device), torch.from_numpy(row.weights).to(device)
    with _losing(head, targets) as terms:
        output = model(
            **attention.inputs(model, row), use_cache=False, logits_to_keep=torch.from_numpy(row.sources).to(device)
        )
    nll, (own, right) = output.logits.flatten(), terms[0]
    if not torch.allclose(nll.detach(), own, rtol=0, atol=0, equal_nan=True):
        raise ValueError(
            f"{type(model).__name__} scales or caps its logits after the head: the loss would be wrong; choose another "
            "model="
        )
    return Outcome((nll * weights).sum(), own, right)


def output_head(model: nn.Module) -> nn.Linear:
    """The model's language model head. Raises ValueError if it is not a plain frozen linear layer."""
    head = attention.inner(model).get_output_embeddings()
    if type(head) is not nn.Linear or head.weight.requires_grad:
        raise ValueError(f"the loss needs a frozen head of plain weights, not {head}; leave it out of lora.targets")
    return head


@contextmanager
def _losing(head: nn.Linear, targets: Tensor) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """The head gives (1, N, 1) losses for (1, N, H) hidden states; what it gave is noted as (nll, right).

    Only its forward changes, so that hooks around it (ZeRO-3 gathers its weight in one), names and ties stay.
    """
    terms: list[tuple[Tensor, Tensor]] = []
    layer: nn.Module = head  # whose forward, unlike nn.Linear's, may be any function

    def forward(hidden: Tensor) -> Tensor:
        losses: tuple[Tensor, Tensor] = _Terms.apply(hidden[0], head.weight, head.bias, targets)
        nll, right = losses
        terms.append((nll.detach(), right))
        return nll[None, :, None]

    layer.forward = forward
    try:
        yield terms
    finally:
        del layer.forward


class _Terms(torch.autograd.Function):
    """(N, H) hidden states, (V, H) head, (N,) targets -> (N,) float32 NLL and (N,) is the target the most likely token.

    The gradient for the hidden states is made along with the loss, so that no logits have to be kept or made again.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        nll = torch.empty(len(targets), device=hidden.device)
        right = torch.empty_like(targets, dtype=torch.bool)
        slopes = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        budget = CPU_LOGITS if hidden.device.type == "cpu" else GPU_LOGITS
        size = max(16, budget // len(weight))
        for start in range(0, len(targets), size):
            part = slice(start, start + size)
            logits = functional.linear(hidden[part], weight, bias)
            wanted = targets[part, None]
            most, best = logits.max(-1, keepdim=True)
            right[part] = (best == wanted)[:, 0]
            shares = logits.float().sub_(most)
            own = shares.gather(1, wanted)
            total = shares.exp_().sum(-1, keepdim=True)
            nll[part] = (total.log() - own)[:, 0]
            if slopes is not None:
                shares.div_(total).scatter_add_(1, wanted, -torch.ones_like(own))
                slopes[part] = shares.to(hidden.dtype) @ weight
        ctx.mark_non_differentiable(right)
        ctx.save_for_backward(slopes)
        return nll, right

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return slopes * grad[:, None].to(slopes.dtype), None, None, None
