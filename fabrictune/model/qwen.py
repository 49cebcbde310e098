"""Qwen 1 (Qwen-7B-Chat and its kin) as a Qwen 2 folder, without running the code that its checkpoint brings.

Its network is transformers' Qwen2 under other names, its vocabulary a file of tiktoken ranks. Both are written once, as
transformers' own layout. Imports no torch before weights are converted, so that convert.py can ask for the tokenizer.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import pickle
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from fabrictune.log import bar, logger

if TYPE_CHECKING:
    import torch

LAYOUT = 1  # part of a folder's stamp: with another number, everything is converted anew
RANK_FILE = "qwen.tiktoken"
RANKS = 151_643
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205)))
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# A chat without a system message gets the one that Qwen's own `chat` and swift's `qwen` template have by default.
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SHARD_BYTES = 2_000_000_000
TEXT_BYTES = 20_000_000  # tokenizer.json has 11.5 MB

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
_BUFFERS = ("rotary_emb.inv_freq", "attn.masked_bias")  # computed from the config, saved by some versions


@dataclass(frozen=True)
class _Piece:
    """Where a tensor of Qwen2 lies: so many rows of one of Qwen 1's, from `start` on."""

    name: str
    start: int
    shape: tuple[int, ...]


def is_qwen1(folder: Path) -> bool:
    """Whether the folder holds a model of Qwen's first generation. Raises ValueError if its config.json is broken."""
    return (folder / "config.json").exists() and _read_json(folder / "config.json").get("model_type") == "qwen"


def stamp(folder: Path, weights: bool) -> str:
    """Twelve hexadecimal digits that differ if what is converted does, by the names, sizes and times of its files.

    The weights' 15 GB are not read for it. Raises FileNotFoundError if there are none.
    """
    files = [folder / "config.json", folder / RANK_FILE, *(_shards(folder) if weights else ())]
    known = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.exists()]
    return hashlib.sha256(repr((LAYOUT, known)).encode()).hexdigest()[:12]


def convert_tokenizer(folder: Path, target: Path) -> None:
    """Writes config.json, generation_config.json, tokenizer.json and the chat template to `target`, unless it is there.

    Raises ValueError if the rank file or config.json is not Qwen 1's, FileNotFoundError if one is not there.
    """
    logger.info("converting the tokenizer of %s to %s (once)", folder, target)
    _once(target, lambda aside: _write_texts(folder, aside, _config(folder)))


def convert(folder: Path, target: Path, dtype: str, shard_bytes: int = SHARD_BYTES) -> None:
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
    pieces = _pieces(config)
    found = _tensors(_shards(folder))
    _require_fit(folder, pieces, {name: shape for name, (_, shape) in found.items()})
    _require_room(folder, aside, pieces, dtype)
    _write_texts(folder, aside, config)
    _write_weights(aside, pieces, {name: file for name, (file, _) in found.items()}, dtype, shard_bytes)


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
    if numbers["vocab_size"] < RANKS + len(SPECIAL_TOKENS):
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
        "eos_token_id": _id("<|im_end|>"),
        "pad_token_id": _id("<|endoftext|>"),
        # Without it transformers takes the tokenizer for one of Mistral's first, and warns.
        "transformers_version": transformers.__version__,
    }


def _number(file: Path, theirs: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    for name in names:
        if isinstance(theirs.get(name), int | float):
            return theirs[name]
    raise ValueError(f"{file}: {' or '.join(names)} is not there, so it is no model of Qwen 1")


def _id(token: str) -> int:
    return RANKS + SPECIAL_TOKENS.index(token)


def _write_texts(folder: Path, aside: Path, config: Mapping[str, Any]) -> None:
    # Of Qwen's sampling settings none is kept: neither swift nor vLLM used its penalty of 1.1 on repetitions, under
    # which a model does not copy a URL.
    ends = {"eos_token_id": [_id("<|im_end|>"), _id("<|endoftext|>")], "pad_token_id": _id("<|endoftext|>")}
    _write_json(aside / "config.json", config)
    _write_json(aside / "generation_config.json", ends)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_tokenizer(_ranks(folder / RANK_FILE)),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=config["max_position_embeddings"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(aside)


def _ranks(file: Path) -> dict[bytes, int]:
    """The rank of each token: its id, and how early tiktoken merges it.

    tiktoken's own reader is not used: it keeps what it has once read from a path in /tmp, whatever lies there later.
    """
    if not file.exists():
        raise FileNotFoundError(f"{file} is not there; Qwen 1's tokenizer is made of it")
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError as error:  # binascii's is one
            raise ValueError(f"{file}:{number}: not a token and its rank; fetch the file again") from error
    if sorted(ranks.values()) != list(range(RANKS)):
        raise ValueError(f"{file}: not the ranks 0 to {RANKS - 1}, each once, but {len(ranks)}; fetch the file again")
    return ranks


def _tokenizer(ranks: Mapping[bytes, int]) -> Tokenizer:
    """The byte-level BPE with the ids that tiktoken gives any text.

    transformers' TikTokenConverter gives the same ids from every way to split a token, 294,166 merges in 18.7 MB; the
    one way that BPE itself goes is 151,387 merges in 11.5 MB, as in the tokenizers of Qwen's later models.
    """
    letters = bytes_to_unicode()
    words = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges = [(words[left], words[right]) for left, right in _merges(ranks)]
    tokenizer = Tokenizer(BPE({words[token]: rank for token, rank in ranks.items()}, merges, ignore_merges=True))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    # Qwen 1 looks for special tokens in the normalised text, where a '>' may have become one letter with what follows.
    tokenizer.add_special_tokens([AddedToken(token, normalized=True, special=True) for token in SPECIAL_TOKENS])
    return tokenizer


def _merges(ranks: Mapping[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """The two halves of which BPE makes each token of several bytes, in the order of the tokens' ranks."""
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        parts = [bytes([byte]) for byte in token]
        while len(parts) > 2:
            pairs = zip(parts, parts[1:], strict=False)
            lowest, at = min((ranks.get(left + right, rank), i) for i, (left, right) in enumerate(pairs))
            if lowest >= rank:
                raise ValueError(f"{RANK_FILE}: no tokens of lower rank make up token {rank}; fetch the file again")
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2:
            yield parts[0], parts[1]


def _pieces(config: Mapping[str, Any]) -> dict[str, _Piece]:
    """Where each tensor of Qwen2 comes from."""
    hidden, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    pieces = {"model.embed_tokens.weight": _Piece("transformer.wte.weight", 0, (vocabulary, hidden))}
    for layer in range(config["num_hidden_layers"]):
        own = {
            "input_layernorm.weight": _Piece("ln_1.weight", 0, (hidden,)),
            "self_attn.o_proj.weight": _Piece("attn.c_proj.weight", 0, (hidden, hidden)),
            "post_attention_layernorm.weight": _Piece("ln_2.weight", 0, (hidden,)),
            # Qwen 1 computes w1(x) * silu(w2(x)).
            "mlp.gate_proj.weight": _Piece("mlp.w2.weight", 0, (inner, hidden)),
            "mlp.up_proj.weight": _Piece("mlp.w1.weight", 0, (inner, hidden)),
            "mlp.down_proj.weight": _Piece("mlp.c_proj.weight", 0, (hidden, inner)),
        }
        for i, projection in enumerate(("q_proj", "k_proj", "v_proj")):
            own[f"self_attn.{projection}.weight"] = _Piece("attn.c_attn.weight", i * hidden, (hidden, hidden))
            own[f"self_attn.{projection}.bias"] = _Piece("attn.c_attn.bias", i * hidden, (hidden,))
        for name, piece in own.items():
            theirs = _Piece(f"transformer.h.{layer}.{piece.name}", piece.start, piece.shape)
            pieces[f"model.layers.{layer}.{name}"] = theirs
    pieces["model.norm.weight"] = _Piece("transformer.ln_f.weight", 0, (hidden,))
    pieces["lm_head.weight"] = _Piece("lm_head.weight", 0, (vocabulary, hidden))
    return pieces


def _shards(folder: Path) -> list[Path]:
    for pattern in ("model*.safetensors", "pytorch_model*.bin"):
        if found := sorted(folder.glob(pattern)):
            return found
    raise FileNotFoundError(f"{folder} has no weights (neither model*.safetensors nor pytorch_model*.bin)")


@contextmanager
def _opened(shard: Path) -> Iterator[dict[str, Any]]:
    """The shard's tensors by name, on the disk still: slicing one reads these rows. Raises ValueError if it cannot."""
    import torch

    try:
        if shard.suffix == ".safetensors":
            with safe_open(shard, framework="pt") as file:
                yield {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        else:
            yield torch.load(shard, map_location="cpu", mmap=True, weights_only=True)
    except (SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"{shard} is not a whole checkpoint ({error}); fetch it again") from error


def _tensors(shards: Iterable[Path]) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """The shard and the shape of each tensor."""
    found: dict[str, tuple[Path, tuple[int, ...]]] = {}
    for shard in shards:
        with _opened(shard) as tensors:
            for name, tensor in tensors.items():
                if name in found:
                    raise ValueError(f"{name} is both in {found[name][0]} and in {shard.name}; remove one of them")
                shape = tensor.get_shape() if shard.suffix == ".safetensors" else tensor.shape
                found[name] = shard, tuple(shape)
    return found


def _require_fit(folder: Path, pieces: Mapping[str, _Piece], found: Mapping[str, tuple[int, ...]]) -> None:
    rows: dict[str, int] = {}
    for piece in pieces.values():
        rows[piece.name] = max(rows.get(piece.name, 0), piece.start + piece.shape[0])
    wanted = {piece.name: (rows[piece.name], *piece.shape[1:]) for piece in pieces.values()}
    complaints = {
        "missing": sorted(wanted.keys() - found.keys()),
        "unknown": sorted(name for name in found.keys() - wanted.keys() if not name.endswith(_BUFFERS)),
        "of another shape": [
            f"{name} {found[name]} instead of {shape}"
            for name, shape in sorted(wanted.items())
            if found.get(name, shape) != shape
        ],
    }
    said = [f"{what}: {', '.join(names)}" for what, names in complaints.items() if names]
    if said:
        raise ValueError(f"{folder}: not the tensors of the model in its config.json; {'; '.join(said)}")


def _require_room(folder: Path, aside: Path, pieces: Mapping[str, _Piece], dtype: str) -> None:
    import torch

    weights = sum(math.prod(piece.shape) for piece in pieces.values())
    needed = weights * getattr(torch, dtype).itemsize + TEXT_BYTES
    free = shutil.disk_usage(aside).free
    if free < needed:
        raise OSError(
            f"{aside.parent}: converting {folder} takes {needed / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB "
            f"left; make room, or set FABRICTUNE_CACHE to a folder on another disk"
        )


def _write_weights(
    aside: Path, pieces: Mapping[str, _Piece], files: Mapping[str, Path], dtype: str, shard_bytes: int
) -> None:
    import torch
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    kind = getattr(torch, dtype)
    empty = {name: torch.empty(piece.shape, dtype=kind, device="meta") for name, piece in pieces.items()}
    plan = split_torch_state_dict_into_shards(empty, max_shard_size=shard_bytes)
    with bar("converting tensors", len(pieces)) as moving:
        for file, names in plan.filename_to_tensors.items():
            shard = {name: _read(files[pieces[name].name], pieces[name], kind) for name in names}
            save_file(shard, aside / file, metadata={"format": "pt"})
            moving.update(len(names))
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        _write_json(aside / "model.safetensors.index.json", index)


def _read(shard: Path, piece: _Piece, kind: torch.dtype) -> torch.Tensor:
    """The piece as a tensor of its own, of which nothing else holds the memory."""
    with _opened(shard) as tensors:
        return tensors[piece.name][piece.start : piece.start + piece.shape[0]].to(kind, copy=True).contiguous()


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{file} holds no JSON object")
    return value


def _write_json(file: Path, value: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
