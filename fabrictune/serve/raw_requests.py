"""AgentFabric's own requests: the calls in their replies bounded by a grammar of the tools in their text.

They carry no `tools`, so the server's tool parser never sees them, and the client sends no grammar. This stands before
vLLM's app, reads the tools out of the system message as training data is read, and puts the grammar into the request.
Only tools that the newest user message names as well are on offer: knowledge may hold any text, a copied prompt too.

All of that runs in the server's event loop. What would take it long is left without a grammar, with a warning.
"""

from __future__ import annotations

import functools
import json

from starlette.types import ASGIApp, Receive, Scope, Send

from fabrictune import protocol
from fabrictune.dialogue import Json, Tool
from fabrictune.formats import captured_system
from fabrictune.log import logger
from fabrictune.serve import asgi, grammars

# Who sends one of these speaks another interface, or has a grammar already.
OTHERS = ("tools", "functions", "structured_outputs", "response_format")
SYSTEM_CHARACTERS = 200_000  # of a system message: 50,000 tokens, read in 0.4 s at the very worst


class Bounded:
    """The ASGI app, which gets requests of AgentFabric's with a grammar and every other one byte for byte."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if asgi.is_chat(scope):
            body = await asgi.body_of(scope, receive)
            if body is None:
                return
            scope, receive = asgi.with_body(scope, receive, bounded(body))
        await self.app(scope, receive, send)


def bounded(body: bytes) -> bytes:
    """The request with a grammar for its calls, as it is if it is none of AgentFabric's or offers no tools."""
    try:
        request = json.loads(body)
        system, *said = request["messages"]
        newest = next(message["content"] for message in reversed(said) if message["role"] == "user")
        are_texts = isinstance(system["content"], str) and isinstance(newest, str)
        if system["role"] != "system" or not are_texts or any(request.get(key) for key in OTHERS):
            return body
    except (ValueError, TypeError, LookupError, StopIteration, RecursionError):  # whatever it is, the server answers it
        return body
    try:
        tag = _tag_of(system["content"], newest)
        return json.dumps(request | {"structured_outputs": {"structural_tag": tag}}).encode() if tag else body
    except (ValueError, RecursionError) as error:
        if protocol.ARGUMENTS in system["content"]:  # it speaks of calls; any other text is none of AgentFabric's
            _warn(str(error))
        return body


def _tag_of(system: str, newest: str) -> str | None:
    """The grammar, None if there are no tools. Raises ValueError for messages that are not AgentFabric's."""
    if len(system) > SYSTEM_CHARACTERS:
        raise ValueError(f"the system message has {len(system)} characters, more than {SYSTEM_CHARACTERS}")
    tools = captured_system.read_offer(system, newest)
    return _written(tuple((tool.name, json.dumps(_shown(tool))) for tool in tools)) if tools else None


def _shown(tool: Tool) -> Json:
    """The schema with what the client shows of one: what else stands there could take long to make a grammar of."""
    properties = {
        name: {key: schema[key] for key in ("type", "enum") if key in schema}
        for name, schema in tool.properties.items()
    }
    return {"type": "object", "properties": properties, "required": tool.required}


@functools.lru_cache(maxsize=256)  # an agent's requests offer the same few tools
def _written(tools: tuple[tuple[str, str], ...]) -> str:
    offered: list[tuple[str, Json]] = [(name, json.loads(schema)) for name, schema in tools]
    return json.dumps(grammars.structural_tag(offered).model_dump())


@functools.lru_cache(maxsize=256)
def _warn(words: str) -> None:
    """Once for each message, which says how its system message begins, and not at every request."""
    logger.warning("requests with this system message are left without a grammar: %s", words)
