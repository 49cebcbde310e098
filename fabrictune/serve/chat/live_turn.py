"""A turn with a served model as it happens: the client's loop of requests, each reply streamed.

The loop is `client.play_turn`'s; here every step can be looked at while it goes on, and a tool may take its time, as
one does whose result a person types.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fabrictune import protocol
from fabrictune.dialogue import Attempt, Json, Message, Played, Reply, Role, Tool
from fabrictune.score import client
from fabrictune.serve.chat.streaming import End, Piece, encodable

Stream = Callable[[dict[str, Json]], AsyncIterator[Piece | End]]
RunTool = Callable[[str, str], Awaitable[str]]  # (name, arguments as written) -> observation
Result = Callable[[str, dict[str, Json]], Awaitable[str]]  # (name, arguments) -> observation; ValueError is a failure


@dataclass
class Round:
    """One request and what has come of it so far. `end` is None while the reply still comes.

    A reply with a call has its `tool`, the `arguments` as written and the `thought` before them.
    """

    request: dict[str, Json]
    reply: str = ""
    end: End | None = None
    thought: str = ""
    tool: str | None = None
    arguments: str = ""
    observation: str | None = None

    @property
    def was_cut(self) -> bool:
        """Whether the reply ran into a bound on tokens."""
        return self.end is not None and self.end.reason == "length"


@dataclass
class LiveTurn:
    """A turn so far. `answer` is the reply without a call; `trouble` says why a turn ended without one."""

    query: str
    model: str
    rounds: list[Round] = field(default_factory=list)
    answer: str | None = None
    trouble: str = ""

    @property
    def is_over(self) -> bool:
        return self.answer is not None or bool(self.trouble)

    def messages(self) -> list[Message]:
        """What the client's history keeps of the turn; nothing of one that was broken off."""
        observed = [one for one in self.rounds if one.observation is not None]
        if self.answer is None and len(observed) < protocol.MAX_CALLS:
            return []
        replies = tuple(Reply(one.reply, stopped=not one.was_cut) for one in self.rounds)
        attempts = tuple(Attempt(one.tool or "", one.arguments, None, one.observation or "") for one in observed)
        return [
            Message("user", self.query),
            Message("assistant", client.transcript(Played(replies, attempts, self.answer))),
        ]


async def play(
    turn: LiveTurn,
    stream: Stream,
    tools: Sequence[Tool],
    instruction: str | Role,
    history: Sequence[Message],
    run_tool: RunTool,
    dialect: protocol.Dialect,
) -> AsyncGenerator[None, None]:
    """Plays the turn as the client does; yields whenever there is something new in it. Raises what `stream` raises."""
    messages = protocol.opening(tools, instruction, "", history, turn.query, dialect=dialect)
    while len(turn.rounds) < protocol.MAX_CALLS:
        now = Round(protocol.request(turn.model, messages))
        turn.rounds.append(now)
        yield
        async for event in stream(now.request):
            if isinstance(event, Piece):
                now.reply += event.text
            else:
                now.end = event
            yield
        found = dialect.find_call(now.reply)
        if found is None:
            turn.answer = now.reply
            yield
            return
        now.tool, now.arguments, output = found
        now.thought = _before_call(now.reply, found, dialect)
        yield
        now.observation = encodable(await run_tool(now.tool, now.arguments))
        messages[-1] = Message("user", messages[-1].content + protocol.trace(output, now.observation))
        yield
    turn.trouble = f"the client gives up after {protocol.MAX_CALLS} calls"
    yield


def _before_call(text: str, found: protocol.Found, dialect: protocol.Dialect) -> str:
    """What the reply says before the call that the client found in it."""
    at = len(text)
    while (at := text.rfind(protocol.ACTION, 0, at)) >= 0:
        seen = dialect.find_call(text[at:])
        if seen and seen[:2] == found[:2]:
            return text[:at].strip()
    return ""


def toolbox(tools: Mapping[str, Tool], result: Result) -> RunTool:
    """Tools as the client runs them: what it would raise becomes its failure text, which the model then reads."""

    async def run(name: str, text: str) -> str:
        try:
            needed = tools[name].required
            arguments = client.parse_arguments(text)
            if not isinstance(arguments, dict):
                raise ValueError("the arguments are no JSON object")
            for parameter in needed:
                if parameter not in arguments:
                    raise ValueError(f"param `{parameter}` is required")
            return await result(name, arguments)
        except (KeyError, ValueError) as error:
            return protocol.failure(name, text, str(error))

    return run
