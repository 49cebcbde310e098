"""What a request with tools becomes is what we train on; one without tools stays as the model's own template has it.

The oracle is `formats.agentfabric`, which is held to recorded requests; the prompts are made by transformers.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import CHATML
from dialogues import dialogues
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from fabrictune import protocol
from fabrictune.dialogue import Call, Dialogue, Exchange, Json, Message, Step, Tool, Turn
from fabrictune.formats import agentfabric, openai
from fabrictune.model import qwen_vocabulary
from fabrictune.serve import template

DIALECTS = pytest.mark.parametrize("dialect", protocol.DIALECTS.values(), ids=lambda dialect: dialect.name)

# Begins with blanks, changes messages, has tools of its own, drops thoughts and marks what is generated.
THINKING = """
  {%- macro show(content) %}{{ content.split('</think>')[-1] if content is string else content[0].text }}{% endmacro %}
{% if tools %}{{ 'own tools: ' ~ tools | tojson }}{% endif %}
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' ~ show(messages[0].content) ~ '<|im_end|>\n' }}
    {%- set messages = messages[1:] %}
{%- endif %}
{%- for document in documents or [] %}{{ document.text }}{% endfor %}
{%- for message in messages[::-1] | reverse %}
    {{- '<|im_start|>' ~ message.role ~ '\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}{{ show(message.content) }}{% endgeneration %}
    {%- else %}{{ show(message.content) }}{% endif %}
    {%- for call in message.tool_calls or [] %}{{ call.function.name }}{% endfor %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' ~ ('' if enable_thinking else '<think>\n\n</think>\n\n') }}
{%- endif %}
"""
# As models of text and pictures have it: vLLM gives it content in parts.
PARTS = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{{ part.text }}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Its words for a message are those of tools.jinja's macros, and it knows one more role.
DEVELOPER = (
    "{% macro show(message) %}{% for part in message.content %}{{ part }}{% endfor %}{% endmacro %}"
    "{% for m in messages if m.role != 'developer' %}{{ show(m) }}{% endfor %}"
)
OWN = {"chatml": CHATML, "qwen": qwen_vocabulary.CHAT_TEMPLATE, "thinking": THINKING, "parts": PARTS}
EACH_OWN = pytest.mark.parametrize("own", OWN.values(), ids=OWN)

CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": '城市 or "city"', "minLength": 1},
        "unit": {"enum": ["C", "F"], "default": "C"},
        "days": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer"}}}},
        "by": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = Tool("weather", "Tells the weather", CITY)
AMAP = Tool("amap.weather", "获取天气", CITY)
CLOCK = Tool("clock", "", {"type": "object", "properties": {}, "required": []})
OSLO = Step(Call("weather", {"city": "Oslo {x}", "days": [1, {"n": 2.0}]}), '{"sky": "Action: x\\nAction Input: {}"}')
TRICKY = Step(Call("clock", {"Action:": 'Action Input: "Observation:" \\" \\', "": None}), "12:00\n{names}", "{tools}?")
LONG = Step(Call("clock", {}), "z" * 4000)
ENGLISH = Dialogue(
    "en",
    (WEATHER, CLOCK),
    (Turn("Weather?", (OSLO, TRICKY), "Fine."), Turn("And now?", (LONG, OSLO), "12"), Turn("Thanks", (), "Bye")),
    "Be brief. {persona}",
)
CHINESE = Dialogue(
    "zh", (AMAP,), (Turn("朝阳区天气？", (Step(Call("amap.weather", {"city": "朝阳"}), "晴"),), "晴。"),)
)
# The query is English; the instruction, or a tool's description, turns the prompts Chinese once there is history.
TURNING = Dialogue("turning", (CLOCK,), (Turn("Hi", (), "Hello"), Turn("Time?", (LONG,), "12")), "你是助手")
LISTED = replace(TURNING, instruction="", tools=(CLOCK, AMAP))
OBSERVED = Dialogue(
    "observed", (CLOCK,), (Turn("Time?", (Step(Call("clock", {}), "十二点"),), "12"), Turn("And now?", (LONG,), "1"))
)
EACH_DIALOGUE = pytest.mark.parametrize(
    "dialogue",
    [ENGLISH, CHINESE, TURNING, LISTED, OBSERVED],
    ids=["english", "chinese", "turning", "listed", "observed"],
)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def prompt(tokenizer: PreTrainedTokenizerFast) -> Callable[..., str]:
    def render(chat_template: str, messages: Iterable[Json], tools: Json = None, **rest: Any) -> str:
        how = {"add_generation_prompt": True} | rest
        return tokenizer.apply_chat_template(
            list(messages), tools=tools, chat_template=chat_template, tokenize=False, **how
        )

    return render


def spelled(exchange: Exchange) -> list[Json]:
    return [{"role": message.role, "content": message.content} for message in exchange.messages]


def requests(row: Json, loads: Callable[[str], Json]) -> Iterator[list[Json]]:
    """The OpenAI messages before each reply of the assistant, their arguments read by `loads`."""
    for place, message in enumerate(row["messages"]):
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = loads(call["function"]["arguments"])
        if message["role"] == "assistant":
            yield row["messages"][:place]


def until_refused(exchanges: Iterator[Exchange]) -> Iterator[Exchange]:
    try:
        yield from exchanges
    except ValueError:
        return


def compare(
    prompt: Callable[..., str], dialogue: Dialogue, own: str, dialect: protocol.Dialect, loads: Callable[[str], Json]
) -> int:
    """How many requests were found to be those that we train on."""
    ours, row = template.chat_template(own, dialect), openai.render(dialogue)
    trained = until_refused(agentfabric.render(dialogue, "test", dialect=dialect))
    count = 0
    for exchange, messages in zip(trained, requests(row, loads), strict=False):
        assert prompt(ours, messages, row["tools"]) == prompt(own, spelled(exchange))
        count += 1
    return count


def compact(arguments: str) -> str:
    return json.dumps(json.loads(arguments), ensure_ascii=False, separators=(",", ":"))


def indented(arguments: str) -> str:
    return json.dumps(json.loads(arguments), ensure_ascii=False, indent=2, separators=(",", " : "))


@EACH_DIALOGUE
@EACH_OWN
@DIALECTS
def test_a_request_with_tools_is_the_prompt_that_we_train_on(
    prompt: Callable[..., str], dialogue: Dialogue, own: str, dialect: protocol.Dialect
) -> None:
    assert compare(prompt, dialogue, own, dialect, json.loads) == sum(len(turn.steps) + 1 for turn in dialogue.turns)


@pytest.mark.parametrize("loads", [str, compact, indented])
@EACH_DIALOGUE
def test_a_request_whose_arguments_are_text_is_that_prompt_too(
    prompt: Callable[..., str], dialogue: Dialogue, loads: Callable[[str], Json]
) -> None:
    assert compare(prompt, dialogue, CHATML, protocol.V072, loads) > 0


def tame(dialogue: Dialogue) -> Dialogue:
    """What the format does not hold is left out: files, and blanks around what the assistant says."""

    def said(step: Step) -> Step:
        return replace(step, thought=step.thought.strip())

    turns = [
        replace(turn, files=(), steps=tuple(map(said, turn.steps)), answer=turn.answer.strip())
        for turn in dialogue.turns
    ]
    return replace(dialogue, turns=tuple(turns))


@given(dialogues(), st.sampled_from([json.loads, str, indented]), st.sampled_from(list(protocol.DIALECTS.values())))
@settings(max_examples=60, deadline=None)
def test_a_request_is_the_prompt_that_we_train_on_whatever_is_said_in_it(
    prompt: Callable[..., str], dialogue: Dialogue, loads: Callable[[str], Json], dialect: protocol.Dialect
) -> None:
    compare(prompt, tame(dialogue), CHATML, dialect, loads)


@pytest.mark.parametrize("tools", [None, []])
@pytest.mark.parametrize(
    "rest",
    [
        {},
        {"add_generation_prompt": False},
        {"enable_thinking": True, "documents": [{"title": "t", "text": "文"}]},
        {"continue_final_message": True, "add_generation_prompt": False},
    ],
    ids=str,
)
@EACH_OWN
@DIALECTS
def test_a_request_without_tools_is_untouched(
    prompt: Callable[..., str], own: str, rest: dict, tools: Json, dialect: protocol.Dialect
) -> None:
    messages = [
        {"role": "user", "content": "你好 {tools}"},
        {"role": "assistant", "content": "<think>a</think>b", "tool_calls": [{"function": {"name": "x"}}]},
        {"role": "tool", "content": "result"},
        {"role": "assistant", "content": "12"},
    ]
    ours = template.chat_template(own, dialect)
    assert prompt(ours, messages, tools, **rest) == prompt(own, messages, tools, **rest)


@pytest.mark.parametrize("own", ["\n\n {{ messages | length }}\n\n", "  {# a #}\n{% if 1 %}b{% endif %}", "%}-\n", ""])
def test_blanks_at_the_ends_of_the_models_own_template_stay(prompt: Callable[..., str], own: str) -> None:
    assert prompt(template.chat_template(own, protocol.APRIL), [user("Hi")]) == prompt(own, [user("Hi")])


def test_what_is_generated_is_still_marked(tokenizer: PreTrainedTokenizerFast) -> None:
    how = {"return_dict": True, "return_assistant_tokens_mask": True}
    messages = [user("Hi"), {"role": "assistant", "content": "Hello"}]
    ours = template.chat_template(THINKING, protocol.APRIL)
    for tools in (None, OFFERED):
        encoded = tokenizer.apply_chat_template(messages, tools=tools, chat_template=ours, **how)
        marked = [id for id, mark in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if mark]
        assert tokenizer.decode(marked) == "Hello"


def user(text: Json) -> Json:
    return {"role": "user", "content": text}


def assistant(text: Json, *calls: Json) -> Json:
    return {"role": "assistant", "content": text, "tool_calls": list(calls)}


def call(name: str, arguments: Json, id: str | None) -> Json:
    named = {"function": {"name": name, "arguments": arguments}, "type": "function"}
    return named if id is None else {"id": id} | named


def result(text: Json, id: str | None = None, **rest: Json) -> Json:
    return {"role": "tool", "content": text} | ({} if id is None else {"tool_call_id": id}) | rest


OFFERED = [{"type": "function", "function": {"name": name, "parameters": None}} for name in ("a", "b")]
A, B = call("a", {}, "1"), call("b", {"n": 1}, "2")
ONE_BY_ONE = [user("Go"), assistant("First a.", A), result("ra", "1"), assistant(None, B), result("rb", "2")]


@pytest.mark.parametrize(
    "messages",
    {
        "parallel": [user("Go"), assistant("First a.", A, B), result("ra", "1"), result("rb", "2")],
        "in another order": [user("Go"), assistant("First a.", A, B), result("rb", "2"), result("ra", "1")],
        "two messages": [
            user("Go"),
            assistant("First a.", A),
            assistant(None, B),
            result("rb", "2"),
            result("ra", "1"),
        ],
        "text before": [user("Go"), assistant("First a."), assistant("", A, B), result("ra", "1"), result("rb", "2")],
        "no ids": [
            user("Go"),
            assistant("First a.", call("a", {}, None), call("b", {"n": 1}, None)),
            result("ra"),
            result("rb"),
        ],
        "names alone": [user("Go"), assistant("First a.", A, B), result("rb", name="b"), result("ra", name="a")],
        "line break kept": [user("Go"), assistant("First a.\n", A, B), result("ra", "1"), result("rb", "2")],
        "arguments as text": [
            user("Go"),
            assistant("First a.", call("a", "", "1"), call("b", ' {"n":1}\n', "2")),
            result("ra", "1"),
            result("rb", "2"),
        ],
        "no arguments": [
            user("Go"),
            assistant("First a.", call("a", None, "1"), B),
            result([{"type": "text", "text": "ra"}], "1"),
            result(["rb"], "2"),
        ],
    }.items(),
    ids=lambda case: case[0],
)
@DIALECTS
def test_parallel_calls_come_one_after_the_other(
    prompt: Callable[..., str], dialect: protocol.Dialect, messages: tuple[str, list[Json]]
) -> None:
    ours = template.chat_template(CHATML, dialect)
    expected = prompt(ours, ONE_BY_ONE, OFFERED)
    between = "\n\n" if dialect is protocol.V072 else "\n"
    assert expected.partition("Go")[2] == (
        f"First a.\nAction: a\nAction Input: {{}}{between}Observation: <result>ra</result>\nAnswer:"
        f'Action: b\nAction Input: {{"n": 1}}{between}Observation: <result>rb</result>\nAnswer:<|im_end|>\n'
        "<|im_start|>assistant\n"
    )
    assert prompt(ours, messages[1], OFFERED) == expected


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([user("Go"), result("r", "7")], 'no call that waits for one: tool_call_id "7", content "r"'),
        ([user("Go"), assistant(None, A), result("r", "7")], 'tool_call_id "7"'),
        ([user("Go"), assistant(None, A), result("r", "1"), result("again", "1")], 'content "again"'),
        ([user("Go"), assistant(None, A, B), result("r", name="c")], 'tool_call_id ""'),
        ([user("Go"), assistant(None, A, B), result("r", "1")], "a call has no result: to 'b', id \"2\""),
        ([user("Go"), assistant(None, A), user("Go on")], "a call has no result: to 'a', id \"1\""),
        ([user("Go"), assistant(None, A), result("r", "1"), assistant(None, B)], "a call has no result: to 'b'"),
        ([user("Go"), {"role": "function", "content": "r"}], 'of role "function" has no place'),
        ([user([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}])], "is no text"),
    ],
)
def test_what_has_no_place_is_refused_by_name(prompt: Callable[..., str], messages: list[Json], complaint: str) -> None:
    with pytest.raises(TemplateError) as refused:
        prompt(template.chat_template(CHATML, protocol.APRIL), messages, OFFERED)
    assert complaint in str(refused.value)


def sent(query: str, *history: str, instruction: str = "", dialect: protocol.Dialect = protocol.APRIL) -> list[Json]:
    """What the client sends with the tools a and b, after a history that begins with the user."""
    tools = [Tool(name, "", CLOCK.parameters) for name in ("a", "b")]
    past = [Message(("user", "assistant")[place % 2], text) for place, text in enumerate(history)]
    opened = protocol.opening(tools, instruction, "", past, query, dialect=dialect)
    return [{"role": message.role, "content": message.content} for message in opened]


SYSTEM = {"role": "system", "content": "S"}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([user("Go")], sent("Go")),
        ([user(None)], sent("")),
        ([user([{"type": "text", "text": "Go"}, "on"])], sent("Go\non")),
        ([user("Go"), user("on")], sent("Go\non")),
        ([SYSTEM], sent("", instruction="S")),
        ([SYSTEM, SYSTEM, user("Go")], sent("Go", instruction="S")),
        ([SYSTEM, user("Go"), {"role": "developer", "content": "D"}], sent("Go", instruction="S\n\nD")),
        ([{"role": "developer", "content": None}, user("Go")], sent("Go")),
        ([user("Hi"), assistant("Hello"), user("Go")], sent("Go", "Hi", "Hello")),
        ([user("Hi"), assistant(None), user("Go")], sent("Go", "Hi", "")),
        ([assistant("Hello"), user("Go")], [sent("")[0], assistant("Hello"), *sent("Go")[1:]]),
        (
            [*ONE_BY_ONE, assistant("Done."), user("Go")],
            sent(
                "Go",
                "Go",
                "First a.\nAction: a\nAction Input: {}\n\nObservation: <result>ra</result>\nAnswer:Action: b\n"
                'Action Input: {"n": 1}\n\nObservation: <result>rb</result>\nAnswer: Done.',
            ),
        ),
        (
            [user("Go"), assistant(None, A), result(None, "1"), user("Go")],
            sent("Go", "Go", "Action: a\nAction Input: {}\n\nObservation: <result></result>\nAnswer:"),
        ),
    ],
)
def test_each_other_shape_of_a_conversation_keeps_all_that_is_said(
    prompt: Callable[..., str], messages: list[Json], expected: list[Json]
) -> None:
    ours = template.chat_template(CHATML, protocol.APRIL)
    assert prompt(ours, messages, OFFERED) == prompt(CHATML, expected)


@pytest.mark.parametrize("text", [" Don", "Don"])
def test_a_last_message_of_the_assistant_is_continued(prompt: Callable[..., str], text: str) -> None:
    ours, how = template.chat_template(CHATML, protocol.APRIL), {"add_generation_prompt": False}
    closed = prompt(ours, [*ONE_BY_ONE, assistant(text)], OFFERED, **how)
    assert closed.endswith("</result>\nAnswer:<|im_end|>\n<|im_start|>assistant\n Don<|im_end|>\n")
    opened = prompt(ours, [*ONE_BY_ONE, assistant(text)], OFFERED, continue_final_message=True, **how)
    assert opened == closed.removesuffix("<|im_end|>\n")


ODD_SCHEMAS = [
    None,
    {},
    {"type": "object"},
    {"properties": None, "required": None},
    {"type": "object", "properties": {"items": {}, "keys": {"type": ["string", "null"]}, "a b": {"enum": []}}},
    {"type": "object", "properties": {"x": {"anyOf": [{"type": "string"}]}, "description": {"description": "获取"}}},
]


@pytest.mark.parametrize("described", [{}, {"description": None}, {"description": "{name} 获取"}, {"description": "é"}])
@pytest.mark.parametrize("schema", ODD_SCHEMAS, ids=str)
def test_an_odd_schema_is_shown_as_the_client_shows_it(
    prompt: Callable[..., str], schema: Json, described: dict[str, Json]
) -> None:
    properties = (schema or {}).get("properties") or {}
    tool = Tool("f", described.get("description") or "", {"type": "object", "properties": properties})
    function = {"name": "f", "parameters": schema} | described
    text = prompt(template.chat_template(CHATML, protocol.APRIL), [user("Go")], [{"function": function}])
    assert f"\n\n{protocol.tool_line(tool)}\n\n" in text
    assert prompt(template.chat_template(CHATML, protocol.APRIL), [user("Go")], [function]) == text


def test_a_reference_is_shown_as_the_schema_it_means(prompt: Callable[..., str]) -> None:
    colour = {"type": "string", "enum": ["red"], "title": "Colour"}
    properties = {"colour": {"$ref": "#/$defs/Colour", "description": "of it"}, "lost": {"$ref": "#/$defs/items"}}
    parameters = {"type": "object", "$defs": {"Colour": colour}, "properties": properties}
    text = prompt(
        template.chat_template(CHATML, protocol.APRIL),
        [user("Go")],
        [{"function": {"name": "f", "parameters": parameters}}],
    )
    assert '"properties": {"colour": {"type": "string", "description": "of it", "enum": ["red"]}, "lost": {}}' in text


def test_parameters_that_are_no_schema_are_refused(prompt: Callable[..., str]) -> None:
    with pytest.raises(TemplateError, match="tool 'f' are no JSON schema"):
        prompt(
            template.chat_template(CHATML, protocol.APRIL),
            [user("Go")],
            [{"function": {"name": "f", "parameters": [1]}}],
        )


@pytest.mark.parametrize("letter", ["\u4dff", "\u4e00", "\u9fff", "\ua000", "é", "。", "🦉", "x"])
def test_the_language_is_the_clients(prompt: Callable[..., str], letter: str) -> None:
    text = prompt(template.chat_template(CHATML, protocol.APRIL), [user(f"Go {letter}")], OFFERED)
    assert text == prompt(CHATML, sent(f"Go {letter}"))
    assert ("# 工具" in text) is ("\u4e00" <= letter <= "\u9fff")


def test_thirty_tools_and_a_long_text_take_less_than_50_ms(prompt: Callable[..., str]) -> None:
    tools = [{"function": {"name": f"f{i}", "description": "Tells it. " * 20, "parameters": CITY}} for i in range(30)]
    messages = [user("wörd " * 4000), *ONE_BY_ONE[1:], assistant("ok"), user("Go"), *ONE_BY_ONE[1:]]
    ours = template.chat_template(CHATML, protocol.APRIL)
    prompt(ours, messages, tools)  # compiles it
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        prompt(ours, messages, tools)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.05


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("own", "kind"), [(CHATML, "string"), (THINKING, "string"), (PARTS, "openai"), (DEVELOPER, "string")]
)
def test_vllm_sees_in_it_what_it_sees_in_the_models_own(own: str, kind: str) -> None:
    from vllm.renderers import hf

    for text in (own, template.chat_template(own, protocol.APRIL)):
        assert hf._detect_content_format(text, default="string") == kind
        assert hf._detect_developer_role_support(text) == ("developer" in own)


@pytest.mark.e2e
@pytest.mark.parametrize("own", [CHATML, PARTS], ids=["chatml", "parts"])
@DIALECTS
def test_vllm_renders_it_as_transformers_does(
    prompt: Callable[..., str],
    tiny_model: Path,
    tokenizer: PreTrainedTokenizerFast,
    own: str,
    dialect: protocol.Dialect,
) -> None:
    from vllm.config import ModelConfig
    from vllm.renderers import chat_utils, hf

    config = ModelConfig(model=str(tiny_model), dtype="float32")

    def vllm(chat_template: str, messages: list[Json], tools: Json = None) -> str:
        kind = hf.resolve_chat_template_content_format(chat_template, tools, "auto", tokenizer, model_config=config)
        parsed, *_ = chat_utils.parse_chat_messages(json.loads(json.dumps(messages)), config, kind)
        return hf.safe_apply_chat_template(
            config,
            tokenizer,
            parsed,
            tools=tools,
            chat_template=chat_template,
            tokenize=False,
            add_generation_prompt=True,
        )

    ours, row = template.chat_template(own, dialect), openai.render(ENGLISH)
    for exchange, messages in zip(
        agentfabric.render(ENGLISH, "test", dialect=dialect), requests(row, str), strict=True
    ):
        assert vllm(ours, messages, row["tools"]) == prompt(own, spelled(exchange))
    plain = [SYSTEM, user([{"type": "text", "text": "Hi"}]), assistant("Hello"), {"role": "developer", "content": "D"}]
    assert vllm(ours, plain) == vllm(own, plain)
