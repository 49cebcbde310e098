"""ShareGPT rows with tools, as LLaMA-Factory takes them, <-> Dialogue.

A row is {"conversations": [{"from": "human" | "function_call" | "observation" | "gpt" | "system", "value"}], "tools",
"system"}. `tools` is a list of functions or its JSON; a function_call is {"name", "arguments"} as JSON or as a Python
literal, or a list of such for parallel calls. We read and write four keys more: `id` and `family` of a row, `files` of
a human message, and `thought` of a function_call, where LLaMA-Factory overlooks it (a gpt message before a call would
make it leave out the whole row).

Repairs: those of `walk` (human messages in a row are joined; gpt text before a call is its thought; function_calls in a
row are parallel; an observation that lists the results of several calls is shared out), those of `functions` (tools and
arguments in other spellings), and `system` given twice is said once; `conversations` may be text also. user and
assistant are read as human and gpt. Parallel calls become steps one after the other.

Refused: an observation without a call before it (two of the 300 Chinese Glaive samples spell the call out in gpt text),
a call without a result before the dialogue's end, an empty human or gpt message, two gpt messages in a row, a dialogue
that does not start with the human or ends without an answer, pictures and sounds.

Not held by this format: which calls were parallel, a Role as such, and what is knowledge in the system message.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from fabrictune.dialogue import Dialogue, Json, Step, Turn
from fabrictune.formats import functions, messages, system_text, walk

_ROLES = ("human", "user", "gpt", "assistant", "function_call", "observation", "system")


def parse(row: Mapping[str, Any]) -> Dialogue:
    """The row as a Dialogue. Raises ValueError saying what in it cannot be read."""
    if row.get("conversations") in (None, ""):
        raise ValueError(f"no sharegpt row without conversations: the row has {sorted(row)}")
    messages.check_media(row)
    systems, said = messages.read_messages({**row, "messages": None})
    return Dialogue(
        id=messages.read_name(row, "id"),
        tools=functions.read_tools(row.get("tools")),
        turns=walk.turns(event for message in said for event in _events(message)),
        instruction=system_text.join(systems),
        family=messages.read_name(row, "family"),
    )


def render(dialogue: Dialogue) -> dict[str, Json]:
    """The Dialogue as such a row; `parse` is its inverse for all that the format holds."""
    tools = [functions.write_tool(tool) for tool in dialogue.tools]
    row: dict[str, Json] = {
        "id": dialogue.id,
        "conversations": [message for turn in dialogue.turns for message in _messages(turn)],
        "tools": json.dumps(tools, ensure_ascii=False),
    }
    system = system_text.spell(dialogue)
    return row | ({"system": system} if system else {}) | ({"family": dialogue.family} if dialogue.family else {})


def _events(message: Mapping[str, Any]) -> Iterator[walk.Event]:
    role, text = message["role"], message["content"]
    if role in ("human", "user"):
        yield walk.Query(text, messages.read_files(message))
    elif role in ("gpt", "assistant"):
        yield walk.Text(text)
    elif role == "function_call":
        thought = messages.read_text(message, "thought")
        for number, call in enumerate(functions.read_calls(text)):
            yield walk.Request(call, thought if number == 0 else "")
    elif role == "observation":
        yield walk.Result(text)
    elif role == "tool":
        raise ValueError("a sharegpt row with the role 'tool': read it with source=openai")
    else:
        raise ValueError(f"unknown role: '{role}' is none of {[*_ROLES]}")


def _messages(turn: Turn) -> Iterator[dict[str, Json]]:
    yield {"from": "human", "value": turn.query} | ({"files": list(turn.files)} if turn.files else {})
    for step in turn.steps:
        yield _function_call([step])
        yield {"from": "observation", "value": step.observation}
    for group in walk.parallel(turn.pending):
        yield _function_call(group)
    if turn.answer:
        yield {"from": "gpt", "value": turn.answer}


def _function_call(steps: list[Step]) -> dict[str, Json]:
    calls = [functions.write_call(step.call) for step in steps]
    value = json.dumps(calls if len(calls) > 1 else calls[0], ensure_ascii=False)
    return {"from": "function_call", "value": value} | ({"thought": steps[0].thought} if steps[0].thought else {})
