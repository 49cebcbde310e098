"""What a training run will need, estimated: memory a GPU, floating point operations, hours."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fabrictune.train import loss, zero
from fabrictune.train.footprint import Footprint, Parameters

GIB = 2**30
# Of the card's memory the driver keeps some: torch sees 79.1 of an A100's 80 GiB, 23.5 of an RTX 4090's 24.
CARDS = {24: int(23.5 * GIB), 40: int(39.4 * GIB), 80: int(79.1 * GIB)}
ASSUMED = 80  # the card that is asked for where no GPU is here to be asked: the tutorial's
CONTEXT = GIB  # CUDA's context, kernels, cuBLAS' and NCCL's buffers
# What the allocator cannot use for rounding and fragments, of what comes and goes within a step.
FRAGMENTS = 0.1
LOGIT_BYTES = 8  # itself in bfloat16, its share of the softmax in float32 and in bfloat16
NF4_BYTES = 0.516  # 4 bits, and a constant of 8 bits for 64 weights (QLoRA, Dettmers et al. 2023, section 3)
ADAM_BYTES = 8  # two moments in float32


@dataclass(frozen=True)
class Device:
    """`peak` dense bfloat16 operations a second, and the share of them that training is assumed to reach."""

    peak: float
    utilisation: float


# Peaks: NVIDIA's data sheets, SXM. The A100's share: Qwen's README gives seconds of LoRA on Qwen-7B, one A100 and
# checkpointing, which are 0.44, 0.48 and 0.49 of the peak for rows of 2,048, 4,096 and 8,192 tokens (0.23 for 256). The
# H100's: MosaicML's table has 7B models at 0.46 of its peak and at 0.64 of the A100's, so it is 0.72 of the A100's.
DEVICES = {"A100-80GB": Device(312e12, 0.40), "H100-80GB": Device(989e12, 0.29)}
# The tutorial's own run: 90,500 rows twice on 8 A100s in 2 h 14 min, start and end of everything. At 430 tokens a row
# (its data's published means, weighted) that is 0.16 of the peak: short rows, padded, and evaluations among them.


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU at the fullest moment of a step, under ZeRO `stage` (None: no DeepSpeed).

    `activations` are kept for the backward pass, `working` comes and goes beside them, `gathered` are ZeRO-3's
    parameters put together, `buckets` those of the ranks' communication, `fragments` what the allocator loses.
    `host` is what a rank keeps in the machine's memory instead, and no part of the total.
    """

    stage: int | None
    offload: str
    base: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    working: int
    gathered: int
    buckets: int
    fragments: int
    context: int
    host: int

    @property
    def total(self) -> int:
        return sum(getattr(self, part) for part in PARTS)

    @property
    def card(self) -> int | None:
        """The smallest of `CARDS`, in GB, that holds it."""
        return next((size for size, usable in CARDS.items() if self.total <= usable), None)

    @property
    def label(self) -> str:
        ways = {"none": "", "optimizer": ", optimizer offloaded", "parameters": ", parameters and optimizer offloaded"}
        return ("no ZeRO" if self.stage is None else f"ZeRO-{self.stage}") + ways[self.offload]


PARTS = {
    "base": "frozen base",
    "adapter": "adapter",
    "gradients": "its gradients",
    "optimizer": "its optimizer states",
    "activations": "activations kept",
    "working": "working memory",
    "gathered": "gathered parameters",
    "buckets": "communication buckets",
    "fragments": "lost to fragments",
    "context": "CUDA itself",
}


def memory(
    parameters: Parameters,
    footprint: Footprint,
    gpus: int,
    stage: int | None = None,
    offload: str = "none",
    dtype: str = "bfloat16",
    quantization: str = "none",
    moments: float = ADAM_BYTES,
    logits: int = loss.GPU_LOGITS,
) -> Memory:
    """Bytes of one of `gpus` GPUs for a row of `footprint`; shards as in the ZeRO paper (Rajbhandari et al. 2020).

    Only the adapter has gradients and optimizer states (`moments` bytes a parameter), so stages 1 and 2 shard little;
    stage 3 shards the frozen base too and gathers `zero.LIVE` parameters of it at a time. `offload` is none, optimizer
    or parameters (which offloads both). DeepSpeed keeps the adapter in `dtype` with a float32 copy in the optimizer,
    and allocates its buckets whole however few gradients there are. `logits` bounds those that are there at a time.
    """
    size = 4 if dtype == "float32" else 2
    shards = [gpus if (stage or 0) >= first else 1 for first in range(4)]  # of what a stage begins to divide
    copied = stage is not None and size == 2
    base = _base_bytes(parameters, size, quantization) // shards[3]
    optimizer = round(parameters.trainable * (moments + 4 * copied)) // shards[1]
    at_once = min(parameters.base, max(parameters.largest, zero.LIVE)) * size if stage == 3 else 0
    unpacked = parameters.linear * size if quantization != "none" else 0
    loss_bytes = min(logits, footprint.tokens * parameters.vocabulary) * LOGIT_BYTES
    working = max(footprint.working, loss_bytes) + unpacked
    away = {"none": 0, "optimizer": optimizer, "parameters": optimizer + base}[offload]
    return Memory(
        stage,
        offload,
        base=0 if offload == "parameters" else base,
        adapter=parameters.trainable * (2 if copied else 4) // shards[3],
        gradients=parameters.trainable * (2 if copied else 4) // shards[2],
        optimizer=0 if away else optimizer,
        activations=footprint.kept,
        working=working,
        gathered=at_once,
        buckets=_bucket_bytes(parameters, gpus, stage, size),
        fragments=round(FRAGMENTS * (footprint.kept + working + at_once)),
        context=CONTEXT,
        host=away,
    )


def stages(parameters: Parameters, footprint: Footprint, gpus: int, **options: Any) -> list[Memory]:
    """`memory` of all ZeRO stages, those that offload among them; `options` are its own."""
    ways = [(0, "none"), (1, "none"), (2, "none"), (2, "optimizer"), (3, "none"), (3, "parameters")]
    return [memory(parameters, footprint, gpus, stage, offload, **options) for stage, offload in ways]


def card(memory: int | None) -> tuple[int, str]:
    """The bytes to compute in of the GPUs in question, and their name: those here, of which the smallest has `memory`.

    Where there is none, a card of ASSUMED GB.
    """
    if memory is not None:
        return memory, f"the {gib(memory)} GiB of the smallest GPU here"
    return CARDS[ASSUMED], f"a card of {ASSUMED} GB, taken since no GPU is here"


def problems(chosen: Memory, others: Iterable[Memory], here: int | None = None) -> list[str]:
    """A sentence if the chosen way does not fit the `card` of a machine with `here` bytes, with the ways that do."""
    usable, name = card(here)
    if chosen.total <= usable:
        return []
    fitting = [other.label for other in others if other.total <= usable]
    way = f"what fits: {'; '.join(fitting)}" if fitting else "no ZeRO stage does; choose fewer train.row_tokens"
    if not fitting:
        way += ", train.gradient_checkpointing=true, train.quantization=nf4, or more GPUs"
    need = f"{chosen.label} needs about {gib(chosen.total)} GiB a GPU"
    return [f"{need}, which does not fit {name}; {way}"]


def forward_flops(parameters: Parameters, tokens: int, terms: int, pairs: int) -> int:
    """Operations of a forward pass over `tokens` with `terms` loss terms.

    `pairs` are the (query, key) pairs attended to: the sum over the tokens of depth + 1. Two operations a weight and
    token, four a pair and dimension (Korthikanti et al. 2022, appendix A, without its T^2).
    """
    adapted = parameters.matrices + parameters.trainable
    return 2 * adapted * tokens + 2 * parameters.head * terms + 4 * parameters.width * pairs


def flops(parameters: Parameters, tokens: int, terms: int, pairs: int, checkpointing: bool) -> int:
    """Operations of training on that much: forward, backward, and with checkpointing forward once more.

    A frozen weight costs as much backward as forward (the gradient of its input only), one of the adapter twice that;
    fused attention computes its scores again, so it costs 2.5 times as much backward.
    """
    forward = forward_flops(parameters, tokens, terms, pairs)
    backward = 2 * (parameters.matrices + 2 * parameters.trainable) * tokens
    backward += 2 * parameters.head * terms + 10 * parameters.width * pairs
    again = forward_flops(parameters, tokens, 0, pairs) if checkpointing else 0
    return forward + backward + again


def hours(operations: int, gpus: int, device: str) -> float:
    """Hours of computing on so many GPUs at the assumed share of their peak; loading and saving come on top."""
    return operations / (gpus * DEVICES[device].peak * DEVICES[device].utilisation) / 3600


def gib(size: int) -> str:
    """So many bytes, in GiB."""
    return f"{size / GIB:.2f}"


def _base_bytes(parameters: Parameters, size: int, quantization: str) -> int:
    if quantization == "none":
        return parameters.base * size
    return round(parameters.matrices * NF4_BYTES) + (parameters.base - parameters.matrices) * size


def _bucket_bytes(parameters: Parameters, gpus: int, stage: int | None, size: int) -> int:
    """Of the buffers in which tensors travel, as `zero.settings` has them; two where communication overlaps."""
    if stage is None:
        return parameters.trainable * 4 if gpus > 1 else 0
    elements = {0: 0, 1: 2 * zero.BUCKET, 2: 2 * zero.BUCKET, 3: 3 * parameters.hidden**2}
    return elements[stage] * size
