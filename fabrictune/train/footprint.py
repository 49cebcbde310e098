"""What a model's parameters and its two passes over a row weigh, counted on the meta device: no weights, no GPU.

The model is built from its config as training builds it, adapter included, and runs forward and backward on tensors
without data; every storage that comes to life is counted until it dies. So the count follows the code of transformers,
peft and `models.attach`, where a closed formula (Korthikanti et al. 2022, section 4.1) would have to be kept in step.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CONFIG_MAPPING, AttentionInterface, AutoModelForCausalLM, PreTrainedConfig
from transformers.masking_utils import AttentionMaskInterface

from fabrictune.model import models

ATTENTION = "fabrictune_footprint"
META = torch.device("meta")
# Beyond these layers each one adds what the one before it added, so a deep model costs no more to count.
LAYERS = 2
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters: of the frozen `base`, and `trainable` ones.

    `matrices` are multiplied with every token, `head` where there is loss; `linear` is the largest single one of
    `matrices`, `largest` the largest part that ZeRO-3 gathers at once (a layer or an embedding). `width` is the sum
    over the layers of all query heads' dimensions, `vocabulary` the number of logits, `hidden` that of a hidden state.
    """

    base: int
    trainable: int
    matrices: int
    head: int
    linear: int
    largest: int
    width: int
    vocabulary: int
    hidden: int


@dataclass(frozen=True)
class Footprint:
    """Bytes of two passes over `tokens`: `kept` from forward for backward, and `working`, the most there is besides."""

    tokens: int
    kept: int
    working: int


def settings_of(architecture: Mapping[str, Any] | Path) -> dict[str, Any]:
    """The values of a model's config.json, given as they are or by the folder that has it.

    Raises ValueError if transformers has no such dense model.
    """
    place, known = "model.architecture", architecture
    if isinstance(known, Path):
        place = str(known / "config.json")
        known = json.loads(Path(place).read_text(encoding="utf-8"))
    kind = known.get("model_type")
    if kind not in CONFIG_MAPPING:
        raise ValueError(f"{place}: transformers has no model type '{kind}'")
    if any(known.get(name) for name in EXPERTS):
        raise ValueError(f"{place}: '{kind}' is a mixture of experts; only dense models are estimated")
    return dict(known)


def parameters(architecture: Mapping[str, Any] | Path, rank: int, targets: str | list[str]) -> Parameters:
    """Counts of the model with its adapter. Raises as `settings_of` does, and as peft does if no layer is targeted."""
    config = _config(settings_of(architecture))
    model = _empty_model(config, torch.bfloat16)
    base = sum(parameter.numel() for parameter in model.parameters())
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    linear = [m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    layers = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))
    largest = max(embedding.numel(), *(sum(p.numel() for p in layer.parameters()) for layer in layers))
    adapted = _attach(model, rank, 0.0, targets)
    depth = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Parameters(
        base=base,
        trainable=sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad),
        matrices=sum(linear),
        head=head.weight.numel(),
        linear=max(linear),
        largest=largest,
        width=config.num_hidden_layers * config.num_attention_heads * depth,
        vocabulary=config.vocab_size,
        hidden=config.hidden_size,
    )


def of_row(
    architecture: Mapping[str, Any] | Path,
    tokens: int,
    rank: int,
    dropout: float,
    targets: str | list[str],
    dtype: str,
    checkpointing: bool,
    quantization: str = "none",
) -> Footprint:
    """Bytes of a row of `tokens` through all layers, without the head, as a GPU has them.

    Attention keeps what fused kernels (flash, flex) keep: queries, keys, values, outputs and a float32 a query and
    head. The adapter computes in `dtype`; on a quantised base it keeps more, since only a plain one has it fused. On a
    CPU `kernels` keep less than this.
    """
    settings = settings_of(architecture)
    layers = _config(settings).num_hidden_layers

    def passes(depth: int) -> tuple[int, int]:
        model = _cut(settings, depth, dtype)
        if quantization != "none":
            for module in model.base_model.modules():
                if type(module) is torch.nn.Linear:
                    module.__class__ = _Packed
        _attach(model, rank, dropout, targets).to(getattr(torch, dtype))
        return _passes(model, tokens, checkpointing)

    first = min(LAYERS, layers)
    kept, peak = passes(first)
    if layers > first:
        next_kept, next_peak = passes(first + 1)
        kept, peak = kept + (layers - first) * (next_kept - kept), peak + (layers - first) * (next_peak - peak)
    return Footprint(tokens, kept, peak - kept)


def _cut(settings: Mapping[str, Any], layers: int, dtype: str) -> Any:
    """The model with its first layers only."""
    kinds = settings.get("layer_types")
    cut = {**settings, "num_hidden_layers": layers, **({"layer_types": kinds[:layers]} if kinds else {})}
    return _empty_model(_config(cut), getattr(torch, dtype))


def _passes(model: Any, tokens: int, checkpointing: bool) -> tuple[int, int]:
    """Bytes alive after the model's forward pass, and the most alive at any moment of it and the backward pass."""
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    ids = torch.zeros(1, tokens, dtype=torch.long, device=META)
    inputs = {"input_ids": ids, "position_ids": ids, "attention_mask": torch.empty(1, 1, 1, 1, device=META)}
    with _Storages(model) as storages:
        hidden = model.base_model(**inputs, use_cache=False).last_hidden_state
        kept = storages.alive
        hidden.backward(torch.empty_like(hidden))
    return kept, storages.peak


def _config(settings: Mapping[str, Any]) -> PreTrainedConfig:
    return CONFIG_MAPPING[settings["model_type"]].from_dict(dict(settings))


def _empty_model(config: PreTrainedConfig, dtype: torch.dtype) -> Any:
    with META:
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=ATTENTION)


def _attach(model: Any, rank: int, dropout: float, targets: str | list[str]) -> torch.nn.Module:
    with META:
        return models.attach(model, rank, float(rank), dropout, 0, targets)


class _Packed(torch.nn.Linear):
    """A linear layer that is not plain, as bitsandbytes' are."""


class _Storages(TorchDispatchMode):
    """Bytes of the storages that operations make, other than a model's own: `alive` now, and the `peak`."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        own = [*model.parameters(), *model.buffers()]
        self.known = {tensor.untyped_storage()._cdata for tensor in own}
        self.alive = self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self.known:
            self.known.add(key)
            self.alive += storage.nbytes()
            self.peak = max(self.peak, self.alive)
            weakref.finalize(storage, self._drop, key, storage.nbytes())

    def _drop(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.alive -= size


class _Fused(torch.autograd.Function):
    """The shapes that a fused attention kernel keeps and returns."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        output = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, output, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


def _attention(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **_: Any
) -> tuple[torch.Tensor, None]:
    output: torch.Tensor = _Fused.apply(query, key, value)
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, lambda *_, **__: None)
