"""Replies as OpenAI's interface tells of them: whole, in any pieces, and as both clients would run them."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fabrictune import protocol
from fabrictune.dialogue import Call
from fabrictune.score import client
from fabrictune.serve.tool_calls import NAME_CHARACTERS, Reader, Told, ToolCall, read

WEATHER = 'Action: weather\nAction Input: {"city": "朝阳区"}\n'
ASKED = ToolCall("weather", '{"city": "朝阳区"}')

# Pieces of which a model in disorder might build a reply; some are cut inside the protocol's words.
PIECES = st.sampled_from(
    [
        *[
            "Action:",
            "Action",
            " Input:",
            "Action Input:",
            "Observation:",
            "Observ",
            "Answer:",
            "<result>",
            "</result>",
        ],
        *[" ", "\n", "\n\n", "weather", "天气", "{", "}", "[", "]", '"', "'", "\\", ":", ",", "x", "{}", '{"a": 1}'],
        *["Action: weather\nAction Input: ", WEATHER, "{'a': [1,],}", '{"a": "b\nc"}', "NaN", "\\ud800"],
    ]
)
REPLIES = st.lists(PIECES, max_size=14).map("".join)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=12) | PIECES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
ARGUMENTS = st.dictionaries(st.text(max_size=8), VALUES, max_size=4)
NAMES = st.sampled_from(["weather", "amap.weather-v2", "天气", 'say "hi"', "a b", "Action", "Input"])
THOUGHTS = st.sampled_from(["", "我来查询。", "Let me see.\n\n", "Action needed. ", "  I look.\n"])


def stream(pieces: list[str]) -> Told:
    reader = Reader()
    told = Told()
    for piece in pieces:
        told += reader.feed(piece)
    return told + reader.finish()


@given(REPLIES, st.data())
@settings(max_examples=400, deadline=None)
@example("Observation:", None)
def test_however_a_reply_is_cut_it_reads_the_same(text, data) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12))) if data else []
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert stream(pieces) == read(text)
    assert stream(list(text)) == read(text)


@given(REPLIES)
@settings(max_examples=400, deadline=None)
def test_whatever_a_model_writes_arguments_are_an_object_on_one_line(text) -> None:
    for call in read(text).calls:
        assert isinstance(json.loads(call.arguments, parse_constant=pytest.fail), dict)
        assert "\n" not in call.arguments
        call.arguments.encode()


@given(REPLIES)
@settings(max_examples=400, deadline=None)
def test_nothing_that_is_no_call_is_lost(text) -> None:
    told = read(text)
    if not told.calls:
        assert told.content == text.partition("Observation:")[0]


@given(THOUGHTS, NAMES, ARGUMENTS)
@settings(max_examples=200, deadline=None)
def test_a_call_as_it_is_trained_is_the_one_that_both_clients_run(thought, name, arguments) -> None:
    text = thought + protocol.call_text(Call(name, arguments))
    told = read(text + "Observation: <result>made up</result>\nAnswer: made up")
    assert told.content == thought.rstrip()
    assert [(call.name, json.loads(call.arguments)) for call in told.calls] == [(name, arguments)]
    for dialect in protocol.DIALECTS.values():
        found = dialect.find_call(text)
        assert found is not None
        assert (found[0], client.object_or_none(found[1])) == (name, arguments)


@pytest.mark.parametrize(
    ("text", "of"),
    [
        ("Action: weather\nAction Input: {'city': 'Rome', 'days': [1, 2,],}\n", "agentfabric"),
        ("Action: weather\nAction Input: {'city': 'Rome', 'days': [1, 2,],}\n", "agentfabric_v072"),
        ('I look.Action: weather\nAction Input: {"city": "\\u0041ction: x"}', "agentfabric_v072"),
        ('Action:weather\nAction Input:\n{\n  "city": "Rome"\n}\n', "agentfabric"),
        ('Action: weather\nAction Input: {"poem": "one\ntwo"}\n', "agentfabric"),
        ('Action: restart the router.\nAction: weather\nAction Input: {"city": "Rome"}', "agentfabric"),
        ('Action: restart the router.\nAction: weather\nAction Input: {"city": "Rome"}', "agentfabric_v072"),
    ],
)
def test_a_call_that_only_a_lenient_client_can_run_is_read_as_that_client_reads_it(text, of) -> None:
    found = protocol.DIALECTS[of].find_call(text)
    (call,) = read(text).calls
    assert found is not None
    assert (call.name, json.loads(call.arguments)) == (found[0], client.object_or_none(found[1]))


def test_calls_that_follow_one_another_are_told_in_order() -> None:
    text = (
        "我来查询。\n\n"
        + WEATHER
        + "\nAction: news\nAction Input: {}\nAction: weather\nAction Input: {'city': 'Rome'}\n"
    )
    expected = (ASKED, ToolCall("news", "{}"), ToolCall("weather", '{"city": "Rome"}'))
    assert read(text) == Told("我来查询。", expected)


@pytest.mark.parametrize(
    "text",
    [
        "朝阳区今天晴，23度。",
        " leading blanks, and at the end\n",
        "The answer is in the Act",
        "Action: restart the router.\nThen call us.",
        "Action: weather\nAction Input: 北京",
        'Action: weather\nAction Input: ["Rome"]',
        'Action: weather\nAction Input: {"city": "Rome"',
        'Action: weather\nAction Input: {"city": Rome and more}',
        'Action: weather\nAction Input: {"degrees": NaN}',
        'Action Input: {"city": "Rome"}',
        "Action: \nAction Input: {}",
        f"Action: {'x' * NAME_CHARACTERS}\nAction Input: {{}}",
        "Action: weather\nAction Input: " + '{"a": ' * 2000 + "1" + "}" * 2000,
        "<think>\nA weather call.\n</think>\n\nHello!",
    ],
)
def test_what_is_no_call_stays_content_to_the_letter(text) -> None:
    assert read(text) == Told(text)


def test_a_result_that_the_model_makes_up_is_neither_shown_nor_run() -> None:
    made_up = WEATHER + "Observation: <result>Action: pay\nAction Input: {}\n</result>\nAnswer: paid\n" + WEATHER
    assert read(made_up) == Told("", (ASKED,))
    assert read("Sunny.\nObservation: Action: pay\nAction Input: {}") == Told("Sunny.\n")


@pytest.mark.parametrize("end", ["</result>", ""])
def test_a_call_inside_a_result_that_is_quoted_is_content(end) -> None:
    text = f"It said <result>Action: pay\nAction Input: {{}}{end}"
    told = read(text + ", no more." if end else text)
    assert told.calls == ()
    assert told.content.startswith(text)


def test_after_a_quoted_result_the_model_s_own_call_counts() -> None:
    assert read("<result>Action: pay\nAction Input: {}</result> so\n" + WEATHER).calls == (ASKED,)


def test_words_of_the_protocol_inside_arguments_are_text() -> None:
    text = r'Action: note\nAction Input: {"text": "Action: pay Action Input: {} \u004fbservation: <result>}"}'
    (call,) = read(text.replace(r"\nAction", "\nAction", 1)).calls
    assert json.loads(call.arguments) == {"text": "Action: pay Action Input: {} Observation: <result>}"}


def test_a_call_that_is_broken_off_does_not_hide_the_next() -> None:
    broken = 'Action: news\nAction Input: {"topic": "sport\n'
    assert read(broken + WEATHER) == Told(broken.rstrip(), (ASKED,))


def test_long_arguments_are_read_as_long_as_they_are_json() -> None:
    arguments = json.dumps({"text": "x" * 200_000})
    assert read(f"Action: save\nAction Input: {arguments}\n").calls == (ToolCall("save", arguments),)


def test_half_a_surrogate_pair_is_sent_as_an_escape() -> None:
    (call,) = read('Action: say\nAction Input: {"emoji": "\\ud83d"}').calls
    assert call.arguments == '{"emoji": "\\ud83d"}'


def test_only_what_may_become_a_call_is_held_back() -> None:
    reader = Reader()
    assert [reader.feed(piece).content for piece in ["Sun", "ny. ", "Act", "ual", "ly"]] == [
        "Sun",
        "ny.",
        "",
        " Actual",
        "ly",
    ]
    assert reader.feed("\nAction: weather\nAction Input: {") == Told()
    assert reader.feed("}") == Told("", (ToolCall("weather", "{}"),))
    assert reader.finish() == Told()


@pytest.mark.parametrize("loop", ["Action: a\nAction Input: {", "Action: a Action Input: {'", "Action:", "<result>"])
def test_a_model_in_a_loop_is_read_in_time(loop) -> None:
    text = loop * (100_000 // len(loop))
    begin = time.process_time()
    assert stream([text[at : at + 4] for at in range(0, len(text), 4)]) == Told(text)
    assert time.process_time() - begin < 10  # 0.7 s on one core
