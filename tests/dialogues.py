"""Dialogues as hypothesis draws them for the round trips through the formats: nothing in them is tame."""

from __future__ import annotations

from hypothesis import strategies as st

from fabrictune.dialogue import JSON_TYPES, Call, Dialogue, Step, Tool, Turn

_PIECES = [
    "\n",
    '"',
    "'",
    "\\",
    "\\n",
    "𝄞🦉",
    "你好，",
    " ",
    "Action: x\nAction Input: {}",
    "Observation:",
    '{"name": "x", "arguments": {}}',
    "[1, 2]",
    "</tool_response>",
    "{{",
]


def texts(pieces: list[str]) -> st.SearchStrategy[str]:
    """Texts of any characters between pieces that a format could trip over."""
    anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
    return st.lists(st.sampled_from(pieces) | anything, max_size=4).map("".join)


def json_values(text: st.SearchStrategy[str]) -> st.SearchStrategy:
    return st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
        max_leaves=6,
    )


TEXT = texts(_PIECES)
SAID = TEXT.filter(lambda text: text.strip() != "")
JSON = json_values(TEXT)
_THOUGHT = st.just("") | SAID
_NAME = st.sampled_from(["weather", "查询 天气", "a.b-c", "type", "required", "properties"]) | st.text(
    "abc_", min_size=1, max_size=3
)
_SCHEMA = st.recursive(
    st.fixed_dictionaries(
        {"type": st.sampled_from(JSON_TYPES)}, optional={"description": TEXT, "enum": st.lists(JSON, max_size=2)}
    ),
    lambda inner: (
        st.fixed_dictionaries({"type": st.just("array"), "items": inner})
        | st.fixed_dictionaries({"type": st.just("object"), "properties": st.dictionaries(_NAME, inner, max_size=2)})
    ),
    max_leaves=3,
)


@st.composite
def _tools(draw: st.DrawFn) -> tuple[Tool, ...]:
    names = draw(st.lists(_NAME, min_size=1, max_size=3, unique=True))
    return tuple(Tool(name, draw(TEXT), draw(_parameters())) for name in names)


@st.composite
def _parameters(draw: st.DrawFn) -> dict:
    properties = draw(st.dictionaries(_NAME, _SCHEMA, max_size=3))
    required = draw(st.lists(st.sampled_from(sorted(properties)), unique=True)) if properties else []
    schema = {"type": "object", "properties": properties}
    return schema | ({"required": required} if draw(st.booleans()) else {})


@st.composite
def _steps(draw: st.DrawFn, tools: tuple[Tool, ...], observation: st.SearchStrategy[str]) -> tuple[Step, ...]:
    call = st.builds(
        Call, st.sampled_from([tool.name for tool in tools]), st.dictionaries(TEXT | _NAME, JSON, max_size=3)
    )
    return tuple(draw(st.lists(st.builds(Step, call, observation, _THOUGHT), max_size=3)))


@st.composite
def plain_turns(draw: st.DrawFn) -> Turn:
    return Turn(draw(SAID), (), draw(SAID), tuple(draw(st.lists(st.sampled_from(["a.csv", "图.png"]), max_size=2))))


@st.composite
def _turns(draw: st.DrawFn, tools: tuple[Tool, ...]) -> Turn:
    plain = draw(plain_turns())
    return Turn(plain.query, draw(_steps(tools, TEXT)), plain.answer, plain.files)


@st.composite
def plain_dialogues(draw: st.DrawFn) -> Dialogue:
    turns = tuple(draw(st.lists(plain_turns(), min_size=1, max_size=3)))
    return Dialogue(draw(TEXT), (), turns, draw(_THOUGHT), family=draw(TEXT))


@st.composite
def dialogues(draw: st.DrawFn) -> Dialogue:
    """With tools, thoughts, files and, at the end of some, calls without results."""
    tools = draw(_tools())
    turns = draw(st.lists(_turns(tools), min_size=1, max_size=3))
    if waiting := draw(_steps(tools, st.just(""))):
        turns.append(Turn(draw(SAID), draw(_steps(tools, TEXT)), "", pending=waiting))
    return Dialogue(draw(TEXT), tools, tuple(turns), draw(_THOUGHT), family=draw(TEXT))
