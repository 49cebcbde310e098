"""LoRA as one step a layer: peft's modules and parameters, with a forward and backward that know what is frozen.

peft's own forward keeps several copies of every layer's input, makes them float32 for float32 adapters, and its dropout
takes longer than the adapter. Here a linear layer and its adapter are one function that computes in the base's dtype,
whatever the dtype of the adapter, and keeps its input and the r numbers a token between A and B.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


class Weights(NamedTuple):
    """A frozen layer, weight (O, I) and bias (O,), and its adapter, a (r, I) and b (O, r), of whatever dtype.

    `keep` is the dropout's mask of the adapter's input, if there is dropout.
    """

    weight: Tensor
    bias: Tensor | None
    a: Tensor
    b: Tensor
    keep: Tensor | None


def fuse(model: nn.Module) -> int:
    """Gives every LoRA layer that is a plain one the fused forward; returns how many got it.

    Those that are not (quantised bases, DoRA, several adapters, adapters with a bias) keep peft's.
    """
    layers = [module for module in model.modules() if type(module) is Linear and _is_plain(module)]
    for layer in layers:
        layer.__class__ = FusedLinear
    return len(layers)


def _is_plain(layer: Linear) -> bool:
    base = layer.base_layer
    if type(base) is not nn.Linear or hasattr(base, "_hf_hook") or base.weight.requires_grad:
        return False
    if len(layer.lora_A) != 1 or layer.lora_variant or any(layer.lora_bias.values()):
        return False
    (dropout,) = layer.lora_dropout.values()
    return isinstance(dropout, nn.Dropout | nn.Identity)


class FusedLinear(Linear):
    """peft's LoRA layer, computed by `adapted`; it falls back on peft's forward whenever its state asks for more."""

    base_layer: nn.Linear

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args or kwargs or not self.is_fused:
            return super().forward(x, *args, **kwargs)
        x = x.to(self.base_layer.weight.dtype)
        return adapted(x, self.weights(x), self.factor)

    @property
    def is_fused(self) -> bool:
        """Does one adapter apply, as it does in training?"""
        alone = len(self.lora_A) == 1 and [*self.lora_A] == self.active_adapters
        return alone and not self.disable_adapters and not self.merged

    @property
    def rate(self) -> float:
        dropout = self.lora_dropout[self.active_adapters[0]]
        return dropout.p if self.training and isinstance(dropout, nn.Dropout) else 0.0

    @property
    def factor(self) -> float:
        """What B's part counts: LoRA's scaling, and what dropout makes up for."""
        scaling: float = self.scaling[self.active_adapters[0]]
        return scaling / (1 - self.rate)

    def weights(self, x: Tensor) -> Weights:
        """The layer's weights for an input, with the mask of its dropout drawn."""
        base, name = self.base_layer, self.active_adapters[0]
        a, b = cast(nn.Linear, self.lora_A[name]), cast(nn.Linear, self.lora_B[name])
        keep = kept(x, self.rate) if self.rate else None
        return Weights(base.weight, base.bias, a.weight, b.weight, keep)


def adapted(x: Tensor, weights: Weights, factor: float) -> Tensor:
    """x W^T + bias + factor ((keep x) A^T) B^T: (..., I) -> (..., O), in the dtype of x and W.

    Differentiable in x, a and b.
    """
    out: Tensor = _Adapted.apply(x, factor, *weights)
    return out


def kept(x: Tensor, rate: float) -> Tensor:
    """Booleans of x's shape, false with probability `rate`, by torch's default generator.

    On a CPU from 16 random bits an element: bernoulli_ takes four times as long. The rate is right to 1 / 131,072.
    """
    if x.device.type != "cpu":
        return torch.empty_like(x, dtype=torch.bool).bernoulli_(1 - rate)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.int16)[: x.numel()].view(x.shape)
    return bits >= round(rate * 2**16) - 2**15


def forward(x: Tensor, weights: Weights, factor: float) -> tuple[Tensor, Tensor]:
    """(T, I) -> (T, O), and the adapter's (T, r) between A and B, which `backward` needs."""
    weight, bias, a, b, keep = weights
    inner = (x if keep is None else x * keep.view_as(x)) @ a.to(x.dtype).t()
    out = functional.linear(x, weight, bias)
    return out.addmm_(inner, (b * factor).to(x.dtype).t()), inner


def backward(
    grad: Tensor, x: Tensor, inner: Tensor, weights: Weights, factor: float, wants_x: bool, total: Tensor | None = None
) -> tuple[Tensor | None, Tensor, Tensor]:
    """The gradients for x (added to `total`, if there is one), a and b, from those for `forward`'s output."""
    weight, _, a, b, keep = weights
    for_inner = grad @ (b * factor).to(grad.dtype)
    if wants_x:
        total = grad @ weight if total is None else total.addmm_(grad, weight)
        if keep is None:
            total.addmm_(for_inner, a.to(grad.dtype))
        else:
            total.addcmul_(for_inner @ a.to(grad.dtype), keep.view_as(total))
    for_a = for_inner.t() @ (x if keep is None else x * keep.view_as(x))
    return total, for_a.to(a.dtype), (grad.t() @ inner).to(b.dtype) * factor


class _Adapted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float, *weights: Any) -> Tensor:
        out, inner = forward(x.reshape(-1, x.shape[-1]), Weights(*weights), factor)
        ctx.save_for_backward(x, inner, *weights)
        ctx.factor = factor
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, inner, *weights = ctx.saved_tensors
        flat, grads = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
        for_x, for_a, for_b = backward(grads, flat, inner, Weights(*weights), ctx.factor, ctx.needs_input_grad[0])
        return None if for_x is None else for_x.view_as(x), None, None, None, for_a, for_b, None
