"""What a model meant by a reply: the call that the client finds in it, and how a broken one is malformed.

The ways of being malformed have the names of `measures.MALFORMED`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, replace

from fabrictune.dialogue import Attempt, Json, Played, Reply, same_json
from fabrictune.protocol import OBSERVATION, V072, Dialect
from fabrictune.score import client

ACTION = re.compile(r"^[ \t]*Action:[ \t]*(.*)$", re.MULTILINE)
INPUT = re.compile(r"^[ \t]*Action Input:", re.MULTILINE)
OBJECT = re.compile(r"\{\s*(?:[\"'}]|$)")  # an object where the name belongs
OPENING = re.compile(r"Action:[ \t]*(.+)\n[ \t]*Action Input:[ \t]*(?=\{)")
# Ways to call of other clients and models: Hermes, Qwen, Mistral, InternLM, Gemma, DeepSeek, LangChain.
FOREIGN = re.compile(
    r"</?tool_call>|</?function_?calls?>|<function=|<invoke |<tool_code>|```tool_code|\[TOOL_CALLS\]"
    r"|<start_function_call>|<\|(?:tool_call|action_start|plugin)|<｜tool|✿FUNCTION✿"
    r"|Action(?: Input)?：|^[ \t]*(?:action|ACTION)(?:[ _](?:input|INPUT))?:[ \t]*[\w{]"
    r"|^[ \t]*(?:动作|行动|调用工具|工具调用)[ \t]?[:：][ \t]?[A-Za-z_]\w"
    r"|\{\s{0,20}[\"']name[\"']\s{0,9}:\s{0,9}[\"'][^\"'\n]{1,80}[\"']\s{0,9},\s{0,20}[\"'](?:arguments|parameters|args|input)[\"']"
    r"|\{\s{0,20}[\"'](?:action|tool|function|tool_name|function_name)[\"']\s{0,9}:\s{0,9}[\"'][^\"'\n]{1,80}[\"']\s{0,9},"
    r"\s{0,20}[\"'](?:action_input|tool_input|arguments|parameters|args|input)[\"']"
    r"|[\"']function[\"']\s{0,9}:\s{0,9}\{\s{0,20}[\"']name[\"']",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Try:
    """A reply that calls or tries to: what the client finds in it, None if nothing, and how it is malformed, if so."""

    attempt: Attempt | None
    malformed: str | None = None

    @property
    def name(self) -> str:
        """The tool called, "" where none is named."""
        return self.attempt.name if self.attempt and self.attempt.name.strip() else ""

    def makes(self, due: Attempt) -> bool:
        return self.attempt is not None and not self.malformed and is_same(self.attempt, due)


def is_same(left: Attempt, right: Attempt) -> bool:
    """Whether the two do the same; what cannot be read is compared as text."""
    if left.name != right.name:
        return False
    if left.arguments is None or right.arguments is None:
        return left.arguments is right.arguments and left.text.strip() == right.text.strip()
    return same_json(left.arguments, right.arguments)


def of_turn(played: Played, wanted: str, offered: Collection[str], dialect: Dialect) -> list[Try]:
    """The calls that the client made, and at the end a reply in which it found none although one was meant."""
    replies = [*played.replies, *[Reply("", True)] * len(played.attempts)]
    tries = [read(attempt, reply, dialect) for attempt, reply in zip(played.attempts, replies, strict=False)]
    if played.answer is not None:
        stopped = played.replies[-1].stopped if played.replies else True
        stray = stray_call(Reply(played.answer, stopped), wanted, offered)
        tries += [stray] if stray else []
    return tries


def find(text: str, dialect: Dialect) -> Attempt | None:
    """The call that the client finds in a reply that its server has cut."""
    found = dialect.find_call(_cut(text))
    if found is None:
        return None
    return Attempt(found[0], found[1], client.object_or_none(found[1]), "")


def read(attempt: Attempt, reply: Reply, dialect: Dialect) -> Try:
    """The attempt that the client made of a reply, and how it is malformed."""
    if not attempt.name.strip():
        return Try(attempt, "no_name")
    if attempt.arguments is not None:
        return Try(attempt)
    text = _cut(reply.text)
    if dialect == V072:  # the only client that stops reading at the end of the line
        written = text.partition(f"Action: {attempt.name}\nAction Input: {attempt.text}")[2]
        if written.strip() and client.object_or_none(attempt.text + written) is not None:
            return Try(attempt, "many_lines")
    return Try(replace(attempt, name=_meant(attempt.name, text)), _fault(attempt.text, reply.stopped))


def stray_call(reply: Reply, wanted: str, names: Collection[str]) -> Try | None:
    """A call that was meant in a reply in which the client finds none; None if none was, as in the answer `wanted`."""
    kind = _stray_kind(_cut(reply.text), reply.stopped, names)
    return Try(None, kind) if kind and not _stray_kind(wanted, True, names) else None


def _stray_kind(text: str, stopped: bool, names: Collection[str]) -> str | None:
    actions, inputs = list(ACTION.finditer(text)), list(INPUT.finditer(text))
    if inputs and (not actions or actions[0].start() > inputs[0].start()):
        return "no_name"
    if inputs and actions[-1].start() < inputs[-1].start():
        if not actions[-1][1].strip():
            return "no_name"
        arguments = text[inputs[-1].end() :].rstrip()
        if client.object_or_none(arguments) is not None:
            return "many_lines" if "\n" in arguments else "foreign"
        return _fault(arguments, stopped)
    if any(OBJECT.match(action[1]) for action in actions):
        return "no_name"
    if actions and _is_tool_name(actions[-1][1].strip(), names):
        is_cut = not stopped and not text[actions[-1].end() :].strip()
        return "cut_off" if is_cut else "no_arguments"
    return "foreign" if FOREIGN.search(text) or _has_python_call(text, names) else None


def _is_tool_name(text: str, names: Collection[str]) -> bool:
    """Whether what follows "Action:" names a tool; people write "Action: restart the router." too."""
    return text in names or (text.isascii() and text.isidentifier())


def _has_python_call(text: str, names: Collection[str]) -> bool:
    """Whether a line begins with a call as Python writes it."""
    tool = "|".join(map(re.escape, names))
    return bool(names) and re.search(rf"^[ \t]*[`\[]?(?:{tool})\(", text, re.MULTILINE) is not None


def _fault(arguments: str, stopped: bool) -> str:
    """How arguments are malformed of which the client can make no object."""
    if not stopped and arguments.lstrip()[:1] in ("", "{") and not _begins_with_object(arguments):
        return "cut_off"
    return "bad_json" if _value(arguments) is _NOTHING else "no_object"


def _meant(name: str, text: str) -> str:
    """The tool that was meant by a call that the client read as that of `name`.

    The April client takes the protocol's words inside a string argument for the next call.
    """
    opening = OPENING.search(text)
    end = _end_of_object(text, opening.end()) if opening else None
    is_inside = opening is not None and end is not None and opening.end() < text.rfind("Action:") < end
    return opening[1].strip() if opening and is_inside else name


def _begins_with_object(text: str) -> bool:
    return _end_of_object(text.lstrip(), 0) is not None


def _end_of_object(text: str, start: int) -> int | None:
    """Where the JSON object that begins at `start` ends, None where none does."""
    try:
        return json.JSONDecoder().raw_decode(text, start)[1]
    except (ValueError, RecursionError):
        return None


_NOTHING = object()


def _value(text: str) -> Json:
    """What the client reads, _NOTHING if it can read nothing."""
    try:
        return client.parse_arguments(text)
    except ValueError:
        return _NOTHING


def _cut(text: str) -> str:
    return text.partition(OBSERVATION)[0]  # where every server cuts a reply
