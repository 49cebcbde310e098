"""Qwen 1's weights as those of transformers' Qwen2: where each tensor lies, and its shards written anew."""

from __future__ import annotations

import math
import pickle
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from fabrictune import record
from fabrictune.log import bar

if TYPE_CHECKING:
    import torch

SHARD_BYTES = 2_000_000_000
TEXT_BYTES = 20_000_000  # tokenizer.json has 11.5 MB

_BUFFERS = ("rotary_emb.inv_freq", "attn.masked_bias")  # computed from the config, saved by some versions


@dataclass(frozen=True)
class Piece:
    """Where a tensor of Qwen2 lies: so many rows of one of Qwen 1's, from `start` on."""

    name: str
    start: int
    shape: tuple[int, ...]


# Qwen2's name of each tensor: the published shard in which it lies, and where.
Sources = dict[str, tuple[Path, Piece]]


def sources(folder: Path, aside: Path, config: Mapping[str, Any]) -> Sources:
    """Where the tensors of the model with Qwen2's `config` come from; `aside` is where they are to be written.

    Raises as `qwen.convert` does for what is wrong with them, or with the disk.
    """
    pieces = _pieces(config)
    found = _tensors(shards(folder))
    _require_fit(folder, pieces, {name: shape for name, (_, shape) in found.items()})
    _require_room(folder, aside, pieces, config["dtype"])
    return {name: (found[piece.name][0], piece) for name, piece in pieces.items()}


def write(aside: Path, tensors: Sources, dtype: str, shard_bytes: int) -> None:
    """Writes the tensors to `aside` in shards of at most `shard_bytes`, with their index if there are several."""
    import torch
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    kind = getattr(torch, dtype)
    empty = {name: torch.empty(piece.shape, dtype=kind, device="meta") for name, (_, piece) in tensors.items()}
    plan = split_torch_state_dict_into_shards(empty, max_shard_size=shard_bytes)
    with bar("converting tensors", len(tensors)) as moving:
        for file, names in plan.filename_to_tensors.items():
            shard = {name: _read(*tensors[name], kind) for name in names}
            save_file(shard, aside / file, metadata={"format": "pt"})
            moving.update(len(names))
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        record.write_json(aside / "model.safetensors.index.json", index)


def shards(folder: Path) -> list[Path]:
    """The files of weights. Raises FileNotFoundError if there are none."""
    for pattern in ("model*.safetensors", "pytorch_model*.bin"):
        if found := sorted(folder.glob(pattern)):
            return found
    raise FileNotFoundError(f"{folder} has no weights (neither model*.safetensors nor pytorch_model*.bin)")


def _pieces(config: Mapping[str, Any]) -> dict[str, Piece]:
    """Where each tensor of Qwen2 comes from."""
    hidden, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    pieces = {"model.embed_tokens.weight": Piece("transformer.wte.weight", 0, (vocabulary, hidden))}
    for layer in range(config["num_hidden_layers"]):
        own = {
            "input_layernorm.weight": Piece("ln_1.weight", 0, (hidden,)),
            "self_attn.o_proj.weight": Piece("attn.c_proj.weight", 0, (hidden, hidden)),
            "post_attention_layernorm.weight": Piece("ln_2.weight", 0, (hidden,)),
            # Qwen 1 computes w1(x) * silu(w2(x)).
            "mlp.gate_proj.weight": Piece("mlp.w2.weight", 0, (inner, hidden)),
            "mlp.up_proj.weight": Piece("mlp.w1.weight", 0, (inner, hidden)),
            "mlp.down_proj.weight": Piece("mlp.c_proj.weight", 0, (hidden, inner)),
        }
        for i, projection in enumerate(("q_proj", "k_proj", "v_proj")):
            own[f"self_attn.{projection}.weight"] = Piece("attn.c_attn.weight", i * hidden, (hidden, hidden))
            own[f"self_attn.{projection}.bias"] = Piece("attn.c_attn.bias", i * hidden, (hidden,))
        for name, piece in own.items():
            theirs = Piece(f"transformer.h.{layer}.{piece.name}", piece.start, piece.shape)
            pieces[f"model.layers.{layer}.{name}"] = theirs
    pieces["model.norm.weight"] = Piece("transformer.ln_f.weight", 0, (hidden,))
    pieces["lm_head.weight"] = Piece("lm_head.weight", 0, (vocabulary, hidden))
    return pieces


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


def _require_fit(folder: Path, pieces: Mapping[str, Piece], found: Mapping[str, tuple[int, ...]]) -> None:
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
        raise ValueError(
            f"{folder}: not the tensors of the model in its config.json; {'; '.join(said)}; fetch the model again"
        )


def _require_room(folder: Path, aside: Path, pieces: Mapping[str, Piece], dtype: str) -> None:
    import torch

    weights = sum(math.prod(piece.shape) for piece in pieces.values())
    needed = weights * getattr(torch, dtype).itemsize + TEXT_BYTES
    free = shutil.disk_usage(aside).free
    if free < needed:
        raise OSError(
            f"{aside.parent}: converting {folder} takes {needed / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB "
            f"left; make room, or set FABRICTUNE_CACHE to a folder on another disk"
        )


def _read(shard: Path, piece: Piece, kind: torch.dtype) -> torch.Tensor:
    """The piece as a tensor of its own, of which nothing else holds the memory."""
    with _opened(shard) as tensors:
        part: torch.Tensor = tensors[piece.name][piece.start : piece.start + piece.shape[0]]
        return part.to(kind, copy=True).contiguous()
