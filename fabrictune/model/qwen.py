"""Qwen 1 (Qwen-7B-Chat and its kin) as a Qwen 2 folder, without running the code that its checkpoint brings.

Its network is transformers' Qwen2 under other names, its vocabulary a file of tiktoken ranks. Both are written once, as
transformers' own layout. Imports no torch before weights are converted, so that convert.py can ask for the tokenizer.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import transformers
from filelock import FileLock

from fabrictune import record
from fabrictune.log import logger
from fabrictune.model import qwen_vocabulary, qwen_weights
from fabrictune.model.qwen_vocabulary import END, PAD, id_of

LAYOUT = 1  # part of a folder's stamp: with another number, everything is converted anew

# Qwen2's name of each number, and Qwen 1's: the second is that of the first release, whose padded size is the real one.
_NUMBERS = {
    "hidden_size": ("hidden_size", "n_embd"),
    "intermediate_size": ("intermediate_size", "ffn_hidden_size"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer"),
    "num_attention_heads": ("num_attention_heads", "n_head"),
    "head_dim": ("kv_channels",),
    "vocab_size": ("padded_vocab_size", "vocab_size"),
    # Further out the original changes its rotary base and scales its queries, which Qwen2 does not.
    "max_position_embeddings": ("seq_length",),
    "rms_norm_eps": ("layer_norm_epsilon",),
    "rope_theta": ("rotary_emb_base",),
}
# What Qwen2's classes take for granted. A key that is absent has this value in Qwen 1's own configuration class.
_GRANTED = {
    "no_bias": True,
    "rotary_pct": 1.0,
    "scale_attn_weights": True,
    "tie_word_embeddings": False,
    "apply_residual_connection_post_layernorm": False,
    "quantization_config": None,
    "visual": None,  # Qwen-VL
    "audio": None,  # Qwen-Audio
}


def is_qwen1(folder: Path) -> bool:
    """Whether the folder holds a model of Qwen's first generation. Raises ValueError if its config.json is broken."""
    return (folder / "config.json").exists() and _read_json(folder / "config.json").get("model_type") == "qwen"


def stamp(folder: Path, weights: bool) -> str:
    """Twelve hexadecimal digits that differ if what is converted does, by the names, sizes and times of its files.

    The weights' 15 GB are not read for it. Raises FileNotFoundError if there are none.
    """
    files = [
        folder / "config.json",
        folder / qwen_vocabulary.RANK_FILE,
        *(qwen_weights.shards(folder) if weights else ()),
    ]
    known = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.exists()]
    return hashlib.sha256(repr((LAYOUT, known)).encode()).hexdigest()[:12]


def convert_tokenizer(folder: Path, target: Path) -> None:
    """Writes config.json, generation_config.json, tokenizer.json and the chat template to `target`, unless it is there.

    Raises ValueError if the rank file or config.json is not Qwen 1's, FileNotFoundError if one is not there.
    """
    logger.info("converting the tokenizer of %s to %s (once)", folder, target)
    _once(target, lambda aside: _write_texts(folder, aside, _config(folder)))


def convert(folder: Path, target: Path, dtype: str, shard_bytes: int = qwen_weights.SHARD_BYTES) -> None:
    """Writes the model to `target` in transformers' Qwen2 layout, unless it is there; `target` appears whole or not.

    The checkpoint is read tensor by tensor, and written in shards of at most `shard_bytes`, one of which is in memory.
    Raises ValueError if a tensor is unknown, missing, twice there or of another shape, if the configuration or the rank
    file is not Qwen 1's; OSError if the disk has too little room; FileNotFoundError if there are no weights.
    """
    logger.info("converting %s to %s (once)", folder, target)
    _once(target, lambda aside: _write_model(folder, aside, dtype, shard_bytes))


def _once(target: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` fill a folder that then takes `target`'s name; of several processes the first does it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.part")
    with FileLock(target.with_name(f".{target.name}.lock")):
        if target.exists():
            return
        shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
        try:
            aside.mkdir()
            write(aside)
            aside.replace(target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _write_model(folder: Path, aside: Path, dtype: str, shard_bytes: int) -> None:
    config = _config(folder) | {"dtype": dtype}
    tensors = qwen_weights.sources(folder, aside, config)
    _write_texts(folder, aside, config)
    qwen_weights.write(aside, tensors, dtype, shard_bytes)


def _config(folder: Path) -> dict[str, Any]:
    """Qwen2's config.json of the model, less its dtype."""
    file = folder / "config.json"
    theirs = _read_json(file)
    for key, granted in _GRANTED.items():
        if theirs.get(key, granted) != granted:
            raise ValueError(f"{file}: {key}={theirs[key]!r}, but only {granted!r} can be read as Qwen 2")
    numbers = {ours: _number(file, theirs, names) for ours, names in _NUMBERS.items()}
    if numbers["head_dim"] * numbers["num_attention_heads"] != numbers["hidden_size"]:
        raise ValueError(f"{file}: kv_channels times the number of heads is not hidden_size, so it is not Qwen 1's")
    if numbers["vocab_size"] < qwen_vocabulary.SIZE:
        raise ValueError(f"{file}: vocab_size={numbers['vocab_size']} is less than Qwen 1's tokens")
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        **numbers,
        "intermediate_size": numbers["intermediate_size"] // 2,  # both of w1 and w2 were counted
        "num_key_value_heads": numbers["num_attention_heads"],
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "eos_token_id": id_of(END),
        "pad_token_id": id_of(PAD),
        # Without it transformers takes the tokenizer for one of Mistral's first, and warns.
        "transformers_version": transformers.__version__,
    }


def _number(file: Path, theirs: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    for name in names:
        if isinstance(theirs.get(name), int | float):
            return theirs[name]
    raise ValueError(f"{file}: {' or '.join(names)} is not there, so it is no model of Qwen 1")


def _write_texts(folder: Path, aside: Path, config: Mapping[str, Any]) -> None:
    # Of Qwen's sampling settings none is kept: neither swift nor vLLM used its penalty of 1.1 on repetitions, under
    # which a model does not copy a URL.
    ends = {"eos_token_id": [id_of(END), id_of(PAD)], "pad_token_id": id_of(PAD)}
    record.write_json(aside / "config.json", config)
    record.write_json(aside / "generation_config.json", ends)
    tokenizer = qwen_vocabulary.tokenizer(folder, config["max_position_embeddings"])
    tokenizer.save_pretrained(aside)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{file} holds no JSON object")
    return value
