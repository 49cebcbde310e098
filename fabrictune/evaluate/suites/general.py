"""The suite general: does plain chat survive, and does an agent leave its tools alone where none is needed.

Answers of held-out chat are given a perplexity, in the very messages that training writes of plain chat. Queries that
need none of the tools on offer are asked as AgentFabric's client asks, once: any call in the reply is needless, also
one that the client cannot read.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from fabrictune import protocol
from fabrictune.dialogue import Exchange, Json, Message, Turn
from fabrictune.evaluate.tasks import Asked, Task, ask_once, played_row
from fabrictune.formats import agentfabric, messages
from fabrictune.log import logger
from fabrictune.measures import KINDS, offered_label
from fabrictune.score import scoring
from fabrictune.score.testset import TestDialogue, spaced

CHAT = "chat"  # categories: an answer of held-out chat
NO_TOOL = "no_tool_query"  # a query of chat, or one that the record answers without a call
OTHER_FAMILY = "foreign_query"  # a query about tools of another family, none of which is on offer


def tasks(
    general: Sequence[TestDialogue],
    tests: Sequence[TestDialogue],
    dialect: protocol.Dialect,
    seed: int,
    limit: int | None = None,
) -> list[Task]:
    """The answers of the held-out chat, and queries that need no tool put to the agents of the test dialogues.

    These are the first queries of the chat, each asked of an agent with tools that is drawn for it, of those in its
    language if there are any. Without held-out chat they are the test turns without a call, and the first queries of
    dialogues asked of an agent of another family that offers none of their tools. `limit` bounds the dialogues of
    chat, and the queries. Raises ValueError where nothing can be asked.
    """
    agents = [test for test in tests if test.dialogue.tools]
    if general:
        chosen = spaced(list(general), limit)
        made = [*_answers(chosen), *_chat_queries(chosen, agents, dialect, seed)]
    else:
        made = spaced([*_turns_without_calls(agents, dialect), *_foreign_queries(agents, dialect, seed)], limit)
    return _not_empty(made)


def of_dialogues(tests: Sequence[TestDialogue], dialect: protocol.Dialect) -> list[Task]:
    """The answers of the dialogues without tools, and the turns without a call of the others.

    Raises ValueError where there is neither.
    """
    plain = [test for test in tests if not test.dialogue.tools]
    agents = [test for test in tests if test.dialogue.tools]
    return _not_empty([*_answers(plain), *_turns_without_calls(agents, dialect)])


def _not_empty(made: list[Task]) -> list[Task]:
    if not made:
        raise ValueError(
            "the suite general has nothing to ask: no general chat was held back, and no test turn goes without a "
            "call; convert with a source of general chat and data.general_test above 0, or give eval.file=FILE"
        )
    return made


def _answers(tests: Sequence[TestDialogue]) -> Iterator[Task]:
    with_files = [test for test in tests if any(turn.files for turn in test.dialogue.turns)]
    if with_files:
        logger.warning("%d dialogues are left out: plain messages cannot hold uploaded files", len(with_files))
    for test, name in zip(tests, _names(tests), strict=True):
        if test in with_files:
            continue
        for exchange in messages.exchanges(test.dialogue, test.source):
            turn = test.dialogue.turns[exchange.turn]
            labels = {"category": CHAT, "language": protocol.language(turn.query), "source": test.source}
            yield Task(f"{CHAT}/{name}/{exchange.turn}", name, labels, _Answer(exchange, turn))


def _chat_queries(
    general: Sequence[TestDialogue], agents: Sequence[TestDialogue], dialect: protocol.Dialect, seed: int
) -> Iterator[Task]:
    for test, name in zip(general, _names(general), strict=True):
        if agents:
            agent = _drawn(agents, test.dialogue.turns[0].query, f"{seed}/general/{name}")
            yield _query(name, NO_TOOL, test.dialogue.turns[0], agent, dialect)


def _foreign_queries(agents: Sequence[TestDialogue], dialect: protocol.Dialect, seed: int) -> Iterator[Task]:
    """One for each dialogue of a known family, if there is an agent of another that offers none of its tools."""
    for test, name in zip(agents, _names(agents), strict=True):
        family, turn = test.dialogue.family, test.dialogue.turns[0]
        tools = {tool.name for tool in test.dialogue.tools}
        others = [
            other
            for other in agents
            if family
            and other.dialogue.family not in ("", family)
            and tools.isdisjoint(tool.name for tool in other.dialogue.tools)
        ]
        if others and turn.calls and not turn.files:
            yield _query(name, OTHER_FAMILY, turn, _drawn(others, turn.query, f"{seed}/foreign/{name}"), dialect)


def _turns_without_calls(agents: Sequence[TestDialogue], dialect: protocol.Dialect) -> Iterator[Task]:
    """Each with the history that is expected before it."""
    for test, name in zip(agents, _names(agents), strict=True):
        for exchange in agentfabric.render(test.dialogue, test.source, dialect=dialect):
            turn = test.dialogue.turns[exchange.turn]
            if not turn.calls:
                labels = _labels(NO_TOOL, turn, test)
                play = _Query(exchange.messages, turn, turn.answer, _offered(test), dialect)
                yield Task(f"{NO_TOOL}/{name}/{exchange.turn}", name, labels, play)


def _query(name: str, category: str, turn: Turn, agent: TestDialogue, dialect: protocol.Dialect) -> Task:
    """The query as the first one of a conversation with the agent."""
    dialogue = agent.dialogue
    prompt = protocol.opening(
        dialogue.tools, dialogue.instruction, dialogue.knowledge, [], turn.query, files=turn.files, dialect=dialect
    )
    answer = turn.answer if category == NO_TOOL else ""
    play = _Query(prompt, turn, answer, _offered(agent), dialect)
    return Task(f"{category}/{name}", name, _labels(category, turn, agent), play)


def _labels(category: str, turn: Turn, agent: TestDialogue) -> dict[str, str]:
    offered = offered_label(len(agent.dialogue.tools))
    return {"category": category, "language": protocol.language(turn.query), "offered": offered}


def _offered(agent: TestDialogue) -> list[str]:
    return [tool.name for tool in agent.dialogue.tools]


def _drawn(agents: Sequence[TestDialogue], query: str, purpose: str) -> TestDialogue:
    language = protocol.language(query)
    alike = [one for one in agents if protocol.language(one.dialogue.turns[0].query) == language]
    return random.Random(purpose).choice(alike or list(agents))


def _names(tests: Sequence[TestDialogue]) -> list[str]:
    """A name for each dialogue: its id, which is the same whatever else was converted; its line too if ids repeat."""
    times = Counter(test.dialogue.id for test in tests)
    return [test.dialogue.id if times[test.dialogue.id] == 1 else f"{test.dialogue.id}@{test.line}" for test in tests]


class _Answer:
    """How likely the model finds the answer that the record has."""

    def __init__(self, exchange: Exchange, turn: Turn) -> None:
        self.exchange, self.turn = exchange, turn

    async def __call__(self, asked: Asked) -> dict[str, Json]:
        answer = Message("assistant", self.exchange.reply_text)
        found = await asked.likelihood([*self.exchange.messages, answer])
        said = list(found) if found and found[1] and math.isfinite(found[0]) else None
        return _row(self.exchange.messages, self.turn, self.turn.answer) | {
            "likelihood": said,
            "measures": {"perplexity": said} if said else {},
        }


class _Query:
    """Asks once; any call or try at one is needless. `answer` is the one expected, "" where none is known."""

    def __init__(
        self, prompt: Sequence[Message], turn: Turn, answer: str, offered: Sequence[str], dialect: protocol.Dialect
    ) -> None:
        self.prompt, self.turn, self.answer, self.offered, self.dialect = prompt, turn, answer, offered, dialect

    async def __call__(self, asked: Asked) -> dict[str, Json]:
        played = await ask_once(asked, self.prompt, self.dialect)
        verdict = scoring.judge_reply(self.answer, played.replies[0], self.dialect, self.offered)
        kinds = {*verdict.kinds, *(["needless_call"] if played.attempts else [])}
        return _row(self.prompt, self.turn, self.answer) | {
            **played_row([played]),
            "measures": {
                "needless_call": [float("needless_call" in kinds), 1],
                "malformed": [float(bool(verdict.malformed)), 1],
                "not_stopped": [float("not_stopped" in kinds), 1],
            },
            "kinds": [kind for kind in KINDS if kind in kinds],
            "malformed": list(verdict.malformed),
        }


def _row(prompt: Sequence[Message], turn: Turn, answer: str) -> dict[str, Json]:
    return {
        "prompt": [asdict(message) for message in prompt],
        "query": turn.query,
        "expected": {"calls": [], "answer": answer},
        "replies": [],
        "calls": [],
        "answer": None,
        "steps": [],
        "kinds": [],
        "malformed": [],
    }
