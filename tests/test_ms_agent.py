"""ms_agent records, as rich and as uneven as the real ones, become dialogues or a reason that names the thing."""

import pytest

from fabrictune.dialogue import Call, Dialogue, Role, Step, Tool, Turn
from fabrictune.formats import ms_agent
from fabrictune.sources import synthetic

HEADER = "Answer the following questions as best you can. You have access to the following APIs:\n"
FOOTER = """

Use the following format:

Thought: you should always think about what to do
Action: the action to take, should be one of the above tools[{names}]
Action Input: the input to the action
Observation: the result of the action
... (this Thought/Action/Action Input/Observation can be repeated zero or more times)
Thought: I now know the final answer
Final Answer: the final answer to the original input question
Begin!"""
FINAL = "Thought: I now know the final answer\nFinal Answer: Done."
LAMP = (
    "lamp: Call this tool to interact with the lamp API. What is the lamp API useful for? Switches a lamp. "
    'Parameters: [{"name": "room", "description": "which room", "required": "True"}]'
)
LAMP_TOOL = Tool(
    "lamp",
    "Switches a lamp",
    {
        "type": "object",
        "properties": {"room": {"type": "string", "description": "which room"}},
        "required": ["room"],
    },
)


def system(*items: str, names: str = "lamp") -> str:
    return HEADER + "\n\n".join(f"{n}. {item}" for n, item in enumerate(items, 1)) + FOOTER.format(names=names)


def record(*values: str, **rest) -> dict:
    """A record of a system message, then user and assistant in turn."""
    roles = ["system", *["user", "assistant"] * len(values)]
    messages = [{"from": role, "value": value} for role, value in zip(roles, values, strict=False)]
    return {"id": "r1", "conversations": messages} | rest


def tools(*items: str, call: str = "Hello.") -> tuple[Tool, ...]:
    """The tools of a record that lists `items`."""
    return ms_agent.parse(record(system(*items), "Hi", call)).tools


def called(name: str, arguments: str, observation: str = "ok") -> str:
    return f"Action: {name}\nAction Input: {arguments}\nObservation: {observation}\n"


def the_turn(value: str, *items: str) -> Turn:
    (turn,) = ms_agent.parse(record(system(*(items or [LAMP])), "Light!", value)).turns
    return turn


def schema(required: list[str], **properties: dict) -> dict:
    return {"type": "object", "properties": properties, "required": required}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_rendered_dialogue_reads_back_as_itself(language: str) -> None:
    for dialogue in synthetic.generate(11, 200, (language,)):
        assert ms_agent.parse(ms_agent.render(dialogue)) == dialogue


def test_a_record_becomes_a_dialogue() -> None:
    value = called("lamp", "{'room': 'hall'}", "on") + FINAL
    dialogue = ms_agent.parse(record(system(LAMP), "Light!", value, "Thanks", "Welcome."))
    assert dialogue == Dialogue(
        id="r1",
        tools=(LAMP_TOOL,),
        turns=(
            Turn("Light!", (Step(Call("lamp", {"room": "hall"}), "on"),), "Done."),
            Turn("Thanks", (), "Welcome."),
        ),
        instruction=Role(),
    )


def test_a_dialogue_is_written_as_such_a_record() -> None:
    turn = Turn("Light!", (Step(Call("lamp", {"room": "hall"}), "on", "Let me see."),), "Done.")
    written = ms_agent.render(Dialogue("r1", (LAMP_TOOL,), (turn,), "Be brief.", family="home"))
    parameters = '[{"name": "room", "type": "string", "description": "which room", "required": "True"}]'
    listed = LAMP.partition("Parameters: ")[0] + f"Parameters: {parameters}"
    value = "Thought: Let me see.\n" + called("lamp", "{'room': 'hall'}", "on") + FINAL
    assert written == record(system(listed), "Light!", value, instruction="Be brief.", family="home")


def test_every_parameter_of_every_tool_keeps_its_name_text_and_whether_it_must_be_given() -> None:
    ferry = (
        "ferry: Call this tool to interact with the ferry API. What is the ferry API useful for? Books a ferry. "
        'Parameters: [{"name": "via", "description": "a stop", "required": "False"}, '
        '{"name": "port", "description": "the port", "required": "True"}, '
        '{"name": "unit", "description": "km or nm", "required": "true"}, '
        '{"name": "note", "description": "free text"}]'
    )
    text = {"type": "string"}
    assert tools(ferry, LAMP) == (
        Tool(
            "ferry",
            "Books a ferry",
            schema(
                ["port", "unit"],
                via=text | {"description": "a stop"},
                port=text | {"description": "the port"},
                unit=text | {"description": "km or nm"},
                note=text | {"description": "free text"},
            ),
        ),
        LAMP_TOOL,
    )


@pytest.mark.parametrize("order", [0, 1])
def test_a_tool_without_parameters_stays_a_tool_of_its_own(order: int) -> None:
    alarm = "alarm: This API will sound the building's alarm. Parameters: []"
    alarm_tool = Tool("alarm", "This API will sound the building's alarm.", schema([]))
    listed = [(LAMP, LAMP_TOOL), (alarm, alarm_tool)][:: 1 if order else -1]
    assert tools(*(text for text, _ in listed)) == tuple(tool for _, tool in listed)


@pytest.mark.parametrize(
    ("prose", "description"),
    [
        (
            "Call this tool to interact with the x API. What is the x API useful for? Finds v2.0 docs.",
            "Finds v2.0 docs",
        ),
        ("Call this tool to interact with the x API. What is the x API useful for? Reads input..", "Reads input."),
        ("Call this tool to interact with the x API. What is the x API useful for? .", ""),
        ("Call this tool to interact with the x API. What is the x API useful for? API，查询。.", "API，查询。"),
        ("Call this tool to interact with the x API. What is the x API useful for? Two\nlines.", "Two\nlines"),
        ("Call this tool to interact with the smoke API. This API looks for smoke.", "This API looks for smoke."),
        ("This API looks for smoke.", "This API looks for smoke."),
        ("What it does: e.g. 1. count, 2. sum: all", "What it does: e.g. 1. count, 2. sum: all"),
        ("Prints Parameters: in bold.", "Prints Parameters: in bold."),
    ],
)
def test_a_description_is_the_prose_without_the_frame_around_it(prose: str, description: str) -> None:
    assert tools(f"x: {prose} Parameters: []", LAMP) == (Tool("x", description, schema([])), LAMP_TOOL)


def test_a_tools_name_may_hold_blanks() -> None:
    root = 'Square root finder: Finds roots. Parameters: [{"name": "of", "description": "", "required": "True"}]'
    dialogue = ms_agent.parse(record(system(root), "4?", called("Square root finder", "{'of': 4}", "2") + FINAL))
    assert [tool.name for tool in dialogue.tools] == ["Square root finder"]
    assert dialogue.calls == [Call("Square root finder", {"of": 4})]


def test_more_than_nine_tools_are_all_read() -> None:
    items = [f"tool{n}: Does {n}. Parameters: []" for n in range(1, 13)]
    assert [tool.name for tool in tools(*items)] == [f"tool{n}" for n in range(1, 13)]


def test_brackets_and_quotes_inside_a_parameters_text_do_not_end_it() -> None:
    item = (
        r'x: Sends. Parameters: [{"name": "to", "description": "as [{\"a\": 1}] or \"b\\c\"", "required": "True"}, '
        '{"name": "cc", "description": "it\'s {free}]", "required": "False"}]'
    )
    (tool, _) = tools(item, LAMP)
    assert tool.parameters == schema(
        ["to"],
        to={"type": "string", "description": 'as [{"a": 1}] or "b\\c"'},
        cc={"type": "string", "description": "it's {free}]"},
    )


def test_a_nested_parameter_keeps_its_schema() -> None:
    inner = '"type": "object", "properties": {"size": {"type": "integer", "enum": [1, 2]}}'
    item = f'x: Packs. Parameters: [{{"name": "box", "description": "the box", {inner}, "required": "True"}}]'
    (tool,) = tools(item)
    size = {"size": {"type": "integer", "enum": [1, 2]}}
    assert tool.parameters == schema(["box"], box={"type": "object", "description": "the box", "properties": size})


def test_parameters_may_be_a_json_schema() -> None:
    text = '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}'
    item = f"x: Counts. Parameters: {text} Format the arguments as a JSON object."
    assert tools(item, LAMP) == (Tool("x", "Counts.", schema(["n"], n={"type": "integer"})), LAMP_TOOL)


def test_the_names_in_the_footer_are_not_the_tools() -> None:
    messages = record(system(LAMP, names="lamp, fire_alert, radio"), "Hi", "Hello.")
    assert ms_agent.parse(messages).tools == (LAMP_TOOL,)


def test_a_type_that_is_not_given_is_read_off_the_values_of_the_calls() -> None:
    names = ["count", "ratio", "loud", "list", "map", "text", "never", "given"]
    parameters = ", ".join(f'{{"name": "{name}", "description": "", "required": "False"}}' for name in names[:-1])
    given = '{"name": "given", "type": "number", "description": "", "required": "False"}'
    item = f"x: Does. Parameters: [{parameters}, {given}]"
    arguments = "{'count': 3, 'ratio': 0.5, 'loud': True, 'list': ['a'], 'map': {'a': 1}, 'text': '3', 'given': 7}"
    (tool,) = tools(item, call=called("x", arguments) + FINAL)
    types = ["integer", "number", "boolean", "array", "object", "string", "string", "number"]
    assert [tool.properties[name]["type"] for name in names] == types


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("{'on': True, 'dim': None, 'size': (1, 2)}", {"on": True, "dim": None, "size": [1, 2]}),
        (r"{'room': 'the cook\'s \"den\"', 'steps': -2.5}", {"room": 'the cook\'s "den"', "steps": -2.5}),
        ('{"room": "the cook\'s", "on": true, "dim": null}', {"room": "the cook's", "on": True, "dim": None}),
        ("{'room': {'floor': [{'name': '客厅'}]}}", {"room": {"floor": [{"name": "客厅"}]}}),
        ("{\n  \"room\":\n  \"hall\"\n}", {"room": "hall"}),
        ("{'note': 'Action Input: no, Final Answer: no'}", {"note": "Action Input: no, Final Answer: no"}),
        ("{'code': 'a\\nObservation: b'}", {"code": "a\nObservation: b"}),
        ("{1: 'a'}", {"1": "a"}),
        ("{}", {}),
        ("[]", {}),
        ("", {}),
        ("None", {}),
    ],
)  # fmt: skip
def test_arguments_are_read_from_python_and_from_json(text: str, arguments: dict) -> None:
    (step,) = the_turn(called("lamp", text) + FINAL).steps
    assert step.call == Call("lamp", arguments)
    assert [type(value) for value in step.call.arguments.values()] == [type(value) for value in arguments.values()]


def test_a_turn_may_make_several_calls_with_thoughts_between() -> None:
    value = (
        "Thought: The hall\nfirst.\n"
        + called("lamp", "{'room': 'hall'}", "[{'state': 'on'}]\n\n2 rows")
        + "\nThought:Now the attic.\n"
        + called("lamp", "{'room': 'attic'}", "")
        + called("lamp", "{'room': 'cellar'}", "on")
        + FINAL
    )
    assert the_turn(value) == Turn(
        "Light!",
        (
            Step(Call("lamp", {"room": "hall"}), "[{'state': 'on'}]\n\n2 rows", "The hall\nfirst."),
            Step(Call("lamp", {"room": "attic"}), "", "Now the attic."),
            Step(Call("lamp", {"room": "cellar"}), "on"),
        ),
        "Done.",
    )


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ("Hello.", "Hello."),
        ("  Hello.\n\n1. Take action: now.\n", "Hello.\n\n1. Take action: now."),
        ("Thought: I now know the final answer\nFinal Answer: Hello\nyou.", "Hello\nyou."),
        ("Final Answer: Hello.", "Hello."),
    ],
)
def test_a_turn_may_need_no_call(value: str, answer: str) -> None:
    assert the_turn(value) == Turn("Light!", (), answer)


def test_the_final_answer_may_speak_of_final_answers() -> None:
    turn = the_turn(called("lamp", "{'room': 'hall'}") + FINAL + "\nNot a Final Answer: a draft.\nAction: none.")
    assert turn.answer == "Done.\nNot a Final Answer: a draft.\nAction: none."


def test_conversations_may_be_the_text_of_a_python_list() -> None:
    plain = record(system(LAMP), 'It\'s "dark"', called("lamp", "{'room': 'cook\\'s'}") + FINAL)
    assert ms_agent.parse(plain | {"conversations": str(plain["conversations"])}) == ms_agent.parse(plain)


@pytest.mark.parametrize(
    ("row", "instruction"),
    [
        (record("You are a poet.", "Hi", "Hello."), "You are a poet."),
        (record("", "Hi", "Hello."), Role()),
        ({"conversations": record("", "Hi", "Hello.")["conversations"][1:]}, Role()),
        (record("", "Hi", "Hello.", instruction="Be kind."), "Be kind."),
        (record(system(LAMP), "Hi", "Hello.", instruction="Be kind."), "Be kind."),
    ],
)
def test_a_system_message_that_lists_no_tools_is_the_instruction(row: dict, instruction: str | Role) -> None:
    dialogue = ms_agent.parse(row)
    assert dialogue.instruction == instruction
    assert bool(dialogue.tools) is ("APIs" in str(row))


def lit(arguments: str) -> dict:
    return record(system(LAMP), "Light!", called("lamp", arguments) + FINAL)


def listing(parameters: str) -> dict:
    return record(system(f"x: Does. Parameters: {parameters}"), "Hi", "Hello.")


def answered(value: str) -> dict:
    return record(system(LAMP), "Light!", value)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"id": "r1"}, "'conversations' is NoneType"),
        ({"conversations": []}, "'conversations' is list, not a list of messages"),
        ({"conversations": "[1, 2"}, r"neither JSON nor a Python literal \(SyntaxError\): '\[1, 2'"),
        ({"conversations": ["Hi"]}, "a message is no {'from', 'value'} pair"),
        ({"conversations": [{"role": "user", "content": "Hi"}]}, r"a message is no {'from', 'value'} pair .*'from'"),
        (record(""), "dialogue 'r1' has no turns"),
        (record("", "Hi"), "the last user message has no reply"),
        ({"conversations": [{"from": "assistant", "value": "Hi"}]}, "message 0 is from 'assistant' where 'user' is"),
        ({"conversations": [{"from": "user", "value": "Hi"}] * 2}, "message 1 is from 'user' where 'assistant' is"),
        (record("", "Hi", "Hello.", instruction=["Be kind."]), "'instruction' is list, not text"),
        (record("", "Hi", "  "), "the turn for query 'Hi' has no answer"),
        (record(HEADER + "lamps and more", "Hi", "Hello."), "the tool list cannot be read: 'lamps and more'"),
        (record(system(LAMP, "radio, no parameters"), "Hi", "Hello."), "cannot be read after tool 1: .*radio"),
        (record(system("x: Does. Parameters: [{]"), "Hi", "Hello."), "tool 'x': no readable 'Parameters:' follows it"),
        (record(system("x: Does."), "Hi", "Hello."), "tool 'x': no readable 'Parameters:' follows it"),
        (record(system(LAMP, LAMP), "Hi", "Hello."), "dialogue 'r1' offers a tool twice: .*'lamp'"),
        (listing('[{"description": "nameless"}]'), "tool 'x': a parameter cannot be read .*'name'"),
        (listing('["room"]'), "tool 'x': a parameter cannot be read"),
        (listing("5"), "tool 'x': no readable 'Parameters:' follows it"),
        (listing('{"room": "text"}'), "tool 'x': parameters must be a JSON schema of type object"),
        (listing('{"type": "object", "properties": {}, "required": ["n"]}'), r"tool 'x': required parameters \['n'\]"),
        (listing('{"type": "object", "properties": {}, "required": null}'), "tool 'x': 'required' is no list"),
        (listing('{"type": "object", "properties": {"n": {}}, "required": [["n"]]}'), "tool 'x': 'required' is no"),
        (listing('{"type": "object", "properties": {"n": 5}}'), "tool 'x': a property is no JSON schema"),
        (listing('{"type": "object", "properties": {"n": "type"}}'), "tool 'x': a property is no JSON schema"),
        (lit("hall"), r"neither JSON nor a Python literal \(ValueError\): 'hall'"),
        (lit("{'room': open('x')}"), r"neither JSON nor a Python literal \(ValueError\)"),
        (lit("{[]: 1}"), r"neither JSON nor a Python literal \(TypeError\): '{\[\]: 1}'"),
        (lit("['hall']"), r"arguments are list, not an object by parameter name: \"\['hall'\]\""),
        (lit("'hall'"), "arguments are str, not an object by parameter name"),
        (lit("{'room': {'hall'}}"), "arguments hold what JSON cannot .*set.*'hall'"),
        (lit("{'size': 1e999}"), "arguments hold what JSON cannot"),
        (lit("{'size': NaN}"), "neither JSON nor a Python literal"),
        (answered(called("radio", "{}") + FINAL), r"dialogue 'r1': call to 'radio', which is not among .*\['lamp'\]"),
        (record("", "Light!", called("lamp", "{}") + FINAL), "call to 'lamp', which is not among the tools offered"),
        (answered(called("lamp", "{}")), "the trace ends without a final answer"),
        (answered(called("lamp", "{}") + "Thought: Well."), "the trace ends without a final answer: 'Thought: Well.'"),
        (answered("Action: lamp\nAction Input: {}\n" + FINAL), "a step cannot be read: 'Action: lamp"),
        (answered("Action: lamp\nAction Input: {}"), "a call without a result: 'Action: lamp"),
        (answered("Sure!\n" + called("lamp", "{}") + FINAL), "a step cannot be read: 'Sure!"),
        (answered("Action: lamp\nAction Input: {}\n" + called("lamp", "{}") + FINAL), "neither JSON nor a Python"),
        (answered(called("lamp", "{}") + "Thought: I now know the final answer\nFinal Answer: "), "has no answer"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_a_reason_that_names_it(row: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ms_agent.parse(row)
