"""An OpenAI-compatible endpoint on loopback, whose model is a function of the test."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# body -> the reply's text, or a status and a body (and headers); an exception cuts the connection. A body is JSON, a
# text that is sent as a page, or bytes that are said to be JSON.
Model = Callable[[dict[str, Any]], str | tuple[Any, ...]]
PASSWORD = "hush-4711"


class Endpoint(ThreadingHTTPServer):
    """`bodies` are the requests in the order they came in, `keys` what each was authorized with.

    `most_at_once` is how many were being answered at a time.
    """

    daemon_threads = True

    def __init__(self, model: Model) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.model = model
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.lock = threading.Lock()
        self.open = self.most_at_once = 0
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
        self.answer(200, {"object": "list", "data": [{"id": "the-model", "object": "model"}]})

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
        else:
            self.answer(200, completion(said.split("Observation:")[0]))

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
def serving(model: Model) -> Iterator[Endpoint]:
    """The endpoint, answering while the block runs."""
    server = Endpoint(model)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
