"""A user's own turn in the leaderboard's terms: its category, its tools, and its calls as the possible answers."""

from __future__ import annotations

from collections.abc import Sequence

from fabrictune.dialogue import Call, Json, Tool, Turn, json_type

TYPES = {"number": "float", "object": "dict"}  # the leaderboard's words where they are not JSON schema's


def category(turn: Turn, offered: int) -> str:
    """The leaderboard's category for a turn, by the calls due and the number of tools on offer."""
    several = "_multiple" if offered > 1 else ""
    if not turn.calls:
        return "user_irrelevance"
    if len(turn.calls) == 1:
        return f"user{several or '_simple'}"
    return f"user_parallel{several}"


def function(tool: Tool, calls: Sequence[Call]) -> dict[str, Json]:
    """The tool in the package's words, as far as the expected calls use it: its checker knows no other arguments."""
    uses = [call.arguments for call in calls if call.name == tool.name]
    used = {name: value for arguments in uses for name, value in arguments.items()}
    properties = {name: _parameter(value, tool.properties.get(name, {}).get("type")) for name, value in used.items()}
    required = [name for name in tool.required if uses and all(name in arguments for arguments in uses)]
    return {"name": tool.name, "parameters": {"type": "dict", "properties": properties, "required": required}}


def _parameter(value: Json, declared: Json) -> dict[str, Json]:
    """A parameter's schema by its expected value; a whole number may stand for one that the tool declares as number."""
    kind = "number" if declared == "number" and json_type(value) == "integer" else json_type(value)
    schema: dict[str, Json] = {"type": TYPES.get(kind, kind)}
    if isinstance(value, list):
        kinds = [json_type(item) for item in value] or ["string"]
        first = "number" if "number" in kinds else kinds[0]
        schema["items"] = {"type": TYPES.get(first, first)}
    return schema


def answer(call: Call) -> dict[str, Json]:
    """The possible answers that accept the call and no other: each value alone."""
    return {call.name: {name: [_accepted(value)] for name, value in call.arguments.items()}}


def _accepted(value: Json) -> Json:
    """The value as a possible answer: an object has a list of values for each key there."""
    if isinstance(value, dict):
        return {key: [inner] for key, inner in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [_accepted(item) for item in value]
    return value
