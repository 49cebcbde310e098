"""A chat request and its reply as they went over the wire -> the row of a capture log.

A row has `id`, `time` (UTC, of the request), `seconds`, `path`, `status`, `streamed`, `request` (the body as the client
sent it), `reply` (the assistant's text), `message` (the assistant's message, tool calls too), `finish_reason`,
`usage`, and `error`, null where all went well. Where there is an error, `raw` is what the server sent; of a stream
one event, and none if anything could be read of it: side by side, events show what is hidden in the message that they
make up. Where a request asked for several replies, `others` are those after the first.
"""

from __future__ import annotations

import json
import time
import uuid
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx2

from fabrictune.dialogue import Json
from fabrictune.serve.capture import redaction

_ASKED = httpx2.Request("POST", "http://upstream")  # of which a response is, for the library to read it
LONGEST_ERROR = 1000  # characters
# What a later request of the dialogue adds to stands last, so that it changes no placeholder's number before it.
FIRST_TOLD, LAST_TOLD = ("tools", "functions"), ("messages", "prompt")


class Hiding:
    """What must not be in a row: the secrets and, with `redact`, personal data, by the same placeholders throughout."""

    def __init__(self, secrets: tuple[str, ...] = (), redact: bool = False) -> None:
        self._secrets, self._redacted = secrets, redaction.Redactor() if redact else None

    def __call__(self, value: Json) -> Json:
        value = redaction.without(value, self._secrets)
        return self._redacted(value) if self._redacted else value


@dataclass
class Heard:
    """One exchange, as far as it has been heard. `status` 0 before the server has answered; `body` is as it came.

    `fault` is what ended it before its time. `asked` is `request_told` of it, where somebody has begun with that.
    """

    path: str
    request: bytes
    hiding: Hiding = field(default_factory=Hiding)
    asked: Future[Json] | None = None
    began: float = field(default_factory=time.time)
    clock: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    status: int = 0
    kind: str = ""  # the reply's Content-Type
    packing: str = "identity"  # its Content-Encoding
    body: bytearray = field(default_factory=bytearray)
    fault: str | None = None

    @property
    def is_streamed(self) -> bool:
        return self.kind.partition(";")[0].strip().lower() == "text/event-stream"


@dataclass
class _Choice:
    message: dict[str, Any] = field(default_factory=dict)
    text: str | None = None  # of a plain completion, which has no message
    finish_reason: str | None = None

    @property
    def is_read(self) -> bool:
        return bool(self.message) or self.text is not None

    @property
    def reply(self) -> str:
        said = self.message.get("content") if self.text is None else self.text
        if isinstance(said, list):
            texts = [part.get("text") for part in said if isinstance(part, dict)]
            said = "".join(text for text in texts if isinstance(text, str))
        return said if isinstance(said, str) else ""

    @property
    def row(self) -> dict[str, Json]:
        return {"reply": self.reply, "message": self.message or None, "finish_reason": self.finish_reason}


@dataclass
class _Answer:
    choices: dict[int, _Choice] = field(default_factory=dict)
    usage: Json = None
    error: str | None = None

    @property
    def is_whole(self) -> bool:
        return bool(self.choices) and all(choice.finish_reason for choice in self.choices.values())


def spelled(heard: Heard) -> str:
    """The row in one line. Whatever was sent, there is a row."""
    made = row(heard)
    text = json.dumps(made, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can escape but UTF-8 not hold
        text = json.dumps(made)
    return text


def row(heard: Heard) -> dict[str, Json]:
    """The exchange as a row of the log."""
    asked = heard.asked.result() if heard.asked else request_told(heard)  # first, as its placeholders are
    raw, answer = _answer(heard)
    first, *others = [answer.choices[index] for index in sorted(answer.choices)] or [_Choice()]
    error = answer.error or (None if answer.is_whole else heard.fault)
    if error is None and heard.is_streamed and not answer.is_whole:
        error = "the stream ended without a finish_reason"
    told: dict[str, Json] = {**first.row, "usage": answer.usage, "error": error}
    if others:
        told["others"] = [one.row for one in others]
    if error is not None and not (heard.is_streamed and any(one.is_read for one in answer.choices.values())):
        told["raw"] = raw
    try:
        told = heard.hiding(told)
    except RecursionError:
        shown = {"raw": raw} if "raw" in told or not heard.is_streamed else {}
        nothing = {"message": None, "finish_reason": None, "usage": None}
        fault = "the reply cannot be read: it is nested too deeply"
        told = heard.hiding({"reply": first.reply, **nothing, "error": fault, **shown})
    if told["error"]:
        told["error"] = told["error"][:LONGEST_ERROR]  # not before: a cut might leave half of what is hidden
    return {
        "id": uuid.uuid4().hex,
        "time": datetime.fromtimestamp(heard.began, UTC).isoformat(timespec="milliseconds"),
        "seconds": round(heard.seconds, 3),
        "path": heard.path,
        "status": heard.status,
        "streamed": heard.is_streamed,
        "request": asked,
        **told,
    }


def request_told(heard: Heard) -> Json:
    """The request as it stands in the row. To find personal data takes 3 ms a kilobyte of numbers."""
    value = _request(heard.request)
    try:
        if not isinstance(value, dict):
            return heard.hiding(value)
        hidden = {key: heard.hiding({key: value[key]}) for key in sorted(value, key=_rank)}
    except RecursionError:
        return heard.hiding(heard.request.decode("utf-8", "replace"))
    return {name: one for key in value for name, one in hidden[key].items()}


def _rank(key: str) -> int:
    return (key not in FIRST_TOLD) + (key in LAST_TOLD)


def _request(body: bytes) -> Json:
    """The body's JSON; the text itself if it is none."""
    try:
        value = json.loads(body)
        json.dumps(value, allow_nan=False)  # Python reads NaN, other readers of the log do not
    except (ValueError, RecursionError):
        return body.decode("utf-8", "replace")
    return value


def _answer(heard: Heard) -> tuple[str, _Answer]:
    """What the server sent, as text, and what it says; of a stream the event read last, as text."""
    headers = {"content-type": heard.kind or "application/json", "content-encoding": heard.packing}
    answer = _Answer()
    try:
        # The last event counts even if the stream ends before the empty line after it.
        ended = bytes(heard.body) + (b"\n\n" if heard.is_streamed and heard.packing == "identity" else b"")
        response = httpx2.Response(heard.status or 502, headers=headers, content=ended, request=_ASKED)
        raw = response.text
    except httpx2.DecodingError as error:
        answer.error = f"the reply cannot be unpacked: {error}"
        return heard.body.decode("utf-8", "replace"), answer
    try:
        if heard.is_streamed:
            for event in httpx2.EventSource(response, max_event_size=None):
                if event.data != "[DONE]":
                    raw = event.data
                    _take(json.loads(event.data), answer)
        elif heard.body:
            _take(json.loads(response.text), answer)
    # The server may send anything; what is in no form that we know is kept as it is.
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        answer.error = f"the reply cannot be read: {type(error).__name__}: {error}"
    if heard.status >= 400:
        answer.error = f"status {heard.status}: {answer.error or raw}"
    return raw, answer


def _take(said: dict[str, Any], answer: _Answer) -> None:
    """Adds a whole reply, or one chunk of a streamed one."""
    if said.get("error"):
        error = said["error"]
        answer.error = str(error.get("message", error) if isinstance(error, dict) else error)
    answer.usage = said.get("usage") or answer.usage
    for part in said.get("choices") or ():
        index = part.get("index")
        choice = answer.choices.setdefault(index if isinstance(index, int) else 0, _Choice())
        choice.message = dict(part.get("message") or _joined(choice.message, dict(part.get("delta") or {})))
        if isinstance(part.get("text"), str):
            choice.text = (choice.text or "") + part["text"]
        choice.finish_reason = part.get("finish_reason") or choice.finish_reason


def _joined(known: Json, value: Json, key: str = "") -> Json:
    """What is known of a message, and what a chunk adds to it: texts are continued, tool calls by their index."""
    if isinstance(value, dict) and isinstance(known, dict | None):
        known = known or {}
        return known | {name: _joined(known.get(name), one, name) for name, one in value.items()}
    if key == "tool_calls" and isinstance(value, list):
        return _joined_calls(known or [], value)
    if known is None or value is None:
        return known if value is None else value
    if key in ("role", "id", "type", "index"):
        return known if value == "" else value  # some servers send an id once, and "" from then on
    if isinstance(known, str) and isinstance(value, str):
        return known + value
    return known + value if isinstance(known, list) and isinstance(value, list) else value


def _joined_calls(calls: list[dict[str, Any]], parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The calls with what the parts add. Where a server gives no index, an id begins a call."""
    calls = list(calls)
    for part in parts:
        at = part.get("index")
        if at is None:
            at = len(calls) if part.get("id") or not calls else len(calls) - 1
        if at >= len(calls):  # servers count from 0 without gaps; one that does not must not make us fill them
            at = len(calls)
            calls.append({})
        calls[at] = _joined(calls[at], {name: one for name, one in part.items() if name != "index"})
    return calls
