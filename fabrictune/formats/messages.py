"""Plain chat <-> Dialogue without tools, and the exchanges to train our own model on it.

Read: {"messages": [{"role", "content"}]}, {"conversations": [{"from", "value"}]} and {"query", "response", "history",
"system"}, whose roles may be spelled user or human, assistant or gpt, system or developer. Several system texts at the
start are joined by a blank line, user messages in a row by a line break; content in parts is their text, joined by line
breaks. Files uploaded with a query stand under `files` of its message. Lists may be given as text, as tables hold them.

Refused: tools (other sources read them), pictures and sounds, a user or assistant message that is empty, two answers in
a row, a dialogue that does not start with the user or does not end with an answer, an answer marked as not to be
trained on, and a placeholder such as {{name}} that is not filled in.

Not held by this format: tools, a Role as such, and what is knowledge in the system message. Not read: all other keys of
a row and of its messages, such as `name` and `reasoning_content`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import dropwhile
from typing import Any

from fabrictune.dialogue import Dialogue, Exchange, Json, Message, Span, Turn
from fabrictune.formats import system_text, values, walk

_SYSTEM = ("system", "developer")
_USER = ("user", "human")
_ASSISTANT = ("assistant", "gpt")
# Which source reads the messages of another role.
_OTHER_SOURCES = {
    "tool": "openai",
    "function": "openai",
    "tool_call": "openai",
    "tool_response": "openai",
    "function_call": "sharegpt",
    "observation": "sharegpt",
}
_MEDIA = ("image", "images", "video", "videos", "audio", "audios")
# Double braces straight after a word or a brace are LaTeX's.
_PLACEHOLDER = re.compile(r"(?<![A-Za-z0-9_\\}{])\{\{[A-Za-z_]{3,}\}\}")


def parse(row: Mapping[str, Any]) -> Dialogue:
    """The row as a Dialogue. Raises ValueError saying what in it cannot be read."""
    check_no_tools(row)
    if has_messages(row):
        systems, messages = read_messages(row)
        return plain(row, systems, map(_event, messages))
    if "query" in row and "response" in row:
        return exchange(row, read_text(row, "query"), read_text(row, "response"))
    raise ValueError(f"none of messages, conversations, or query and response: the row has {sorted(row)}")


def exchange(row: Mapping[str, Any], query: str, answer: str) -> Dialogue:
    """The dialogue of a row with a query and its answer, and with `system` and `history` (a list of pairs) if any."""
    history = values.read_list(row, "history", "pairs of texts")
    if not all(map(_is_pair, history)):
        raise ValueError(f"history is no list of pairs of texts: {history!r}"[:200])
    events: list[walk.Event] = []
    for asked, answered in [*history, (query, answer)]:
        events += [walk.Query(asked), walk.Text(answered)]
    return plain(row, [read_text(row, "system")], events)


def plain(row: Mapping[str, Any], systems: list[str], events: Iterable[walk.Event]) -> Dialogue:
    """The dialogue without tools, if nobody forgot to fill in a placeholder."""
    check_media(row)
    turns = walk.turns(events)
    for text in (*systems, *(said for turn in turns for said in (turn.query, turn.answer))):
        if found := _PLACEHOLDER.search(text):
            raise ValueError(f"a placeholder {{{{...}}}} is not filled in: {found[0]} in {text[:120]!r}")
    return Dialogue(
        id=read_name(row, "id"),
        tools=(),
        turns=turns,
        instruction=system_text.join(systems),
        family=read_name(row, "family"),
    )


def render(dialogue: Dialogue) -> dict[str, Json]:
    """The Dialogue as a row of messages; `parse` is its inverse. Raises ValueError for a dialogue with tools."""
    _check_plain(dialogue, "data.format=openai")
    return envelope(dialogue, [message for turn in dialogue.turns for message in _pair(turn)])


def exchanges(dialogue: Dialogue, source: str) -> Iterator[Exchange]:
    """One exchange for each turn, as a chat client sends it. Raises ValueError for what plain messages cannot hold."""
    way_out = f"data.mix.{source}.plain=false"
    _check_plain(dialogue, way_out)
    system = system_text.spell(dialogue)
    past = [Message("system", system)] if system else []
    for number, turn in enumerate(dialogue.turns):
        if turn.files:
            raise ValueError(
                f"plain messages cannot hold uploaded files: the query {turn.query[:60]!r} has {list(turn.files)}; "
                f"give {way_out}"
            )
        past.append(Message("user", turn.query))
        yield Exchange(dialogue.id, number, 0, source, tuple(past), (Span(turn.answer, "answer"),))
        past.append(Message("assistant", turn.answer))


def envelope(dialogue: Dialogue, messages: list[dict[str, Json]]) -> dict[str, Json]:
    """The row around the messages, with the system message before them."""
    system = system_text.spell(dialogue)
    before = [{"role": "system", "content": system}] if system else []
    row: dict[str, Json] = {"id": dialogue.id, "messages": before + messages}
    return row | ({"family": dialogue.family} if dialogue.family else {})


def user_message(turn: Turn) -> dict[str, Json]:
    files = {"files": list(turn.files)} if turn.files else {}
    return {"role": "user", "content": turn.query} | files


def has_messages(row: Mapping[str, Any]) -> bool:
    return any(row.get(key) not in (None, "") for key in ("messages", "conversations"))


def read_messages(row: Mapping[str, Any]) -> tuple[list[str], list[dict[str, Any]]]:
    """The system texts of a row, its own `system` first, and the messages after them with `role` and text `content`.

    Other keys of a message stay. Raises ValueError for what is no message or holds more than text.
    """
    key = "conversations" if row.get("messages") in (None, "") else "messages"
    messages = values.read_list(row, key, "messages")
    if not messages:
        raise ValueError(f"{key} is no list of messages: {row[key]!r}"[:200])
    read = [_message(message) for message in messages]
    rest = list(dropwhile(_is_system, read))
    if any(map(_is_system, rest)):
        raise ValueError("a system message after the first: it would change the agent midway")
    return [read_text(row, "system"), *(message["content"] for message in read[: len(read) - len(rest)])], rest


def _is_system(message: Mapping[str, Any]) -> bool:
    return message["role"] in _SYSTEM


def _message(message: Any) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise ValueError(f"a message is no object: {message!r}"[:200])
    role = message.get("role") or message.get("from")
    if not isinstance(role, str):
        raise ValueError(f"a message without a role: {dict(message)}"[:200])
    if role in _ASSISTANT and (0 in (message.get("weight"), message.get("loss"))):
        raise ValueError(f"an assistant message is not to be trained on: {dict(message)}"[:200])
    content = message.get("value") if message.get("content") is None else message["content"]
    if role in ("tool", "function") and isinstance(content, dict):
        content = walk.as_text(content)
    return {**message, "role": role, "content": _content(content)}


def _content(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ValueError(f"a message's content is no text: {content!r}"[:200])
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ValueError(f"a part of a message is no text: {part!r}"[:200])
    return "\n".join(part["text"] for part in content)


def read_files(message: Mapping[str, Any]) -> tuple[str, ...]:
    files = values.read_list(message, "files", "names")
    if not all(isinstance(file, str) for file in files):
        raise ValueError(f"files is no list of names: {files!r}"[:200])
    return tuple(files)


def read_text(row: Mapping[str, Any], key: str) -> str:
    """The text under a key, "" where there is none."""
    value = row.get(key)
    if not isinstance(value, str | None):
        raise ValueError(f"{key} is no text: {value!r}"[:200])
    return value or ""


def read_name(row: Mapping[str, Any], key: str) -> str:
    """The text or number under a key as text, "" where there is none."""
    value = row.get(key)
    return "" if value is None else str(value)


def check_media(row: Mapping[str, Any]) -> None:
    for key in _MEDIA:
        if not values.is_empty(row.get(key)):
            raise ValueError(f"pictures and sounds cannot be read: the row has '{key}'")


def check_no_tools(row: Mapping[str, Any]) -> None:
    if not values.is_empty(row.get("tools")):
        raise ValueError("tools in a source of plain chat: read them with source=openai or source=sharegpt")


def has_calls(message: Mapping[str, Any]) -> bool:
    return not all(values.is_empty(message.get(key)) for key in ("tool_calls", "function_call"))


def _event(message: Mapping[str, Any]) -> walk.Event:
    if has_calls(message):
        raise ValueError("a source of plain chat with calls: read it with source=openai")
    role = message["role"]
    if role in _USER:
        return walk.Query(message["content"], read_files(message))
    if role in _ASSISTANT:
        return walk.Text(message["content"])
    if role in _OTHER_SOURCES:
        raise ValueError(f"a source of plain chat with the role '{role}': read it with source={_OTHER_SOURCES[role]}")
    raise ValueError(f"unknown role: '{role}' is none of {[*_SYSTEM, *_USER, *_ASSISTANT]}")


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(text, str) for text in pair)


def _check_plain(dialogue: Dialogue, way_out: str) -> None:
    if dialogue.tools:
        names = [tool.name for tool in dialogue.tools]
        raise ValueError(f"plain messages cannot hold tools: the dialogue has {names}; give {way_out}")


def _pair(turn: Turn) -> list[dict[str, Json]]:
    return [user_message(turn), {"role": "assistant", "content": turn.answer}]
