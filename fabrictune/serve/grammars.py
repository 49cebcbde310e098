"""The tools on offer -> what a server lets a model write: calls that name one of them.

Grammars are xgrammar's: a structural tag around one grammar in EBNF, whose rules for a tool's arguments its own
converter makes from the JSON schema. Its structural tag for JSON schemas cannot be used, because it allows line breaks
between values (max_whitespace_cnt=0 is refused), and the client's 0.7.2 reads one line. The tools share the rules that
are alike: 100 tools compile in 0.1 s, and in 6 s where each has a grammar of its own.

A schema says of a value what xgrammar 0.2.8 can hold; UNHELD names the keywords that it passes over.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Sequence
from importlib import metadata

import xgrammar
from xgrammar.structural_tag import (
    ConstStringFormat,
    Format,
    GrammarFormat,
    JSONSchemaFormat,
    OptionalFormat,
    PlusFormat,
    SequenceFormat,
    StarFormat,
    StructuralTag,
    TagFormat,
    TriggeredTagsFormat,
)

from fabrictune.dialogue import Json
from fabrictune.log import logger
from fabrictune.protocol import ACTION, ARGUMENTS, OBSERVATION
from fabrictune.serve.tool_calls import is_name

ANY_OBJECT: dict[str, Json] = {"type": "object"}
NO_ARGUMENTS: dict[str, Json] = {"type": "object", "properties": {}}
# Keywords that restrict a value and that xgrammar does not hold, alone or with others.
UNHELD = frozenset(
    {"not", "multipleOf", "uniqueItems", "contains", "patternProperties", "propertyNames", "oneOf", "if"}
)
# Of one tool's grammar, and of all tools' own rules together. 500 plain parameters make 68,000, compiled in 0.45 s;
# 3,000 make 417,000, in 108 s.
GRAMMAR_CHARACTERS = 100_000

DEPTH = 100  # of a schema; 50 objects in one another, whose grammar is made in 0.2 s, and in 2.5 s for 200

_STOP = ConstStringFormat(value=OBSERVATION)
_CONTROL = re.compile(r"[\x00-\x1f]")
_STRING_RULE = "basic_string_sub"
_EBNF_WORD = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|[A-Za-z_]\w*')
# xgrammar 0.2.8 writes é as \xe9, and reads it together with what follows where that is a hexadecimal digit as well.
_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|.)")
# Where xgrammar 0.2.8 lets through what is no JSON: a tab in a string with bounds on its length, any letter behind a
# backslash in an email's quoted part.
_TIGHTER = {r"[^\"\\\r\n]": r"[^\0-\x1f\"\\\r\n]", r'("\\" [ -~])': r'("\\" [\"\\])'}
_OTHER_KINDS = frozenset({"$ref", "enum", "const", "anyOf", "oneOf", "allOf"})  # beside which `type` says little
_NAMED = frozenset({"properties", "$defs", "definitions", "patternProperties", "dependentSchemas"})
_VALUES = frozenset({"enum", "const", "default", "examples"})


def structural_tag(
    tools: Sequence[tuple[str, Json]], *, must_call: bool = False, may_repeat: bool = True
) -> StructuralTag:
    """What a reply may be, given each tool's name and the JSON schema of its arguments.

    It begins with a call if it `must_call`; otherwise any text may stand before, in which `Action:` begins a call
    wherever it stands, as both clients read it. After a call come further calls if it `may_repeat`, and then the end,
    as `Observation:` or as the model's own token. A schema that no grammar can be made of leaves its tool any JSON
    object, with a warning. Raises ValueError if no tool has a name that can be written on one line.
    """
    named = [(name, schema) for name, schema in tools if _is_nameable(name)]
    for name in (name for name, _ in tools if not _is_nameable(name)):
        _warn(f"tool {name!r} cannot be called: its name is not one line of text")
    if not named:
        raise ValueError(
            f"no tool can be called: the names {[name for name, _ in tools]} are not one line of text each"
        )
    call = TagFormat(begin=ACTION, content=GrammarFormat(grammar=_calls(_bounded(named))), end="\n")
    elements: list[Format]
    if must_call:
        elements = [PlusFormat(content=call) if may_repeat else call]
    else:
        first = TriggeredTagsFormat(triggers=[ACTION], tags=[call], stop_after_first=True)
        elements = [first, StarFormat(content=call)] if may_repeat else [first]
    return StructuralTag(format=SequenceFormat(elements=[*elements, OptionalFormat(content=_STOP)]))


def grammar(schema: Json) -> str:
    """The EBNF of a JSON object on one line that is valid under the schema, spaced as the training data is.

    No string holds `Observation:`, at which a server would cut the call; a model writes it with an escape, as the data
    has it. (Strings with a pattern, a format or bounds on their length are not watched.) What is required and not
    described can have any value; inside of a parameter it cannot be written. Raises ValueError if xgrammar makes no
    such grammar of the schema.
    """
    if not isinstance(schema, dict) or schema.get("type", "object") != "object" or _OTHER_KINDS & schema.keys():
        raise ValueError("it does not say that the arguments are an object")
    if any(_CONTROL.search(str(pattern)) for pattern in _patterns(schema)):
        raise ValueError("a pattern holds a line break or another control character")
    try:
        text = _one_line(json.dumps(ANY_OBJECT | schema | _described(schema)))
    except RuntimeError as error:  # how xgrammar speaks of a schema that it does not take
        raise ValueError(str(error).strip()) from error
    if len(text) > GRAMMAR_CHARACTERS:
        raise ValueError(f"its grammar has {len(text)} characters, more than {GRAMMAR_CHARACTERS}")
    return text


def _described(schema: dict[str, Json]) -> dict[str, Json]:
    """The schema's properties, with any value for names that are required and not among them, if there are such."""
    properties, required = schema.get("properties", {}), schema.get("required")
    if not isinstance(properties, dict) or not isinstance(required, list):
        return {}
    missing: dict[str, Json] = {name: {} for name in required if isinstance(name, str) and name not in properties}
    return {"properties": properties | missing} if missing else {}


@functools.lru_cache(maxsize=256)
def _one_line(schema: str) -> str:
    text = str(xgrammar.Grammar.from_json_schema(schema, any_whitespace=False, separators=(", ", ": ")))
    text = _ESCAPE.sub(lambda escape: rf"\u00{escape[1]}" if escape[1] else escape[0], text)
    for loose, tight in _TIGHTER.items():
        text = text.replace(loose, tight)
    # Other line ends than this one can stand in a name.
    rules = [rule for rule in text.strip("\n").split("\n") if not rule.startswith(f"{_STRING_RULE} ::=")]
    return "\n".join([*rules, *_string_rules()])


@functools.cache
def _string_rules() -> list[str]:
    """xgrammar's rules for the rest of a plain string, from behind its first quote, without `Observation:`.

    Its converter excludes text only from a structural tag's JSON, its other one writes one line: the rules of the first
    take the place of the second's. Raises RuntimeError if another release names them differently.
    """
    watched = JSONSchemaFormat(json_schema={"type": "string"}, excludes=[OBSERVATION])
    text = str(xgrammar.Grammar.from_structural_tag(StructuralTag(format=watched)))
    rules = [rule for rule in text.splitlines() if rule.startswith(_STRING_RULE)]
    if not any(rule.startswith(f"{_STRING_RULE} ::=") for rule in rules):
        raise RuntimeError(f"xgrammar {metadata.version('xgrammar')} has no rule {_STRING_RULE}; 0.2.8 has")
    return rules


def _bounded(tools: Sequence[tuple[str, Json]]) -> list[tuple[str, str]]:
    """(name, its arguments' EBNF) of each tool; any JSON object for the longest of those that are too long together."""
    free = grammar(ANY_OBJECT)
    made = [(name, free) for name, _ in tools]
    room, freed = GRAMMAR_CHARACTERS, []
    for place in sorted(range(len(tools)), key=lambda place: _size(tools[place][1])):
        name, schema = tools[place]
        text = _grammar_of(name, schema) if room > 0 else free
        if room > 0:
            room -= len(text) - len(free)  # the rest is shared
        if room > 0:
            made[place] = name, text
        else:
            freed.append(name)
    if freed:
        _warn(
            f"the arguments of {len(freed)} of {len(tools)} tools can be any JSON object, because their grammars are "
            f"too long together: {', '.join(freed)[:200]}"
        )
    return made


def _size(schema: Json) -> int:
    try:
        return len(json.dumps(schema))
    except RecursionError:  # no grammar is made of it
        return 0


def _calls(tools: Sequence[tuple[str, str]]) -> str:
    """The EBNF of a call, from behind `Action:` to the end of its arguments, from each tool's name and EBNF."""
    shared = _rules(grammar(ANY_OBJECT))
    calls, rules = [], [f"{name} ::= {body}" for name, body in shared.items() if name != "root"]
    for number, (tool, text) in enumerate(tools):
        own = {name: body for name, body in _rules(text).items() if name == "root" or shared.get(name) != body}
        names = {name: f"tool_{number}_{name}" for name in own}
        rules += [f"{names[name]} ::= {_renamed(body, names)}" for name, body in own.items()]
        begin = json.dumps(f" {tool}\n{ARGUMENTS} ", ensure_ascii=False)
        calls.append(f"({begin} {names['root']})")
    return "\n".join([f"root ::= {' | '.join(calls)}", *rules])


def _rules(text: str) -> dict[str, str]:
    return dict(rule.split(" ::= ", 1) for rule in text.split("\n"))


def _renamed(body: str, names: dict[str, str]) -> str:
    """The body of a rule with other names of rules: what stands in quotes or brackets is text."""
    return _EBNF_WORD.sub(lambda word: names.get(word[0], word[0]), body)


def _grammar_of(name: str, schema: Json) -> str:
    wanted = NO_ARGUMENTS if schema is None else schema
    try:
        text = grammar(wanted)
    except ValueError as error:
        _warn(f"tool '{name}': its arguments can be any JSON object, because of its schema no grammar is made: {error}")
        return grammar(ANY_OBJECT)
    passed_over = sorted({key for key, _ in _keywords(wanted)} & UNHELD)
    if passed_over:
        _warn(f"tool '{name}': its arguments may break its schema's {', '.join(passed_over)}, which no grammar holds")
    return text


@functools.lru_cache(maxsize=1024)
def _warn(words: str) -> None:
    """Once for each message, not at every request."""
    logger.warning("%s", words)


def _is_nameable(name: str) -> bool:
    return is_name(name) and name == name.strip() and name.splitlines() == [name] and ARGUMENTS not in name


def _patterns(schema: Json) -> Iterator[Json]:
    for key, value in _keywords(schema):
        if key == "pattern":
            yield value
        elif key == "patternProperties" and isinstance(value, dict):
            yield from value


def _keywords(schema: Json, depth: int = 0) -> Iterator[tuple[str, Json]]:
    """Each keyword of the schema and of those inside it, with its value; names of properties are none.

    Raises ValueError if schemas are nested too deeply.
    """
    if depth > DEPTH:
        raise ValueError("it is nested too deeply")
    if isinstance(schema, list):
        for part in schema:
            yield from _keywords(part, depth + 1)
    if isinstance(schema, dict):
        for key, value in schema.items():
            yield key, value
            if key in _NAMED and isinstance(value, dict):
                yield from _keywords(list(value.values()), depth + 1)
            elif key not in _VALUES:
                yield from _keywords(value, depth + 1)
