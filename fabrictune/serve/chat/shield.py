"""A shield before the chat page: it fetches nothing from elsewhere, and no other web site reaches it."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fabrictune.addresses import is_own

# Nothing is fetched from elsewhere, whatever a model or a tool writes. Gradio's own scripts build functions of text.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)


class Shield:
    """Sends the POLICY with every answer. With a host, a web site whose name leads here is not answered."""

    def __init__(self, app: ASGIApp, host: str | None) -> None:
        self.app, self.host = app, host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [pair for pair in message["headers"] if pair[0].lower() != b"content-security-policy"]
                more = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                message = {**message, "headers": [*kept, *more]}
            await send(message)

        answer: ASGIApp = self.app
        if self.host is not None and scope["type"] != "lifespan" and not _is_from_here(Headers(scope=scope), self.host):
            answer = PlainTextResponse(f"This page is at {self.host} or localhost alone.", status_code=400)
        await answer(scope, receive, guarded)


def _is_from_here(headers: Headers, host: str) -> bool:
    return is_own(headers.get("host"), host) and ("origin" not in headers or is_own(headers["origin"], host))
