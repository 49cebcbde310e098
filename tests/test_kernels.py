"""The fused norms and MLPs compute what transformers' own do; those of other kinds keep theirs."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaMLP

from fabrictune.model import kernels, models
from fabrictune.train import attention


def run(module: torch.nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    x = x.clone().requires_grad_()
    torch.manual_seed(9)
    out = module(x)
    out.float().square().sum().backward()
    return {"out": out, "x": x.grad} | {n: p.grad for n, p in module.named_parameters() if p.grad is not None}


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], bound: float) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert (found[name] - tensor).float().norm() <= bound * tensor.float().norm(), name


@pytest.mark.parametrize("kind", kernels.NORMS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 0.01)])
def test_norms_equal_transformers_own(kind: type, dtype: torch.dtype, bound: float) -> None:
    torch.manual_seed(0)
    norm = kind(48, eps=1e-3).to(dtype).requires_grad_(False)
    norm.weight.uniform_(0.5, 2)
    x = torch.randn(2, 9, 48, dtype=dtype) / 10  # small, so that eps counts
    expected = run(norm, x)
    assert kernels.fuse(norm) == 1
    assert_close(run(norm, x), expected, bound)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_gated_mlp_equals_its_three_layers_one_by_one(tiny_model, dropout: float) -> None:
    model = models.attach(models.load(tiny_model, "float32", attention.NAME), 4, 8, dropout, 1).train()
    (mlp, *_) = [module for module in model.modules() if isinstance(module, LlamaMLP)]
    for name, parameter in mlp.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    alone = copy.deepcopy(mlp)
    assert "forward" in vars(mlp)
    del alone.forward
    x = torch.randn(2, 9, 64)
    found = run(mlp, x)
    assert len(found) == 2 + 6
    assert_close(found, run(alone, x), 1e-5)
    with model.disable_adapter():
        torch.testing.assert_close(
            mlp(x),
            alone.down_proj.base_layer(
                torch.nn.functional.silu(alone.gate_proj.base_layer(x)) * alone.up_proj.base_layer(x)
            ),
        )


def test_norms_of_other_kinds_and_mlps_without_all_adapters_keep_their_forward(tiny_model) -> None:
    assert kernels.fuse(GemmaRMSNorm(8).requires_grad_(False)) == 0
    model = models.attach(models.load(tiny_model, "float32", attention.NAME), 4, 8, 0.0, 1, targets=["up_proj"])
    assert not any("forward" in vars(module) for module in model.modules() if isinstance(module, LlamaMLP))
