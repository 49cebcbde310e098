"""A line of a capture log: an exchange of any client -> the conversation that it ends.

A line is {"id", "path", "status", "request", "reply", "message", "finish_reason", "error", ...}, of one of two kinds.
Where the request has tools, or messages about calls, the client is one of OpenAI's interface, and its messages are read
as `openai` reads them. Else it must be AgentFabric's, of either generation. `captured_conversations` says which lines
of a log are read, and what the log knows of their turns.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from fabrictune import protocol
from fabrictune.dialogue import Call, Dialogue, Json, Turn, same_json
from fabrictune.formats import captured, captured_openai
from fabrictune.formats.captured_system import Opening, check_offer, read_opening
from fabrictune.formats.captured_trace import read_arguments, read_reply, read_transcript

KEYS = ("request", "reply", "path", "status", "finish_reason")
CHAT = "/chat/completions"
ENDED = ("stop", "tool_calls", "function_call")


@dataclass(frozen=True)
class Recorded:
    """The conversation of a line: its turns from the first one on, as far as they can be read, of `turns` in all.

    `faults` are what the log holds against some of them, by their numbers from 0.
    """

    dialogue: Dialogue
    turns: int
    faults: Mapping[int, str]


def is_line(row: Json) -> bool:
    """Whether the row is a line of a capture log, by its keys."""
    return isinstance(row, Mapping) and all(key in row for key in KEYS)


def is_log(record: str) -> bool | None:
    """Whether a file with this record is a capture log; None if the record is torn, so that it does not tell."""
    try:
        return is_line(json.loads(record))
    except (ValueError, RecursionError):
        return None


def parse(row: Mapping[str, Any]) -> Recorded:
    """The conversation of a line. Raises ValueError saying why the line ends no turn that can be read.

    That is why its exchange failed or was cut, what cannot be read, or that it ends with a call. Keys that
    `captured_conversations` adds are heeded: `query`, the newest query, and `faults`.
    """
    check_exchange(row)
    read = captured_openai.read if captured_openai.has_tools(row["request"]) else _read_agentfabric
    dialogue, turns, unreadable = read(row)
    last = dialogue.turns[-1]
    if last.pending:
        raise ValueError(f"a turn that did not end: its last call is '{last.calls[-1].name}'")
    return Recorded(dialogue, turns, _faults(row) | unreadable)


def check_exchange(row: Mapping[str, Any]) -> None:
    """Raises ValueError if the exchange failed or was cut, or its reply makes no call that every client would find."""
    if not str(row["path"]).rstrip("/").endswith(CHAT):
        raise ValueError(f"no request of a chat: '{row['path']}'")
    if row["status"] != 200:
        raise ValueError(f"a request that failed: status {row['status']}, {str(row.get('error'))!r:.160}")
    if row.get("error"):
        raise ValueError(f"a reply that broke off: {str(row['error'])!r:.160}")
    if row["finish_reason"] not in ENDED:
        raise ValueError(f"a reply that did not end by itself: finish_reason {row['finish_reason']!r}")
    if not isinstance(row["request"], Mapping):
        raise ValueError(f"no request of a chat: its body is {type(row['request']).__name__}")
    if captured_openai.has_tools(row["request"]):
        captured_openai.check_calls(row)
    elif isinstance(row["reply"], str):
        _check_call(row["reply"])


def _check_call(reply: str) -> None:
    """Raises ValueError if the reply is not to be learned, or the two clients would not find the same call in it."""
    _, pending = read_reply(reply)
    if not pending:
        return
    call = pending[0].call
    for generation, find in (("April 2024", protocol.find_last_call), ("0.7.2", protocol.find_first_call)):
        if not _finds(find(reply), call):
            raise ValueError(f"a call that a client would not find: the one of {generation} in {reply[:160]!r}")


def _finds(found: protocol.Found | None, call: Call) -> bool:
    try:
        return bool(found and found[0] == call.name and same_json(read_arguments(found[1]), call.arguments))
    except ValueError:
        return False


def opened(row: Mapping[str, Any]) -> tuple[captured.Frame, Opening]:
    """The messages of a line of AgentFabric's client, and their opening. Raises ValueError where they are none."""
    messages = row["request"].get("messages") if isinstance(row["request"], Mapping) else None
    first = messages[0] if isinstance(messages, list) and messages else None
    if isinstance(first, Mapping) and first.get("role") != "system":
        raise ValueError(f"neither tools nor AgentFabric's system message: it begins with '{first.get('role')}'")
    frame = captured.read_frame(row)
    opening = read_opening(frame.system, frame.newest)
    if opening is None:
        raise captured.no_prefix(frame)
    return frame, opening


def _read_agentfabric(row: Mapping[str, Any]) -> tuple[Dialogue, int, dict[int, str]]:
    """As `captured_openai.read`."""
    frame, opening = opened(row)
    system = opening.system
    readers: list[Callable[[], Turn]] = [partial(_past_turn, query, text) for query, text in frame.past]
    readers.append(partial(captured.newest_turn, frame, opening))
    turns: list[Turn] = []
    faults: dict[int, str] = {}
    for number, read in enumerate(readers):
        try:
            turn = read()
            check_offer(system.tools, [turn], "a call to a tool that is not on offer")
        except ValueError as error:
            if not turns or number == len(frame.past):
                raise
            faults[number] = str(error)
            break
        turns.append(turn)
    dialogue = Dialogue(frame.id, system.tools, tuple(turns), opening.instruction, system.knowledge)
    return dialogue, len(readers), faults


def _past_turn(query: str, text: str) -> Turn:
    return Turn(query, *read_transcript(text))


def _faults(row: Mapping[str, Any]) -> dict[int, str]:
    faults = row.get("faults")
    return {int(number): str(reason) for number, reason in faults.items()} if isinstance(faults, Mapping) else {}
