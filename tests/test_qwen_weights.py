"""What is wrong with Qwen 1's tensors, or with the disk, is told before a tensor is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from published_qwen import HIDDEN, LATE, VOCABULARY, buffers, weights, write
from safetensors.torch import save_file

from fabrictune.model import qwen


def refused(folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> str:
    with pytest.raises(ValueError) as error:
        qwen.convert(write(folder, config, tensors), folder.parent / "new", "float32")
    assert not (folder.parent / "new").exists()
    return str(error.value)


def test_each_tensor_that_is_missing_unknown_or_misshapen_is_named(tmp_path: Path) -> None:
    wrong = weights() | buffers()
    del wrong["transformer.h.1.attn.c_attn.bias"]
    del wrong["transformer.ln_f.weight"]
    wrong["transformer.h.2.ln_1.weight"] = torch.ones(HIDDEN)
    wrong["transformer.h.0.attn.c_attn.weight"] = torch.ones(2 * HIDDEN, HIDDEN)
    said = refused(tmp_path / "wrong", LATE, wrong)
    assert said == (
        f"{tmp_path / 'wrong'}: not the tensors of the model in its config.json; "
        "missing: transformer.h.1.attn.c_attn.bias, transformer.ln_f.weight; "
        "unknown: transformer.h.2.ln_1.weight; "
        "of another shape: transformer.h.0.attn.c_attn.weight (32, 16) instead of (48, 16); "
        "fetch the model again"
    )


def test_a_tensor_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "twice", LATE, weights())
    save_file({"lm_head.weight": torch.ones(2, 2)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"lm_head.weight is both in .*model-0000. ?.*and in model.safetensors"):
        qwen.convert(folder, tmp_path / "new", "float32")


def test_a_disk_without_room_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """Of a model too large for this disk the published file is sparse, which takes no room."""
    rows = max(VOCABULARY, shutil.disk_usage(tmp_path).free // (7 * HIDDEN))
    small = {name: tensor for name, tensor in weights().items() if tensor.shape[0] != VOCABULARY}
    folder = write(tmp_path / "large", LATE | {"vocab_size": rows}, small)
    for name in ("transformer.wte.weight", "lm_head.weight"):
        size = rows * HIDDEN
        header = json.dumps({name: {"dtype": "F8_E4M3", "shape": [rows, HIDDEN], "data_offsets": [0, size]}}).encode()
        with (folder / f"model-{name}.safetensors").open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(8 + len(header) + size)
    with pytest.raises(
        OSError, match=r"converting .*large takes \S+ GB and the disk has \S+ GB left; .*FABRICTUNE_CACHE"
    ):
        qwen.convert(folder, tmp_path / "new", "float32")
    assert not (tmp_path / "new").exists() and not (tmp_path / ".new.part").exists()
