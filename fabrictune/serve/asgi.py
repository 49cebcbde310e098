"""A chat request's body, read before the server's app is asked, and given on as it was or as another one."""

from __future__ import annotations

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Scope

ROUTE = "/v1/chat/completions"


def is_chat(scope: Scope) -> bool:
    """Whether a chat is asked for, by the route that clients use."""
    return bool(scope["type"] == "http" and scope["method"] == "POST" and scope["path"] == ROUTE)


async def body_of(scope: Scope, receive: Receive) -> bytes | None:
    """The whole body, None if the client has gone."""
    try:
        return await Request(scope, receive).body()
    except ClientDisconnect:
        return None


def with_body(scope: Scope, receive: Receive, body: bytes) -> tuple[Scope, Receive]:
    """What the app behind is given instead, so that it reads this body; then it hears of the client as before."""
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_body() -> Message:
        return waiting.pop() if waiting else await receive()

    return {**scope, "headers": [*headers, (b"content-length", str(len(body)).encode())]}, receive_body
