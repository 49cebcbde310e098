"""A capture log as the proxy writes it, of clients that talk to a scripted model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from fabrictune.dialogue import Call, Message, Reply, Step, Tool, Turn
from fabrictune.formats import captured_log
from fabrictune.formats.captured_conversations import conversations
from fabrictune.formats.captured_log import Recorded
from fabrictune.protocol import APRIL, Dialect
from fabrictune.score import client

CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "the city"},
        "days": {"type": "integer", "description": "how many"},
        "unit": {"type": "string", "description": "of degrees", "enum": ["C", "F"]},
    },
    "required": ["city"],
}
WEATHER = Tool("weather", "Tells the weather", CITY)
CLOCK = Tool("时钟", "告诉时间", {"type": "object", "properties": {}, "required": []})
TOOLS = (WEATHER, CLOCK)
# A turn as it is played: query, the model's replies, the tools' results.
Script = tuple[str, Sequence[str], Sequence[str]]


def call(city: str, **more: object) -> str:
    """A reply that calls as our own data writes it, up to the stop string."""
    return f"Action: weather\nAction Input: {json.dumps({'city': city} | more, ensure_ascii=False)}\n"


def asked(city: str, result: str = "sunny, 21 degrees") -> Script:
    """A good turn with one call."""
    return f"What is the weather in {city}?", [call(city), f" {city} has {result}."], [result]


THANKS: Script = ("Thanks", ["Welcome."], [])
OSLO = Turn(
    "What is the weather in Oslo?",
    (Step(Call("weather", {"city": "Oslo"}), "sunny, 21 degrees"),),
    "Oslo has sunny, 21 degrees.",
)


def line(request: Mapping[str, Any], reply: str, **rest: object) -> dict[str, Any]:
    return {
        "id": "4711",
        "time": "2026-11-23T03:14:00Z",
        "seconds": 0.5,
        "path": "/v1/chat/completions",
        "status": 200,
        "streamed": False,
        "request": request,
        "reply": reply,
        "message": {"role": "assistant", "content": reply},
        "finish_reason": "stop",
        "error": None,
    } | rest


def recorded(
    *turns: Script,
    tools: Sequence[Tool] = TOOLS,
    instruction: str = "Be brief.",
    dialect: Dialect = APRIL,
    knowledge: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """The lines of one conversation of AgentFabric's client, which keeps what its user saw as its history.

    `knowledge` is what it looks up for each query, nothing where that is not given.
    """
    lines: list[dict[str, Any]] = []
    history: list[Message] = []
    for (query, replies, results), found in zip_longest(turns, knowledge, fillvalue=""):
        script, returned = iter(replies), iter(results)

        async def ask(body: dict[str, Any], script=script) -> Reply:
            lines.append(line(body, next(script)))
            return Reply(lines[-1]["reply"], stopped=True)

        played = asyncio.run(
            client.play_turn(
                *(ask, "m", tools, instruction, found, history, query, lambda *_, returned=returned: next(returned)),
                dialect=dialect,
            )
        )
        history += [Message("user", query), Message("assistant", client.transcript(played))]
    return lines


def of_openai(*messages: Mapping[str, Any], **rest: object) -> list[dict[str, Any]]:
    """The lines of a client that sends tools: one for each of the messages that is the assistant's."""
    tools = [
        {
            "type": "function",
            "function": {"name": one.name, "description": one.description, "parameters": one.parameters},
        }
        for one in TOOLS
    ]
    return [
        line(
            {"model": "m", "messages": list(messages[:place]), "tools": tools},
            message.get("content") or "",
            message=message,
            finish_reason="tool_calls" if message.get("tool_calls") else "stop",
            **rest,
        )
        for place, message in enumerate(messages)
        if message["role"] == "assistant"
    ]


def calling(number: int, *cities: str) -> dict[str, Any]:
    calls = [
        {
            "id": f"call_{number}_{place}",
            "type": "function",
            "function": {"name": "weather", "arguments": json.dumps({"city": city})},
        }
        for place, city in enumerate(cities)
    ]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def texts(*lines: Mapping[str, Any]) -> list[tuple[int, str]]:
    return [(number, json.dumps(one, ensure_ascii=False)) for number, one in enumerate(lines, 1)]


def write(path: Path, lines: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(text + "\n" for _, text in texts(*lines)), encoding="utf-8")
    return path


USER = {"role": "user", "content": "Oslo and Rome?"}
TWO = [
    {"role": "system", "content": "Be brief."},
    USER,
    calling(1, "Oslo", "Rome"),
    {"role": "tool", "tool_call_id": "call_1_0", "content": "sunny"},
    {"role": "tool", "tool_call_id": "call_1_1", "content": "rain"},
    {"role": "assistant", "content": "Sunny and rain."},
    {"role": "user", "content": [{"type": "text", "text": "Thanks"}]},
    {"role": "assistant", "content": "Welcome."},
]


def left(*lines: dict[str, Any], window: int = 10_000) -> list[tuple[int, dict[str, Any]]]:
    found = conversations(texts(*lines), window)
    return [(place, json.loads(text)) for place, text in found]


def places(*lines: dict[str, Any], window: int = 10_000) -> list[int]:
    return [place for place, _ in left(*lines, window=window)]


def read(*lines: dict[str, Any]) -> Recorded:
    """What the last line says."""
    return captured_log.parse(left(*lines)[-1][1])


def refusal(*lines: dict[str, Any]) -> str:
    with pytest.raises(ValueError) as refused:
        read(*lines)
    return str(refused.value)
