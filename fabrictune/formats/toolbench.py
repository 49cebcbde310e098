"""ToolBench answers -> Dialogue (OpenBMB/ToolBench: data_example/answer).

Two shapes are read:

* An answer file, one JSON object: `answer_generation` holds the query, the functions, and in `train_messages` the
  prefixes of the chain of calls that its search settled on, in OpenAI's message form; the last of them is the whole.
* A converted training row, {"id", "conversations": [{"from", "value"}]}, with the functions as a Python list at the end
  of the system message. Its last message is the target, mostly a call: it becomes `Turn.pending`. The rows "Step 2:
  ...", "Step 4: ..." of one query are prefixes of each other; a caller who wants each call once keeps the longest.

Not kept: the branches that the search gave up (they stand in `tree` only; no call of theirs becomes a step), the
prompts by which it asked for another try after one, its AutoGPT system prompt, the one-line descriptions of a tool's
whole group, the `optional` list of a function (what `required` leaves), and a thought before `Finish`. A thought that
followed such a prompt is kept, though it speaks of tries that the dialogue does not hold.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from fabrictune.dialogue import Call, Dialogue, Json, Step, Tool, Turn
from fabrictune.formats import conversations, values
from fabrictune.formats.messages import read_name
from fabrictune.formats.ms_agent import UNNAMED

FINISH = "Finish"
APIS = "Specifically, you have access to the following APIs:"
RETRY = "This is not the first time you try this task"

# The last call of the message counts: a thought may quote one, JSON arguments hold no raw line break.
_REPLY = re.compile(r"(.*)^[ \t]*Action:([^\n]*)\n\s*Action Input:(.*)", re.M | re.S)
_THOUGHT = re.compile(r"^[ \t]*Thought:[ \t]*", re.M)


@dataclass(frozen=True)
class _FunctionCall:
    name: str
    arguments: str


@dataclass(frozen=True)
class _Message:
    """A message as OpenAI's first function-calling API has it."""

    role: str
    content: str | None
    name: str | None = None
    function_call: _FunctionCall | None = None


@dataclass(frozen=True)
class _Said:
    """A message of either shape: a thought, a call ("" for none) with its arguments, or the text of another role."""

    role: str
    text: str = ""
    name: str = ""
    arguments: str = ""


def parse(row: Mapping[str, Any]) -> Dialogue:
    """The answer or converted row as a Dialogue of one turn. Raises ValueError with the reason if it cannot be one.

    Such are answers that are not valid or give up, arguments that are no JSON object, and calls to a function that was
    not on offer, which ToolBench's model sometimes made up.
    """
    if isinstance(row.get("answer_generation"), Mapping):
        return _parse_answer(row["answer_generation"])
    if "conversations" in row:
        return _parse_converted(row)
    raise ValueError(f"neither a ToolBench answer nor a converted row: the keys are {sorted(row)}")


def _parse_answer(answer: Mapping[str, Any]) -> Dialogue:
    query, chains = answer.get("query"), answer.get("train_messages")
    if not isinstance(query, str):
        raise ValueError(f"the answer holds no query: {query!r:.120}")
    if answer.get("valid_data") is not True:
        raise ValueError(f"the answer is not valid: ToolBench's search found none to {query[:80]!r}")
    if not isinstance(chains, list) or not chains or not isinstance(chains[-1], list):
        raise ValueError(f"the answer holds no chain of messages: to {query[:80]!r}")
    said = [_from_openai(message) for message in chains[-1]]
    tools = _tools(answer.get("function"))
    turn = _turn(query, _without_opening(said), tools)
    if turn.pending:
        raise ValueError(f"the chain does not end in {FINISH}: to {query[:80]!r}")
    return Dialogue("", tools, (turn,), UNNAMED)


def _parse_converted(row: Mapping[str, Any]) -> Dialogue:
    messages = conversations.read(row)
    system = messages[0][1] if messages[0][0] == "system" else ""
    _, listed, functions = system.rpartition(APIS)
    if not listed:
        raise ValueError(f"the system message lists no APIs: {system[:120]!r}")
    said = [_from_react(role, value) for role, value in messages]
    tools = _tools(values.read(functions))
    query = messages[1][1].strip().removesuffix("Begin!").strip() if len(messages) > 1 else ""
    return Dialogue(read_name(row, "id"), tools, (_turn(query, _without_opening(said), tools),), UNNAMED)


def _from_openai(message: Any) -> _Said:
    try:
        one = msgspec.convert(message, _Message)
    except msgspec.ValidationError as error:
        raise ValueError(f"a message cannot be read: {message!r:.120}") from error
    if one.function_call is None or one.role != "assistant":
        return _Said(one.role, one.content or "", one.name or "")
    return _Said(one.role, one.content or "", one.function_call.name, one.function_call.arguments)


def _from_react(role: str, value: str) -> _Said:
    if role != "assistant":
        return _Said(role, value)
    found = _REPLY.match(value)
    if not found:
        raise ValueError(f"a reply holds no call: {value.strip()[:120]!r}")
    return _Said(role, _THOUGHT.sub("", found[1]), found[2].strip(), found[3])


def _without_opening(said: list[_Said]) -> list[_Said]:
    roles = [one.role for one in said[:2]]
    if roles != ["system", "user"]:
        raise ValueError(f"the messages do not begin with system and user: but with {roles}")
    return [one for one in said[2:] if not (one.role == "user" and one.text.startswith(RETRY))]


def _turn(query: str, said: list[_Said], tools: tuple[Tool, ...]) -> Turn:
    offered = {tool.name for tool in tools}
    steps: list[Step] = []
    thoughts: list[str] = []
    waiting: Step | None = None
    for number, one in enumerate(said):
        if one.role == "function" and waiting:
            if one.name not in ("", waiting.call.name):
                raise ValueError(f"a result is from another function: '{one.name}' for '{waiting.call.name}'")
            steps.append(replace(waiting, observation=one.text))
            waiting = None
        elif one.role != "assistant" or waiting:
            raise ValueError(f"a message stands where none of its kind is due: from '{one.role}', {one.text[:80]!r}")
        elif one.name == FINISH:
            if number + 1 < len(said):
                raise ValueError(f"the chain goes on after {FINISH}: {said[number + 1].text[:80]!r}")
            return Turn(query, tuple(steps), _answer(query, _arguments(one)))
        else:
            thoughts.append(one.text.strip())
            if one.name:
                if one.name not in offered:
                    raise ValueError(f"a call to a function that is not on offer: '{one.name}', only {sorted(offered)}")
                waiting = Step(Call(one.name, _arguments(one)), "", "\n".join(filter(None, thoughts)))
                thoughts = []
    if not waiting:
        raise ValueError(f"the chain ends without a call: to {query[:80]!r}")
    return Turn(query, tuple(steps), "", pending=(waiting,))


def _answer(query: str, finish: Mapping[str, Json]) -> str:
    kind, answer = finish.get("return_type"), finish.get("final_answer")
    if kind == "give_up_and_restart":
        raise ValueError(f"the answer gives up: to {query[:80]!r}")
    if kind != "give_answer" or not isinstance(answer, str) or not answer.strip():
        raise ValueError(f"{FINISH} gives no answer: {finish!r:.120}")
    return answer.strip()


def _arguments(said: _Said) -> dict[str, Json]:
    try:
        value = values.DECODER.decode(said.arguments)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"arguments are no JSON: of '{said.name}', {said.arguments!r:.120}") from error
    if not isinstance(value, dict):
        raise ValueError(f"arguments are no JSON object: of '{said.name}', {said.arguments!r:.120}")
    return value


def _tools(functions: Any) -> tuple[Tool, ...]:
    if not isinstance(functions, list):
        raise ValueError(f"the functions are no list: {functions!r:.120}")
    try:
        return tuple(
            Tool(
                function["name"],
                function.get("description") or "",
                {key: value for key, value in function["parameters"].items() if key != "optional"},
            )
            for function in functions
            if function["name"] != FINISH
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"a function cannot be read: {type(error).__name__} {error}") from error
