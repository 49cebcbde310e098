"""LLaMA-Factory's rows with tools become dialogues, odd ones mended or refused with a reason, and are written back."""

import json

import pytest
from dialogues import dialogues, plain_dialogues
from hypothesis import given, settings

from fabrictune.dialogue import Call, Dialogue, Step, Tool, Turn
from fabrictune.formats import sharegpt

SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "description": "城市"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "Tells the weather", "parameters": SCHEMA}
OSLO = Call("weather", {"city": "Oslo"})
ROME = Call("weather", {"city": "Rome"})
HUMAN = {"from": "human", "value": "Weather?"}
GPT = {"from": "gpt", "value": "Sunny."}
OSLO_CALL = {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Oslo"}}'}
ROME_CALL = {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Rome"}}'}
COLD = {"from": "observation", "value": "cold"}
WARM = {"from": "observation", "value": "warm"}
BOTH_CALLS = {"from": "function_call", "value": f"[{OSLO_CALL['value']}, {ROME_CALL['value']}]"}


def row(*messages: dict, **rest) -> dict:
    return {"conversations": list(messages), "tools": json.dumps([WEATHER])} | rest


def the_turn(*messages: dict) -> Turn:
    (turn,) = sharegpt.parse(row(*messages)).turns
    return turn


@settings(max_examples=100, deadline=None)
@given(dialogues() | plain_dialogues())
def test_a_rendered_dialogue_reads_back_as_itself(dialogue: Dialogue) -> None:
    assert sharegpt.parse(json.loads(json.dumps(sharegpt.render(dialogue)))) == dialogue


@settings(max_examples=50, deadline=None)
@given(dialogues())
def test_what_is_written_alternates_as_llama_factory_wants_it(dialogue: Dialogue) -> None:
    roles = [message["from"] for message in sharegpt.render(dialogue)["conversations"]]
    waiting = dialogue.turns[-1].pending
    # Several messages of calls without results are what only thoughts between them can make.
    if not any(step.thought for step in waiting[1:]):
        assert set(roles[::2]) <= {"human", "observation"}
        assert set(roles[1::2]) <= {"gpt", "function_call"}
        assert len(roles) % 2 == 0


def test_a_row_becomes_a_dialogue() -> None:
    dialogue = sharegpt.parse(
        row(HUMAN, OSLO_CALL, COLD, GPT, HUMAN, GPT, id=3, system="Be brief.", family="sky", lang="en")
    )
    assert dialogue == Dialogue(
        "3",
        (Tool("weather", "Tells the weather", SCHEMA),),
        (Turn("Weather?", (Step(OSLO, "cold"),), "Sunny."), Turn("Weather?", (), "Sunny.")),
        "Be brief.",
        family="sky",
    )


def test_a_dialogue_is_written_as_such_a_row() -> None:
    turns = Turn("Weather?", (Step(OSLO, "cold"),), "Sunny."), Turn("Weather?", (), "", ("a.csv",), (Step(ROME, ""),))
    tool = Tool("weather", "Tells the weather", SCHEMA)
    assert sharegpt.render(Dialogue("d", (tool,), turns, "Be brief.")) == {
        "id": "d",
        "conversations": [HUMAN, OSLO_CALL, COLD, GPT, HUMAN | {"files": ["a.csv"]}, ROME_CALL],
        "tools": f"[{json.dumps(WEATHER, ensure_ascii=False)}]",
        "system": "Be brief.",
    }


@pytest.mark.parametrize("tools", [[WEATHER], json.dumps([WEATHER]), [{"type": "function", "function": WEATHER}]])
def test_tools_may_be_a_list_or_its_text(tools: object) -> None:
    assert sharegpt.parse(row(HUMAN, GPT, tools=tools)).tools == (Tool("weather", "Tells the weather", SCHEMA),)


@pytest.mark.parametrize("write", [str, json.dumps])
def test_lists_may_be_text_as_a_table_holds_them(write) -> None:
    whole = row(
        HUMAN | {"files": ["a.csv"]}, OSLO_CALL, COLD | {"value": 'It\'s "冷"'}, GPT, tools=[WEATHER], images=[]
    )
    table = {key: write(value) for key, value in whole.items()}
    assert sharegpt.parse(table) == sharegpt.parse(whole)
    assert sharegpt.parse(row(HUMAN | {"files": write(["a.csv"])}, GPT)).turns[0].files == ("a.csv",)


@pytest.mark.parametrize("tools", [None, "", "[]", []])
def test_without_tools_it_is_plain_chat(tools: object) -> None:
    assert sharegpt.parse(row(HUMAN, GPT, tools=tools)).tools == ()


@pytest.mark.parametrize(
    "value",
    [
        '{"name": "weather", "arguments": {"city": "Oslo"}}',
        "{'name': 'weather', 'arguments': {'city': 'Oslo'}}",
        '{"name": "weather", "arguments": "{\\"city\\": \\"Oslo\\"}"}',
        '{"name": "weather", "arguments": "{\'city\': \'Oslo\'}"}',
        '{"name": "weather", "parameters": {"city": "Oslo"}}',
        '[{"name": "weather", "arguments": {"city": "Oslo"}}]',
    ],
)
def test_a_call_is_read_in_every_spelling(value: str) -> None:
    assert sharegpt.parse(row(HUMAN, {"from": "function_call", "value": value})).calls == [OSLO]


@pytest.mark.parametrize(
    "messages",
    [
        (OSLO_CALL, COLD, ROME_CALL, WARM),
        (OSLO_CALL, ROME_CALL, COLD, WARM),
        (BOTH_CALLS, COLD, WARM),
        (BOTH_CALLS, {"from": "observation", "value": '["cold", "warm"]'}),
    ],
)
def test_several_calls_are_steps_in_order_however_they_are_laid_out(messages: tuple[dict, ...]) -> None:
    assert the_turn(HUMAN, *messages, GPT) == Turn("Weather?", (Step(OSLO, "cold"), Step(ROME, "warm")), "Sunny.")


def test_the_results_of_several_calls_in_one_observation_are_kept_as_json() -> None:
    turn = the_turn(HUMAN, BOTH_CALLS, {"from": "observation", "value": '[{"天": [1]}, 2]'}, GPT)
    assert [step.observation for step in turn.steps] == ['{"天": [1]}', "2"]


def test_a_list_that_one_call_returned_stays_whole() -> None:
    (step,) = the_turn(HUMAN, OSLO_CALL, {"from": "observation", "value": '["cold"]'}, GPT).steps
    assert step.observation == '["cold"]'


def test_calls_at_the_end_are_pending() -> None:
    assert the_turn(HUMAN, BOTH_CALLS) == Turn("Weather?", (), "", pending=(Step(OSLO, ""), Step(ROME, "")))


def test_gpt_text_before_a_call_is_its_thought() -> None:
    thought = {"from": "gpt", "value": "Let me see."}
    assert the_turn(HUMAN, thought, BOTH_CALLS, COLD, WARM, GPT).steps == (
        Step(OSLO, "cold", "Let me see."),
        Step(ROME, "warm"),
    )


def test_human_messages_in_a_row_are_one_query() -> None:
    assert the_turn(HUMAN, {"from": "user", "value": "In Oslo."}, GPT).query == "Weather?\nIn Oslo."


def test_the_system_text_may_stand_in_the_row_in_a_message_or_in_both() -> None:
    message = {"from": "system", "value": "Be brief."}
    for told in (
        row(HUMAN, GPT, system="Be brief."),
        row(message, HUMAN, GPT),
        row(message, HUMAN, GPT, system="Be brief."),
    ):
        assert sharegpt.parse(told).instruction == "Be brief."
    assert sharegpt.parse(row(message, HUMAN, GPT, system="Be kind.")).instruction == "Be kind.\n\nBe brief."


def test_a_tool_without_parameters_has_an_empty_schema() -> None:
    bare = {"name": "weather", "description": None, "parameters": {"type": "object"}}
    (tool,) = sharegpt.parse(row(HUMAN, GPT, tools=[bare])).tools
    assert tool == Tool("weather", "", {"type": "object", "properties": {}})


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        ({"messages": [HUMAN, GPT]}, "no sharegpt row without conversations: the row has"),
        ({"conversations": ""}, "no sharegpt row without conversations: the row has"),
        ({"conversations": "Hi"}, "conversations is no list of messages: neither JSON nor a Python literal: 'Hi'"),
        (row(), "conversations is no list of messages: "),
        (row({"from": "bot", "value": "Hi"}), "unknown role: 'bot' is none of"),
        (row({"from": "tool", "value": "Hi"}), "'tool': read it with source=openai"),
        (row(GPT, HUMAN, GPT), "the first message is not the user's: "),
        (row(HUMAN), "no reply: after the query 'Weather\\?'"),
        (row(HUMAN, {"from": "gpt", "value": ""}), "an assistant message is empty: "),
        (row({"from": "human", "value": "\n"}, GPT), "a user message is empty"),
        (row(HUMAN, GPT, GPT), "two answers in a row: "),
        (row(HUMAN, GPT, COLD, GPT), "a result without a call: 'cold'"),
        (row(HUMAN, OSLO_CALL, GPT), "a call without a result: to 'weather'"),
        (row(HUMAN, OSLO_CALL, GPT, COLD, GPT), "a call without a result: to 'weather'"),
        (row(HUMAN, BOTH_CALLS, COLD, GPT), "a call without a result: to 'weather'"),
        (row(HUMAN, BOTH_CALLS, COLD | {"value": "[1, 2, 3]"}, GPT), "a call without a result: to 'weather'"),
        (row(HUMAN, OSLO_CALL, COLD, WARM, GPT), "a result that no call waits for: .*warm"),
        (row(HUMAN, OSLO_CALL, COLD), "results without an answer: "),
        (row(HUMAN, OSLO_CALL, tools="[]"), "call to 'weather', but the row offers no tools"),
        (
            row(HUMAN, {"from": "function_call", "value": "weather(Oslo)"}),
            "neither JSON nor a Python literal: 'weather",
        ),
        (row(HUMAN, {"from": "function_call", "value": '"weather"'}), "a call is no object with a name: 'weather'"),
        (row(HUMAN, GPT, HUMAN, {"from": "system", "value": "Hi"}), "a system message after the first: "),
        (row(HUMAN, GPT, system=["Hi"]), "system is no text: "),
        (row(HUMAN | {"files": "a.csv"}, GPT), "files is no list of names: neither JSON nor a Python literal: 'a.csv'"),
        (row(HUMAN, GPT, images=["a.png"]), "pictures and sounds cannot be read: the row has 'images'"),
    ],
)
def test_a_row_that_cannot_be_read_says_why(odd: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        sharegpt.parse(odd)
