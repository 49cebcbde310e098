"""What this machine can compute with, and which switch falls back to what.

The choices are a pure function of what is wanted and what is there, so that each of them is tested without a GPU.
None has been run on a GPU yet; 4 bits and 8-bit AdamW have run on a CPU.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from transformers.utils import is_bitsandbytes_available, is_flash_attn_2_available, is_liger_kernel_available

from fabrictune.train import attention

# transformers' names for train.attention and train.optimizer.
ATTENTIONS = {"tree": attention.NAME, "flex": "flex_attention", "sdpa": "sdpa", "flash": "flash_attention_2"}
OPTIMIZERS = {"adamw": "adamw_torch", "adamw_fused": "adamw_torch_fused", "adamw_8bit": "adamw_bnb_8bit"}

AMPERE = (8, 0)  # the first CUDA devices that compute in bfloat16, and the first that flash-attn 2 runs on
VOLTA = (7, 0)  # the first that Triton compiles for


@dataclass(frozen=True)
class Machine:
    """`capability` is the CUDA compute capability of its weakest GPU, `memory` the bytes of its smallest one.

    Both are None without a GPU. `packages` are the optional ones that are installed.
    """

    capability: tuple[int, int] | None = None
    packages: frozenset[str] = frozenset()
    compiler: bool = True
    memory: int | None = None


@dataclass(frozen=True)
class Wanted:
    """Switches as the config has them. `zero` is DeepSpeed's stage, None under another launcher."""

    attention: str = "auto"
    packing: str = "tree"
    optimizer: str = "auto"
    liger: bool = False
    quantization: str = "none"
    dtype: str = "bfloat16"
    zero: int | None = None


@dataclass(frozen=True)
class Resolved:
    """`attention` and `optimizer` under transformers' names; `notes` are sentences on what `auto` fell back to."""

    attention: str
    optimizer: str
    liger: bool
    quantization: str
    notes: tuple[str, ...]


def machine() -> Machine:
    """What is here. Wakes CUDA, which takes some hundred MB of every GPU's memory: ask in a rank, not in its parent."""
    gpus = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    installed = {
        "flash-attn": is_flash_attn_2_available(),
        "liger-kernel": is_liger_kernel_available(),
        "bitsandbytes": is_bitsandbytes_available(),
        "triton": find_spec("triton") is not None,
    }
    return Machine(
        capability=min(map(torch.cuda.get_device_capability, gpus), default=None),
        packages=frozenset(name for name, there in installed.items() if there),
        compiler="CC" in os.environ or any(map(shutil.which, ("clang", "gcc"))),  # as triton looks for one
        memory=min((torch.cuda.get_device_properties(gpu).total_memory for gpu in gpus), default=None),
    )


def resolve(wanted: Wanted, machine: Machine) -> Resolved:
    """What each switch becomes on the machine. `auto` falls back, with a note.

    Raises ValueError, naming the way out, for a switch that was asked for by name and cannot be had.
    """
    if wanted.dtype == "bfloat16" and machine.capability is not None and machine.capability < AMPERE:
        raise ValueError(
            f"model.dtype is bfloat16, which a GPU of compute capability {_dotted(machine.capability)} cannot compute "
            f"in ({_dotted(AMPERE)} and above can); give model.dtype=float32"
        )
    chosen, notes = _attention(wanted, machine)
    for key, value, problem in (
        ("attention", chosen, _attention_problem(chosen, wanted, machine)),
        ("optimizer", wanted.optimizer, _optimizer_problem(wanted.optimizer, machine)),
        ("liger", wanted.liger, _liger_problem(machine) if wanted.liger else None),
        ("quantization", wanted.quantization, _quantization_problem(wanted, machine)),
    ):
        if problem:
            raise ValueError(f"train.{key} is {str(value).lower()}, but {problem}")
    # torch's fused AdamW runs on CUDA and on a CPU, there in a third of the time of the plain one (2.0 against 5.9 ms
    # for 3 million parameters, one thread).
    optimizer = "adamw_fused" if wanted.optimizer == "auto" else wanted.optimizer
    return Resolved(ATTENTIONS[chosen], OPTIMIZERS[optimizer], wanted.liger, wanted.quantization, notes)


def _attention(wanted: Wanted, machine: Machine) -> tuple[str, tuple[str, ...]]:
    """The attention for the machine, the first of the best that can be had, and a note on each better one."""
    if wanted.attention != "auto":
        return wanted.attention, ()
    if machine.capability is None:
        return "tree", ()
    notes: list[str] = []
    for best in ("flex",) if wanted.packing == "tree" else ("flash", "flex"):
        problem = _attention_problem(best, wanted, machine)
        if not problem:
            return best, tuple(notes)
        notes.append(f"attention: not {best}: {problem}")
    return "sdpa", (*notes, "attention: sdpa, whose mask takes memory with the square of train.row_tokens")


def _attention_problem(name: str, wanted: Wanted, machine: Machine) -> str | None:
    """Why this attention cannot be had, with the way out."""
    if name == "flash":
        return _flash_problem(wanted, machine)
    if name != "flex":
        return None
    if machine.capability is None:
        return "there is no CUDA GPU, and flex_attention has no backward pass on a CPU; give train.attention=tree"
    if machine.capability < VOLTA:
        return (
            f"Triton compiles for compute capability {_dotted(VOLTA)} and above, and the GPU has "
            f"{_dotted(machine.capability)}; give train.attention=sdpa"
        )
    if "triton" not in machine.packages:
        return "triton, which compiles it, is not installed: pip install triton; or give train.attention=sdpa"
    if not machine.compiler:
        return "triton finds no C compiler (gcc, clang, or the variable CC): install one, or give train.attention=sdpa"
    return None


def _flash_problem(wanted: Wanted, machine: Machine) -> str | None:
    if wanted.packing == "tree":
        return "it knows no prefix tree; give train.packing=flat, or train.attention=flex"
    if machine.capability is None:
        return "there is no CUDA GPU; give train.attention=auto"
    if machine.capability < AMPERE:
        return (
            f"it needs compute capability {_dotted(AMPERE)}, and the GPU has {_dotted(machine.capability)}; "
            "give train.attention=flex"
        )
    if wanted.dtype != "bfloat16":
        return f"it does not compute in {wanted.dtype}; give model.dtype=bfloat16, or train.attention=flex"
    if "flash-attn" not in machine.packages:
        return "flash-attn is not installed: pip install flash-attn --no-build-isolation; or give train.attention=flex"
    return None


def _optimizer_problem(name: str, machine: Machine) -> str | None:
    if name == "adamw_8bit" and "bitsandbytes" not in machine.packages:
        return "bitsandbytes is not installed: pip install bitsandbytes; or give train.optimizer=auto"
    return None


def _liger_problem(machine: Machine) -> str | None:
    if machine.capability is None:
        return "Liger's kernels need a CUDA GPU; give train.liger=false"
    if "liger-kernel" not in machine.packages:
        return "liger-kernel is not installed: pip install liger-kernel; or give train.liger=false"
    return None


def _quantization_problem(wanted: Wanted, machine: Machine) -> str | None:
    if wanted.quantization == "none":
        return None
    if "bitsandbytes" not in machine.packages:
        return "bitsandbytes is not installed: pip install bitsandbytes; or give train.quantization=none"
    if wanted.zero == 3:
        return "ZeRO-3 divides weights among the ranks, which 4-bit weights do not bear; give launcher.zero=2"
    return None


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))
