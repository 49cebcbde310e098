"""DeepSpeed's settings pass DeepSpeed's own check, combinations that cannot work are refused, frequencies are exact."""

import itertools
from pathlib import Path

import pytest
import torch
from conftest import write_tiny_model
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from transformers import AutoModelForCausalLM, TrainingArguments

from fabrictune.train import zero

OFFLOADS = ("none", "optimizer", "parameters")
sound = [
    (stage, offload)
    for stage, offload in itertools.product(range(4), OFFLOADS)
    if not any("needs launcher.zero=" in problem for problem in zero.problems(stage, offload, on_gpu=True))
]


def test_every_stage_divides_and_only_divided_things_are_offloaded() -> None:
    assert sound == [
        (0, "none"),
        *((stage, offload) for stage in (1, 2) for offload in ("none", "optimizer")),
        *((3, offload) for offload in ("none", "optimizer", "parameters")),
    ]


@pytest.mark.parametrize(("stage", "offload"), sound)
@pytest.mark.parametrize("on_gpu", [True, False])
def test_deepspeed_knows_every_setting_and_has_the_stage_and_the_offload_that_were_asked_for(
    stage: int, offload: str, on_gpu: bool
) -> None:
    section = zero.settings(stage, offload, on_gpu=on_gpu)["zero_optimization"]
    filled = {key: 1000 if value == "auto" else value for key, value in section.items()}
    read = DeepSpeedZeroConfig(**filled)  # refuses a key that it does not know
    assert not read.model_extra
    assert read.stage == stage
    assert (read.offload_optimizer is not None) == (offload != "none")
    assert (read.offload_param is not None) == (offload == "parameters")
    assert read.gather_16bit_weights_on_model_save == (stage == 3), "else a saved model lacks its weights"


def test_the_trainer_fills_in_what_it_knows(tmp_path: Path) -> None:
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        use_cpu=True,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=3,
        max_grad_norm=0.5,
        learning_rate=0.125,
        weight_decay=0.25,
        deepspeed=zero.settings(2, "optimizer", bf16=False),
    )
    filled = arguments.hf_deepspeed_config
    assert not filled.mismatches
    assert filled.config["gradient_accumulation_steps"] == 3 and filled.config["gradient_clipping"] == 0.5
    parameters = filled.config["optimizer"]["params"]
    assert parameters["lr"] == 0.125 and parameters["weight_decay"] == 0.25
    assert filled.dtype() == torch.float32


@pytest.mark.parametrize("stage", range(4))
def test_without_a_gpu_no_optimizer_of_deepspeeds_is_asked_for_since_it_would_be_compiled(stage: int) -> None:
    for offload in OFFLOADS:
        assert "optimizer" not in zero.settings(stage, offload, on_gpu=False)
    assert "optimizer" not in zero.settings(stage, "none", on_gpu=True)


def test_a_problem_names_the_key_its_value_and_the_way_out() -> None:
    undivided, no_gpu = zero.problems(2, "parameters", on_gpu=False)
    assert "launcher.offload=parameters" in undivided and "launcher.zero=3" in undivided and "2" in undivided
    assert "this machine has none" in no_gpu
    undivided, _ = zero.problems(0, "optimizer", on_gpu=False)
    assert "launcher.zero=1, 2 or 3" in undivided


def test_a_gpu_machine_without_a_compiler_is_told_before_deepspeed_wants_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nonexistent/g++")
    (problem,) = zero.problems(2, "optimizer", on_gpu=True)
    assert "/nonexistent/g++" in problem and "launcher.offload=none" in problem
    assert not zero.problems(2, "none", on_gpu=True)


def test_frequencies_rounded_to_bfloat16_are_computed_anew(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    exact = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rounded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for module in rounded.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, buffer.bfloat16())
    ids = torch.arange(200)[None] % 100
    positions = torch.arange(200)[None] + 1000
    with torch.no_grad():
        expected = exact(input_ids=ids, position_ids=positions).logits
        assert not torch.equal(rounded(input_ids=ids, position_ids=positions).logits, expected)
        assert zero.repair_rotary(rounded) == 1
        assert torch.equal(rounded(input_ids=ids, position_ids=positions).logits, expected)
    assert all(buffer.dtype == torch.float32 for buffer in rounded.buffers())


def test_frequencies_that_are_exact_stay_as_they_are(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(write_tiny_model(tmp_path / "tiny"), dtype=torch.bfloat16)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    zero.repair_rotary(model)
    assert before and all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
