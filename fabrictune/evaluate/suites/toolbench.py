"""The suite toolbench: the next reply, given all that went before as it should have gone.

Measures and names are those of ToolBench-Static (arXiv 2401.07324; evalscope has the code that is in use). Where that
code slips, this does what its paper says: HalluRate is over the requests that are judged, none of which is skipped.
Act.EM is of the tool's name, as in that code, although its README says otherwise. A plan is to call or to answer;
AgentFabric has no way of giving up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from fabrictune import protocol
from fabrictune.dialogue import Exchange, Json
from fabrictune.evaluate.tasks import Asked, Task, ask_once, played_row
from fabrictune.formats import agentfabric
from fabrictune.measures import offered_label
from fabrictune.score import scoring
from fabrictune.score.scoring import ReplyVerdict
from fabrictune.score.testset import TestDialogue


def tasks(tests: Sequence[TestDialogue], dialect: protocol.Dialect) -> list[Task]:
    """A task for each request of the dialogues: K+1 of a turn with K calls."""
    return [task for test in tests for task in _requests(test, dialect)]


def _requests(test: TestDialogue, dialect: protocol.Dialect) -> Iterator[Task]:
    dialogue = test.dialogue
    for exchange in agentfabric.render(dialogue, test.source, dialect=dialect):
        labels = test.labels | {
            "language": protocol.language(dialogue.turns[exchange.turn].query),
            "offered": offered_label(len(dialogue.tools)),
            "step": str(exchange.step + 1),
        }
        key = f"{test.line}/{exchange.turn}/{exchange.step}"
        yield Task(key, str(test.line), labels, _Request(test, exchange, dialect))


class _Request:
    """Asks one request and judges the reply."""

    def __init__(self, test: TestDialogue, exchange: Exchange, dialect: protocol.Dialect) -> None:
        self.dialogue, self.exchange, self.dialect = test.dialogue, exchange, dialect

    async def __call__(self, asked: Asked) -> dict[str, Json]:
        played = await ask_once(asked, self.exchange.messages, self.dialect)
        turn = self.dialogue.turns[self.exchange.turn]
        due = [asdict(step.call) for step in turn.steps[self.exchange.step : self.exchange.step + 1]]
        offered = [tool.name for tool in self.dialogue.tools]
        verdict = scoring.judge_reply(self.exchange.reply_text, played.replies[0], self.dialect, offered)
        return {
            "prompt": [asdict(message) for message in self.exchange.messages],
            "query": turn.query,
            "expected": {"calls": due, "answer": "" if due else turn.answer},
            **played_row([played]),
            "measures": _measures(verdict, offered),
            "steps": [verdict.step.row()] if verdict.step else [],
            "kinds": list(verdict.kinds),
            "malformed": list(verdict.malformed),
        }


def _measures(verdict: ReplyVerdict, offered: Sequence[str]) -> dict[str, list[float]]:
    called = verdict.called is not None
    measures: dict[str, list[float]] = {
        "plan_em": [float(called == (verdict.step is not None)), 1],
        "hallucination": [float(called and verdict.called not in offered), 1],
        "malformed": [float(bool(verdict.malformed)), 1],
        "not_stopped": [float("not_stopped" in verdict.kinds), 1],
    }
    if verdict.step is not None:
        measures["act_em"] = [float(verdict.step.tool_em), 1]
    if verdict.rouge_l is not None:
        measures["rouge_l"] = [verdict.rouge_l, 1]
    return measures
