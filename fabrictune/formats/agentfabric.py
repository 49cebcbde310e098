"""Dialogue -> the exchanges of AgentFabric's client, in either of its generations.

A turn with K calls is K+1 exchanges, because the client asks again after each result. Later turns see the earlier ones
as AgentFabric's page keeps them: the bare query, and as one message all that its user saw.

Not held by this format: a parameter's schema beyond type, description and enum; `Dialogue.family`; knowledge beyond its
first 4,000 characters, or any where code is run on uploaded files; folders of files, and files of earlier turns; what a
result holds beyond its first 2,988 characters (2,813 in a raw prompt); pending calls but the first, since the client
runs one call a reply.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Literal

from fabrictune import protocol
from fabrictune.dialogue import Call, Dialogue, Exchange, Message, Span, Step

# Where the results of a turn's calls come back: at the end of the user's message (openai-type models), or behind the
# call in the open assistant's message (raw prompts to DashScope's models).
Shape = Literal["chat", "raw"]

_ACTION_INPUT, _OBSERVATION = Span(f"\n{protocol.ARGUMENTS}"), Span(protocol.OBSERVATION)


def render(
    dialogue: Dialogue,
    source: str,
    *,
    dialect: protocol.Dialect = protocol.APRIL,
    language: str | None = None,
    shape: Shape = "chat",
    blank_line: bool | None = None,
) -> Iterator[Exchange]:
    """The dialogue's exchanges in order. Raises ValueError where a client would read a reply otherwise than meant.

    `language` is that of all prompts ("zh" or "en"); None lets each turn have the one that the client chooses.
    In shape "raw" the messages of an exchange behind a call end with an assistant message, which the reply continues;
    a raw prompt of more than 5,650 tokens would lose its oldest turns in the client, here it stays whole.
    `blank_line` says whether the trace of the turn has a blank line before `Observation:`; None is what the client
    makes of a reply cut at the stop string. History always has one, because a client shows replies as they came.
    A turn with pending calls ends with the exchange of the first.
    """
    history: list[Message] = []
    lines = [protocol.tool_line(tool) for tool in dialogue.tools]
    for number, turn in enumerate(dialogue.turns):
        request = protocol.opening(
            dialogue.tools,
            dialogue.instruction,
            dialogue.knowledge,
            history,
            turn.query,
            files=turn.files,
            lang=language,
            dialect=dialect,
            lines=lines,
        )
        if shape == "raw":
            request = [request[0], *(Message(one.role, protocol.raw_content(one.content)) for one in request[1:])]
        trace = transcript = ""
        for position, step in enumerate((*turn.steps, *turn.pending[:1])):
            reply = _call_reply(step, continues=position > 0)
            written = _written(reply)
            _check_call(dialogue.id, number, written, step.call)
            yield Exchange(dialogue.id, number, position, source, _messages(request, trace, shape), reply)
            trace += _traced(written, step.observation, dialect.blank_line if blank_line is None else blank_line, shape)
            transcript += written + protocol.result(step.observation)
        if turn.pending:
            return
        answer = f" {turn.answer}" if turn.steps else turn.answer
        _check_answer(dialogue.id, number, answer)
        messages = _messages(request, trace, shape)
        yield Exchange(dialogue.id, number, len(turn.steps), source, messages, (Span(answer, "answer"),))
        history += [Message("user", turn.query), Message("assistant", transcript + answer)]


def _messages(request: list[Message], trace: str, shape: Shape) -> tuple[Message, ...]:
    """The turn's first request with what has been called since."""
    if not trace:
        return tuple(request)
    if shape == "raw":
        return (*request, Message("assistant", trace))
    return (*request[:-1], Message("user", request[-1].content + trace))


def _traced(written: str, observation: str, blank_line: bool, shape: Shape) -> str:
    """What a call adds to the messages of the turn's later requests."""
    characters = protocol.RAW_OBSERVATION_CHARACTERS if shape == "raw" else protocol.OBSERVATION_CHARACTERS
    return protocol.trace(written if blank_line else written.rstrip(), observation, characters)


def _call_reply(step: Step, continues: bool) -> tuple[Span, ...]:
    """The spans of a reply that calls; after `Answer:` a lead-in starts with a blank, as answers do.

    A span ends before the blank that follows a colon, since tokenizers join a blank to the word behind it.
    """
    lead = f"{' ' if continues else ''}{step.thought}\n" if step.thought else ""
    name, _, arguments = protocol.call_text(step.call).partition("\n")
    spans = (
        Span(f"{lead}Action:"),
        Span(name.removeprefix(protocol.ACTION), "tool"),
        _ACTION_INPUT,
        Span(arguments.removeprefix(protocol.ARGUMENTS), "arguments"),
        _OBSERVATION,
    )
    return tuple(span for span in spans if span.text)


def _written(reply: tuple[Span, ...]) -> str:
    """What the client receives of a reply that calls: the server cuts it at the stop string."""
    return "".join(span.text for span in reply).removesuffix(protocol.OBSERVATION)


def _check_call(dialogue: str, turn: int, written: str, meant: Call) -> None:
    if protocol.OBSERVATION in written:
        raise ValueError(
            f"dialogue '{dialogue}', turn {turn}: the server would cut the call to '{meant.name}' at an earlier "
            f"'Observation:' in the reply {written[:200]!r}"
        )
    right = None  # a text that gives the arguments meant
    for parser in (protocol.find_last_call, protocol.find_first_call):
        found = parser(written)
        if found and found[0] == meant.name and (found[1] == right or _loads(found[1]) == meant.arguments):
            right = found[1]
        else:
            raise ValueError(
                f"dialogue '{dialogue}', turn {turn}: the client's {parser.__name__} would not find the call "
                f"'{meant.name}' in the reply {written[:200]!r}"
            )


def _loads(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _check_answer(dialogue: str, turn: int, answer: str) -> None:
    if protocol.find_last_call(answer) or protocol.find_first_call(answer) or protocol.OBSERVATION in answer:
        raise ValueError(
            f"dialogue '{dialogue}', turn {turn}: a client would take the answer for a call: {answer[:200]!r}"
        )
