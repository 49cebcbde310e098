"""OpenAI-style function calling <-> Dialogue, and the families of data that are akin to it.

Read, told apart by their keys:

* {"messages", "tools"} with `tool_calls` and the role tool; with `function_call`, `functions` and the role function of
  the older API; with ms-swift's roles tool_call and tool_response.
* {"conversations", "tools"} or {"messages", "tools"} of the Hermes kind: <tool_call> blocks in what the assistant says,
  <tool_response> blocks in tool messages, or in user messages as Qwen's template puts them. The part of the system
  message that spells out the tools and how to call them is that kind's wire format and is left out of the instruction;
  the tools are read from it where the row has none of its own.
* {"query", "tools", "answers"} of xLAM: calls without results, which become the turn's `pending`.

Repairs: those of `walk` (parallel calls, thoughts, user messages in a row) and of `functions` (tools and arguments in
other spellings); several system texts at the start are joined by a blank line; content in parts is their text, joined
by line breaks; a tool's result that is an object is written as JSON; lists may be given as text, as tables hold them; a
<tool_response> of {"name", "content"} is its content. Parallel calls become steps one after the other, in the order of
the calls; content beside `tool_calls` is the thought of the first of them.

Refused: a call without a result before the dialogue's end, a result without a call, an empty user or assistant message,
two answers in a row, a dialogue that does not start with the user or ends without an answer, an assistant message that
is marked as not to be trained on or begins a <tool_call> that nobody closed, pictures and sounds.

Not held by this format: which calls were parallel, a Role as such and what is knowledge in the system message (both are
spelled out in it as AgentFabric does), a thought of blanks, and the tags of the Hermes kind in an answer, at the start
of a query or in the instruction. Not read: all other keys of a row and of its messages, such as `reasoning_content`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from fabrictune.dialogue import Dialogue, Json, Step, Tool, Turn
from fabrictune.formats import functions, messages, system_text, values, walk

_ROLES = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "tool_call": "call",
    "tool": "result",
    "function": "result",
    "tool_response": "result",
}
_SHAREGPT_ROLES = ("function_call", "observation")

# Blanks around the content are for its reader to strip: patterns that do take cubic time on a tag nobody closed.
_CALL_BLOCK = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_OPEN_CALL = re.compile(r"\s*<tool_call>\s*[{\[]")
_RESULT_BLOCK = re.compile(r"<tool_response>(.*?)</tool_response>", re.DOTALL)
_TOOLS_BLOCK = re.compile(r"<tools>(.*?)</tools>", re.DOTALL)
# How the system messages of this kind go over to the tools, and what closes the part about them.
_TOOLS_OPENING = re.compile(
    r"# Tools\s|You are a function calling AI model|You are provided with function signatures|"
    r"You may call one or more functions"
)
_TOOLS_CLOSING = re.compile(r".*</(?:tools|tool_call|tool_response|scratch_pad)>", re.DOTALL)


def parse(row: Mapping[str, Any]) -> Dialogue:
    """The row as a Dialogue. Raises ValueError saying what in it cannot be read."""
    messages.check_media(row)
    if messages.has_messages(row):
        return _chat(row)
    if row.get("query") is not None and row.get("answers") is not None:
        return _xlam(row)
    raise ValueError(f"none of messages, conversations, or query, tools and answers: the row has {sorted(row)}")


def render(dialogue: Dialogue) -> dict[str, Json]:
    """The Dialogue as a row of messages with tools; `parse` is its inverse for all that the format holds.

    Each step is an assistant message with one call, of the id "call_0", "call_1", ...; pending calls are parallel.
    """
    numbers = count()
    row = messages.envelope(dialogue, [message for turn in dialogue.turns for message in _messages(turn, numbers)])
    tools = [{"type": "function", "function": functions.write_tool(tool)} for tool in dialogue.tools]
    return row | ({"tools": tools} if tools else {})


def _chat(row: Mapping[str, Any]) -> Dialogue:
    tools = functions.read_tools(row.get("tools")) or functions.read_tools(row.get("functions"))
    systems, said = messages.read_messages(row)
    spelled: tuple[Tool, ...] = ()
    for place, text in enumerate(systems):
        if blocks := [block.strip() for block in _TOOLS_BLOCK.findall(text)]:
            # The first is often an empty one, in a sentence that explains the tags.
            for block in filter(None, blocks if not tools else ()):
                spelled += _spelled_tools(block)
            systems[place] = _without_tools(text)
    return Dialogue(
        id=messages.read_name(row, "id"),
        tools=tools or spelled,
        turns=walk.turns(event for message in said for event in _events(message)),
        instruction=system_text.join(systems),
        family=messages.read_name(row, "family"),
    )


def _xlam(row: Mapping[str, Any]) -> Dialogue:
    calls = functions.read_calls(row["answers"])
    query = walk.Query(messages.read_text(row, "query"))
    return Dialogue(
        id=messages.read_name(row, "id"),
        tools=functions.read_tools(row.get("tools")),
        turns=walk.turns([query, *map(walk.Request, calls)]),
        instruction=messages.read_text(row, "system"),
        family=messages.read_name(row, "family"),
    )


def _role(message: Mapping[str, Any]) -> str:
    role: str = message["role"]
    if role in _SHAREGPT_ROLES:
        raise ValueError(f"an openai row with the role '{role}': read it with source=sharegpt")
    if role not in _ROLES:
        raise ValueError(f"unknown role: '{role}' is none of {['system', 'developer', *_ROLES]}")
    return _ROLES[role]


def _events(message: Mapping[str, Any]) -> Iterator[walk.Event]:
    role, text = _role(message), message["content"]
    if role == "user":
        if _RESULT_BLOCK.match(text.strip()):
            yield from _results(message)
        else:
            yield walk.Query(text, messages.read_files(message))
    elif role == "call":
        yield from map(walk.Request, functions.read_calls(text))
    elif role == "result":
        yield from _results(message)
    elif messages.has_calls(message):
        yield from _requests(message)
    elif _CALL_BLOCK.search(text):
        yield from _requests_in_text(text)
    elif _OPEN_CALL.match(text):
        raise ValueError(f"a <tool_call> that nobody closed: {text.strip()[:120]!r}")
    else:
        yield walk.Text(text)


def _requests(message: Mapping[str, Any]) -> Iterator[walk.Request]:
    calls = values.read_list(message, "tool_calls", "calls")
    if not calls:
        calls = [{"function": values.read_cell(message["function_call"])}]
    thought = message["content"] if message["content"].strip() else ""
    for number, call in enumerate(calls):
        if not isinstance(call, Mapping):
            raise ValueError(f"a call is no object with a name: {call!r}"[:200])
        yield walk.Request(
            functions.read_call(call.get("function", call)),
            thought if number == 0 else "",
            messages.read_name(call, "id"),
        )


def _requests_in_text(text: str) -> Iterator[walk.Request]:
    end = 0
    for block in _CALL_BLOCK.finditer(text):
        thought = text[end : block.start()].strip()
        for number, call in enumerate(functions.read_calls(block[1])):
            yield walk.Request(call, thought if number == 0 else "")
        end = block.end()
    if text[end:].strip():
        raise ValueError(f"text after a <tool_call>: {text[end:].strip()[:120]!r}")


def _results(message: Mapping[str, Any]) -> Iterator[walk.Result]:
    text = message["content"]
    # What an id goes with is the result itself, whatever it looks like.
    blocks = [] if message.get("tool_call_id") else _RESULT_BLOCK.findall(text)
    if not blocks:
        yield walk.Result(text, messages.read_name(message, "tool_call_id"), messages.read_name(message, "name"))
    elif _RESULT_BLOCK.sub("", text).strip():
        raise ValueError(f"text beside a <tool_response>: {_RESULT_BLOCK.sub('', text).strip()[:120]!r}")
    for block in blocks:
        yield _result_in(block.strip())


def _result_in(text: str) -> walk.Result:
    try:
        value = values.read(text)
    except ValueError:
        return walk.Result(text)
    if not isinstance(value, dict) or "content" not in value or value.keys() - {"name", "content", "tool_call_id"}:
        return walk.Result(text)
    return walk.Result(walk.as_text(value["content"]), tool=messages.read_name(value, "name"))


def _spelled_tools(text: str) -> tuple[Tool, ...]:
    """The tools of a <tools> block: a list, or one object after the other."""
    try:
        return functions.read_tools(text)
    except ValueError:
        found, end = [], 0
        while end < len(text):
            try:
                one, end = values.DECODER.raw_decode(text, end)
            except ValueError as error:
                raise ValueError(f"the tools in a system message cannot be read: {text[end : end + 120]!r}") from error
            found.append(one)
            end += len(text[end:]) - len(text[end:].lstrip(", \n\r\t"))
        return functions.read_tools(found)


def _without_tools(system: str) -> str:
    """What the system message says before and after the part on tools."""
    opening = _TOOLS_OPENING.search(system)
    if opening is None:
        raise ValueError(f"a system message spells out tools in words that are not known: {system[:120]!r}")
    closing = _TOOLS_CLOSING.match(system)
    after = system[closing.end() :] if closing else ""
    return system_text.join([system[: opening.start()].strip(), after.strip()])


def _messages(turn: Turn, numbers: Iterator[int]) -> Iterator[dict[str, Json]]:
    yield messages.user_message(turn)
    for step in turn.steps:
        called = _assistant([step], numbers)
        yield called
        yield {"role": "tool", "tool_call_id": called["tool_calls"][0]["id"], "content": step.observation}
    for group in walk.parallel(turn.pending):
        yield _assistant(group, numbers)
    if turn.answer:
        yield {"role": "assistant", "content": turn.answer}


def _assistant(steps: list[Step], numbers: Iterator[int]) -> dict[str, Json]:
    calls = [
        {
            "id": f"call_{next(numbers)}",
            "type": "function",
            "function": {
                "name": step.call.name,
                "arguments": json.dumps(step.call.arguments, ensure_ascii=False),
            },
        }
        for step in steps
    ]
    return {"role": "assistant", "content": steps[0].thought, "tool_calls": calls}
