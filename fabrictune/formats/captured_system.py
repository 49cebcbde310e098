"""What AgentFabric's client says before a query: the system message and the words in parentheses, in zh and en.

The tutorial's script writes a system message of its own (`faulty`), whose tool list is no JSON. Copies of the data may
have ASCII for full-width punctuation; DashScope's raw prompts lack the outer line breaks.

Texts can be made to be slow to read, and a server reads them too: a section's and a tool line's patterns take about as
many steps as their text has characters, and a text with too many readings to try is refused.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

from fabrictune import protocol
from fabrictune.dialogue import Role, Tool, Turn
from fabrictune.formats import values
from fabrictune.formats.captured_trace import ways

_FOLDED = {"：": ":", "，": ",", "！": "!", "（": "(", "）": ")"}
_WIDE = re.compile(f"[{''.join(_FOLDED)}]")
_LINE_END = " Format the arguments as a JSON object."
_HEAD = re.compile(r"(?P<name>[^\n]{1,256}?): (?P=name) API(?:。|\. )")
_PARAMETERS = re.compile(r" (?:输入参数|Parameters): ")
_FAULTY_LINE = re.compile(
    r"(?P<name>[^\n。]{1,256}?): [^\s。]{1,256} API。(?P<description>[^\n]*?) ?输入参数: "
    r'\{"type": "object", "properties": \{(?:"\\?(?P<parameter>[^"\n]*)": \{"type": "string", "description": '
    r'"(?P<about>[^"\n]*)"\})?\}, ?'
    r'"required": (?P<required>\[[^\[\]\n]*\])\}' + re.escape(_LINE_END)
)
# That reading may take, as _readings counts them: 40,000 for 100 tools; this many take 0.4 s.
_STEPS = 1_000_000

_Schema = dict[str, object]
_Later = Callable[[], Tool]  # makes the tool, whose text is long to copy, once it is known to be one


@dataclass(frozen=True)
class System:
    """One reading of a system message. `listed` are the tools' names as its text has them, None without a section."""

    lang: str
    tools: tuple[Tool, ...]
    listed: str | None
    persona: str
    knowledge: str

    @property
    def faulty(self) -> bool:
        return _is_faulty(self.listed or "")


@dataclass(frozen=True)
class Opening:
    """What a request says before its query's own words: the system message, the role, the uploaded files."""

    system: System
    instruction: str | Role
    files: tuple[str, ...]
    rest: str


def read_opening(text: str, newest: str) -> Opening | None:
    """The reading of system message and newest user message that fit each other, None if none do.

    A role goes before a text: nobody types a text that spells out a role together with a query that names it.
    Raises ValueError if the system message is not AgentFabric's, or if two readings fit.
    """
    found = [
        Opening(system, instruction, *_files(rest, system.lang))
        for read in (_as_role, _as_text)
        for system in read_systems(text)
        for instruction, rest in read(system, newest)
    ]
    fitting = [one for one in found if isinstance(one.instruction, Role)] or found
    if len(fitting) > 1:
        raise ValueError(f"the system message can be read in two ways: {text[:120]!r}")
    return fitting[0] if fitting else None


def read_offer(text: str, newest: str) -> tuple[Tool, ...]:
    """The tools of a live request, which both its messages name.

    What else the system message may say, in its knowledge for one, offers nothing: the newest user message begins with
    the names of the tools. Raises ValueError if no reading of the system message fits, or two with different tools.
    """
    fitting = [
        system.tools
        for system in read_systems(text, faulty=False)
        if any(newest.startswith(prefix) for prefix in _prefixes(system))
    ]
    if not fitting:
        raise ValueError(f"the newest user message does not name the tools of the system message: {text[:120]!r}")
    if any(tools != fitting[0] for tools in fitting):
        raise ValueError(f"the system message can be read in two ways: {text[:120]!r}")
    return fitting[0]


@lru_cache(maxsize=1024)  # a captured file has the same few system messages in all of its rows
def read_systems(text: str, *, faulty: bool = True) -> tuple[System, ...]:
    """Every reading of the system message; with the tutorial script's tool lists, if `faulty`.

    Raises ValueError if there is none, or if there are too many to try.
    """
    body = "\n\n" + text.strip("\n")
    readings: list[System] = []
    for lang, sections in _SECTIONS.items():
        note = sections.note.search(body)
        if note:
            readings += _readings(body[: note.start()], lang, sections, faulty)
    if not readings:
        listed = any(sections.tools.search(body) for sections in _SECTIONS.values())
        what = "the tool list cannot be read" if listed else "the system message is not AgentFabric's"
        raise ValueError(f"{what}: {text[:160]!r}")
    return tuple(readings)


def read_role(system: System, name: str) -> Role | None:
    """The role of that name which the persona spells out, None if it spells out none."""
    opening, named, middle, closing = protocol.PERSONA[system.lang]
    found = re.fullmatch(
        _pattern(opening + (named.format(name=name) if name else ""))
        + f"(?P<description>.*?){_pattern(middle)}(?P<functions>.*){_pattern(closing.format(name=name))}",
        system.persona,
        re.DOTALL,
    )
    if found and re.search(_pattern(middle), found["functions"]):
        raise ValueError(f"the role can be read in two ways: {system.persona[:120]!r}")
    if not found:
        return None
    functions = found["functions"]
    # The client takes a last semicolon off a text and not off a list.
    return Role(name, found["description"], (functions,) if functions.endswith("；") else functions)


def check_offer(tools: Sequence[Tool], turns: Iterable[Turn], reason: str) -> None:
    """Raises ValueError, beginning with the reason, at a call to a tool that is not among those offered."""
    offered = [tool.name for tool in tools]
    for call in (call for turn in turns for call in turn.calls):
        if call.name not in offered:
            raise ValueError(f"{reason}: '{call.name}', offered are {offered}")


def _pattern(text: str) -> str:
    """A regular expression for the text, in either punctuation."""
    return _WIDE.sub(lambda mark: f"[{mark[0]}{_FOLDED[mark[0]]}]", re.escape(text))


@dataclass(frozen=True)
class _Sections:
    """How the sections of a system message begin, in one language, and how it ends (`note`)."""

    knowledge: re.Pattern[str]
    tools: re.Pattern[str]
    footer: re.Pattern[str]  # from behind the last tool to the persona; holds the names
    instruction: re.Pattern[str]
    note: re.Pattern[str]


def _sections(lang: str) -> _Sections:
    tools, rest = protocol.TOOLS[lang].split("{tools}")
    before, behind = rest.split("{names}")
    # The line that begins with `Answer:` is all that differs between the generations.
    behind = behind[: behind.index(protocol.ANSWER_MARK) + len(protocol.ANSWER_MARK)]
    footer = f"{_pattern(before.lstrip())}(?P<names>[^\n]*){_pattern(behind)}[^\n]*\n\n"
    instruction, note = map(_pattern, protocol.INSTRUCTION[lang].rstrip("\n").split("{persona}"))
    return _Sections(
        knowledge=re.compile(_pattern(protocol.KNOWLEDGE[lang].split("{knowledge}")[0])),
        tools=re.compile(_pattern(tools)),
        footer=re.compile(footer + instruction),
        instruction=re.compile(instruction),
        note=re.compile(note + r"\Z"),
    )


_SECTIONS = {lang: _sections(lang) for lang in ("zh", "en")}


def _readings(body: str, lang: str, sections: _Sections, faulty: bool) -> Iterator[System]:
    known = sections.knowledge.match(body)
    start = known.end() if known else 0
    # Behind knowledge the next section can begin at any of the places that look like it.
    places = [start + at.start() + 2 for at in re.finditer("(?=\n\n\n#)", body[start:])] if known else [1]
    instructions = [found for found in (sections.instruction.match(body, at) for at in places) if found]
    offers = [found for found in (sections.tools.match(body, at) for at in places) if found]
    footers = list(sections.footer.finditer(body))
    schemas = len(_PARAMETERS.findall(body))
    if (len(instructions) + len(offers) * len(footers)) * (schemas + 100) ** 2 > _STEPS:
        raise ValueError(f"the system message can be read in too many ways: {body[:160]!r}")
    for begin in instructions:
        yield System(lang, (), None, body[begin.end() :], body[start : begin.start() - 2] if known else "")
    for begin in offers:
        knowledge = body[start : begin.start() - 2] if known else ""
        for footer in (footer for footer in footers if footer.start() >= begin.end()):
            for found in _tools(body[begin.end() : footer.start()].strip("\n"), footer["names"], faulty):
                yield System(lang, found, footer["names"], body[footer.end() :], knowledge)


def _tools(lines: str, listed: str, faulty: bool) -> list[tuple[Tool, ...]]:
    """The readings of the tool list whose names are those listed behind it."""
    if _is_faulty(listed) and not faulty:
        return []
    schemas = [] if _is_faulty(listed) else _schemas(lines)

    def edges(at: int) -> Iterator[tuple[_Later, int]]:
        for tool, end in _faulty_tool_at(lines, at) if _is_faulty(listed) else _tools_at(lines, at, schemas):
            if end == len(lines):
                yield tool, end
            elif lines.startswith("\n\n", end):
                yield tool, end + 2

    found = [tuple(tool() for tool in tools) for tools in ways(0, len(lines), edges)]
    return [tools for tools in found if listed in _listings(tools)]


def _is_faulty(listed: str) -> bool:
    return listed.startswith('"')


def _listings(tools: Sequence[Tool]) -> tuple[str, str]:
    """The names as the client lists them, and as the tutorial's script does."""
    names = [tool.name for tool in tools]
    return ",".join(names), json.dumps(names)[1:-1]


def _schemas(lines: str) -> list[tuple[int, _Schema, int]]:
    """(end of the description, schema, end of the line) wherever a tool's line can end."""
    found = []
    for mark in _PARAMETERS.finditer(lines):
        try:
            schema, end = values.DECODER.raw_decode(lines, mark.end())
        except (ValueError, RecursionError):
            continue
        if isinstance(schema, dict) and lines.startswith(_LINE_END, end):
            found.append((mark.start(), schema, end + len(_LINE_END)))
    return found


def _tools_at(lines: str, at: int, schemas: Sequence[tuple[int, _Schema, int]]) -> Iterator[tuple[_Later, int]]:
    """The tools, with their ends, that a line of the client's can hold: its description may look like a schema."""
    head = _HEAD.match(lines, at)
    if head:
        first = bisect_left(schemas, head.end(), key=lambda schema: schema[0])
        for start, schema, end in schemas[first:]:
            yield partial(_tool, lines, head["name"], head.end(), start, schema), end


def _tool(lines: str, name: str, start: int, end: int, schema: _Schema) -> Tool:
    try:
        return Tool(name, lines[start:end], schema)
    except ValueError as error:
        raise ValueError(f"a tool's schema cannot be read: {error}") from error


def _faulty_tool_at(lines: str, at: int) -> Iterator[tuple[_Later, int]]:
    """The tool of a line that the tutorial's script wrote: no JSON, at most one parameter, one backslash too many."""
    line = _FAULTY_LINE.match(lines, at)
    if line:
        name = line["parameter"]
        properties = {} if name is None else {name: {"type": "string", "description": _unescaped(line["about"])}}
        schema = {"type": "object", "properties": properties, "required": json.loads(line["required"])}
        yield partial(_tool, lines, line["name"].strip(), *line.span("description"), schema), line.end()


def _unescaped(text: str) -> str:
    """The description, whose escapes the script took over as they stood, and which it cut at an escaped quote."""
    text = text.removesuffix("\\")
    try:
        return str(values.DECODER.decode(f'"{text}"'))
    except ValueError:
        return text


def _behind_role(system: System) -> str:
    """What follows the role in the parentheses, "" where nothing does."""
    tools = "" if system.listed is None else protocol.PREFIX_TOOLS[system.lang].format(names=system.listed)
    return tools + (protocol.PREFIX_KNOWLEDGE[system.lang] if system.knowledge else "")


def _prefix_end(system: System) -> str:
    """A regular expression for what follows the role in the parentheses, "" where nothing does."""
    return _pattern(_behind_role(system))


def _prefixes(system: System) -> list[str]:
    """What can stand before the query: with a role, whose name is what its persona ends with, and without one."""
    _, spelled, name = system.persona.rpartition(protocol.PERSONA[system.lang][-1].format(name=""))
    role = protocol.PREFIX_ROLE[system.lang].format(name=name)
    words = [role + _behind_role(system)] if spelled else []
    return [f"({one})" if one else "" for one in (*words, _behind_role(system))]


def _as_text(system: System, newest: str) -> Iterator[tuple[str | Role, str]]:
    end = _prefix_end(system)
    found = re.match(rf"\({end}\)" if end else "", newest)
    if found:
        yield system.persona, newest[found.end() :]


def _as_role(system: System, newest: str) -> Iterator[tuple[str | Role, str]]:
    start = re.match(r"\(" + _pattern(protocol.PREFIX_ROLE[system.lang].format(name="")), newest)
    if not start:
        return
    named = newest[start.end() :]
    for end in re.finditer(rf"{_prefix_end(system)}\)", named):
        role = read_role(system, named[: end.start()])
        if role:
            yield role, named[end.end() :]


def _files(text: str, lang: str) -> tuple[tuple[str, ...], str]:
    before, behind = map(_pattern, protocol.PREFIX_FILES[lang].split("{names}"))
    found = re.match(f'{before}([^"\n]+){behind}', text)
    return (tuple(found[1].split(",")), text[found.end() :]) if found else ((), text)
