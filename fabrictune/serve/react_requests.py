"""Requests with a ReAct prompt, as qwen-agent's ReActChat sends them, answered in the format that we train on.

This stands before vLLM's app, outside of `raw_requests`. It puts the messages that AgentFabric's client would send into
the request, and tells the reply in ReAct's words, whole or as it streams. All other requests pass byte for byte, and
so do errors. What a request says besides stays, its tokens and log-probabilities are those of the model's own words.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from typing import Any

import httpx2
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fabrictune import protocol
from fabrictune.dialogue import Json
from fabrictune.log import logger
from fabrictune.serve import asgi, react_text

OTHERS = ("tools", "functions")  # who sends one of these speaks another interface
DIALECT = "FABRICTUNE_DIALECT"
UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, RecursionError)  # what is no such request, or reply
DONE = "[DONE]"
STREAM = {"content-type": "text/event-stream"}

_ASKED = httpx2.Request("POST", "http://upstream")  # of which a response is, for the library to read it


class Retold:
    """The ASGI app, asked in the dialect of AgentFabric's client (FABRICTUNE_DIALECT's, if none is given)."""

    def __init__(self, app: ASGIApp, dialect: str | None = None) -> None:
        self.app = app
        self.dialect = protocol.DIALECTS[dialect or os.environ[DIALECT]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if asgi.is_chat(scope):
            body = await asgi.body_of(scope, receive)
            if body is None:
                return
            found = retold(body, self.dialect)
            changed, receive = asgi.with_body(scope, receive, found[0] if found else body)
            if found:
                scope, send = changed, _Reply(send, found[1])
        await self.app(scope, receive, send)


def retold(body: bytes, dialect: protocol.Dialect) -> tuple[bytes, str] | None:
    """(the request to send instead, its ReAct prompt), None if it has none or one that cannot be read."""
    try:
        request = json.loads(body)
        prompt = request["messages"][-1]["content"]
        own = request.get("stop") or []
        is_prompt = isinstance(prompt, str) and isinstance(own, str | list) and react_text.is_prompt(prompt)
        if not is_prompt or any(request.get(key) for key in OTHERS):
            return None
    except UNREADABLE:  # whatever it is, the server answers it
        return None
    try:
        messages = react_text.messages(request["messages"], dialect)
    except (ValueError, RecursionError) as error:
        _warn(str(error))
        return None
    stop = [*protocol.STOP, *(one for one in ([own] if isinstance(own, str) else own) if one not in protocol.STOP)]
    listed = [{"role": message.role, "content": message.content} for message in messages]
    return json.dumps(request | {"messages": listed, "stop": stop}).encode(), prompt


@functools.lru_cache(maxsize=256)
def _warn(reason: str) -> None:
    """Says once what a request is left as it is for."""
    logger.warning("requests with a ReAct prompt that cannot be read are left as they are: %s", reason)


class _Reply:
    """Sends the server's reply on, told in ReAct's words."""

    def __init__(self, send: Send, prompt: str) -> None:
        self._send = send
        self._prompt = prompt
        self._start: Message = {}
        self._kind = ""
        self._body = b""  # of a whole reply, or of an event that has not come whole
        self._tellings: dict[int, react_text.Telling] = {}  # of replies that have not ended
        self._chunk: dict[str, Json] = {}  # the last one's words about all of them

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif message["type"] != "http.response.body" or not self._kind:
            await self._send(message)
        elif self._kind == "text/event-stream":
            await self._pass_events(message)
        else:
            await self._keep(message)

    async def _begin(self, message: Message) -> None:
        kinds = [value.decode("latin-1") for name, value in message["headers"] if name.lower() == b"content-type"]
        kind = kinds[0].partition(";")[0].strip().lower() if kinds else ""
        if message["status"] == 200 and kind in ("application/json", "text/event-stream"):
            self._kind = kind
            headers = [(name, value) for name, value in message["headers"] if name.lower() != b"content-length"]
            message = {**message, "headers": headers}
        self._start = message
        if self._kind != "application/json":  # a whole reply's length is not known yet
            await self._send(message)

    async def _keep(self, message: Message) -> None:
        self._body += message.get("body", b"")
        if message.get("more_body", False):
            return
        body = self._whole(self._body)
        headers = [*self._start["headers"], (b"content-length", str(len(body)).encode())]
        await self._send({**self._start, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    def _whole(self, body: bytes) -> bytes:
        try:
            reply = json.loads(body)
            for choice in reply["choices"]:
                if isinstance(text := choice["message"].get("content"), str):
                    choice["message"]["content"] = react_text.told(text, self._prompt)
        except UNREADABLE as error:
            _warn_reply(repr(error))
            return body
        return json.dumps(reply).encode()

    async def _pass_events(self, message: Message) -> None:
        self._body += message.get("body", b"")
        is_last = not message.get("more_body", False)
        whole, mark, rest = self._body.rpartition(b"\n\n")
        if is_last:  # the last event counts even if the stream ends before the empty line after it
            whole, mark, rest = self._body, b"\n\n", b""
        self._body = rest
        events = b"".join([*self._events(whole + mark), *(self._left() if is_last else ())])
        if events or is_last:
            await self._send({**message, "body": events})

    def _events(self, text: bytes) -> Iterator[bytes]:
        response = httpx2.Response(200, headers=STREAM, content=text, request=_ASKED)
        for event in httpx2.EventSource(response, max_event_size=None):
            if event.data == DONE:
                yield from self._left()
            yield b"data: " + self._event(event.data).encode() + b"\n\n"

    def _left(self) -> Iterator[bytes]:
        """What was held back of replies that end without a word why."""
        for index, telling in self._tellings.items():
            choice = {"index": index, "delta": {"content": telling.finish()}, "finish_reason": None}
            yield b"data: " + json.dumps(self._chunk | {"choices": [choice]}).encode() + b"\n\n"
        self._tellings.clear()

    def _event(self, data: str) -> str:
        if data == DONE:
            return data
        try:
            chunk = json.loads(data)
            self._chunk = {key: value for key, value in chunk.items() if key not in ("choices", "usage")}
            for choice in chunk.get("choices") or ():
                self._retell(choice)
        except UNREADABLE as error:
            _warn_reply(repr(error))
            return data
        return json.dumps(chunk)

    def _retell(self, choice: dict[str, Json]) -> None:
        """Puts what a part of a choice makes certain in its place."""
        delta: dict[str, Any] = choice["delta"]
        telling = self._tellings.setdefault(choice["index"], react_text.Telling(self._prompt))
        piece = delta.get("content")
        text = telling.feed(piece) if isinstance(piece, str) else ""
        if choice.get("finish_reason"):
            text += telling.finish()
            del self._tellings[choice["index"]]
        if text or isinstance(piece, str):
            delta["content"] = text


@functools.lru_cache(maxsize=256)
def _warn_reply(reason: str) -> None:
    """Says once that a reply could not be told."""
    logger.warning("a reply to a ReAct prompt is passed on in the model's own words: %s", reason)
