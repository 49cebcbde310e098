"""What an adapter makes of a base's tensors, and what of it does not fit, refused by name."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from adapter_folders import changed, write_plain
from peft import LoraConfig, get_peft_model

from fabrictune.merge import adapters, changes, shards


@pytest.fixture(scope="module")
def plain(tiny_model, tmp_path_factory) -> Path:
    return write_plain(tiny_model, tmp_path_factory.mktemp("plain"))


def plan(base: Path, adapter: Path) -> dict[str, changes.Change]:
    return changes.plan(adapters.load(adapter), base, shards.weights(base), tied=True)


def test_every_layer_that_the_adapter_has_is_planned_with_its_scaling(tiny_model, plain, tmp_path) -> None:
    folder = changed(plain, tmp_path / "adapter", {"lora_alpha": 6, "alpha_pattern": {"o_proj": 2}, "use_rslora": True})
    planned = plan(tiny_model, folder)
    assert len(planned) == 14
    assert planned["model.layers.1.mlp.up_proj.weight"].scaling == 6 / math.sqrt(4)
    assert planned["model.layers.0.self_attn.o_proj.weight"].scaling == 2 / math.sqrt(4)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"lora_A": torch.zeros(4, 63)}, r"q_proj.lora_A.weight is \(4, 63\), the base's .*q_proj.weight \(128, 64\)"),
        (
            {"lora_B": torch.zeros(127, 4)},
            r"q_proj.lora_B.weight is \(127, 4\), the base's .*q_proj.weight \(128, 64\)",
        ),
        ({"lora_A": torch.zeros(5, 64), "lora_B": torch.zeros(128, 5)}, "have rank 5, its adapter_config.json says 4"),
        ({"lora_A": None}, "of .*q_proj.lora_B.weight the other matrix is missing"),
        ({"lora_A": None, "lora_B": None}, "no matrices for model.layers.0.self_attn.q_proj, which its target_modules"),
        ({"new": torch.zeros(4, 4)}, r"q_proj.new.weight \(4, 4\) is for .*, which the base does not have"),
    ],
)
def test_what_does_not_fit_is_named_with_both_shapes_and_both_folders(
    tiny_model, plain, tmp_path, tensors, words
) -> None:
    folder = changed(plain, tmp_path / "adapter", **tensors)
    with pytest.raises(ValueError, match=f"{folder}.* does not fit the base {tiny_model}: .*{words}"):
        plan(tiny_model, folder)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_numbers_that_are_none_are_refused_by_name(tiny_model, plain, tmp_path, number: float) -> None:
    weight = torch.zeros(128, 4)
    weight[100, 3] = number
    with pytest.raises(
        ValueError, match="q_proj.lora_B.weight has NaN or infinite numbers; take an earlier checkpoint, or train anew"
    ):
        plan(tiny_model, changed(plain, tmp_path / "adapter", lora_B=weight))


def test_a_layer_whose_weight_lies_the_other_way_is_merged_that_way(tmp_path) -> None:
    """As in GPT-2, whose layers keep (in, out): peft says so with fan_in_fan_out."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    base = tmp_path / "base"
    GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2)).save_pretrained(base)
    model = get_peft_model(
        GPT2LMHeadModel.from_pretrained(base),
        LoraConfig(r=4, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True, task_type="CAUSAL_LM"),
    )
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "adapter")
    adapter, tensors = adapters.load(tmp_path / "adapter"), shards.weights(base)
    merged = model.merge_and_unload().state_dict()
    for name, change in changes.plan(adapter, base, tensors, tied=True).items():
        content = shards.rows(tensors[name], 0, tensors[name].shape[0])
        changes.edit(change, tensors[name], adapter)(memoryview(content), 0)
        assert torch.equal(torch.frombuffer(content, dtype=torch.float32).view(tensors[name].shape), merged[name])
