"""safetensors files are read in pieces and copied with some tensors changed; all other bytes stay."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fabrictune.merge import shards


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Three tensors of three dtypes, the largest of them of several pieces."""
    path = tmp_path / "model.safetensors"
    large = np.arange(1_300_000, dtype=np.float32).reshape(1300, 1000)
    save_file(
        {"b": large, "a": np.arange(7, dtype=np.int64), "c": np.float16([[1, 2], [3, 4]])}, path, {"format": "pt"}
    )
    return path


def add_row_number(content: memoryview, start: int) -> None:
    numbers = np.frombuffer(content, dtype=np.float32).reshape(-1, 1000)
    numbers += np.arange(start, start + len(numbers), dtype=np.float32)[:, None]


def test_only_the_tensor_with_an_edit_changes_and_every_row_of_it_once(file: Path, tmp_path: Path) -> None:
    target, counts = tmp_path / "copy.safetensors", []
    shards.rewrite({file: target}, lambda tensor: add_row_number if tensor.name == "b" else None, 3, counts.append)
    old, new = load_file(file), load_file(target)
    np.testing.assert_array_equal(new["b"], old["b"] + np.arange(1300, dtype=np.float32)[:, None])
    known = shards.head(file)["b"]
    before, after = file.read_bytes(), target.read_bytes()
    assert before[: known.start] == after[: known.start]
    assert before[known.start + known.size :] == after[known.start + known.size :]
    assert sum(counts) == len(before) and len(counts) > 3


def test_without_edits_the_copy_is_the_file_byte_for_byte(file: Path, tmp_path: Path) -> None:
    shards.rewrite({file: tmp_path / "copy"}, lambda tensor: None, 2, lambda count: None)
    assert (tmp_path / "copy").read_bytes() == file.read_bytes()


def test_rows_and_shapes_are_those_that_the_library_reads(file: Path) -> None:
    tensors, known = shards.head(file), load_file(file)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {name: one.shape for name, one in known.items()}
    assert bytes(shards.rows(tensors["b"], 3, 900)) == known["b"][3:900].tobytes()
    assert [stop for _, stop in shards.spans(tensors["b"])][-1] == 1300


def test_an_error_in_an_edit_ends_the_copy_and_leaves_no_thread_behind(file: Path, tmp_path: Path) -> None:
    def fail(content: memoryview, start: int) -> None:
        raise ValueError(f"row {start}")

    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ValueError, match="row 0"):
        shards.rewrite({file: tmp_path / "copy"}, lambda tensor: fail, 2, lambda count: None)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_shrinks_while_it_is_read_is_named(file: Path, tmp_path: Path) -> None:
    def cut(content: memoryview, start: int) -> None:
        os.truncate(file, 100)

    with pytest.raises(OSError, match=f"{file} has become shorter while it was read"):
        shards.rewrite({file: tmp_path / "copy"}, lambda tensor: cut, 1, lambda count: None)


def test_an_error_of_the_system_has_the_name_of_the_file(file: Path, tmp_path: Path) -> None:
    broken = replace(shards.head(file)["b"], file=Path("/proc/self/mem"), start=0)  # nothing is mapped there
    with pytest.raises(OSError, match="Input/output error: '/proc/self/mem'"):
        shards.rows(broken, 0, 1)


def write_model(folder: Path) -> Path:
    """A model of two files with an index."""
    folder.mkdir()
    places = {"x": "model-00001-of-00002.safetensors", "y": "model-00002-of-00002.safetensors"}
    for name, place in places.items():
        save_file({name: np.zeros((2, 2), np.float32)}, folder / place)
    (folder / shards.INDEX).write_text(json.dumps({"metadata": {"total_size": 32}, "weight_map": places}))
    return folder


def test_a_model_s_tensors_are_found_through_its_index(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    assert {name: tensor.file.name[:11] for name, tensor in shards.weights(folder).items()} == {
        "x": "model-00001",
        "y": "model-00002",
    }


def test_a_file_of_the_index_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model-00002-of-00002.safetensors is missing"):
        shards.files(folder)


@pytest.mark.parametrize(
    ("placed", "words"),
    [
        ({"x": "model-00002-of-00002.safetensors"}, "places x in model-00002.*which does not have it"),
        ({"z": "model-00001-of-00002.safetensors"}, "places z in model-00001.*which does not have it"),
        ({"x": "../model-00001-of-00002.safetensors"}, "outside its folder"),
        ({"x": 1}, "is no index"),
        (None, "is no index"),
    ],
)
def test_an_index_that_does_not_tell_the_truth_is_refused(tmp_path: Path, placed, words: str) -> None:
    folder = write_model(tmp_path / "model")
    (folder / shards.INDEX).write_text(json.dumps({"weight_map": placed}))
    with pytest.raises(ValueError, match=words):
        shards.weights(folder)


def test_pickled_weights_are_refused_and_none_at_all_are_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has no weights"):
        shards.files(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ValueError, match=r"pickle \(pytorch_model.bin\).*save_pretrained"):
        shards.files(tmp_path)


def test_a_file_that_is_cut_off_is_refused_by_name(file: Path) -> None:
    with file.open("r+b") as raw:
        raw.truncate(1000)
    with pytest.raises(ValueError, match="model.safetensors is no whole safetensors file"):
        shards.head(file)
