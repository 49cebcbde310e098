"""Adapters to make others of: a plain one on every linear layer, and copies of it that differ in this and that."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from fabrictune.merge import adapters, merging

LAYER = "base_model.model.model.layers.0.self_attn.q_proj"


def write_plain(base: Path, folder: Path) -> Path:
    """An adapter of rank 4 as it is before training."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")).save_pretrained(folder)
    return folder


def changed(folder: Path, target: Path, settings: dict[str, Any] | None = None, **tensors: Any) -> Path:
    """The adapter with other settings, and other tensors in its first layer (None: without them)."""
    shutil.copytree(folder, target)
    path, weights = target / adapters.CONFIG, target / adapters.WEIGHTS
    path.write_text(json.dumps(json.loads(path.read_text()) | (settings or {})))
    known = load_file(weights)
    for name, tensor in tensors.items():
        known.pop(f"{LAYER}.{name}.weight", None)
        if tensor is not None:
            known[f"{LAYER}.{name}.weight"] = tensor
    save_file(known, weights)
    return target


def merge_folders(base: Path, adapter: Path, target: Path) -> None:
    """Merges as merge.py does, without a run."""
    prepared = merging.prepare(base, adapter)
    with merging.aside(target) as folder:
        merging.write(prepared, folder)
