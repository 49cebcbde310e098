"""A row of an AgentFabric client says what its user and its model said, or it is refused with a reason."""

import json
import posixpath
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fabrictune import protocol
from fabrictune.dialogue import Call, Dialogue, Exchange, Role, Step, Tool, Turn, from_json
from fabrictune.formats import agentfabric, captured

GOLDEN = Path(__file__).parent / "golden" / "captured" / "rows.jsonl"
ROWS = {row["name"]: row for row in map(json.loads, GOLDEN.read_text(encoding="utf-8").splitlines())}
RECORDINGS = {
    f"{path.parent.name}/{path.stem}": json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((GOLDEN.parents[1] / "agentfabric").rglob("*.json"))
}
PLAYED = [name for name, recording in RECORDINGS.items() if recording["dialogue"] and "requests" in recording]

CITY = {"type": "object", "properties": {"city": {"type": "string", "description": "the city"}}, "required": ["city"]}
WEATHER = Tool("weather", "Tells the weather", CITY)
CLOCK = Tool("clock", "告诉时间", {"type": "object", "properties": {}, "required": []})
SUNNY = Step(Call("weather", {"city": "Oslo"}), "sunny")
CALL = 'Action: weather\nAction Input: {"city": "Oslo"}\n'
TRACE = "(. you can use tools: [weather,clock])Oslo?" + CALL + "Observation: <result>sunny</result>\nAnswer:"


def chat(*contents: str, reply: object, **rest: object) -> dict[str, object]:
    """A row whose messages, behind the system message, hold the contents."""
    system = protocol.system_text((WEATHER, CLOCK), "Be brief.", "", "en")
    roles = ("system", *("user", "assistant") * len(contents))
    messages = [{"role": role, "content": text} for role, text in zip(roles, (system, *contents), strict=False)]
    return {"messages": messages, "reply": reply} | rest


def as_row(exchange: Exchange) -> dict[str, object]:
    """The exchange as a recorder in front of a server would keep it: the server cuts a call at the stop string."""
    messages = [{"role": message.role, "content": message.content} for message in exchange.messages]
    return {"model": "m", "messages": messages, "reply": exchange.reply_text.removesuffix("Observation:")}


def said(*turns: Turn, tools: tuple[Tool, ...] = (WEATHER, CLOCK), **rest: object) -> Dialogue:
    return Dialogue("", tools, turns, **{"instruction": "Be brief."} | rest)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_every_form_says_what_stands_in_the_golden_file(name: str) -> None:
    assert captured.parse(ROWS[name]["row"]) == from_json(ROWS[name]["dialogue"])


def spaced(bodies: list[list[dict[str, str]]]) -> str:
    """The messages without blank lines before a call, which a script may have and the renderer has not."""
    return re.sub(r"(\\n)+Action:", "Action:", json.dumps(bodies, ensure_ascii=False))


@pytest.mark.parametrize("name", PLAYED)
def test_the_last_row_that_a_real_client_made_says_all_that_it_had_asked_in_its_turn(name: str) -> None:
    recording = RECORDINGS[name]
    bodies = [body["messages"] for body in recording["requests"]]
    script = [reply.partition("Observation:")[0] for reply in recording["script"]]
    rows = [{"messages": body, "reply": reply} for body, reply in zip(bodies, script, strict=True)]
    *_, (line, text) = captured.uncovered(lines(*rows))
    assert line == len(rows)
    dialect = protocol.V072 if name.startswith("v072/") else protocol.APRIL
    parsed = captured.parse(json.loads(text))
    # The texts of earlier turns, which the language depends on, are not all in the dialogue: files are not.
    said_again = [
        [as_row(one)["messages"] for one in agentfabric.render(parsed, "test", dialect=dialect, language=lang)]
        for lang in ("zh", "en")
    ]
    asked = len(parsed.turns[-1].steps) + 1
    assert spaced(bodies[-asked:]) in [spaced(messages[-asked:]) for messages in said_again]
    assert [turn.query for turn in parsed.turns] == [turn["query"] for turn in recording["dialogue"]["turns"]]


@pytest.mark.parametrize("key", captured.REPLY_KEYS)
def test_the_reply_has_any_of_its_usual_keys(key: str) -> None:
    row = chat(TRACE, reply=None) | {key: " Sunny."}
    assert captured.parse(row) == said(Turn("Oslo?", (SUNNY,), "Sunny."))


def test_the_reply_can_be_the_last_message() -> None:
    row = chat(TRACE, " Sunny.", reply=None)
    assert captured.parse(row) == said(Turn("Oslo?", (SUNNY,), "Sunny."))


@pytest.mark.parametrize("stop", ["", "Observation:", "\nObservation:", "Observation:\n"])
def test_a_reply_that_calls_is_pending_with_or_without_the_stop_string(stop: str) -> None:
    row = chat("(. you can use tools: [weather,clock])Oslo?", reply="Let me look.\n" + CALL + stop)
    assert captured.parse(row) == said(
        Turn("Oslo?", (), "", pending=(Step(SUNNY.call, "", "Let me look."),)),
    )


@pytest.mark.parametrize(
    "written",
    [
        '{"city": "Oslo"}',
        "{'city': 'Oslo'}",
        '{\n  "city": "Oslo"\n}',
        "{city: 'Oslo',} // json5",
        ' {"city" : "Oslo"}  ',
    ],
)
def test_arguments_as_clients_accept_them_become_json(written: str) -> None:
    row = chat(TRACE.replace('{"city": "Oslo"}', written), reply=" Sunny.")
    assert captured.parse(row) == said(Turn("Oslo?", (SUNNY,), "Sunny."))


def test_python_words_in_arguments_become_json() -> None:
    written = "{'city': None, 'days': (1, 2), 'long': True}"
    row = chat(TRACE.replace('{"city": "Oslo"}', written), reply=" Sunny.")
    assert captured.parse(row).calls == [Call("weather", {"city": None, "days": [1, 2], "long": True})]


BARE = "(. you can use tools: [weather,clock])Oslo?"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (chat(BARE, reply=CALL + CALL), "two calls in one reply"),
        (chat(BARE, reply=CALL + "Observation: <result>rain</result>"), "a reply invents a result"),
        (chat(BARE, reply="Observation: <result>rain</result> Rain."), "a reply invents a result"),
        (chat(BARE, reply="<result>rain</result> Rain."), "a reply invents a result"),
        (chat(BARE, reply='Action: weather\nAction Input: {"city": "Os'), "a call's arguments are no JSON object"),
        (chat(BARE, reply="Action: weather\nAction Input: ['Oslo']"), "a call's arguments are no JSON object"),
        (chat(BARE, reply="Action: weather\nAction Input:"), "a call's arguments are no JSON object"),
        (chat(BARE, reply='Action: weather\nAction Input: {"a": NaN}'), "a call's arguments are no JSON object"),
        (chat(BARE, reply=CALL + "That is all."), "a call's arguments are no JSON object"),
        (chat(BARE, reply="Action: weather Action Input: {}"), "a call that cannot be read"),
        (chat(BARE, reply=CALL.replace("weather", "stars")), "a call to a tool that is not on offer"),
        (chat(BARE, reply="  "), "the row has no reply"),
        (chat(BARE, reply=None), "the row has no reply"),
        (chat(BARE, reply={"choices": []}), "the row has no reply"),
        (chat(BARE, reply=[{"weight": 1.0}]), "the row has no reply"),
        (chat(TRACE.replace(CALL, CALL + CALL), reply="Sunny."), "two calls in one reply"),
        (chat(TRACE.replace("weather\n", "stars\n"), reply="Sunny."), "a call to a tool that is not on offer"),
        (chat(TRACE.replace('"Oslo"}', '"Oslo"'), reply="Sunny."), "a call's arguments are no JSON object"),
        (chat(TRACE.replace(CALL, "I know.\n"), reply="Sunny."), "a call that cannot be read"),
        (chat(TRACE.replace(CALL, "I look.\n" + CALL), reply="Sunny."), "the query cannot be told from words said"),
        (chat(TRACE, reply="Sunny.", query="Rome?"), "query is not what the newest user message begins with"),
        (chat("Oslo?", CALL + "Observation: <result>s</result>\nAnswer:", BARE, reply="Hi"), "a turn has no answer"),
        (chat("Oslo?", CALL, BARE, reply="Hi"), "a call that cannot be read"),
        (chat("Oslo?", CALL + "\nObservation: <result>sun", BARE, reply="Hi"), "the trace cannot be read"),
        (chat("Oslo?", reply="Sunny."), "the newest user message lacks the client's prefix"),
        (chat(reply="Sunny."), "the row has no user message"),
        ({"messages": [{"role": "user", "content": "Hi"}], "reply": "Hi"}, "a message is out of turn"),
        ({"messages": [{"role": "system", "content": [1]}], "reply": "Hi"}, "a message's content is not text"),
        ({"messages": [], "reply": "Hi"}, "not a row of an AgentFabric client"),
        ({"request": "?", "reply": "Hi"}, "not a row of an AgentFabric client"),
    ],
)
def test_what_cannot_be_read_or_must_not_be_learned_is_refused(row: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError) as refusal:
        captured.parse(row)
    assert str(refusal.value).startswith(reason)
    assert ": " in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("\n#Instructions\n\n", "\n#Orders\n\n"), "the tool list cannot be read"),
        (("must be one of [weather,clock]", "must be one of [clock]"), "the tool list cannot be read"),
        (("Action: The name of the tool,", "Action: The name of the tool 1,"), "the tool list cannot be read"),
        (('"required": ["city"]', '"required": ["city"'), "the tool list cannot be read"),
        (('"properties": {}', '"properties": []'), "a tool's schema cannot be read"),
        (("Don't say you can't do it.", ""), "the tool list cannot be read"),
    ],
)
def test_a_system_message_that_is_not_the_clients_is_refused(change: tuple[str, str], reason: str) -> None:
    row = json.loads(json.dumps(chat(BARE, reply="Hi")))
    row["messages"][0]["content"] = row["messages"][0]["content"].replace(*change)
    with pytest.raises(ValueError, match=f"^{reason}: "):
        captured.parse(row)


def test_a_system_message_of_another_agent_is_refused() -> None:
    row = {"messages": [{"role": "system", "content": "Hello"}, {"role": "user", "content": "Hi"}], "reply": "Hi"}
    with pytest.raises(ValueError, match="^the system message is not AgentFabric's: 'Hello'"):
        captured.parse(row)


def test_knowledge_that_quotes_a_prompt_is_told_by_the_words_before_the_query() -> None:
    quoted = "So:\n\n" + protocol.system_text((WEATHER,), "Quoted.", "", "en")
    meant = said(Turn("Hi", (), "Hello."), tools=(CLOCK,), knowledge=quoted)
    (only,) = agentfabric.render(meant, "test")
    assert captured.parse(as_row(only)) == meant


@pytest.mark.parametrize("tools", [(), (WEATHER,)])
def test_knowledge_that_quotes_a_prompt_to_which_the_words_fit_as_well_is_refused(tools: tuple[Tool, ...]) -> None:
    quoted = "So:\n\n" + protocol.system_text((WEATHER,), "Quoted.", "", "en")
    (only,) = agentfabric.render(said(Turn("Hi", (), "Hello."), tools=tools, knowledge=quoted), "test")
    with pytest.raises(ValueError, match="^the system message can be read in two ways: "):
        captured.parse(as_row(only))


@pytest.mark.parametrize("said_between", [" hi", "", " hi\nAnswer: ho"])
def test_a_result_that_holds_its_own_end_is_read_whole_where_nothing_else_can_be_meant(said_between: str) -> None:
    result = f"sunny</result>\nAnswer:{said_between}"
    row = chat(TRACE.replace("sunny", result), reply=" Sunny.")
    assert captured.parse(row) == said(Turn("Oslo?", (replace(SUNNY, observation=result),), "Sunny."))
    shown = CALL + f"\nObservation: <result>{result}</result>\nAnswer: Sunny."
    with pytest.raises(ValueError, match="^the trace can be read in two ways: "):
        captured.parse(chat("Oslo?", shown, BARE, reply="Hi"))


# --- Round trip -------------------------------------------------------------------------------------------------------

PIECES = [
    *("天气", "北京😀", "\n", "\n\n", '"', "'", "\\", " ", "{}", "]", ")", "(", "，", "a:", "<b>", "Final Answer: x"),
    *(
        "Action:",
        "Action: x\n",
        "Action Input: {}",
        "Observation:",
        "\nObservation: <result>",
        "</result>",
        "\nAnswer:",
    ),
    *("\n# 工具\n", "\n\n\n# 指令\n\n", "\n\n\n#Instructions\n\n", " Parameters: {}", " 输入参数: {}", "##"),
]
NASTY = st.lists(st.sampled_from(PIECES) | st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=5)
NASTY_TEXT = NASTY.map("".join)
# What a model or a user of ordinary manners writes, in one line or several.
MILD_TEXT = st.lists(
    st.sampled_from(["Oslo", "北京😀", '"', "'", "\\n", "{}", "。", "?", "a\nb", "x"]), min_size=1, max_size=4
).map(" ".join)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | NASTY_TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NASTY_TEXT, inner, max_size=2),
    max_leaves=3,
)
NAMES = st.sampled_from(["weather", "clock", "code_interpreter", "天气", "find a-b", "x.y"])
PROPERTIES = st.dictionaries(
    NASTY_TEXT, st.fixed_dictionaries({"type": st.just("string"), "description": NASTY_TEXT}), max_size=2
)


@st.composite
def tools(draw: st.DrawFn, descriptions: st.SearchStrategy[str]) -> tuple[Tool, ...]:
    names = draw(st.lists(NAMES, unique=True, max_size=3))
    made = []
    for name in names:
        properties = draw(PROPERTIES)
        required = draw(st.lists(st.sampled_from(sorted(properties)), unique=True)) if properties else []
        schema = {"type": "object", "properties": properties, "required": required}
        made.append(Tool(name, draw(descriptions), schema))
    return tuple(made)


@st.composite
def turns(draw: st.DrawFn, offered: list[str], texts: st.SearchStrategy[str], results: st.SearchStrategy[str]) -> Turn:
    files = draw(st.lists(st.sampled_from(["a.csv", "图.png", "b c.txt"]), max_size=2))
    calls = st.builds(Call, st.sampled_from(offered), st.dictionaries(NASTY_TEXT, VALUES, max_size=2))
    steps = draw(st.lists(st.builds(Step, calls, results, texts | st.just("")), max_size=3)) if offered else []
    return Turn(draw(texts), tuple(steps), draw(texts), tuple(files))


@st.composite
def dialogues(draw: st.DrawFn, texts: st.SearchStrategy[str], results: st.SearchStrategy[str]) -> Dialogue:
    texts = texts.map(str.strip).filter(bool)
    offered = draw(tools(texts))
    roles = st.builds(Role, texts | st.just(""), texts | st.just(""), texts | st.lists(texts, max_size=3).map(tuple))
    made = draw(st.lists(turns([tool.name for tool in offered], texts, results), min_size=1, max_size=3))
    return Dialogue("d", offered, tuple(made), draw(roles | texts), draw(texts | st.just("")))


RENDERINGS = st.fixed_dictionaries(
    {
        "dialect": st.sampled_from([protocol.APRIL, protocol.V072]),
        "language": st.sampled_from([None, "zh", "en"]),
        "shape": st.sampled_from(["chat", "raw"]),
        "blank_line": st.sampled_from([None, True, False]),
    }
)


def held(dialogue: Dialogue, exchange: Exchange, shape: str) -> Dialogue:
    """What the row of an exchange can hold of its dialogue, after the list in the module's docstring."""
    newest = dialogue.turns[exchange.turn]
    cut = protocol.RAW_OBSERVATION_CHARACTERS if shape == "raw" else protocol.OBSERVATION_CHARACTERS
    steps = tuple(replace(step, observation=step.observation[:cut]) for step in newest.steps[: exchange.step])
    pending = tuple(replace(step, observation="") for step in newest.steps[exchange.step : exchange.step + 1])
    files = tuple(map(posixpath.basename, newest.files))
    last = Turn(newest.query, steps, "" if pending else newest.answer, files, pending)
    role = dialogue.instruction
    if isinstance(role, Role):
        listed = (
            role.instruction.removesuffix("；") if isinstance(role.instruction, str) else "；".join(role.instruction)
        )
        role = replace(role, instruction=(listed,) if listed.endswith("；") else listed)
    runs_code = bool(files) and "code_interpreter" in [tool.name for tool in dialogue.tools]
    return replace(
        dialogue,
        id="",
        turns=(*(replace(turn, files=()) for turn in dialogue.turns[: exchange.turn]), last),
        instruction=role,
        knowledge="" if runs_code else dialogue.knowledge[: protocol.KNOWLEDGE_CHARACTERS],
    )


def exchanges(dialogue: Dialogue, rendering: dict[str, object]) -> list[Exchange]:
    try:
        return list(agentfabric.render(dialogue, "test", **rendering))
    except ValueError:
        assume(False)
        raise


@settings(max_examples=200, deadline=None)
@given(dialogue=dialogues(MILD_TEXT, MILD_TEXT | st.just("") | st.just("日志。" * 1500)), rendering=RENDERINGS)
def test_every_exchange_of_a_dialogue_is_read_back_as_far_as_a_row_holds_it(
    dialogue: Dialogue, rendering: dict[str, object]
) -> None:
    for exchange in exchanges(dialogue, rendering):
        row = as_row(exchange) | {"query": dialogue.turns[exchange.turn].query}
        assert captured.parse(row) == held(dialogue, exchange, str(rendering["shape"]))


@settings(max_examples=250, deadline=None)
@given(dialogue=dialogues(NASTY_TEXT, NASTY_TEXT), rendering=RENDERINGS, told=st.booleans())
def test_text_full_of_the_protocols_own_words_is_read_as_it_was_meant_or_refused(
    dialogue: Dialogue, rendering: dict[str, object], told: bool
) -> None:
    for exchange in exchanges(dialogue, rendering):
        row = as_row(exchange) | ({"query": dialogue.turns[exchange.turn].query} if told else {})
        try:
            parsed = captured.parse(row)
        except ValueError:
            continue
        assert parsed == held(dialogue, exchange, str(rendering["shape"]))


@settings(max_examples=300, deadline=None)
@given(arguments=st.dictionaries(NASTY_TEXT, VALUES, max_size=3), result=NASTY_TEXT, rendering=RENDERINGS)
def test_arguments_and_results_may_hold_anything(
    arguments: dict[str, object], result: str, rendering: dict[str, object]
) -> None:
    assume("</result>\nAnswer:" not in result)
    step = Step(Call("weather", arguments), result)
    dialogue = said(Turn("Oslo?", (step, step), "Sunny."), Turn("And now?", (step,), "Rain."))
    for exchange in exchanges(dialogue, rendering):
        assert captured.parse(as_row(exchange)) == held(dialogue, exchange, str(rendering["shape"]))


# --- The tutorial's script --------------------------------------------------------------------------------------------


def scripted(listing: str, trace: str, names: str = '"lamp"') -> dict[str, object]:
    """A row with a faulty tool list, as the script writes it."""
    system = protocol.system_text((CLOCK,), Role(), "", "zh")
    system = system.replace(protocol.tool_line(CLOCK), listing).replace("[clock]", f"[{names}]")
    messages = ("system", system), ("user", "Do it."), ("assistant", trace)
    return {"id": "s", "conversations": [{"from": role, "value": text} for role, text in messages]}


def faulty_line(parameter: str, required: str = "[]", name: str = "lamp") -> str:
    shown = f'"\\{parameter}": {{"type": "string", "description": "which"}}' if parameter else ""
    schema = f'{{"type": "object", "properties": {{{shown}}},"required": {required}}}'
    return f"{name}: lamps API。Switches输入参数: {schema} Format the arguments as a JSON object."


def react(*calls: str, name: str = "lamp") -> str:
    steps = (f"Action: {name}\nAction Input: {call}\nObservation: done\n" for call in calls)
    return "".join(steps) + "Thought: I now know the final answer\nFinal Answer: Done."


@pytest.mark.parametrize("parameter", ["room", "text", "name", "unit", "url"])
def test_the_stray_backslash_is_no_escape(parameter: str) -> None:
    parsed = captured.parse(scripted(faulty_line(parameter, f'["{parameter}"]'), react(f"{{'{parameter}': 'hall'}}")))
    properties = {parameter: {"type": "string", "description": "which"}}
    assert parsed.tools == (
        Tool("lamp", "Switches", {"type": "object", "properties": properties, "required": [parameter]}),
    )
    assert parsed.turns == (Turn("Do it.", (Step(Call("lamp", {parameter: "hall"}), "done"),), "Done."),)
    assert parsed.instruction == Role()


@pytest.mark.parametrize(
    ("calls", "types", "required"),
    [
        (["{'room': 'hall', 'level': 2}"], {"room": "string", "level": "integer"}, ["room", "level"]),
        (["{'room': 'a', 'level': 2}", "{'room': 'b'}"], {"room": "string", "level": "integer"}, ["room"]),
        (["{'room': 'a', 'level': 2}", "{'room': 'b', 'level': 1.5}"], {"room": "string", "level": "number"}, None),
        (["{'room': 'a', 'level': None}", "{'room': 'b', 'level': [1]}"], {"room": "string", "level": "array"}, None),
        (["{'room': 'a', 'level': 'x'}", "{'room': 'b', 'level': {}}"], {"room": "string", "level": "string"}, None),
        (["{'room': {'a': 1}}"], {"room": "object"}, []),
        ([], {"room": "string"}, []),
    ],
)
def test_lost_parameters_and_types_come_back_from_the_calls(
    calls: list[str], types: dict[str, str], required: list[str] | None
) -> None:
    (tool,) = captured.parse(scripted(faulty_line("room"), react(*calls) if calls else "Hello.")).tools
    assert {name: schema["type"] for name, schema in tool.properties.items()} == types
    assert tool.required == (["room", "level"] if required is None else required)


def test_what_is_required_of_a_single_parameter_stands() -> None:
    (tool,) = captured.parse(scripted(faulty_line("room", '["room"]'), react("{'room': 'a', 'level': 2}"))).tools
    assert tool.required == ["room"]


def test_a_lost_tool_that_is_called_cannot_be_mended() -> None:
    with pytest.raises(ValueError, match="^a call to a tool that the row's tool list lost: 'door'"):
        captured.parse(scripted(faulty_line("room"), react("{}", name="door")))


def test_a_row_whose_only_tool_vanished_is_plain_talk() -> None:
    row = scripted("", "Hello.", names="")
    assert captured.parse(row) == Dialogue("s", (), (Turn("Do it.", (), "Hello."),), Role())


def test_another_tools_parameters_are_no_tools_own() -> None:
    with pytest.raises(ValueError, match=r"^a call lacks what its tool requires: 'lamp' without \['room'\]"):
        captured.parse(scripted(faulty_line("room", '["room"]'), react("[]")))


def test_a_description_cut_at_an_escaped_quote_is_read() -> None:
    line = faulty_line("room").replace("which", "the so-called \\")
    (tool,) = captured.parse(scripted(line, "Hello.")).tools
    assert tool.properties["room"]["description"] == "the so-called "


def test_names_with_blanks_or_chinese_are_found_in_the_scripts_list() -> None:
    listing = faulty_line("room", name="big lamp") + "\n\n" + faulty_line("", name="灯")
    row = scripted(listing, react("{}", name="灯"), names=json.dumps(["big lamp", "灯"])[1:-1])
    assert [tool.name for tool in captured.parse(row).tools] == ["big lamp", "灯"]


def test_a_tool_list_made_to_be_slow_to_read_is_refused_in_a_second() -> None:
    listing = "a: b API。" * 400 + ' 输入参数: {"type": "object", "properties": {"' * 400
    start = time.process_time()
    with pytest.raises(ValueError, match="^the tool list cannot be read: "):
        captured.parse(scripted(listing, "Hello.", names='"a"'))
    assert time.process_time() - start < 1


def test_knowledge_with_too_many_prompts_to_try_is_refused_in_a_second() -> None:
    row = json.loads(json.dumps(chat(BARE, reply="Hi")))
    system = row["messages"][0]["content"]
    row["messages"][0]["content"] = protocol.KNOWLEDGE["en"].format(knowledge=system * 100) + system
    start = time.process_time()
    with pytest.raises(ValueError, match="^the system message can be read in too many ways: "):
        captured.parse(row)
    assert time.process_time() - start < 1


def test_ascii_in_place_of_full_width_punctuation_changes_nothing() -> None:
    meant = said(
        Turn("好", (replace(SUNNY, thought=""),), "晴"), instruction=Role("小天", "会看天", "看"), knowledge="晴"
    )
    last = list(agentfabric.render(meant, "test"))[-1]
    row = json.loads(json.dumps(as_row(last)))
    for message in row["messages"]:
        for wide, narrow in zip("：，！（）", ":,!()", strict=True):
            message["content"] = message["content"].replace(wide, narrow)
    assert captured.parse(row) == replace(meant, id="")


# --- Covering ---------------------------------------------------------------------------------------------------------


def lines(*rows: dict[str, object]) -> list[tuple[int, str]]:
    return [(number, json.dumps(row, ensure_ascii=False)) for number, row in enumerate(rows, 1)]


def left(*rows: dict[str, object], window: int = 10_000) -> list[int]:
    return [line for line, _ in captured.uncovered(lines(*rows), window)]


def rows_of(*turns: Turn, **rest: object) -> list[dict[str, object]]:
    rendering = {key: rest.pop(key) for key in ("language", "shape", "dialect") if key in rest}
    return [as_row(one) for one in agentfabric.render(said(*turns, **rest), "test", **rendering)]


LONG = Turn("Oslo?", (SUNNY, replace(SUNNY, thought="Again.")), "Sunny.")
THANKS = Turn("Thanks", (), "Welcome.")
RAIN = Turn("Bergen?", (replace(SUNNY, observation="rain"),), "Rain.")
THOUGHT = Turn("Rome?", (replace(SUNNY, thought="Let me look."),), "Sunny.")


@settings(max_examples=100, deadline=None)
@given(
    conversations=st.lists(dialogues(MILD_TEXT, MILD_TEXT | st.just("日志。" * 1500)), min_size=1, max_size=4),
    rendering=RENDERINGS,
    random=st.randoms(use_true_random=False),
)
def test_the_last_row_of_each_of_several_interleaved_conversations_is_left(
    conversations: list[Dialogue], rendering: dict[str, object], random
) -> None:
    queues = []
    for number, dialogue in enumerate(conversations):
        # What the client shows must be the same in every turn, and no two conversations alike.
        quiet = tuple(replace(turn, files=()) for turn in dialogue.turns)
        queues.append((number, exchanges(replace(dialogue, turns=quiet, instruction=f"Agent {number}"), rendering)))
    rows, last = [], {}
    while queues:
        number, queue = random.choice(queues)
        rows.append(as_row(queue.pop(0)))
        last[number] = len(rows)
        queues = [(number, queue) for number, queue in queues if queue]
    found = list(captured.uncovered(lines(*rows)))
    assert [line for line, _ in found] == sorted(last.values())
    for line, text in found:
        row = json.loads(text)
        row.pop("query", None)
        assert row == rows[line - 1]


def test_rows_between_may_be_missing() -> None:
    rows = rows_of(LONG, THANKS, RAIN)
    assert left(*rows) == [6]
    assert left(rows[0], rows[5]) == [2]
    assert left(rows[1], rows[3], rows[5]) == [3]
    assert left(rows[2], rows[1]) == [1, 2]


def test_the_language_may_change_between_turns() -> None:
    zh = Turn("北京？", (), "晴")
    rows = rows_of(LONG, zh, instruction=Role("Sky", "Knows", "looks"))
    assert rows[0]["messages"][0]["content"].startswith("\n# Tools")
    assert rows[-1]["messages"][0]["content"].startswith("\n# 工具")
    assert left(*rows) == [4]


def test_the_clients_cut_of_a_long_result_hides_no_row() -> None:
    long = Turn("Log?", (replace(SUNNY, observation="x" * 9000),), "Much.")
    rows = rows_of(long, THANKS)
    assert left(*rows) == [3]


@pytest.mark.parametrize("other", [{"instruction": "Be kind."}, {"tools": (WEATHER,)}, {"knowledge": "It rains."}])
def test_another_agents_row_covers_nothing(other: dict[str, object]) -> None:
    first, last = rows_of(LONG)[2], rows_of(LONG, THANKS, **other)[-1]
    assert left(first, last) == [1, 2]
    assert left(first, rows_of(LONG, THANKS)[-1]) == [2]


def test_another_answer_or_result_is_another_conversation() -> None:
    last = rows_of(LONG, THANKS)[-1]
    assert left(rows_of(replace(LONG, answer="Rainy."))[-1], last) == [1, 2]
    other = replace(LONG, steps=(SUNNY, replace(SUNNY, observation="rain")))
    assert left(rows_of(other)[-1], last) == [1, 2]


def test_what_two_turns_say_is_not_what_one_turn_says() -> None:
    one = rows_of(Turn("Hi", (), "Hello. Thanks Welcome."))
    assert left(*one, rows_of(Turn("Hi", (), "Hello."), THANKS, RAIN)[-1]) == [1, 2]


def test_equal_rows_are_all_left_until_a_later_one_covers_them() -> None:
    rows = rows_of(LONG, THANKS)
    assert left(rows[2], rows[2]) == [1, 2]
    assert left(rows[2], rows[2], rows[3]) == [3]


def test_a_row_that_cannot_be_read_passes_in_its_place() -> None:
    rows = rows_of(LONG)
    texts = [(1, "{"), (2, json.dumps(rows[0])), (3, "[]"), (4, json.dumps(rows[1])), (9, '{"messages": 3}')]
    assert list(captured.uncovered(texts)) == [texts[0], texts[2], texts[3], texts[4]]


def test_a_row_with_a_bad_reply_costs_nothing_that_went_before_it() -> None:
    *good, last = rows_of(LONG, THANKS)
    assert left(*good, last | {"reply": CALL + CALL}) == [3, 4]
    spoiled = json.loads(json.dumps(rows_of(LONG, THANKS, RAIN)[-1]))
    assert left(*good, spoiled) == [4]
    spoiled["messages"][-1]["content"] = spoiled["messages"][-1]["content"].replace("Action:", "Deed:")
    assert left(*good, spoiled) == [3, 4]


def test_the_window_bounds_what_is_held_back_oldest_first() -> None:
    one, two = rows_of(LONG), rows_of(THOUGHT)
    assert left(one[0], two[0], one[1], two[1], window=2) == [3, 4]
    assert left(one[0], two[0], one[1], two[1], window=1) == [1, 2, 3, 4]
    taken = []
    stream = captured.uncovered((taken.append(line) or (line, text) for line, text in lines(*one, *two)), window=1)
    assert next(stream)[0] == 3
    assert taken == [1, 2, 3, 4]


def test_the_query_is_handed_on_where_words_before_the_first_call_hide_it() -> None:
    rows = rows_of(LONG, THOUGHT)
    with pytest.raises(ValueError, match="^the query cannot be told from words said before the first call: "):
        captured.parse(rows[-1])
    ((line, text),) = captured.uncovered(lines(*rows))
    assert line == len(rows)
    assert captured.parse(json.loads(text)) == said(LONG, THOUGHT)
    assert "query" not in json.loads(next(captured.uncovered(lines(*rows_of(LONG))))[1])


def test_raw_prompts_and_rows_of_other_forms_are_covered_too() -> None:
    assert left(*rows_of(LONG, THOUGHT, shape="raw")) == [5]
    nested = [{"request": {"messages": row["messages"]}, "reply": row["reply"]} for row in rows_of(LONG, THANKS)]
    assert left(*nested) == [4]
    own = [json.loads(one.to_line()) for one in agentfabric.render(said(LONG, THANKS), "test")]
    assert left(*own) == [4]


def test_rows_of_the_tutorials_script_cover_nothing() -> None:
    row = scripted(faulty_line("room"), react("{'room': 'hall'}"))
    longer = json.loads(json.dumps(row))
    longer["conversations"] += [{"from": "user", "value": "Thanks"}, {"from": "assistant", "value": "Welcome."}]
    assert left(row, longer) == [1, 2]


def test_no_mark_of_the_client_is_left_in_what_is_read() -> None:
    for row in ROWS.values():
        texts = [
            text
            for turn in captured.parse(row["row"]).turns
            for text in (turn.query, turn.answer, *(step.thought for step in (*turn.steps, *turn.pending)))
        ]
        assert not [text for text in texts if re.search(r"Action|Observation|Answer:|<result>|\[上传|可以使用", text)]
