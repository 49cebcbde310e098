"""The suite bfcl: the Berkeley Function-Calling Leaderboard, or a user's own turns judged in its way.

Questions, possible answers, checkers and simulated APIs are the package's (`bfcl_package`); the prompts are those that
AgentFabric's client sends, and a call is what its loop finds. A reply holds one call at most in this format, so:
where one call is due, the first reply counts; where several are due, each gets a result that says nothing, and all
calls until the answer count; in a dialogue the APIs answer, as many calls as the client makes for a user's message.
The client shows the type, description and values of a parameter and no more of its schema.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby

from fabrictune import protocol
from fabrictune.dialogue import Attempt, Call, Json, Message, Played, Role, Tool, Turn
from fabrictune.evaluate.suites import bfcl_package, bfcl_terms
from fabrictune.evaluate.suites.bfcl_package import LATER, Entry
from fabrictune.evaluate.tasks import Asked, Task, ask_once, played_row
from fabrictune.formats import agentfabric
from fabrictune.log import logger
from fabrictune.measures import KINDS, offered_label
from fabrictune.score import client, scoring
from fabrictune.score.testset import TestDialogue, spaced

NOTHING_NEW = '{"status": "ok"}'  # what each of several calls returns

Judge = Callable[[Sequence[Call]], str | None]  # the calls made -> what is wrong with them


@dataclass(frozen=True)
class _Question:
    """One user message. `due` are the names of the calls due, "" if any will do; `single`: the first reply counts."""

    tools: tuple[Tool, ...]
    instruction: str | Role
    history: tuple[Message, ...]
    query: str
    expected: list[dict[str, Json]]
    due: tuple[str, ...]
    single: bool
    judge: Judge
    run_tool: Callable[[], client.RunTool]
    knowledge: str = ""
    files: tuple[str, ...] = ()

    def opening(self, dialect: protocol.Dialect) -> list[Message]:
        return protocol.opening(
            self.tools, self.instruction, self.knowledge, self.history, self.query, files=self.files, dialect=dialect
        )

    async def play(self, asked: Asked, dialect: protocol.Dialect) -> Played:
        if self.single:
            return await ask_once(asked, self.opening(dialect), dialect)
        return await client.play_turn(
            asked.ask,
            asked.model,
            self.tools,
            self.instruction,
            self.knowledge,
            self.history,
            self.query,
            self.run_tool(),
            files=self.files,
            dialect=dialect,
        )


def tasks(categories: Sequence[str], per_category: int | None, dialect: protocol.Dialect) -> list[Task]:
    """A task for each question of the categories, or for `per_category` of each, evenly spaced.

    Raises ValueError for a category that there is not, RuntimeError where the package is not installed.
    """
    for category in categories:
        if category not in bfcl_package.CATEGORIES:
            raise ValueError(
                f"eval.categories: bfcl has no category '{category}' that runs offline, only "
                + ", ".join(bfcl_package.CATEGORIES)
            )
    return [
        _task(entry, dialect)
        for category in dict.fromkeys(categories)
        for entry in spaced(bfcl_package.read(category), per_category)
    ]


def _task(entry: Entry, dialect: protocol.Dialect) -> Task:
    tools = tuple(bfcl_package.tool(function, entry.category) for function in entry.functions)
    labels = {
        "category": entry.category,
        "language": protocol.language(*(message["content"] for turn in entry.turns for message in turn)),
        "offered": offered_label(len(tools)),
    }
    if entry.category.startswith("multi_turn"):
        return Task(entry.id, entry.id, labels, _Conversation(entry, tools, dialect))
    return Task(entry.id, entry.id, labels, _Turn(_question(entry, tools), dialect))


def _question(entry: Entry, tools: tuple[Tool, ...]) -> _Question:
    messages = [Message(message["role"], message["content"]) for message in entry.turns[0]]
    instruction = "\n\n".join(message.content for message in messages if message.role == "system")
    *history, query = [message for message in messages if message.role != "system"]
    answers = [next(iter(answer.items())) for answer in entry.truth or ()]
    return _Question(
        tools,
        instruction,
        tuple(history),
        query.content,
        [{"name": name, "arguments": accepted} for name, accepted in answers],
        tuple(name for name, _ in answers) or (("",) if entry.category == "live_relevance" else ()),
        single="parallel" not in entry.category,
        judge=_judge(entry),
        run_tool=lambda: lambda name, arguments: NOTHING_NEW,
    )


def _judge(entry: Entry) -> Judge:
    if entry.category == "live_relevance":
        return lambda calls: None if calls else "relevance_error:no_call"
    if entry.truth is None:
        return _judge_irrelevance
    return lambda calls: bfcl_package.check(entry.functions, calls, entry.truth or [], entry.category)


def _judge_irrelevance(calls: Sequence[Call]) -> str | None:
    return "irrelevance_error:call" if calls else None


class _Turn:
    """Plays one user message and has its calls judged."""

    def __init__(self, question: _Question, dialect: protocol.Dialect) -> None:
        self.question, self.dialect = question, dialect

    async def __call__(self, asked: Asked) -> dict[str, Json]:
        question = self.question
        played = await question.play(asked, self.dialect)
        error = self._error(played)
        malformed = _malformed([played], question.tools, self.dialect)
        kinds = _kinds(error, question.due, played.attempts, question.tools, malformed, more=False)
        if not question.single and not played.ended:
            kinds.add("not_stopped")
        return {
            "prompt": [asdict(message) for message in question.opening(self.dialect)],
            "query": question.query,
            "expected": {"calls": question.expected, "answer": ""},
            **played_row([played]),
            **_judged(error, kinds, malformed, question.due, [played]),
        }

    def _error(self, played: Played) -> str | None:
        """What is wrong with the calls, None if nothing is. Where none is due, one that cannot be read is one too."""
        question = self.question
        calls = [Call(attempt.name, attempt.arguments or {}) for attempt in played.attempts]
        if question.due and any(attempt.arguments is None for attempt in played.attempts):
            return "malformed arguments"
        if question.due and not calls:
            return "no call"
        return question.judge(calls)


class _Conversation:
    """Plays a dialogue of several user messages against the package's simulated APIs."""

    def __init__(self, entry: Entry, tools: tuple[Tool, ...], dialect: protocol.Dialect) -> None:
        self.entry, self.dialect = entry, dialect
        self.turns = list(_turns(entry, tools))

    async def __call__(self, asked: Asked) -> dict[str, Json]:
        with bfcl_package.simulated(self.entry) as apis:
            played = await self._play(asked, apis)
            error = apis.check() if played[-1].ended else "multi_turn:force_terminated"
        query, first_tools = self.turns[0]
        tools = self.turns[-1][1]
        expected = [read_call(text, tools) for turn in self.entry.truth or () for text in turn]
        due = tuple(call.name for call in expected)
        attempts = [attempt for turn in played for attempt in turn.attempts]
        malformed = _malformed(played, tools, self.dialect)
        kinds = _kinds(error, due, attempts, tools, malformed, more=True) if played[-1].ended else {"not_stopped"}
        prompt = protocol.opening(first_tools, "", "", (), query, dialect=self.dialect)
        return {
            "prompt": [asdict(message) for message in prompt],
            "query": "\n".join(query for query, _ in self.turns),
            "expected": {"calls": [asdict(call) for call in expected], "answer": ""},
            **played_row(played),
            **_judged(error, kinds, malformed, due, played),
        }

    async def _play(self, asked: Asked, apis: bfcl_package.Apis) -> list[Played]:
        """The turns; those after one that did not end are not played, as the benchmark does."""
        history: list[Message] = []
        played: list[Played] = []
        for query, tools in self.turns:
            apis.begin_turn()
            run_tool = _api_tool(apis, {tool.name for tool in tools})
            turn = await client.play_turn(
                asked.ask, asked.model, tools, "", "", history, query, run_tool, dialect=self.dialect
            )
            played.append(turn)
            if not turn.ended:
                break
            history += [Message("user", query), Message("assistant", client.transcript(turn))]
        return played


def _turns(entry: Entry, tools: tuple[Tool, ...]) -> Iterator[tuple[str, tuple[Tool, ...]]]:
    """Each turn's query, and all that is on offer by then."""
    for number, messages in enumerate(entry.turns):
        added = entry.later.get(number, [])
        tools += tuple(bfcl_package.tool(function, entry.category) for function in added)
        yield "\n".join(message["content"] for message in messages) if messages else LATER, tools


def _api_tool(apis: bfcl_package.Apis, offered: set[str]) -> client.RunTool:
    """Runs a call on the simulated APIs; what cannot be run fails as a tool does in the client."""

    def run(name: str, text: str) -> str:
        if name not in offered:
            return protocol.failure(name, text, repr(name))
        arguments = client.object_or_none(text)
        if arguments is None:
            return protocol.failure(name, text, "the arguments are no JSON object")
        try:
            return apis.run(Call(name, arguments))
        except ValueError as error:
            return protocol.failure(name, text, str(error))

    return run


def read_call(text: str, tools: Sequence[Tool]) -> Call:
    """A call that the package writes in Python, its arguments literals; those without a name get the tool's, in order.

    Raises ValueError if it is no such call.
    """
    expression = ast.parse(text, mode="eval").body
    if not isinstance(expression, ast.Call) or not isinstance(expression.func, ast.Name):
        raise ValueError(f"no call of a function: {text}")
    name = expression.func.id
    names = next((list(tool.properties) for tool in tools if tool.name == name), [])
    named = [
        *zip(names, expression.args, strict=False),
        *((word.arg or "", word.value) for word in expression.keywords),
    ]
    return Call(name, {key: ast.literal_eval(value) for key, value in named})


def of_dialogues(tests: Sequence[TestDialogue], dialect: protocol.Dialect) -> list[Task]:
    """A task for each turn of a user's own test dialogues, judged as the leaderboard judges, the record being right.

    Its category says what is due: no call (user_irrelevance), one (user_simple, user_multiple if several tools are on
    offer), several in any order (user_parallel, user_parallel_multiple). Turns whose recorded calls the leaderboard's
    checker does not accept are left out, with a warning that counts them. Raises RuntimeError where the package is
    not installed.
    """
    found: list[Task] = []
    refused: list[str] = []
    for test in tests:
        exchanges = agentfabric.render(test.dialogue, test.source, dialect=dialect)
        for number, group in groupby(exchanges, key=lambda exchange: exchange.turn):
            turn = test.dialogue.turns[number]
            category = bfcl_terms.category(turn, len(test.dialogue.tools))
            key = f"{test.line}/{number}"
            question = _own_question(test, turn, next(group).messages[1:-1], category)
            error = question.judge(turn.calls)
            if error:
                refused.append(f"{key}: {error}")
                continue
            labels = test.labels | {
                "category": category,
                "language": protocol.language(turn.query),
                "offered": offered_label(len(test.dialogue.tools)),
            }
            found.append(Task(key, str(test.line), labels, _Turn(question, dialect)))
    if refused:
        logger.warning(
            "%d of %d turns are left out, because BFCL's checker does not accept their own calls (line/turn: why): %s",
            len(refused),
            len(refused) + len(found),
            ", ".join(refused[:5]),
        )
    return found


def _own_question(test: TestDialogue, turn: Turn, history: tuple[Message, ...], category: str) -> _Question:
    dialogue = test.dialogue
    functions = [bfcl_terms.function(tool, turn.calls) for tool in dialogue.tools]
    truth = [bfcl_terms.answer(call) for call in turn.calls]

    def judge(calls: Sequence[Call]) -> str | None:
        return bfcl_package.check(functions, calls, truth, category) if truth else _judge_irrelevance(calls)

    return _Question(
        dialogue.tools,
        dialogue.instruction,
        history,
        turn.query,
        [asdict(call) for call in turn.calls],
        tuple(call.name for call in turn.calls),
        single=len(turn.calls) < 2,
        judge=judge,
        run_tool=lambda: client.recorded_tools(dialogue.tools, turn),
        knowledge=dialogue.knowledge,
        files=turn.files,
    )


def _malformed(turns: Sequence[Played], tools: Sequence[Tool], dialect: protocol.Dialect) -> list[str]:
    """How calls among the replies are malformed, those too in which the client sees no call."""
    offered = [tool.name for tool in tools]
    verdicts = (scoring.judge_reply("", reply, dialect, offered) for turn in turns for reply in turn.replies)
    return sorted({kind for verdict in verdicts for kind in verdict.malformed})


def _kinds(
    error: str | None,
    due: Sequence[str],
    attempts: Sequence[Attempt],
    tools: Sequence[Tool],
    malformed: Sequence[str],
    *,
    more: bool,
) -> set[str]:
    """The failure by our names, none where there is no error; `more`: further calls than those due are no failure."""
    if error is None:
        return set()
    offered = {tool.name for tool in tools}
    made = [attempt.name for attempt in attempts]
    if not due:
        return {"needless_call"}
    if malformed:
        return {"malformed"}
    if not set(made) <= offered:
        return {"unknown_tool"}
    if len(made) < len(due):
        return {"no_call"}
    if len(made) > len(due) and not more:
        written = {(attempt.name, attempt.text) for attempt in attempts}
        return {"needless_call" if len(written) == len(attempts) else "repeated_call"}
    return {"wrong_tool" if Counter(due) - Counter(made) else "wrong_arguments"}


def _judged(
    error: str | None, kinds: set[str], malformed: list[str], due: Sequence[str], turns: Sequence[Played]
) -> dict[str, Json]:
    stopped = all(reply.stopped for turn in turns for reply in turn.replies)
    kinds = kinds if stopped else kinds | {"not_stopped"}
    counted = ("no_call", "wrong_arguments", "wrong_tool") if due else ("needless_call",)
    return {
        "measures": {
            "correct": [float(error is None), 1],
            "malformed": [float(bool(malformed)), 1],
            **{kind: [float(kind in kinds), 1] for kind in ("not_stopped", "unknown_tool", *counted)},
        },
        "steps": [],
        "kinds": [kind for kind in KINDS if kind in kinds],
        "malformed": malformed,
        "error": error,
    }
