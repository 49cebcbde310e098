"""Alpaca rows become dialogues without tools."""

import json

import pytest
from dialogues import SAID
from hypothesis import given, settings
from hypothesis import strategies as st

from fabrictune.dialogue import Dialogue, Turn
from fabrictune.formats import alpaca


def row(**rest) -> dict:
    return {"instruction": "Translate.", "input": "Hello", "output": "你好"} | rest


@pytest.mark.parametrize(
    ("changed", "query"),
    [
        ({}, "Translate.\nHello"),
        ({"input": ""}, "Translate."),
        ({"input": None}, "Translate."),
        ({"instruction": ""}, "Hello"),
        ({"instruction": None}, "Hello"),
    ],
)
def test_instruction_and_input_are_one_query(changed: dict, query: str) -> None:
    assert alpaca.parse(row(**changed)) == Dialogue("", (), (Turn(query, (), "你好"),))


def test_input_may_be_missing() -> None:
    assert alpaca.parse({"instruction": "Hi", "output": "Hello."}).turns == (Turn("Hi", (), "Hello."),)


def test_system_is_the_instruction_and_history_comes_before() -> None:
    dialogue = alpaca.parse(row(id=5, system="Be brief.", history=[["Hi", "Hello."], ("A?", "B.")], tools=None))
    assert dialogue == Dialogue(
        "5",
        (),
        (Turn("Hi", (), "Hello."), Turn("A?", (), "B."), Turn("Translate.\nHello", (), "你好")),
        "Be brief.",
    )


@pytest.mark.parametrize("write", [str, json.dumps])
def test_lists_may_be_text_as_a_table_holds_them(write) -> None:
    lists = {"history": [["Hi", 'It\'s "so".']], "tools": [], "images": []}
    assert alpaca.parse(row(**{key: write(value) for key, value in lists.items()})) == alpaca.parse(row(**lists))
    assert alpaca.parse(row(history="", tools="", images="")) == alpaca.parse(row())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(SAID, SAID), min_size=1, max_size=3))
def test_every_query_and_answer_is_kept_to_the_letter(pairs: list[tuple[str, str]]) -> None:
    *history, (query, answer) = pairs
    dialogue = alpaca.parse({"instruction": query, "output": answer, "history": history})
    assert [(turn.query, turn.answer) for turn in dialogue.turns] == pairs


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        ({"output": "Hello."}, r"no row of alpaca data without instruction: the row has \['output'\]"),
        ({"instruction": "Hi"}, "no row of alpaca data without output: "),
        (row(instruction="", input=""), "a user message is empty"),
        (row(output=""), "an assistant message is empty: "),
        (row(output=["Good", "Bad"]), "output is no text: "),
        (
            row(output="I am {{name}}, made by {{author}}."),
            r"a placeholder \{\{\.\.\.\}\} is not filled in: \{\{name\}\}",
        ),
        (row(history=[["Hi", None]]), "history is no list of pairs of texts: "),
        (row(history="Hi"), "history is no list of pairs of texts: neither JSON nor a Python literal: 'Hi'"),
        (row(tools='[{"name": "clock"}]'), "tools in a source of plain chat: "),
        (row(images=["a.png"]), "pictures and sounds cannot be read: the row has 'images'"),
    ],
)
def test_a_row_that_cannot_be_read_says_why(odd: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        alpaca.parse(odd)
