"""Fewer passes over memory for the rest of a Llama's layer on a CPU: its norms and its gated MLP.

transformers computes a norm in seven float32 passes and keeps two float32 copies of its input; autograd keeps four
tensors as wide as the MLP where two are enough.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers.activations import SiLUActivation
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralMLP, MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP, Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP, Qwen3RMSNorm

from fabrictune.model import lora

# Classes whose forwards are the same to the letter; others keep their own.
NORMS = (LlamaRMSNorm, MistralRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm)
MLPS = (LlamaMLP, MistralMLP, Qwen2MLP, Qwen3MLP)


def fuse(model: nn.Module) -> int:
    """Gives the norms and the fully adapted MLPs of a model on a CPU the forwards below; returns how many got one."""
    found = 0
    for module in model.modules():
        own: Callable[..., Tensor]
        if "forward" in vars(module):  # Liger's, which it puts there
            continue
        if type(module) in NORMS and not module.weight.requires_grad:
            own = _norm
        elif type(module) in MLPS and _is_adapted(module):
            own = _mlp
        else:
            continue
        module.forward = MethodType(own, module)
        found += 1
    return found


def _is_adapted(mlp: nn.Module) -> bool:
    layers = (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    return isinstance(mlp.act_fn, SiLUActivation) and all(isinstance(layer, lora.FusedLinear) for layer in layers)


def _norm(norm: Any, x: Tensor) -> Tensor:
    is_ours = x.device.type == "cpu"
    out: Tensor = _Norm.apply(x, norm.weight, norm.variance_epsilon) if is_ours else type(norm).forward(norm, x)
    return out


class _Norm(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, in float32 inside; the weight counts as frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.to(torch.float32, copy=True)
        norms = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = norms.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return wide.mul_(scale).mul_(weight.float()).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        unit = x.float() * scale
        slope = grad.float() * weight.float()
        share = torch.linalg.vecdot(slope, unit).div_(-x.shape[-1])[..., None]
        return slope.addcmul_(unit, share).mul_(scale).to(x.dtype), None, None


def _mlp(mlp: Any, x: Tensor) -> Tensor:
    layers: tuple[lora.FusedLinear, ...] = (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    out: Tensor
    if x.device.type != "cpu" or not all(layer.is_fused for layer in layers):
        out = type(mlp).forward(mlp, x)
        return out
    flat = x.to(mlp.up_proj.base_layer.weight.dtype).reshape(-1, x.shape[-1])
    like = flat.new_empty(1).expand(len(flat), mlp.down_proj.in_features)
    weights = [layer.weights(seen) for layer, seen in zip(layers, (flat, flat, like), strict=True)]
    out = _Gated.apply(flat, [layer.factor for layer in layers], *chain.from_iterable(weights))
    return out.view(x.shape)


class _Gated(torch.autograd.Function):
    """down(silu(gate(x)) * up(x)), each with its adapter; keeps x, gate and up, and makes the rest again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factors: list[float], *tensors: Any) -> Tensor:
        gate, up, down = (lora.Weights(*part) for part in (tensors[place : place + 5] for place in (0, 5, 10)))
        gates, gate_inner = lora.forward(x, gate, factors[0])
        ups, up_inner = lora.forward(x, up, factors[1])
        out, down_inner = lora.forward(functional.silu(gates).mul_(ups), down, factors[2])
        ctx.save_for_backward(x, gates, ups, gate_inner, up_inner, down_inner, *tensors)
        ctx.factors = factors
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gates, ups, gate_inner, up_inner, down_inner, *tensors = ctx.saved_tensors
        gate, up, down = (lora.Weights(*part) for part in (tensors[place : place + 5] for place in (0, 5, 10)))
        active = functional.silu(gates)
        slope: Any  # a tensor, since it is asked for
        slope, *for_down = lora.backward(grad, active * ups, down_inner, down, ctx.factors[2], True)
        wants_x = ctx.needs_input_grad[0]
        total, *for_up = lora.backward(active.mul_(slope), x, up_inner, up, ctx.factors[1], wants_x)
        slope = torch.ops.aten.silu_backward(slope.mul_(ups), gates)
        total, *for_gate = lora.backward(slope, x, gate_inner, gate, ctx.factors[0], wants_x, total)
        return total, None, *(entry for pair in (for_gate, for_up, for_down) for entry in (None, None, *pair, None))
