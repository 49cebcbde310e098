"""A line of a client that sends tools is read as its messages are."""

from __future__ import annotations

import json
from typing import Any

import pytest
from capture_log import (
    TOOLS,
    TWO,
    USER,
    calling,
    left,
    of_openai,
    read,
    refusal,
)

from fabrictune.dialogue import Call, Dialogue, Step, Turn
from fabrictune.formats import captured_log
from fabrictune.formats.captured_log import Recorded


def test_a_client_that_sends_tools_is_read_as_its_messages_are() -> None:
    ((place, row),) = left(*of_openai(*TWO))
    steps = (Step(Call("weather", {"city": "Oslo"}), "sunny"), Step(Call("weather", {"city": "Rome"}), "rain"))
    turns = (Turn("Oslo and Rome?", steps, "Sunny and rain."), Turn("Thanks", (), "Welcome."))
    assert place == 3
    assert captured_log.parse(row) == Recorded(Dialogue("4711", TOOLS, turns, "Be brief."), 2, {})


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (calling(1, "Oslo"), "a turn that did not end: its last call is 'weather'"),
        ({"role": "assistant", "content": None}, "an assistant message is empty: "),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": "{'city': 'Oslo'}"}}]},
            "a call's arguments are no JSON object: ",
        ),
        (
            {"role": "assistant", "function_call": {"name": "weather", "arguments": "["}},
            "a call's arguments are no JSON",
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "ping", "arguments": "{}"}}]},
            "dialogue '4711': call",
        ),
    ],
)
def test_a_reply_of_no_use_in_openais_form_is_refused(message: dict[str, Any], reason: str) -> None:
    assert refusal(*of_openai(USER, message)).startswith(reason)


def test_openais_turns_before_one_that_cannot_be_read_are_there() -> None:
    spoiled = json.loads(json.dumps([*TWO, USER, calling(2, "Oslo"), {"role": "user", "content": "?"}, TWO[-1]]))
    found = read(*of_openai(*spoiled))
    assert [turn.query for turn in found.dialogue.turns] == ["Oslo and Rome?", "Thanks"]
    assert (found.turns, min(found.faults)) == (4, 2)
    assert found.faults[2].startswith("a call without a result")
    assert refusal(*of_openai(*TWO, USER, TWO[-1], USER, {"role": "assistant", "content": ""})).startswith(
        "an assistant"
    )


def test_a_user_message_in_a_tool_s_place_ends_what_is_read() -> None:
    result = {"role": "user", "content": "<tool_response>sunny</tool_response>"}
    spoiled = [*TWO, USER, calling(2, "Oslo"), result, TWO[-1]]
    found = read(*of_openai(*spoiled, USER, TWO[-1]))
    assert (len(found.dialogue.turns), found.turns, sorted(found.faults)) == (2, 5, [2, 3, 4])
    assert found.faults[4] == "a user message that is read as a tool's result"
    assert refusal(*of_openai(*spoiled[-4:])).startswith("a call without a result")
