"""Every error message of ours, read from the code: what `raise` is given, with `…` where a value stands.

The code is read, never run. A text that is put together elsewhere is followed to where it is written: to what a name is
given in its function, to a parameter's values at the calls, to what a function of the package returns or yields, to a
constant. A list of texts stands for each of them. What cannot be followed is one of PASSED_ON.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GAP = "…"

# Of the values in a text those with these names are words of ours, so they are followed; a value of any other name is
# a gap, unless the text has no words beside it.
SPOKEN = ("problem", "reason", "what", "need", "way_out")
# What these give reaches a user without being raised, and how.
SAID = {
    "fabrictune.convert.rows.Converter._lost": "why a row is kept in part",
    "fabrictune.convert.rows._reason": "why a row is left out",
    "fabrictune.convert.reading._with_doubles": "why a row is left out",
    "fabrictune.formats.captured_conversations.NOT_IN_LOG": "why a turn is left out",
    "fabrictune.formats.captured_conversations.CHANGED": "why a turn is left out",
    "fabrictune.train.estimates.problems": "what dry_run=true prints as refused",
}
# What raises a text that is not its own, and whose it is.
PASSED_ON = {
    "fabrictune.evaluate.endpoints._Endpoint.send.attempt": "the openai client's, told on by `refusal`",
    "fabrictune.formats.captured_openai.read": "that of the format openai",
    "fabrictune.log.errors_in_one_sentence": "none: the exit code of an error that has been printed",
    "fabrictune.serve.grammars.grammar": "xgrammar's, told on by the sentence that refuses the tools",
    "fabrictune.serve.registering.register": "that of model_config, with its file before it",
    "fabrictune.sources.files._Text.value": "json's, told on by `records` as what is broken",
    "fabrictune.sources.hubs._from_huggingface": "huggingface_hub's, told on by `fetch`",
    "fabrictune.sources.hubs._from_modelscope": "modelscope_hub's, told on by `fetch`",
    "fabrictune.train.launching._outcome": "that of the rank that stopped, as training says it",
    "fabrictune.train.ranks.stopping.hear": "none: an exit code, or an interrupt",
    "fabrictune.train.tokens._named": "that of dialogue or encoding, with its line before it",
}

_DEEPEST = 12  # names and functions followed one after the other
_SAME_TEXT = ("strip", "rstrip", "lstrip", "removesuffix", "removeprefix", "with_traceback", "values")
_ADDED = ("append", "extend", "setdefault")
_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp  # whose names are its own


@dataclass(frozen=True)
class Message:
    """`text` as a user reads it, values left out; `place` is file and line."""

    text: str
    place: str


def of_code(root: Path = ROOT) -> list[Message]:
    """The messages of the package and of the five scripts, by files and lines; equal ones from each of their places."""
    code = _code(root)
    return [*dict.fromkeys(one for raised in code.raised() for one in raised.messages), *code.said(SAID)]


def not_followed(root: Path = ROOT) -> dict[str, str]:
    """The functions that raise something whose words cannot be found in the code, with the place."""
    return {raised.function: raised.place for raised in _code(root).raised() if raised.is_unknown}


def shown(node: ast.expr) -> str:
    """An expression's text by itself, with a gap for whatever is not written there."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(shown(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return shown(node.left) + shown(node.right)
    return GAP


def has_words(text: str) -> bool:
    """Whether a text says something, and is not made of gaps and marks alone."""
    return bool(re.search(r"[^\W\d_]{2}", text))


@dataclass(frozen=True)
class Raised:
    """One `raise`: the function that it stands in, its messages; none of a text that `is_unknown`, or of an exit."""

    function: str
    place: str
    messages: tuple[Message, ...]
    is_unknown: bool


class Scope:
    """A module, and in it the classes, functions and comprehensions around a place, the innermost last."""

    def __init__(self, module: Module, around: Sequence[ast.AST] = ()) -> None:
        self.module = module
        self.around = tuple(around)

    def inside(self, node: ast.AST) -> Scope:
        return Scope(self.module, (*self.around, node))

    @property
    def functions(self) -> list[_Function]:
        return [node for node in self.around if isinstance(node, _Function)]

    @property
    def name(self) -> str:
        return ".".join([self.module.name, *(node.name for node in self.around if hasattr(node, "name"))])


class Module:
    """A file of the code: its functions by name (methods under theirs alone), its constants, what it imports."""

    def __init__(self, file: Path, root: Path) -> None:
        self.path = str(file.relative_to(root))
        self.name = ".".join(file.relative_to(root).with_suffix("").parts)
        self.tree = ast.parse(file.read_text(encoding="utf-8"))
        self.nodes = list(_walk(self.tree, Scope(self)))
        self.functions: dict[str, tuple[ast.FunctionDef | ast.AsyncFunctionDef, Scope]] = {}
        self.constants: dict[str, ast.expr] = {}
        self.imports: dict[str, tuple[str, str]] = {}  # name here -> (module, name there), "" for the module itself
        for node, scope in self.nodes:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                self.functions.setdefault(node.name, (node, scope.inside(node)))
            elif isinstance(node, ast.Assign) and not scope.functions:
                self.constants |= {target.id: node.value for target in node.targets if isinstance(target, ast.Name)}
            elif isinstance(node, ast.AnnAssign) and not scope.functions and isinstance(node.target, ast.Name):
                self.constants |= {node.target.id: node.value} if node.value else {}
            elif isinstance(node, ast.ImportFrom):
                self.imports |= {one.asname or one.name: (node.module or "", one.name) for one in node.names}


class Code:
    """Files that may call each other."""

    def __init__(self, files: Iterable[Path], root: Path) -> None:
        self.modules = {module.name: module for module in (Module(file, root) for file in files)}

    def raised(self) -> Iterator[Raised]:
        """What each `raise` says, but for those that raise what was caught."""
        for module in self.modules.values():
            for node, scope in module.nodes:
                if not isinstance(node, ast.Raise) or node.exc is None or isinstance(node.exc, ast.Name):
                    continue
                place = f"{module.path}:{node.lineno}"
                texts = list(dict.fromkeys(self._thrown(node.exc, scope)))
                messages = tuple(Message(text, place) for text in texts if has_words(text))
                yield Raised(scope.name, place, messages, bool(texts) and not messages)

    def said(self, names: Iterable[str]) -> Iterator[Message]:
        """What functions return, yield or collect, and what constants hold, by their full names."""
        for full in names:
            module = max((one for one in self.modules if full.startswith(f"{one}.")), key=len)
            own, name = self.modules[module], full.rpartition(".")[2]
            node: ast.AST
            if name in own.functions:
                node, scope = own.functions[name]
                texts = list(self._given_back(node, scope, 0))
            else:
                node = own.constants[name]
                texts = list(self._texts(own.constants[name], Scope(own), 0))
            place = f"{own.path}:{node.lineno}"
            yield from (Message(text, place) for text in dict.fromkeys(texts) if has_words(text))

    @cached_property
    def _calls(self) -> dict[str, list[tuple[ast.Call, Scope]]]:
        """The calls of functions and methods, by their bare names."""
        found: dict[str, list[tuple[ast.Call, Scope]]] = {}
        for module in self.modules.values():
            for node, scope in module.nodes:
                if isinstance(node, ast.Call) and (name := _bare_name(node.func)):
                    found.setdefault(name, []).append((node, scope))
                    if name == "partial" and node.args and (name := _bare_name(node.args[0])):
                        rest = ast.Call(node.args[0], node.args[1:], node.keywords)
                        found.setdefault(name, []).append((rest, scope))
        return found

    def _thrown(self, node: ast.expr, scope: Scope) -> Iterator[str]:
        """The texts of what is raised: an exception that is made here, or by a function of ours."""
        if isinstance(node, ast.Call) and _bare_name(node.func) not in _SAME_TEXT and not self._function(node, scope):
            for argument in node.args:
                yield from self._texts(argument, scope, 0)
            return
        yield from self._texts(node, scope, 0)

    def _texts(self, node: ast.expr, scope: Scope, depth: int) -> Iterator[str]:
        """All that a text, or each text of a collection, can be; nothing for what is no text, a gap if nobody knows."""
        if depth > _DEEPEST:
            yield GAP
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, str):
                yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield from self._joined(node, scope, depth)
        elif isinstance(node, ast.BinOp):
            yield from self._sum(node, scope, depth)
        elif isinstance(node, ast.Name):
            yield from self._named(node.id, scope, depth)
        elif isinstance(node, ast.Call):
            yield from self._called(node, scope, depth)
        elif isinstance(node, ast.Attribute):
            yield from self._constant_of(node, scope, depth)
        elif parts := _parts(node):
            inner = scope.inside(node) if isinstance(node, _Comprehension) else scope
            for part in parts:
                yield from self._texts(part, inner, depth)
        elif not isinstance(node, ast.Compare | ast.Dict | ast.List | ast.Tuple):
            yield GAP

    def _joined(self, node: ast.JoinedStr, scope: Scope, depth: int) -> Iterator[str]:
        has_own = has_words(shown(node))
        parts: list[list[str]] = []
        for part in node.values:
            value = part.value if isinstance(part, ast.FormattedValue) else None
            is_followed = isinstance(value, ast.Name) and (value.id in SPOKEN or not has_own)
            if value is None:
                parts.append([shown(part)])
            elif is_followed or isinstance(value, ast.JoinedStr):
                parts.append(list(dict.fromkeys(self._texts(value, scope, depth + 1))) or [GAP])
            else:
                parts.append([GAP])
        yield from map("".join, itertools.product(*parts))

    def _sum(self, node: ast.BinOp, scope: Scope, depth: int) -> Iterator[str]:
        """Texts one behind the other, or lists of texts."""
        if not isinstance(node.op, ast.Add):
            return
        sides = [list(self._texts(side, scope, depth)) for side in (node.left, node.right)]
        is_text = isinstance(node.left, ast.JoinedStr | ast.Constant) or isinstance(node.right, ast.JoinedStr)
        yield from map("".join, itertools.product(*sides)) if is_text else itertools.chain(*sides)

    def _named(self, name: str, scope: Scope, depth: int) -> Iterator[str]:
        for place in range(len(scope.around), 0, -1):
            around, inner = scope.around[place - 1], Scope(scope.module, scope.around[:place])
            given = [] if isinstance(around, ast.ClassDef) else list(_given(name, around))
            for value in given:
                yield from self._texts(value, inner, depth + 1) if value else (GAP,)
            if given:
                return
            parameters = _parameters(around) if isinstance(around, _Function) else []
            if name in parameters:
                yield from self._passed(name, parameters, around, depth)
                return
        if name in scope.module.constants:
            yield from self._texts(scope.module.constants[name], Scope(scope.module), depth + 1)
        elif (found := self._imported(name, scope.module)) and found[1] in found[0].constants:
            yield from self._texts(found[0].constants[found[1]], Scope(found[0]), depth + 1)
        else:
            yield GAP

    def _passed(self, name: str, parameters: list[str], function: ast.AST, depth: int) -> Iterator[str]:
        """What the calls of a function give as one of its parameters."""
        own = getattr(function, "name", "")
        values = [
            (value, around)
            for call, around in self._calls.get(own, ())
            if (found := self._function(call, around)) and found[0] is function
            for value in _argument(call, name, [one for one in parameters if one not in ("self", "cls")])
        ]
        for value, around in values:
            yield from self._texts(value, around, depth + 1)
        if not values:
            yield GAP

    def _called(self, node: ast.Call, scope: Scope, depth: int) -> Iterator[str]:
        name = _bare_name(node.func)
        if isinstance(node.func, ast.Attribute) and name == "join":
            if isinstance(node.func.value, ast.Constant) and node.func.value.value in ("; ", "\n"):
                yield from self._texts(node.args[0], scope, depth)
            else:
                yield GAP
        elif isinstance(node.func, ast.Attribute) and name in _SAME_TEXT:
            yield from self._texts(node.func.value, scope, depth)
        elif isinstance(node.func, ast.Attribute) and name == "get":
            yield GAP
        elif name in ("str", "list", "tuple", "sorted", "filter", "max", "min"):
            for argument in node.args:
                yield from self._texts(argument, scope, depth)
        elif found := self._function(node, scope):
            yield from self._given_back(*found, depth + 1)
        elif name and name[:1].isupper() or name.startswith("_") and name[1:2].isupper():
            for argument in node.args:
                yield from self._texts(argument, scope, depth)
        else:
            yield GAP

    def _given_back(self, function: ast.AST, scope: Scope, depth: int) -> Iterator[str]:
        """The texts that a function returns, or the exception with them, or yields."""
        if depth > _DEEPEST:
            return
        for node in _own_nodes(function):
            if isinstance(node, ast.Return | ast.Yield | ast.YieldFrom) and node.value is not None:
                yield from self._texts(node.value, scope, depth)

    def _constant_of(self, node: ast.Attribute, scope: Scope, depth: int) -> Iterator[str]:
        found = self._module_of(node.value, scope.module)
        if found and node.attr in found.constants:
            yield from self._texts(found.constants[node.attr], Scope(found), depth + 1)
        else:
            yield GAP

    def _function(self, call: ast.Call, scope: Scope) -> tuple[ast.FunctionDef | ast.AsyncFunctionDef, Scope] | None:
        """The function of ours that is called, if it is one."""
        if isinstance(call.func, ast.Attribute):
            if isinstance(call.func.value, ast.Name) and call.func.value.id in ("self", "cls"):
                return scope.module.functions.get(call.func.attr)
            found = self._module_of(call.func.value, scope.module)
            return found.functions.get(call.func.attr) if found else None
        if not isinstance(call.func, ast.Name):
            return None
        if call.func.id in scope.module.functions:
            return scope.module.functions[call.func.id]
        there = self._imported(call.func.id, scope.module)
        return there[0].functions.get(there[1]) if there else None

    def _imported(self, name: str, module: Module) -> tuple[Module, str] | None:
        source, there = module.imports.get(name, ("", ""))
        return (self.modules[source], there) if source in self.modules else None

    def _module_of(self, node: ast.expr, module: Module) -> Module | None:
        source, there = module.imports.get(node.id, ("", "")) if isinstance(node, ast.Name) else ("", "")
        return self.modules.get(f"{source}.{there}")


@cache  # reading it takes two seconds
def _code(root: Path) -> Code:
    """The package and the scripts."""
    return Code([*sorted(root.glob("*.py")), *sorted((root / "fabrictune").rglob("*.py"))], root)


def _walk(tree: ast.AST, outer: Scope) -> Iterator[tuple[ast.AST, Scope]]:
    """All nodes below, in their order, each with the classes, functions and comprehensions around it."""
    waiting: list[tuple[ast.AST, Scope]] = [(node, outer) for node in ast.iter_child_nodes(tree)][::-1]
    while waiting:
        node, scope = waiting.pop()
        yield node, scope
        if not isinstance(node, ast.Constant | ast.Name):
            inner = scope.inside(node) if isinstance(node, ast.ClassDef | _Function | _Comprehension) else scope
            waiting += [(child, inner) for child in ast.iter_child_nodes(node)][::-1]


@cache
def _own_nodes(function: ast.AST) -> tuple[ast.AST, ...]:
    """All nodes of a function but those of functions in it."""
    found: list[ast.AST] = []
    waiting = list(ast.iter_child_nodes(function))[::-1]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, _Function):
            found.append(node)
            waiting += list(ast.iter_child_nodes(node))[::-1]
    return tuple(found)


def _bare_name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _parts(node: ast.expr) -> list[ast.expr]:
    """The expressions of which this one is one or all, if they are texts; a slice of a text counts as the text."""
    if isinstance(node, ast.IfExp):
        return [node.body, node.orelse]
    if isinstance(node, ast.BoolOp):
        return node.values
    if isinstance(node, ast.NamedExpr | ast.Starred | ast.Subscript):
        return [node.value]
    if isinstance(node, ast.List | ast.Tuple):
        return node.elts
    if isinstance(node, ast.Dict):
        return node.values
    if isinstance(node, ast.ListComp | ast.GeneratorExp | ast.SetComp):
        return [node.elt]
    return [node.value] if isinstance(node, ast.DictComp) else []


def _given(name: str, around: ast.AST) -> Iterator[ast.expr | None]:
    """What a function or comprehension gives a name, or puts into it; None for what is no expression of its own."""
    if isinstance(around, _Comprehension):
        for each in around.generators:
            yield from _matched(name, each.target, each.iter, is_each=True)
        return
    for node in _own_nodes(around):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                yield from _matched(name, target, node.value)
        elif isinstance(node, ast.AugAssign | ast.AnnAssign | ast.NamedExpr) and node.value is not None:
            yield from _matched(name, node.target, node.value)
        elif isinstance(node, ast.For):
            yield from _matched(name, node.target, node.iter, is_each=True)
        elif isinstance(node, ast.ExceptHandler) and node.name == name:
            yield None
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _ADDED:
            is_into = isinstance(node.func.value, ast.Name) and node.func.value.id == name
            yield from node.args[-1:] if is_into else ()


def _matched(name: str, target: ast.expr, value: ast.expr, is_each: bool = False) -> Iterator[ast.expr | None]:
    """What of a value the name takes, as the target or part of it."""
    if isinstance(target, ast.Name):
        if target.id == name:
            yield value
    elif isinstance(target, ast.Subscript):
        yield from _matched(name, target.value, value)
    elif isinstance(target, ast.Tuple | ast.List):
        rows = value.elts if is_each and isinstance(value, ast.Tuple | ast.List) else [value]
        for place, one in enumerate(target.elts):
            for row in rows:
                fits = isinstance(row, ast.Tuple | ast.List) and len(row.elts) == len(target.elts)
                taken = row.elts[place] if fits else None  # type: ignore[attr-defined]
                if taken is not None:
                    yield from _matched(name, one, taken)
                elif isinstance(one, ast.Name) and one.id == name:
                    yield None


def _parameters(function: _Function) -> list[str]:
    arguments = function.args
    return [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]


def _argument(call: ast.Call, name: str, parameters: list[str]) -> Iterator[ast.expr]:
    yield from (keyword.value for keyword in call.keywords if keyword.arg == name)
    if name in parameters and parameters.index(name) < len(call.args):
        yield call.args[parameters.index(name)]
