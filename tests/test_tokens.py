"""A file is tokenised once: what comes out of the cache is what `encode` makes, and nothing else is taken for it."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import pickle
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from fabrictune.dialogue import Exchange, Message, Span
from fabrictune.formats import agentfabric
from fabrictune.model import models
from fabrictune.model.encoding import encode, reply_end
from fabrictune.sources import synthetic
from fabrictune.train import tokens


def exchanges() -> list[Exchange]:
    """Calls and answers of several sources, of dialogues that do not lie together, some spans with own weights."""
    found = [
        one
        for number, made in enumerate(synthetic.generate(3, 12, ("en", "zh")))
        for one in agentfabric.render(made, ("agent", "captured")[number % 2])
    ]
    spans = (Span("Thought", weight=0.0), Span(" 晴", "tool", 2.5), Span("yes", "answer", 0.5))
    chat = Exchange("chat/1", 0, 0, "general", (Message("system", "Be brief."), Message("user", "Hi")), spans)
    return [*found[::2], chat, *found[1::2]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"".join(one.to_line() + b"\n" for one in exchanges()))
    return path


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "BLOCK", 5_000)


def same(ours: tokens.Tokens, theirs: tokens.Tokens) -> bool:
    return all((ours.folder / name).read_bytes() == (theirs.folder / name).read_bytes() for name in tokens._ARRAYS)


def entries(root: Path) -> list[Path]:
    return [path for path in root.iterdir() if path.is_dir()]


@pytest.mark.parametrize("count", [1, 2])
def test_each_exchange_is_what_encode_makes_of_it(file, tiny_model, tmp_path, small_blocks, count: int) -> None:
    found = tokens.cached(file, tiny_model, tmp_path / "cache", count)
    tokenizer = models.load_tokenizer(tiny_model)
    end = reply_end(tokenizer)
    wanted = exchanges()
    assert len(found) == len(wanted) and found.end == end
    for number, exchange in enumerate(wanted):
        for ours, theirs in zip(
            vars(found[number]).values(), vars(encode(exchange, tokenizer, end)).values(), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
        assert found.names[found.dialogues[number]] == exchange.dialogue
        assert found.source_names[found.sources[number]] == exchange.source
        encoded = found.encoded(number, {"tool": 3.0})
        assert (encoded.number, found.source_names[encoded.source]) == (number, exchange.source)
    assert len(set(found.names)) == len(found.names) == len(found.keys)


def test_lengths_and_supervised_tokens_are_counted_without_reading_them(file, tiny_model, tmp_path) -> None:
    found = tokens.cached(file, tiny_model, tmp_path / "cache", 1)
    every = range(len(found))
    assert found.lengths.tolist() == [len(found[number]) for number in every]
    for asked in ({}, {"tool": 0.0}, {"said": 0.0, "answer": 0.0}):
        expected = [int((found.encoded(number, asked).weights > 0).sum()) for number in every]
        assert found.supervised(asked).tolist() == expected
    of_source = {name: 0 for name in found.source_names}
    for number, exchange in enumerate(exchanges()):
        of_source[exchange.source] += len(found[number])
    assert found.by_source(np.arange(len(found)), found.lengths) == of_source


def test_dialogues_have_one_key_where_they_share_a_long_system_message(file, tiny_model, tmp_path) -> None:
    found = tokens.cached(file, tiny_model, tmp_path / "cache", 1)
    first: dict[str, str] = {}
    for exchange in exchanges():
        first.setdefault(exchange.dialogue, exchange.messages[0].content)
    keys = {name: int(key) for name, key in zip(found.names, found.keys, strict=True)}
    assert keys.pop("chat/1") == 0 and len(first.pop("chat/1")) < tokens.SHARED_CHARACTERS
    assert all(keys.values())
    for one in keys:
        for other in keys:
            assert (keys[one] == keys[other]) == (first[one] == first[other])


def test_a_second_run_makes_nothing(file, tiny_model, tmp_path, monkeypatch) -> None:
    found = tokens.cached(file, tiny_model, tmp_path / "cache", 1)
    monkeypatch.setattr(tokens, "_build", None)
    again = tokens.cached(file, tiny_model, tmp_path / "cache", 1)
    assert again.folder == found.folder
    moved = file.rename(tmp_path / "other.jsonl")
    assert tokens.cached(moved, tiny_model, tmp_path / "cache", 1).path == moved, "the content counts, not the name"


def test_another_content_template_or_tokenizer_is_another_entry(file, tiny_model, tmp_path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    folders = [tokens.cached(file, model, tmp_path / "cache", 1).folder]
    (model / "generation_config.json").write_text("{}")
    assert tokens.cached(file, model, tmp_path / "cache", 1).folder == folders[0], "which the tokens do not depend on"
    template = model / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_start|>", "<|endoftext|>"))
    folders.append(tokens.cached(file, model, tmp_path / "cache", 1).folder)
    with file.open("ab") as opened:
        opened.write(exchanges()[0].to_line() + b"\n")
    folders.append(tokens.cached(file, model, tmp_path / "cache", 1).folder)
    assert len(set(folders)) == 3


def test_a_changed_template_is_seen_by_the_process_that_knew_the_old_one(file, tiny_model, tmp_path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    before = tokens.cached(file, model, tmp_path / "cache", 1)
    template = model / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_start|>", "<|endoftext|>"))
    after = tokens.cached(file, model, tmp_path / "cache", 1)
    assert not same(before, after)


@pytest.mark.parametrize("harm", ["shorter", "gone", "no meta", "half a meta"])
def test_a_broken_entry_is_made_anew(file, tiny_model, tmp_path, harm: str) -> None:
    found = tokens.cached(file, tiny_model, tmp_path / "cache", 1)
    whole = shutil.copytree(found.folder, tmp_path / "whole")
    ids, meta = found.folder / "ids", found.folder / "meta.json"
    if harm == "shorter":
        ids.write_bytes(ids.read_bytes()[:-4])
    elif harm == "gone":
        ids.unlink()
    elif harm == "no meta":
        meta.unlink()
    else:
        meta.write_text(meta.read_text()[:20])
    assert same(tokens.cached(file, tiny_model, tmp_path / "cache", 1), tokens.Tokens(whole, file))
    assert entries(tmp_path / "cache") == [found.folder]


def make(file: Path, model: Path, root: Path, results: multiprocessing.Queue) -> None:
    found = tokens.cached(file, model, root, 1)
    results.put((str(found.folder), [len(found), int(found.lengths.sum())]))


@pytest.mark.parametrize("locks", [True, False])
def test_two_processes_that_come_at_once_get_the_same(file, tiny_model, tmp_path, monkeypatch, locks: bool) -> None:
    if not locks:

        def refuse(*_: object) -> None:
            raise OSError(errno.ENOLCK, "no locks here")

        monkeypatch.setattr(fcntl, "flock", refuse)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    ranks = [context.Process(target=make, args=(file, tiny_model, tmp_path / "cache", results)) for _ in range(2)]
    for rank in ranks:
        rank.start()
    got = [results.get(timeout=60) for _ in ranks]
    for rank in ranks:
        rank.join(60)
    assert got[0] == got[1]
    assert entries(tmp_path / "cache") == [Path(got[0][0])], "nothing is left beside it"


def test_entries_not_used_for_thirty_days_go_when_another_is_made(file, tiny_model, tmp_path) -> None:
    root = tmp_path / "cache"
    used, forgotten = (root / name for name in ("used", "forgotten"))
    for folder, days in ((used, 29), (forgotten, 31)):
        folder.mkdir(parents=True)
        (folder / "ids").write_bytes(b"1234")
        os.utime(folder, (time.time() - days * 86_400,) * 2)
    found = tokens.cached(file, tiny_model, root, 1)
    assert sorted(entries(root)) == sorted([used, found.folder])
    os.utime(found.folder, (0, 0))
    tokens.cached(file, tiny_model, root, 1)
    assert time.time() - found.folder.stat().st_mtime < 60, "a use counts"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{not json}", "not an exchange"),
        ("", "not an exchange"),
        (json.dumps({"dialogue": "d"}), "not an exchange"),
        (Exchange("d", 0, 0, "s", (Message("user", "q"),), (Span("a", "answer", 0.0),)).to_line().decode(), "weight 0"),
    ],
)
@pytest.mark.parametrize("count", [1, 2])
def test_a_bad_row_is_named(file, tiny_model, tmp_path, small_blocks, line: str, said: str, count: int) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join([*lines, line, *lines]) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=f"{file}:{len(lines) + 1}: .*{said}"):
        tokens.cached(file, tiny_model, tmp_path / "cache", count)
    assert not entries(tmp_path / "cache")


def test_an_empty_file_is_no_exchanges(tiny_model, tmp_path) -> None:
    (tmp_path / "test.jsonl").touch()
    assert len(tokens.cached(tmp_path / "test.jsonl", tiny_model, tmp_path / "cache", 1)) == 0


def test_a_tokenizer_without_a_template_is_refused(file, tiny_model, tmp_path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="no chat template"):
        tokens.cached(file, model, tmp_path / "cache", 1)


def test_another_process_gets_the_files_and_not_a_copy_of_them(file, tiny_model, tmp_path) -> None:
    found = tokens.cached(file, tiny_model, tmp_path / "cache", 1)
    sent = pickle.dumps(found)
    assert len(sent) < 1000 < found.lengths.sum()
    assert same(pickle.loads(sent), found)
