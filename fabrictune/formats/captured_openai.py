"""A line of a capture log whose client is one of OpenAI's interface: it sends tools, or messages about calls."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

from fabrictune.dialogue import Dialogue, Json
from fabrictune.formats import openai, values

_SYSTEM = ("system", "developer")


def has_tools(request: Json) -> bool:
    """Whether the request is about tools in OpenAI's way."""
    if not isinstance(request, Mapping):
        return False
    messages = request.get("messages")
    return not all(values.is_empty(request.get(key)) for key in ("tools", "functions")) or any(
        isinstance(one, Mapping) and (one.get("role") in ("tool", "function") or bool(one.get("tool_calls")))
        for one in (messages if isinstance(messages, list) else ())
    )


def check_calls(row: Mapping[str, Any]) -> None:
    """Raises ValueError if the reply calls with arguments that a client cannot read."""
    for function in _functions(_reply(row)):
        written = function.get("arguments")
        try:
            value = json.loads(written) if isinstance(written, str) else None
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise ValueError(f"a call's arguments are no JSON object: {written!r:.200}")


def system(row: Mapping[str, Any]) -> str:
    """What the system messages say, as one text."""
    return json.dumps([_said(message) for message in _messages(row) if message["role"] in _SYSTEM])


def turns(row: Mapping[str, Any]) -> int:
    """How many turns the request has."""
    return len(_starts(_messages(row)))


def states(row: Mapping[str, Any], size: int) -> tuple[list[tuple[int, bytes]], bytes]:
    """As `captured.states`, of `size` bytes each, whatever the system messages are."""
    messages = _messages(row)
    tools = [row["request"].get(key) for key in ("tools", "functions")]
    conversation = blake2b(_encoded(tools), digest_size=size)
    starts = _starts(messages)
    held: list[tuple[int, bytes]] = []
    number = -1
    for at, message in enumerate(messages):
        number += at in starts
        if message["role"] not in _SYSTEM:
            conversation.update(_encoded(_said(message)))
        if message["role"] == "assistant":
            held.append((number, conversation.digest()))
    conversation.update(_encoded(_said(_reply(row))))
    return held, conversation.digest()


def read(row: Mapping[str, Any]) -> tuple[Dialogue, int, dict[int, str]]:
    """(dialogue, turns in all, why a turn cannot be read): the turns from the first on, as far as they can be read.

    Raises ValueError if none can, or the newest one not alone.
    """
    messages = [*_messages(row), _reply(row)]
    starts = _starts(messages)
    given = {"id": row.get("id")} | {key: row["request"].get(key) for key in ("tools", "functions")}
    faults: dict[int, str] = {}
    for number in range(len(starts), 0, -1):
        try:
            dialogue = openai.parse(given | {"messages": messages[: [*starts, len(messages)][number]]})
            if len(dialogue.turns) != number:
                raise ValueError("a user message that is read as a tool's result")
            if not dialogue.is_complete and number < len(starts):
                raise ValueError(f"a call without a result: '{dialogue.calls[-1].name}'")
        except ValueError as error:
            if number <= 1:
                raise
            faults[number - 1] = str(error)
            continue
        if number == len(starts) - 1:
            raise ValueError(faults[number])
        return dialogue, len(starts), faults
    raise ValueError("no user message: the request has none")


def _starts(messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """The places where a turn begins: at a user message, or at the first of several in a row."""
    roles = [message["role"] for message in messages]
    return [at for at, role in enumerate(roles) if role == "user" and (at == 0 or roles[at - 1] != "user")]


def _reply(row: Mapping[str, Any]) -> dict[str, Any]:
    """The assistant's message, of which the reply is the text."""
    message = row.get("message")
    return {"role": "assistant", "content": row["reply"]} | (dict(message) if isinstance(message, Mapping) else {})


def _messages(row: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    messages = row["request"].get("messages")
    if not isinstance(messages, list) or not all(isinstance(one, dict) and "role" in one for one in messages):
        raise ValueError(f"no list of messages with roles: {messages!r:.200}")
    return messages


def _said(message: Mapping[str, Any]) -> Json:
    """What a message says, however its client spells it: ids and other keys aside."""
    content = message.get("content") or ""
    if isinstance(content, list):
        content = "\n".join(str(part.get("text")) for part in content if isinstance(part, Mapping))
    return [message.get("role"), "".join(str(content).split()), list(map(_called, _functions(message)))]


def _functions(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The names and arguments of a message's calls. Raises ValueError where they are no objects."""
    calls = values.read_list(message, "tool_calls", "calls")
    found = [call.get("function", call) if isinstance(call, Mapping) else call for call in calls]
    found += [message["function_call"]] if message.get("function_call") else []
    if not all(isinstance(one, Mapping) for one in found):
        raise ValueError(f"a call is no object with a name: {found!r:.200}")
    return found


def _called(call: Mapping[str, Any]) -> Json:
    arguments = call.get("arguments")
    try:
        return [call.get("name"), json.loads(arguments) if isinstance(arguments, str) else arguments]
    except (ValueError, RecursionError):
        return [call.get("name"), arguments]


def _encoded(value: Json) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
