"""One question of an evaluation: what a suite makes of a dialogue, and what it may ask of a model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from fabrictune.client import Ask
from fabrictune.dialogue import Json, Message

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
    steps, kinds, malformed (README, "What a row of predictions.jsonl holds").
    """

    key: str
    dialogue: str
    labels: Mapping[str, str]
    play: Callable[[Asked], Awaitable[dict[str, Json]]]
