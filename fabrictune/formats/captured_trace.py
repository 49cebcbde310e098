"""The text of an AgentFabric turn: replies, and the trace of calls and results that the client makes of them.

A reply that must not be learned is an error: two calls, an invented result, arguments that are no JSON object.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

import json5

from fabrictune import protocol
from fabrictune.dialogue import Call, Json, Step
from fabrictune.formats import values

BEGIN, END = protocol.result("\0").split("\0")  # of a result

_CALL = re.compile(r"Action:(?P<name>(?:(?!Action:)[^\n])*)\n\s*Action Input:")
_MARKS = ("Observation:", "<result>", "</result>")

T = TypeVar("T")
Edges = Callable[[int], Iterable[tuple[T, int]]]


def ways(start: int, end: int, edges: Edges[T]) -> list[tuple[T, ...]]:
    """The ways through a text, two at most: pieces from start to end, `edges` giving those that begin at a place.

    One way is a reading; a second one makes the text ambiguous.
    """
    dead: set[int] = set()

    def walk(at: int) -> Iterator[tuple[T, ...]]:
        if at == end:
            yield ()
            return
        alive = False
        for piece, following in edges(at) if at not in dead else ():
            for rest in walk(following):
                alive = True
                yield (piece, *rest)
        if not alive:
            dead.add(at)

    return list(islice(walk(start), 2))


def read_trace(text: str, start: int = 0) -> tuple[Step, ...]:
    """The steps from start to the end of the text, of which there is at least one. Raises ValueError if unreadable."""
    problems: list[ValueError] = []

    def edges(at: int) -> Iterator[tuple[Step, int]]:
        return _steps_at(text, at, problems)

    return _only(ways(start, len(text), edges), problems, text[start:])


def read_asked_trace(text: str) -> tuple[str, tuple[Step, ...]]:
    """(query, steps) of a newest user message with a trace.

    No mark stands between the query and what was said before the first call; where something was, the two cannot be
    told apart, and that is a ValueError as well.
    """
    begin = text.find(BEGIN)
    said, _ = _called(text[:begin])
    if said.endswith("\n"):
        raise ValueError(f"the query cannot be told from words said before the first call: {said[-120:]!r}")
    return said, read_trace(text, len(said))


def read_transcript(text: str) -> tuple[tuple[Step, ...], str]:
    """(steps, answer) of an earlier assistant message, which is all that the user saw. Raises ValueError as above."""
    problems: list[ValueError] = []

    def edges(at: int) -> Iterator[tuple[Step | str, int]]:
        yield from _steps_at(text, at, problems)
        if BEGIN not in text[at:]:
            yield text[at:], len(text)

    if text.endswith(END) or not text.strip():
        raise ValueError(f"a turn has no answer: {text[-120:]!r}")
    way = _only(ways(0, len(text), edges), problems, text)
    return tuple(piece for piece in way if isinstance(piece, Step)), _answer(str(way[-1]))


def read_reply(reply: str) -> tuple[str, tuple[Step, ...]]:
    """(answer, pending calls), of which there is one or the other; a stop string at the end is no part of a reply."""
    text = re.sub(r"Observation:\s*\Z", "", reply)
    if not _CALL.search(text):
        return _answer(text), ()
    said, call = _called(text)
    return "", (Step(call, "", _thought(said)),)


def _only(found: list[tuple[T, ...]], problems: list[ValueError], text: str) -> tuple[T, ...]:
    if len(found) > 1:
        raise ValueError(f"the trace can be read in two ways: {text[:200]!r}")
    if not found:
        raise problems[0] if problems else ValueError(f"the trace cannot be read: {text[:200]!r}")
    return found[0]


def _steps_at(text: str, at: int, problems: list[ValueError]) -> Iterator[tuple[Step, int]]:
    """The steps that can begin at `at`, with their ends: a result may hold the mark that ends it, but no more steps."""
    begin = text.find(BEGIN, at)
    if begin < 0:
        return
    try:
        said, call = _called(text[at:begin])
        thought = _thought(said)
    except ValueError as error:
        problems.append(error)
        return
    start = begin + len(BEGIN)
    end = first = text.find(END, start)
    while end >= 0 and BEGIN not in text[first:end]:
        yield Step(call, text[start:end], thought), end + len(END)
        end = text.find(END, end + 1)


def _called(text: str) -> tuple[str, Call]:
    """(what is said before it, the call) of a reply that calls once."""
    found = _CALL.search(text)
    if not found:
        raise ValueError(f"a call that cannot be read: {text[-200:]!r}")
    written = text[found.end() :].strip()
    try:
        arguments = read_arguments(written)
    except ValueError:
        if "Observation:" in written:
            raise ValueError(f"a reply invents a result: {written[:200]!r}") from None
        if _CALL.search(written):
            raise ValueError(f"two calls in one reply: {text[-200:]!r}") from None
        raise
    return text[: found.start()], Call(found["name"].strip(), arguments)


def read_arguments(text: str) -> dict[str, Json]:
    """The arguments of a call, however its client writes JSON. Raises ValueError if they are no object."""
    for read in (values.read, _from_json5):
        try:
            value = read(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            return value
    raise ValueError(f"a call's arguments are no JSON object: {text[:200]!r}")


def _from_json5(text: str) -> Json:
    return values.as_json(json5.loads(text)) if len(text) <= protocol.ARGUMENT_CHARACTERS else None


def _thought(said: str) -> str:
    if any(mark in said for mark in _MARKS):
        raise ValueError(f"a reply invents a result: {said[:200]!r}")
    return said.strip()


def _answer(text: str) -> str:
    if any(mark in text for mark in _MARKS):
        raise ValueError(f"a reply invents a result: {text[:200]!r}")
    if protocol.find_last_call(text) or protocol.find_first_call(text):
        raise ValueError(f"a call that cannot be read: {text[-200:]!r}")
    if not text.strip():
        raise ValueError("a turn has no answer: the reply is empty")
    return text.strip()
