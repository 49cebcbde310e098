"""Which lines of a capture log are read: one a conversation, with what the others tell of it.

A turn is read from a line only if the log holds each of its exchanges as a line of its own. So a client that shortens
its history teaches no shortened turn, what a tool's result imitates is no call of the model's, and every reply's own
end is known.

A turn is also read only with what the agent was told when it was asked: the knowledge that AgentFabric's client looks
up for each query, or the system message of another client. Where that changes, the turns before stay a row of their
own, and those behind it are left out: no request was sent that held them all. Within a turn a system message may
change in its digits, as a clock does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from fabrictune.dialogue import Json
from fabrictune.formats import captured, captured_log, captured_openai
from fabrictune.formats.captured_trace import END

NOT_IN_LOG = "a reply that is not in the log"
CHANGED = "what the agent is told has changed: since this turn its knowledge or system message is another one"

Place = TypeVar("Place", bound=Hashable)


@dataclass(frozen=True)
class _Line:
    """A line as far as conversations need it.

    `states` stand for the conversation with the line's reply: under the very words that the agent is told, and under
    their like. `held` stand for it after earlier replies, each with the number of its turn, as a line of that turn has
    to have it. Their first `captured.STATE_BYTES` bytes do so whatever the agent is told. `fault` is what is wrong with
    the line's own exchange, "" for nothing. `rest` is the newest user message without the client's words, and `query`
    the user's part of that, None where the line alone does not tell.
    """

    row: dict[str, Any]
    states: tuple[bytes, ...]
    held: tuple[tuple[int, bytes], ...]
    newest: int
    rest: str
    query: str | None
    fault: str


def conversations(rows: Iterable[tuple[Place, str]], window: int = 10_000) -> Iterator[tuple[Place, str]]:
    """The records, (place, JSON text), in order, without those that a later one covers: one a conversation is left.

    A line covers the earlier ones whose replies it holds, compared as `captured.uncovered` does, if it ends a turn:
    its own reply answers, and nothing is wrong with it. The others stay as they are, for `parse` to refuse them, so
    that a failed request costs nothing that went before it, and one that is asked again covers that too.

    A line that is left gets the key `query` as in `captured.uncovered`, and `faults`, an object of reasons by the
    number of a turn: a reply of that turn that was cut, failed or is found in no line, or was told something else. At
    most `window` lines are held back; of every line some 400 bytes stay in memory.
    """
    waiting: dict[Place, str] = {}
    places: dict[bytes, list[Place]] = {}
    states: dict[Place, tuple[bytes, ...]] = {}
    known: dict[bytes, tuple[str, str | None]] = {}  # fault and query of each exchange

    def release(place: Place) -> str:
        for state in states.pop(place, ()):
            places[state].remove(place)
            if not places[state]:
                del places[state]
        return waiting.pop(place)

    for place, text in rows:
        line = _line(text)
        if line:
            line = _with_facts(line, known)
            text = text if line.row.keys().isdisjoint(("query", "faults")) else json.dumps(line.row)
            earlier = [at for _, before in line.held for at in places.get(before, ())]
            for at in earlier if earlier and not line.fault and _ends_turn(line.row) else ():
                release(at)
            for state in line.states:
                if known.get(state, ("-", None))[0]:  # of two exchanges that say the same, one without a fault counts
                    known[state] = line.fault, line.query
                places.setdefault(state, []).append(place)
            known.setdefault(line.states[0][: captured.STATE_BYTES], (CHANGED, None))
            states[place] = line.states
        waiting[place] = text
        if len(waiting) > window:
            oldest = next(iter(waiting))
            yield oldest, release(oldest)
    while waiting:
        oldest = next(iter(waiting))
        yield oldest, release(oldest)


def _with_facts(line: _Line, known: Mapping[bytes, tuple[str, str | None]]) -> _Line:
    """The line with its query and the faults of the turns that it holds, as far as the log tells."""
    faults: dict[str, str] = {}
    query = line.query
    for number, state in line.held:
        fault, asked = known.get(state) or known.get(state[: captured.STATE_BYTES]) or (NOT_IN_LOG, None)
        if fault:
            faults.setdefault(str(number), fault)
        if number == line.newest and query is None:
            query = asked
    added: dict[str, Json] = {"faults": faults} if faults else {}
    if query is not None and line.query is None and not _shows(query, line.rest):
        added["query"] = query
    return replace(line, row=line.row | added, query=query) if added else line


def _shows(query: str, text: str) -> bool:
    """Whether the text alone tells that it is the query with a trace behind it."""
    return "Action:" not in query and text[len(query) :].startswith("Action:")


def _ends_turn(row: Mapping[str, Any]) -> bool:
    try:
        captured_log.parse(row)
    except (ValueError, RecursionError):
        return False
    return True


def _line(text: str) -> _Line | None:
    """What conversations need of a record, None if it is no line of a log."""
    try:
        row = json.loads(text)
        if not captured_log.is_line(row):
            return None
        fault = _fault(row)
        read = _openai_line if captured_openai.has_tools(row["request"]) else _agentfabric_line
        return read(row, fault)
    except (ValueError, RecursionError):
        return None


def _fault(row: Mapping[str, Any]) -> str:
    try:
        captured_log.check_exchange(row)
    except ValueError as error:
        return str(error)
    return ""


def _agentfabric_line(row: dict[str, Any], fault: str) -> _Line:
    frame, opening = captured_log.opened(row)
    held, state = captured.states(frame, opening)
    told = captured.digest(opening.system.knowledge)
    asked = None if opening.rest.endswith(END) else opening.rest
    earlier = tuple((number, before + told) for number, before in held)
    return _Line(row, (state + told,), earlier, len(frame.past), opening.rest, asked, fault)


def _openai_line(row: dict[str, Any], fault: str) -> _Line:
    held, state = captured_openai.states(row, captured.STATE_BYTES)
    text = captured_openai.system(row)
    told, like = captured.digest(text), captured.digest(re.sub(r"\d+", "\0", text))
    newest = captured_openai.turns(row) - 1
    earlier = tuple((number, before + (like if number == newest else told)) for number, before in held)
    return _Line(row, tuple(dict.fromkeys((state + told, state + like))), earlier, newest, "", "", fault)
