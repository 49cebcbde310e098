"""Real parts made tiny: a byte-level tokenizer with a ChatML template, and a random Llama that fits it."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests share the machine; two spinning threads would stall each other
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path
from typing import Any

import pytest

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The file that takes longest first, beside which others run that start no processes, then those with most tests.

    Begun last, it would keep one worker of two busy for ten minutes after the other is done.
    """
    size = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path.name != "test_training.py", -size[item.path], str(item.path)))


def write_tiny_model(folder: Path, layers: int = 2, seed: int = 0) -> Path:
    """A random two-layer Llama with grouped key heads and a byte-level tokenizer, as transformers saves them."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *alphabet]
    raw = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    tokenizer.chat_template = CHATML
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,  # the smallest that vLLM's attention takes on a CPU
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=0, pad_token_id=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_run(folder: Path, *more: str) -> list[str]:
    """What each script is told to make a run named "tiny" below the folder: two steps of training on a tiny model."""
    return [
        "model=folder",
        f"model.id={write_tiny_model(folder / 'tiny')}",
        f"outputs={folder / 'outputs'}",
        "name=tiny",
        "data.mix.synthetic.count=16",
        "data.test_ratio=0.2",
        "data.max_length=4000",
        "train.row_tokens=4000",
        "train.max_steps=2",
        "train.eval_steps=2",
        "lora.rank=4",
        *more,
    ]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def no_wandb_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Nobody has logged in to W&B here, and none of its variables is set."""
    import wandb

    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))  # no ~/.netrc
    for name in [name for name in os.environ if name.startswith("WANDB_")] + ["NETRC"]:
        monkeypatch.delenv(name, raising=False)
    wandb.teardown()  # which remembers the environment of its first use
    yield
    wandb.teardown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, as Playwright drives it."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("NO BROWSER: no page was opened; install one (apt-get install chromium) to test it")
    playwright = pytest.importorskip("playwright.sync_api", reason="NO PLAYWRIGHT: no page was opened")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()
