"""Rows of the tutorial's conversion script: AgentFabric's system message over the turns of an ms_agent record.

The script writes the system message anew, with an empty role, breaks most of what it says about tools, and leaves
queries without the client's prefix and assistants with ms_agent's traces.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fabrictune.dialogue import Call, Dialogue, Json, Tool, json_type
from fabrictune.formats.captured_system import check_offer, read_role, read_systems
from fabrictune.formats.ms_agent import read_turn


def read_script_row(identity: str, text: str, said: Sequence[tuple[str, str]]) -> Dialogue:
    """The dialogue of a system message and (query, trace) pairs, its tools mended as far as calls show what they were.

    Raises ValueError for what cannot be read, and where a tool that is called was lost or got another's parameters.
    """
    systems = read_systems(text)
    if len(systems) > 1:
        raise ValueError(f"the system message can be read in two ways: {text[:120]!r}")
    system = systems[0]
    turns = tuple(read_turn(query, trace) for query, trace in said)
    check_offer(system.tools, turns, "a call to a tool that the row's tool list lost")
    calls = [call for turn in turns for call in turn.calls]
    tools = tuple(_mended(tool, calls) for tool in system.tools) if system.faulty else system.tools
    return Dialogue(identity, tools, turns, read_role(system, "") or system.persona, system.knowledge)


def _mended(tool: Tool, calls: Iterable[Call]) -> Tool:
    """The tool with what the tutorial's script lost of its schema, as far as calls show it.

    The script keeps a tool's first parameter only, as a string, and of several it never says that one is required. So
    parameters that calls give are added, and types are read off their values. Where parameters were lost, those that
    every call gives become required: a later call then still gives all that its tool requires, and ms_agent's tools
    require most of theirs. Of a single parameter the script keeps `required`, and so do we.
    A call without a required parameter shows the worst fault: a tool without parameters was given the next one's.
    """
    given = [call.arguments for call in calls if call.name == tool.name]
    for arguments in given:
        missing = sorted(set(tool.required) - set(arguments))
        if missing:
            raise ValueError(f"a call lacks what its tool requires: '{tool.name}' without {missing}")
    names = list(dict.fromkeys([*tool.properties, *(name for arguments in given for name in arguments)]))
    values = {name: [arguments[name] for arguments in given if name in arguments] for name in names}
    properties = {
        name: {"type": _type(values[name]), "description": tool.properties.get(name, {}).get("description", "")}
        for name in names
    }
    lost = len(names) > len(tool.properties) and not tool.required
    required = [name for name in names if len(values[name]) == len(given)] if lost else tool.required
    return Tool(tool.name, tool.description, {"type": "object", "properties": properties, "required": required})


def _type(values: Iterable[Json]) -> str:
    """The type of all values that are not null; "string", which the script writes, where they have none in common."""
    types = {json_type(value) for value in values if value is not None}
    if types == {"integer", "number"}:
        return "number"
    return types.pop() if len(types) == 1 else "string"
