"""One question of an evaluation: what a suite makes of a dialogue, and what it may ask of a model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from fabrictune import protocol
from fabrictune.dialogue import Attempt, Json, Message, Played
from fabrictune.protocol import Dialect
from fabrictune.score import client
from fabrictune.score.client import Ask

# (messages that end with an assistant's) -> the sum of its tokens' negative log-likelihoods in nats and their number,
# None where the endpoint cannot say.
Likelihood = Callable[[Sequence[Message]], Awaitable[tuple[float, int] | None]]


@dataclass(frozen=True)
class Asked:
    """A model at an endpoint, as a task asks it. `ask` and `likelihood` raise ConnectionError or RuntimeError."""

    model: str
    ask: Ask
    likelihood: Likelihood


@dataclass(frozen=True)
class Task:
    """A question, whose `key` is the same in every run on the same data.

    `dialogue` is what belongs together when rows are drawn anew for an interval; `labels` are those of
    `measures.LABELS`. `play` returns the row's other fields: prompt, query, expected, replies, calls, answer, measures,
    steps, kinds, malformed (docs/evaluation.md, "A row").
    """

    key: str
    dialogue: str
    labels: Mapping[str, str]
    play: Callable[[Asked], Awaitable[dict[str, Json]]]


def played_row(turns: Sequence[Played]) -> dict[str, Json]:
    """What the model wrote in these turns and what the client made of it: a row's replies, calls and answer."""
    return {
        "replies": [asdict(reply) for played in turns for reply in played.replies],
        "calls": [
            {"name": attempt.name, "arguments": attempt.text, "observation": attempt.observation}
            for played in turns
            for attempt in played.attempts
        ],
        "answer": turns[-1].answer,
    }


async def ask_once(asked: Asked, messages: Sequence[Message], dialect: Dialect) -> Played:
    """One request as the client sends it, and the call that it would run, which is not run."""
    reply = await asked.ask(protocol.request(asked.model, messages))
    found = dialect.find_call(reply.text)
    if found is None:
        return Played((reply,), (), reply.text)
    return Played((reply,), (Attempt(found[0], found[1], client.object_or_none(found[1]), ""),), None)
