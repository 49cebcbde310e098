"""The merged folder is the base with peft's own merge in its weights; it is there whole or not at all."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_folders import merge_folders
from conftest import write_tiny_model
from hydra import compose, initialize_config_dir
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from fabrictune import record
from fabrictune.config import Config, typed
from fabrictune.merge import merging
from fabrictune.record import ROOT

IDS = torch.arange(3, 60)[None]


def load(folder: Path, dtype: torch.dtype | str = torch.float32) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def write_base(tiny: Path, folder: Path, tied: bool = True, dtype: torch.dtype = torch.float32, **saving: Any) -> Path:
    """The tiny model with biases in its attention, its head tied or not, in one file or in several."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    shutil.copytree(tiny, folder)
    known = json.loads((tiny / "config.json").read_text())
    same = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    torch.manual_seed(1)
    config = Qwen2Config(**{key: known[key] for key in same}, num_hidden_layers=2, tie_word_embeddings=tied)
    (folder / "model.safetensors").unlink()
    model = Qwen2ForCausalLM(config).to(dtype)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    model.save_pretrained(folder, **saving)
    return folder


def write_adapter(base: Path, folder: Path, **settings: Any) -> Path:
    """An adapter whose every number is far from where it begins, as training leaves it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's, of tied embeddings
        config = LoraConfig(
            **{"r": 4, "lora_alpha": 6, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | settings
        )
        model = get_peft_model(load(base), config)
        torch.manual_seed(2)
        trained = settings.get("modules_to_save") or []
        for name, parameter in model.named_parameters():
            if parameter.requires_grad or ("bias" in name and settings.get("bias")):
                assert "original_module" not in name
                parameter.data += torch.randn_like(parameter) * 0.1
        assert trained or any(parameter.requires_grad for parameter in model.parameters())
        model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(tiny_model, tmp_path_factory) -> Path:
    return write_adapter(tiny_model, tmp_path_factory.mktemp("adapter"))


def bits(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def require_merged_as_peft_does(base: Path, adapter: Path, target: Path) -> dict[str, torch.Tensor]:
    """Merges, and compares every tensor with peft's merge of the base in float32, rounded once to the base's dtype."""
    merge_folders(base, adapter, target)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        merged = PeftModel.from_pretrained(load(base), adapter).merge_and_unload()
    expected, old, new = merged.state_dict(), bits(base), bits(target)
    assert list(new) == list(old)
    for name, tensor in new.items():
        assert tensor.dtype == old[name].dtype
        assert torch.equal(tensor, expected[name].to(tensor.dtype)), name
    return {name: tensor for name, tensor in new.items() if not torch.equal(tensor, old[name])}


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "rsLoRA": {"use_rslora": True, "lora_alpha": 3},
    "DoRA": {"use_dora": True},
    "patterns": {
        "rank_pattern": {"q_proj": 2, "layers.1.mlp.down_proj": 8},
        "alpha_pattern": {r"layers\.\d+\.self_attn\.v_proj": 1, "up_proj": 40},
    },
    "rsLoRA, patterns": {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"o_proj": 5}},
    "some layers": {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [1]},
    "all biases": {"bias": "all", "target_modules": ["q_proj", "o_proj"]},
    "biases of the layers": {"bias": "lora_only", "target_modules": ["q_proj", "k_proj"]},
    "biases of the matrices": {"lora_bias": True, "target_modules": ["q_proj", "v_proj"]},
    "norms saved": {"modules_to_save": ["norm", "input_layernorm"]},
}


@pytest.mark.parametrize("case", CASES)
def test_every_tensor_is_the_one_of_peft_s_own_merge(tiny_model, tmp_path, case: str) -> None:
    base = write_base(tiny_model, tmp_path / "base")
    adapter = write_adapter(base, tmp_path / "adapter", **CASES[case])
    changed = require_merged_as_peft_does(base, adapter, tmp_path / "model")
    assert changed and "model.embed_tokens.weight" not in changed


UNTIED: dict[str, dict[str, Any]] = {
    "the embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "the head": {"target_modules": ["q_proj", "lm_head"]},
    "both": {"target_modules": ["embed_tokens", "lm_head"], "use_rslora": True},
    "both saved": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
}


@pytest.mark.parametrize("case", UNTIED)
def test_embedding_and_head_that_are_two_tensors_change_each_by_itself(tiny_model, tmp_path, case: str) -> None:
    base = write_base(tiny_model, tmp_path / "base", tied=False)
    adapter = write_adapter(base, tmp_path / "adapter", **UNTIED[case])
    changed = require_merged_as_peft_does(base, adapter, tmp_path / "model")
    assert ("model.embed_tokens.weight" in changed) == (case != "the head")
    assert ("lm_head.weight" in changed) == (case != "the embedding")


def test_a_tied_embedding_that_was_trained_as_one_with_the_head_stays_one(tiny_model, tmp_path) -> None:
    adapter = write_adapter(
        tiny_model,
        tmp_path / "adapter",
        target_modules=["q_proj"],
        modules_to_save=["embed_tokens"],
        ensure_weight_tying=True,
    )
    assert {"base_model.model.lm_head.weight", "base_model.model.model.embed_tokens.weight"} <= set(bits(adapter))
    changed = require_merged_as_peft_does(tiny_model, adapter, tmp_path / "model")
    assert "model.embed_tokens.weight" in changed


def test_matrices_on_a_tied_embedding_and_head_are_added_once(tiny_model, tmp_path) -> None:
    adapter = write_adapter(
        tiny_model, tmp_path / "adapter", target_modules=["embed_tokens", "lm_head"], ensure_weight_tying=True
    )
    merge_folders(tiny_model, adapter, tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with_adapter = PeftModel.from_pretrained(load(tiny_model), adapter)
    with torch.no_grad():
        merged, expected = load(tmp_path / "model")(IDS).logits, with_adapter(IDS).logits
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "alone"),
    [
        ({"target_modules": ["q_proj", "embed_tokens"]}, "embed_tokens"),
        ({"target_modules": ["q_proj", "lm_head"]}, "lm_head"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "lm_head"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, "embed_tokens"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}, "embed_tokens"),
    ],
)
def test_a_tied_embedding_that_would_part_from_its_head_is_refused(tiny_model, tmp_path, settings, alone) -> None:
    adapter = write_adapter(tiny_model, tmp_path / "adapter", **settings)
    with pytest.raises(ValueError, match=f"changes .*{alone}.weight by itself.*{tiny_model}.*ensure_weight_tying"):
        merge_folders(tiny_model, adapter, tmp_path / "model")


def test_a_base_in_several_files_keeps_its_files_and_untouched_bytes(tiny_model, tmp_path) -> None:
    base = write_base(tiny_model, tmp_path / "base", dtype=torch.bfloat16, max_shard_size="40KB")
    adapter = write_adapter(base, tmp_path / "adapter", target_modules=["q_proj", "down_proj"])
    changed = require_merged_as_peft_does(base, adapter, tmp_path / "model")
    assert {name.split(".")[-2] for name in changed} == {"q_proj", "down_proj"}
    shards = sorted(path.name for path in base.glob("*.safetensors"))
    assert len(shards) > 3 and shards == sorted(path.name for path in (tmp_path / "model").glob("*.safetensors"))
    index = "model.safetensors.index.json"
    assert (base / index).read_bytes() == (tmp_path / "model" / index).read_bytes()
    for shard in shards:
        with safe_open(base / shard, "pt") as old, safe_open(tmp_path / "model" / shard, "pt") as new:
            assert old.metadata() == new.metadata() and list(old.keys()) == list(new.keys())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_base_in_few_bits_is_merged_in_float32_and_rounded_once(tiny_model, tmp_path, dtype) -> None:
    base = write_base(tiny_model, tmp_path / "base", tied=False, dtype=dtype)
    mixed = load_file(base / "model.safetensors")
    mixed["model.layers.0.mlp.up_proj.weight"] = mixed["model.layers.0.mlp.up_proj.weight"].float()
    save_file(mixed, base / "model.safetensors", {"format": "pt"})
    adapter = write_adapter(base, tmp_path / "adapter", use_dora=True, use_rslora=True)
    require_merged_as_peft_does(base, adapter, tmp_path / "model")


def test_a_checkpoint_of_the_body_alone_is_merged_under_its_own_names(tiny_model, tmp_path, adapter) -> None:
    base = shutil.copytree(tiny_model, tmp_path / "base")
    own = {name.removeprefix("model."): tensor for name, tensor in bits(tiny_model).items()}
    save_file(own, base / "model.safetensors", {"format": "pt"})
    merge_folders(base, adapter, tmp_path / "model")
    merge_folders(tiny_model, adapter, tmp_path / "whole")
    for name, tensor in bits(tmp_path / "whole").items():
        assert torch.equal(bits(tmp_path / "model")[name.removeprefix("model.")], tensor)


def test_merged_logits_equal_base_plus_adapter(tiny_model, adapter, tmp_path) -> None:
    merge_folders(tiny_model, adapter, tmp_path / "model")
    with torch.no_grad():
        base = load(tiny_model)
        plain = base(IDS).logits
        with_adapter = PeftModel.from_pretrained(base, adapter)(IDS).logits
        torch.testing.assert_close(load(tmp_path / "model")(IDS).logits, with_adapter, rtol=1e-4, atol=1e-5)
    assert (with_adapter - plain).abs().max() > 0.1, "the adapter must do something for this to be a test"


def test_the_folder_is_whole_and_ends_a_reply_as_the_template_does(tiny_model, adapter, tmp_path) -> None:
    base = shutil.copytree(tiny_model, tmp_path / "base")
    (base / "LICENSE").write_text("free")
    templates = base / merging.TEMPLATES
    templates.mkdir()
    (templates / "tool_use.jinja").write_text("{{ messages }}")
    for left in (
        "README.md",
        "modeling_tiny.py",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "other.safetensors",
        "adapter_config.json",
    ):
        (base / left).write_text("{}")
    target = tmp_path / "model"
    merge_folders(base, adapter, target)
    names = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    known = {path.name for path in tiny_model.iterdir()}
    assert names == known | {"LICENSE", f"{merging.TEMPLATES}/tool_use.jinja"}
    for name in known - {"model.safetensors", "generation_config.json"}:
        assert (target / name).read_bytes() == (base / name).read_bytes(), name
    ends = json.loads((target / "generation_config.json").read_text())["eos_token_id"]
    assert AutoTokenizer.from_pretrained(target).convert_tokens_to_ids("<|im_end|>") in ends
    assert list(tmp_path.glob(".*.part")) == []


def test_an_adapter_of_another_base_is_refused_before_anything_is_written(adapter, tmp_path) -> None:
    other = write_tiny_model(tmp_path / "other", layers=1)
    with pytest.raises(ValueError, match=rf"{adapter}.* does not fit the base {other}: .*layers.1.*does not have"):
        merge_folders(other, adapter, tmp_path / "new" / "model")
    assert not (tmp_path / "new").exists()


def test_a_base_that_is_quantised_or_a_folder_that_is_there_is_refused(tiny_model, adapter, tmp_path) -> None:
    base = shutil.copytree(tiny_model, tmp_path / "base")
    settings = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(settings | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(ValueError, match=r"base is quantised \(gptq\)"):
        merge_folders(base, adapter, tmp_path / "model")
    (base / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="config.json is missing"):
        merge_folders(base, adapter, tmp_path / "model")
    (tmp_path / "model").mkdir()
    with pytest.raises(FileExistsError, match="is there already"):
        merge_folders(tiny_model, adapter, tmp_path / "model")


def test_a_number_too_large_for_float16_ends_the_merge(tiny_model, tmp_path) -> None:
    base = write_base(tiny_model, tmp_path / "base", dtype=torch.float16)
    adapter = write_adapter(base, tmp_path / "adapter", lora_alpha=10_000_000)
    with pytest.raises(ValueError, match="proj.weight has numbers too large for float16; convert the base"):
        merge_folders(base, adapter, tmp_path / "model")
    assert {path.name for path in tmp_path.iterdir()} == {"base", "adapter"}


def grown(base: Path, folder: Path, more: int) -> Path:
    """The base with a tensor of so many bytes more."""
    shutil.copytree(base, folder)
    grow(folder / "model.safetensors", "more.weight", more)
    return folder


def grow(file: Path, name: str, more: int) -> None:
    """Gives a file a matrix of zeros of so many bytes, which take no room: a hole at its end."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    head, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    head[name] = {"dtype": "F32", "shape": [more // 400, 100], "data_offsets": [len(body), len(body) + more]}
    text = json.dumps(head).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + body)
    os.truncate(file, 8 + len(text) + len(body) + more)


def merge_with_limit(base: Path, adapter: Path, target: Path, largest_file: int, said: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    try:
        merge_folders(base, adapter, target)
    except OSError as error:
        said.write_text(str(error))


def test_a_merge_that_is_killed_leaves_no_model_and_the_next_one_clears_up(tiny_model, adapter, tmp_path) -> None:
    base, target = grown(tiny_model, tmp_path / "base", 10**8), tmp_path / "here" / "model"
    process = multiprocessing.get_context("fork").Process(target=merge_folders, args=(base, adapter, target))
    process.start()
    while not list(target.parent.glob(".model.*.part/*.safetensors")):
        assert process.is_alive()
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not target.exists() and len(list(target.parent.iterdir())) == 1
    merge_folders(tiny_model, adapter, target)
    assert [path.name for path in target.parent.iterdir()] == ["model"]


def test_a_disk_that_is_full_is_named_and_nothing_is_left(tiny_model, adapter, tmp_path) -> None:
    target, said = tmp_path / "here" / "model", tmp_path / "said"
    words = (tiny_model, adapter, target, 200_000, said)
    process = multiprocessing.get_context("fork").Process(target=merge_with_limit, args=words)
    process.start()
    process.join()
    assert re.match(rf"{target.parent} cannot be written \(.*File too large.*\); free some", said.read_text())
    assert list(target.parent.iterdir()) == []


def test_a_file_that_cannot_be_read_is_no_full_disk(tiny_model, adapter, tmp_path) -> None:
    own = shutil.copytree(adapter, tmp_path / "adapter")
    prepared = merging.prepare(tiny_model, own)
    os.truncate(own / "adapter_model.safetensors", 20_000)
    with (
        pytest.raises(OSError, match=rf"{own}/adapter_model.safetensors has become shorter") as told,
        merging.aside(tmp_path / "model") as folder,
    ):
        merging.write(prepared, folder)
    assert "free some" not in str(told.value)


def test_a_folder_that_cannot_be_forced_to_the_disk_ends_no_merge() -> None:
    merging._force_to_disk(Path("/proc"))  # EINVAL, as on CIFS or 9p
    with pytest.raises(OSError, match="Invalid argument"):
        merging._force_to_disk(Path("/proc/self/status"))


def test_a_base_that_cannot_end_a_reply_is_refused_before_a_finished_merge_goes(tiny_model, adapter, tmp_path) -> None:
    base = shutil.copytree(tiny_model, tmp_path / "base")
    words = ["model=folder", f"model.id={base}", f"outputs={tmp_path}"]
    merging.merge(config(adapter, *words))
    folder = tmp_path / "default" / "main" / "merge" / "model"
    (base / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match=f"{base}: its tokenizer has no chat template"):
        merging.merge(config(adapter, *words, "overwrite=true"))
    assert (folder / "model.safetensors").exists()


def test_a_base_whose_generation_config_transformers_would_not_save_is_merged(tiny_model, adapter, tmp_path) -> None:
    base = shutil.copytree(tiny_model, tmp_path / "base")
    (base / "generation_config.json").write_text(json.dumps({"temperature": 0.9, "top_p": 0.6}))
    merge_folders(base, adapter, tmp_path / "model")
    made = load(tmp_path / "model").generation_config
    assert (made.temperature, made.top_p, made.eos_token_id) == (0.9, 0.6, [2, 0])


def test_a_disk_that_is_too_small_is_known_before_anything_is_copied(tiny_model, adapter, tmp_path) -> None:
    base = grown(tiny_model, tmp_path / "base", shutil.disk_usage(tmp_path).free // 400 * 400 + 10**9)
    size = r"[\d,]+\.\d\d GB"
    said = rf"takes {size}, but on the disk of {tmp_path} only {size} are free; make room, or .* give outputs="
    with pytest.raises(OSError, match=said):
        merge_folders(base, adapter, tmp_path / "model")
    assert {path.name for path in tmp_path.iterdir()} == {"base"}


@pytest.mark.parametrize("change", ["added to", "replaced"])
def test_memory_stays_far_below_the_size_of_a_tensor_that_changes(tiny_model, tmp_path, change: str) -> None:
    base = grown(tiny_model, tmp_path / "base", 3 * 10**8)
    adapter = tmp_path / "adapter"
    LoraConfig(r=1, target_modules=["more"], modules_to_save=["more"], task_type="CAUSAL_LM").save_pretrained(adapter)
    weights, layer = adapter / "adapter_model.safetensors", "base_model.model.more"
    if change == "replaced":
        save_file({"base_model.model.model.norm.weight": torch.ones(64)}, weights)
        grow(weights, f"{layer}.weight", 3 * 10**8)
    else:
        matrices = {f"{layer}.lora_A.weight": torch.ones(1, 100), f"{layer}.lora_B.weight": torch.ones(750_000, 1)}
        save_file(matrices, weights)
    words = (base, adapter, tmp_path / "model")
    process = multiprocessing.get_context("fork").Process(target=require_little_memory, args=words)
    process.start()
    process.join()
    assert process.exitcode == 0
    with safe_open(tmp_path / "model" / "model.safetensors", "pt") as merged:
        assert torch.equal(merged.get_slice("more.weight")[-1:], torch.full((1, 100), change == "added to") * 8.0)


def require_little_memory(base: Path, adapter: Path, target: Path) -> None:
    """Of a fork the peak counts from where its parent stands."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    merge_folders(base, adapter, target)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_merge_takes_the_adapter_that_is_named_and_another_one_is_another_run(tiny_model, adapter, tmp_path) -> None:
    words = ["model=folder", f"model.id={tiny_model}", f"outputs={tmp_path}"]
    merging.merge(config(adapter, *words))
    folder = tmp_path / "default" / "main" / "merge"
    run = json.loads((folder / "run.json").read_text())
    assert run["finished"] and "model.safetensors" in run["results"]["files"]
    assert run["results"]["bytes"] == sum(path.stat().st_size for path in (folder / "model").iterdir())
    merging.merge(config(adapter, *words, "resume=true"))
    before = run | {"settings": {key: value for key, value in run["settings"].items() if key != "from"}}
    (folder / "run.json").write_text(json.dumps(before))  # of a merge that did not know the key yet
    with pytest.raises(ValueError, match=f"other settings.*from: None -> {adapter}"):
        merging.merge(config(adapter, *words, "resume=true"))
    (folder / "run.json").write_text(json.dumps(run))
    other = write_adapter(tiny_model, tmp_path / "other", lora_alpha=7)
    with pytest.raises(ValueError, match="other settings.*adapter"):
        merging.merge(config(other, *words, "resume=true"))
    broken = write_adapter(write_tiny_model(tmp_path / "larger", layers=3), tmp_path / "broken")
    with pytest.raises(ValueError, match="does not fit"):
        merging.merge(config(broken, *words, "overwrite=true"))
    assert json.loads((folder / "run.json").read_text()) == run, "the merge that was there stays"
    with pytest.raises(FileNotFoundError, match="train.py"):
        merging.merge(config(None, *words, "name=new"))


def write_trained(run: Path, base: Path, adapter: Path) -> None:
    """What train.py leaves of a run on the base, as far as merge.py reads it."""
    shutil.copytree(adapter, run / "train" / "best")
    model = {"source": "folder", "id": str(base), "file": None, "dtype": "float32", "revision": None}
    settings = {"model": model, "lora": {}, "train": {}, "launcher": {}, "max_length": 2048, "seed": 1}
    made = {"finished": "now", "settings": settings, "results": {}, "commit": None}
    (run / "train" / "run.json").write_text(json.dumps(made))


def test_a_run_s_adapter_goes_into_no_other_base_than_it_was_trained_on(tiny_model, adapter, tmp_path) -> None:
    run, other = tmp_path / "default" / "main", shutil.copytree(tiny_model, tmp_path / "other")
    write_trained(run, tiny_model, adapter)
    words = ["model=folder", f"outputs={tmp_path}"]
    with pytest.raises(ValueError) as told:
        merging.merge(config(None, *words, f"model.id={other}"))
    best = run / "train" / "best"
    for part in (f"trained on the model source=folder id={tiny_model},", f"id={other};", f"merge.adapter={best}"):
        assert part in str(told.value)
    with pytest.raises(ValueError, match="revision=abc; give model="):
        merging.merge(config(None, *words, f"model.id={tiny_model}", "+model.revision=abc"))
    assert not (run / "merge").exists()
    merging.merge(config(None, *words, f"model.id={tiny_model}/../{tiny_model.name}", "model.dtype=bfloat16"))
    assert record.settings_of(run / "merge")["from"] is None


def test_an_adapter_from_elsewhere_that_names_another_base_is_merged_with_a_warning(
    tiny_model, adapter, tmp_path, caplog
) -> None:
    other = shutil.copytree(tiny_model, tmp_path / "other")
    for base, is_told in ((tiny_model, False), (other, True)):
        merging.merge(config(adapter, "model=folder", f"model.id={base}", f"outputs={tmp_path}", f"name={is_told}"))
        assert any(f"trained on {tiny_model}; it is merged into {base}" in said for said in caplog.messages) == is_told


def config(adapter: Path | None, *overrides: str) -> Config:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        made = typed(compose("config", overrides=list(overrides)))
    made.merge.adapter = adapter and str(adapter)
    return made
