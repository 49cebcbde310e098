"""Rows that came from a real AgentFabric client -> Dialogue, both generations of it.

A row is one request and its reply: a chat body ({"messages", "reply"}, or the body under "request"), a row that
convert.py wrote, a raw prompt to DashScope (the trace in an open assistant message), or {"conversations"} as the hub
holds them; those of the tutorial's script are mended (`captured_script`).

Not held by such a row: `family`; a schema beyond type, description and enum; a role's list of functions as a list;
folders of files, and files of earlier turns; outer blanks of thoughts and answers (in a raw prompt also of queries);
knowledge and results beyond the client's cut. Three readings are taken for granted, because the text does not differ
from the usual case: a newest user message that ends like a trace is one, a query that begins like a note on uploaded
files is one, and a result that quotes the rest of a step and a whole next one is two steps.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

from fabrictune.dialogue import Dialogue, Json, Step, Turn
from fabrictune.formats import conversations
from fabrictune.formats.captured_script import read_script_row
from fabrictune.formats.captured_system import Opening, check_offer, read_opening
from fabrictune.formats.captured_trace import (
    BEGIN,
    END,
    read_asked_trace,
    read_reply,
    read_trace,
    read_transcript,
)

REPLY_KEYS = ("reply", "response", "completion")
STATE_BYTES = 16
# Of a result, what tells two rows apart: less than any client keeps, so that a cut result equals the whole one.
RESULT_CHARACTERS = 1000

_RESULT = re.compile(re.escape(BEGIN) + "(.*?)" + re.escape(END), re.DOTALL)


def parse(row: Mapping[str, Any]) -> Dialogue:
    """The row as a Dialogue; a reply that calls is its `pending`. A key `query` may give the newest query.

    Raises ValueError saying what cannot be read, or what in a reply must not be learned: two calls, an invented
    result, arguments that are no JSON object, a tool that is not on offer.
    """
    frame = read_frame(row)
    opening = read_opening(frame.system, frame.newest)
    if opening is None:
        if "conversations" in row:
            said = [*frame.past, (frame.newest, frame.reply)]
            return read_script_row(frame.id, frame.system, said)
        raise no_prefix(frame)
    turns = [Turn(query, *read_transcript(text)) for query, text in frame.past]
    turns.append(newest_turn(frame, opening))
    system = opening.system
    check_offer(system.tools, turns, "a call to a tool that is not on offer")
    return Dialogue(frame.id, system.tools, tuple(turns), opening.instruction, system.knowledge)


def no_prefix(frame: Frame) -> ValueError:
    return ValueError(f"the newest user message lacks the client's prefix: {frame.newest[:120]!r}")


@dataclass(frozen=True)
class Frame:
    """A row's messages by their places. `opened` is the assistant message that the reply continues, "" in a chat body.

    `query` is the newest user's own words, where the row gives them apart.
    """

    id: str
    system: str
    past: tuple[tuple[str, str], ...]
    newest: str
    opened: str
    reply: str
    query: str | None


def read_frame(row: Mapping[str, Any]) -> Frame:
    """The row's messages by their places. Raises ValueError where they or the reply are none of a client's."""
    messages = conversations.read(row) if "conversations" in row else _chat_messages(row)
    reply = next((row[key] for key in REPLY_KEYS if row.get(key) is not None), None)
    if reply is None and messages[-1][0] == "assistant":
        reply = messages.pop()[1]
    for position, (role, _) in enumerate(messages):
        due = "system" if position == 0 else "user" if position % 2 else "assistant"
        if role != due:
            raise ValueError(f"a message is out of turn: message {position} is from '{role}' where '{due}' is due")
    texts = [text for _, text in messages]
    if len(texts) < 2:
        raise ValueError("the row has no user message: it ends with the system message")
    opened = texts.pop() if len(texts) % 2 else ""
    return Frame(
        id=str(row.get("id") or row.get("dialogue") or ""),
        system=texts[0],
        past=tuple(zip(texts[1:-1:2], texts[2::2], strict=True)),
        newest=texts[-1],
        opened=opened.strip(),
        reply=_reply_text(reply),
        query=row["query"] if isinstance(row.get("query"), str) else None,
    )


def _chat_messages(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    body = row.get("request", row)
    messages = body.get("messages") if isinstance(body, Mapping) else None
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"not a row of an AgentFabric client: no list of messages among its keys {sorted(row)}")
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise ValueError(f"a message's content is not text: {message!r:.120}")
    return [(str(message.get("role")), message["content"]) for message in messages]


def _reply_text(reply: Json) -> str:
    if isinstance(reply, list) and all(isinstance(span, dict) and isinstance(span.get("text"), str) for span in reply):
        reply = "".join(span["text"] for span in reply)
    if not isinstance(reply, str) or not reply.strip():
        raise ValueError(f"the row has no reply: {reply!r:.120}, neither text nor the spans of convert.py")
    return reply


def newest_turn(frame: Frame, opening: Opening) -> Turn:
    """The turn that the reply belongs to. Raises ValueError for what cannot be read or must not be learned."""
    query, steps = _asked(frame, opening.rest)
    answer, pending = read_reply(frame.reply)
    return Turn(query, steps, answer, opening.files, pending)


def _asked(frame: Frame, text: str) -> tuple[str, tuple[Step, ...]]:
    """(query, steps so far) of the newest user message, given without the client's words before it."""
    if frame.query is not None and not text.startswith(frame.query):
        raise ValueError(f"query is not what the newest user message begins with: {frame.query[:120]!r}")
    if frame.opened:
        return text, read_trace(frame.opened)
    if text == frame.query or not text.endswith(END):
        return text, ()
    if frame.query is not None:
        return frame.query, read_trace(text, len(frame.query))
    return read_asked_trace(text)


@dataclass(frozen=True)
class _Seen:
    """A row of a captured file. `state` stands for its conversation with its reply; None if it cannot be read.

    `held` are the states after the earlier replies that it holds. `rest` is its newest user message without the
    client's words, and `query` the user's part of that, None where this row alone does not tell.
    """

    text: str
    state: bytes | None = None
    held: tuple[bytes, ...] = ()
    turns: int = 0
    rest: str = ""
    query: str | None = None


def uncovered(rows: Iterable[tuple[int, str]], window: int = 10_000) -> Iterator[tuple[int, str]]:
    """The rows, (line, JSON text), in order, without those that a later row covers: one a conversation is left.

    A later row covers an earlier one if its history or trace holds the earlier one's history, query, trace and reply,
    under the same tools, instruction and knowledge. Texts are compared without blanks, results by their first 1,000
    characters (the client cuts them in a request, not in the history), system messages by what they say, because the
    client chooses their language anew for each query. Rows of one and the same content are all left: a retry looks
    like another user who says the same. Rows of the tutorial's script pass, and so do rows that `parse` refuses; those
    cover nothing, so that one bad reply does not cost its conversation what went before it.

    At most `window` rows are held back; the oldest leaves first, and no row that comes after that can cover it. A row
    whose text alone does not tell the query gets the key `query`, from a row that it covers.
    """
    waiting: dict[int, _Seen] = {}
    lines: dict[bytes, list[int]] = {}
    for line, text in rows:
        seen = _seen(text)
        earlier = [at for state in seen.held for at in lines.get(state, ())]
        if earlier:
            seen = _with_query(seen, [waiting[at] for at in earlier])
            for at in earlier if _is_readable(seen) else ():
                _release(waiting, lines, at)
        waiting[line] = seen
        if seen.state:
            lines.setdefault(seen.state, []).append(line)
        if len(waiting) > window:
            oldest = next(iter(waiting))
            yield oldest, _release(waiting, lines, oldest)
    while waiting:
        oldest = next(iter(waiting))
        yield oldest, _release(waiting, lines, oldest)


def _with_query(seen: _Seen, earlier: Iterable[_Seen]) -> _Seen:
    """The row with its query, if an earlier one of its turn tells it and it needs to be told."""
    known = next((one.query for one in earlier if one.turns == seen.turns and one.query is not None), None)
    if seen.query is not None or known is None or seen.rest[len(known) :].startswith("Action:"):
        return seen
    return replace(seen, text=json.dumps(json.loads(seen.text) | {"query": known}, ensure_ascii=False), query=known)


def _is_readable(seen: _Seen) -> bool:
    try:
        parse(json.loads(seen.text))
    except ValueError:
        return False
    return True


def _release(waiting: dict[int, _Seen], lines: dict[bytes, list[int]], line: int) -> str:
    seen = waiting.pop(line)
    if seen.state:
        lines[seen.state].remove(line)
        if not lines[seen.state]:
            del lines[seen.state]
    return seen.text


def _seen(text: str) -> _Seen:
    try:
        row = json.loads(text)
        frame = read_frame(row) if isinstance(row, dict) else None
        opening = read_opening(frame.system, frame.newest) if frame else None
    except (ValueError, RecursionError):
        return _Seen(text)
    if frame is None or opening is None:
        return _Seen(text)
    held, state = states(frame, opening)
    told = digest(opening.system.knowledge)
    asked = frame.query if frame.opened or opening.rest.endswith(END) else opening.rest
    return _Seen(text, state + told, tuple(state + told for _, state in held), len(frame.past), opening.rest, asked)


def states(frame: Frame, opening: Opening) -> tuple[list[tuple[int, bytes]], bytes]:
    """What stands for the conversation after each earlier reply, with the number of its turn, and after the reply.

    The agent's knowledge is no part of it: the client looks it up anew for each query.
    """
    said = (opening.system.tools, opening.instruction)
    conversation = blake2b(_bytes(repr(said)), digest_size=STATE_BYTES)
    held: list[tuple[int, bytes]] = []
    for number, (query, transcript) in enumerate(frame.past):
        held += [(number, state) for state in _add(conversation, query + transcript)]
        held.append((number, conversation.digest()))
        conversation.update(b"\n")
    held += [(len(frame.past), state) for state in _add(conversation, opening.rest + "\n" + frame.opened)]
    conversation.update(_squeezed(frame.reply.partition("Observation:")[0]))
    return held, conversation.digest()


def _add(conversation: blake2b, text: str) -> list[bytes]:
    """Adds a turn's text to the conversation; the states before each of its results."""
    states, at = [], 0
    for result in _RESULT.finditer(text):
        conversation.update(_squeezed(text[at : result.start()]))
        states.append(conversation.digest())
        conversation.update(b"\t" + _squeezed(result[1][:RESULT_CHARACTERS]) + b"\t")
        at = result.end()
    conversation.update(_squeezed(text[at:]))
    return states


def digest(text: str) -> bytes:
    """Eight bytes that stand for the text."""
    return blake2b(_bytes(text), digest_size=8).digest()


def _squeezed(text: str) -> bytes:
    return _bytes("".join(text.split()))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
