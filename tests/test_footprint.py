from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from peft import LoraConfig, get_peft_model
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM

from fabrictune.model import lora
from fabrictune.train import footprint

CONF = Path(__file__).parent.parent / "conf" / "model"
SMOLLM2 = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}


@pytest.mark.parametrize(
    ("group", "published"),  # the hub's own counts on the models' pages
    [("qwen25_7b", 7_615_616_512), ("qwen3_8b", 8_190_735_360), ("qwen25_0_5b", 494_032_768)],
)
def test_the_architecture_of_a_config_group_has_the_published_number_of_parameters(group: str, published: int) -> None:
    architecture = OmegaConf.to_container(OmegaConf.load(CONF / f"{group}.yaml"))["architecture"]

    counted = footprint.parameters(architecture, 8, "all-linear")

    assert counted.base == published
    assert architecture["tie_word_embeddings"] == (counted.base < counted.matrices + 2 * counted.head)


def test_an_adapter_on_all_linear_layers_has_rank_numbers_for_each_row_and_column_of_theirs() -> None:
    counted = footprint.parameters(SMOLLM2, 16, "all-linear")
    some = footprint.parameters(SMOLLM2, 16, ["q_proj", "v_proj"])

    attention = (576 + 576) + (576 + 192) + (576 + 192) + (576 + 576)
    assert counted.trainable == 30 * 16 * (attention + 3 * (576 + 1536))
    assert some.trainable == 30 * 16 * ((576 + 576) + (576 + 192))
    assert counted.base == 134_515_008
    assert counted.width == 30 * 576
    assert counted.largest == 49152 * 576


def test_a_folder_counts_as_the_settings_in_it_do(tiny_model: Path) -> None:
    settings = json.loads((tiny_model / "config.json").read_text(encoding="utf-8"))
    model = AutoModelForCausalLM.from_pretrained(tiny_model)

    from_folder = footprint.parameters(tiny_model, 4, "all-linear")

    assert from_folder == footprint.parameters(settings, 4, "all-linear")
    assert from_folder.base == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("dropout", "layers"), [(0.0, 30), (0.1, 2)])
def test_what_is_kept_for_the_backward_pass_is_what_autograd_really_keeps(dropout: float, layers: int) -> None:
    settings = {**SMOLLM2, "num_hidden_layers": layers, "vocab_size": 300}
    model = _adapted(_real(settings), 16, dropout)
    known = _addresses(model)
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = _forward(model, 128)

    counted = footprint.of_row(settings, 128, 16, dropout, "all-linear", "bfloat16", False)
    assert hidden.shape == (1, 128, 576)
    assert counted.kept == pytest.approx(sum(kept.values()), rel=0.05)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_peak_of_both_passes_is_what_the_allocator_reports(checkpointing: bool) -> None:
    settings = {**SMOLLM2, "num_hidden_layers": 4, "vocab_size": 300}
    model = _adapted(_real(settings), 8, 0.0)
    if checkpointing:
        model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        hidden = _forward(model, 256)
        hidden.backward(torch.ones_like(hidden))

    alive = peak = 0
    for event in sorted(profiled.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            alive += event.nbytes()
            peak = max(peak, alive)
    counted = footprint.of_row(settings, 256, 8, 0.0, "all-linear", "bfloat16", checkpointing)
    assert counted.kept + counted.working == pytest.approx(peak, rel=0.05)


def test_with_checkpointing_a_layer_keeps_its_input_only() -> None:
    def kept(layers: int, checkpointing: bool) -> int:
        settings = {**SMOLLM2, "num_hidden_layers": layers}
        return footprint.of_row(settings, 1024, 8, 0.05, "all-linear", "bfloat16", checkpointing).kept

    assert kept(30, True) - kept(10, True) == 20 * 1024 * 576 * 2
    assert kept(30, False) > 8 * kept(30, True)


def test_a_quantised_base_keeps_more_since_its_adapter_is_not_fused() -> None:
    plain = footprint.of_row(SMOLLM2, 512, 8, 0.05, "all-linear", "bfloat16", False)
    packed = footprint.of_row(SMOLLM2, 512, 8, 0.05, "all-linear", "bfloat16", False, "nf4")

    assert plain.kept < packed.kept < 2 * plain.kept


def test_layers_of_kinds_listed_one_by_one_are_counted_too() -> None:
    qwen = {**SMOLLM2, "model_type": "qwen2", "layer_types": ["full_attention"] * 30}

    assert footprint.of_row(qwen, 128, 8, 0.0, "all-linear", "bfloat16", False).kept > 0


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ({"model_type": "qwen"}, "model.architecture: transformers has no model type 'qwen'"),
        ({"model_type": "qwen3_moe", "num_experts": 128}, "'qwen3_moe' is a mixture of experts"),
    ],
)
def test_a_model_that_cannot_be_estimated_is_named(architecture: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        footprint.parameters(architecture, 8, "all-linear")


def _real(settings: dict[str, Any]) -> torch.nn.Module:
    config = AutoConfig.for_model(**settings)
    return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa").train()


def _adapted(model: torch.nn.Module, rank: int, dropout: float) -> torch.nn.Module:
    """The adapter as models.attach makes it for a GPU: without the kernels that only a CPU has."""
    config = LoraConfig(r=rank, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(model, config)
    lora.fuse(adapted)
    return adapted


def _forward(model: torch.nn.Module, tokens: int) -> torch.Tensor:
    ids = torch.zeros(1, tokens, dtype=torch.long)
    return model.get_base_model().model(input_ids=ids, use_cache=False).last_hidden_state


def _addresses(model: torch.nn.Module) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
