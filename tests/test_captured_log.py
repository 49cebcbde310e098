"""A line of a capture log is read as the conversation that it ends, or refused with a reason."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from capture_log import (
    OSLO,
    THANKS,
    TWO,
    USER,
    Script,
    asked,
    call,
    left,
    line,
    of_openai,
    places,
    read,
    recorded,
    refusal,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from fabrictune.formats import captured_log


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        ({"path": "/v1/embeddings", "request": {"input": "x"}}, "no request of a chat: '/v1/embeddings'"),
        ({"path": "/v1/completions"}, "no request of a chat: '/v1/completions'"),
        ({"request": "{no JSON"}, "no request of a chat: its body is str"),
        ({"status": 500, "error": "boom", "reply": ""}, "a request that failed: status 500, 'boom'"),
        ({"error": "the client hung up"}, "a reply that broke off: 'the client hung up'"),
        ({"finish_reason": "length"}, "a reply that did not end by itself: finish_reason 'length'"),
        ({"finish_reason": None}, "a reply that did not end by itself: finish_reason None"),
        ({"reply": ""}, "a turn has no answer: the reply is empty"),
        ({"reply": None}, "the row has no reply: None"),
        ({"reply": call("Rome") + "\nObservation: <result>rain</result>\nAnswer: Rain."}, "a reply invents a result: "),
        ({"reply": call("Rome") + call("Bern")}, "two calls in one reply: "),
        ({"reply": "Action: weather\nAction Input: Oslo"}, "a call's arguments are no JSON object: 'Oslo'"),
        ({"reply": 'Action: weather\nAction Input: {"city":\n"Oslo"}'}, "a call that a client would not find: the one"),
        ({"reply": 'Action:  weather\nAction Input: {"city": "Oslo"}'}, "a call that a client would not find: the one"),
        ({"reply": 'Action: weather\nAction Input: {"city": "Action: x"}'}, "a call that a client would not find: "),
        ({"reply": call("Rome")}, "a turn that did not end: its last call is 'weather'"),
    ],
)
def test_a_line_of_no_use_is_left_as_it_is_and_costs_nothing_before_it(rest: dict[str, Any], reason: str) -> None:
    good, thanks = recorded(asked("Oslo")), recorded(asked("Oslo"), asked("Rome"))[2]
    bad = thanks | rest
    assert left(*good, bad) == [(2, good[1]), (3, bad)]
    assert refusal(*good, bad).startswith(reason)
    retried = recorded(asked("Oslo"), asked("Rome"))
    again = left(*good, bad, *retried[2:])
    assert [place for place, _ in again if place != 3] == [5], "the retry covers what went before"
    assert [turn.query for turn in captured_log.parse(again[-1][1]).dialogue.turns][0] == OSLO.query


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"messages": [USER]}, "neither tools nor AgentFabric's system message: it begins with 'user'"),
        ({"messages": [TWO[0], USER]}, "the system message is not AgentFabric's: 'Be brief.'"),
        ({"messages": []}, "not a row of an AgentFabric client: no list of messages"),
        ({}, "not a row of an AgentFabric client: no list of messages"),
    ],
)
def test_a_chat_without_tools_is_refused(request_: dict[str, Any], reason: str) -> None:
    assert refusal(line(request_, "Hello.")).startswith(reason)


def test_the_turns_before_one_that_cannot_be_read_are_there() -> None:
    unknown: Script = ("Ping?", ["Action: ping\nAction Input: {}\n", " Pong."], ["Tool api ping failed to call."])
    found = read(*recorded(asked("Oslo"), unknown, THANKS))
    assert (found.dialogue.turns, found.turns) == ((OSLO,), 3)
    assert list(found.faults) == [1]
    assert found.faults[1].startswith("a call to a tool that is not on offer: 'ping'")
    for turns in ((unknown, THANKS), (asked("Oslo"), unknown)):
        assert refusal(*recorded(*turns)).startswith("a call to a tool that is not on offer: 'ping'")
    assert places(*recorded(asked("Oslo"), unknown)) == [2, 3, 4], "what ends in no turn covers none"


def spoiled(value: Any, path: list[int], junk: Any) -> Any:
    """The value with junk in place of what stands at the path."""
    if not path or not value or not isinstance(value, dict | list):
        return junk
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = keys[path[0] % len(keys)]
    copy = value.copy()
    copy[key] = spoiled(value[key], path[1:], junk)
    return copy


@settings(max_examples=300, deadline=None)
@given(
    lines=st.sampled_from([of_openai(*TWO), recorded(asked("Oslo"), THANKS)]),
    place=st.integers(0, 2),
    path=st.lists(st.integers(0, 20), min_size=1, max_size=7),
    junk=st.sampled_from([None, 0, 1.5, "", "x", "{", [], [None], {}, {"a": 1}, [{}], [[1]], True, {"role": "user"}]),
)
def test_junk_anywhere_in_a_line_is_a_reason_and_no_failure(
    lines: list[dict[str, Any]], place: int, path: list[int], junk: Any
) -> None:
    changed = [spoiled(one, path, junk) if number == place else one for number, one in enumerate(lines)]
    found = left(*changed)
    assert found
    for _, row in found:
        if captured_log.is_line(row):
            with contextlib.suppress(ValueError):
                captured_log.parse(row)
