"""Tools and calls as JSON, in the spellings that function-calling data uses, <-> Tool and Call.

A tool is {"name", "description", "parameters"}, bare or as {"type": "function", "function": {...}}. What Tool does not
hold is left out: `strict`, what the tool returns, and whatever else stands beside those three keys.

Repairs: text in place of JSON values, also as a Python literal; no parameters at all; `properties` missing from a
schema of type object; `required` as null, beside the schema, or as a boolean inside a property; type names of Python
(`str`, `List[int]`, `dict`, `Optional[float]`, ...) in place of JSON schema's; parameters as a mapping of names to
schemas (xLAM) or as a list of named ones (qwen-agent). In an xLAM mapping that does not say what is required, a
parameter is unless it has a default or its type says "optional"; in a list, it is not. Types that are neither JSON
schema's nor known from Python stand as they are found, but not as the items of a list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fabrictune.dialogue import JSON_TYPES, Call, Json, Tool
from fabrictune.formats import values

_PYTHON_TYPES = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "double": "number",
    "bool": "boolean",
    "list": "array",
    "tuple": "array",
    "set": "array",
    "sequence": "array",
    "iterable": "array",
    "dict": "object",
    "mapping": "object",
}
_WITHOUT_TYPE = ("any",)


def read_calls(value: Json) -> list[Call]:
    """The calls in an object {"name", "arguments"}, in a list of such, or in the text of either."""
    if isinstance(value, str):
        value = values.read(value)
    return [read_call(one) for one in (value if isinstance(value, list) else [value])]


def read_call(value: Json) -> Call:
    """The call in an object {"name", "arguments" | "parameters"}, whose arguments may be text."""
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise ValueError(f"a call is no object with a name: {value!r}"[:200])
    return Call(value["name"], values.read_arguments(value.get("arguments", value.get("parameters"))))


def write_call(call: Call) -> dict[str, Json]:
    return {"name": call.name, "arguments": call.arguments}


def read_tools(value: Json) -> tuple[Tool, ...]:
    """The tools in a list, a single object, or the text of either; none where there is nothing."""
    if isinstance(value, str):
        value = values.read(value) if value.strip() else None
    if value is None:
        return ()
    return tuple(_tool(one) for one in (value if isinstance(value, list) else [value]))


def write_tool(tool: Tool) -> dict[str, Json]:
    return {"name": tool.name, "description": tool.description, "parameters": tool.parameters}


def _tool(value: Json) -> Tool:
    if isinstance(value, str):
        value = values.read(value)
    if isinstance(value, Mapping) and isinstance(value.get("function"), Mapping):
        value = value["function"]
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise ValueError(f"a tool is no object with a name: {value!r}"[:200])
    name, description = value["name"], value.get("description")
    if not isinstance(description, str | None):
        raise ValueError(f"a tool's description is no text: '{name}' has {description!r}"[:200])
    return Tool(name, description or "", _parameters(name, value.get("parameters"), value.get("required")))


def _parameters(tool: str, value: Json, required: Json) -> dict[str, Json]:
    if isinstance(value, str) and value.strip():
        value = values.read(value)
    if not value:
        return {"type": "object", "properties": {}, "required": []}
    if _refers(value):
        raise ValueError(f"a parameter schema is a reference: tool '{tool}' has {value}"[:200])
    if isinstance(value, list):
        value = _mapping_of(tool, value)
    if not isinstance(value, dict):
        raise ValueError(f"the parameters of a tool are no object: '{tool}' has {value!r}"[:200])
    if isinstance(value.get("type"), str) or _has_schemas(value.get("properties")):
        return _completed(tool, value, required)
    if not all(isinstance(schema, dict) for schema in value.values()):
        raise ValueError(f"the parameters of a tool are no JSON schema: '{tool}' has {value}"[:200])
    return {
        "type": "object",
        "properties": {name: _property(schema) for name, schema in value.items()},
        "required": [name for name, schema in value.items() if _is_required(schema)],
    }


def _has_schemas(properties: Json) -> bool:
    """Whether this is what stands under `properties` in a schema, and no parameter of that name in an xLAM mapping."""
    return isinstance(properties, dict) and all(isinstance(one, dict) for one in properties.values())


def _refers(schema: Json) -> bool:
    """Whether a schema in it is {"$ref": ...}; a parameter of that name has a schema there, not text."""
    if isinstance(schema, dict):
        return isinstance(schema.get("$ref"), str) or any(map(_refers, schema.values()))
    return isinstance(schema, list) and any(map(_refers, schema))


def _mapping_of(tool: str, parameters: list[Json]) -> dict[str, Json]:
    if not all(isinstance(one, dict) and isinstance(one.get("name"), str) for one in parameters):
        raise ValueError(f"a parameter in a list has no name: tool '{tool}' has {parameters}"[:200])
    return {one["name"]: {"required": False} | {k: v for k, v in one.items() if k != "name"} for one in parameters}


def _completed(tool: str, schema: dict[str, Json], required: Json) -> dict[str, Json]:
    """A JSON schema of an object with `properties`, and with `required` as a list if at all."""
    kind = "object" if schema.get("type") is None else schema["type"]
    if not isinstance(kind, str) or _json_type(kind).get("type") != "object":
        raise ValueError(f"the parameters of a tool are no object: '{tool}' has a schema of type '{kind}'"[:200])
    properties = schema.get("properties") or {}
    if not _has_schemas(properties):
        raise ValueError(f"the properties of a schema are no schemas by name: tool '{tool}' has {properties}"[:200])
    given = {key: value for key, value in schema.items() if key != "required" or value is not None}
    flagged = [name for name, one in properties.items() if _flag(one)]
    if "required" not in given and (isinstance(required, list) or flagged):
        given["required"] = required if isinstance(required, list) else flagged
    return given | {
        "type": "object",
        "properties": {name: _property(one) for name, one in properties.items()},
    }


def _property(schema: dict[str, Json]) -> dict[str, Json]:
    """A parameter's schema with the type names of JSON schema, in nested schemas too."""
    kept = {key: value for key, value in schema.items() if not (key == "required" and isinstance(value, bool | str))}
    if isinstance(kind := kept.get("type"), str) and kind not in JSON_TYPES:
        kept = _replaced(kept, _json_type(kind))
    if isinstance(kept.get("items"), dict):
        kept["items"] = _property(kept["items"])
    if isinstance(inner := kept.get("properties"), dict):
        kept["properties"] = {key: _property(one) if isinstance(one, dict) else one for key, one in inner.items()}
    return kept


def _replaced(schema: dict[str, Json], kind: dict[str, Json]) -> dict[str, Json]:
    """The schema with `kind` where its type stood; what it says itself about items goes first."""
    result: dict[str, Json] = {}
    for key, value in schema.items():
        result |= {k: v for k, v in kind.items() if k == "type" or k not in schema} if key == "type" else {key: value}
    return result


def _json_type(text: str) -> dict[str, Json]:
    """The type, with its items' if it names them, as a piece of a JSON schema; {} for any type at all."""
    name, inner = _split_type(text)
    if name in _WITHOUT_TYPE:
        return {}
    if name == "optional" and inner:
        return _json_type(inner)
    kind = name if name in (*JSON_TYPES, "null") else _PYTHON_TYPES.get(name)
    if kind is None:
        return {"type": text}
    items = _json_type(inner) if kind == "array" and inner else {}
    return {"type": kind, "items": items} if items.get("type") in JSON_TYPES else {"type": kind}


def _split_type(text: str) -> tuple[str, str]:
    """("list", "int") of "List[int], optional"; the name in lower case."""
    bare = re.sub(r",\s*(optional|required|default\b.*)\s*$", "", text.strip(), flags=re.IGNORECASE)
    found = re.fullmatch(r"(?:typing\.)?(\w+)(?:\[(.*)\])?", bare, re.DOTALL)
    return (found[1].lower(), (found[2] or "").strip()) if found else (bare.lower(), "")


def _is_required(schema: Mapping[str, Any]) -> bool:
    flag, kind = _flag(schema), schema.get("type")
    if flag is not None:
        return flag
    return "default" not in schema and not (isinstance(kind, str) and "optional" in kind.lower())


def _flag(schema: Mapping[str, Any]) -> bool | None:
    """What the schema of a parameter says itself about being required, None for nothing."""
    flag = schema.get("required")
    return str(flag).strip().lower() == "true" if isinstance(flag, bool | str) else None
