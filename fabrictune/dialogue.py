"""The format-free middle of the project: every source parses into a Dialogue, every format writes from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import msgspec

Json = Any  # what json.loads returns: None, bool, int, float, str, list, dict

JSON_TYPES = ("string", "integer", "number", "boolean", "array", "object")


def json_type(value: Json) -> str:
    """JSON-schema type name of a value; "string" for null, which carries no type of its own."""
    for kind, name in ((bool, "boolean"), (int, "integer"), (float, "number"), (list, "array"), (dict, "object")):
        if isinstance(value, kind):
            return name
    return "string"


def same_json(left: Json, right: Json) -> bool:
    """Whether two JSON values mean the same argument.

    2 equals 2.0 but no boolean; strings are compared without outer blanks; lists are ordered, objects are not. Values
    that are both nested some 300 deep, which only a model in a loop writes, are never the same.
    """
    try:
        return _is_same(left, right)
    except RecursionError:
        return False


def _is_same(left: Json, right: Json) -> bool:
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, str) and isinstance(right, str):
        return left.strip() == right.strip()
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_is_same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_is_same(left[key], right[key]) for key in left)
    return bool(left == right)


@dataclass(frozen=True)
class Tool:
    """A function on offer. `parameters` is a JSON schema: {"type": "object", "properties": {}, "required": []}."""

    name: str
    description: str
    parameters: dict[str, Json]

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not isinstance(self.description, str):
            raise ValueError(f"a tool's name or description is no text: {self.name!r}, {self.description!r}"[:200])
        if not self.name.strip() or "\n" in self.name:
            raise ValueError(f"tool name {self.name!r} is empty or holds a line break")
        if self.parameters.get("type") != "object" or not isinstance(self.parameters.get("properties"), dict):
            raise ValueError(f"tool '{self.name}': parameters must be a JSON schema of type object with properties")
        if not all(isinstance(schema, dict) for schema in self.properties.values()):
            raise ValueError(f"tool '{self.name}': a property is no JSON schema: {self.properties}")
        if not isinstance(self.required, list) or not all(isinstance(name, str) for name in self.required):
            raise ValueError(f"tool '{self.name}': 'required' is no list of parameter names: {self.required}")
        unknown = set(self.required) - set(self.properties)
        if unknown:
            raise ValueError(f"tool '{self.name}': required parameters {sorted(unknown)} are not among its properties")

    @property
    def properties(self) -> dict[str, dict[str, Json]]:
        properties: dict[str, dict[str, Json]] = self.parameters["properties"]
        return properties

    @property
    def required(self) -> list[str]:
        required: list[str] = self.parameters.get("required", [])
        return required


@dataclass(frozen=True)
class Call:
    """One use of a tool, with its arguments as JSON values by parameter name."""

    name: str
    arguments: dict[str, Json]


@dataclass(frozen=True)
class Step:
    """A call, what the tool returned as text, and what was said before the call ("" for nothing)."""

    call: Call
    observation: str
    thought: str = ""


@dataclass(frozen=True)
class Turn:
    """A user's query, the steps taken for it (none for plain chat), and the final answer.

    `files` are the names of files that the user uploaded with the query. `pending` are calls whose results the record
    does not hold (their observation is ""); such a turn ends with them and has no answer.
    """

    query: str
    steps: tuple[Step, ...]
    answer: str
    files: tuple[str, ...] = ()
    pending: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        if not self.answer.strip() and not self.pending:
            raise ValueError(f"the turn for query {self.query[:60]!r} has no answer")
        if self.pending and (self.answer or any(step.observation for step in self.pending)):
            raise ValueError(f"the turn for query {self.query[:60]!r} goes on after a call without a result")

    @property
    def calls(self) -> list[Call]:
        """All calls of the turn, pending ones too."""
        return [step.call for step in (*self.steps, *self.pending)]


@dataclass(frozen=True)
class Role:
    """An agent's persona as AgentFabric's configuration page holds it."""

    name: str = ""
    description: str = ""
    instruction: str | tuple[str, ...] = ""


@dataclass(frozen=True)
class Dialogue:
    """A conversation with an agent. `family` groups dialogues by the kind of tools they are about ("" if unknown)."""

    id: str
    tools: tuple[Tool, ...]
    turns: tuple[Turn, ...]
    instruction: str | Role = ""
    knowledge: str = ""
    family: str = ""

    def __post_init__(self) -> None:
        if not self.turns:
            raise ValueError(f"dialogue '{self.id}' has no turns")
        offered = [tool.name for tool in self.tools]
        if len(set(offered)) != len(offered):
            raise ValueError(f"dialogue '{self.id}' offers a tool twice: {offered}")
        if any(turn.pending for turn in self.turns[:-1]):
            raise ValueError(f"dialogue '{self.id}' goes on after a call without a result")
        for call in self.calls:
            if not offered:
                raise ValueError(f"dialogue '{self.id}': call to '{call.name}', but the row offers no tools")
            if call.name not in offered:
                raise ValueError(
                    f"dialogue '{self.id}': call to '{call.name}', which is not among the tools offered: {offered}"
                )

    @property
    def calls(self) -> list[Call]:
        return [call for turn in self.turns for call in turn.calls]

    @property
    def is_complete(self) -> bool:
        """Whether every call has its result and every query its answer, as a test dialogue needs."""
        return not self.turns[-1].pending


def from_json(row: Mapping[str, Json]) -> Dialogue:
    """The dialogue that msgspec has encoded as JSON. Raises ValueError naming what is missing."""
    try:
        return msgspec.convert(row, Dialogue)
    except msgspec.ValidationError as error:
        raise ValueError(f"not a dialogue ({error})") from error


@dataclass(frozen=True)
class Message:
    role: str
    content: str


# What a piece of a reply is: words around a call (thoughts and the protocol's own keywords), the name of the tool
# called, its arguments, an answer.
Part = Literal["said", "tool", "arguments", "answer"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True)
class Span:
    """A piece of a reply. Its tokens' weight in the loss is `weight` times what training gives its part."""

    text: str
    part: Part = "said"
    weight: float = 1.0


@dataclass(frozen=True)
class Exchange:
    """One request a client would send (`messages`) and the reply we want; `turn` and `step` count from 0."""

    dialogue: str
    turn: int
    step: int
    source: str
    messages: tuple[Message, ...]
    reply: tuple[Span, ...]

    @property
    def reply_text(self) -> str:
        return "".join(span.text for span in self.reply)

    def to_line(self) -> bytes:
        """A line of train.jsonl, without its end."""
        return msgspec.json.encode(self)

    @staticmethod
    def from_line(line: str | bytes) -> Exchange:
        """The exchange that `to_line` wrote. Raises ValueError naming what is wrong with the line."""
        try:
            return msgspec.json.decode(line, type=Exchange)
        except (msgspec.DecodeError, UnicodeError) as error:
            raise ValueError(f"not an exchange ({error}); convert again with overwrite=true") from error


@dataclass(frozen=True)
class Reply:
    """What a model answered to one request; not `stopped` means that it ran into the bound on tokens."""

    text: str
    stopped: bool


@dataclass(frozen=True)
class Attempt:
    """A call as a model wrote it. `arguments` is None where `text` is not a JSON object, even by json5's rules."""

    name: str
    text: str
    arguments: dict[str, Json] | None
    observation: str

    def makes(self, call: Call) -> bool:
        return self.name == call.name and self.arguments is not None and same_json(self.arguments, call.arguments)


@dataclass(frozen=True)
class Played:
    """One turn as a client ran it. `answer` is the reply without a call that ended it, None if none did."""

    replies: tuple[Reply, ...]
    attempts: tuple[Attempt, ...]
    answer: str | None

    @property
    def ended(self) -> bool:
        return self.answer is not None
