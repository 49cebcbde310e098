"""An OpenAI-compatible endpoint on loopback that streams what a function of the test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# body -> the reply's pieces as they come (a text is cut into pieces), or a status and a body.
Model = Callable[[dict[str, Any]], str | Iterable[str] | tuple[int, dict[str, Any]]]


class Endpoint(ThreadingHTTPServer):
    """`bodies` and `keys` are the requests and their authorizations, in the order they came in.

    `left` is set when a client hangs up in the middle of a reply. Without `counts` no usage is reported.
    With a `key`, who does not give it is refused.
    """

    daemon_threads = True

    def __init__(self, model: Model, names: Iterable[str], counts: bool, key: str | None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.model, self.names, self.counts, self.key = model, list(names), counts, key
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.left = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has hung up is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""

    def do_GET(self) -> None:
        self.server.keys.append(self.headers["Authorization"])
        if self.server.key and self.server.keys[-1] != f"Bearer {self.server.key}":
            self.answer(401, {"error": "Unauthorized"})
            return
        self.answer(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in self.server.names]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        self.server.keys.append(self.headers["Authorization"])
        said = self.server.model(body)
        if isinstance(said, tuple):
            self.answer(*said)
            return
        pieces = [said[at : at + 7] for at in range(0, len(said), 7)] if isinstance(said, str) else said
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            self.stream(pieces)
        except OSError:
            self.server.left.set()

    def stream(self, pieces: Iterable[str]) -> None:
        count = 0
        for count, piece in enumerate(pieces, start=1):  # noqa: B007
            self.event([{"index": 0, "delta": {"content": piece}, "finish_reason": None}])
        self.event([{"index": 0, "delta": {}, "finish_reason": "stop"}])
        if self.server.counts:
            self.event([], usage={"prompt_tokens": 9, "completion_tokens": count, "total_tokens": 9 + count})
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, choices: list[dict[str, Any]], **more: Any) -> None:
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, **more}
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.flush()

    def answer(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def streaming(
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
