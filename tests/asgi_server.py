"""A scripted server as an ASGI app, and any ASGI app on a loopback port."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import uvicorn
from starlette.types import Receive, Scope, Send

from fabrictune import processes

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
JSON = [(b"content-type", b"application/json")]
STREAM = [(b"content-type", b"text/event-stream; charset=utf-8")]

Served = tuple[int, list[tuple[bytes, bytes]], list[bytes]]  # status, headers, pieces of the body


class Scripted:
    """Answers with `reply` of the request; `asked` are the requests' headers and bodies, byte for byte."""

    def __init__(self, reply: Callable[[dict[str, Any]], Served]) -> None:
        self.reply = reply
        self.asked: list[tuple[list[tuple[bytes, bytes]], bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message.get("more_body", False)
        self.asked.append((list(scope["headers"]), body))
        try:
            request = json.loads(body)
        except (ValueError, RecursionError):
            request = {}
        status, headers, pieces = self.reply(request)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def saying(text: str, size: int = 3) -> Callable[[dict[str, Any]], Served]:
    """The script of one reply, streamed in pieces of so many characters to who asks for it."""

    def reply(body: dict[str, Any]) -> Served:
        return (200, STREAM, [chunks(text, size)]) if body.get("stream") else (200, JSON, [completion(text)])

    return reply


def completion(*texts: str | None) -> bytes:
    choices = [
        {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": "stop", "stop_reason": "x"}
        for index, text in enumerate(texts)
    ]
    return json.dumps({"id": "c1", "model": "m", "choices": choices, "usage": USAGE}, ensure_ascii=False).encode()


def chunks(text: str, size: int, reason: str = "stop") -> bytes:
    """A reply as vLLM streams it: the role, a piece an event, the reason of its end, the usage, and the end."""
    deltas: list[tuple[dict[str, Any], str | None]] = [({"role": "assistant", "content": ""}, None)]
    deltas += [({"content": text[at : at + size]}, None) for at in range(0, len(text), size)]
    deltas += [({"content": ""}, reason)]
    frame = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    events = [
        frame | {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]} for delta, reason in deltas
    ] + [frame | {"choices": [], "usage": USAGE}]
    lines = [f"data: {json.dumps(event, ensure_ascii=False)}\n\n" for event in events]
    return "".join([*lines, "data: [DONE]\n\n"]).encode()


@contextmanager
def running(application: Any, lifespan: Literal["on", "off"] = "off") -> Iterator[int]:
    """The app on a free loopback port, which it yields, while the block runs. It says nothing of itself."""
    port = processes.free_port()
    settings = uvicorn.Config(
        application, port=port, log_config=None, lifespan=lifespan, date_header=False, server_header=False
    )
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started:
            assert thread.is_alive() and time.monotonic() < deadline, "the server has not started"
            time.sleep(0.01)
        yield port
    finally:
        server.should_exit = server.force_exit = True
        thread.join()
