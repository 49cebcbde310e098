"""One conversion from end to end: nothing is lost, a bad row is kept with its reason, and a finished run stays."""

import csv
import gzip
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path
from statistics import mean

import psutil
import pyarrow
import pyarrow.parquet
import pytest
from capture_log import asked, call, calling, of_openai, recorded, write
from capture_log import line as log_line
from hydra import compose, initialize_config_dir

from fabrictune import config as configuration
from fabrictune import protocol
from fabrictune.config import Config, typed
from fabrictune.convert import conversion
from fabrictune.convert import rows as row_conversion
from fabrictune.convert.reading import FEW
from fabrictune.dialogue import Call, Dialogue, Step, Tool, Turn
from fabrictune.evaluate import evaluation
from fabrictune.formats import agentfabric, captured, messages, ms_agent, openai
from fabrictune.processes import free_port
from fabrictune.sources import synthetic
from fabrictune.train import training

ROOT = Path(__file__).resolve().parent.parent
DIALOGUES = list(synthetic.generate(1, 30, heldout=["hotels"], dialogues_per_agent=3))
GOOD = [ms_agent.render(one) for one in DIALOGUES]
HOTELS = sum(record["family"] == "hotels" for record in GOOD)
RESULTS = {"train.jsonl", "test.jsonl", "test_dialogues.jsonl", "rejects.jsonl", "stats.json", "card.html", "run.json"}

LISTED = "Answer the following questions as best you can. You have access to the following APIs:\n"
LAMP = f"{LISTED}1. lamp: Switches a lamp. Parameters: []\n\nUse the following format:\n"
LAMP_TOOL = Tool("lamp", "Switches a lamp.", {"type": "object", "properties": {}, "required": []})


def record(
    query: str = "Light!",
    system: str = LAMP,
    arguments: str = "{}",
    observation: str = "on",
    name: str = "lamp",
    **rest: object,
) -> dict:
    """A row of ms_agent that calls a tool."""
    trace = f"Action: {name}\nAction Input: {arguments}\nObservation: {observation}\nFinal Answer: Done."
    values = [("system", system), ("user", query), ("assistant", trace)]
    return {"id": "lamp", "conversations": [{"from": role, "value": value} for role, value in values]} | rest


def talk(query: str, answer: str = "I see.") -> dict:
    """A row of ms_bench, or one of ms_agent without tools."""
    return {"conversations": [{"from": "user", "value": query}, {"from": "assistant", "value": answer}]}


def bad(**values: object) -> bytes:
    return json.dumps(record(**values)).encode()


DEEP = "[" * 3000 + "]" * 3000
BAD = [
    (b"{no JSON", "no JSON: "),
    (b"[1, 2]", "no JSON object but list"),
    (DEEP.encode(), "no JSON: "),
    (b'{"id": "bad", "text": "Hi"}', "no row without conversations: "),
    (bad(system=f"{LISTED}nothing to see"), "the tool list cannot be read: 'nothing to see'"),
    (bad(name="radio"), "call to 'radio', which is not among the tools offered: ['lamp']"),
    (bad(name="radio", id="\ud800"), "call to 'radio', which is not among the tools offered"),
    (bad(observation="\ud800"), "text that is no valid Unicode"),
    (bad(observation="x" * 3000 + "\ud800"), "text that is no valid Unicode"),
    (bad(family="\ud800"), "text that is no valid Unicode"),
    (bad(arguments=r"{'room': '\ud800'}"), "text that is no valid Unicode"),
    (bad(observation="BYTES").replace(b"BYTES", b"\xff\xfe"), "bytes that are no UTF-8: "),
    (bad().replace(b"{", b"\xff{", 1), "bytes that are no UTF-8: "),
    (bad(arguments=f'{{"room": {DEEP}}}'), "values nested too deeply"),
    (bad(system=LAMP.replace("[]", DEEP)), "values nested too deeply"),
    (bad(arguments="{[]: 1}"), "arguments cannot be read: neither JSON nor a Python literal"),
    (bad(instruction=["Be kind."]), "'instruction' is list, not text"),
    (bad(system=LAMP.replace("[]", '{"type": "object", "properties": {}, "required": null}')), "'required' is no list"),
]


def configured(folder: Path, *overrides: str) -> Config:
    """The config of a run below `folder` that measures lengths in characters, which needs no model."""
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        return typed(compose("config", [*own_folder(folder), *overrides]))


def own_folder(folder: Path) -> list[str]:
    return ["name=mine", f"outputs={folder / 'outputs'}", "data.count_tokens=false"]


def written(folder: Path) -> Path:
    return folder / "outputs" / "mine" / "main" / "convert"


def converted(folder: Path, *overrides: str) -> Path:
    """Converts; the folder with what came out."""
    conversion.convert(configured(folder, *overrides))
    return written(folder)


def of_file(folder: Path, lines: list[bytes], *overrides: str) -> Config:
    path = folder / "mine.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return configured(folder, *reading(path), *overrides)


def reading(path: Path, source: str = "ms_agent") -> tuple[str, ...]:
    return "data/mix=files", f"data.mix.file.path={path}", f"data.mix.file.source={source}"


def adding(name: str, source: str, path: Path, **keys: object) -> str:
    """The override that adds a source to the mix."""
    more = "".join(f", {key}: {value}" for key, value in keys.items())
    return f"+data.mix.{name}={{source: {source}, path: {path}{more}}}"


def write_rows(path: Path, records: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records), encoding="utf-8")
    return path


def good_lines() -> list[bytes]:
    return [json.dumps(one, ensure_ascii=False).encode() for one in GOOD]


def mixed_lines() -> list[bytes]:
    """The good rows with a bad one after each of the first, then a blank line, then the rest."""
    good, lines = good_lines(), []
    for place, line in enumerate(good):
        lines += [line, *(row for row, _ in BAD[place : place + 1])]
    return [*lines[:7], b"", *lines[7:]]


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def stats_in(out: Path) -> dict:
    return json.loads((out / "stats.json").read_text(encoding="utf-8"))


def ids(path: Path) -> set[str]:
    """The dialogues that a file of exchanges holds."""
    return set(re.findall(r'^{"dialogue":"([^"]*)"', path.read_text(encoding="utf-8"), re.MULTILINE))


def own_lines(out: Path, name: str) -> dict[str, list[bytes]]:
    """The lines of one source in train.jsonl and test.jsonl."""
    mark = f'"source":"{name}"'.encode()
    return {part: [line for line in (out / part).read_bytes().splitlines() if mark in line] for part in PARTS}


PARTS = ("train.jsonl", "test.jsonl")


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def made(out: Path) -> dict[str, bytes]:
    """The files that depend on data and settings alone; the card without the time it was written at."""
    files = {name: data for name, data in contents(out).items() if name != "run.json"}
    files["card.html"] = re.sub(rb"\d{4}-\d\d-\d\d \d\d:\d\d", b"", files["card.html"])
    return files


def check_accounts(out: Path) -> dict:
    """stats.json, once every row of every source is found in the files or counted as left out."""
    stats = stats_in(out)
    used = Counter(one.partition("/")[0] for part in PARTS for one in ids(out / part))
    held = held_back(out)
    rejected = Counter(reject["source"] for reject in rows(out / "rejects.jsonl") if not reject["in_part"])
    for name, own in stats["sources"].items():
        assert own["rejected"] == rejected[name]
        assert own["held_back"] == sum(one.startswith(f"{name}/") for one in held)
        left_out = own["rejected"] + own["not_drawn"] + own["not_used"]
        assert own["rows"] == used[name] + own["held_back"] + left_out, (name, own)
    assert stats["held_back"] == len(held)
    return stats


def held_back(out: Path) -> dict[str, str]:
    """The first query of each dialogue of general chat that is kept for tests, by the dialogue's id."""
    path = out / "test_general.jsonl"
    found = [row["dialogue"] for row in rows(path)] if path.exists() else []
    return {dialogue["id"]: dialogue["turns"][0]["query"] for dialogue in found}


# What becomes of rows


def test_bad_rows_are_kept_with_line_and_reason_and_the_good_ones_convert(tmp_path: Path) -> None:
    lines = mixed_lines()
    conversion.convert(of_file(tmp_path, lines, "data.test_ratio=0.2"))
    out = written(tmp_path)
    assert {path.name for path in out.iterdir()} == RESULTS
    rejects = rows(out / "rejects.jsonl")
    assert len(rejects) == len(BAD)
    for reject, (row, reason) in zip(rejects, BAD, strict=True):
        assert lines[reject["line"] - 1] == row == reject["row"].encode("utf-8", "surrogateescape")
        assert reason in reject["reason"]
        assert not reject["in_part"]
        assert (reject["source"], reject["file"]) == ("file", str(tmp_path / "mine.jsonl"))
    stats = check_accounts(out)
    assert stats["train"]["dialogues"] + stats["test"]["dialogues"] == len(GOOD)
    assert stats["rejected"] == sum(stats["rejected_by_reason"].values()) == len(BAD)
    for part in ("train", "test"):
        exchanges = rows(out / f"{part}.jsonl")
        assert stats[part] == {"dialogues": len({row["dialogue"] for row in exchanges}), "exchanges": len(exchanges)}
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert run["finished"] and run["results"]["rejected"] == len(BAD)


def test_a_row_is_one_exchange_with_these_keys(tmp_path: Path) -> None:
    conversion.convert(of_file(tmp_path, good_lines(), "data.test_ratio=0.2"))
    out = written(tmp_path)
    exchanges = rows(out / "train.jsonl") + rows(out / "test.jsonl")
    for row in exchanges:
        assert list(row) == ["dialogue", "turn", "step", "source", "messages", "reply"]
        assert [message["role"] for message in row["messages"]] == [
            "system",
            *["user", "assistant"] * row["turn"],
            "user",
        ]
        assert all(list(message) == ["role", "content"] for message in row["messages"])
        assert row["reply"] and all(list(span) == ["text", "part", "weight"] for span in row["reply"])
        assert row["source"] == "file"
    calls = sum(m["value"].count("Action Input:") for one in GOOD for m in one["conversations"][1:])
    turns = sum(len(one["conversations"]) // 2 for one in GOOD)
    assert len(exchanges) == calls + turns


def test_a_dialogue_is_named_by_its_source_its_row_and_its_own_id(tmp_path: Path) -> None:
    lines = [json.dumps(one | {"id": "same"}).encode() for one in GOOD[:4]]
    lines += [b"[]", *(json.dumps({"conversations": one["conversations"]}).encode() for one in GOOD[4:8])]
    conversion.convert(of_file(tmp_path, lines))
    out = written(tmp_path)
    named = {f"file/{number}:same" for number in range(1, 5)} | {f"file/{number}" for number in range(6, 10)}
    assert ids(out / "train.jsonl") | ids(out / "test.jsonl") == named


def test_rejects_of_one_kind_count_together_whatever_they_name(tmp_path: Path) -> None:
    lines = [*good_lines(), *(bad(name=f"radio {number}", id=f"row {number}") for number in range(3))]
    conversion.convert(of_file(tmp_path, lines))
    assert list(stats_in(written(tmp_path))["rejected_by_reason"].values()) == [3]


def test_a_file_of_which_nothing_can_be_read_says_why_and_keeps_its_rows(tmp_path: Path) -> None:
    lines = [b"[1]", b"{no JSON", b"[2]", b"[3]", b"{}"]
    with pytest.raises(ValueError) as error:
        conversion.convert(of_file(tmp_path, lines))
    for words in ("data.mix.file", "mine.jsonl", "ms_agent", "3 times", "no JSON object but list", "rejects.jsonl"):
        assert words in str(error.value)
    assert [reject["row"].encode() for reject in rows(written(tmp_path) / "rejects.jsonl")] == lines
    conversion.convert(of_file(tmp_path, good_lines()))
    assert rows(written(tmp_path) / "rejects.jsonl") == []


def test_a_byte_order_mark_costs_no_row(tmp_path: Path) -> None:
    lines = good_lines()
    conversion.convert(of_file(tmp_path, [b"\xef\xbb\xbf" + lines[0], *lines[1:]]))
    assert (written(tmp_path) / "rejects.jsonl").read_text() == ""


@pytest.fixture(scope="module")
def kinds_of_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ten rows of each kind of file, of which the fourth calls a tool that is not on offer."""
    folder = tmp_path_factory.mktemp("kinds")

    def ten(kind: str) -> list[dict]:
        names = ["radio" if number == 3 else "lamp" for number in range(10)]
        return [record(f"{kind} {number}!", name=name) for number, name in enumerate(names)]

    write_rows(folder / "a.jsonl", ten("jsonl"))
    with (folder / "b.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "conversations"])
        table.writerows([one["id"], repr(one["conversations"])] for one in ten("csv"))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ten("parquet")), folder / "c.parquet")
    (folder / "d.json.gz").write_bytes(gzip.compress(json.dumps(ten("json"), indent=1).encode()))
    (folder / "deeper").mkdir()
    with pyarrow.output_stream(str(folder / "deeper" / "e.jsonl.zst"), compression="zstd") as packed:
        packed.write("".join(json.dumps(one) + "\n" for one in ten("zst")).encode())
    (folder / "notes.txt").write_text("no data", encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("pattern", "bad_rows"),
    [
        (None, {"a.jsonl": 4, "b.csv": 5, "c.parquet": 4, "d.json.gz": 4, "deeper/e.jsonl.zst": 4}),
        ("*.jsonl*", {"a.jsonl": 4, "deeper/e.jsonl.zst": 4}),
        ("deeper/*", {"deeper/e.jsonl.zst": 4}),
    ],
)
def test_a_folder_of_files_of_every_kind_is_one_source(
    tmp_path: Path, kinds_of_files: Path, pattern: str | None, bad_rows: dict[str, int]
) -> None:
    chosen = [f"data.mix.file.files='{pattern}'"] if pattern else []
    out = converted(tmp_path, *reading(kinds_of_files), *chosen)
    stats = check_accounts(out)
    assert stats["sources"]["file"]["rows"] == 10 * len(bad_rows)
    assert stats["by_source"] == {"file": 9 * len(bad_rows)}
    rejects = rows(out / "rejects.jsonl")
    assert {reject["file"]: reject["line"] for reject in rejects} == {
        str(kinds_of_files / name): line for name, line in bad_rows.items()
    }
    assert len(rejects) == len(bad_rows)
    assert all("radio" in reject["reason"] and " 3!" in reject["row"] for reject in rejects)


# Splitting and sampling


def test_train_and_test_share_no_dialogue_and_test_dialogues_are_those_of_the_test_rows(tmp_path: Path) -> None:
    conversion.convert(of_file(tmp_path, good_lines(), "data.test_ratio=0.2"))
    out = written(tmp_path)
    train, test = ids(out / "train.jsonl"), ids(out / "test.jsonl")
    assert (len(train), len(test)) == (24, 6)
    assert not train & test
    assert {row["dialogue"]["id"] for row in rows(out / "test_dialogues.jsonl")} == test


def test_held_out_families_are_only_tested_on_and_flagged_as_unseen(tmp_path: Path) -> None:
    assert 0 < HOTELS < 15
    conversion.convert(of_file(tmp_path, good_lines(), "data.heldout_families=[hotels]", "data.test_ratio=0.25"))
    out = written(tmp_path)
    tested = rows(out / "test_dialogues.jsonl")
    unseen = {row["dialogue"]["id"] for row in tested if row["dialogue"]["family"] == "hotels"}
    assert len(unseen) == HOTELS
    assert not unseen & ids(out / "train.jsonl")
    assert {row["seen"] for row in tested if row["dialogue"]["id"] in unseen} == {False}
    assert True in {row["seen"] for row in tested}
    stats = stats_in(out)
    assert stats["test_unseen"] == sum(not row["seen"] for row in tested)
    assert stats["test_seen"] == sum(row["seen"] for row in tested)


def test_a_bound_on_held_out_dialogues_counts_those_not_used(tmp_path: Path) -> None:
    conversion.convert(of_file(tmp_path, good_lines(), "data.heldout_families=[hotels]", "data.heldout_max=1"))
    families = Counter(row["dialogue"]["family"] for row in rows(written(tmp_path) / "test_dialogues.jsonl"))
    assert families["hotels"] == 1
    stats = check_accounts(written(tmp_path))
    assert stats["heldout_not_used"] == stats["sources"]["file"]["not_used"] == HOTELS - 1


def test_data_of_held_out_families_alone_is_refused(tmp_path: Path) -> None:
    families = sorted({one["family"] for one in GOOD})
    with pytest.raises(ValueError, match="no dialogue is left to train on.*heldout_families"):
        conversion.convert(of_file(tmp_path, good_lines(), f"data.heldout_families={families}".replace("'", "")))


def test_a_count_takes_that_many_dialogues(tmp_path: Path) -> None:
    conversion.convert(of_file(tmp_path, good_lines(), "data.mix.file.count=12", "data.test_ratio=0.25"))
    stats = check_accounts(written(tmp_path))
    assert (stats["train"]["dialogues"], stats["test"]["dialogues"]) == (9, 3)


def test_a_count_is_met_although_many_rows_are_bad_and_drawn_from_all_of_the_file(tmp_path: Path) -> None:
    kinds = ["radio" if number % 5 < 3 else "lamp" for number in range(1000)]  # 400 rows are good
    path = write_rows(tmp_path / "a.jsonl", [record(f"{n}!", name=name) for n, name in enumerate(kinds)])
    out = converted(tmp_path, *reading(path), "data.mix.file.count=200")
    stats = check_accounts(out)
    assert stats["by_source"] == {"file": 200}
    numbers = [int(re.search(r"/(\d+)", one)[1]) for part in PARTS for one in ids(out / part)]
    assert 450 < mean(numbers) < 550  # 500 +- 14 by chance
    assert min(numbers) < 40 and max(numbers) > 960


def test_a_count_beyond_the_good_rows_takes_them_all_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, heard: None
) -> None:
    conversion.convert(of_file(tmp_path, mixed_lines(), "data.mix.file.count=40"))
    stats = check_accounts(written(tmp_path))
    assert stats["by_source"] == {"file": len(GOOD)}
    assert stats["sources"]["file"]["not_drawn"] == 0
    assert f"file: only {len(GOOD)} of the 40 rows wanted are there; all are used" in caplog.messages


def test_rows_read_by_the_wrong_source_end_in_a_sentence_with_the_right_one(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "mine.jsonl", [record(f"Room {n}?") for n in range(5)])
    with pytest.raises(
        ValueError, match="none of the 5 rows .* read as openai.* 5 of the first 5 can be read with "
    ) as error:
        converted(tmp_path, *reading(path, "openai"))
    assert str(error.value).endswith("data.mix.file.source=ms_agent")


@pytest.mark.parametrize(
    ("source", "rows", "overrides", "advice"),
    [
        ("ms_agent", [record(f"Room {n}?") for n in range(20)], [], "scores of 1 test dialogues say little; data.tes"),
        ("ms_agent", [record(f"Room {n}?") for n in range(20)], ["data.test_ratio=0.2"], None),
        ("ms_bench", [talk(f"What is {n}?") for n in range(20)], [], "there is nothing to test on, and train.py will"),
    ],
)
def test_a_small_file_is_told_what_its_tests_are_worth(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    heard: None,
    source: str,
    rows: list[dict],
    overrides: list[str],
    advice: str | None,
) -> None:
    converted(tmp_path, *reading(write_rows(tmp_path / "mine.jsonl", rows), source), *overrides)
    given = [text for text in caplog.messages if "test" in text and ("say little" in text or "nothing to" in text)]
    assert len(given) == (advice is not None)
    assert not advice or given[0].startswith(advice)


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What our logger says reaches caplog, also once `log.set_up` has taken it off the root logger."""
    logger = logging.getLogger("fabrictune")
    with caplog.at_level(logging.INFO, logger="fabrictune"):
        propagated, logger.propagate = logger.propagate, False
        logger.addHandler(caplog.handler)
        yield
        logger.removeHandler(caplog.handler)
        logger.propagate = propagated


@pytest.mark.parametrize("mix", ["file", "synthetic"])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_split(tmp_path: Path, mix: str) -> None:
    lines = tmp_path / "mine.jsonl"
    lines.write_bytes(b"\n".join(mixed_lines()) + b"\n")
    source = {
        "file": reading(lines),
        "synthetic": ("data.mix.synthetic.count=30", "data.mix.synthetic.languages=[en,zh]"),
    }

    def convert(name: str, seed: int) -> dict[str, bytes]:
        return made(converted(tmp_path / name, f"seed={seed}", "data.test_ratio=0.2", *source[mix]))

    first, again, other = convert("first", 1), convert("again", 1), convert("other", 2)
    assert set(first) == RESULTS - {"run.json"}
    assert first == again
    assert first["test.jsonl"] != other["test.jsonl"]


def test_adding_a_source_changes_no_row_of_the_others(tmp_path: Path) -> None:
    paths = {
        name: write_rows(tmp_path / f"{name}.jsonl", [make(f"{name} {number}!") for number in range(150)])
        for name, make in {"first": record, "early": record, "late": talk, "chat": talk}.items()
    }
    alone = (*reading(paths["first"]), "data.mix.file.count=100", "data.test_ratio=0.1")
    alone += (adding("chat", "ms_bench", paths["chat"], count=70),)
    before = converted(tmp_path / "alone", *alone)
    added = adding("early", "ms_agent", paths["early"]), adding("late", "ms_bench", paths["late"], ratio=0.5)
    after = converted(tmp_path / "more", *alone, *added)
    assert set(stats_in(after)["by_source"]) == {"file", "chat", "early", "late"}
    for name, tests in (("file", 10), ("chat", 0)):
        assert len({json.loads(line)["dialogue"] for line in own_lines(after, name)["test.jsonl"]}) == tests
        assert own_lines(before, name) == own_lines(after, name)


@pytest.mark.parametrize("seed", range(3))
def test_near_duplicates_stand_on_one_side_also_across_sources(tmp_path: Path, seed: int) -> None:
    queries = [f"Turn on lamp {number}, please" for number in range(60)]
    twins = [re.sub("[ ,]", "", query).upper() + "!!" for query in queries]
    first = write_rows(tmp_path / "first.jsonl", list(map(record, [*queries, *twins[:30]])))
    second = write_rows(tmp_path / "second.jsonl", list(map(record, [f"{one}?" for one in twins])))
    out = converted(
        tmp_path,
        *reading(first),
        adding("second", "ms_agent", second),
        *("data.test_ratio=0.3", f"seed={seed}"),
    )
    sides: dict[str, set[str]] = {}
    for part in PARTS:
        for row in rows(out / part):
            said = row["messages"][-1]["content"].partition("Action:")[0]
            lamp = re.search(r"lamp ?(\d+)", said, re.IGNORECASE)
            sides.setdefault(lamp[1], set()).add(part)
    assert len(sides) == 60
    assert {len(own) for own in sides.values()} == {1}
    assert check_accounts(out)["sources"]["file"]["test"]["dialogues"] == 27


def test_the_same_query_with_other_tools_is_no_duplicate(tmp_path: Path) -> None:
    system = LAMP.replace("1. lamp", "1. torch")
    torches = [record(f"{number}!", system=system, name="torch") for number in range(40)]
    path = write_rows(tmp_path / "a.jsonl", [record(f"{number}!") for number in range(40)] + torches)
    out = converted(tmp_path, *reading(path), "data.test_ratio=0.5")
    numbers = [{int(re.search(r"/(\d+)", one)[1]) % 40 for one in ids(out / part)} for part in PARTS]
    assert numbers[0] & numbers[1]


def test_general_chat_that_repeats_a_test_query_is_not_trained_on(tmp_path: Path) -> None:
    agent = write_rows(tmp_path / "agent.jsonl", [talk(f"What is {number}?") for number in range(40)])
    chat = write_rows(tmp_path / "chat.jsonl", [talk(f"WHAT is {number}") for number in range(80)])
    out = converted(tmp_path, *reading(agent), adding("chat", "ms_bench", chat), "data.test_ratio=0.25")
    tested = {int(row["dialogue"]["turns"][0]["query"][8:-1]) for row in rows(out / "test_dialogues.jsonl")}
    assert len(tested) == 10
    trained = {int(row["messages"][-1]["content"][8:]) for row in rows(out / "train.jsonl") if row["source"] == "chat"}
    held = {int(query[8:]) for query in held_back(out).values()}
    assert len(held) <= 4
    assert trained == set(range(80)) - tested - held
    assert check_accounts(out)["sources"]["chat"]["not_used"] == 10


def chats(folder: Path, *overrides: str, queries: list[str], **keys: object) -> Path:
    """Converts generated agents beside general chat with these queries."""
    path = write_rows(folder / "chat.jsonl", list(map(talk, queries)))
    return converted(
        folder, "data.mix.synthetic.count=20", adding("chat", "ms_bench", path, **keys), "data.test_ratio=0", *overrides
    )


def test_the_same_general_chat_is_held_back_whatever_number_is_trained_on(tmp_path: Path) -> None:
    queries = [f"What is {number}?" for number in range(800)]
    found = []
    for count in (100, 250, 500):
        out = chats(tmp_path / str(count), "data.general_test=40", queries=queries, count=count)
        assert check_accounts(out)["sources"]["chat"]["train"]["dialogues"] == count
        found.append(held_back(out))
        assert len(found[-1]) == 40
        assert ids(out / "train.jsonl").isdisjoint(found[-1])
        assert [list(row) for row in rows(out / "test_general.jsonl")] == [["dialogue", "source", "seen"]] * 40
    assert found[0] == found[1] == found[2]
    other = chats(tmp_path / "other", "data.general_test=40", "seed=7", queries=queries, count=100)
    assert held_back(other).keys() != found[0].keys()


@pytest.mark.parametrize(("count", "most", "held"), [(19, 200, 0), (60, 200, 3), (60, 2, 2), (60, 0, 0)])
def test_of_a_source_that_is_all_trained_on_one_row_in_twenty_is_held_back(
    tmp_path: Path, count: int, most: int, held: int
) -> None:
    out = chats(tmp_path, f"data.general_test={most}", queries=[f"What is {number}?" for number in range(count)])
    stats = check_accounts(out)
    assert (stats["held_back"], stats["sources"]["chat"]["train"]["dialogues"]) == (held, count - held)
    assert (out / "test_general.jsonl").exists() is (held > 0)


def test_no_near_duplicate_of_a_row_held_back_is_trained_on_also_across_sources(tmp_path: Path) -> None:
    queries = [f"What is {number}?" for number in range(300)]
    twins = write_rows(tmp_path / "twins.jsonl", [talk(query.upper()) for query in queries])
    three_of_each = [f"{query}{mark}" for mark in ("", "!", " !?") for query in queries]
    out = chats(tmp_path, adding("twins", "ms_bench", twins, count=150), queries=three_of_each, count=200)
    check_accounts(out)
    trained = {row["messages"][-1]["content"] for row in rows(out / "train.jsonl") if row["source"] != "synthetic"}
    held = held_back(out).values()
    numbers = [{int(re.search(r"\d+", query)[0]) for query in side} for side in (trained, held)]
    assert len(numbers[0]) > 100 and len(numbers[1]) > 20
    assert numbers[0].isdisjoint(numbers[1])


def test_bad_rows_among_those_held_back_are_made_up_for(tmp_path: Path) -> None:
    queries = [f"What is {number}?" for number in range(1200)]
    path = write_rows(tmp_path / "bad.jsonl", [talk(one, "" if n % 3 else "I see.") for n, one in enumerate(queries)])
    out = converted(
        tmp_path, "data.mix.synthetic.count=20", adding("chat", "ms_bench", path, count=50), "data.general_test=12"
    )
    stats = check_accounts(out)
    assert stats["sources"]["chat"]["train"]["dialogues"] == 50
    assert stats["held_back"] == 12


def test_self_cognition_bears_the_names_given_and_is_never_tested_on(tmp_path: Path) -> None:
    me = "source: self_cognition, count: 60, languages: [zh, en]"
    names = "names: {zh: '小织', en: Weaver}, authors: {zh: '织造局', en: The Loom}"
    out = converted(tmp_path, "data.mix.synthetic.count=20", f"+data.mix.me={{{me}, {names}}}", "data.test_ratio=0.5")
    assert {row["source"] for row in rows(out / "test_dialogues.jsonl")} == {"synthetic"}
    assert stats_in(out)["sources"]["me"]["train"]["dialogues"] == 60
    said = " ".join(span["text"] for row in rows(out / "train.jsonl") if row["source"] == "me" for span in row["reply"])
    assert all(name in said for name in ("小织", "Weaver", "织造局", "The Loom"))


# The tutorial's mix


def captured_row(number: int) -> dict:
    """The last request of a turn with one call, as AgentFabric sends it, and its reply."""
    step = Step(Call("lamp", {}), "on")
    dialogue = Dialogue("", (LAMP_TOOL,), (Turn(f"Captured lamp {number}!", (step,), "Done."),), "Be brief.")
    last = list(agentfabric.render(dialogue, "captured"))[-1]
    said = [{"role": message.role, "content": message.content} for message in last.messages]
    return {"messages": said, "reply": last.reply_text}


def tutorial_data(folder: Path, agent: int, captured: int, general: int, unwanted: int = 0) -> None:
    """Files where the tutorial's datasets belong; of the general rows, `unwanted` are left out by ms-swift's rule."""
    every = general // unwanted if unwanted else general + 1
    chats = [talk(f"Question {n}?", "I am moss." if n % every == every - 1 else "I see.") for n in range(general)]
    write_rows(
        folder / "iic/ms_agent/train_agent_react.jsonl",
        [record(f"Lamp {number}!", id=number) for number in range(agent)],
    )
    write_rows(
        folder / "AI-ModelScope/ms_agent_for_agentfabric/addition.jsonl", list(map(captured_row, range(captured)))
    )
    write_rows(folder / "iic/ms_agent/other.jsonl", [record("Not among the tutorial's files")])
    write_rows(folder / "iic/ms_bench/1.jsonl", chats[: general // 2])
    write_rows(folder / "iic/ms_bench/2.jsonl", chats[general // 2 :])


def test_the_tutorials_mix_gives_the_tutorials_numbers(tmp_path: Path) -> None:
    tutorial_data(tmp_path / "data", agent=30_000, captured=488, general=70_000, unwanted=700)
    start = time.monotonic()
    out = converted(tmp_path, "+experiment=qwen7b_mix2", "name=mine", f"data.folder={tmp_path / 'data'}")
    print(f"the tutorial's 103,488 rows: {time.monotonic() - start:.1f} s")
    stats = check_accounts(out)
    own = stats["sources"]
    assert {name: source["rows"] for name, source in own.items()} == {
        "agent": 30_000,
        "captured": 488,
        "self_cognition": 3_000,
        "general": 70_000,
    }
    assert stats["test"]["dialogues"] == 305
    assert own["agent"]["train"]["dialogues"] + own["captured"]["train"]["dialogues"] == 30_183
    assert own["general"]["train"]["dialogues"] == 60_366
    assert own["general"]["held_back"] == stats["held_back"] == 200
    assert own["self_cognition"]["train"]["dialogues"] == 3_000
    assert stats["train"]["dialogues"] == 30_183 + 60_366 + 3_000
    assert Counter(row["source"] for row in rows(out / "test_dialogues.jsonl")) == {"agent": 300, "captured": 5}
    assert 500 < own["general"]["rejected"] <= 700
    general = [int(one.partition("/")[2]) for one in ids(out / "train.jsonl") if one.startswith("general/")]
    assert 34_800 < mean(general) < 35_200  # 35,000 +- 30 by chance; of the first 60,366 it would be 30,183
    assert ids(out / "train.jsonl").isdisjoint(ids(out / "test.jsonl"))


@pytest.mark.parametrize(
    ("mix", "general", "held"), [("mix0", 0, 0), ("mix1", 344, 50), ("mix2", 688, 50), ("mix4", 950, 50)]
)
def test_the_points_of_the_sweep_differ_in_general_chat_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, heard: None, mix: str, general: int, held: int
) -> None:
    tutorial_data(tmp_path / "data", agent=300, captured=48, general=1000)
    fewer = "data.mix.self_cognition.count=30"
    out = converted(tmp_path, f"data/mix={mix}", f"data.folder={tmp_path / 'data'}", fewer)
    stats = check_accounts(out)
    assert stats["by_source"].get("general", 0) == general
    assert stats["test"]["dialogues"] == 4
    assert stats["train"]["dialogues"] == 344 + 30 + general
    assert stats["held_back"] == held
    assert (out / "test_general.jsonl").exists() is (held > 0)
    said = "general: only 1000 of the 1376 rows wanted are there; all are used, 50 of them held back"
    assert (said in caplog.messages) is (mix == "mix4")


@pytest.mark.parametrize("hub", ["modelscope", "huggingface"])
def test_a_hub_that_cannot_be_reached_is_answered_with_where_to_put_the_files(tmp_path: Path, hub: str) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    environment = os.environ | {
        "HOME": str(tmp_path),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_OFFLINE": "0",
        "MODELSCOPE_ENDPOINT": endpoint,
        "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "1",
    }
    overrides = [f"data/mix={hub}", f"data.mix.hub.{hub}=some/thing", f"data.folder={tmp_path / 'data'}"]
    command = [sys.executable, "convert.py", *own_folder(tmp_path), *overrides]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("error: data.mix.hub: some/thing: put its ")
    assert f"into {tmp_path / 'data' / 'some' / 'thing'}/" in last
    assert not (tmp_path / "outputs").exists()


def test_a_tokenizer_that_cannot_be_fetched_is_answered_with_what_does_without(tmp_path: Path) -> None:
    config = of_file(tmp_path, good_lines(), "model=hub", "model.id=nobody/nothing", "data.count_tokens=true")
    with pytest.raises(
        ConnectionError, match="the hub gave no such model .*; or count characters with data.count_toke"
    ):
        conversion.convert(config)


# The run's folder


def test_a_finished_folder_is_refused_and_untouched(tmp_path: Path) -> None:
    config = of_file(tmp_path, good_lines())
    conversion.convert(config)
    before = contents(written(tmp_path))
    with pytest.raises(FileExistsError, match="holds a finished run; choose another variant=.* overwrite=true"):
        conversion.convert(config)
    config.resume = True
    conversion.convert(config)
    config.seed = 7
    with pytest.raises(ValueError, match="with other settings .*seed: 42 -> 7"):
        conversion.convert(config)
    assert contents(written(tmp_path)) == before


def test_another_content_of_the_same_file_is_another_setting(tmp_path: Path) -> None:
    conversion.convert(of_file(tmp_path, good_lines()))
    with pytest.raises(ValueError, match=r"with other settings .*mix\.file\.files\..*mine\.jsonl: "):
        conversion.convert(of_file(tmp_path, good_lines()[1:], "resume=true"))


def test_the_number_of_processes_is_no_setting_of_the_result(tmp_path: Path) -> None:
    conversion.convert(of_file(tmp_path, good_lines(), "data.processes=1"))
    conversion.convert(of_file(tmp_path, good_lines(), "data.processes=2", "resume=true"))


def test_overwriting_replaces_a_finished_folder(tmp_path: Path) -> None:
    conversion.convert(of_file(tmp_path, mixed_lines()))
    conversion.convert(of_file(tmp_path, good_lines()[:5], "overwrite=true"))
    stats = check_accounts(written(tmp_path))
    assert stats["rejected"] == 0
    assert stats["train"]["dialogues"] + stats["test"]["dialogues"] == 5


def test_a_missing_file_is_named_and_blocks_nothing(tmp_path: Path) -> None:
    missing = tmp_path / "mine.jsonl"
    config = configured(tmp_path, *reading(missing))
    with pytest.raises(FileNotFoundError, match="mine.jsonl: no such file"):
        conversion.convert(config)
    missing.write_bytes(b"\n".join(good_lines()))
    conversion.convert(config)
    assert (written(tmp_path) / "train.jsonl").exists()


# Processes


@pytest.fixture(scope="module")
def many_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows for several workers, one in a hundred a bad one."""
    names = ["radio" if number % 100 == 99 else "lamp" for number in range(12_000)]
    records = [record(f"{number}!", name=name, observation="on " * (number % 50)) for number, name in enumerate(names)]
    assert len(records) > 2 * FEW
    return write_rows(tmp_path_factory.mktemp("many") / "many.jsonl", records)


@pytest.fixture(scope="module")
def undisturbed(many_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What two processes make of them."""
    out = converted(tmp_path_factory.mktemp("undisturbed"), *reading(many_rows), "data.processes=2")
    assert check_accounts(out)["rejected"] == 120
    return made(out)


def test_one_process_makes_the_same_bytes_as_two(
    tmp_path: Path, many_rows: Path, undisturbed: dict[str, bytes]
) -> None:
    assert made(converted(tmp_path, *reading(many_rows), "data.processes=1")) == undisturbed


def are_converted(process: psutil.Process, out: Path) -> bool:
    """Whether results of the workers have reached the disk; they lie in a file without a name there."""
    sizes = []
    with suppress(FileNotFoundError):  # a file is closed meanwhile
        for opened in Path(f"/proc/{process.pid}/fd").iterdir():
            name = os.readlink(opened)
            if name.startswith(str(out)) and name.endswith(" (deleted)"):
                sizes.append(opened.stat().st_size)
    return len(process.children()) == 2 and any(sizes)


def are_written(process: psutil.Process, out: Path) -> bool:
    return any(part.stat().st_size for part in out.glob(".train.jsonl.*.part"))


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells when rows are being converted")
@pytest.mark.parametrize("moment", [are_converted, are_written])
def test_a_run_killed_at_once_leaves_no_result_and_no_worker_and_the_next_one_starts_clean(
    tmp_path: Path, many_rows: Path, undisturbed: dict[str, bytes], moment: Callable[[psutil.Process, Path], bool]
) -> None:
    out = written(tmp_path)
    command = [sys.executable, "convert.py", *own_folder(tmp_path), *reading(many_rows), "data.processes=2"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as started:
        process = psutil.Process(started.pid)
        while not moment(process, out):
            assert started.poll() is None, "it ended before the moment came"
            time.sleep(0.001)
        workers = process.children()
        started.send_signal(signal.SIGKILL)
        started.wait()
    assert psutil.wait_procs(workers, timeout=10)[1] == []
    left = {path.name for path in out.iterdir()}
    assert any(name.endswith(".part") for name in left)
    assert all(name.startswith(".") for name in left if name.endswith(".part"))
    assert left & RESULTS == ({"run.json"} if moment is are_converted else {"run.json", "rejects.jsonl"})
    assert all((out / name).read_bytes() == undisturbed[name] for name in left & set(undisturbed))
    assert json.loads((out / "run.json").read_text(encoding="utf-8"))["finished"] is None
    assert made(converted(tmp_path, *reading(many_rows), "data.processes=2")) == undisturbed


# Formats

READERS: dict[str, Callable[[dict], Dialogue]] = {
    "ms_agent": ms_agent.parse,
    "openai": openai.parse,
    "agentfabric": captured.parse,
    "agentfabric_v072": captured.parse,
    "messages": messages.parse,
}
SOURCES = {"agentfabric_v072": "agentfabric"} | {name: name for name in READERS if name != "agentfabric_v072"}
FOR_AGENTS = ("ms_agent", "openai", "agentfabric", "agentfabric_v072")


def gist(dialogue: Dialogue) -> list[tuple]:
    """What is said and called, turn by turn."""
    return [
        (turn.query, [(step.call.name, step.call.arguments, step.observation) for step in turn.steps], turn.answer)
        for turn in dialogue.turns
    ]


def read_back(out: Path, format: str) -> list[list[tuple]]:
    """The dialogues that the rows of train.jsonl say."""
    lines = enumerate((out / "train.jsonl").read_text(encoding="utf-8").splitlines())
    read = captured.uncovered(lines) if SOURCES[format] == "agentfabric" else lines
    return [gist(READERS[format](json.loads(text))) for _, text in read]


@pytest.fixture(scope="module")
def in_format(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The good rows in each format, written once."""
    folders: dict[str, Path] = {}

    def make(format: str) -> Path:
        if format not in folders:
            folder = tmp_path_factory.mktemp(format)
            path = write_rows(folder / "good.jsonl", GOOD)
            folders[format] = converted(folder, *reading(path), f"data.format={format}", "data.test_ratio=0")
        return folders[format]

    return make


@pytest.mark.parametrize("second", FOR_AGENTS)
@pytest.mark.parametrize("first", FOR_AGENTS)
def test_what_one_format_holds_converts_to_any_other(
    tmp_path: Path, in_format: Callable[[str], Path], first: str, second: str
) -> None:
    out = in_format(first)
    assert read_back(out, first) == list(map(gist, DIALOGUES))
    again = converted(
        tmp_path,
        *reading(out / "train.jsonl", SOURCES[first]),
        *(f"data.format={second}", "data.test_ratio=0"),
    )
    assert read_back(again, second) == list(map(gist, DIALOGUES))
    assert (again / "rejects.jsonl").read_text() == ""
    stats = check_accounts_of_foreign(again) if second in ("ms_agent", "openai") else check_accounts(again)
    covered = sum(len(one.calls) + len(one.turns) - 1 for one in DIALOGUES)
    assert stats["sources"]["file"]["covered"] == (covered if SOURCES[first] == "agentfabric" else 0)


def check_accounts_of_foreign(out: Path) -> dict:
    stats = stats_in(out)
    assert stats["train"] == {"dialogues": len(GOOD), "exchanges": len(GOOD)}
    assert len(rows(out / "train.jsonl")) == len(GOOD)
    return stats


@pytest.mark.parametrize("second", ["messages", "openai", "ms_agent"])
def test_plain_chat_converts_between_the_formats_that_hold_it(tmp_path: Path, second: str) -> None:
    chats = [Dialogue("", (), (Turn(f"{n}?", (), "So."), Turn("And?", (), "Ah.")), "Be brief.") for n in range(5)]
    path = write_rows(tmp_path / "chat.jsonl", list(map(messages.render, chats)))
    first = converted(tmp_path / "1", *reading(path, "messages"), f"data.format={second}")
    assert stats_in(first)["sources"]["file"]["test"]["dialogues"] == 0
    again = converted(
        tmp_path / "2", *reading(first / "train.jsonl", second), "data.format=messages", "data.test_ratio=0"
    )
    assert read_back(again, "messages") == list(map(gist, chats))
    assert {row["messages"][0]["content"] for row in rows(again / "train.jsonl")} == {"Be brief."}


def test_dialogues_with_tools_are_refused_where_the_format_holds_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="plain messages cannot hold tools"):
        conversion.convert(of_file(tmp_path, good_lines(), "data.format=messages"))


def test_the_config_knows_the_formats_for_other_trainers() -> None:
    assert {format.value for format in configuration.FOR_OTHER_TRAINERS} == set(row_conversion.WRITERS)
    ours = {format.value for format in set(configuration.Format) - configuration.FOR_OTHER_TRAINERS}
    assert ours == set(protocol.DIALECTS)


@pytest.mark.parametrize("format", ["ms_agent", "openai", "messages"])
@pytest.mark.parametrize("start", [training.train, evaluation.evaluate])
def test_data_for_other_trainers_is_refused_by_our_own(
    tmp_path: Path, format: str, start: Callable[[Config], None]
) -> None:
    path = write_rows(tmp_path / "chat.jsonl", [talk(f"{number}?") for number in range(5)])
    config = configured(tmp_path, *reading(path), f"data.format={format}", "data.test_ratio=0.5")
    conversion.convert(config)
    with pytest.raises(ValueError, match=f"was converted with data.format={format}, for other trainers") as refused:
        start(config)
    assert "data.format=agentfabric or agentfabric_v072" in str(refused.value)
    assert "\n" not in str(refused.value)
    made = {path.name for path in written(tmp_path).parent.iterdir()}
    assert {name for name in made if not name.startswith(".")} == {"convert", "README.md"}


@pytest.fixture(scope="module")
def lamps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("lamps") / "a.jsonl", [record(f"{number}!") for number in range(400)])


def test_both_shapes_occur_by_their_weights_one_a_dialogue(tmp_path: Path, lamps: Path) -> None:
    def shapes(folder: str, weights: str) -> Counter[str]:
        out = converted(tmp_path / folder, *reading(lamps), f"data.shapes={weights}", "data.test_ratio=0")
        continued = [row for row in rows(out / "train.jsonl") if row["step"]]
        assert len(continued) == 400
        return Counter(row["messages"][-1]["role"] for row in continued)

    assert shapes("chat", "{chat: 2, raw: 0}") == {"user": 400}
    assert shapes("raw", "{chat: 0, raw: 2}") == {"assistant": 400}
    half = shapes("half", "{chat: 1, raw: 1}")
    assert half.total() == 400 and 150 < half["user"] < 250  # 200 +- 10 by chance


@pytest.mark.parametrize(("format", "usual", "other"), [("agentfabric", 1, 2), ("agentfabric_v072", 2, 1)])
def test_the_other_clients_line_breaks_occur_as_often_as_asked(
    tmp_path: Path, lamps: Path, format: str, usual: int, other: int
) -> None:
    def breaks(share: float) -> Counter[int]:
        out = converted(
            tmp_path / str(share),
            *reading(lamps),
            *(f"data.format={format}", f"data.other_break={share}", "data.test_ratio=0"),
        )
        results = [re.findall(r"(\n+)Observation: <", row["messages"][-1]["content"]) for row in rows(out / PARTS[0])]
        return Counter(len(breaks) for found in results for breaks in found)

    assert breaks(0) == {usual: 400}
    assert breaks(1) == {other: 400}
    half = breaks(0.5)
    assert half.total() == 400 and 150 < half[other] < 250


def test_names_arguments_and_answers_are_told_apart_in_the_rows(tmp_path: Path) -> None:
    conversion.convert(of_file(tmp_path, good_lines()))
    found = set()
    for row in rows(written(tmp_path) / "train.jsonl"):
        texts = {span["text"] for span in row["reply"]}
        found |= {("call" if "Observation:" in texts else "answer", span["part"]) for span in row["reply"]}
    assert found == {("call", "said"), ("call", "tool"), ("call", "arguments"), ("answer", "answer")}


# Rows that are too long

LIMIT = 2000
LONG_QUERY = "y" * 5000
TALKS = {
    "short": [Turn("Light!", (Step(Call("lamp", {}), "on"),), "Done.")],
    "wordy": [Turn("Tell me all!", (Step(Call("lamp", {}), "x" * 5000),), "That is all.")],
    "chatty": [Turn(f"And {number}?", (), f"{number} is " + "z" * 300) for number in range(6)],
    "hopeless": [Turn(LONG_QUERY, (), "No.")],
    "partly": [Turn("Hello there!", (), "Hello."), Turn(LONG_QUERY, (), "No.")],
}
CUT, WHOLE, GONE = "cut", "whole", "gone"
FATES = {
    "keep": dict.fromkeys(TALKS, WHOLE),
    "drop": {"short": WHOLE, "wordy": CUT, "chatty": CUT, "hopeless": GONE, "partly": CUT},
    "truncate_observation": {"short": WHOLE, "wordy": WHOLE, "chatty": CUT, "hopeless": GONE, "partly": CUT},
    "split_history": {"short": WHOLE, "wordy": CUT, "chatty": WHOLE, "hopeless": GONE, "partly": CUT},
}


def tokens(row: dict) -> int:
    """The tokens of an exchange in ChatML by a tokenizer that makes one of each byte and of each special token."""
    frames = sum(len(f"{message['role']}\n{message['content']}\n".encode()) + 2 for message in row["messages"])
    reply = "".join(span["text"] for span in row["reply"])
    return frames + len(f"assistant\n{reply}".encode()) + 2


@pytest.fixture(scope="module")
def by_policy(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folders: dict[str, Path] = {}

    def make(policy: str) -> Path:
        if policy not in folders:
            folder = tmp_path_factory.mktemp(policy)
            long = [ms_agent.render(Dialogue(id, (LAMP_TOOL,), tuple(turns))) for id, turns in TALKS.items()]
            path = write_rows(folder / "long.jsonl", long)
            model = ("model=folder", f"model.id={tiny_model}", "data.count_tokens=true")
            overrides = (*model, f"data.max_length={LIMIT}", f"data.long={policy}", "data.test_ratio=0")
            folders[policy] = converted(folder, *reading(path), *overrides)
        return folders[policy]

    return make


@pytest.mark.parametrize("policy", FATES)
def test_what_is_too_long_meets_the_fate_chosen_for_it(by_policy: Callable[[str], Path], policy: str) -> None:
    out = by_policy(policy)
    exchanges = rows(out / "train.jsonl")
    if policy != "keep":
        assert max(map(tokens, exchanges)) <= LIMIT
    fates = {}
    for number, (id, turns) in enumerate(TALKS.items(), 1):
        found = sum(row["dialogue"].partition("#")[0] == f"file/{number}:{id}" for row in exchanges)
        whole = sum(len(turn.steps) + 1 for turn in turns)
        fates[id] = WHOLE if found == whole else CUT if found else GONE
    assert fates == FATES[policy]
    rejects = {reject["line"]: reject for reject in rows(out / "rejects.jsonl")}
    told = {id: rejects.get(number) for number, id in enumerate(TALKS, 1)}
    assert {id: GONE if not one["in_part"] else CUT for id, one in told.items() if one} == {
        id: fate for id, fate in fates.items() if fate != WHOLE
    }
    for id, one in told.items():
        if one:
            assert re.match(rf"too long: \d+ of \d+ exchanges have more than data.max_length={LIMIT} ", one["reason"])
            assert [turn.query for turn in TALKS[id]] == [
                said["value"] for said in json.loads(one["row"])["conversations"] if said["from"] == "user"
            ]
    stats = stats_in(out)
    assert stats["rejected"] == stats["sources"]["file"]["rejected"] == list(fates.values()).count(GONE)
    assert stats["kept_in_part"] == list(fates.values()).count(CUT)


def test_exchanges_that_are_too_long_are_counted_and_measured(by_policy: Callable[[str], Path]) -> None:
    lengths = [tokens(row) for row in rows(by_policy("keep") / "train.jsonl")]
    own = stats_in(by_policy("keep"))["sources"]["file"]
    assert own["exchanges_too_long"] == sum(length > LIMIT for length in lengths) > 3
    assert (own["length"]["unit"], own["length"]["measured"]) == ("tokens", len(lengths))
    assert own["length"]["max"] == pytest.approx(max(lengths), rel=0.02)
    assert own["length"]["mean"] == pytest.approx(mean(lengths), rel=0.02)


@pytest.mark.parametrize("policy", [policy for policy in FATES if policy != "keep"])
def test_what_is_too_long_is_counted_before_it_is_left_out(by_policy: Callable[[str], Path], policy: str) -> None:
    kept, other = (stats_in(by_policy(one))["sources"]["file"]["exchanges_too_long"] for one in ("keep", policy))
    assert other == kept


def test_truncating_cuts_results_no_more_than_needed(by_policy: Callable[[str], Path]) -> None:
    exchanges = rows(by_policy("truncate_observation") / "train.jsonl")
    (answered,) = [row for row in exchanges if row["dialogue"].endswith(":wordy") and row["step"] == 1]
    result = re.search(r"<result>(x+)</result>", answered["messages"][-1]["content"])
    assert len(result[1]) >= 200
    assert tokens(answered) == LIMIT


def test_splitting_begins_a_dialogue_anew_and_loses_no_turn(by_policy: Callable[[str], Path]) -> None:
    pieces = [row for row in rows(by_policy("split_history") / "train.jsonl") if ":chatty#" in row["dialogue"]]
    said = [row["messages"][-1]["content"].rpartition(")")[2] for row in pieces]
    assert said == [turn.query for turn in TALKS["chatty"]]
    turns: dict[str, list[int]] = {}
    for row in pieces:
        turns.setdefault(row["dialogue"], []).append(row["turn"])
    assert 1 < len(turns) < len(TALKS["chatty"])  # no more often than needed
    assert all(own == list(range(len(own))) for own in turns.values())
    assert [len(row["messages"]) for row in pieces] == [2 + 2 * row["turn"] for row in pieces]


# What shows it


class Page(HTMLParser):
    """The text of a page, and what it would have a browser run or fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.foreign: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "iframe", "object", "embed", "base"):
            self.foreign.append(tag)
        self.foreign += [f"{key}={value}" for key, value in attributes if key in ("src", "srcset", "data", "action")]
        self.foreign += [value or "" for key, value in attributes if key in ("href", "xlink:href") and value[:1] != "#"]

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def test_the_card_shows_the_numbers_of_the_statistics_and_needs_nothing_else(tmp_path: Path) -> None:
    chat = write_rows(tmp_path / "chat.jsonl", [talk(f"Is it {number}?") for number in range(1500)])
    more = (adding("chat", "ms_bench", chat, count=1234), "data.test_ratio=0.25")
    conversion.convert(of_file(tmp_path, mixed_lines(), *more))
    stats = check_accounts(written(tmp_path))
    page = Page((written(tmp_path) / "card.html").read_text(encoding="utf-8"))
    assert page.foreign == []
    shown = set(page.texts)
    for part in ("train", "test"):
        assert {f"{stats[part]['dialogues']:,}", f"{stats[part]['exchanges']:,}"} <= shown
    for name, own in stats["sources"].items():
        assert {name, own["place"]} <= shown
        numbers = (own["rows"], own["rejected"], own["not_drawn"], own["held_back"], own["train"]["dialogues"])
        assert {f"{number:,}" for number in numbers} <= shown
    for kind in stats["rejected_by_reason"]:
        assert kind.removeprefix("file: ") in shown
    samples = [text for text in page.texts if text in {*(f"Is it {number}?" for number in range(1500))}]
    assert len(samples) >= 5  # of ten dialogues drawn by chance nearly all are of the larger source


# Capture logs


THANKS = ("Thanks", ["Welcome."], [])
USED_AS_SENT = ("data.test_ratio=0", "data.other_break=0")  # so that requests are written as the log holds them


def sent(*lines: dict) -> list[str]:
    """The requests and replies of the lines, as training rows have them."""
    return sorted(json.dumps([one["request"]["messages"], one["reply"]]) for one in lines)


def trained(out: Path) -> list[str]:
    """The same of train.jsonl; a call ends there with the stop word."""
    replies = ((row["messages"], "".join(span["text"] for span in row["reply"])) for row in rows(out / "train.jsonl"))
    return sorted(json.dumps([messages, reply.removesuffix("Observation:")]) for messages, reply in replies)


@pytest.mark.parametrize("format", ["agentfabric", "agentfabric_v072"])
def test_what_is_good_in_a_capture_log_is_trained_on_as_the_client_sent_it(tmp_path: Path, format: str) -> None:
    dialect = protocol.DIALECTS[format]
    users = [
        recorded(asked("Oslo"), THANKS, asked("Rome"), dialect=dialect),
        recorded(("北京天气？", ["我看看。\n" + call("北京"), " 北京晴，21度。"], ["晴，21度"]), dialect=dialect),
        recorded(("And nothing?", ["Nothing, then."], []), tools=(), dialect=dialect),
        recorded(
            ("Two?", [call("Kiel"), call("Bern", days=2), " Kiel 3, Bern 4."], ["3", "4"]),
            instruction="你是小天。",
            dialect=dialect,
        ),
    ]
    mixed = [user.pop(0) for _ in range(9) for user in users if user]
    write(tmp_path / "log/capture-20261123T031400Z-0001.jsonl", mixed[:4])
    torn = write(tmp_path / "log/capture-20261123T031500Z-0002.jsonl", mixed[4:])
    with torn.open("a", encoding="utf-8") as file:
        file.write('{"id": "12", "time": "2026-')
    out = converted(tmp_path, *reading(tmp_path / "log", "agentfabric"), f"data.format={format}", *USED_AS_SENT)
    assert trained(out) == sent(*mixed)
    stats = check_accounts(out)
    assert stats["rejected_by_reason"] == {"file: no JSON": 1}
    (reject,) = rows(out / "rejects.jsonl")
    assert (reject["file"], reject["line"]) == (str(torn), len(mixed) - 3)
    assert stats["sources"]["file"] | {"rows": 5, "used": 4, "covered": len(mixed) - 4} == stats["sources"]["file"]


def test_what_a_person_would_not_keep_of_a_capture_log_is_left_out_by_reason(tmp_path: Path) -> None:
    good = recorded(asked("Oslo"))
    part = recorded(asked("Rome"), ("And Bern?", [call("Bern"), " Bern has 30 degrees."], ["21 degrees"]), THANKS)
    cut = recorded(asked("Turin"), THANKS)
    cut[1]["finish_reason"] = "length"
    lines = [
        *good,
        *part,
        *recorded(("Kiel?", [call("Kiel"), " Sorry."], [protocol.failure("weather", "{}", "boom")])),
        *recorded(("Lyon?", [call("Lyon"), call("Lyon"), " Lyon has 5."], ["5", "5"])),
        *recorded(("Nice?", [call("Nice", unit="K"), " Nice has 5."], ["5"])),
        *cut,
        *recorded(("Pisa?", [call("Pisa"), " Pisa has 5."], ["5"]))[:1],
        *recorded(asked("Graz"))[:1],
        good[-1] | {"status": 429, "error": "slow down", "reply": ""},
        log_line({"input": "x"}, "", path="/v1/embeddings"),
        log_line({"messages": [{"role": "user", "content": "Hi"}]}, "Hello."),
        *recorded(("what is the weather in OSLO", [call("Oslo"), " Oslo is hot."], ["hot"])),
    ]
    log = write(tmp_path / "capture-20261123T031400Z-0001.jsonl", lines)
    out = converted(tmp_path, *reading(log, "agentfabric"), *USED_AS_SENT)
    assert trained(out) == sent(*good, *part[:2])
    stats = check_accounts(out)
    assert stats["kept_in_part"] == 1
    assert stats["rejected_by_reason"] == {
        f"file: {reason}": count
        for reason, count in {
            "a turn that did not end": 2,
            "an answer that is not grounded": 1,
            "a tool failed": 1,
            "a call is repeated": 1,
            "arguments that do not fit the tool": 1,
            "a reply that did not end by itself": 1,
            "a request that failed": 1,
            "no request of a chat": 1,
            "neither tools nor AgentFabric's system message": 1,
            "a near-duplicate": 1,
        }.items()
    }
    rejects = {reject["line"]: reject for reject in rows(out / "rejects.jsonl")}
    assert [place for place, reject in rejects.items() if reject["in_part"]] == [len(good) + len(part)]
    assert rejects[7]["reason"] == "an answer that is not grounded: turn 2 of 3: nobody told '30'"
    assert rejects[len(lines)]["reason"] == f"a near-duplicate: of the dialogue in {log}:2"
    assert json.loads(rejects[len(lines)]["row"]) == lines[-1]
    page = Page((out / "card.html").read_text(encoding="utf-8"))
    assert {kind.removeprefix("file: ") for kind in stats["rejected_by_reason"]} <= set(page.texts)


def test_a_near_duplicate_that_was_cut_is_left_out_once(tmp_path: Path) -> None:
    bad = ("And Bern?", [call("Bern"), " Bern has 30 degrees."], ["21 degrees"])
    lines = [*recorded(asked("Oslo")), *recorded(asked("Oslo", "rain, 5 degrees"), bad)]
    out = converted(tmp_path, *reading(write(tmp_path / "log.jsonl", lines), "agentfabric"), *USED_AS_SENT)
    (reject,) = rows(out / "rejects.jsonl")
    assert (reject["line"], reject["in_part"]) == (6, False)
    assert reject["reason"].startswith("a near-duplicate: of the dialogue in ")
    check_accounts(out)


def test_of_a_capture_log_a_count_takes_so_many_dialogues_that_are_no_near_duplicates(tmp_path: Path) -> None:
    lines = [one for number in range(40) for one in recorded(asked(f"City {number % 10}"))]
    source = (*reading(write(tmp_path / "log.jsonl", lines), "agentfabric"), "data.mix.file.count=10")
    out = converted(tmp_path, *source, *USED_AS_SENT)
    assert len(ids(out / "train.jsonl")) == 10
    assert len({row["messages"][1]["content"] for row in rows(out / "train.jsonl") if row["step"] == 0}) == 10
    check_accounts(out)


def test_clients_that_send_tools_may_stand_in_the_same_capture_log(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "Oslo?"}, calling(1, "Oslo")]
    said += [
        {"role": "tool", "tool_call_id": "call_1_0", "content": "21"},
        {"role": "assistant", "content": "It is 21."},
    ]
    lines = [*of_openai(*said), *recorded(asked("Rome"))]
    log = write(tmp_path / "log.jsonl", [lines[0], lines[2], lines[1], lines[3]])
    out = converted(tmp_path, *reading(log, "agentfabric"), *USED_AS_SENT)
    written_rows = rows(out / "train.jsonl")
    assert len(written_rows) == 4
    own = [
        row
        for row in written_rows
        if row["messages"][-1]["content"].startswith("(. you can use tools: [weather,时钟])Oslo?")
    ]
    assert [("".join(span["text"] for span in row["reply"])) for row in own] == [
        call("Oslo") + "Observation:",
        " It is 21.",
    ]
    assert check_accounts(out)["sources"]["file"]["covered"] == 2


def test_a_log_that_grows_while_it_is_read_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "capture-1.jsonl"
    log.write_text("{}\n")
    sizes = {log: log.stat().st_size}
    conversion._check_unchanged(sizes)
    log.write_text("{}\n{}\n")
    with pytest.raises(ValueError, match=r"capture-1.jsonl had 3 bytes and has 6 .* copy of it"):
        conversion._check_unchanged(sizes)
