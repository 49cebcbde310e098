"""Dialogue -> the exchanges of AgentFabric's April 2024 client (`protocol` holds the strings).

A turn with K calls is K+1 exchanges, because the client sends the trace back inside the *user* message and asks again.
Not held by this format: a parameter's schema beyond type, description and enum, `Dialogue.family`, and what a result
holds beyond its first 2,988 characters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from fabrictune import protocol
from fabrictune.dialogue import Call, Dialogue, Exchange, Message, Span, Step, Weights

EVEN = Weights()


def render(dialogue: Dialogue, source: str, weights: Weights = EVEN) -> Iterator[Exchange]:
    """The dialogue's exchanges in order. Raises ValueError where a client would read a reply otherwise than meant."""
    history: list[Message] = []
    for number, turn in enumerate(dialogue.turns):
        messages = protocol.opening(dialogue.tools, dialogue.instruction, dialogue.knowledge, history, turn.query)
        transcript = ""
        for position, step in enumerate(turn.steps):
            reply = _call_reply(step, weights, continues=position > 0)
            _check_call(dialogue.id, number, reply, step.call)
            yield Exchange(dialogue.id, number, position, source, tuple(messages), reply)
            written = _written(reply)
            sent = messages[-1].content + protocol.trace(written.rstrip(), step.observation)
            messages = [*messages[:-1], Message("user", sent)]
            transcript += written + protocol.result(step.observation)
        answer = f" {turn.answer}" if turn.steps else turn.answer
        _check_answer(dialogue.id, number, answer)
        yield Exchange(dialogue.id, number, len(turn.steps), source, tuple(messages), (Span(answer, weights.answer),))
        history += [Message("user", turn.query), Message("assistant", transcript + answer)]


def _call_reply(step: Step, weights: Weights, continues: bool) -> tuple[Span, ...]:
    """The spans of a reply that calls; after `Answer:` a lead-in starts with a blank, as answers do.

    A span ends before the blank that follows a colon, since tokenizers join a blank to the word behind it.
    """
    lead = f"{' ' if continues else ''}{step.thought}\n" if step.thought else ""
    name, _, arguments = protocol.call_text(step.call).partition("\n")
    spans = (
        Span(f"{lead}Action:"),
        Span(name.removeprefix("Action:"), weights.tool),
        Span("\nAction Input:"),
        Span(arguments.removeprefix("Action Input:"), weights.arguments),
        Span("Observation:"),
    )
    return tuple(span for span in spans if span.text)


def _written(reply: tuple[Span, ...]) -> str:
    """What the client receives of a reply that calls: the server cuts it at the stop string."""
    return "".join(span.text for span in reply).removesuffix("Observation:")


def _check_call(dialogue: str, turn: int, reply: tuple[Span, ...], meant: Call) -> None:
    text = _written(reply)
    if "Observation:" in text:
        raise ValueError(
            f"dialogue '{dialogue}', turn {turn}: the server would cut the call to '{meant.name}' at an earlier "
            f"'Observation:' in the reply {text[:200]!r}"
        )
    for parser in (protocol.find_last_call, protocol.find_first_call):
        found = parser(text)
        if found is None or found[0] != meant.name or _loads(found[1]) != meant.arguments:
            raise ValueError(
                f"dialogue '{dialogue}', turn {turn}: the client's {parser.__name__} would not find the call "
                f"'{meant.name}' in the reply {text[:200]!r}"
            )


def _loads(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _check_answer(dialogue: str, turn: int, answer: str) -> None:
    if protocol.find_last_call(answer) or protocol.find_first_call(answer) or "Observation:" in answer:
        raise ValueError(
            f"dialogue '{dialogue}', turn {turn}: a client would take the answer for a call: {answer[:200]!r}"
        )
