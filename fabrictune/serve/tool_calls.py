"""A reply in AgentFabric's format -> content and tool calls of OpenAI's interface, also as it streams.

One reader serves both generations of the client: a call that either of them can run is read here with the same name and
arguments. Where both would run something that no model meant, this reader is stricter: a call ends with its arguments'
closing brace, its arguments are a JSON object, and nothing between <result> and </result> is a call.

The reply ends at the first `Observation:`, as it does at a server that is given this stop string: a result that the
model makes up is neither shown nor read, whatever it holds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from fabrictune.dialogue import Json
from fabrictune.protocol import ACTION, ARGUMENTS, OBSERVATION, RESULT, RESULT_END
from fabrictune.score import client

# People write "Action: restart the router." too; what has no arguments after so many characters is no name of a tool.
NAME_CHARACTERS = 256


@dataclass(frozen=True)
class ToolCall:
    """`arguments` is the text of a JSON object, on one line."""

    name: str
    arguments: str


@dataclass(frozen=True)
class Told:
    """What has become certain of a reply: text to show, and calls. The pieces of a reply add up to the whole."""

    content: str = ""
    calls: tuple[ToolCall, ...] = ()

    def __add__(self, other: Told) -> Told:
        return Told(self.content + other.content, self.calls + other.calls)


def read(text: str) -> Told:
    """The whole reply's content and its calls in order.

    What is no call stays content, to the letter, so that nothing a model says is lost: `Action:` without arguments, and
    arguments that are no JSON object even by json5's rules. Blanks before a call and after the last one are dropped. A
    name is what the model wrote, on offer or not: whoever runs the call knows best what to answer.
    """
    reader = Reader()
    return reader.feed(text) + reader.finish()


class Reader:
    """Reads one reply as it streams. However the text is cut into pieces, they add up to what `read` says of the whole.

    A call is told once its arguments are complete and known to be valid. Until then its text is held back, and so is an
    end of the text that may become one of the protocol's words.
    """

    def __init__(self) -> None:
        self._held = ""
        self._blanks = ""  # that came last: shown if text follows, dropped if a call does
        self._braces = _Braces()  # of the call that the held text begins with
        self._is_quoting = False  # a result
        self._has_called = False
        self._is_over = False

    def feed(self, piece: str) -> Told:
        """What the next piece of the reply makes certain."""
        if self._is_over:
            return Told()
        seen = len(self._held)
        self._held += piece
        end = self._held.find(OBSERVATION, max(0, seen - len(OBSERVATION)))
        if end < 0:
            return self._advance(is_end=False)
        self._held = self._held[:end]
        return self.finish()

    def finish(self) -> Told:
        """What the end of the reply makes certain: all that was held back. What comes later is ignored."""
        if self._is_over:
            return Told()
        self._is_over = True
        told = self._advance(is_end=True)
        return told if self._has_called else told + Told(self._blanks)

    def _advance(self, is_end: bool) -> Told:
        told = Told()
        while self._held:
            marks = (RESULT_END,) if self._is_quoting else (ACTION, RESULT)
            mark, at = _first(self._held, marks)
            if not mark:
                kept = 0 if is_end else _partial(self._held, (*marks, OBSERVATION))
                return told + self._show(len(self._held) - kept)
            told += self._show(at)
            if mark != ACTION:
                self._is_quoting = mark == RESULT
                told += self._show(len(mark))
                continue
            call = self._call(is_end)
            if call is None:
                return told
            self._braces = _Braces()
            told += Told(calls=(call,)) if isinstance(call, ToolCall) else self._show(len(ACTION))
        return told

    def _show(self, length: int) -> Told:
        """The next characters held, as content; blanks at their end wait for what follows."""
        text, self._held = self._blanks + self._held[:length], self._held[length:]
        shown = text.rstrip()
        self._blanks = text[len(shown) :]
        return Told(shown)

    def _call(self, is_end: bool) -> ToolCall | Literal["none"] | None:
        """The call that the held text begins with, "none" if it begins with none, None while that is open."""
        rest = self._held[len(ACTION) :]
        name, mark, _ = rest.partition(ARGUMENTS)
        if not mark:
            return None if _may_name(rest) and not is_end else "none"
        if not is_name(name):
            return "none"
        start = len(ACTION) + len(name) + len(ARGUMENTS)
        end = self._braces.closing(self._held, start)
        if end is None:
            return "none" if is_end else None
        written = arguments_text(self._held[start:end])
        if written is None:
            return "none"
        self._has_called, self._blanks, self._held = True, "", self._held[end:]
        return ToolCall(name.strip(), written)


class _Braces:
    """Finds where an object closes in a text that grows at its end; looks at each character once."""

    def __init__(self) -> None:
        self._at = 0
        self._depth = 0
        self._quote = ""
        self._is_escaped = False

    def closing(self, text: str, start: int) -> int | None:
        """The index behind the object that begins at `start`, `start` itself if none does, None where text is missing.

        Another `Action:` ends it, but for one inside a string on one line.
        """
        for at in range(max(self._at, start), len(text)):
            self._at = at + 1
            letter = text[at]
            if letter == ":" and self._is_action(text, at + 1):
                return start
            if self._quote:
                self._read_string(letter)
                continue
            if letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
            elif letter in "\"'":
                self._quote = letter
            if self._depth <= 0 and not letter.isspace():
                return at + 1 if letter in "}]" else start
        return None

    def _is_action(self, text: str, end: int) -> bool:
        return text.endswith(ACTION if not self._quote else "\n" + ACTION, 0, end)

    def _read_string(self, letter: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif letter == "\\":
            self._is_escaped = True
        elif letter == self._quote:
            self._quote = ""


def arguments_text(text: str) -> str | None:
    """The arguments as JSON on one line, read as the client reads them; None where they are no JSON object."""
    value = _object(text)
    if value is None:
        return None
    try:
        # NaN and Infinity, which json5 knows, are no JSON.
        written = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        return None
    # Half of a surrogate pair cannot be sent as text; escaped, it is valid JSON.
    return written if _is_text(written) else json.dumps(value)


def _object(text: str) -> dict[str, Json] | None:
    """As the client reads it, and JSON of any length: it is json5 that is slow beyond 10,000 characters."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return client.object_or_none(text)
    return value if isinstance(value, dict) else None


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_name(text: str) -> bool:
    """Whether what stands between `Action:` and `Action Input:` is the name of a tool, and blanks around it."""
    name = text.strip()
    return bool(name) and "\n" not in name and ACTION not in name and len(text) <= NAME_CHARACTERS


def _may_name(text: str) -> bool:
    """Whether what follows `Action:` may go on to be a name and `Action Input:`, which it does not hold."""
    after = text.lstrip().partition("\n")[2].lstrip()
    is_short = len(text) < NAME_CHARACTERS + len(ARGUMENTS)
    return is_short and ACTION not in text and ARGUMENTS.startswith(after)


def _first(text: str, marks: tuple[str, ...]) -> tuple[str, int]:
    """The mark that comes first in the text and where it begins; "" and -1 if none does."""
    at, mark = min(((at, mark) for mark in marks if (at := text.find(mark)) >= 0), default=(-1, ""))
    return mark, at


def _partial(text: str, marks: tuple[str, ...]) -> int:
    """How many characters at the end of the text may be the beginning of a mark."""
    longest = min(max(map(len, marks)) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if any(mark.startswith(text[-n:]) for mark in marks)), 0)
