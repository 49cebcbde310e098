"""Qwen 1's tokenizer gives the ids of tiktoken, and its chats are ChatML as Qwen's own code makes it."""

from __future__ import annotations

import base64
import random
import unicodedata
from pathlib import Path

import pytest
import tiktoken
from published_qwen import RANK_FILE
from transformers import PreTrainedTokenizerBase

from fabrictune.model import models, qwen_vocabulary


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    """As it is read back from its files."""
    folder = tmp_path_factory.mktemp("tokenizer")
    qwen_vocabulary.tokenizer(RANK_FILE.parent, 8192).save_pretrained(folder)
    return models.load_tokenizer(folder)


@pytest.fixture(scope="module")
def oracle() -> tiktoken.Encoding:
    """tiktoken with the published ranks, pattern and special tokens."""
    lines = (line.split() for line in RANK_FILE.read_bytes().splitlines())
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205))]
    return tiktoken.Encoding(
        "qwen",
        pat_str=r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"""
        r"""|\s*[\r\n]+|\s+(?!\S)|\s+""",
        mergeable_ranks={base64.b64decode(token): int(rank) for token, rank in lines},
        special_tokens={token: 151_643 + i for i, token in enumerate(special)},
    )


LINES = (
    "工具调用 天气怎么样？ 你好，世界 The quick brown fox I'll DON'T we're naïve Straße def f(x): return x**2 // 3",
    '{"name": "amap_weather", "parameters": {"location": "北京"}} Action: Observation: https://a.com/a?b=c&d=%20',
    "3.14159 1234567 １２３ ½ Ⅷ ٣٤ 한국어 नमस्ते שָׁלוֹם Việt ไทย 👩\u200d👩\u200d👧\u200d👦 🇨🇳 👍🏽 e\u0301 A\u030a",
    "\u1100\u1161 \ufb01 \u2126 \u212b \u0344 a\u0323\u0307 >\u0338 <|im_end|> <|im_start|> <|endoftext|> <|extra_0|>",
    "<|extra_204|> <|extra_205|> <|im_end <|im_start|>\u0338",
)
WORDS = [word for line in LINES for word in line.split()]
BLANKS = (" ", "  ", "\n", "\n\n", " \n ", "\t", "\r\n", "    ", "\u3000", "\u00a0", "", "")


def texts(count: int, seed: int) -> list[str]:
    """Mixed text: words joined by blanks, characters of many scripts, runs of one character.

    Marks newer than Unicode 9 are left out: the NFC of `tokenizers` does not know them as marks, and so leaves the
    order of several on one letter as it is. A later Qwen's tokenizer.json does the same.
    """
    dice = random.Random(f"{seed}/qwen")
    blocks = ((32, 127), (0xA0, 0x250), (0x300, 0x370), (0x4E00, 0x9FA5), (0x1F300, 0x1F600), (0xAC00, 0xD7A3))

    def mixture() -> str:
        return "".join(dice.choice(WORDS) + dice.choice(BLANKS) for _ in range(dice.randint(1, 15)))

    def letters() -> str:
        return "".join(chr(dice.randrange(*dice.choice(blocks))) for _ in range(dice.randint(1, 30)))

    def runs() -> str:
        return "".join(dice.choice("a=-# \n\t0的!") * dice.randint(1, 40) for _ in range(dice.randint(1, 6)))

    return [dice.choice((mixture, mixture, letters, runs))() for _ in range(count)]


def test_the_token_ids_are_tiktoken_s(tokenizer: PreTrainedTokenizerBase, oracle: tiktoken.Encoding) -> None:
    drawn = texts(6000, seed=0)
    assert sum("<|im_end|>" in text for text in drawn) > 200
    assert sum(unicodedata.normalize("NFC", text) != text for text in drawn) > 500
    ours = tokenizer(drawn, add_special_tokens=False)["input_ids"]
    for text, ids in zip(drawn, ours, strict=True):
        normal = unicodedata.normalize("NFC", text)
        assert ids == oracle.encode(normal, allowed_special="all"), repr(text)
        assert tokenizer.decode(ids) == normal


def test_each_token_has_tiktoken_s_id(tokenizer: PreTrainedTokenizerBase, oracle: tiktoken.Encoding) -> None:
    assert len(tokenizer) == oracle.n_vocab == 151_851
    for first in range(0, oracle.n_vocab, 997):
        ids = list(range(first, min(first + 40, oracle.n_vocab)))
        assert tokenizer.decode(ids) == oracle.decode(ids)
    named = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|extra_0|>", "<|extra_204|>"]
    assert tokenizer.convert_tokens_to_ids(named) == [151_643, 151_644, 151_645, 151_646, 151_850]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id) == (151_645, 151_643, None)
    assert tokenizer.decode([151_644, 14_990, 151_646, 151_645], skip_special_tokens=True) == "hello"


def test_the_chat_template_is_chatml(tokenizer: PreTrainedTokenizerBase, oracle: tiktoken.Encoding) -> None:
    asked = [{"role": "user", "content": " 北京天气？ "}]
    text = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n 北京天气？ <|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True) == text
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    assert ids == oracle.encode(text, allowed_special="all")
    told = [{"role": "system", "content": ""}, *asked, {"role": "assistant", "content": "晴\n"}, *asked]
    assert tokenizer.apply_chat_template(told, tokenize=False) == (
        "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n 北京天气？ <|im_end|>\n"
        "<|im_start|>assistant\n晴\n<|im_end|>\n<|im_start|>user\n 北京天气？ <|im_end|>\n"
    )


@pytest.mark.parametrize("part", ["content", "ids"])
def test_a_chat_is_tokenised_as_qwen_s_own_code_does_it(
    tokenizer: PreTrainedTokenizerBase, oracle: tiktoken.Encoding, part: str
) -> None:
    """It joins the ids of role, line break and content, each tokenised apart."""
    messages = [{"role": role, "content": text.strip() or "?"} for role in ("system", "user") for text in texts(40, 1)]
    line = oracle.encode("\n")
    joined: list[int] = []
    for message in messages:
        joined += [151_644, *oracle.encode(message["role"]), *line]
        joined += oracle.encode(unicodedata.normalize("NFC", message["content"]), allowed_special="all")
        joined += [151_645, *line]
    if part == "ids":
        assert tokenizer.apply_chat_template(messages, return_dict=False) == joined
    else:
        assert tokenizer.decode(joined) == unicodedata.normalize(
            "NFC", tokenizer.apply_chat_template(messages, tokenize=False)
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:b2b1", "qwen.tiktoken:1: not a token and its rank"),
        (
            RANK_FILE.read_bytes()[: RANK_FILE.read_bytes().index(b"\n", 100_000)],
            "not the ranks 0 to 151642, each once",
        ),
        (b"", "not the ranks 0 to 151642, each once, but 0; fetch the file again"),
    ],
)
def test_a_rank_file_that_is_not_whole_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "qwen.tiktoken").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        qwen_vocabulary.tokenizer(tmp_path, 8192)
