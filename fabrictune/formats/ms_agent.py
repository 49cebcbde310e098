"""ModelScope's ms_agent records <-> Dialogue (iic/ms_agent, train_agent_react.jsonl).

A record is {"id", "conversations": [{"from": "system" | "user" | "assistant", "value"}]}, the conversations as a list
or as the text of one. The system message lists the tools, an assistant message holds a whole ReAct trace: Action,
Action Input (a Python literal), Observation, ..., Final Answer. We read three keys more than upstream writes:
`instruction` (the agent's persona), `family`, and in a parameter any JSON-schema key beside name, description and
required. Text around the tool list is part of the instruction.

Read but not kept: the display name in a tool's frame, the names in `tools[...]` (the listed tools count, the two often
differ), a thought before the final answer, and carriage returns of Windows line ends.
Not held by this format: a Role as such and what is knowledge in the instruction (both are spelled out in it as
AgentFabric does), outer blanks of a thought, an observation, an answer or a description, a tool name with a colon, a
description that ends a line as a tool's parameters do, and lines in an observation or a thought that look like the next
piece of the trace.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from fabrictune.dialogue import Call, Dialogue, Json, Role, Step, Tool, Turn, json_type
from fabrictune.formats import conversations, system_text, values
from fabrictune.formats.messages import read_name

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
_OWN_KEYS = ("name", "type", "description", "required")
ARGUMENTS_FORMAT = "Format the arguments as a JSON object."
# An agent that nobody configured: AgentFabric sends such a role for it, and ms_agent records name no persona.
UNNAMED = Role()

# ms-swift's own ReAct prompt of 2026 says "tools" and does not number them.
_HEADER = re.compile(
    r"^[ \t]*Answer the following questions as best you can\. You have access to the following (?:APIs|tools):", re.M
)
_LIST_END = re.compile(r"\s*(?:Use the following format:|\Z)")
_ITEM = re.compile(r"\s*(?:\d+\. )?(.+?):[ \n]")
_PARAMETERS = re.compile(r"Parameters:\s*")
_ITEM_END = re.compile(rf"[ .]*(?:{re.escape(ARGUMENTS_FORMAT)})?[ \t]*(?=\n|\Z)")
_FRAME = re.compile(r"\s*Call this tool to interact with the [^\n]*? API\.(\s*What is the [^\n]*? API useful for\?)?")

# The pieces of a trace begin lines. It is searched with a line break put before it, because a pattern that begins with
# one goes through long observations four times as fast as one that begins with `^`.
_CALL = re.compile(r"\n[ \t]*Action:([^\n]*)\n\s*Action Input:")
_RESULT = re.compile(r"\n[ \t]*Observation:")
_THOUGHT = re.compile(r"\n[ \t]*Thought:[ \t]*")
_FINAL = re.compile(r"\n[ \t]*Final Answer:")
_KNOWN_FINAL = re.compile(rf"\n[ \t]*(?:Thought:[ \t]*)?{FINAL_THOUGHT}\.?\s*Final Answer:")
_STRAY = re.compile(r"\n[^\S\n]*(?:Action|Action Input|Observation):")
_MARK = re.compile(rf"^[ \t]*(?:Thought|Action|Action Input|Observation|Final Answer|{FINAL_THOUGHT})", re.M)


def parse(row: Mapping[str, Any]) -> Dialogue:
    """The record as a Dialogue. Raises ValueError saying what in the record cannot be read."""
    messages = conversations.read(row)
    system = messages.pop(0)[1] if messages[0][0] == "system" else ""
    turns = tuple(read_turn(query, value) for query, value in conversations.pairs(messages))
    calls = [call for turn in turns for call in turn.calls]
    said, tools = _system(system, calls)
    return Dialogue(
        id=read_name(row, "id"),
        tools=tools,
        turns=turns,
        instruction=_instruction(said, row.get("instruction")),
        family=read_name(row, "family"),
    )


def render(dialogue: Dialogue) -> dict[str, Json]:
    """The Dialogue as an ms_agent record; `parse` is its inverse for all that the format holds.

    Raises ValueError for a dialogue with uploaded files, which a record cannot name.
    """
    messages = []
    if dialogue.tools:
        items = "\n\n".join(f"{number}. {_tool_item(tool)}" for number, tool in enumerate(dialogue.tools, 1))
        system = HEADER + items + FOOTER.format(names=", ".join(tool.name for tool in dialogue.tools))
        messages.append({"from": "system", "value": system})
    for turn in dialogue.turns:
        if turn.files:
            raise ValueError(
                f"ms_agent records cannot hold uploaded files: the query {turn.query[:60]!r} has {list(turn.files)}; "
                "give data.format=openai"
            )
        messages.append({"from": "user", "value": turn.query})
        messages.append({"from": "assistant", "value": _trace(turn)})
    record: dict[str, Json] = {"id": dialogue.id, "conversations": messages}
    said = system_text.spell(dialogue)
    if said or isinstance(dialogue.instruction, str):
        record["instruction"] = said
    if dialogue.family:
        record["family"] = dialogue.family
    return record


def _system(system: str, calls: list[Call]) -> tuple[str, tuple[Tool, ...]]:
    """What a system message says beside its tool list, and the tools listed."""
    header = _HEADER.search(system)
    if not header:
        return system, ()
    tools, end = _tools(system, header.end(), calls)
    around = system[: header.start()], system[end:].partition("\nBegin!")[2]
    return "\n".join(filter(None, map(str.strip, around))), tools


def _instruction(said: str, own: Any) -> str | Role:
    if own is not None and not isinstance(own, str):
        raise ValueError(f"'instruction' is {type(own).__name__}, not text: {own!r:.120}")
    if own is None:
        return said or UNNAMED
    return f"{said}\n{own}" if said and own else said or own


def read_turn(query: str, value: str) -> Turn:
    """A turn from its query and its trace. Raises ValueError saying what in the trace cannot be read.

    The trace ends at upstream's own last words, else at the first line that begins with `Final Answer:`; an observation
    may hold such a line before the former.
    """
    text = f"\n{value}"
    final = _KNOWN_FINAL.search(text) or _FINAL.search(text)
    trace = text[: final.start()] if final else text
    answer = text[final.end() :].strip() if final else ""
    pieces, thought = _pieces(trace)
    if not pieces:
        return Turn(query, (), _plain_answer(value, trace, answer))
    steps = [step for step, _ in pieces]
    # An empty result at the very end is one that was never written.
    missing = not final and not thought and not steps[-1].observation
    results = [has_result for _, has_result in pieces[:-1]] + [pieces[-1][1] and not missing]
    done = results.index(False) if False in results else len(steps)
    if any(results[done:]) or (final and done < len(steps)):
        raise ValueError(f"a call without a result is followed by more: to '{steps[done].call.name}', {value[-80:]!r}")
    if (final and not answer) or (not final and (thought or done == len(steps))):
        raise ValueError(f"the trace ends without a final answer: {value.strip()[-80:]!r}")
    return Turn(query, tuple(steps[:done]), answer, pending=tuple(steps[done:]))


def _plain_answer(value: str, trace: str, answer: str) -> str:
    """The answer of a turn without calls; a reply that only mentions `Final Answer:` stands whole."""
    thought = trace.lstrip().startswith("Thought:")
    if _STRAY.search(trace):
        raise ValueError(f"a step cannot be read: {value.strip()[:120]!r}")
    if not answer and (thought or not trace.strip()):
        raise ValueError(f"the trace ends without a final answer: {value.strip()[-80:]!r}")
    return answer if answer and (thought or not trace.strip()) else value.strip()


def _pieces(trace: str) -> tuple[list[tuple[Step, bool]], str]:
    """The calls of a trace, each with whether a result follows it, and the thought after the last."""
    calls = list(_CALL.finditer(trace))
    # Text before the first call is its thought, with or without the mark, since nothing else in a turn could hold it.
    thought = _thought(trace[: calls[0].start()]) if calls else ""
    pieces = []
    for number, call in enumerate(calls, 1):
        end = calls[number].start() if number < len(calls) else len(trace)
        result = _RESULT.search(trace, call.end(), end)
        after = _THOUGHT.search(trace, result.end() if result else call.end(), end)
        stop = after.start() if after else end
        arguments = values.read_arguments(trace[call.end() : result.start() if result else stop])
        observation = trace[result.end() : stop].strip() if result else ""
        pieces.append((Step(Call(call[1].strip(), arguments), observation, thought), result is not None))
        thought = _thought(trace[stop:end])
    return pieces, thought


def _thought(text: str) -> str:
    if _STRAY.search(text):
        raise ValueError(f"a step cannot be read: {text.strip()[:120]!r}")
    return text.strip().removeprefix("Thought:").strip()


def _tools(system: str, at: int, calls: list[Call]) -> tuple[tuple[Tool, ...], int]:
    """The tools listed from `at`, and the list's end; a type not given is read off the values in `calls`."""
    seen = {(call.name, key): value for call in calls for key, value in call.arguments.items()}
    tools: list[Tool] = []
    while not _LIST_END.match(system, at):
        item = _ITEM.match(system, at)
        if not item:
            raise ValueError(f"the tool list cannot be read: {system[at : at + 160].strip()!r} after tool {len(tools)}")
        name = item[1].strip()
        prose, parameters, end = _item_body(system, item.end(), name)
        if _holds_item(prose, len(tools) + 2):
            raise ValueError(f"a tool has no readable Parameters: '{name}'")
        dotted = not system.endswith(ARGUMENTS_FORMAT, at, end)
        tools.append(Tool(name, _description(prose, dotted=dotted), _schema(name, parameters, seen)))
        at = end
    return tuple(tools), at


def _item_body(system: str, start: int, name: str) -> tuple[str, Json, int]:
    """(prose, parameters, end) of a listed tool; the first `Parameters:` whose JSON ends its line ends the prose."""
    for mark in _PARAMETERS.finditer(system, start):
        try:
            parameters, end = values.DECODER.raw_decode(system, mark.end())
        except ValueError:
            continue
        except RecursionError as error:
            raise ValueError(f"values nested too deeply: in the parameters of tool '{name}'") from error
        tail = _ITEM_END.match(system, end)
        if tail and isinstance(parameters, list | dict):
            return system[start : mark.start()], parameters, tail.end()
    raise ValueError(f"a tool has no readable Parameters: '{name}'")


def _holds_item(prose: str, number: int) -> bool:
    """Whether the next tool begins in what should be one tool's prose."""
    return "\n\n" in prose and bool(
        re.search(rf"\n\n(?:{number}\. .+?:\s|.+?: Call this tool to interact with)", prose)
    )


def _description(prose: str, *, dotted: bool) -> str:
    """The tool's description without the frame that every record repeats ("useful for? DESCRIPTION.")."""
    frame = _FRAME.match(prose)
    described = (prose[frame.end() :] if frame else prose).strip()
    return described.removesuffix(".").strip() if dotted and frame and frame[1] else described


def _schema(tool: str, parameters: Json, seen: Mapping[tuple[str, str], Json]) -> dict[str, Json]:
    if isinstance(parameters, dict) and parameters:
        return parameters
    properties: dict[str, Json] = {}
    required = []
    for parameter in parameters:
        name = parameter.get("name") if isinstance(parameter, dict) else None
        if not isinstance(name, str) or name in properties:
            raise ValueError(f"a parameter has no name of its own: tool '{tool}', {parameter!r:.120}")
        extra = {key: value for key, value in parameter.items() if key not in _OWN_KEYS}
        kind = parameter.get("type") or json_type(seen.get((tool, name)))
        properties[name] = {"type": kind, "description": str(parameter.get("description") or ""), **extra}
        needed = str(parameter.get("required", False)).strip().lower()
        if needed not in ("true", "false"):
            raise ValueError(f"a parameter's 'required' is neither True nor False: tool '{tool}', {parameter!r:.120}")
        if needed == "true":
            required.append(name)
    return {"type": "object", "properties": properties, "required": required}


def _tool_item(tool: Tool) -> str:
    display = tool.name.replace("_", "")
    frame = f"{tool.name}: Call this tool to interact with the {display} API. What is the {display} API useful for? "
    listed = [
        {"name": name} | schema | {"name": name, "required": str(name in tool.required)}
        for name, schema in tool.properties.items()
    ]
    if _schema(tool.name, listed, {}) == tool.parameters:
        return f"{frame}{tool.description}. Parameters: {json.dumps(listed, ensure_ascii=False)}"
    # A schema that upstream's list cannot say in full is written as the later records of this family write every one.
    schema = json.dumps(tool.parameters, ensure_ascii=False)
    return f"{frame}{tool.description} Parameters: {schema} {ARGUMENTS_FORMAT}"


def _trace(turn: Turn) -> str:
    if not turn.steps and not turn.pending and not _MARK.search(turn.answer):
        return turn.answer
    done = [f"{_call(step)}Observation: {step.observation}\n" for step in turn.steps]
    if turn.pending:
        return "".join([*done, *map(_call, turn.pending)])
    return "".join(done) + f"Thought: {FINAL_THOUGHT}\nFinal Answer: {turn.answer}"


def _call(step: Step) -> str:
    thought = f"Thought: {step.thought}\n" if step.thought else ""
    return f"{thought}Action: {step.call.name}\nAction Input: {step.call.arguments!r}\n"
