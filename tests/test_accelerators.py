"""Each switch becomes what the machine can do, falls back with a note, or is refused with the way out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from transformers.training_args import OptimizerNames

from fabrictune.model import models
from fabrictune.model.encoding import Encoded
from fabrictune.train import accelerators, loss, packing
from fabrictune.train.accelerators import Machine, Wanted, resolve

ALL = frozenset({"flash-attn", "liger-kernel", "bitsandbytes", "triton"})
CPU = Machine(packages=ALL)
A100 = Machine((8, 0), ALL)
V100 = Machine((7, 0), ALL)
P100 = Machine((6, 0), ALL)
FLOAT = Wanted(dtype="float32")


def without(machine: Machine, package: str) -> Machine:
    return dataclasses.replace(machine, packages=machine.packages - {package})


@pytest.mark.parametrize(
    ("wanted", "machine", "attention", "noted"),
    [
        (Wanted(), CPU, "fabrictune_tree", []),
        (Wanted(packing="flat"), CPU, "fabrictune_tree", []),
        (Wanted(), A100, "flex_attention", []),
        (Wanted(), without(A100, "flash-attn"), "flex_attention", []),
        (Wanted(packing="flat"), A100, "flash_attention_2", []),
        (Wanted(packing="none"), A100, "flash_attention_2", []),
        (Wanted(packing="flat"), without(A100, "flash-attn"), "flex_attention", ["not flash: flash-attn is not inst"]),
        (Wanted(packing="flat", dtype="float32"), A100, "flex_attention", ["not flash: it does not compute in float"]),
        (Wanted(), without(A100, "triton"), "sdpa", ["not flex: triton, which compiles it,", "memory with the square"]),
        (Wanted(), dataclasses.replace(A100, compiler=False), "sdpa", ["not flex: triton finds no C compiler", "sdpa"]),
        (FLOAT, V100, "flex_attention", []),
        (FLOAT, P100, "sdpa", ["not flex: Triton compiles for compute capability 7.0 and above, and the", "sdpa"]),
        (Wanted(packing="flat", dtype="float32"), P100, "sdpa", ["not flash", "not flex", "sdpa"]),
    ],
)
def test_auto_takes_the_best_attention_of_the_machine_and_notes_what_it_does_without(
    wanted: Wanted, machine: Machine, attention: str, noted: list[str]
) -> None:
    resolved = resolve(wanted, machine)
    assert resolved.attention == attention
    assert len(resolved.notes) == len(noted)
    assert all(part in note for part, note in zip(noted, resolved.notes, strict=True)), resolved.notes


@pytest.mark.parametrize(
    ("wanted", "machine", "sentence"),
    [
        (Wanted(attention="flex"), CPU, "train.attention is flex, but .* no backward pass on a CPU; .*attention=tree"),
        (Wanted(attention="flex"), without(A100, "triton"), "triton.* is not installed: pip install triton"),
        (Wanted(attention="flash"), A100, "is flash, but it knows no prefix tree; give train.packing=flat"),
        (Wanted(attention="flash", packing="flat"), CPU, "there is no CUDA GPU; give train.attention=auto"),
        (Wanted(attention="flash", packing="flat"), without(A100, "flash-attn"), "pip install flash-attn"),
        (Wanted(attention="flash", packing="flat", dtype="float32"), V100, "8.0, and the GPU has 7.0; .*=flex"),
        (Wanted(liger=True), CPU, "train.liger is true, but Liger's kernels need a CUDA GPU; give train.liger=false"),
        (Wanted(liger=True), without(A100, "liger-kernel"), "pip install liger-kernel; or give train.liger=false"),
        (Wanted(optimizer="adamw_8bit"), without(A100, "bitsandbytes"), "optimizer is adamw_8bit, .*optimizer=auto"),
        (Wanted(quantization="nf4"), without(A100, "bitsandbytes"), "pip install bitsandbytes; .*quantization=none"),
        (Wanted(quantization="nf4", zero=3), A100, "quantization is nf4, but ZeRO-3 .*; give launcher.zero=2"),
        (Wanted(), V100, "model.dtype is bfloat16, .* 7.0 cannot compute in .*; give model.dtype=float32"),
    ],
)
def test_a_switch_that_cannot_be_had_is_refused_with_the_way_out(
    wanted: Wanted, machine: Machine, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        resolve(wanted, machine)


def test_a_switch_given_by_name_is_kept() -> None:
    wanted = Wanted("flash", "none", "adamw_8bit", liger=True, quantization="nf4", zero=2)
    assert resolve(wanted, A100) == accelerators.Resolved("flash_attention_2", "adamw_bnb_8bit", True, "nf4", ())
    for name in ("tree", "sdpa"):
        assert resolve(Wanted(attention=name), A100).attention == accelerators.ATTENTIONS[name]
        assert resolve(Wanted(attention=name), CPU).attention == accelerators.ATTENTIONS[name]


def test_transformers_knows_every_optimizer_by_our_name_for_it() -> None:
    assert set(accelerators.OPTIMIZERS.values()) <= {name.value for name in OptimizerNames}
    assert resolve(Wanted(), CPU).optimizer == resolve(Wanted(), A100).optimizer == OptimizerNames.ADAMW_TORCH_FUSED


def test_fused_adamw_runs_on_a_cpu_and_steps_as_the_plain_one_does() -> None:
    stepped = []
    for fused in (False, True):
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 32))
        optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.01, fused=fused)
        for _ in range(3):
            weight.grad = weight.detach() ** 2
            optimizer.step()
        stepped.append(weight.detach())
    torch.testing.assert_close(*stepped)


def test_what_this_machine_has_is_found_without_a_gpu_too() -> None:
    here = accelerators.machine()
    assert (here.capability is None) == (not torch.cuda.is_available())
    assert here.packages <= ALL
    resolve(Wanted(dtype="float32"), here)


def test_a_base_in_few_bits_of_an_unknown_kind_is_refused(tiny_model) -> None:
    with pytest.raises(ValueError, match="quantization is 'int2'; choose from none, nf4"):
        models.load(tiny_model, "float32", "sdpa", quantization="int2")


def test_an_adapter_trains_on_a_base_in_4_bits(tiny_model) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    base = models.load(tiny_model, "bfloat16", "sdpa", quantization="nf4")
    projection = base.model.layers[0].self_attn.q_proj
    assert isinstance(projection, bitsandbytes.nn.Linear4bit) and projection.weight.quant_type == "nf4"
    assert not isinstance(base.lm_head, bitsandbytes.nn.Linear4bit)
    assert base.model.norm.weight.dtype == torch.bfloat16
    model = models.attach(base, rank=4, alpha=8, dropout=0.0, seed=0)
    row = packing.pack([Encoded(np.arange(3, 40), np.array([0, *[1] * 36], np.float32))])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        total = loss.of_row(model, row).total / 36
        total.backward()
        optimizer.step()
        losses.append(total.item())
    assert losses[-1] < losses[0] - 0.3, losses
