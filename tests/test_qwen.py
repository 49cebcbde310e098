"""Qwen 1 read as Qwen 2 has the logits of its published network, once converted and by whoever asks."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from published_qwen import EARLY, HEADS, HIDDEN, LATE, LAYERS, VOCABULARY, WIDTH, buffers, weights, write
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn.functional import embedding, linear, silu
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from fabrictune.model import encoding, model_files, models, qwen

ROOT = Path(__file__).resolve().parent.parent


def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight


def rotate(x: torch.Tensor) -> torch.Tensor:
    """(T, heads, width): the first half of a head's numbers is turned against the second."""
    angles = torch.outer(torch.arange(len(x)).float(), 10_000 ** (-torch.arange(0, WIDTH, 2).float() / WIDTH))
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def qwen1_logits(of: dict[str, torch.Tensor], ids: list[int]) -> torch.Tensor:
    """(T, vocabulary): the network as its report and its code have it, within `seq_length`."""
    x = embedding(torch.tensor(ids), of["transformer.wte.weight"])
    future = torch.full((len(ids), len(ids)), -math.inf).triu(1)
    for layer in range(LAYERS):
        own = {
            name.split(".", 3)[3]: tensor for name, tensor in of.items() if name.startswith(f"transformer.h.{layer}.")
        }
        fused = linear(norm(x, own["ln_1.weight"]), own["attn.c_attn.weight"], own["attn.c_attn.bias"])
        query, key, value = (part.view(len(ids), HEADS, WIDTH) for part in fused.split(HIDDEN, dim=-1))
        scores = torch.einsum("qhd,khd->hqk", rotate(query), rotate(key)) / math.sqrt(WIDTH) + future
        mixed = torch.einsum("hqk,khd->qhd", scores.softmax(-1), value).reshape(len(ids), HIDDEN)
        x = x + linear(mixed, own["attn.c_proj.weight"])
        inner = norm(x, own["ln_2.weight"])
        gated = linear(inner, own["mlp.w1.weight"]) * silu(linear(inner, own["mlp.w2.weight"]))
        x = x + linear(gated, own["mlp.c_proj.weight"])
    return linear(norm(x, of["transformer.ln_f.weight"]), of["lm_head.weight"])


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("published") / "Qwen-Tiny-Chat", LATE, weights() | buffers())


@pytest.fixture(scope="module")
def converted(late: Path) -> Path:
    """The late model in float32, in shards of 15 MB at most."""
    target = late.parent / "converted"
    qwen.convert(late, target, "float32", shard_bytes=15_000_000)
    return target


@pytest.fixture(scope="module")
def tokenizer(converted: Path) -> PreTrainedTokenizerBase:
    return models.load_tokenizer(converted)


def error_of(folder: Path, ids: list[int], of: dict[str, torch.Tensor]) -> float:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    with torch.no_grad():
        return float((model(torch.tensor([ids])).logits[0] - qwen1_logits(of, ids)).abs().max())


IDS = [151_644, 872, 198, 108_386, 151_645, 198, 151_644, 77_091, 198, *range(1000, 60_000, 2000)]


def test_the_logits_are_those_of_the_published_network(converted: Path) -> None:
    of = weights()
    assert qwen1_logits(of, IDS).abs().max() > 1, "nothing to compare"
    assert error_of(converted, IDS, of) < 1e-5
    # With the two halves of the gated layer in each other's place, as their names suggest, they are not.
    other = {"w1": "w2", "w2": "w1"}
    swapped = {".".join(other.get(part, part) for part in name.split(".")): tensor for name, tensor in of.items()}
    assert error_of(converted, IDS, swapped) > 0.1


def test_the_first_release_s_names_and_pickled_shards_are_read_too(tmp_path: Path) -> None:
    of = weights(seed=1)
    folder = write(tmp_path / "early", EARLY, of | buffers(), ending="bin")
    qwen.convert(folder, tmp_path / "new", "float32")
    assert error_of(tmp_path / "new", IDS, of) < 1e-5
    assert [file.name for file in (tmp_path / "new").glob("*.safetensors")] == ["model.safetensors"]
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert (config["max_position_embeddings"], config["vocab_size"]) == (2048, VOCABULARY)
    assert models.load_tokenizer(tmp_path / "new").model_max_length == 2048


def test_the_folder_is_transformers_own_layout_and_says_where_a_reply_ends(converted: Path) -> None:
    index = json.loads((converted / "model.safetensors.index.json").read_text())["weight_map"]
    shards = {file.name: set(load_file(file)) for file in converted.glob("*.safetensors")}
    assert len(shards) == 2, "the two vocabularies have 10 MB each"
    assert {name: file for file, names in shards.items() for name in names} == index
    config = json.loads((converted / "config.json").read_text())
    assert (config["model_type"], config["dtype"]) == ("qwen2", "float32")
    assert config["max_position_embeddings"] == 8192, "not the 32,768 that need its own attention"
    ends = GenerationConfig.from_pretrained(converted)
    assert (ends.eos_token_id, ends.pad_token_id) == ([151_645, 151_643], 151_643)
    assert not list(converted.parent.glob(".converted*.part"))


def test_a_merged_model_ends_its_replies_as_this_one_does(
    converted: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    assert encoding.reply_end(tokenizer) == 151_645
    models.save_chat_settings(tmp_path, tokenizer, converted)
    assert GenerationConfig.from_pretrained(tmp_path).eos_token_id == [151_645, 151_643]
    again = models.load_tokenizer(tmp_path)
    assert again("<|im_end|>é\n<|extra_204|>")["input_ids"] == tokenizer("<|im_end|>é\n<|extra_204|>")["input_ids"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FABRICTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def place(folder: Path, dtype: str = "float32") -> Path:
    return models.local_folder("folder", str(folder), None, dtype)


def test_a_folder_of_qwen_1_is_converted_once_to_the_dtype_asked_for(late: Path, cache: Path) -> None:
    first = place(late, "bfloat16")
    assert first.parent == cache and first.name.startswith("Qwen-Tiny-Chat-") and first.name.endswith("-bfloat16")
    assert type(models.load(first, "bfloat16", "sdpa")).__name__ == "Qwen2ForCausalLM"
    with safe_open(first / "model.safetensors", "pt") as file:
        keys = file.get_tensor("model.layers.1.self_attn.k_proj.weight")
    published = weights()["transformer.h.1.attn.c_attn.weight"][HIDDEN : 2 * HIDDEN]
    assert keys.dtype == torch.bfloat16 and torch.equal(keys, published.to(torch.bfloat16))
    made = (first / "model.safetensors").stat().st_mtime_ns
    assert place(late, "bfloat16") == first and (first / "model.safetensors").stat().st_mtime_ns == made
    assert not list(cache.glob(".*.part"))


def test_another_dtype_and_another_revision_are_other_folders(tmp_path: Path, cache: Path) -> None:
    folder = write(tmp_path / "mine", LATE, {"a": torch.ones(1), "b": torch.ones(1)})

    def places() -> set[Path]:
        whole = {model_files.place("folder", str(folder), None, dtype) for dtype in ("float32", "bfloat16")}
        assert len(whole) == 2 and not any(place.exists() for place in whole)
        return whole

    before = places()
    assert places() == before
    shard = folder / "model-00002-of-00002.safetensors"
    os.utime(shard, ns=(0, shard.stat().st_mtime_ns + 1))
    after = places()
    (folder / "config.json").write_text(json.dumps(LATE | {"seq_length": 2048}), encoding="utf-8")
    assert not before & after and not (before | after) & places()


@pytest.fixture
def hub(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the hub's client keeps `nobody/Qwen-Tiny-Chat`."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    stored = tmp_path / "hub" / "models--nobody--Qwen-Tiny-Chat"
    (stored / "refs").mkdir(parents=True)
    (stored / "refs" / "main").write_text("0" * 40, encoding="utf-8")
    return stored / "snapshots" / ("0" * 40)


def test_a_hub_s_tokenizer_is_converted_without_weights_and_without_torch(late: Path, cache: Path, hub: Path) -> None:
    assert any(fnmatch("qwen.tiktoken", pattern) for pattern in model_files.TEXTS), "the client would not fetch it"
    shutil.copytree(late, hub, ignore=shutil.ignore_patterns("*.safetensors"))
    script = """
import sys
from fabrictune.convert import lengths
from fabrictune.model import model_files
from fabrictune.dialogue import Exchange, Message, Span
folder = model_files.place("hub", "nobody/Qwen-Tiny-Chat", None, "bfloat16", patterns=model_files.TEXTS)
exchange = Exchange("d", 0, 0, "s", (Message("user", "hi"),), (Span("ho"),))
print(lengths.Ruler(folder, 2048).lengths([exchange])[0], "torch" in sys.modules, folder)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    count, has_torch, made = done.stdout.split()
    # 11 of the system message, 6 of the user's, 3 of the reply's head, then "ho" and its end.
    assert (int(count), has_torch) == (22, "False")
    assert Path(made).parent == cache and Path(made).name.startswith("Qwen-Tiny-Chat-")
    assert not list(Path(made).glob("*.safetensors"))
    assert AutoTokenizer.from_pretrained(made)("hello")["input_ids"] == [14_990]
    other = model_files.place("hub", "nobody/Qwen-Tiny-Chat", None, "float32", patterns=model_files.TEXTS)
    assert other == Path(made), "it has no dtype"
    with pytest.raises(FileNotFoundError, match="has no weights"):
        place(hub)


def test_other_models_are_left_where_they_are(tiny_model: Path, cache: Path) -> None:
    assert place(tiny_model) == tiny_model
    assert not qwen.is_qwen1(tiny_model) and not cache.exists()


def test_two_processes_convert_a_model_once_and_clear_away_what_a_killed_one_left(late: Path, tmp_path: Path) -> None:
    (tmp_path / ".new.part").mkdir()
    (tmp_path / ".new.part" / "model-00001-of-00009.safetensors").write_bytes(b"half")
    script = f"""
from pathlib import Path
from fabrictune.model import qwen
qwen.convert_tokenizer(Path({str(late)!r}), Path({str(tmp_path / "new")!r}))
"""
    started = [subprocess.Popen([sys.executable, "-c", script], cwd=ROOT) for _ in range(2)]
    assert [process.wait(300) for process in started] == [0, 0]
    assert AutoTokenizer.from_pretrained(tmp_path / "new")("hello")["input_ids"] == [14_990]
    assert not list((tmp_path / "new").glob("*.safetensors"))
    assert not (tmp_path / ".new.part").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("no_bias", False, "config.json: no_bias=False, but only True can be read as Qwen 2"),
        ("rotary_pct", 0.25, "rotary_pct=0.25"),
        ("visual", {"layers": 48}, "visual={'layers': 48}"),
        ("quantization_config", {"bits": 4}, "quantization_config="),
        ("seq_length", None, "config.json: seq_length is not there"),
        ("num_hidden_layers", None, "num_hidden_layers or n_layer is not there"),
        ("kv_channels", 4, "kv_channels times the number of heads is not hidden_size"),
        ("vocab_size", 151_850, "vocab_size=151850 is less than Qwen 1's tokens"),
    ],
)
def test_a_config_that_qwen2_s_classes_cannot_follow_is_refused(
    tmp_path: Path, key: str, value: object, message: str
) -> None:
    folder = write(tmp_path / "wrong", LATE | {key: value}, {"a": torch.ones(1), "b": torch.ones(1)})
    with pytest.raises(ValueError) as error:
        qwen.convert(folder, tmp_path / "new", "float32")
    assert message in str(error.value) and not (tmp_path / "new").exists()


def test_files_that_are_not_there_or_cut_short_are_named(late: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(late, tmp_path / "wrong")
    (folder / "qwen.tiktoken").unlink()
    with pytest.raises(FileNotFoundError, match="wrong/qwen.tiktoken is not there"):
        qwen.convert_tokenizer(folder, tmp_path / "new")
    assert sorted(file.name for file in tmp_path.iterdir()) == [".new.lock", "wrong"]
    shard = folder / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=f"{shard} is not a whole checkpoint .*; fetch it again"):
        qwen.convert(folder, tmp_path / "new", "float32")
    shard.unlink()
    (folder / "model-00001-of-00002.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cut short")
    with pytest.raises(ValueError, match=r"pytorch_model.bin is not a whole checkpoint .*; fetch it again"):
        qwen.convert(folder, tmp_path / "new", "float32")
    (folder / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="config.json is not JSON"):
        qwen.is_qwen1(folder)
