"""Values that stand in data as text: JSON, a Python literal, or the mixture of the two that models write."""

from __future__ import annotations

import ast
import json
import math
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, ClassVar

from fabrictune.dialogue import Json


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


# JSON whose strings may hold raw line breaks, as models write them; NaN and the infinities are none.
DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite, strict=False)


def read(text: str) -> Json:
    """The JSON value of a text in JSON or as a Python literal, the two mixed also. Raises ValueError if it is neither.

    A tuple becomes a list, a key a string; JSON strings may hold raw line breaks.
    """
    text = text.strip()
    try:
        # Python writes a dict with single quotes, so the first key tells which of the two is worth trying first.
        if not text.startswith(("{'", "[{'")):
            with suppress(ValueError):
                return DECODER.decode(text)
        elif '"' not in text and "\\" not in text:
            # Without either, every single quote delimits a string; reading that as JSON takes a third of the time.
            with suppress(ValueError):
                return DECODER.decode(text.replace("'", '"'))
        return as_json(_literal(text))
    except RecursionError as error:
        raise ValueError(f"values nested too deeply: {text[:120]!r}") from error


def read_cell(value: Json) -> Json:
    """The value, or what its text says, as in tables whose cells are all text; None where the text is blank."""
    if not isinstance(value, str):
        return value
    return read(value) if value.strip() else None


def read_list(row: Mapping[str, Any], key: str, of: str) -> list[Json]:
    """The list under a key, as such or as text, [] where there is nothing.

    Raises ValueError that begins with the key if it is no list; `of` says in it what the list should hold.
    """
    try:
        value = read_cell(row.get(key))
    except ValueError as error:
        raise ValueError(f"{key} is no list of {of}: {error}") from error
    if not isinstance(value, list | None):
        raise ValueError(f"{key} is no list of {of}: {value!r}"[:200])
    return value or []


def is_empty(value: Json) -> bool:
    """Whether there is nothing in a cell, which may say that in text."""
    return not value or (isinstance(value, str) and value.strip() in ("", "[]", "{}", "null", "None"))


def read_arguments(value: Any) -> dict[str, Json]:
    """The arguments of a call by parameter name, from their text or values; nothing, None and [] mean none.

    Raises ValueError if that gives no object of JSON values.
    """
    if not isinstance(value, str):
        value = as_json(value)
    elif not value.strip():
        return {}
    else:
        try:
            value = read(value)
        except ValueError as error:
            raise ValueError(f"arguments cannot be read: {error}") from error
    if value in ([], None, ""):
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"arguments are no object by parameter name: {value!r}"[:200])
    return value


def as_json(value: Any) -> Json:
    """The value with lists for tuples and text for keys. Raises ValueError for what JSON does not hold, such as NaN."""
    try:
        # json joins the two halves of a character that JSON escapes (\ud83d\ude00) and Python leaves apart.
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"a value that JSON does not hold: {error} in {value!r}"[:200]) from error


def _literal(text: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python keeps an unknown escape (\d) as it stands; a warning adds nothing
            tree = ast.parse(text, mode="eval")
        try:
            return ast.literal_eval(tree)
        except ValueError:
            return ast.literal_eval(_JsonWords().visit(tree))
    except (ValueError, TypeError, SyntaxError, MemoryError) as error:
        raise ValueError(f"neither JSON nor a Python literal: {text[:120]!r}") from error


class _JsonWords(ast.NodeTransformer):
    """Reads the words of JSON inside a Python literal, as models mix them; those that it refuses, `as_json` names."""

    words: ClassVar[dict[str, bool | float | None]] = {
        "true": True,
        "false": False,
        "null": None,
        "NaN": math.nan,
        "Infinity": math.inf,
    }

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.copy_location(ast.Constant(self.words[node.id]), node) if node.id in self.words else node
