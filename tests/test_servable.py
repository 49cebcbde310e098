"""A model's folder and its adapters are refused, by name and with a way out, before vLLM has loaded anything."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_adapter import write_adapter, write_base

from fabrictune.serve import servable


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base")


def test_only_whole_safetensors_are_served(tmp_path: Path, base: Path) -> None:
    servable.require_safetensors(base, "serve.model=base")
    with pytest.raises(FileNotFoundError, match="serve.model=x: .*config.json is missing"):
        servable.require_safetensors(tmp_path, "serve.model=x")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="serve.model=x: .* has no weights"):
        servable.require_safetensors(tmp_path, "serve.model=x")
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ValueError, match=r"serve.model=x: .*pytorch_model.bin.*run code.*save_pretrained"):
        servable.require_safetensors(tmp_path, "serve.model=x")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-00001-of-00002.safetensors").touch()
    with pytest.raises(FileNotFoundError, match="serve.model=x: .*model-00002-of-00002.safetensors is missing"):
        servable.require_safetensors(tmp_path, "serve.model=x")


@pytest.mark.parametrize(
    ("config", "fits"),
    [
        ({"max_position_embeddings": 2048}, False),
        ({"text_config": {"max_position_embeddings": 2048}}, False),
        ({"max_position_embeddings": 4096}, True),
        ({"max_position_embeddings": 2048, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, True),
        ({"max_position_embeddings": 2048, "rope_parameters": {"rope_type": "default"}}, False),
        ({}, True),
    ],
)
def test_a_length_beyond_the_models_own_is_refused(tmp_path: Path, config: dict[str, Any], fits: bool) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    if fits:
        servable.check_length(tmp_path, 4096)
    else:
        with pytest.raises(ValueError, match="serve.max_length=4096.*2048 positions"):
            servable.check_length(tmp_path, 4096)


def test_code_out_of_a_models_folder_is_run_only_when_asked_by_name(tmp_path: Path) -> None:
    own = {"model_type": "mine", "auto_map": {"AutoModelForCausalLM": "modeling_mine.Mine"}}
    (tmp_path / "config.json").write_text(json.dumps(own))
    with pytest.raises(ValueError, match="'mine'.*serve.trust_remote_code=true"):
        servable.check_code(tmp_path, trusted=False)
    servable.check_code(tmp_path, trusted=True)
    (tmp_path / "config.json").write_text(json.dumps(own | {"model_type": "llama"}))
    servable.check_code(tmp_path, trusted=False)


def test_the_models_own_template_is_found_wherever_transformers_keeps_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no chat template.*chat_template.jinja"):
        servable.chat_template(tmp_path)
    tokenizer = tmp_path / "tokenizer_config.json"
    tokenizer.write_text("{}")
    with pytest.raises(ValueError, match="no chat template"):
        servable.chat_template(tmp_path)
    tokenizer.write_text(json.dumps({"chat_template": [{"name": "rag", "template": "r"}]}))
    with pytest.raises(ValueError, match="no chat template"):
        servable.chat_template(tmp_path)
    tokenizer.write_text(
        json.dumps({"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]})
    )
    assert servable.chat_template(tmp_path) == "d"
    tokenizer.write_text(json.dumps({"chat_template": "t"}))
    assert servable.chat_template(tmp_path) == "t"
    (tmp_path / "chat_template.jinja").write_text("j")
    assert servable.chat_template(tmp_path) == "j"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"layer": "model.layers.7.self_attn.q_proj"}, "the model has no model.layers.7.self_attn.q_proj.weight"),
        ({"size": 96}, r"lora_A.weight is \(12, 96\), the model's .*q_proj.weight \(128, 64\)"),
        ({"r": 1000}, r"ranks of \[1000\]"),
        ({"r": None}, r"ranks of \[None\]"),
        ({"use_dora": True}, r"\(its settings say use_dora=True\)"),
        ({"bias": "all"}, "its settings say bias=all"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
        ({"use_bdlora": {"nblocks": 2}}, "use_bdlora"),
        ({"use_qalora": True}, "use_qalora=True"),
        ({"init_lora_weights": "pissa_niter_4"}, "its settings say init_lora_weights=pissa_niter_4"),
        ({"peft_type": "IA3"}, "its settings say peft_type=IA3"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, base: Path, more: dict[str, Any], words: str
) -> None:
    adapter = write_adapter(tmp_path / "adapter", **more)
    with pytest.raises(ValueError, match=f"adapter 'mine': .*adapter cannot be served on .*{words}"):
        servable.adapter_rank("mine", adapter, base)


@pytest.mark.parametrize("init", [True, False, None, "gaussian", "EVA", "lora_ga"])
def test_an_adapter_may_begin_in_any_way_that_leaves_the_base_as_it_is(
    tmp_path: Path, base: Path, init: bool | str | None
) -> None:
    adapter = write_adapter(tmp_path / "adapter", init_lora_weights=init, rank_pattern={"q_proj": 33})
    assert servable.adapter_rank("mine", adapter, base) == 33


def test_what_vllm_needs_of_an_adapter_must_be_there(tmp_path: Path, base: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    settings = json.loads((adapter / "adapter_config.json").read_text())
    for key in ("r", "lora_alpha", "target_modules"):
        (adapter / "adapter_config.json").write_text(json.dumps({k: v for k, v in settings.items() if k != key}))
        with pytest.raises(ValueError, match=f"'mine': .*{key}"):
            servable.adapter_rank("mine", adapter, base)
