"""ms_agent records, as rich and as uneven as the real ones, become dialogues or a reason that names the thing."""

import json
import re
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from dialogues import dialogues, plain_dialogues
from hypothesis import given, settings

from fabrictune.dialogue import Call, Dialogue, Role, Step, Tool, Turn
from fabrictune.formats import agentfabric, ms_agent
from fabrictune.sources import synthetic

GOLDEN = Path(__file__).parent / "golden" / "ms_agent"
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
WAITING = "Action: lamp\nAction Input: {}\n"
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


_LIKE_A_STEP = re.compile(r"^[ \t]*(Thought|Action|Action Input|Observation|Final Answer)", re.M)


def _lines(text: str) -> str:
    """The text without Windows line ends."""
    return re.sub(r"\r+\n", "\n", text)


def _holdable(text: str) -> str:
    """The text as the trace can hold it in a thought or an observation."""
    return _LIKE_A_STEP.sub("-", _lines(text)).strip()


def _kept(dialogue: Dialogue) -> Dialogue:
    """The dialogue without what the module says that the format does not hold."""
    turns = []
    for turn in dialogue.turns:
        steps, pending = (
            tuple(replace(s, observation=_holdable(s.observation), thought=_holdable(s.thought)) for s in group)
            for group in (turn.steps, turn.pending)
        )
        answer = _lines(turn.answer).strip()
        turns.append(replace(turn, query=_lines(turn.query), steps=steps, answer=answer, pending=pending, files=()))
    tools = tuple(replace(tool, description=_lines(tool.description).strip()) for tool in dialogue.tools)
    return replace(dialogue, tools=tools, turns=tuple(turns), knowledge="")


@given(dialogues() | plain_dialogues())
@settings(max_examples=100, deadline=None)
def test_what_the_format_holds_reads_back_as_it_was_however_wild(dialogue: Dialogue) -> None:
    kept = _kept(dialogue)
    assert ms_agent.parse(json.loads(json.dumps(ms_agent.render(kept)))) == kept


def test_a_schema_that_the_list_of_parameters_cannot_say_is_written_whole() -> None:
    box = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    nested = schema(["b", "a"], a=box, b={"description": "no type", "name": 5}) | {"additionalProperties": False}
    dialogue = Dialogue("d", (Tool("x", "Packs.", nested),), (Turn("Hi", (), "Hello."),), "Be brief.")
    assert ms_agent.parse(ms_agent.render(dialogue)) == dialogue


@pytest.mark.parametrize(
    "answer",
    [
        "Thought: I now know the final answer\nFinal Answer: 42",
        "I now know the final answer\nFinal Answer: 42",
        "Final Answer: 42",
        "Thought: none",
        "Write\nAction: x\nAction Input: {}",
    ],
)
def test_an_answer_in_the_words_of_the_trace_reads_back_as_an_answer(answer: str) -> None:
    turns = Turn("Hi", (), answer), Turn("Light!", (Step(Call("lamp", {}), "on"),), answer)
    dialogue = Dialogue("d", (LAMP_TOOL,), turns, "Be brief.")
    assert ms_agent.parse(ms_agent.render(dialogue)) == dialogue


def test_a_record_becomes_the_exchanges_that_its_reader_expects_by_hand() -> None:
    row = json.loads((GOLDEN / "record.json").read_text(encoding="utf-8"))
    golden = json.loads((GOLDEN / "exchanges.json").read_text(encoding="utf-8"))
    texts = {name: "\n".join(lines) for name, lines in golden["texts"].items()}
    rendered = [
        ([[message.role, message.content] for message in exchange.messages], exchange.reply_text)
        for exchange in agentfabric.render(ms_agent.parse(row), "golden")
    ]
    assert rendered == [
        ([[role, texts[name]] for role, name in exchange["messages"]], "\n".join(exchange["reply"]))
        for exchange in golden["exchanges"]
    ]


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


@pytest.mark.parametrize(
    ("query", "instruction", "knowledge", "said"),
    [
        ("Hi", Role(), "", None),
        ("Hi", "", "", ""),
        ("Hi", " Be brief.\n", "", " Be brief.\n"),
        ("Hi", Role(), "Open at nine.", "# Knowledge Base\n\nOpen at nine."),
        ("你好", "Be brief.", "Open at nine.", "# 知识库\n\nOpen at nine.\n\nBe brief."),
        (
            "Hi",
            Role("Ada", "a guide", "show"),
            "",
            "You are playing as an AI-Agent, Your name is Ada.a guide\nYou have the following specific functions:show\n"
            "Now you will start playing asAda",
        ),
    ],
)
@pytest.mark.parametrize("offered", [(), (LAMP_TOOL,)])
def test_the_instruction_spells_out_knowledge_and_role(query, instruction, knowledge, said, offered) -> None:
    dialogue = Dialogue("d", offered, (Turn(query, (), "Hello."),), instruction, knowledge)
    written = ms_agent.render(dialogue)
    assert written.get("instruction") == said
    assert ms_agent.parse(written) == replace(
        dialogue, knowledge="", instruction=ms_agent.UNNAMED if said is None else said
    )


def test_uploaded_files_cannot_be_written() -> None:
    turns = Turn("Hi", (), "Hello."), Turn("Sum it.", (), "7.", ("a.csv", "b.csv"))
    refused = (
        r"^ms_agent records cannot hold uploaded files: the query 'Sum it\.' has \['a.csv', 'b.csv'\]; "
        "give data.format=openai$"
    )
    with pytest.raises(ValueError, match=refused):
        ms_agent.render(Dialogue("d", (LAMP_TOOL,), turns))


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
        ("Takes Parameters: [] or more.", "Takes Parameters: [] or more."),
        (
            "Call this tool to interact with the x API. What is the x API useful for? What is it useful for? All.",
            ("What is it useful for? All"),
        ),
        ("Ask not what it is useful for? Ask.", "Ask not what it is useful for? Ask."),
        ("What it does:\n\n1. count: all\n\n3. sum: none", "What it does:\n\n1. count: all\n\n3. sum: none"),
        (
            "Call this tool to interact with the x API. What is the x API useful for? It's “全角”，【括号】！.",
            ("It's “全角”，【括号】！"),
        ),
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


def test_the_list_of_ms_swifts_later_prompt_says_tools_without_numbers_and_ends_no_description_for_us() -> None:
    frame = "Call this tool to interact with the {0} API. What is the {0} API useful for?"
    text = '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}'
    ends = "Format the arguments as a JSON object."
    items = [
        f"x y: {frame.format('x y')} Counts. Parameters: {text} {ends}",
        f"z: {frame.format('z')}  Parameters: {{}} {ends}",
    ]
    prompt = HEADER.replace("APIs:", "tools:\n") + "\n\n".join(items) + FOOTER.format(names="x y,z")
    assert ms_agent.parse(record(prompt, "Hi", "Hello.")).tools == (
        Tool("x y", "Counts.", schema(["n"], n={"type": "integer"})),
        Tool("z", "", schema([])),
    )


def test_blanks_and_windows_line_ends_change_nothing() -> None:
    plain = record(
        system(LAMP), "Light!", "Thought: Let\nme see.\n" + called("lamp", '{"room":\n"hall"}', "on") + FINAL
    )
    spaced = [message | {"value": f"\n  {message['value']}\n\n"} for message in plain["conversations"]]
    windows = [{"from": m["from"], "value": m["value"].replace("\n", "\r\n")} for m in spaced]
    expected = ms_agent.parse(plain)
    for conversations in (spaced, windows):
        dialogue = ms_agent.parse(plain | {"conversations": conversations})
        assert dialogue.tools == expected.tools
        assert dialogue.instruction == expected.instruction
        assert replace(dialogue.turns[0], query="Light!") == expected.turns[0]


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
        ("{'on': True, 'size': (1, 2)}", {"on": True, "size": [1, 2]}),
        ('{\n  "room":\n  "hall"\n}', {"room": "hall"}),
        ("{'note': 'Action Input: no, Final Answer: no'}", {"note": "Action Input: no, Final Answer: no"}),
        ("{'code': 'a\\nObservation: b'}", {"code": "a\nObservation: b"}),
        ('{"code": "for x in y:\n\tprint(x)"}', {"code": "for x in y:\n\tprint(x)"}),
        ("", {}),
        ("None", {}),
    ],
)
def test_arguments_are_read_from_python_and_from_json(text: str, arguments: dict) -> None:
    (step,) = the_turn(called("lamp", text) + FINAL).steps
    assert step.call == Call("lamp", arguments)


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
        ("I now know the final answer.\nFinal Answer: Hello.", "Hello."),
        ("Thought: I now know the final answer. Final Answer: Hello.", "Hello."),
        ("Thought: 我知道了\n还有\nFinal Answer: Hello.", "Hello."),
        ("ReAct ends with a line\nFinal Answer: 42", "ReAct ends with a line\nFinal Answer: 42"),
        ("Say Final Answer: 42 if you must.", "Say Final Answer: 42 if you must."),
    ],
)
def test_a_turn_may_need_no_call(value: str, answer: str) -> None:
    assert the_turn(value) == Turn("Light!", (), answer)


def test_the_final_answer_may_speak_of_final_answers() -> None:
    turn = the_turn(called("lamp", "{'room': 'hall'}") + FINAL + "\nNot a Final Answer: a draft.\nAction: none.")
    assert turn.answer == "Done.\nNot a Final Answer: a draft.\nAction: none."


def test_text_before_the_first_call_is_its_thought_marked_or_not() -> None:
    (step,) = the_turn("Sure!\nOne moment.\n" + called("lamp", "{}") + FINAL).steps
    assert step == Step(Call("lamp", {}), "ok", "Sure!\nOne moment.")


@pytest.mark.parametrize(
    "observation",
    [
        "Press Action: red, then say Final Answer: done. Thought: none.",
        "1. Press\nAction: red\n2. wait",
        "a page says\nFinal Answer: 7\nand ends",
        "Observation: nested\nObservation: twice",
    ],
)
def test_an_observation_may_speak_the_words_of_the_trace(observation: str) -> None:
    turn = the_turn(called("lamp", "{}", observation) + FINAL)
    assert [step.observation for step in turn.steps] == [observation]
    assert turn.answer == "Done."


@pytest.mark.parametrize("end", ["", "Observation:", "Observation: \n"])
def test_calls_at_the_very_end_wait_for_their_results(end: str) -> None:
    value = called("lamp", "{'room': 'hall'}", "on") + "Thought: And\nnow?\n" + WAITING + end
    assert the_turn(value) == Turn(
        "Light!",
        (Step(Call("lamp", {"room": "hall"}), "on"),),
        "",
        pending=(Step(Call("lamp", {}), "", "And\nnow?"),),
    )


def test_several_calls_at_once_may_wait() -> None:
    value = WAITING + "Thought: Both.\n" + WAITING.replace("{}", "{'room': 'hall'}")
    waiting = Step(Call("lamp", {}), ""), Step(Call("lamp", {"room": "hall"}), "", "Both.")
    assert the_turn(value) == Turn("Light!", (), "", pending=waiting)


@pytest.mark.parametrize("write", [str, json.dumps, lambda value: json.dumps(value, ensure_ascii=False, indent=1)])
def test_conversations_may_be_the_text_of_a_list_in_python_or_json(write) -> None:
    plain = record(system(LAMP), 'It\'s "dark" 😀，\\d', called("lamp", "{'room': 'cook\\'s'}") + FINAL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ms_agent.parse(plain | {"conversations": write(plain["conversations"])}) == ms_agent.parse(plain)


def test_json_escapes_of_one_character_are_joined_in_a_python_list() -> None:
    text = r"[{'from': 'user', 'value': '\ud83d\ude00'}, {'from': 'assistant', 'value': 'Hi'}]"
    assert ms_agent.parse({"conversations": text}).turns == (Turn("😀", (), "Hi"),)


@pytest.mark.parametrize(
    ("row", "instruction"),
    [
        (record("You are a poet.", "Hi", "Hello."), "You are a poet."),
        (record("", "Hi", "Hello."), Role()),
        ({"conversations": record("", "Hi", "Hello.")["conversations"][1:]}, Role()),
        (record("", "Hi", "Hello.", instruction="Be kind."), "Be kind."),
        (record(system(LAMP), "Hi", "Hello.", instruction="Be kind."), "Be kind."),
        (record("You are a poet.", "Hi", "Hello.", instruction="Be kind."), "You are a poet.\nBe kind."),
        (record(f"You are a lamp.\n{system(LAMP)}\n\nBe bright.", "Hi", "Hello."), "You are a lamp.\nBe bright."),
        (record(system(), "Hi", "Hello.", instruction=""), ""),
    ],
)
def test_a_system_message_that_lists_no_tools_is_the_instruction(row: dict, instruction: str | Role) -> None:
    dialogue = ms_agent.parse(row)
    assert dialogue.instruction == instruction
    assert bool(dialogue.tools) is ("1. lamp" in str(row))


def lit(arguments: str) -> dict:
    return record(system(LAMP), "Light!", called("lamp", arguments) + FINAL)


def listing(parameters: str) -> dict:
    return record(system(f"x: Does. Parameters: {parameters}"), "Hi", "Hello.")


def answered(value: str) -> dict:
    return record(system(LAMP), "Light!", value)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"id": "r1"}, r"no row without conversations: the row has \['id'\]"),
        ({"conversations": []}, r"'conversations' is list, not a list of messages: \[\]"),
        ({"conversations": "[1, 2"}, r"neither JSON nor a Python literal: '\[1, 2'"),
        ({"conversations": ["Hi"]}, "a message is no {'from', 'value'} pair: str 'Hi'"),
        ({"conversations": [{"role": "user", "content": "Hi"}]}, "a message is no {'from', 'value'} pair: dict {"),
        (record(""), "no message is from a user"),
        (record("", "Hi"), "the last user message has no reply"),
        ({"conversations": [{"from": "assistant", "value": "Hi"}]}, "do not take turns: message 0 is from 'assistant'"),
        ({"conversations": [{"from": "user", "value": "Hi"}] * 2}, "do not take turns: message 1 is from 'user'"),
        (record("", "Hi", "Hello.", instruction=["Be kind."]), r"'instruction' is list, not text: \['Be kind.'\]"),
        (record("", "Hi", "  "), "a reply is empty: to 'Hi'"),
        (record(HEADER + "lamps and more", "Hi", "Hello."), "tool list cannot be read: 'lamps and more' after tool 0"),
        (record(system(LAMP, "radio, no parameters"), "Hi", "Hello."), "cannot be read: '2. radio, .*after tool 1"),
        (record(system("x: Does. Parameters: [{]"), "Hi", "Hello."), "a tool has no readable Parameters: 'x'"),
        (record(system("x: Does."), "Hi", "Hello."), "a tool has no readable Parameters: 'x'"),
        (record(system(LAMP, LAMP), "Hi", "Hello."), "dialogue 'r1' offers a tool twice: .*'lamp'"),
        (listing('[{"description": "nameless"}]'), "a parameter has no name of its own: tool 'x', .*nameless"),
        (listing('["room"]'), "a parameter has no name of its own: tool 'x', 'room'"),
        (listing("5"), "a tool has no readable Parameters: 'x'"),
        (listing('{"room": "text"}'), "tool 'x': parameters must be a JSON schema of type object"),
        (listing('{"type": "object", "properties": {}, "required": ["n"]}'), r"tool 'x': required parameters \['n'\]"),
        (listing('{"type": "object", "properties": {}, "required": null}'), "tool 'x': 'required' is no list"),
        (listing('{"type": "object", "properties": {"n": {}}, "required": [["n"]]}'), "tool 'x': 'required' is no"),
        (listing('{"type": "object", "properties": {"n": 5}}'), "tool 'x': a property is no JSON schema"),
        (listing('{"type": "object", "properties": {"n": "type"}}'), "tool 'x': a property is no JSON schema"),
        (lit("hall"), "neither JSON nor a Python literal: 'hall'"),
        (lit("['hall']"), r"arguments are no object by parameter name: \['hall'\]"),
        (lit("{'room': {'hall'}}"), "a value that JSON does not hold: .*set.*'hall'"),
        (answered(called("radio", "{}") + FINAL), r"dialogue 'r1': call to 'radio', which is not among .*\['lamp'\]"),
        (record("", "Light!", called("lamp", "{}") + FINAL), "call to 'lamp', but the row offers no tools"),
        (answered(called("lamp", "{}")), "the trace ends without a final answer"),
        (answered(called("lamp", "{}") + "Thought: Well."), "the trace ends without a final answer: .*Thought: Well.'"),
        (answered(WAITING + FINAL), "a call without a result is followed by more: to 'lamp'"),
        (answered(WAITING + called("lamp", "{}") + FINAL), "a call without a result is followed by more: to 'lamp'"),
        (answered(WAITING + called("lamp", "{}")), "a call without a result is followed by more: to 'lamp'"),
        (answered(WAITING + "Thought: Well."), "the trace ends without a final answer: .*Well.'"),
        (record(system(LAMP), "Light!", WAITING, "So?", "Well."), "'r1' goes on after a call without a result"),
        (answered("Action: lamp"), "a step cannot be read: 'Action: lamp'"),
        (answered("Action: lamp\n" + called("lamp", "{}") + FINAL), "a step cannot be read: 'Action: lamp'"),
        (answered("Observation: dark\n" + FINAL), "a step cannot be read: 'Observation: dark"),
        (answered("Thought: I should wave."), "the trace ends without a final answer: 'Thought: I should wave.'"),
        (answered("Final Answer: "), "the trace ends without a final answer: 'Final Answer:'"),
        (answered(called("lamp", "{}") + "Thought: I now know the final answer\nFinal Answer: "), "a final answer: .*"),
        ({"conversations": [{"from": "user", "value": None}]}, "a message is no text: dict"),
        ({"conversations": [{"from": "user", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]}, "from 'gpt'"),
        (record("", "Hi", "Hello.", "Still there?"), "the last user message has no reply"),
        (record(system("x: Does.", LAMP), "Hi", "Hello."), "a tool has no readable Parameters: 'x'"),
        (listing('[{"name": "n", "required": "perhaps"}]'), "'required' is neither True nor False: tool 'x'"),
        (listing('[{"name": "n"}, {"name": "n"}]'), "a parameter has no name of its own: tool 'x', {'name': 'n'}"),
        (lit("[" * 9999), r"values nested too deeply: '\[\[\["),
        (listing("[" * 9999), "values nested too deeply: in the parameters of tool 'x'"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_a_reason_that_names_it(row: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ms_agent.parse(row)
