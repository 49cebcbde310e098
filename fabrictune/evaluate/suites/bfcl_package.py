"""The PyPI package bfcl-eval: its questions, checkers and simulated APIs, without the SDKs that it asks for.

Of the package this imports the checkers and the APIs, which need nothing but mpmath. `bfcl_eval.utils`, which reads the
data there, makes three folders in site-packages when it is imported; the files are read here instead.
"""

from __future__ import annotations

import decimal
import importlib
import itertools
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from keyword import iskeyword
from types import ModuleType, SimpleNamespace
from typing import Any

from fabrictune.dialogue import Call, Json, Tool

PACKAGE = "bfcl_eval"
INSTALL = "make install"
CATEGORIES = (
    "simple_python",
    "simple_java",
    "simple_javascript",
    "multiple",
    "parallel",
    "parallel_multiple",
    "irrelevance",
    "live_simple",
    "live_multiple",
    "live_parallel",
    "live_parallel_multiple",
    "live_irrelevance",
    "live_relevance",
    "multi_turn_base",
    "multi_turn_miss_func",
    "multi_turn_miss_param",
    "multi_turn_long_context",
)
NOTE = " Note that the provided function is in {language} syntax."
OTHER_LANGUAGES = {"simple_java": "Java", "simple_javascript": "JavaScript"}  # whose arguments are written as strings
LATER = "I have updated some more functions you can choose from. What about now?"
# The package's own names of types, in any of its three languages, as JSON schema's; whatever else it says is a string.
JSON_TYPES = {
    "integer": "integer",
    "long": "integer",
    "Bigint": "integer",
    "number": "number",
    "float": "number",
    "double": "number",
    "boolean": "boolean",
    "Boolean": "boolean",
    "array": "array",
    "tuple": "array",
    "Array": "array",
    "ArrayList": "array",
    "dict": "object",
    "object": "object",
    "HashMap": "object",
}
# Arguments by which a call of the simulated calculator takes as long and as much memory as the model likes.
COSTLY = {
    "power": "exponent",
    "logarithm": "precision",
    "square_root": "precision",
    "round_number": "decimal_places",
}
COSTLY_BOUND = 100

_numbers = itertools.count()


@dataclass(frozen=True)
class Entry:
    """A question of the package. `truth` is its possible answer, None for a question that only asks whether to call.

    `turns` holds the messages of each user turn, `functions` what is on offer in the package's own form, `later` what
    is added at a turn (from 0); `scene` is the whole line, which sets the simulated APIs up.
    """

    id: str
    category: str
    turns: list[list[dict[str, str]]]
    functions: list[dict[str, Json]]
    truth: list[Json] | None
    later: Mapping[int, list[dict[str, Json]]]
    scene: dict[str, Json]


def read(category: str) -> list[Entry]:
    """All questions of a category, in the package's order. Raises RuntimeError where the package is not installed."""
    lines = _lines(f"BFCL_v4_{category}.json")
    judged = [] if category.endswith("relevance") else _lines(f"possible_answer/BFCL_v4_{category}.json")
    answers = {line["id"]: line["ground_truth"] for line in judged}
    return [_entry(category, line, answers.get(line["id"])) for line in lines]


def _entry(category: str, line: dict[str, Json], truth: list[Json] | None) -> Entry:
    named = list(line.get("function", ()))
    for api in line.get("involved_classes", ()):
        named += _documents()[api]
    missed = {int(turn): names for turn, names in line.get("missed_function", {}).items()}
    held = {name for names in missed.values() for name in names}
    later = {turn: [function for function in named if function["name"] in names] for turn, names in missed.items()}
    offered = [function for function in named if function["name"] not in held]
    return Entry(line["id"], category, line["question"], offered, truth, later, line)


@cache
def _documents() -> dict[str, list[dict[str, Json]]]:
    """What the package says of the functions of each simulated API, by its class."""
    names = _module(".constants.executable_backend_config").MULTI_TURN_FUNC_DOC_FILE_MAPPING
    return {api: _lines(f"multi_turn_func_doc/{name}") for api, name in names.items()}


def _lines(name: str) -> list[dict[str, Json]]:
    """The JSON lines of one of the package's files of data."""
    text = files(_module()).joinpath("data", *name.split("/")).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def tool(function: Mapping[str, Json], category: str) -> Tool:
    """The function as a tool of ours, with the words that the package adds to its description.

    A parameter of Java or JavaScript is a string there, in which the model writes an expression of that language.
    Raises ValueError if it is no tool.
    """
    foreign = OTHER_LANGUAGES.get(category)
    language = {"Java": "Java 8 SDK", "JavaScript": "JavaScript"}.get(foreign or "", "Python 3")
    shown = {
        name: _expression(schema, foreign) if foreign else _schema(schema)
        for name, schema in function["parameters"]["properties"].items()
    }
    required = [name for name in function["parameters"].get("required", []) if name in shown]
    parameters = {"type": "object", "properties": shown, "required": required}
    return Tool(function["name"], function["description"] + NOTE.format(language=language), parameters)


def _schema(schema: Mapping[str, Json]) -> dict[str, Json]:
    """A JSON schema for one in the package's words, at any depth."""
    shown = dict(schema) | {"type": JSON_TYPES.get(schema.get("type", ""), "string")}
    if isinstance(schema.get("properties"), dict):
        shown["properties"] = {name: _schema(inner) for name, inner in schema["properties"].items()}
    if isinstance(schema.get("items"), dict):
        shown["items"] = _schema(schema["items"])
    return shown


def _expression(schema: Mapping[str, Json], foreign: str) -> dict[str, Json]:
    kind = schema["type"]
    text = schema.get("description", "")
    if kind == "any":
        text += f" This parameter can be of any type of {foreign} object in string representation."
    else:
        text += f" This is {foreign} {kind} type parameter in string representation."
    if "items" in schema:
        text += f" The list elements are of type {schema['items']['type']}; they are not in string representation."
    if "properties" in schema:
        entries = json.dumps(schema["properties"])
        text += f" The dictionary entries have the following schema; they are not in string representation. {entries}"
    return {"type": "string", "description": text}


def check(
    functions: Sequence[Mapping[str, Json]], calls: Sequence[Call], truth: Sequence[Json], category: str
) -> str | None:
    """None if the package's syntax checker takes the calls for right, else the type of error it sees."""
    language = getattr(_module(".constants.enums").Language, OTHER_LANGUAGES.get(category, "Python").upper())
    made = [{call.name: call.arguments} for call in calls]
    # The checker compares what the model wrote without asking for its shape first: lists of numbers where it looks for
    # objects, integers beyond any float, lists nested a thousand deep.
    return _error(lambda: _ast_checker()(list(functions), made, list(truth), language, category, "any"))


def _error(judge: Callable[[], dict[str, Any]]) -> str | None:
    try:
        verdict = judge()
    except Exception as error:
        return f"the checker cannot read it: {type(error).__name__}"
    return None if verdict["valid"] else str(verdict["error_type"])


@cache
def _ast_checker() -> Callable[..., dict[str, Any]]:
    """The package's function of that name, imported without its table of models, for which it loads all vendors."""
    table = f"{PACKAGE}.constants.model_config"
    stub = ModuleType(table)
    vars(stub)["MODEL_CONFIG_MAPPING"] = defaultdict(lambda: SimpleNamespace(underscore_to_dot=False))
    before = sys.modules.get(table)
    sys.modules[table] = stub
    try:
        checker: Callable[..., dict[str, Any]] = _module(".eval_checker.ast_eval.ast_checker").ast_checker
    finally:
        del sys.modules[table]
        if before is not None:
            sys.modules[table] = before
    return checker


def _module(name: str = "") -> ModuleType:
    try:
        return importlib.import_module(PACKAGE + name)
    except ModuleNotFoundError as error:
        if error.name not in (PACKAGE, "mpmath"):
            raise
        raise RuntimeError(f"the suite bfcl needs the package bfcl-eval, which is not installed: {INSTALL}") from error


def call_text(call: Call) -> str:
    """The call as Python writes it, for the package, which evaluates it. Raises ValueError where it cannot be written.

    Only literals stand in it, and no opening parenthesis but the call's own: within a string the package would take
    `sort(` for a call and put the name of an object before it.
    """
    for name in (call.name, *call.arguments):
        if not name.isidentifier() or iskeyword(name):
            raise ValueError(f"{name!r} is no name in Python")
    costly = COSTLY.get(call.name)
    if costly in call.arguments and not _is_cheap(call.arguments[costly]):
        raise ValueError(f"{costly} is no number between -{COSTLY_BOUND} and {COSTLY_BOUND}")
    try:
        json.dumps(call.arguments, allow_nan=False)  # NaN and Infinity, which json reads, would be names in Python
        written = {name: repr(value).replace("(", r"\x28") for name, value in call.arguments.items()}
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return f"{call.name}({', '.join(f'{name}={literal}' for name, literal in written.items())})"


def _is_cheap(value: Json) -> bool:
    return isinstance(value, int | float) and abs(value) <= COSTLY_BOUND


class Apis:
    """The simulated APIs of a question, in the state that the calls so far have left them in."""

    def __init__(self, entry: Entry, name: str) -> None:
        self._entry, self._name = entry, name
        self.turns: list[list[list[str]]] = []

    def begin_turn(self) -> None:
        self.turns.append([])

    def run(self, call: Call) -> str:
        """What the call returns, as text. Raises ValueError where it cannot be written for the package."""
        text = call_text(call)
        self.turns[-1].append([text])
        execute = _module(".eval_checker.multi_turn_eval.multi_turn_utils").execute_multi_turn_func_call
        scene, category = self._entry.scene, self._entry.category
        with decimal.localcontext():  # the calculator sets the precision of all decimals
            results, _ = execute(
                func_call_list=[text],
                initial_config=scene["initial_config"],
                involved_classes=scene["involved_classes"],
                model_name=self._name,
                test_entry_id=self._entry.id,
                long_context="long_context" in category,
            )
        return str(results[0])

    def check(self) -> str | None:
        """None if the package's checker takes all turns for right, else the type of error it sees."""
        entry = self._entry
        checker = _module(".eval_checker.multi_turn_eval.multi_turn_checker").multi_turn_checker
        with decimal.localcontext():
            return _error(lambda: checker(self.turns, entry.truth, entry.scene, entry.category, self._name))


@contextmanager
def simulated(entry: Entry) -> Iterator[Apis]:
    """The question's APIs, fresh, apart from all others, and gone afterwards.

    The package keeps each as a global variable, named after the model and the question.
    """
    name = f"task{next(_numbers)}"
    kept = vars(_module(".eval_checker.multi_turn_eval.multi_turn_utils"))
    try:
        yield Apis(entry, name)
    finally:
        for variable in [variable for variable in kept if variable.startswith(f"{name}_")]:
            del kept[variable]
