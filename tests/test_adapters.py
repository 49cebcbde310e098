"""What kinds of adapters are read, and which are refused by name; an adapter out of a ZeRO checkpoint."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from adapter_folders import changed, merge_folders, write_plain
from safetensors.torch import load_file

from fabrictune import processes
from fabrictune.merge import adapters


@pytest.fixture(scope="module")
def plain(tiny_model, tmp_path_factory) -> Path:
    return write_plain(tiny_model, tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"peft_type": "IA3"}, "peft_type is IA3"),
        ({"layer_replication": [[0, 1]]}, "layer_replication is"),
        ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "target_parameters is"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices is"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens is"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'.*path_initial_model_for_weight_conversion"),
        ({"peft_type": "NEW"}, "cannot be read as an adapter's settings"),
    ],
)
def test_kinds_of_adapters_that_we_do_not_merge_are_refused_by_name(plain, tmp_path, settings, words: str) -> None:
    folder = changed(plain, tmp_path / "adapter", settings)
    with pytest.raises(ValueError, match=f"{folder / adapters.CONFIG}.*{words}"):
        adapters.load(folder)


def test_settings_of_a_newer_peft_that_are_on_are_told_and_those_that_are_off_are_not(plain, tmp_path, caplog) -> None:
    new = {"peft_version": "9.9", "use_newlora": True, "new_pattern": {"q_proj": 3}, "new_off": False, "new_none": None}
    adapters.load(changed(plain, tmp_path / "adapter", new))
    (said,) = caplog.messages
    assert "peft 9.9" in said and "use_newlora=True, new_pattern={'q_proj': 3}, which" in said
    caplog.clear()
    adapters.load(changed(plain, tmp_path / "off", {"new_off": False, "peft_version": "9.9"}))
    assert not caplog.messages


def test_what_is_missing_of_an_adapter_is_named(plain, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="is no folder"):
        adapters.load(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="no LoRA adapter: adapter_config.json is missing"):
        adapters.load(tmp_path)
    folder = changed(plain, tmp_path / "adapter")
    (folder / adapters.WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"pickle \(adapter_model.bin\)"):
        adapters.load(folder)
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(FileNotFoundError, match="neither adapter_model.safetensors nor"):
        adapters.load(folder)
    (folder / "latest").write_text("global_step1")
    (folder / "global_step1").mkdir()
    (folder / "global_step1" / "mp_rank_00_model_states.pt").write_bytes(b"torn")
    (folder / adapters.CONFIG).unlink()
    with pytest.raises(
        FileNotFoundError, match="a DeepSpeed checkpoint, but not its adapter's settings: adapter_config"
    ):
        adapters.load(folder)


def test_the_stamp_changes_with_the_weights_and_with_the_settings(plain, tmp_path) -> None:
    same = changed(plain, tmp_path / "same")
    (same / adapters.WEIGHTS).write_bytes((plain / adapters.WEIGHTS).read_bytes())
    (same / adapters.CONFIG).write_bytes((plain / adapters.CONFIG).read_bytes())
    (same / "README.md").write_text("other")
    other = changed(plain, tmp_path / "other", lora_B=torch.ones(128, 4))
    louder = changed(plain, tmp_path / "louder", {"lora_alpha": 99})
    assert adapters.stamp(plain) == adapters.stamp(same)
    assert len({adapters.stamp(folder) for folder in (plain, other, louder)}) == 3


TRAINING = """
import sys
from pathlib import Path
import deepspeed, torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
base, out = map(Path, sys.argv[1:])
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # would be compiled
deepspeed.init_distributed("gloo", verbose=False)
settings = {"r": 4, "use_dora": True, "modules_to_save": ["norm"], "target_modules": "all-linear"}
for stage in (2, 3):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(**settings, task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.AdamW(trained, lr=0.1),
        config={"train_batch_size": 2, "zero_optimization": {"stage": stage}, "zero_force_ds_cpu_optimizer": False},
    )
    ids = torch.arange(3, 40)[None] + engine.global_rank
    engine.backward(engine(input_ids=ids, labels=ids).loss)
    engine.step()
    engine.save_checkpoint(str(out / f"zero{stage}"))
    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        if engine.global_rank == 0:
            model.save_pretrained(out / f"plain{stage}")
    torch.distributed.barrier()
"""


@pytest.mark.e2e
def test_a_zero_checkpoint_of_two_ranks_merges_as_the_adapter_that_peft_saves(tiny_model, tmp_path) -> None:
    fixed = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(processes.free_port())}
    words = [sys.executable, "-c", TRAINING, str(tiny_model), str(tmp_path)]
    with ExitStack() as stack, (tmp_path / "log").open("w+") as log:
        ranks = [
            stack.enter_context(
                processes.program(
                    words, os.environ | fixed | {"RANK": rank, "LOCAL_RANK": rank}, log, dies_with_us=True
                )
            )
            for rank in ("0", "1")
        ]
        codes = [rank.wait(300) for rank in ranks]
        assert codes == [0, 0], (log.seek(0), log.read())[1][-3000:]
    for stage in (2, 3):
        checkpoint, adapter = tmp_path / f"zero{stage}", tmp_path / f"plain{stage}"
        with pytest.raises(FileNotFoundError, match="a DeepSpeed checkpoint, but not its adapter's settings"):
            merge_folders(tiny_model, checkpoint, tmp_path / "none")
        shutil.copy(adapter / adapters.CONFIG, checkpoint)
        merged = [tmp_path / f"merged{stage}", tmp_path / f"expected{stage}"]
        for source, target in zip((checkpoint, adapter), merged, strict=True):
            merge_folders(tiny_model, source, target)
        one, other = (load_file(folder / "model.safetensors") for folder in merged)
        old = load_file(tiny_model / "model.safetensors")
        assert not torch.equal(one["model.norm.weight"], old["model.norm.weight"])
        for name in old:
            assert torch.equal(one[name], other[name]), name
