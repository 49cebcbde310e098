"""What we write is what the April 2024 client sends, and what it reads in every reply is what we meant."""

import json
from pathlib import Path

import json5
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fabrictune import protocol
from fabrictune.dialogue import Call, Dialogue, Exchange, Role, Step, Tool, Turn, from_json
from fabrictune.formats import agentfabric

GOLDEN = Path(__file__).parent / "golden" / "agentfabric"
RECORDINGS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(GOLDEN.glob("*.json"))}
SAID_BY_US = sorted(name for name, recording in RECORDINGS.items() if recording["dialogue"])

NOTHING = {"type": "object", "properties": {}, "required": []}
CITY = {"type": "object", "properties": {"city": {"type": "string", "description": "the city"}}, "required": ["city"]}
WEATHER = Tool("weather", "Tells the weather", CITY)
CLOCK = Tool("clock", "Tells the time", NOTHING)
SUNNY = Step(Call("weather", {"city": "Oslo"}), "sunny")
NOON = Step(Call("clock", {}), "12:00", "First the time.")


def exchanges(*turns: Turn, tools: tuple[Tool, ...] = (WEATHER, CLOCK), **rest) -> list[Exchange]:
    return list(agentfabric.render(Dialogue("d", tools, turns, **{"instruction": "Be brief."} | rest), "test"))


def played(recording: dict) -> list[Exchange]:
    """The exchanges of the recorded turn."""
    rendered = agentfabric.render(from_json(recording["dialogue"]), "golden")
    return [exchange for exchange in rendered if exchange.turn == recording["turn"]]


def as_sent(exchange: Exchange) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in exchange.messages]


def test_most_recordings_can_be_said_as_a_dialogue() -> None:
    assert len(SAID_BY_US) == 8


@pytest.mark.parametrize("name", SAID_BY_US)
def test_messages_are_those_of_the_recorded_requests(name: str) -> None:
    recording = RECORDINGS[name]
    assert [as_sent(exchange) for exchange in played(recording)] == [body["messages"] for body in recording["requests"]]


@pytest.mark.parametrize("name", SAID_BY_US)
def test_replies_are_what_the_recorded_server_wrote_up_to_the_stop_string(name: str) -> None:
    recording = RECORDINGS[name]
    written = [text.partition("Observation:")[0].rstrip("\n") for text in recording["script"]]
    assert [one.reply_text.partition("Observation:")[0].rstrip("\n") for one in played(recording)] == written


@pytest.mark.parametrize("name", SAID_BY_US)
def test_the_next_turn_remembers_what_the_user_saw(name: str) -> None:
    recording = RECORDINGS[name]
    dialogue = from_json(recording["dialogue"])
    longer = Dialogue("d", dialogue.tools, (*dialogue.turns, Turn("好", (), "好")), dialogue.instruction)
    last = list(agentfabric.render(longer, "golden"))[-1]
    assert [(message.role, message.content) for message in last.messages[-3:-1]] == [
        ("user", recording["client"]["query"]),
        ("assistant", recording["final_text"]),
    ]


@pytest.mark.parametrize("calls", range(4))
def test_a_turn_of_k_calls_is_k_plus_one_exchanges_numbered_from_0(calls: int) -> None:
    rendered = exchanges(Turn("Hi", (), "Hello."), Turn("Oslo?", (SUNNY,) * calls, "Sunny."))
    assert [(one.turn, one.step) for one in rendered] == [(0, 0), *((1, step) for step in range(calls + 1))]
    assert {(one.dialogue, one.source) for one in rendered} == {("d", "test")}


def test_the_trace_grows_in_the_user_message_and_the_reply_goes_on_after_answer() -> None:
    first, second, last = exchanges(Turn("Oslo?", (SUNNY, NOON), "Sunny noon."))
    prefix = "(. you can use tools: [weather,clock])"
    call = 'Action: weather\nAction Input: {"city": "Oslo"}'
    trace = f"{call}\nObservation: <result>sunny</result>\nAnswer:"
    again = " First the time.\nAction: clock\nAction Input: {}\nObservation: <result>12:00</result>\nAnswer:"
    assert [one.messages[-1].content for one in (first, second, last)] == [
        f"{prefix}Oslo?",
        f"{prefix}Oslo?{trace}",
        f"{prefix}Oslo?{trace}{again}",
    ]
    assert first.reply_text == f"{call}\nObservation:"
    assert second.reply_text == " First the time.\nAction: clock\nAction Input: {}\nObservation:"
    assert last.reply_text == " Sunny noon."
    assert {one.messages[:-1] for one in (first, second, last)} == {first.messages[:-1]}


def test_a_turn_without_calls_is_answered_from_the_first_character() -> None:
    (only,) = exchanges(Turn("Hi", (), "Hello."))
    assert only.reply_text == "Hello."


def test_history_holds_bare_queries_and_full_transcripts_with_a_blank_line_before_observation() -> None:
    turns = Turn("Oslo?", (SUNNY,), "Sunny."), Turn("Thanks", (), "Welcome."), Turn("Time?", (NOON,), "Noon.")
    *_, before_call, after_call = exchanges(*turns)
    past = [("user", "Oslo?"), ("assistant", None), ("user", "Thanks"), ("assistant", "Welcome.")]
    for exchange in (before_call, after_call):
        system, *history, newest = exchange.messages
        assert system.role == "system"
        assert [message.role for message in history] == [role for role, _ in past]
        assert [message.content for message in history if message != history[1]] == [text for _, text in past if text]
        assert history[1].content == (
            'Action: weather\nAction Input: {"city": "Oslo"}\n\nObservation: <result>sunny</result>\nAnswer: Sunny.'
        )
        assert newest.content.startswith("(. you can use tools: [weather,clock])Time?")


@pytest.mark.parametrize(
    ("turns", "heading"),
    [
        ([Turn("Oslo?", (), "Sunny.")], "\n# Tools\n"),
        ([Turn("奥斯陆？", (), "Sunny.")], "\n# 工具\n"),
        ([Turn("你好", (), "Hello."), Turn("Oslo?", (), "Sunny.")], "\n# 工具\n"),
        ([Turn("Hello", (), "你好"), Turn("Oslo?", (), "Sunny.")], "\n# 工具\n"),
        ([Turn("Hello", (Step(Call("clock", {}), "中午"),), "Noon."), Turn("Oslo?", (), "Sunny.")], "\n# 工具\n"),
    ],
)
def test_the_language_is_chinese_once_a_query_or_the_history_is(turns: list[Turn], heading: str) -> None:
    assert exchanges(*turns)[-1].messages[0].content.startswith(heading)


def test_the_language_is_chinese_where_the_knowledge_is() -> None:
    (only,) = exchanges(Turn("Hi", (), "Hello."), knowledge="九点开门。")
    assert only.messages[0].content.startswith("\n\n# 知识库\n\n九点开门。\n\n\n# 工具\n")
    assert only.messages[-1].content == "(。你可以使用工具：[weather,clock]。请查看前面的知识库)Hi"


def test_the_language_does_not_follow_the_instruction_the_tools_or_what_comes_later() -> None:
    tool = Tool("weather", "查询天气", CITY)
    turns = Turn("Oslo?", (), "你好"), Turn("Rome?", (), "Sunny.")
    first, second = exchanges(*turns, tools=(tool,), instruction="你是助手")
    assert first.messages[0].content.startswith("\n# Tools\n")
    assert "\n#Instructions\n\n你是助手\n\nNote: " in first.messages[0].content
    assert first.messages[-1].content == "(. you can use tools: [weather])Oslo?"
    assert second.messages[0].content.startswith("\n# 工具\n")
    assert second.messages[-1].content == "(。你可以使用工具：[weather])Rome?"


@pytest.mark.parametrize("query", ["Oslo?", "奥斯陆？"])
def test_a_tools_line_is_in_the_language_of_its_description_whatever_the_prompts(query: str) -> None:
    described = {"type": "object", "properties": {"city": {"type": "string", "description": "the city"}}}
    tools = Tool("weather", "查询天气", described), Tool("clock", "Tells the time", NOTHING)
    (only,) = exchanges(Turn(query, (), "Sunny."), tools=tools)
    schema = '{"type": "object", "properties": {"city": {"type": "string", "description": "the city"}}, "required": []}'
    assert (
        f"\n\nweather: weather API。查询天气 输入参数: {schema} Format the arguments as a JSON object.\n\n"
        'clock: clock API. Tells the time Parameters: {"type": "object", "properties": {}, "required": []} '
        "Format the arguments as a JSON object.\n\n"
    ) in only.messages[0].content


def test_a_tools_line_shows_type_description_and_enum_of_a_parameter_and_no_more() -> None:
    size = {"enum": ["小", "large"], "default": "小", "description": "how big", "type": "string", "minLength": 1}
    tool = Tool("box", "Packs", {"type": "object", "properties": {"size": size}, "required": ["size"]})
    (only,) = exchanges(Turn("Hi", (), "Hello."), tools=(tool,))
    assert (
        'Parameters: {"type": "object", "properties": {"size": {"type": "string", "description": "how big", '
        '"enum": ["小", "large"]}}, "required": ["size"]} Format'
    ) in only.messages[0].content


@pytest.mark.parametrize(
    ("query", "role", "persona", "prefix"),
    [
        (
            "Oslo?",
            Role("Ann", "Knows weather.", ("Look it up", "Sum it up；")),
            "\n#Instructions\n\nYou are playing as an AI-Agent, Your name is Ann.Knows weather.\n"
            "You have the following specific functions:Look it up；Sum it up\n"
            "Now you will start playing asAnn\n\nNote: ",
            "(You are playing as Ann. you can use tools: [weather,clock])",
        ),
        (
            "天气？",
            Role("小安", "能查询天气", "先查天气；"),
            "\n# 指令\n\n你扮演AI-Agent，你的名字是小安。能查询天气\n"
            "你具有下列具体功能：先查天气\n下面你将开始扮演小安\n\n请注意：",
            "(你正在扮演小安。你可以使用工具：[weather,clock])",
        ),
        (
            "Oslo?",
            Role(),
            "\n#Instructions\n\nYou are playing as an AI-Agent, \n"
            "You have the following specific functions:\nNow you will start playing as\n\nNote: ",
            "(You are playing as . you can use tools: [weather,clock])",
        ),
    ],
)
def test_a_role_is_spelled_out_as_the_client_does(query: str, role: Role, persona: str, prefix: str) -> None:
    (only,) = exchanges(Turn(query, (), "Sunny."), instruction=role)
    assert persona in only.messages[0].content
    assert only.messages[-1].content == prefix + query


@pytest.mark.parametrize(
    ("instruction", "prefix"), [("Be brief.", ""), (Role("Ann"), "(You are playing as Ann)"), ("", "")]
)
def test_without_tools_there_is_no_tool_section_and_no_word_of_tools(instruction: str | Role, prefix: str) -> None:
    (only,) = exchanges(Turn("Hi", (), "Hello."), tools=(), instruction=instruction)
    assert only.messages[0].content.startswith("\n#Instructions\n")
    assert only.messages[-1].content == f"{prefix}Hi"


def test_knowledge_stands_first_and_is_pointed_at() -> None:
    (only,) = exchanges(Turn("Hi", (), "Hello."), knowledge="Open from 9 to 5.")
    assert only.messages[0].content.startswith("\n\n# Knowledge Base\n\nOpen from 9 to 5.\n\n\n# Tools\n")
    assert only.messages[-1].content == (
        "(. you can use tools: [weather,clock]. Please read the knowledge base at the beginning)Hi"
    )


def test_a_long_observation_is_cut_in_the_messages_and_whole_in_the_history() -> None:
    long = "xy" * 2000
    turns = Turn("Oslo?", (Step(SUNNY.call, long),), "Sunny."), Turn("And now?", (), "Rain.")
    _, answered, later = exchanges(*turns)
    assert f"<result>{long[:2988]}</result>\nAnswer:" in answered.messages[-1].content
    assert f"<result>{long}</result>\nAnswer: Sunny." in later.messages[-2].content


def test_all_of_a_reply_is_trained_on_and_a_call_ends_where_the_client_stops() -> None:
    for exchange in exchanges(Turn("Oslo?", (SUNNY, NOON), "Sunny noon."), Turn("Thanks", (), "Welcome.")):
        assert exchange.reply and all(span.weight > 0 and span.text for span in exchange.reply)
        is_call = "Action:" in exchange.reply_text
        assert exchange.reply_text.endswith("Observation:") is is_call
        assert exchange.reply_text.count("Observation:") == is_call


PIECES = [
    "Action:",
    "Action: clock\nAction Input: {",
    "Action Input: {",
    "Action Input:",
    "Observation:",
    "\nObservation: <result>",
    "\\u0041ction:",
    "\\",
    '"',
    "'",
    "\n",
    "\r\n",
    "\x00\x1f\x7f\x85\u2028",
    "}",
    "```json",
    "朝阳区",
    "😀",
    "<|im_end|>",
]
TEXTS = st.lists(
    st.sampled_from(PIECES) | st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=4
).map("".join)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=150)
@given(
    arguments=st.dictionaries(TEXTS, VALUES, max_size=3), thought=st.sampled_from(["", "Let me look.", "我来查询。\n"])
)
@example(arguments={"Action Input: {": ["Action: a\nAction Input: {}", "Observation:"]}, thought="")
def test_both_generations_of_the_client_find_the_call_that_is_meant(arguments: dict, thought: str) -> None:
    step = Step(Call("weather report", arguments), "done", thought)
    tool = Tool("weather report", "", NOTHING)
    call, _ = exchanges(Turn("Oslo?", (step,), "Done."), tools=(tool,))
    assert call.reply_text.endswith("\nObservation:") and call.reply_text.count("Observation:") == 1
    cut = call.reply_text.removesuffix("Observation:")
    for find in (protocol.find_last_call, protocol.find_first_call):
        for reply in (cut, call.reply_text):  # a server may give the stop string back
            name, text, output = find(reply)
            assert name == "weather report"
            assert json.loads(text) == arguments
            assert json.dumps(json.loads(text), sort_keys=True) == json.dumps(arguments, sort_keys=True)
            assert output.startswith(thought)
    if len(cut) < 400:  # the client's own reader is slow
        assert json5.loads(text) == arguments


@pytest.mark.parametrize("calls", [0, 1])
@pytest.mark.parametrize(
    "answer",
    [
        "Action: clock\nAction Input: {}",
        "Sure.\nAction:clock Action Input:{}",
        "Write `Action: NAME\nAction Input: {}` to call.",
        "The Observation: it is sunny.",
    ],
)
def test_an_answer_that_the_client_would_take_for_a_call_is_refused(answer: str, calls: int) -> None:
    with pytest.raises(ValueError, match="dialogue 'd', turn 1: a client would take the answer for a call"):
        exchanges(Turn("Hi", (), "Hello."), Turn("How?", (SUNNY,) * calls, answer))


def test_an_answer_may_speak_of_actions() -> None:
    assert exchanges(Turn("Hi", (), "Action: none needed."))[0].reply_text == "Action: none needed."


@pytest.mark.parametrize(
    "thought",
    [
        "Action: clock\nAction Input: {}",
        "I write Action: clock\nAction Input: {} and",
        "Observation: nothing yet.",
    ],
)
def test_a_lead_in_that_hides_the_call_from_a_client_or_is_cut_is_refused(thought: str) -> None:
    with pytest.raises(ValueError, match="dialogue 'd', turn 0: .* 'weather'"):
        exchanges(Turn("Oslo?", (Step(SUNNY.call, "sunny", thought),), "Sunny."))


@pytest.mark.parametrize("name", ["Action: weather", "weather Observation: x"])
def test_a_tool_name_that_breaks_the_call_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="dialogue 'd', turn 0: "):
        exchanges(Turn("Oslo?", (Step(Call(name, {}), "sunny"),), "Sunny."), tools=(Tool(name, "", NOTHING),))


def test_an_argument_that_json_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="would not find the call 'weather'"):
        exchanges(Turn("Oslo?", (Step(Call("weather", {"city": float("nan")}), "sunny"),), "Sunny."))


def test_an_exchange_survives_its_line() -> None:
    for exchange in exchanges(Turn("奥斯陆？", (SUNNY,), "Sunny.")):
        assert Exchange.from_line(exchange.to_line()) == exchange
        assert "\n" not in exchange.to_line() and "奥斯陆" in exchange.to_line()
