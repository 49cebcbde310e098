"""General chat rows become dialogues without tools, and a row left out says by which rule."""

import json

import pytest

from fabrictune.dialogue import Dialogue, Turn
from fabrictune.formats import ms_bench


def row(*values: str, system: str | None = None) -> dict:
    """A row of user and assistant in turn, after a system message if there is one."""
    said = [{"from": ("user", "assistant")[place % 2], "value": value} for place, value in enumerate(values)]
    return {"conversations": [*([{"from": "system", "value": system}] if system is not None else []), *said]}


def test_a_row_becomes_a_dialogue_of_its_turns() -> None:
    said = row("两个和尚？", "三个也行。", "Why?", " Water.\n")
    assert ms_bench.parse(said) == Dialogue(
        "", (), (Turn("两个和尚？", (), "三个也行。"), Turn("Why?", (), " Water.\n"))
    )


@pytest.mark.parametrize("write", [str, json.dumps])
def test_conversations_may_be_the_text_of_a_list(write) -> None:
    said = row('It\'s "so"?', "So it is 😀.")
    assert ms_bench.parse({"conversations": write(said["conversations"])}) == ms_bench.parse(said)


@pytest.mark.parametrize(
    ("system", "instruction"),
    [
        (None, ""),
        ("You are a helpful assistant.", ""),
        ("You are a helpful assistant. Rhyme.", "You are a helpful assistant. Rhyme."),
        ("You are a helpful assistant", "You are a helpful assistant"),
        ("你是诗人。", "你是诗人。"),
    ],
)
def test_only_the_default_system_message_is_dropped(system: str | None, instruction: str) -> None:
    dialogue = ms_bench.parse(row("Hi", "Hello.", system=system))
    assert dialogue.instruction == instruction
    assert dialogue.turns == (Turn("Hi", (), "Hello."),)


def test_words_that_only_resemble_the_unwanted_stay() -> None:
    assert ms_bench.parse(row("Is a user human?", "Ask the assistant, a mos and s.")).turns


@pytest.mark.parametrize(
    ("left_out", "reason"),
    [
        (row("Who are you?", "I am MOSS."), "a message holds 'moss', as ms-swift filters it: 'I am MOSS.'"),
        (row("Human: hi", "Hello."), "a message holds 'human:'"),
        (row("Hi", "Hello.\nASSISTANT: Hello again."), "a message holds 'assistant:'"),
        (row("Hi", "Hello.", "User: so", "Yes."), "a message holds 'user:'"),
        (row("Hi", "Hello.", system="The user: a mossy stone."), "a message holds 'moss'"),
        ({}, "no row without conversations: the row has"),
        (row(), "'conversations' is list, not a list of messages"),
        (row(system="Rhyme."), "no message is from a user"),
        (row(system="You are a helpful assistant."), "no message is from a user"),
        (row("Hi"), "the last user message has no reply"),
        (row("Hi", "Hello.", "So?"), "the last user message has no reply"),
        (row("Hi", " "), "a reply is empty: to 'Hi'"),
        ({"conversations": row("Hi", "Hello.")["conversations"][1:]}, "do not take turns: message 0 is from 'assis"),
        ({"conversations": row("Hi")["conversations"] * 2}, "do not take turns: message 1 is from 'user'"),
        ({"conversations": row(system="A")["conversations"] * 2}, "do not take turns: message 0 is from 'system'"),
    ],
)  # fmt: skip
def test_a_row_left_out_says_why(left_out: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ms_bench.parse(left_out)
