"""AgentFabric's client: the loop of requests for one user message, and the tools that it runs.

The strings are `protocol`'s. `ask` is how a request gets its reply: `endpoints.connect` gives one that speaks to an
OpenAI-compatible endpoint, a test answers from a recording.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence

import json5

from fabrictune import protocol
from fabrictune.dialogue import Attempt, Json, Message, Played, Reply, Role, Tool, Turn

Ask = Callable[[dict[str, Json]], Awaitable[Reply]]
RunTool = Callable[[str, str], str]  # (name, arguments as written) -> observation

NO_DATA = '{"error": "no data for these arguments"}'


async def play_turn(
    ask: Ask,
    model: str,
    tools: Sequence[Tool],
    instruction: str | Role,
    knowledge: str,
    history: Sequence[Message],
    query: str,
    run_tool: RunTool,
    *,
    files: Sequence[str] = (),
    dialect: protocol.Dialect = protocol.APRIL,
) -> Played:
    """The turn as the client runs it: ask, run the call found, ask again, until a reply has none or 10 were asked."""
    messages = protocol.opening(tools, instruction, knowledge, history, query, files=files, dialect=dialect)
    replies: list[Reply] = []
    attempts: list[Attempt] = []
    while len(replies) < protocol.MAX_CALLS:
        reply = await ask(protocol.request(model, messages))
        replies.append(reply)
        found = dialect.find_call(reply.text)
        if found is None:
            return Played(tuple(replies), tuple(attempts), reply.text)
        name, arguments, output = found
        observation = run_tool(name, arguments)
        attempts.append(Attempt(name, arguments, object_or_none(arguments), observation))
        messages[-1] = Message("user", messages[-1].content + protocol.trace(output, observation))
    return Played(tuple(replies), tuple(attempts), None)


def transcript(played: Played) -> str:
    """What the client's user sees of the turn, and what its history keeps as the assistant's message."""
    shown = zip(played.replies, played.attempts, strict=False)
    calls = "".join(reply.text + protocol.result(attempt.observation) for reply, attempt in shown)
    return calls + (played.answer or "")


def parse_arguments(text: str) -> Json:
    """The arguments as the client reads them, by json5 and leniently about line breaks inside strings.

    Raises ValueError where it can read nothing.
    """
    if len(text) > protocol.ARGUMENT_CHARACTERS:
        raise ValueError(
            f"{len(text)} characters of arguments, more than the {protocol.ARGUMENT_CHARACTERS} that are read"
        )
    try:
        return _loads(text)
    except ValueError:
        return _loads(text.replace("\r", "\\r").replace("\n", "\\n"))


def _loads(text: str) -> Json:
    try:
        return json.loads(text)  # all JSON is JSON5, and json reads it a hundred times faster
    except (ValueError, RecursionError):
        pass
    try:
        return json5.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def object_or_none(text: str) -> dict[str, Json] | None:
    """The arguments as the client reads them, None where they are no object."""
    try:
        value = parse_arguments(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def recorded_tools(tools: Sequence[Tool], turn: Turn) -> RunTool:
    """Tools that answer from the record of a turn.

    A call that the record holds gets its observation (the first one not given yet). An unknown tool, arguments that
    cannot be read and a missing parameter fail as they do in the client; any other call is told that there is no data.
    """
    required = {tool.name: tool.required for tool in tools}
    waiting = list(turn.steps)

    def run(name: str, text: str) -> str:
        attempt = Attempt(name, text, object_or_none(text), "")
        step = next((step for step in [*waiting, *reversed(turn.steps)] if attempt.makes(step.call)), None)
        if step is None:
            return _unrecorded(required, name, text)
        if step in waiting:
            waiting.remove(step)
        return step.observation

    return run


def _unrecorded(required: dict[str, list[str]], name: str, text: str) -> str:
    """The observation of a call that no record holds; what the client raises becomes its failure text."""
    try:
        needed = required[name]
        arguments = parse_arguments(text)
        for parameter in needed:
            if parameter not in arguments:
                raise ValueError(f"param `{parameter}` is required")
    except (KeyError, TypeError, ValueError) as error:
        return protocol.failure(name, text, str(error))
    return NO_DATA
