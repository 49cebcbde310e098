"""Lengths are those of the tokens trained on, for each kind of tokenizer that our base models have."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import CHATML
from hypothesis import given, settings
from hypothesis import strategies as st

from fabrictune.convert import lengths
from fabrictune.convert.lengths import Ruler
from fabrictune.dialogue import Exchange, Message, Span
from fabrictune.formats import agentfabric
from fabrictune.model import models
from fabrictune.model.encoding import encode, reply_end
from fabrictune.sources import synthetic

# How Qwen2 to Qwen3 split a text before they join letters to tokens.
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
NO_LIMIT = 10**9
CODE = (
    "def on(x):\n    if x:\n        return [\n            1,\n\n\n        ]\n\n\n\tpass\n" + " " * 16 + "x\n" + "\n" * 4
)
DIALOGUES = [
    list(agentfabric.render(dialogue, "s", shape="raw" if number % 3 == 0 else "chat"))
    for language in ("en", "zh")
    for number, dialogue in enumerate(synthetic.generate(1, 15, (language,)))
]
EXCHANGES = [exchange for exchanges in DIALOGUES for exchange in exchanges]


def train(folder: Path, kind: str) -> Path:
    """A small tokenizer in the manner of SmolLM2's or Qwen's, trained on our own dialogues and some code."""
    from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(BPE())
    if kind == "smollm2":
        splits = [pre_tokenizers.Digits(individual_digits=True)]
    else:
        splits = [pre_tokenizers.Split(Regex(QWEN), "isolated")]
        raw.normalizer = normalizers.NFC()
    splits.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind == "smollm2"))
    raw.pre_tokenizer = pre_tokenizers.Sequence(splits)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([*(one.messages[-1].content for one in EXCHANGES), *[CODE] * 20], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|endoftext|>")
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["smollm2", "qwen", "bytes"])
def folder(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model if request.param == "bytes" else train(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def count(folder: Path):
    """How many tokens an exchange is trained on as."""
    tokenizer = models.load_tokenizer(folder)
    end = reply_end(tokenizer)
    return lambda exchange: len(encode(exchange, tokenizer, end))


_PIECES = [
    *("\n", "\n\n", " ", "    ", " " * 16, "\t", "\r\n", "\u2028", "\x1c", "\u3000"),
    *("word ", "a", "你好", "，", "。", "🦉", "𝄞", "!!", "}", "-" * 8, "'s", "/"),
    *("0123456789", "1" * 40, "<|im_end|>", "\u0958", "e\u0301"),
]
_TEXT = st.lists(st.sampled_from(_PIECES) | st.text(st.characters(exclude_categories=["Cs"]), max_size=4), max_size=25)
_MONOTONOUS = st.builds(
    lambda *parts: ["".join(parts[:3])] * parts[3], *[st.sampled_from(_PIECES)] * 3, st.integers(0, 60)
)
TEXTS = (_TEXT | _MONOTONOUS).map("".join)


@st.composite
def wild_exchanges(draw: st.DrawFn) -> Exchange:
    """A system message, some history, and a query, or an open message of the assistant's behind one."""
    roles = [
        "system",
        *["user", "assistant"] * draw(st.integers(0, 2)),
        "user",
        *draw(st.sampled_from([[], ["assistant"]])),
    ]
    messages = tuple(Message(role, draw(TEXTS)) for role in roles)
    return Exchange("d", 0, 0, "s", messages, (Span(draw(TEXTS)), Span(draw(TEXTS), weight=0.5)))


def test_lengths_of_agentfabric_exchanges_are_those_of_their_tokens(folder: Path, count) -> None:
    ruler = Ruler(folder, NO_LIMIT)
    counted = list(map(count, EXCHANGES))
    assert list(map(ruler.exact, EXCHANGES)) == counted
    assert ruler.lengths(EXCHANGES) == [pytest.approx(one, rel=0.02) for one in counted]
    assert ruler.lengths([]) == []


@settings(deadline=None, max_examples=25)
@given(wild_exchanges())
def test_lengths_of_any_text_are_one_a_line_off_at_most(folder: Path, count, exchange: Exchange) -> None:
    ruler = Ruler(folder, NO_LIMIT)
    counted = count(exchange)
    assert ruler.exact(exchange) == counted
    lines = sum(text.count("\n") + 1 for text in (*(m.content for m in exchange.messages), exchange.reply_text))
    assert ruler.lengths([exchange]) == [pytest.approx(counted, rel=0, abs=lines)]


@settings(deadline=None, max_examples=25)
@given(wild_exchanges(), st.integers(-3, 3))
def test_lengths_near_the_limit_are_exact(folder: Path, count, exchange: Exchange, distance: int) -> None:
    counted = count(exchange)
    assert Ruler(folder, counted + distance).lengths([exchange]) == [counted]


@pytest.mark.parametrize("gap", ["\n", "\n\n", "\n" + " " * 8, "\n" + " " * 16, " \n\t", "\r\n", "\n\n\n    "])
def test_a_text_of_many_lines_is_not_taken_for_too_long(folder: Path, count, gap: str) -> None:
    code = Exchange("d", 0, 0, "s", (Message("user", f"x{gap}" * 200),), (Span("."),))
    assert Ruler(folder, NO_LIMIT).lengths([code]) == [pytest.approx(count(code), abs=8)]


@pytest.mark.parametrize("text", ["\n\n1. lamp" * 30, "\n \n7" * 30, "\n\n\n" * 30])
def test_a_text_whose_lines_come_out_off_is_exact_at_the_limit(folder: Path, count, text: str) -> None:
    exchange = Exchange("d", 0, 0, "s", (Message("user", text),), (Span(text),))
    counted = count(exchange)
    for limit in (counted - 1, counted):
        assert Ruler(folder, limit).lengths([exchange]) == [counted]


@pytest.mark.parametrize("letter", ["\u0958", "\U0001d160", "e\u0301", "é", "\ufb2c"])
def test_letters_that_a_tokenizer_takes_apart_are_not_said_to_fit(folder: Path, count, letter: str) -> None:
    said = (Message("system", "Be brief."), Message("user", letter * 300))
    exchange = Exchange("d", 0, 0, "s", said, (Span(letter * 300),))
    assert not Ruler(folder, count(exchange) - 1).all_fit([exchange])


@settings(deadline=None, max_examples=25)
@given(st.lists(wild_exchanges(), min_size=1, max_size=3))
def test_nothing_is_said_to_fit_that_does_not(folder: Path, count, exchanges: list[Exchange]) -> None:
    ruler = Ruler(folder, max(map(count, exchanges)) - 1)
    assert not ruler.all_fit(exchanges)
    ruler.lengths(exchanges)
    assert not ruler.all_fit(exchanges), "now that all lines are known"


def test_dialogues_of_few_bytes_are_seen_to_fit(folder: Path) -> None:
    for exchanges in DIALOGUES:
        assert Ruler(folder, max(len(one.to_line()) for one in exchanges)).all_fit(exchanges)


def test_what_is_said_once_is_not_tokenised_to_see_that_it_fits(folder: Path) -> None:
    no_unicode = "\ud800"  # which no tokenizer takes
    said = (Message("system", "Be brief."), Message("user", no_unicode), Message("assistant", no_unicode))
    exchange = Exchange("d", 0, 0, "s", said, (Span(no_unicode),))
    with pytest.raises((UnicodeError, TypeError)):
        Ruler(folder, 2048).exact(exchange)
    assert Ruler(folder, 2048).all_fit([exchange])
    assert not Ruler(folder, 20).all_fit([exchange])


def test_tools_count_by_their_tokens_which_are_fewer_than_their_bytes(folder: Path, count) -> None:
    for exchanges in DIALOGUES[::4]:
        said = max(len("".join(m.content for m in one.messages[1:]).encode()) for one in exchanges)
        limit = max(map(count, exchanges)) + said + 100
        assert Ruler(folder, limit).all_fit(exchanges)


def test_the_lines_remembered_are_bounded_and_forgetting_them_changes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Ruler(folder, NO_LIMIT).lengths(EXCHANGES)
    monkeypatch.setattr(lengths, "CHARACTERS_KEPT", 10_000)
    ruler = Ruler(folder, NO_LIMIT)
    most = 0
    counted = []
    for exchange in EXCHANGES:
        ruler.all_fit([exchange])
        counted += ruler.lengths([exchange])
        most = max(most, sum(map(len, ruler._known)))
    assert counted == expected
    assert 5_000 < most <= 10_000 + max(len(one.to_line().decode()) for one in EXCHANGES)


def test_padding_and_truncation_saved_with_a_tokenizer_change_no_count(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "saved")
    saved = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    saved["truncation"] = {"max_length": 8, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    saved["padding"] = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": 512}
    saved["padding"] |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>"}
    (tmp_path / "saved" / "tokenizer.json").write_text(json.dumps(saved), encoding="utf-8")
    assert Ruler(tmp_path / "saved", NO_LIMIT).lengths(EXCHANGES) == Ruler(folder, NO_LIMIT).lengths(EXCHANGES)


def test_a_template_that_takes_no_system_message_is_refused_at_once(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = models.load_tokenizer(tiny_model)
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    tokenizer.chat_template = refusing + CHATML
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="refuses messages of system, user .*not supported.*choose another model="):
        Ruler(tmp_path, 2048)


def test_a_folder_without_a_fast_tokenizer_is_refused_with_the_ways_out(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no tokenizer.json.*model=.*data.count_tokens=false"):
        Ruler(tmp_path, 2048)


def test_a_tokenizer_without_a_chat_template_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = models.load_tokenizer(tiny_model)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no chat template; choose a chat"):
        Ruler(tmp_path, 2048)
