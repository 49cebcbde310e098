"""What was said and done, in order -> turns, for every format that writes a dialogue as a list of messages.

Repairs that this makes, wherever it is used: user messages in a row are one query, joined by line breaks; what the
assistant says before a call is the call's thought; one result without an id after several calls, which is a JSON list
of as many items, holds a result for each of them in order. Two answers in a row are refused, since the second may be
there instead of the first, not after it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fabrictune.dialogue import Call, Json, Step, Turn


@dataclass(frozen=True)
class Query:
    text: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Text:
    """What the assistant says: an answer, or the thought of the call that follows."""

    text: str


@dataclass(frozen=True)
class Request:
    """The assistant calls a tool; requests with no result between them are parallel."""

    call: Call
    thought: str = ""
    id: str = ""


@dataclass(frozen=True)
class Result:
    """What a call returned; `id` and `tool` say which call, "" means the first that has no result yet."""

    text: str
    id: str = ""
    tool: str = ""


Event = Query | Text | Request | Result


def turns(events: Iterable[Event]) -> tuple[Turn, ...]:
    """The turns of a dialogue; calls at its end without results are pending. Raises ValueError saying what is odd."""
    rounds: list[tuple[list[Query], list[Event]]] = []
    for event in events:
        if isinstance(event, Query):
            if not event.text.strip() and not event.files:
                raise ValueError("a user message is empty")
            if rounds and not rounds[-1][1]:
                rounds[-1][0].append(event)
            else:
                rounds.append(([event], []))
        elif not rounds:
            raise ValueError(f"the first message is not the user's: {event}"[:200])
        else:
            rounds[-1][1].append(event)
    if not rounds:
        raise ValueError("no user message")
    return tuple(
        _turn(queries, replies, is_last=number == len(rounds)) for number, (queries, replies) in enumerate(rounds, 1)
    )


def _turn(queries: list[Query], events: list[Event], is_last: bool) -> Turn:
    query = "\n".join(one.text for one in queries)
    steps: list[Step] = []
    requests: list[Request] = []
    results: list[Result] = []
    said = ""
    for event in events:
        if isinstance(event, Text):
            if not event.text.strip():
                raise ValueError(f"an assistant message is empty: after the query {query[:60]!r}")
            if said:
                raise ValueError(f"two answers in a row: {said[:60]!r} and {event.text[:60]!r}")
            steps += _steps(requests, results)
            requests, results, said = [], [], event.text
        elif isinstance(event, Request):
            if results:
                steps += _steps(requests, results)
                requests, results = [], []
            requests.append(Request(event.call, "\n".join(filter(None, (said, event.thought))), event.id))
            said = ""
        elif isinstance(event, Result):
            if not requests:
                raise ValueError(f"a result without a call: {event.text[:120]!r}")
            results.append(event)
    answered = _answered(requests, results)
    steps += answered
    waiting = requests[len(answered) :]
    if not said and not (waiting and is_last):
        what = "a call without a result" if waiting else "results without an answer" if steps else "no reply"
        raise ValueError(f"{what}: after the query {query[:60]!r}")
    return Turn(
        query,
        tuple(steps),
        said,
        files=tuple(file for one in queries for file in one.files),
        pending=tuple(Step(request.call, "", request.thought) for request in waiting),
    )


def _steps(requests: Sequence[Request], results: Sequence[Result]) -> list[Step]:
    steps = _answered(requests, results)
    if len(steps) < len(requests):
        raise ValueError(f"a call without a result: to '{requests[len(steps)].call.name}'")
    return steps


def _answered(requests: Sequence[Request], results: Sequence[Result]) -> list[Step]:
    """The steps of the calls up to the first without a result. Raises ValueError where a later one has its result."""
    texts = _texts(requests, results)
    count = texts.index(None) if None in texts else len(texts)
    if any(text is not None for text in texts[count:]):
        raise ValueError(f"a call without a result: to '{requests[count].call.name}', while a later one has its own")
    return [
        Step(request.call, text or "", request.thought)
        for request, text in zip(requests[:count], texts[:count], strict=True)
    ]


def _texts(requests: Sequence[Request], results: Sequence[Result]) -> list[str | None]:
    """The result of each call, None where there is none."""
    if len(requests) > 1 and len(results) == 1 and not results[0].id:
        items = _items(results[0].text)
        if len(items) == len(requests):
            return [*items]
    texts: list[str | None] = [None] * len(requests)
    for result in results:
        for place, request in enumerate(requests):
            if texts[place] is None and _belongs(result, request, alone=len(requests) == 1):
                texts[place] = result.text
                break
        else:
            raise ValueError(f"a result that no call waits for: {result}"[:200])
    return texts


def _belongs(result: Result, request: Request, alone: bool) -> bool:
    if result.id and request.id:
        return result.id == request.id
    return alone or not result.tool or result.tool == request.call.name


def _items(text: str) -> list[str]:
    try:
        value: Json = json.loads(text)
    except ValueError:
        return []
    if not isinstance(value, list):
        return []
    return [as_text(item) for item in value]


def as_text(value: Json) -> str:
    """A result as text: a string as it stands, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def parallel(steps: Sequence[Step]) -> list[list[Step]]:
    """Steps without results in as few groups as leave a thought only to the first of each, as one message has one."""
    groups: list[list[Step]] = []
    for step in steps:
        if groups and not step.thought:
            groups[-1].append(step)
        else:
            groups.append([step])
    return groups
