"""ModelScope's ms_agent records <-> Dialogue (iic/ms_agent, train_agent_react.jsonl).

A record is {"id", "conversations": [{"from": "system" | "user" | "assistant", "value"}]}. The system message lists the
tools, an assistant message holds a whole ReAct trace: Action, Action Input (a Python literal), Observation, ...,
Final Answer. We read three keys more than upstream writes: `instruction` (the agent's persona), `family`, and in a
parameter any JSON-schema key beside name, description and required.

Not held by this format: knowledge, a Role as such, empty lead-ins, and lines inside an observation that look like the
next step of the trace.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from fabrictune.dialogue import Call, Dialogue, Json, Role, Step, Tool, Turn, json_type

HEADER = "Answer the following questions as best you can. You have access to the following APIs:\n"
FOOTER = (
    "\n\nUse the following format:\n\n"
    "Thought: you should always think about what to do\n"
    "Action: the action to take, should be one of the above tools[{names}]\n"
    "Action Input: the input to the action\n"
    "Observation: the result of the action\n"
    "... (this Thought/Action/Action Input/Observation can be repeated zero or more times)\n"
    "Thought: I now know the final answer\n"
    "Final Answer: the final answer to the original input question\n"
    "Begin!"
)
FINAL_THOUGHT = "I now know the final answer"
# An agent that nobody configured: AgentFabric sends such a role for it, and ms_agent records name no persona.
UNNAMED = Role()

_ITEM = re.compile(r"\s*(\d+)\. (.+?):[ \n]")
_STEP = re.compile(
    r"(?:Thought:(?P<thought>.*?)\n)?\s*Action:(?P<name>[^\n]*)\n\s*Action Input:(?P<arguments>.*?)"
    r"\n\s*Observation:(?P<observation>.*?)(?=\n\s*(?:Thought:|Action:[^\n]*\n\s*Action Input:|Final Answer:)|\Z)",
    re.DOTALL,
)
_MARK = re.compile(r"^\s*(Action|Action Input|Observation):", re.MULTILINE)


def parse(row: Mapping[str, Any]) -> Dialogue:
    """The record as a Dialogue. Raises ValueError saying what in the record cannot be read."""
    messages = _messages(row)
    instruction = row.get("instruction") or ""
    if not isinstance(instruction, str):
        raise ValueError(f"'instruction' is {type(instruction).__name__}, not text")
    system = messages.pop(0)[1] if messages and messages[0][0] == "system" else ""
    turns = tuple(_turns(messages))
    listed = system.startswith(HEADER.split(".")[0])
    return Dialogue(
        id=str(row.get("id") or ""),
        tools=_tools(system, [step.call for turn in turns for step in turn.steps]) if listed else (),
        turns=turns,
        instruction=instruction or (UNNAMED if listed or not system else system),
        family=str(row.get("family") or ""),
    )


def render(dialogue: Dialogue) -> dict[str, Json]:
    """The Dialogue as an ms_agent record; `parse` is its inverse for all that the format holds."""
    if dialogue.tools:
        items = "\n\n".join(f"{number}. {_tool_item(tool)}" for number, tool in enumerate(dialogue.tools, 1))
        system = HEADER + items + FOOTER.format(names=", ".join(tool.name for tool in dialogue.tools))
        conversations = [{"from": "system", "value": system}]
    else:
        conversations = []
    for turn in dialogue.turns:
        conversations.append({"from": "user", "value": turn.query})
        conversations.append({"from": "assistant", "value": _trace(turn)})
    record: dict[str, Json] = {"id": dialogue.id, "conversations": conversations}
    if isinstance(dialogue.instruction, str):
        record["instruction"] = dialogue.instruction
    if dialogue.family:
        record["family"] = dialogue.family
    return record


def _messages(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    conversations = row.get("conversations")
    if isinstance(conversations, str):
        conversations = _literal(conversations)
    if not isinstance(conversations, list) or not conversations:
        raise ValueError(f"'conversations' is {type(conversations).__name__}, not a list of messages")
    try:
        return [(message["from"], str(message["value"])) for message in conversations]
    except (KeyError, TypeError) as error:
        raise ValueError(f"a message is no {{'from', 'value'}} pair ({type(error).__name__}: {error})") from error


def _turns(messages: list[tuple[str, str]]) -> Iterable[Turn]:
    for position, (role, _) in enumerate(messages):
        expected = "assistant" if position % 2 else "user"
        if role != expected:
            raise ValueError(f"message {position} is from '{role}' where '{expected}' is due")
    if len(messages) % 2:
        raise ValueError("the last user message has no reply")
    for (_, query), (_, value) in zip(messages[::2], messages[1::2], strict=True):
        yield _turn(query, value)


def _turn(query: str, value: str) -> Turn:
    steps, end = [], 0
    while found := _STEP.match(value, end):
        steps.append(
            Step(
                call=Call(found["name"].strip(), _arguments(found["arguments"].strip())),
                observation=found["observation"].strip(),
                thought=(found["thought"] or "").strip(),
            )
        )
        end = found.end()
        end += len(value[end:]) - len(value[end:].lstrip())
    rest = value[end:]
    thought, final, answer = rest.partition("Final Answer:")
    if not final:
        if steps:
            raise ValueError(f"the trace ends without a final answer: {rest[-80:]!r}")
        answer = rest
    elif _MARK.search(thought):
        raise ValueError(f"a step cannot be read: {thought[:120]!r}")
    if not final and _MARK.search(answer):
        raise ValueError(f"a call without a result: {answer[:120]!r}")
    return Turn(query, tuple(steps), answer.strip())


def _arguments(text: str) -> dict[str, Json]:
    """Arguments as JSON values from JSON or a Python literal; nothing and [] mean none."""
    try:
        value = json.loads(text) if text else {}
    except ValueError:
        value = _literal(text)
    if value in ([], None, ""):
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"arguments are {type(value).__name__}, not an object by parameter name: {text[:120]!r}")
    try:
        arguments: dict[str, Json] = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"arguments hold what JSON cannot ({error}): {text[:120]!r}") from error
    return arguments


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"neither JSON nor a Python literal ({type(error).__name__}): {text[:120]!r}") from error


def _tools(system: str, calls: list[Call]) -> tuple[Tool, ...]:
    """The tools listed in the system message; a type that it does not give is read off the values in `calls`."""
    body = system[system.index("\n") + 1 :] if "\n" in system else ""
    seen = {(call.name, key): value for call in calls for key, value in call.arguments.items()}
    tools: list[Tool] = []
    at = 0
    while found := _ITEM.match(body, at):
        if int(found[1]) != len(tools) + 1:
            break
        name = found[2].strip()
        prose, parameters, at = _item_body(body, found.end(), name)
        tools.append(Tool(name, _description(prose), _schema(name, parameters, seen)))
    if not tools:
        raise ValueError(f"the tool list cannot be read: {body[:160]!r}")
    if not re.match(r"\s*(Use the following format:|\Z)", body[at:]):
        raise ValueError(f"the tool list cannot be read after tool {len(tools)}: {body[at : at + 160]!r}")
    return tuple(tools)


def _item_body(body: str, start: int, name: str) -> tuple[str, Json, int]:
    """(prose, parameters, end) of one listed tool; the first `Parameters:` that JSON follows ends the prose."""
    for mark in re.finditer(r"Parameters:\s*", body[start:]):
        try:
            parameters, end = json.JSONDecoder().raw_decode(body, start + mark.end())
        except ValueError:
            continue
        if not isinstance(parameters, list | dict):
            continue
        tail = re.compile(r"[ .]*(Format the arguments as a JSON object\.)?").match(body, end)
        return body[start : start + mark.start()], parameters, tail.end() if tail else end
    raise ValueError(f"tool '{name}': no readable 'Parameters:' follows it")


def _description(prose: str) -> str:
    """The tool's description without the frame that every record repeats ("useful for? DESCRIPTION.")."""
    _, framed, described = prose.partition("useful for?")
    if framed:
        return described.strip().removesuffix(".").strip() if described.strip() != "." else ""
    return re.sub(r"^\s*Call this tool to interact with the .*? API\.", "", prose).strip()


def _schema(tool: str, parameters: Json, seen: Mapping[tuple[str, str], Json]) -> dict[str, Json]:
    if isinstance(parameters, dict):
        return parameters
    try:
        required = [p["name"] for p in parameters if str(p.get("required", "False")).strip().lower() == "true"]
        properties = {}
        for parameter in parameters:
            name = parameter["name"]
            extra = {k: v for k, v in parameter.items() if k not in ("name", "type", "description", "required")}
            kind = parameter.get("type") or json_type(seen.get((tool, name)))
            properties[name] = {"type": kind, "description": str(parameter.get("description", "")), **extra}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"tool '{tool}': a parameter cannot be read ({type(error).__name__}: {error})") from error
    return {"type": "object", "properties": properties, "required": required}


def _tool_item(tool: Tool) -> str:
    display = tool.name.replace("_", "")
    parameters = [
        {"name": name, **schema, "required": str(name in tool.required)} for name, schema in tool.properties.items()
    ]
    return (
        f"{tool.name}: Call this tool to interact with the {display} API. What is the {display} API useful for? "
        f"{tool.description}. Parameters: {json.dumps(parameters, ensure_ascii=False)}"
    )


def _trace(turn: Turn) -> str:
    if not turn.steps:
        return turn.answer
    blocks = [
        (f"Thought: {step.thought}\n" if step.thought else "")
        + f"Action: {step.call.name}\nAction Input: {step.call.arguments!r}\nObservation: {step.observation}\n"
        for step in turn.steps
    ]
    return "".join(blocks) + f"Thought: {FINAL_THOUGHT}\nFinal Answer: {turn.answer}"
