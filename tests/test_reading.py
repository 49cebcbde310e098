"""A source of a mix: what is held back of it does not depend on what is trained on, and neither repeats the other."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from capture_log import asked, recorded, write

from fabrictune.convert.mixture import Part, Sides
from fabrictune.convert.reading import Reading, divide, file_rows, fill
from fabrictune.convert.rows import Recipe, Row
from fabrictune.convert.shelf import Shelf
from fabrictune.convert.summary import SourceSummary, Summary

RECIPE = Recipe("chat", "ms_bench", "agentfabric", True, None, 0.0, 0.0, None, 1000, "drop", 1.0, 1)


def talk(query: str, answer: str) -> str:
    said = [{"from": "user", "value": query}, {"from": "assistant", "value": answer}]
    return json.dumps({"conversations": said})


def read(
    folder: Path, texts: Sequence[str], wanted: int | None, held_back: int = 50, seed: int = 1
) -> tuple[dict[Part, set[int]], SourceSummary]:
    """The numbers of the source's rows by what they are for, and the source's counts."""
    summary = Summary("characters", {"chat": SourceSummary("here", rows=len(texts))})
    given = [Row(number, "here", number + 1, text) for number, text in enumerate(texts)]
    with Shelf(folder) as shelf:
        reading = Reading("chat", RECIPE, lambda _: iter(given), False, False, held_back, shelf)
        fill(reading, wanted, seed, (), summary, io.StringIO(), map)
        divide(reading, wanted, seed, 0.1, Sides(), summary)
        numbers = {part: set(shelf.numbers[reading.places(part)].tolist()) for part in Part}
    own = summary.sources["chat"]
    assert own.rows == own.used + own.held_back + summary.rejected + own.not_drawn + own.not_used
    assert (own.used, own.held_back) == (len(numbers[Part.train]), len(numbers[Part.general]))
    return numbers, own


@pytest.mark.parametrize("seed", range(3))
def test_the_same_rows_are_held_back_at_every_ratio_and_none_trained_on_repeats_one(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    queries = [draw.choice(["hi", f"go on {draw.randrange(150)}", f"What is {n}?"]) for n in range(2000)]
    texts = [talk(query, "" if draw.random() < 0.2 else "I see.") for query in queries]
    held = []
    for ratio in (0, 1, 2, 4):
        parts, own = read(tmp_path, texts, 300 * ratio, seed=seed)
        held.append(parts[Part.general])
        assert len(held[-1]) == 50
        assert {queries[row] for row in held[-1]}.isdisjoint(queries[row] for row in parts[Part.train])
        if ratio < 2:
            assert own.used == 300 * ratio, "what repeats a row held back is made up for"
    assert held[0] == held[1] == held[2] == held[3]
    assert read(tmp_path, texts, None, seed=seed)[0][Part.general] == held[0]
    assert read(tmp_path, texts, 300, seed=seed + 10)[0][Part.general] != held[0]


@pytest.mark.parametrize(
    ("rows", "most", "held"), [(19, 200, 0), (60, 200, 3), (60, 2, 2), (60, 0, 0), (5000, 200, 200)]
)
@pytest.mark.parametrize("wanted", [0, 30, None])
def test_one_row_in_twenty_is_held_back_at_most(
    tmp_path: Path, rows: int, most: int, held: int, wanted: int | None
) -> None:
    parts, _ = read(tmp_path, [talk(f"What is {n}?", "I see.") for n in range(rows)], wanted, most)
    assert len(parts[Part.general]) == held
    assert len(parts[Part.train]) == min(rows - held, rows if wanted is None else wanted)


def test_bad_rows_among_the_last_drawn_are_made_up_for(tmp_path: Path) -> None:
    texts = [talk(f"What is {n}?", "" if n % 3 else "I see.") for n in range(1200)]
    parts, own = read(tmp_path, texts, 100, held_back=12)
    assert (len(parts[Part.general]), own.used) == (12, 100)


THANKS = ("Thanks", ["Welcome."], [])


def test_a_conversation_of_a_capture_log_may_go_on_in_the_next_file(tmp_path: Path) -> None:
    lines = recorded(asked("Oslo"), THANKS, asked("Rome"))
    paths = [write(tmp_path / f"capture-20261123T03140{n}Z-0001.jsonl", [one]) for n, one in enumerate(lines)]
    (row,) = file_rows(paths, are_captured=True)
    assert (row.number, row.file, row.line) == (0, str(paths[-1]), 1)
    assert "faults" not in json.loads(row.text)
    assert len(list(file_rows(paths, are_captured=False))) == len(lines)


def test_captured_rows_of_other_files_stay_each_files_own(tmp_path: Path) -> None:
    lines = recorded(asked("Oslo"), THANKS)
    plain = [{"request": one["request"], "reply": one["reply"]} for one in lines]
    paths = [write(tmp_path / "1.jsonl", plain[:2]), write(tmp_path / "2.jsonl", plain[2:])]
    paths += [write(tmp_path / "3.jsonl", lines[:2]), write(tmp_path / "4.jsonl", lines[2:])]
    empty = tmp_path / "5.jsonl"
    empty.touch()
    found = [(Path(row.file).name, row.line) for row in file_rows([*paths, empty], are_captured=True)]
    assert found == [("1.jsonl", 2), ("2.jsonl", 1), ("4.jsonl", 1)]


@pytest.mark.parametrize("torn", ["", '{"id": "1", "requ', "\0\0\n"])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_an_empty_or_torn_file_amid_a_log_parts_no_conversation(tmp_path: Path, torn: str, place: int) -> None:
    files = [[one] for one in recorded(asked("Oslo"), THANKS)]
    paths = [write(tmp_path / f"{2 * n + 1}.jsonl", lines) for n, lines in enumerate(files)]
    bad = tmp_path / f"{2 * place}.jsonl"
    bad.write_text(torn)
    found = {Path(row.file).name: row for row in file_rows(sorted([*paths, bad]), are_captured=True)}
    assert sorted(found) == sorted(["5.jsonl", *([bad.name] if torn else [])])
    assert "faults" not in json.loads(found["5.jsonl"].text)


def test_a_log_whose_first_line_is_torn_is_one(tmp_path: Path) -> None:
    path = write(tmp_path / "1.jsonl", recorded(asked("Oslo"), THANKS))
    path.write_text('{"id": "1", "requ\n' + path.read_text(encoding="utf-8"), encoding="utf-8")
    assert [row.line for row in file_rows([path], are_captured=True)] == [1, 4]
