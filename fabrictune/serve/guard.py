"""A door before a server: every route asks for the key, but for the one that says whether the server is up.

vLLM by itself asks for it under /v1 and a few other prefixes only, while its /invocations answers the same requests
and its /tokenize shows the chat template (vLLM 0.32, entrypoints/serve/middleware/authenticate.py).
"""

from __future__ import annotations

import hmac
import json
import os

from starlette.types import ASGIApp, Receive, Scope, Send

OPEN = "/health"
REFUSAL = json.dumps(
    {"error": {"message": "no key, or the wrong one", "type": "invalid_request_error", "code": "invalid_api_key"}}
).encode()


def is_bearer(authorization: bytes, key: bytes) -> bool:
    """Whether the header's value is `Bearer KEY`; how long it takes says nothing of the key."""
    scheme, _, given = authorization.partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), key)


class Guard:
    """The ASGI app behind the key that VLLM_API_KEY holds: 401 without `Authorization: Bearer KEY`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.key = os.environ["VLLM_API_KEY"].encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and not self._is_known(scope):
            await send({"type": "websocket.close", "code": 1008})  # RFC 6455: against the server's policy
        elif scope["type"] == "http" and not (
            # A browser asks whether it may send the key before it sends it.
            scope["method"] == "OPTIONS" or scope["path"] == OPEN or self._is_known(scope)
        ):
            headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": REFUSAL})
        else:
            await self.app(scope, receive, send)

    def _is_known(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        return bool(given) and is_bearer(given[0], self.key)
