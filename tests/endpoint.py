"""An OpenAI-compatible endpoint on loopback, whose model is a function of the test; it streams to who asks for it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# body -> the reply's text (cut into pieces for who asks for a stream), its pieces as they come, or a status and a body
# (and headers); an exception cuts the connection. A body is JSON, a text that is sent as a page, or bytes that are said
# to be JSON.
Model = Callable[[dict[str, Any]], str | Iterable[str] | tuple[Any, ...]]
PASSWORD = "hush-4711"


class Endpoint(ThreadingHTTPServer):
    """`bodies` are the requests in the order they came in, `keys` what each was authorized with.

    `url` holds a name and a password, `bare_url` does not. `most_at_once` is how many requests were being answered at a
    time; `left` is set when a client hangs up in the middle of a stream. Without `counts` a stream reports no usage.
    With a `key`, who does not give it is not told the models.
    """

    daemon_threads = True

    def __init__(self, model: Model, names: Iterable[str], counts: bool, key: str | None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.model, self.names, self.counts, self.key = model, list(names), counts, key
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.lock = threading.Lock()
        self.open = self.most_at_once = 0
        self.left = threading.Event()
        self.bare_url = f"http://127.0.0.1:{self.server_port}/v1"
        self.url = f"http://user:{PASSWORD}@127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has hung up is no news."""

    def asked(self, change: int) -> None:
        with self.lock:
            self.open += change
            self.most_at_once = max(self.most_at_once, self.open)


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""

    def do_GET(self) -> None:
        if self.server.key and self.headers["Authorization"] != f"Bearer {self.server.key}":
            self.answer(401, {"error": "Unauthorized"})
            return
        self.answer(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in self.server.names]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        self.server.keys.append(self.headers["Authorization"])
        self.server.asked(1)
        try:
            said = self.server.model(body)
        finally:
            self.server.asked(-1)
        if isinstance(said, tuple):
            self.answer(*said)
        elif body.get("stream"):
            self.stream([said[at : at + 7] for at in range(0, len(said), 7)] if isinstance(said, str) else said)
        else:
            self.answer(200, completion("".join(said).split("Observation:")[0]))

    def stream(self, pieces: Iterable[str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        count = 0
        try:
            for count, piece in enumerate(pieces, start=1):  # noqa: B007
                self.event([{"index": 0, "delta": {"content": piece}, "finish_reason": None}])
            self.event([{"index": 0, "delta": {}, "finish_reason": "stop"}])
            if self.server.counts:
                self.event([], usage={"prompt_tokens": 9, "completion_tokens": count, "total_tokens": 9 + count})
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            self.server.left.set()

    def event(self, choices: list[dict[str, Any]], **more: Any) -> None:
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, **more}
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.flush()

    def answer(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        page = body.encode() if isinstance(body, str) else body
        content = page if isinstance(page, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


def completion(text: str | None, reason: str = "stop", **more: Any) -> dict[str, Any]:
    """The body of an answer with one choice."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], **more}


@contextmanager
def serving(
    model: Model, names: Iterable[str] = ("the-model",), counts: bool = True, key: str | None = None
) -> Iterator[Endpoint]:
    """The endpoint, answering while the block runs."""
    server = Endpoint(model, names, counts, key)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
