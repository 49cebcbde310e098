"""One visitor's conversation: up to two models that are asked the same side by side, and results typed by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field

from fabrictune import protocol
from fabrictune.dialogue import Json, Message, Tool
from fabrictune.serve.chat import demo_tools, live_turn, streaming
from fabrictune.serve.chat.live_turn import LiveTurn
from fabrictune.serve.chat.streaming import Model

INSTRUCTION = {"en": "You are a helpful assistant.", "zh": "你是一个乐于助人的助手。"}
BREATH = 0.08  # seconds between two looks at what has changed: models write faster than a page can be drawn
STOPPED = "stopped"


@dataclass
class Side:
    """What was said with one of the models. `history` is as AgentFabric keeps it: whole turns only.

    `drawn` are the first of the past turns, which do not change any more, as a page shows them.
    """

    past: list[LiveTurn] = field(default_factory=list)
    drawn: list[str] = field(default_factory=list)
    history: list[Message] = field(default_factory=list)
    live: LiveTurn | None = None


@dataclass
class Wanted:
    """A call whose result a person is to type."""

    side: int
    model: str
    tool: str
    arguments: dict[str, Json]
    result: asyncio.Future[str]


@dataclass(frozen=True)
class Question:
    """What goes to every model. Empty texts: `instruction` is the usual one, `fixed` results are typed by hand.

    `language` is that of the tools' descriptions, None for that of the conversation.
    """

    text: str
    tools: Sequence[str]
    instruction: str = ""
    fixed: str = ""
    language: str | None = None


@dataclass
class Session:
    """`own` are tools without code, from files: a person gives their results."""

    dialect: protocol.Dialect
    own: dict[str, Tool] = field(default_factory=dict)
    sides: tuple[Side, Side] = field(default_factory=lambda: (Side(), Side()))
    wanted: list[Wanted] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_running(self) -> bool:
        return any(not task.done() for task in self.tasks)

    def add(self, tools: Sequence[Tool]) -> None:
        """Takes up tools from a file. Raises ValueError naming one whose name another has."""
        names = [tool.name for tool in tools]
        for name in names:
            if name in demo_tools.BY_NAME or name in self.own or names.count(name) > 1:
                raise ValueError(f"there is a tool called '{name}' already")
        self.own |= {tool.name: tool for tool in tools}

    def ask(self, question: Question, models: Sequence[Model]) -> AsyncGenerator[None, None]:
        """Asks the models, one a side, at the same time; yields when there is something new to see, last at the end."""
        for side in self.sides:
            self._put_away(side)
        self.tasks = [asyncio.create_task(self._play(number, question, model)) for number, model in enumerate(models)]
        return self._changes(self.tasks)

    async def _changes(self, tasks: list[asyncio.Task[None]]) -> AsyncGenerator[None, None]:
        try:
            while any(not task.done() for task in tasks):
                await self.changed.wait()
                self.changed.clear()
                yield
                await asyncio.sleep(BREATH)
            for task in tasks:
                if not task.cancelled():
                    task.result()  # raises what only we can have caused
            yield
        finally:  # a visitor who leaves closes this generator
            if self.tasks is tasks:  # and no other question was asked since this was stopped
                self.stop()

    def stop(self) -> None:
        """Breaks off what is going on; the page can be used at once."""
        for task in self.tasks:
            task.cancel()
        for side in self.sides:
            if side.live is not None and not side.live.is_over:
                side.live.trouble = STOPPED
        self.wanted.clear()
        self.tasks = []
        self.changed.set()

    def clear(self) -> None:
        self.stop()
        self.sides = (Side(), Side())

    def give(self, result: str) -> None:
        """The result of the call that has waited longest."""
        if self.wanted:
            waiting = self.wanted.pop(0)
            if not waiting.result.done():
                waiting.result.set_result(streaming.encodable(result))
            self.changed.set()

    def _put_away(self, side: Side) -> None:
        if side.live is not None:
            side.past.append(side.live)
            side.history += side.live.messages()
            side.live = None

    async def _play(self, number: int, question: Question, model: Model) -> None:
        side = self.sides[number]
        side.live = turn = LiveTurn(question.text, model.name)
        language = protocol.language(question.text, *(message.content for message in side.history))
        tools = self._offered(question.tools, question.language or language)
        run = live_turn.toolbox(tools, lambda name, given: self._result(number, model, question, language, name, given))
        instruction = question.instruction or INSTRUCTION[language]
        playing = live_turn.play(
            turn,
            lambda body: streaming.stream(model.server, body),
            list(tools.values()),
            instruction,
            side.history,
            run,
            self.dialect,
        )
        try:
            async for _ in playing:
                self.changed.set()
        except (ConnectionError, RuntimeError) as error:
            turn.trouble = str(error)
        finally:
            self.changed.set()

    def _offered(self, names: Sequence[str], language: str) -> Mapping[str, Tool]:
        return {name: self.own[name] if name in self.own else demo_tools.BY_NAME[name].tool(language) for name in names}

    async def _result(
        self, number: int, model: Model, question: Question, language: str, name: str, arguments: dict[str, Json]
    ) -> str:
        if name not in self.own:
            result = demo_tools.run(name, arguments, question.language or language)
            return json.dumps(result, ensure_ascii=False)
        if question.fixed:
            return question.fixed
        waiting = Wanted(number, model.name, name, arguments, asyncio.Future())
        self.wanted.append(waiting)
        self.changed.set()
        return await waiting.result
