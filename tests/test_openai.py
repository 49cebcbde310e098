"""Function-calling rows of every family become the same dialogues, and what we write the OpenAI client accepts."""

import json
import time

import pytest
from dialogues import dialogues
from hypothesis import example, given, settings
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import TypeAdapter

from fabrictune.dialogue import Call, Dialogue, Role, Step, Tool, Turn
from fabrictune.formats import openai

MESSAGES = TypeAdapter(list[ChatCompletionMessageParam])
TOOLS = TypeAdapter(list[ChatCompletionToolParam])

CITY = {"type": "object", "properties": {"city": {"type": "string", "description": "the city"}}, "required": ["city"]}
NOTHING = {"type": "object", "properties": {}, "required": []}
WEATHER = {"name": "weather", "description": "Tells the weather", "parameters": CITY}
CLOCK = {"name": "clock", "description": "Tells the time", "parameters": NOTHING}
OFFERED = [{"type": "function", "function": WEATHER}, {"type": "function", "function": CLOCK}]
TOOLS_READ = Tool(**WEATHER), Tool(**CLOCK)
OSLO = Call("weather", {"city": "Oslo"})
ROME = Call("weather", {"city": "Rome"})


def user(text: str = "Weather?", **rest) -> dict:
    return {"role": "user", "content": text} | rest


def said(text: str = "Sunny.", **rest) -> dict:
    return {"role": "assistant", "content": text} | rest


def called(*cities: str, content: str | None = None, first: int = 0) -> dict:
    calls = [
        {"id": f"c{n}", "type": "function", "function": {"name": "weather", "arguments": json.dumps({"city": city})}}
        for n, city in enumerate(cities, first)
    ]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def result(number: int, text: str) -> dict:
    return {"role": "tool", "tool_call_id": f"c{number}", "content": text}


def parsed(*messages: dict, tools: object = OFFERED, **rest) -> Dialogue:
    return openai.parse({"messages": list(messages), "tools": tools} | rest)


def the_turn(*messages: dict) -> Turn:
    (turn,) = parsed(*messages).turns
    return turn


def read_tool(parameters: object, **rest) -> Tool:
    (tool,) = parsed(user(), said(), tools=[{"name": "f", "parameters": parameters} | rest]).tools
    return tool


@settings(max_examples=100, deadline=None)
@given(dialogues())
@example(Dialogue("", (), (Turn("Hi", (), "Hello."),)))
def test_a_rendered_dialogue_reads_back_as_itself(dialogue: Dialogue) -> None:
    assert openai.parse(json.loads(json.dumps(openai.render(dialogue)))) == dialogue


@settings(max_examples=30, deadline=None)
@given(dialogues())
def test_what_is_written_is_what_the_openai_client_may_send(dialogue: Dialogue) -> None:
    row = openai.render(dialogue)
    MESSAGES.validate_python(row["messages"], strict=True)
    TOOLS.validate_python(row["tools"], strict=True)


def test_a_dialogue_is_written_as_messages_with_one_call_each() -> None:
    steps = Step(OSLO, "晴", "Let me see."), Step(Call("clock", {}), "12:00")
    turns = Turn("Oslo?", steps, "Sunny."), Turn("Both?", (), "", pending=(Step(OSLO, ""), Step(ROME, "")))
    arguments = {"weather": '{"city": "Oslo"}', "clock": "{}"}

    def call(number: int, name: str, text: str) -> dict:
        return {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": text}}

    assert openai.render(Dialogue("d1", TOOLS_READ, turns, "Be brief.", family="sky")) == {
        "id": "d1",
        "messages": [
            {"role": "system", "content": "Be brief."},
            user("Oslo?"),
            said("Let me see.", tool_calls=[call(0, "weather", arguments["weather"])]),
            {"role": "tool", "tool_call_id": "call_0", "content": "晴"},
            said("", tool_calls=[call(1, "clock", arguments["clock"])]),
            {"role": "tool", "tool_call_id": "call_1", "content": "12:00"},
            said("Sunny."),
            user("Both?"),
            said("", tool_calls=[call(2, "weather", arguments["weather"]), call(3, "weather", '{"city": "Rome"}')]),
        ],
        "family": "sky",
        "tools": OFFERED,
    }


def test_characters_beyond_ascii_stand_in_arguments_as_themselves() -> None:
    turn = Turn("奥斯陆？", (Step(Call("weather", {"city": "奥斯陆🦉"}), "晴"),), "晴。")
    call = openai.render(Dialogue("d", TOOLS_READ, (turn,)))["messages"][1]["tool_calls"][0]
    assert call["function"]["arguments"] == '{"city": "奥斯陆🦉"}'


@pytest.mark.parametrize(
    ("query", "instruction", "knowledge", "system"),
    [
        ("Hi", "", "", None),
        ("Hi", Role(), "", None),
        ("Hi", "Be brief.", "Open at nine.", "# Knowledge Base\n\nOpen at nine.\n\nBe brief."),
        ("你好", "Be brief.", "Open at nine.", "# 知识库\n\nOpen at nine.\n\nBe brief."),
        (
            "Hi",
            Role("Ada", "a guide", "show"),
            "",
            "You are playing as an AI-Agent, Your name is Ada.a guide\nYou have the following specific functions:show\n"
            "Now you will start playing asAda",
        ),
        (
            "你好",
            Role("Ada", "", "show"),
            "",
            "你扮演AI-Agent，你的名字是Ada。\n你具有下列具体功能：show\n下面你将开始扮演Ada",
        ),
    ],
)
def test_the_system_message_spells_out_knowledge_and_role(query: str, instruction, knowledge: str, system) -> None:
    dialogue = Dialogue("d", (), (Turn(query, (), "Hello."),), instruction, knowledge)
    first, *_ = openai.render(dialogue)["messages"]
    assert first == ({"role": "system", "content": system} if system else user(query))


def test_parallel_calls_become_steps_in_order_with_the_results_of_their_ids() -> None:
    turn = the_turn(user(), called("Oslo", "Rome", content="Both."), result(1, "warm"), result(0, "cold"), said())
    assert turn == Turn("Weather?", (Step(OSLO, "cold", "Both."), Step(ROME, "warm")), "Sunny.")


def test_an_id_that_is_used_again_is_that_of_the_call_waiting() -> None:
    turn = the_turn(user(), called("Oslo"), result(0, "cold"), called("Rome"), result(0, "warm"), said())
    assert [step.observation for step in turn.steps] == ["cold", "warm"]


def test_results_without_ids_belong_to_the_calls_in_order() -> None:
    results = [{"role": "tool", "content": text} for text in ("cold", "[1, 2]")]
    turn = the_turn(user(), called("Oslo", "Rome"), *results, said())
    assert [step.observation for step in turn.steps] == ["cold", "[1, 2]"]


def test_what_is_said_in_a_message_before_a_call_is_its_thought() -> None:
    turn = the_turn(user(), said("Let me see."), called("Oslo", content="First Oslo."), result(0, "cold"), said())
    assert turn.steps == (Step(OSLO, "cold", "Let me see.\nFirst Oslo."),)


def test_calls_at_the_end_without_results_are_pending() -> None:
    dialogue = parsed(user(), called("Oslo"), result(0, "cold"), called("Rome", "Oslo", content="Then.", first=1))
    assert dialogue.turns == (
        Turn("Weather?", (Step(OSLO, "cold"),), "", pending=(Step(ROME, "", "Then."), Step(OSLO, ""))),
    )
    assert not dialogue.is_complete


def test_of_parallel_calls_at_the_end_those_after_the_last_result_are_pending() -> None:
    turn = the_turn(user(), called("Oslo", "Rome"), result(0, "cold"))
    assert turn == Turn("Weather?", (Step(OSLO, "cold"),), "", pending=(Step(ROME, ""),))


@pytest.mark.parametrize("text", ["[1, 2]", "<tool_response>cold</tool_response>"])
def test_a_result_with_an_id_is_that_calls_whatever_it_looks_like(text: str) -> None:
    turn = the_turn(user(), called("Oslo", "Rome"), result(0, text))
    assert turn == Turn("Weather?", (Step(OSLO, text),), "", pending=(Step(ROME, ""),))


@pytest.mark.parametrize("content", [None, "", " \n", []])
def test_nothing_said_beside_a_call_is_no_thought(content: object) -> None:
    assert the_turn(user(), called("Oslo", content=content)).pending == (Step(OSLO, ""),)


def test_user_messages_in_a_row_are_one_query_with_all_their_files() -> None:
    turn = the_turn(user("Weather?", files=["a.csv"]), user("In Oslo.", files=["b.csv"]), said())
    assert turn == Turn("Weather?\nIn Oslo.", (), "Sunny.", ("a.csv", "b.csv"))


@pytest.mark.parametrize("role", ["system", "developer"])
def test_system_texts_at_the_start_are_the_instruction(role: str) -> None:
    systems = [{"role": role, "content": text} for text in ("Be brief.", "Be kind.")]
    assert parsed(*systems, user(), said(), system="Be brief.").instruction == "Be brief.\n\nBe kind."


def test_content_may_come_in_parts_of_text() -> None:
    parts = [{"type": "text", "text": "Weather?"}, {"type": "text", "text": "In Oslo."}]
    assert the_turn(user(parts), said()).query == "Weather?\nIn Oslo."


def test_a_result_that_is_an_object_is_kept_as_json() -> None:
    turn = the_turn(user(), called("Oslo"), {"role": "tool", "content": {"天": [1]}}, said())
    assert turn.steps == (Step(OSLO, '{"天": [1]}'),)


@pytest.mark.parametrize(
    "arguments", ['{"city": "Oslo"}', {"city": "Oslo"}, "{'city': 'Oslo'}", ' {"city": "Oslo"}\n']
)  # fmt: skip
def test_arguments_may_be_an_object_or_its_text(arguments: object) -> None:
    call = {"id": "c0", "function": {"name": "weather", "arguments": arguments}}
    assert parsed(user(), {"role": "assistant", "tool_calls": [call]}).calls == [OSLO]


@pytest.mark.parametrize("arguments", ["", " ", "{}", "[]", "null", "None", None, [], {}])
def test_arguments_may_be_missing(arguments: object) -> None:
    call = {"function": {"name": "clock", "arguments": arguments}}
    assert parsed(user(), {"role": "assistant", "tool_calls": [call]}).calls == [Call("clock", {})]


@pytest.mark.parametrize(
    "tools",
    [
        OFFERED,
        [WEATHER, CLOCK],
        json.dumps(OFFERED),
        str(OFFERED),
        [json.dumps(WEATHER), json.dumps(OFFERED[1])],
        [WEATHER | {"strict": True}, {"name": "clock", "description": "Tells the time"}],
        [WEATHER, CLOCK | {"parameters": None}],
        [WEATHER, CLOCK | {"parameters": {}}],
    ],
)  # fmt: skip
def test_tools_are_read_in_every_spelling(tools: object) -> None:
    assert parsed(user(), said(), tools=tools).tools == TOOLS_READ


@pytest.mark.parametrize("tools", [None, [], "", "[]", "null"])
def test_without_tools_it_is_plain_chat(tools: object) -> None:
    assert parsed(user(), said(), tools=tools) == Dialogue("", (), (Turn("Weather?", (), "Sunny."),))


@pytest.mark.parametrize(
    ("parameters", "properties", "required"),
    [
        ({"type": "object"}, {}, None),
        ({"type": "object", "properties": {"a": {"type": "string"}}, "required": None}, {"a": "string"}, None),
        ({"properties": {"a": {"type": "string"}}, "required": ["a"]}, {"a": "string"}, ["a"]),
        ({"type": None, "properties": {"a": {"type": "string"}}}, {"a": "string"}, None),
        ({"type": "dict", "properties": {"a": {"type": "float"}}, "required": []}, {"a": "number"}, []),
        ({"type": "object", "properties": {"a": {"type": "int", "required": True}}}, {"a": "integer"}, ["a"]),
        ({"a": {"type": "str"}, "b": {"type": "int, optional"}}, {"a": "string", "b": "integer"}, ["a"]),
        ({"type": {"type": "bool", "default": True}, "b": {"type": "Dict"}}, {"type": "boolean", "b": "object"}, ["b"]),
        (
            {"a": {"type": "str", "required": True}, "b": {"type": "str", "required": False}},
            {"a": "string", "b": "string"},
            ["a"],
        ),
        ({"properties": {"type": "str", "description": "which"}}, {"properties": "string"}, ["properties"]),
        (
            [{"name": "a", "type": "str", "required": True}, {"name": "b", "type": "str"}],
            {"a": "string", "b": "string"},
            ["a"],
        ),
        ({"a": {"type": "Callable[[float], float]"}}, {"a": "Callable[[float], float]"}, ["a"]),
        ({"a": {"type": "Any"}}, {"a": None}, ["a"]),
        ({"a": {"type": "Optional[str], optional"}}, {"a": "string"}, []),
        ({"a": {"type": ["string", "null"]}}, {"a": ["string", "null"]}, ["a"]),
    ],
)
def test_parameters_are_read_in_every_spelling(parameters: object, properties: dict, required: list | None) -> None:
    read = read_tool(parameters).parameters
    assert read["type"] == "object"
    assert {name: schema.get("type") for name, schema in read["properties"].items()} == properties
    assert read.get("required") == required
    assert not any("required" in schema for schema in read["properties"].values())


def test_required_may_stand_beside_the_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    assert read_tool(schema, required=["a"]).required == ["a"]
    assert read_tool(schema | {"required": []}, required=["a"]).required == []


@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        ("List[int]", {"type": "array", "items": {"type": "integer"}}),
        ("list[list[str]]", {"type": "array", "items": {"type": "array", "items": {"type": "string"}}}),
        ("List[double]", {"type": "array", "items": {"type": "number"}}),
        ("List[Union[int, str]]", {"type": "array"}),
        ("Tuple[float, float]", {"type": "array"}),
        ("List[Dict[str, int]], optional", {"type": "array", "items": {"type": "object"}}),
    ],
)
def test_a_python_list_keeps_the_type_of_its_items(kind: str, schema: dict) -> None:
    described = {"description": "which", "type": kind, "default": [1]}
    assert read_tool({"a": described}).properties == {"a": {"description": "which", "default": [1]} | schema}


def test_pythons_type_names_are_mended_in_nested_schemas() -> None:
    inner = {"type": "dict", "properties": {"n": {"type": "int"}}}
    schema = {"type": "object", "properties": {"a": {"type": "list", "items": inner}}}
    mended = {"type": "object", "properties": {"n": {"type": "integer"}}}
    assert read_tool(schema).properties == {"a": {"type": "array", "items": mended}}


def test_a_nested_schema_is_kept() -> None:
    schema = {
        "type": "object",
        "properties": {
            "box": {
                "type": "object",
                "properties": {"sizes": {"type": "array", "items": {"type": "integer", "enum": [1, 2]}}},
                "required": ["sizes"],
            }
        },
        "required": ["box"],
        "additionalProperties": False,
    }
    assert read_tool(schema).parameters == schema


def test_the_older_function_calls_are_read() -> None:
    call = {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    row = {
        "messages": [user(), call, {"role": "function", "name": "weather", "content": "cold"}, said()],
        "functions": [WEATHER],
    }
    assert openai.parse(row).turns == (Turn("Weather?", (Step(OSLO, "cold"),), "Sunny."),)


CALL = {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
HERMES_CALL = {"from": "gpt", "value": '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'}
OSLO_ANSWER = {"name": "weather", "arguments": {"city": "Oslo"}}


@pytest.mark.parametrize("write", [str, json.dumps])
@pytest.mark.parametrize(
    "whole",
    [
        {"messages": [user('It\'s "so" 😀?'), called("Oslo"), result(0, "cold"), said()], "tools": OFFERED},
        {"messages": [user(), CALL, {"role": "function", "content": "cold"}, said()], "functions": [WEATHER]},
        {"messages": [user(), CALL], "tools": [], "functions": [WEATHER]},
        {"conversations": [{"from": "human", "value": "Hi"}, HERMES_CALL], "tools": OFFERED},
        {"query": "Weather?", "tools": [WEATHER], "answers": [OSLO_ANSWER], "images": []},
    ],
)
def test_lists_may_be_text_as_a_table_holds_them(whole: dict, write) -> None:
    empty = dict.fromkeys(["messages", "conversations", "tools", "functions", "images"], "")
    table = empty | {key: write(value) if isinstance(value, list) else value for key, value in whole.items()}
    assert openai.parse(table) == openai.parse(whole)
    assert openai.parse(table).calls == [OSLO]


def test_a_messages_own_lists_may_be_text() -> None:
    calls = called("Oslo", "Rome") | {"function_call": ""}
    older = CALL | {"function_call": str(CALL["function_call"])}
    plain = said(tool_calls="[]", function_call="null")
    for write in (str, json.dumps):
        turn = the_turn(user(files=write(["a.csv"])), calls | {"tool_calls": write(calls["tool_calls"])})
        assert turn == Turn("Weather?", (), "", ("a.csv",), (Step(OSLO, ""), Step(ROME, "")))
    assert the_turn(user(), older).pending == (Step(OSLO, ""),)
    assert the_turn(user(), plain) == Turn("Weather?", (), "Sunny.")


def test_ms_swifts_roles_are_read_and_calls_in_a_row_are_parallel() -> None:
    def call(city: str) -> dict:
        return {"role": "tool_call", "content": json.dumps({"name": "weather", "arguments": {"city": city}})}

    results = [{"role": "tool_response", "content": text} for text in ("cold", "warm")]
    turn = the_turn(user(), call("Oslo"), call("Rome"), *results, said())
    assert turn == Turn("Weather?", (Step(OSLO, "cold"), Step(ROME, "warm")), "Sunny.")


def test_xlams_answers_are_pending_calls() -> None:
    row = {
        "id": 7,
        "query": "Weather?",
        "tools": json.dumps([{"name": "weather", "description": "d", "parameters": {"city": {"type": "str"}}}]),
        "answers": json.dumps([{"name": "weather", "arguments": {"city": city}} for city in ("Oslo", "Rome")]),
    }
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    assert openai.parse(row) == Dialogue(
        "7",
        (Tool("weather", "d", schema),),
        (Turn("Weather?", (), "", pending=(Step(OSLO, ""), Step(ROME, ""))),),
    )


HERMES_SYSTEM = (
    "You are a function calling AI model. You are provided with function signatures within <tools> </tools> XML tags.\n"
    f"<tools>\n{json.dumps(OFFERED)}\n</tools>\nFor each call return JSON within <tool_call> </tool_call> tags:\n"
    "<tool_call>\n{'name': <function-name>, 'arguments': <args-dict>}\n</tool_call>\n"
)


def hermes(*values: str, system: str = HERMES_SYSTEM, tools: object = None) -> Dialogue:
    """A row of `values` from human, gpt, tool, gpt."""
    roles = ["system", "human", "gpt", "tool", "gpt"]
    conversations = [{"from": role, "value": value} for role, value in zip(roles, (system, *values), strict=False)]
    return openai.parse({"id": "h", "conversations": conversations, "tools": tools})


def test_hermes_blocks_are_calls_and_results() -> None:
    calls = (
        "Let me see.\n<tool_call>\n{'arguments': {'city': 'Oslo'}, 'name': 'weather'}\n</tool_call>\n"
        '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>\n'
    )
    results = (
        '<tool_response>\n{"name": "clock", "content": "12:00"}\n</tool_response>\n'
        '<tool_response>\n{"name": "weather", "content": {"天": [1]}}\n</tool_response>\n'
    )
    expected = Dialogue(
        "h",
        TOOLS_READ,
        (Turn("Hi", (Step(OSLO, '{"天": [1]}', "Let me see."), Step(Call("clock", {}), "12:00")), "Sunny."),),
    )
    assert hermes("Hi", calls, results, "Sunny.") == expected
    assert hermes("Hi", calls, results, "Sunny.", tools=json.dumps(OFFERED)) == expected


def test_a_hermes_result_may_be_any_text_and_name_the_tool_otherwise() -> None:
    call = '<tool_call>{"name": "clock", "arguments": {}}</tool_call>'
    for text, observation in [
        ("12:00", "12:00"),
        ('{"time": "12:00"}', '{"time": "12:00"}'),
        ('{"name": "functions.clock", "content": "12:00"}', "12:00"),
        ('{"content": "12:00", "date": 1}', '{"content": "12:00", "date": 1}'),
    ]:
        (turn,) = hermes("Hi", call, f"<tool_response>\n{text}\n</tool_response>", "Noon.").turns
        assert turn.steps == (Step(Call("clock", {}), observation),)


def test_a_hermes_rows_own_tools_go_before_those_in_its_system_message() -> None:
    unread = HERMES_SYSTEM.replace(json.dumps(OFFERED), "[...]")
    assert hermes("Hi", "Hello.", system=unread, tools=OFFERED) == Dialogue(
        "h", TOOLS_READ, (Turn("Hi", (), "Hello."),)
    )


def test_a_hermes_call_at_the_end_is_pending() -> None:
    (turn,) = hermes("Hi", '<tool_call>{"name": "clock", "arguments": {}}</tool_call>').turns
    assert turn == Turn("Hi", (), "", pending=(Step(Call("clock", {}), ""),))


@pytest.mark.parametrize("between", ["\n", ", ", ""])
def test_qwens_template_puts_the_same_blocks_into_messages(between: str) -> None:
    spelled = between.join(json.dumps(tool) for tool in OFFERED)
    messages = [
        {"role": "system", "content": f"Be brief.\n\n# Tools\n\n<tools>\n{spelled}\n</tools>\n\nReturn <tool_call>..."},
        user(),
        said('<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'),
        user("<tool_response>\ncold\n</tool_response>"),
        said(),
    ]
    system = messages[0]["content"].replace("Return <tool_call>...", "<tool_call>\n{}\n</tool_call>")
    messages[0] = {"role": "system", "content": system}
    assert openai.parse({"messages": messages}) == Dialogue(
        "", TOOLS_READ, (Turn("Weather?", (Step(OSLO, "cold"),), "Sunny."),), "Be brief."
    )


def test_what_the_system_message_says_around_the_tools_is_the_instruction() -> None:
    dialogue = hermes("Hi", "Hello.", system=f"You are Ada.\n\n{HERMES_SYSTEM}Be brief.")
    assert dialogue.instruction == "You are Ada.\n\nBe brief."


def broken(**function) -> dict:
    """A row that offers a tool of such parameters."""
    return {"messages": [user(), said()], "tools": [{"name": "f"} | function]}


def chat(*messages: dict, **rest) -> dict:
    return {"messages": list(messages), "tools": OFFERED} | rest


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"instruction": "Hi", "output": "Hello."},
            r"none of messages, conversations, or query, tools and answers: .*'ins",
        ),
        ({"messages": None}, "none of messages"),
        ({"messages": []}, "messages is no list of messages: "),
        ({"messages": "[1, 2"}, r"messages is no list of messages: neither JSON nor a Python literal: '\[1, 2'"),
        ({"messages": "[]"}, r"messages is no list of messages: '\[\]'"),
        ({"messages": "7"}, "messages is no list of messages: 7"),
        ({"messages": ["Hi"]}, "a message is no object: 'Hi'"),
        (chat({"content": "Hi"}), "a message without a role: "),
        (chat(user(), {"role": "bot", "content": "Hi"}), "unknown role: 'bot' is none of"),
        (
            {"conversations": [{"from": "function_call", "value": "{}"}]},
            "'function_call': read it with source=sharegpt",
        ),
        (chat(user(), said(), images=["a.png"]), "pictures and sounds cannot be read: the row has 'images'"),
        (chat(user([{"type": "image_url", "image_url": {"url": "x"}}]), said()), "a part of a message is no text: "),
        (chat(user(7), said()), "a message's content is no text: 7"),
        (chat(user(), said(weight=0)), "an assistant message is not to be trained on: "),
        (chat(user(" "), said()), "a user message is empty"),
        (chat(user(), said("")), "an assistant message is empty: "),
        (chat(user(), said(None)), "an assistant message is empty: "),
        (chat(said(), user(), said()), "the first message is not the user's: "),
        (chat({"role": "system", "content": "Hi"}), "no user message"),
        (chat(user()), "no reply: after the query 'Weather\\?'"),
        (chat(user(), said("A"), said("B")), "two answers in a row: 'A' and 'B'"),
        (chat(user(), said(), {"role": "system", "content": "Hi"}), "a system message after the first: "),
        (chat(user(), result(0, "cold"), said()), "a result without a call: 'cold'"),
        (chat(user(), called("Oslo"), said()), "a call without a result: to 'weather'"),
        (chat(user(), called("Oslo"), user(), said()), "a call without a result: after the query"),
        (chat(user(), called("Oslo"), result(0, "cold")), "results without an answer: after the query"),
        (chat(user(), called("Oslo"), result(0, "cold"), user(), said()), "results without an answer: after the query"),
        (chat(user(), called("Oslo"), result(5, "cold"), said()), "a result that no call waits for: .*c5"),
        (chat(user(), called("Oslo"), result(0, "a"), result(0, "b"), said()), "a result that no call waits for: .*b"),
        (chat(user(), called("Oslo", "Rome"), result(0, "a"), said()), "a call without a result: to 'weather'"),
        (chat(user(), called("Oslo", "Rome"), result(1, "a")), "a call without a result: .* while a later one has"),
        (chat(user(), called("Oslo"), tools=[CLOCK]), "call to 'weather', which is not among the tools offered"),
        (chat(user(), said(tool_calls=["x"])), "a call is no object with a name: 'x'"),
        (chat(user(), said(tool_calls={"function": {}})), "tool_calls is no list of calls: "),
        (
            chat(user(), said(function_call={"name": "clock", "arguments": "{"})),
            "neither JSON nor a Python literal: '{'",
        ),
        (chat(user(), said(function_call={"name": "clock", "arguments": "[1]"})), r"arguments are no object .*: \[1\]"),
        (
            chat(user(), said(function_call={"name": "clock", "arguments": '{"a": NaN}'})),
            "a value that JSON does not hold: ",
        ),
        (chat(user(), said('<tool_call>{"name": "clock"}</tool_call> Done.')), "text after a <tool_call>: 'Done.'"),
        (chat(user(), said('<tool_call>\n{"name": "clock"}')), "a <tool_call> that nobody closed: "),
        (chat(user(), said(), tools=[WEATHER, WEATHER]), "offers a tool twice: "),
        (chat(user(), said(), tools="weather"), "neither JSON nor a Python literal: 'weather'"),
        (chat(user(), said(), tools=[{"description": "x"}]), "a tool is no object with a name: "),
        (chat(user(), said(), tools=[WEATHER | {"description": ["x"]}]), "a tool's description is no text: "),
        (broken(parameters={"$ref": "#/defs/x"}), "a parameter schema is a reference: tool 'f' has"),
        (
            broken(parameters={"type": "object", "properties": {"a": {"$ref": "#/x"}}}),
            "a parameter schema is a reference: ",
        ),
        (
            broken(parameters={"type": "string"}),
            "the parameters of a tool are no object: 'f' has a schema of type 'string'",
        ),
        (
            broken(parameters={"type": ["object", "null"], "properties": {}}),
            r"the parameters of a tool are no object: 'f' has a schema of type '\['object', 'null'\]'",
        ),
        (broken(parameters={"a": "string"}), "the parameters of a tool are no JSON schema: 'f' has"),
        (broken(parameters=[{"type": "str"}]), "a parameter in a list has no name: tool 'f' has"),
        (broken(parameters=7), "the parameters of a tool are no object: 'f' has 7"),
        (
            broken(parameters={"type": "object", "properties": {"a": "string"}}),
            "the properties of a schema are no schemas ",
        ),
        (
            broken(parameters={"type": "object", "properties": {}, "required": ["a"]}),
            r"required parameters \['a'\] are not",
        ),
        ({"query": "Hi", "tools": [], "answers": "[]"}, "no reply: after the query 'Hi'"),
        ({"query": "Hi", "tools": [CLOCK], "answers": "noon"}, "neither JSON nor a Python literal: 'noon'"),
        (
            {"messages": [{"role": "system", "content": "Use <tools>[]</tools>!"}, user(), said()]},
            "words that are not known: ",
        ),
        (
            {"messages": [{"role": "system", "content": "# Tools\n<tools>{]</tools>"}, user(), said()]},
            "the tools in a system message cannot be read: '{]'",
        ),
    ],
)
def test_a_row_that_cannot_be_read_says_why(row: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        openai.parse(row)


def test_tags_that_nobody_closed_take_no_time_to_speak_of() -> None:
    said = "<tool_call>" + " " * 20_000 + "<tool_response>" + "\n" * 20_000
    row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": said}], "tools": []}
    began = time.process_time()
    assert openai.parse(row).turns[0].answer == said
    assert time.process_time() - began < 1
