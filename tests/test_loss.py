"""The loss of a packed row and its gradients are those of the separate sequences, whatever tree they form."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from peft import LoraConfig, get_peft_model
from sequences import encoded, sequences
from torch.nn.functional import cross_entropy

from fabrictune.model import models
from fabrictune.model.encoding import Encoded
from fabrictune.train import attention, loss, packing

# Three times a block of the tree's attention, twice branching inside one.
LONG = [
    encoded([*range(3, 203), *range(3, 203)], 380),
    encoded([*range(3, 203), *range(3, 143), *[7] * 90], 200),
    encoded([*range(3, 203), *range(3, 143), *[8] * 150], 1),
]


def build(folder, kind: str, **options) -> torch.nn.Module:
    """The float32 model with an adapter whose B is not zero, as it is at first: half of the gradients would be."""
    settings = {"rank": 4, "alpha": 8, "dropout": 0.0, "seed": 1} | options
    model = models.attach(models.load(folder, "float32", kind), **settings)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return model.train()


@pytest.fixture(scope="module")
def packed(tiny_model):
    return build(tiny_model, attention.NAME)


@pytest.fixture(scope="module")
def plain(tiny_model, packed):
    """The oracle, of the same weights: transformers' own layers and attention, peft's own forward."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(models.load(tiny_model, "float32", "sdpa"), config)
    model.load_state_dict(packed.state_dict())
    return model


def separately(model: torch.nn.Module, made: list[Encoded]) -> torch.Tensor:
    total = torch.zeros(())
    for one in made:
        ids = torch.from_numpy(one.ids)[None]
        nll = cross_entropy(model(input_ids=ids).logits[0, :-1], ids[0, 1:], reduction="none")
        total = total + (nll * torch.from_numpy(one.weights[1:])).sum()
    return total


def gradient(model: torch.nn.Module, total: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    total.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])


def assert_same(model: torch.nn.Module, plain: torch.nn.Module, made: list[Encoded]) -> None:
    """Loss and gradient, each to 1e-5 of its size."""
    total, expected = loss.of_row(model, packing.pack(made)).total, separately(plain, made)
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    found, wanted = gradient(model, total), gradient(plain, expected)
    assert (found - wanted).norm() <= 1e-5 * wanted.norm()


@settings(max_examples=25, deadline=None)
@given(sequences)
def test_loss_and_lora_gradients_equal_those_of_separate_sequences(packed, plain, made: list[Encoded]) -> None:
    assert_same(packed, plain, made)


def test_loss_and_gradients_are_so_for_runs_longer_than_a_block_of_attention_and_logits(
    packed, plain, monkeypatch
) -> None:
    monkeypatch.setattr(loss, "CPU_LOGITS", 100 * 259)
    assert_same(packed, plain, LONG)


@pytest.mark.parametrize("kind", ["sdpa", "eager"])
def test_loss_and_gradients_are_so_under_transformers_own_attention_with_a_mask(tiny_model, plain, kind: str) -> None:
    assert_same(build(tiny_model, kind), plain, LONG)


def test_loss_and_gradients_are_so_with_gradient_checkpointing(tiny_model, plain) -> None:
    model = build(tiny_model, attention.NAME)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert model.is_gradient_checkpointing
    assert_same(model, plain, LONG)


def test_each_term_has_its_own_nll_and_whether_it_is_right(packed, plain) -> None:
    row = packing.pack([LONG[0]])
    with torch.no_grad():
        outcome = loss.of_row(packed, row)
        logits = plain(input_ids=torch.from_numpy(LONG[0].ids)[None]).logits[0, row.sources]
    targets = torch.from_numpy(row.targets)
    torch.testing.assert_close(outcome.nll, cross_entropy(logits, targets, reduction="none"), rtol=1e-4, atol=1e-5)
    # A random model is never right, so the targets are made what it says for half of the terms.
    said = logits.argmax(-1).numpy()
    row.targets[::2] = said[::2]
    with torch.no_grad():
        assert loss.of_row(packed, row).right.tolist() == (said == row.targets).tolist()


def test_a_row_without_loss_terms_gives_zero_and_a_zero_gradient_to_every_weight(packed) -> None:
    total = loss.of_row(packed, packing.pack([encoded([1, 2, 3], 0)])).total
    assert total.item() == 0
    assert gradient(packed, total).abs().max() == 0


def test_no_logits_are_left_for_the_backward_pass(packed) -> None:
    sizes = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(tensor.shape))
        return tensor

    row = packing.pack(LONG)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss.of_row(packed, row)
    assert sizes
    assert not any(len(shape) >= 2 and shape[-1] == 259 for shape in sizes)


def test_a_model_that_caps_its_logits_after_the_head_is_refused(packed, monkeypatch) -> None:
    base = packed.get_base_model()
    original = type(base).forward

    def capped(self, *args, **kwargs):
        output = original(self, *args, **kwargs)
        output.logits = torch.tanh(output.logits / 30) * 30
        return output

    monkeypatch.setattr(type(base), "forward", capped)
    with pytest.raises(ValueError, match="scales or caps its logits .*; choose another model="):
        loss.of_row(packed, packing.pack(LONG))


def test_a_head_with_an_adapter_is_refused(tiny_model) -> None:
    model = build(tiny_model, attention.NAME, targets=["q_proj", "lm_head"])
    with pytest.raises(ValueError, match="frozen head"):
        loss.of_row(model, packing.pack(LONG))


def test_the_head_gives_logits_again_afterwards(packed, plain) -> None:
    loss.of_row(packed, packing.pack(LONG))
    ids = torch.tensor([[5, 6, 7, 8]])
    with attention.generating(packed), torch.no_grad():
        torch.testing.assert_close(packed(input_ids=ids).logits, plain(input_ids=ids).logits)
