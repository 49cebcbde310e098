"""The suite agentfabric: each test turn as the real client plays it, with tools that answer from the record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby

from fabrictune import protocol
from fabrictune.dialogue import Json, Message, Played
from fabrictune.evaluate.tasks import Asked, Task, played_row
from fabrictune.formats import agentfabric
from fabrictune.measures import offered_label
from fabrictune.score import client, scoring
from fabrictune.score.testset import TestDialogue


def tasks(tests: Sequence[TestDialogue], dialect: protocol.Dialect) -> list[Task]:
    """A task for each turn, with the history that is expected before it.

    A turn is scored on its own: after a wrong turn the record's later queries would make no sense to the model, and
    turns with expected histories can be played at the same time.
    """
    return [task for test in tests for task in _turns(test, dialect)]


def _turns(test: TestDialogue, dialect: protocol.Dialect) -> Iterator[Task]:
    dialogue = test.dialogue
    exchanges = agentfabric.render(dialogue, test.source, dialect=dialect)
    for turn, group in groupby(exchanges, key=lambda exchange: exchange.turn):
        history = next(group).messages[1:-1]
        labels = test.labels | {
            "language": protocol.language(dialogue.turns[turn].query),
            "offered": offered_label(len(dialogue.tools)),
        }
        yield Task(f"{test.line}/{turn}", str(test.line), labels, _Turn(test, turn, history, dialect))


class _Turn:
    """Plays one turn of a dialogue."""

    def __init__(
        self, test: TestDialogue, number: int, history: tuple[Message, ...], dialect: protocol.Dialect
    ) -> None:
        self.dialogue, self.number, self.history, self.dialect = test.dialogue, number, history, dialect

    async def __call__(self, asked: Asked) -> dict[str, Json]:
        dialogue, turn = self.dialogue, self.dialogue.turns[self.number]
        played = await client.play_turn(
            asked.ask,
            asked.model,
            dialogue.tools,
            dialogue.instruction,
            dialogue.knowledge,
            self.history,
            turn.query,
            client.recorded_tools(dialogue.tools, turn),
            files=turn.files,
            dialect=self.dialect,
        )
        return self._prompt() | played_row([played]) | self._judged(played)

    def _prompt(self) -> dict[str, Json]:
        dialogue, turn = self.dialogue, self.dialogue.turns[self.number]
        messages = protocol.opening(
            dialogue.tools,
            dialogue.instruction,
            dialogue.knowledge,
            self.history,
            turn.query,
            files=turn.files,
            dialect=self.dialect,
        )
        expected = {"calls": [asdict(step.call) for step in turn.steps], "answer": turn.answer}
        return {"prompt": [asdict(message) for message in messages], "query": turn.query, "expected": expected}

    def _judged(self, played: Played) -> dict[str, Json]:
        verdict = scoring.judge(self.dialogue, self.number, played, self.dialect)
        return {
            "measures": verdict.measures,
            "steps": [step.row() for step in verdict.steps],
            "kinds": list(verdict.kinds),
            "malformed": list(verdict.malformed),
        }
