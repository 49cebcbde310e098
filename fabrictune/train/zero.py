"""DeepSpeed's ZeRO: what is divided among the ranks, and what waits in the machine's memory."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Elements of the buffers in which tensors travel: 0.4 GB each in bfloat16; DeepSpeed's default is 2.5 times that.
BUCKET = 200_000_000
LIVE = 1_000_000_000  # parameters gathered at a time under stage 3: 2 GB in bfloat16


def problems(stage: int, offload: str, on_gpu: bool) -> list[str]:
    """What speaks against this combination, on this machine too, as sentences."""
    found = []
    if offload == "optimizer" and stage < 1:
        found.append("launcher.offload=optimizer moves what ZeRO divides, so it needs launcher.zero=1, 2 or 3")
    if offload == "parameters" and stage != 3:
        found.append(f"launcher.offload=parameters needs launcher.zero=3, where parameters are divided, not {stage}")
    if offload != "none" and on_gpu:
        missing = [name for name in (os.environ.get("CXX", "g++"), "ninja") if shutil.which(name) is None]
        if missing:
            found.append(
                f"launcher.offload={offload} builds DeepSpeed's CPU Adam at its first start, which needs "
                f"{' and '.join(missing)}: not on the PATH; install it, or give launcher.offload=none"
            )
    if offload != "none" and not on_gpu:
        found.append(f"launcher.offload={offload} moves what lies on a GPU, and this machine has none")
    return found


def settings(stage: int, offload: str = "none", bf16: bool = True, on_gpu: bool = True) -> dict[str, Any]:
    """DeepSpeed's configuration for HF's TrainingArguments(deepspeed=...), whose `bf16` must be the same.

    stage: 0 divides nothing among the ranks, 1 the optimizer's state, 2 gradients too, 3 parameters too. What is "auto"
    the Trainer fills in. The optimizer is the Trainer's, which needs no compiler; only one that is kept in a GPU
    machine's memory is DeepSpeed's own.
    """
    found: dict[str, Any] = {
        "bf16": {"enabled": bf16},
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_optimization": {"stage": stage} | _division(stage) | _offloads(offload, on_gpu),
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2_000,
        "wall_clock_breakdown": False,
    }
    if offload != "none" and on_gpu:
        parameters = dict.fromkeys(("lr", "betas", "eps", "weight_decay"), "auto")
        found["optimizer"] = {"type": "AdamW", "params": parameters}
    return found


def _division(stage: int) -> dict[str, Any]:
    """How tensors travel between the ranks."""
    if stage == 0:
        return {}
    if stage < 3:
        return {
            "overlap_comm": True,
            "contiguous_gradients": True,
            "reduce_scatter": True,
            "reduce_bucket_size": BUCKET,
            "allgather_partitions": True,
            "allgather_bucket_size": BUCKET,
        }
    return {
        "overlap_comm": True,
        "contiguous_gradients": True,
        "sub_group_size": LIVE,
        "reduce_bucket_size": "auto",  # from the hidden size
        "stage3_prefetch_bucket_size": "auto",
        "stage3_param_persistence_threshold": "auto",
        "stage3_max_live_parameters": LIVE,
        "stage3_max_reuse_distance": LIVE,
        "stage3_gather_16bit_weights_on_model_save": True,
    }


def _offloads(offload: str, on_gpu: bool) -> dict[str, Any]:
    kept = {"device": "cpu", "pin_memory": on_gpu}
    parts = {"none": (), "optimizer": ("optimizer",), "parameters": ("optimizer", "param")}[offload]
    return {f"offload_{part}": dict(kept) for part in parts}


def repair_rotary(model: torch.nn.Module) -> int:
    """Computes the frequencies of rotary positions anew, in float32; returns how many modules have them.

    Loading a bfloat16 model under ZeRO-3 rounds them to bfloat16, 0.33 % off: after 2,048 tokens the loss of
    SmolLM2-135M was 1.2011 instead of 1.1909. Nothing changes in a model that was loaded otherwise.
    """
    repaired = 0
    for module in model.modules():
        if "Rotary" in type(module).__name__ and hasattr(module, "config"):
            fresh = type(module)(module.config)
            for name, buffer in fresh.named_buffers(recurse=False):
                setattr(module, name, buffer.to(getattr(module, name).device))
            repaired += 1
    return repaired
