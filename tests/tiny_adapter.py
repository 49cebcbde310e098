"""As much of a model and of a LoRA adapter on it as is looked at before vLLM starts: one layer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

LAYER = "model.layers.0.self_attn.q_proj"


def write_base(folder: Path) -> Path:
    """A model of one linear layer that takes 64 numbers and gives 128."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save_file({f"{LAYER}.weight": np.zeros((128, 64), np.float32)}, folder / "model.safetensors")
    return folder


def write_adapter(folder: Path, layer: str = LAYER, size: int = 64, **more: Any) -> Path:
    """A LoRA adapter of rank 12 on one layer that takes so many numbers and gives 128; `more` are settings of it."""
    folder.mkdir()
    settings = {"peft_type": "LORA", "r": 12, "lora_alpha": 24, "target_modules": ["q_proj"], **more}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    shapes = {
        f"base_model.model.{layer}.lora_A.weight": (12, size),
        f"base_model.model.{layer}.lora_B.weight": (128, 12),
    }
    save_file({key: np.zeros(shape, np.float32) for key, shape in shapes.items()}, folder / "adapter_model.safetensors")
    return folder
