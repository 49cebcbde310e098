"""What we write is what the client of either generation sends, and what it reads in every reply is what we meant."""

import json
from collections import Counter
from pathlib import Path

import json5
import pytest
from dialogues import json_values, texts
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fabrictune import protocol
from fabrictune.dialogue import Call, Dialogue, Exchange, Message, Role, Step, Tool, Turn, from_json
from fabrictune.formats import agentfabric

GOLDEN = Path(__file__).parent / "golden" / "agentfabric"
FOLDERS = {protocol.APRIL: GOLDEN, protocol.V072: GOLDEN / "v072"}
RECORDINGS = {
    (dialect, path.stem): json.loads(path.read_text(encoding="utf-8"))
    for dialect, folder in FOLDERS.items()
    for path in sorted(folder.glob("*.json"))
}
SAID_BY_US = [key for key, recording in RECORDINGS.items() if recording["dialogue"] and "requests" in recording]
RAW = [key for key, recording in RECORDINGS.items() if "prompts" in recording]
DIALECTS = pytest.mark.parametrize("dialect", FOLDERS, ids=lambda dialect: dialect.name)

NOTHING = {"type": "object", "properties": {}, "required": []}
CITY = {"type": "object", "properties": {"city": {"type": "string", "description": "the city"}}, "required": ["city"]}
WEATHER = Tool("weather", "Tells the weather", CITY)
CLOCK = Tool("clock", "Tells the time", NOTHING)
SUNNY = Step(Call("weather", {"city": "Oslo"}), "sunny")
NOON = Step(Call("clock", {}), "12:00", "First the time.")


def exchanges(
    *turns: Turn, tools: tuple[Tool, ...] = (WEATHER, CLOCK), how: dict | None = None, **rest
) -> list[Exchange]:
    dialogue = Dialogue("d", tools, turns, **{"instruction": "Be brief."} | rest)
    return list(agentfabric.render(dialogue, "test", **how or {}))


def played(key: tuple[protocol.Dialect, str], **how) -> list[Exchange]:
    """The exchanges of the recorded turn."""
    rendered = agentfabric.render(from_json(RECORDINGS[key]["dialogue"]), "golden", dialect=key[0], **how)
    return [exchange for exchange in rendered if exchange.turn == RECORDINGS[key]["turn"]]


def as_sent(exchange: Exchange) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in exchange.messages]


def test_most_recordings_can_be_said_as_a_dialogue() -> None:
    assert Counter(dialect for dialect, _ in SAID_BY_US) == {protocol.APRIL: 8, protocol.V072: 14}
    assert len(RAW) == 2


@pytest.mark.parametrize("key", SAID_BY_US, ids=lambda key: f"{key[0].name}-{key[1]}")
def test_messages_are_those_of_the_recorded_requests(key: tuple[protocol.Dialect, str]) -> None:
    assert [as_sent(exchange) for exchange in played(key)] == [body["messages"] for body in RECORDINGS[key]["requests"]]


@pytest.mark.parametrize("key", RAW, ids=lambda key: f"{key[0].name}-{key[1]}")
def test_raw_prompts_are_the_recorded_ones(key: tuple[protocol.Dialect, str]) -> None:
    assert [raw_prompt(exchange) for exchange in played(key, shape="raw")] == RECORDINGS[key]["prompts"]


def raw_prompt(exchange: Exchange) -> str:
    """ChatML, in which a last message of the assistant stays open."""
    turns = [f"<|im_start|>{message.role}\n{message.content}" for message in exchange.messages]
    if exchange.messages[-1].role != "assistant":
        turns.append("<|im_start|>assistant\n")
    return "<|im_end|>\n".join(turns)


@pytest.mark.parametrize("key", SAID_BY_US, ids=lambda key: f"{key[0].name}-{key[1]}")
def test_replies_are_what_the_recorded_server_wrote_up_to_the_stop_string(key: tuple[protocol.Dialect, str]) -> None:
    written = [text.partition("Observation:")[0].rstrip("\n") for text in RECORDINGS[key]["script"]]
    assert [one.reply_text.partition("Observation:")[0].rstrip("\n") for one in played(key)] == written


@pytest.mark.parametrize("key", SAID_BY_US, ids=lambda key: f"{key[0].name}-{key[1]}")
def test_the_next_turn_remembers_what_the_user_saw(key: tuple[protocol.Dialect, str]) -> None:
    dialogue = from_json(RECORDINGS[key]["dialogue"])
    longer = Dialogue("d", dialogue.tools, (*dialogue.turns, Turn("好", (), "好")), dialogue.instruction)
    last = list(agentfabric.render(longer, "golden", dialect=key[0]))[-1]
    assert [(message.role, message.content) for message in last.messages[-3:-1]] == [
        ("user", RECORDINGS[key]["client"]["query"]),
        ("assistant", RECORDINGS[key]["final_text"]),
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


@DIALECTS
@pytest.mark.parametrize(
    "described",
    [
        {"tools": (Tool("weather", "查询天气", CITY),)},
        {"tools": (Tool("天气", "Tells the weather", CITY),)},
        {"instruction": "你是助手"},
        {"instruction": Role("Ann", "查询天气")},
    ],
)
def test_behind_the_first_turn_the_language_is_chinese_where_the_agent_is(dialect, described: dict) -> None:
    turns = Turn("Oslo?", (SUNNY,) * ("tools" not in described), "Sunny."), Turn("Rome?", (), "Rain.")
    first, *_, last = exchanges(*turns, how={"dialect": dialect}, **described)
    assert "\n# Tools\n" in first.messages[0].content
    assert "\n# 工具\n" in last.messages[0].content
    assert last.messages[-1].content.startswith("(你正在" if "Role" in str(described) else "(。你可以")


@DIALECTS
@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_forced_language_is_that_of_every_turn_and_changes_no_word_of_the_dialogue(dialect, language: str) -> None:
    turns = Turn("Oslo?", (SUNNY,), "Sunny."), Turn("奥斯陆？", (), "晴。"), Turn("Rome?", (), "Rain.")
    rendered = exchanges(*turns, instruction="你是助手", how={"dialect": dialect, "language": language})
    heading = {"zh": "\n# 工具\n", "en": "\n# Tools\n"}[language]
    prefix = {"zh": "(。你可以使用工具：[weather,clock])", "en": "(. you can use tools: [weather,clock])"}[language]
    assert len(rendered) == 4
    assert all(one.messages[0].content.startswith(heading) for one in rendered)
    assert [one.messages[-1].content.partition("Action")[0] for one in rendered] == [
        prefix + query for query in ("Oslo?", "Oslo?", "奥斯陆？", "Rome?")
    ]


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
            "You have the following specific functions:Look it up；Sum it up；\n"
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


def test_the_last_release_lists_no_tools_where_there_are_none() -> None:
    (only,) = exchanges(Turn("Hi", (), "Hello."), tools=(), how={"dialect": protocol.V072})
    assert only.messages[0].content.startswith("\n# Tools\n\n## You have the following tools:\n\n\n\n## When")
    assert "must be one of []\n" in only.messages[0].content
    assert only.messages[-1].content == "(. you can use tools: [])Hi"


@DIALECTS
@pytest.mark.parametrize(("tools", "prefix"), [((CLOCK,), "(. you can use tools: [clock])"), ((), "")])
def test_uploaded_files_are_named_behind_the_parentheses_of_their_own_turn(dialect, tools, prefix: str) -> None:
    turns = Turn("Hi", (), "Hello.", ("a.csv",)), Turn("And these?", (), "Two.", ("/tmp/x/b c.png", "d.txt"))
    first, second = exchanges(*turns, tools=tools, how={"dialect": dialect})
    prefix = prefix or ("" if dialect is protocol.APRIL else "(. you can use tools: [])")
    assert first.messages[-1].content == f'{prefix}[Upload file "a.csv"]Hi'
    assert second.messages[1].content == "Hi"
    assert second.messages[-1].content == f'{prefix}[Upload file "b c.png,d.txt"]And these?'


@DIALECTS
def test_the_language_is_chinese_where_a_file_s_name_is(dialect) -> None:
    (only,) = exchanges(Turn("Hi", (), "Hello.", ("书.txt",)), how={"dialect": dialect})
    assert only.messages[-1].content == '(。你可以使用工具：[weather,clock])[上传文件 "书.txt"]Hi'


@DIALECTS
def test_knowledge_is_cut_and_gives_way_to_files_that_code_can_read(dialect) -> None:
    turns = Turn("Hi", (), "Hello."), Turn("Hi", (), "Hello.", ("a.csv",))
    code = Tool("code_interpreter", "Runs code", NOTHING)
    for tools, shown in ((CLOCK,), [4000, 4000]), ((CLOCK, code), [4000, 0]):
        rendered = exchanges(*turns, tools=tools, knowledge="§" * 4001, how={"dialect": dialect})
        assert [one.messages[0].content.count("§") for one in rendered] == shown
        assert ["knowledge base" in one.messages[-1].content for one in rendered] == [count > 0 for count in shown]


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


@DIALECTS
@pytest.mark.parametrize("shape", ["chat", "raw"])
@pytest.mark.parametrize(("blank_line", "breaks"), [(None, None), (True, 2), (False, 1)])
def test_breaks_before_an_observation_are_the_client_s_or_as_many_as_asked_for(
    dialect, shape: str, blank_line: bool | None, breaks: int | None
) -> None:
    how = {"dialect": dialect, "shape": shape, "blank_line": blank_line}
    _, answered, later = exchanges(Turn("Oslo?", (SUNNY,), "Sunny."), Turn("Thanks", (), "Welcome."), how=how)
    expected = "\n" * (breaks or {protocol.APRIL: 1, protocol.V072: 2}[dialect])
    assert f'"Oslo"}}{expected}Observation: <result>sunny' in answered.messages[-1].content
    assert '"Oslo"}\n\nObservation: <result>sunny' in later.messages[2].content


@DIALECTS
def test_in_a_raw_prompt_the_trace_goes_on_in_the_assistants_message(dialect) -> None:
    turns = Turn(" Hi\n", (), "\nHello. "), Turn("\nOslo? ", (SUNNY, NOON), "Sunny noon.")
    told = exchanges(*turns, how={"dialect": dialect})
    raw = exchanges(*turns, how={"dialect": dialect, "shape": "raw"})
    assert [one.reply for one in raw] == [one.reply for one in told]
    system, *past, asked = raw[1].messages
    assert past == [Message("user", " Hi"), Message("assistant", "Hello.")]
    assert asked == Message("user", "(. you can use tools: [weather,clock])\nOslo?")
    for mine, theirs in zip(raw[2:], told[2:], strict=True):
        trace = theirs.messages[-1].content.removeprefix("(. you can use tools: [weather,clock])\nOslo? ")
        assert mine.messages == (system, *past, asked, Message("assistant", trace))


def test_a_long_observation_is_cut_shorter_in_a_raw_prompt() -> None:
    long = "xy" * 2000
    _, answered = exchanges(Turn("Oslo?", (Step(SUNNY.call, long),), "Sunny."), how={"shape": "raw"})
    assert f"<result>{long[:2813]}</result>\nAnswer:" in answered.messages[-1].content


@pytest.mark.parametrize("steps", [(), (NOON,)])
def test_a_turn_whose_calls_are_pending_ends_with_the_first_of_them(steps: tuple[Step, ...]) -> None:
    waiting = Step(SUNNY.call, "", "Let me look.")
    turns = Turn("Hi", (), "Hello."), Turn("Oslo?", steps, "", pending=(waiting, Step(NOON.call, "")))
    rendered = exchanges(*turns)
    answered = exchanges(turns[0], Turn("Oslo?", (*steps, waiting), "Sunny."))
    assert rendered == answered[:-1]
    assert rendered[-1].reply_text.endswith('Action: weather\nAction Input: {"city": "Oslo"}\nObservation:')


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
TEXTS = texts(PIECES)
VALUES = json_values(TEXTS)


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


STEPS = st.builds(
    Step,
    st.builds(Call, st.sampled_from(["weather", "查询"]), st.dictionaries(TEXTS, VALUES, max_size=2)),
    TEXTS,
    st.sampled_from(["", "Let me look."]),
)
TURNS = st.builds(Turn, TEXTS, st.lists(STEPS, max_size=2).map(tuple), st.just("Done."))


@settings(deadline=None, max_examples=150)
@given(
    turns=st.lists(TURNS, min_size=1, max_size=3),
    how=st.fixed_dictionaries(
        {
            "dialect": st.sampled_from([protocol.APRIL, protocol.V072]),
            "shape": st.sampled_from(["chat", "raw"]),
            "blank_line": st.sampled_from([None, True, False]),
            "language": st.sampled_from([None, "zh", "en"]),
        }
    ),
)
def test_every_call_is_found_by_both_clients_whatever_a_dialogue_holds(turns: list[Turn], how: dict) -> None:
    tools = Tool("weather", "", NOTHING), Tool("查询", "", NOTHING)
    rendered = exchanges(*turns, tools=tools, how=how)
    meant = [(step.call if step else None) for turn in turns for step in (*turn.steps, None)]
    assert len(rendered) == len(meant)
    for exchange, call in zip(rendered, meant, strict=True):
        received = exchange.reply_text.split("Observation:")[0]  # the server cuts
        for find in (protocol.find_last_call, protocol.find_first_call):
            found = find(received)
            assert (found and Call(found[0], json.loads(found[1]))) == call
        is_open = how["shape"] == "raw" and exchange.step > 0
        assert exchange.messages[-1].role == ("assistant" if is_open else "user")
        assert len(exchange.messages) == 2 + 2 * exchange.turn + is_open
        if exchange.step:
            assert exchange.messages[-1].content.endswith("</result>\nAnswer:")


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
        assert b"\n" not in exchange.to_line() and "奥斯陆" in exchange.to_line().decode()
