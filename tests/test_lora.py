"""Fused LoRA layers compute what peft's own do, and nothing that peft reads or writes is different."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import Linear

from fabrictune.model import lora, models
from fabrictune.train import attention


class Layers(torch.nn.Module):
    """Two linear layers, one with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(12, 20), torch.nn.Linear(20, 6, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))


def twins(dtype: torch.dtype = torch.float32, **options) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The same adapted layers with peft's forward and with the fused one."""
    torch.manual_seed(0)
    config = LoraConfig(r=3, lora_alpha=5, target_modules=["first", "second"], init_lora_weights=False, **options)
    theirs = get_peft_model(Layers().to(dtype), config)
    ours = copy.deepcopy(theirs)
    lora.fuse(ours)
    return theirs, ours


def run(model: torch.nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    x = x.clone().requires_grad_()
    out = model(x)
    out.float().square().sum().backward()
    return {"out": out, "x": x.grad} | {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def test_outputs_and_gradients_equal_pefts_in_float32() -> None:
    theirs, ours = twins()
    x = torch.randn(2, 7, 12)
    expected, found = run(theirs, x), run(ours, x)
    assert expected.keys() == found.keys()
    assert len(found) == 6, "the output, the input's gradient and those of two A and two B"
    for name, tensor in expected.items():
        assert (found[name] - tensor).norm() <= 1e-5 * tensor.norm(), name


def test_float32_adapters_compute_in_the_dtype_of_a_bfloat16_base() -> None:
    theirs, ours = twins(torch.bfloat16)
    x = torch.randn(64, 12, dtype=torch.bfloat16)
    expected, found = run(theirs, x), run(ours, x)
    assert found["out"].dtype == torch.bfloat16
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert (found[name] - tensor).float().norm() <= 0.02 * tensor.float().norm(), name
    assert all(found[name].dtype == torch.float32 for name in found if "lora" in name)


def test_adapters_that_deepspeed_made_bfloat16_work_too() -> None:
    _, ours = twins(torch.bfloat16)
    found = run(ours.to(torch.bfloat16), torch.randn(8, 12, dtype=torch.bfloat16))
    assert all(tensor.dtype == torch.bfloat16 for tensor in found.values())


def test_dropout_falls_on_the_adapters_path_only_and_its_gradient_is_exact() -> None:
    torch.manual_seed(3)
    x, weight = torch.randn(50, 12, requires_grad=True), torch.randn(20, 12)
    a, b = torch.randn(3, 12, requires_grad=True), torch.randn(20, 3, requires_grad=True)
    torch.manual_seed(4)
    keep = lora.kept(x, 0.4)
    expected = x @ weight.t() + 2.0 * (x * keep / 0.6) @ a.t() @ b.t()
    wanted = torch.autograd.grad(expected.square().sum(), (x, a, b))
    torch.manual_seed(4)
    out = lora.adapted(x, lora.Weights(weight, None, a, b, lora.kept(x, 0.4)), 2.0 / 0.6)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    for found, want in zip(torch.autograd.grad(out.square().sum(), (x, a, b)), wanted, strict=True):
        assert (found - want).norm() <= 1e-5 * want.norm()


def test_dropout_drops_at_its_rate_and_by_the_seed() -> None:
    torch.manual_seed(5)
    first = lora.kept(torch.empty(1000, 1001), 0.05)
    assert first.float().mean().item() == pytest.approx(0.95, abs=0.001)
    torch.manual_seed(5)
    assert torch.equal(lora.kept(torch.empty(1000, 1001), 0.05), first)
    assert lora.kept(torch.empty(3), 0.5).shape == (3,)


def test_in_eval_mode_nothing_is_dropped() -> None:
    theirs, ours = twins(lora_dropout=0.5)
    x = torch.randn(4, 12)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
    assert not torch.allclose(ours.train()(x), theirs.eval()(x))


@pytest.mark.parametrize("options", [{"use_dora": True}, {"lora_bias": True}])
def test_layers_of_another_kind_keep_pefts_forward(options: dict[str, bool]) -> None:
    theirs, ours = twins(**options)
    assert not any(isinstance(module, lora.FusedLinear) for module in ours.modules())
    assert lora.fuse(twins()[0]) == 2
    x = torch.randn(4, 12)
    torch.testing.assert_close(ours(x), theirs(x))


def test_an_adapter_can_be_disabled_merged_and_joined_by_another() -> None:
    theirs, ours = twins()
    x = torch.randn(4, 12)
    with theirs.disable_adapter(), ours.disable_adapter():
        torch.testing.assert_close(ours(x), theirs(x))
    for model in (theirs, ours):
        model.add_adapter("other", LoraConfig(r=2, target_modules=["first"], init_lora_weights=False))
        model.base_model.set_adapter(["default", "other"])
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(x), theirs(x))
    expected = theirs(x)
    torch.testing.assert_close(ours.merge_and_unload()(x), expected)


def test_a_saved_adapter_is_pefts_and_gives_the_same_logits_on_a_fresh_base(tiny_model, tmp_path) -> None:
    model = models.attach(models.load(tiny_model, "float32", "sdpa"), rank=4, alpha=8, dropout=0.1, seed=1).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path)
    fresh = PeftModel.from_pretrained(models.load(tiny_model, "float32", "sdpa"), tmp_path).eval()
    assert model.state_dict().keys() == fresh.state_dict().keys()
    assert not any(isinstance(module, lora.FusedLinear) for module in fresh.modules())
    ids = torch.arange(30)[None]
    torch.testing.assert_close(model(ids).logits, fresh(ids).logits)
    with fresh.disable_adapter():
        assert not torch.allclose(model(ids).logits, fresh(ids).logits)


def test_targets_name_the_layers_that_get_an_adapter(tiny_model) -> None:
    model = models.attach(
        models.load(tiny_model, "float32", attention.NAME), 4, 8, 0.0, 1, targets=["q_proj", "up_proj"]
    )
    adapted = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, Linear)}
    assert adapted == {"q_proj", "up_proj"}


def test_a_target_that_is_no_layer_is_refused_and_the_layers_are_named(tiny_model) -> None:
    base = models.load(tiny_model, "float32", attention.NAME)
    with pytest.raises(ValueError, match=r"'c_attn' is no linear layer.*q_proj"):
        models.attach(base, 4, 8, 0.0, 1, targets=["q_proj", "c_attn"])
