"""Plain chat in all its spellings becomes dialogues, and the exchanges that a chat client would make of them."""

import json

import pytest
from dialogues import plain_dialogues
from hypothesis import given, settings

from fabrictune.dialogue import Dialogue, Message, Role, Span, Tool, Turn
from fabrictune.formats import messages

USER = {"role": "user", "content": "Hi"}
HELLO = {"role": "assistant", "content": "Hello."}
AGAIN = {"role": "user", "content": "Again?"}
YES = {"role": "assistant", "content": "Yes."}
TURNS = Turn("Hi", (), "Hello."), Turn("Again?", (), "Yes.")
CLOCK = Tool("clock", "", {"type": "object", "properties": {}})


def row(*said: dict, **rest) -> dict:
    return {"messages": list(said)} | rest


@settings(max_examples=200, deadline=None)
@given(plain_dialogues())
def test_a_rendered_dialogue_reads_back_as_itself(dialogue: Dialogue) -> None:
    assert messages.parse(json.loads(json.dumps(messages.render(dialogue)))) == dialogue


@pytest.mark.parametrize(
    "odd",
    [
        row({"role": "system", "content": "Be brief."}, USER, HELLO, AGAIN, YES),
        row({"role": "developer", "content": [{"type": "text", "text": "Be brief."}]}, USER, HELLO, AGAIN, YES),
        row(USER, HELLO, AGAIN, YES, system="Be brief.", tools="[]", conversations=None),
        {
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": "Hi"},
                {"from": "gpt", "value": "Hello."},
                {"from": "user", "value": "Again?"},
                {"from": "assistant", "value": "Yes."},
            ],
            "messages": None,
        },
        {"query": "Again?", "response": "Yes.", "history": [["Hi", "Hello."]], "system": "Be brief."},
    ],
)  # fmt: skip
def test_a_row_in_any_spelling_becomes_the_same_dialogue(odd: dict) -> None:
    assert messages.parse(odd) == Dialogue("", (), TURNS, "Be brief.")


def test_a_query_and_its_response_may_stand_alone() -> None:
    assert messages.parse({"id": 7, "query": "Hi", "response": "Hello.", "history": None, "system": None}) == Dialogue(
        "7", (), (Turn("Hi", (), "Hello."),)
    )


@pytest.mark.parametrize("write", [str, json.dumps])
@pytest.mark.parametrize(
    "whole",
    [
        row(USER | {"files": ["a.csv"]}, HELLO | {"tool_calls": []}, tools=[], images=[]),
        {"conversations": [{"from": "human", "value": 'It\'s "Hi" 😀'}, {"from": "gpt", "value": "Hello."}]},
        {"query": "Again?", "response": "Yes.", "history": [["Hi", "Hello."]], "tools": []},
    ],
)
def test_lists_may_be_text_as_a_table_holds_them(whole: dict, write) -> None:
    empty = dict.fromkeys(["messages", "conversations", "history", "tools", "images"], "")
    table = empty | {key: write(value) if isinstance(value, list) else value for key, value in whole.items()}
    assert messages.parse(table) == messages.parse(whole)


def test_a_messages_own_lists_may_be_text() -> None:
    said = row(USER | {"files": '["a.csv"]'}, HELLO | {"tool_calls": "[]", "function_call": ""})
    assert messages.parse(said).turns == (Turn("Hi", (), "Hello.", ("a.csv",)),)


def test_user_messages_in_a_row_are_one_query() -> None:
    assert messages.parse(row(USER, AGAIN, YES)).turns == (Turn("Hi\nAgain?", (), "Yes."),)


def test_a_dialogue_is_written_as_messages() -> None:
    dialogue = Dialogue("d", (), (TURNS[0], Turn("Again?", (), "Yes.", ("a.csv",))), "Be brief.", family="talk")
    assert messages.render(dialogue) == {
        "id": "d",
        "messages": [{"role": "system", "content": "Be brief."}, USER, HELLO, AGAIN | {"files": ["a.csv"]}, YES],
        "family": "talk",
    }


def test_a_turn_is_one_exchange_after_the_system_text_and_what_was_said() -> None:
    first, second = messages.exchanges(Dialogue("d", (), TURNS, "Be brief."), "talk")
    system, hi, hello, again = (
        Message("system", "Be brief."),
        Message("user", "Hi"),
        Message("assistant", "Hello."),
        Message("user", "Again?"),
    )
    assert (first.messages, second.messages) == ((system, hi), (system, hi, hello, again))
    assert (first.reply, second.reply) == ((Span("Hello.", "answer"),), (Span("Yes.", "answer"),))
    assert [(one.dialogue, one.turn, one.step, one.source) for one in (first, second)] == [
        ("d", 0, 0, "talk"),
        ("d", 1, 0, "talk"),
    ]


@pytest.mark.parametrize("instruction", ["", Role()])
def test_without_an_instruction_there_is_no_system_message(instruction: str | Role) -> None:
    dialogue = Dialogue("d", (), TURNS[:1], instruction)
    (only,) = messages.exchanges(dialogue, "talk")
    assert only.messages == (Message("user", "Hi"),)
    assert only.reply == (Span("Hello.", "answer"),)
    assert messages.render(dialogue)["messages"] == [USER, HELLO]


@given(plain_dialogues())
@settings(max_examples=50, deadline=None)
def test_exchanges_are_the_prefixes_of_the_messages_written(dialogue: Dialogue) -> None:
    written = [(message["role"], message["content"]) for message in messages.render(dialogue)["messages"]]
    if any(turn.files for turn in dialogue.turns):
        with pytest.raises(
            ValueError, match="plain messages cannot hold uploaded files: .*; give data.mix.talk.plain="
        ):
            list(messages.exchanges(dialogue, "talk"))
        return
    for exchange in messages.exchanges(dialogue, "talk"):
        told = [(message.role, message.content) for message in exchange.messages]
        assert written[: len(told) + 1] == [*told, ("assistant", exchange.reply_text)]


def test_tools_cannot_be_written() -> None:
    dialogue = Dialogue("d", (CLOCK,), TURNS)
    refused = r"plain messages cannot hold tools: the dialogue has \['clock'\]; give "
    with pytest.raises(ValueError, match=refused + "data.format=openai$"):
        messages.render(dialogue)
    with pytest.raises(ValueError, match=refused + "data.mix.talk.plain=false$"):
        list(messages.exchanges(dialogue, "talk"))


@pytest.mark.parametrize("placeholder", ["{{NAME}}", "{{author}}"])
@pytest.mark.parametrize("text", ["I am {}.", "我是{}，", "{}"])
def test_a_placeholder_left_open_is_refused_wherever_it_stands(text: str, placeholder: str) -> None:
    left = text.format(placeholder)
    for odd in (row(USER, HELLO | {"content": left}), {"query": left, "response": "Hi"}, row(USER, HELLO, system=left)):
        with pytest.raises(ValueError, match=r"a placeholder \{\{\.\.\.\}\} is not filled in: " + placeholder):
            messages.parse(odd)


@pytest.mark.parametrize(
    "text", [r"\frac{{abc}}{{def}}", "{{a.b}}", "{{ x }}", "{{}}", "f{{name}}", "{name}", "{{{name}}}"]
)
def test_other_double_braces_are_not_placeholders(text: str) -> None:
    assert messages.parse(row(USER, HELLO | {"content": text})).turns[0].answer == text


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (
            {"instruction": "Hi"},
            r"none of messages, conversations, or query and response: the row has \['instruction'\]",
        ),
        (row(USER, {"role": "tool", "content": "x"}), "the role 'tool': read it with source=openai"),
        (row(USER, {"role": "tool_call", "content": "x"}), "the role 'tool_call': read it with source=openai"),
        (row(USER, {"role": "observation", "content": "x"}), "the role 'observation': read it with source=sharegpt"),
        ({"messages": "Hi"}, "messages is no list of messages: neither JSON nor a Python literal: 'Hi'"),
        ({"conversations": '{"from": "user"}'}, "conversations is no list of messages: {'from': 'user'}"),
        (row(USER, HELLO, tools='[{"name": "clock"}]'), "tools in a source of plain chat: "),
        (row(USER, HELLO, images='["a.png"]'), "pictures and sounds cannot be read: the row has 'images'"),
        (row(USER, HELLO | {"tool_calls": "[{}]"}), "a source of plain chat with calls: read it with source=openai"),
        (row(USER, HELLO | {"tool_calls": [{}]}), "a source of plain chat with calls: read it with source=openai"),
        (row(USER, HELLO, tools=[{"name": "clock"}]), "tools in a source of plain chat: read them with source=openai"),
        (row(USER, {"role": "bot", "content": "x"}), "unknown role: 'bot' is none of"),
        (row(HELLO), "the first message is not the user's: "),
        (row(USER), "no reply: after the query 'Hi'"),
        (row(USER, HELLO, AGAIN), r"no reply: after the query 'Again\?'"),
        (row(USER, HELLO, YES), "two answers in a row: 'Hello.' and 'Yes.'"),
        (row(USER, HELLO | {"content": " "}), "an assistant message is empty: "),
        (row(USER | {"content": ""}, HELLO), "a user message is empty"),
        (row(USER, HELLO | {"loss": False}), "an assistant message is not to be trained on: "),
        (row(USER, HELLO, {"role": "system", "content": "x"}, USER, HELLO), "a system message after the first: "),
        (row(USER, HELLO, images=["a.png"]), "pictures and sounds cannot be read: the row has 'images'"),
        ({"query": "Hi", "response": None}, "an assistant message is empty: "),
        ({"query": "Hi", "response": ["Hello."]}, "response is no text: "),
        ({"query": "Hi", "response": "Hello.", "history": [["Hi"]]}, "history is no list of pairs of texts: "),
        (
            {"query": "Hi", "response": "Hello.", "history": "Hi"},
            "history is no list of pairs of texts: neither JSON nor a Python literal: 'Hi'",
        ),
    ],
)
def test_a_row_that_cannot_be_read_says_why(odd: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        messages.parse(odd)
