from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from fabrictune.train import estimates, footprint, zero
from fabrictune.train.estimates import GIB
from fabrictune.train.footprint import Footprint, Parameters

QWEN = {
    "model_type": "qwen2",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 151936,
    "tie_word_embeddings": False,
}
TINY = {**QWEN, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY |= {"num_key_value_heads": 2, "vocab_size": 300}
# What Qwen's README publishes for LoRA of Qwen-7B on one A100-80GB (rank 64 on c_attn, c_proj, w1 and w2, flash
# attention, checkpointing, a row a micro-batch, 8 of them a step): tokens of a row -> (GB, seconds a step).
PUBLISHED = {
    256: (20.1, 1.2),
    512: (20.4, 1.5),
    1024: (21.5, 2.8),
    2048: (23.8, 5.2),
    4096: (29.7, 10.1),
    8192: (36.6, 21.3),
}


@pytest.fixture(scope="module")
def qwen() -> Parameters:
    return footprint.parameters(QWEN, 8, "all-linear")


def test_qwen_7b_as_qwen2_has_its_published_number_of_parameters(qwen: Parameters) -> None:
    assert qwen.base == 7_721_324_544
    assert qwen.trainable == 32 * 8 * (4 * (4096 + 4096) + 3 * (4096 + 11008))


@pytest.mark.parametrize("tokens", PUBLISHED)
def test_the_memory_of_lora_on_qwen_7b_is_what_its_authors_measured(qwen: Parameters, tokens: int) -> None:
    measured, _ = PUBLISHED[tokens]
    theirs = replace(qwen, trainable=32 * 64 * ((4096 + 3 * 4096) + 2 * 4096 + 2 * (4096 + 11008)))
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"]
    row = footprint.of_row(QWEN, tokens, 64, 0.05, targets, "bfloat16", True)
    # They have the logits of all tokens at once: with gradients in bfloat16, their softmax and its gradient in float32.
    row = replace(row, working=max(row.working, tokens * 151936 * 12))

    estimated = estimates.memory(theirs, row, 1, logits=0)

    assert estimated.total / 1e9 == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("tokens", [1024, 2048, 4096, 8192])
def test_the_hours_of_lora_on_qwen_7b_are_what_its_authors_measured(qwen: Parameters, tokens: int) -> None:
    _, seconds = PUBLISHED[tokens]
    pairs = tokens * (tokens + 1) // 2

    work = 8 * estimates.flops(qwen, tokens, tokens, pairs, True)

    assert 3600 * estimates.hours(work, 1, "A100-80GB") == pytest.approx(seconds, rel=0.3)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_operations_are_those_that_torch_counts(checkpointing: bool) -> None:
    config = AutoConfig.for_model(**TINY)
    base = AutoModelForCausalLM.from_config(config, attn_implementation="eager").train()
    if checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    # peft's own layers: torch does not count the products that ours add in place.
    model = get_peft_model(base, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    embedded = torch.randn(1, 128, 64, requires_grad=True)  # so that the first layer has a gradient to hand on too
    with FlopCounterMode(display=False) as counter:
        logits = model(inputs_embeds=embedded, use_cache=False, logits_to_keep=torch.arange(0, 128, 4)).logits
        logits.sum().backward()

    known = footprint.parameters(TINY, 8, "all-linear")
    counted = estimates.flops(known, 128, 32, 128 * 128, checkpointing)
    # Eager attention computes all pairs, and does not compute its scores again on the way back.
    assert counted - 2 * known.width * 128 * 128 == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_zero_shards_the_adapter_s_states_first_and_the_frozen_base_last(qwen: Parameters) -> None:
    row = Footprint(4096, 2 * GIB, GIB)
    by_stage = {each.label: each for each in estimates.stages(qwen, row, 8)}
    none, one, two, three = (by_stage[f"ZeRO-{stage}"] for stage in range(4))

    assert none.base == two.base == 2 * qwen.base
    assert three.base == 2 * qwen.base // 8
    assert none.optimizer == 12 * qwen.trainable  # two moments and the float32 copy of a bfloat16 adapter
    assert one.optimizer == two.optimizer == none.optimizer // 8
    assert (none.gradients, one.gradients, two.gradients) == (
        2 * qwen.trainable,
        2 * qwen.trainable,
        2 * qwen.trainable // 8,
    )
    assert none.gathered == two.gathered == 0 < three.gathered < three.base + two.base


def test_what_is_offloaded_is_in_the_machine_s_memory_and_nowhere_else(qwen: Parameters) -> None:
    row = Footprint(4096, 2 * GIB, GIB)
    here = estimates.memory(qwen, row, 8, 3)
    away = estimates.memory(qwen, row, 8, 3, "parameters")

    assert here.total - away.total == away.host == here.base + here.optimizer
    assert here.host == 0


def test_without_deepspeed_the_adapter_is_float32_and_nothing_is_sharded(qwen: Parameters) -> None:
    alone, both = (estimates.memory(qwen, Footprint(4096, 0, 0), gpus) for gpus in (1, 2))

    assert (alone.adapter, alone.gradients, alone.optimizer) == tuple(n * qwen.trainable for n in (4, 4, 8))
    assert both.total - alone.total == both.buckets == 4 * qwen.trainable


def test_a_base_in_4_bits_is_about_a_quarter_of_one_in_bfloat16(qwen: Parameters) -> None:
    row = Footprint(4096, 0, 0)
    packed = estimates.memory(qwen, row, 1, quantization="nf4")
    plain = estimates.memory(qwen, row, 1)

    kept_whole = 2 * (qwen.base - qwen.matrices)  # head and embedding
    assert (packed.base - kept_whole) / (plain.base - kept_whole) == pytest.approx(0.25, rel=0.05)
    assert plain.card == packed.card == 24


def test_buckets_are_those_of_deepspeed_s_settings(qwen: Parameters) -> None:
    settings = zero.settings(2)["zero_optimization"]

    assert settings["overlap_comm"] and settings["contiguous_gradients"]  # so there are two, allocated whole
    used = estimates.memory(qwen, Footprint(4096, 0, 0), 8, 2).buckets
    assert used == 2 * 2 * settings["reduce_bucket_size"]


def test_a_way_that_does_not_fit_is_refused_with_the_ways_that_do() -> None:
    seventy = Parameters(70_000_000_000, 200_000_000, 68_000_000_000, 10**9, 2 * 10**8, 10**9, 80 * 8192, 128_256, 8192)
    ways = estimates.stages(seventy, Footprint(4096, 6 * GIB, 2 * GIB), 8)
    two, three = ways[2], ways[4]

    (problem,) = estimates.problems(two, ways)

    assert "ZeRO-2 needs about 14" in problem
    assert problem.endswith("what fits: ZeRO-3; ZeRO-3, parameters and optimizer offloaded")
    assert estimates.problems(three, ways) == []
    assert two.card is None and three.card == 40
    (hopeless,) = estimates.problems(two, ways, 24 * GIB)
    assert "fewer train.row_tokens" not in hopeless and "what fits: ZeRO-3, parameters" in hopeless
    (hopeless,) = estimates.problems(two, [two], 24 * GIB)
    assert "no ZeRO stage does; choose fewer train.row_tokens" in hopeless


def test_what_is_needed_is_compared_with_the_gpu_that_is_here_and_else_with_80_gb(qwen: Parameters) -> None:
    tight = estimates.memory(qwen, Footprint(4096, 70 * GIB, GIB), 1)

    assert 80 * GIB < tight.total < 140 * GIB
    (assumed,) = estimates.problems(tight, [])
    assert "does not fit a card of 80 GB, taken since no GPU is here; " in assumed
    assert estimates.problems(tight, [], 140 * GIB) == []
    assert estimates.problems(tight, [], tight.total) == []
    (here,) = estimates.problems(tight, [], tight.total - 1)
    assert f"does not fit the {tight.total / GIB:.2f} GiB of the smallest GPU here; " in here
    small = estimates.memory(qwen, Footprint(4096, GIB, GIB), 1)
    assert estimates.problems(small, []) == [] and estimates.problems(small, [], 16 * GIB)


def test_eight_gpus_take_an_eighth_of_the_hours_of_one() -> None:
    assert estimates.hours(10**20, 1, "H100-80GB") == pytest.approx(8 * estimates.hours(10**20, 8, "H100-80GB"))
