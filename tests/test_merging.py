"""The merged folder is the base plus the adapter, and ends a chat reply where the chat template does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import write_tiny_model
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from fabrictune import merging, models


@pytest.fixture(scope="module")
def adapter(tiny_model, tmp_path_factory) -> Path:
    """An adapter whose matrices are far from zero, as training leaves them."""
    folder = tmp_path_factory.mktemp("adapter")
    model = models.attach(models.load(tiny_model, "float32", "sdpa"), rank=4, alpha=16, dropout=0.0, seed=0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn_like(parameter) * 0.05
    model.save_pretrained(folder)
    return folder


IDS = torch.arange(3, 60)[None]


def test_merged_logits_equal_base_plus_adapter(tiny_model, adapter, tmp_path) -> None:
    merging.merge_folders(tiny_model, adapter, tmp_path / "model", "float32")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    with torch.no_grad():
        plain = base(IDS).logits
        with_adapter = PeftModel.from_pretrained(base, adapter)(IDS).logits
        torch.testing.assert_close(merged(IDS).logits, with_adapter, rtol=1e-4, atol=1e-5)
    assert (with_adapter - plain).abs().max() > 0.1, "the adapter must do something for this to be a test"


def test_the_folder_is_whole_and_ends_a_reply_as_the_template_does(tiny_model, adapter, tmp_path) -> None:
    merging.merge_folders(tiny_model, adapter, tmp_path / "model", "bfloat16")
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"} <= names
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    question = [{"role": "user", "content": "q"}]
    original = AutoTokenizer.from_pretrained(tiny_model)
    assert tokenizer.apply_chat_template(question) == original.apply_chat_template(question)
    ends = json.loads((tmp_path / "model" / "generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in ends
    assert list(tmp_path.glob(".*.part")) == []


def test_an_adapter_of_another_base_is_refused_and_leaves_nothing(adapter, tmp_path) -> None:
    other = write_tiny_model(tmp_path / "other", layers=1)
    with pytest.raises(ValueError, match="does not fit"):
        merging.merge_folders(other, adapter, tmp_path / "model", "float32")
    assert not (tmp_path / "model").exists()
    assert list(tmp_path.glob(".*.part")) == []
