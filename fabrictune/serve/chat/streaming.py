"""A reply as it comes: requests to an OpenAI-compatible endpoint that streams, and how fast it answers."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai

from fabrictune import addresses
from fabrictune.addresses import is_loopback, parts
from fabrictune.dialogue import Json

CONNECT_SECONDS = 5.0  # a person waits
READ_SECONDS = 300.0  # between two pieces; the first waits in the server's queue
ANSWER_SECONDS = 10.0  # for the list of models

# What a request that is streamed says besides, as the client has it.
STREAMED: dict[str, Json] = {"stream": True, "stream_options": {"include_usage": True}}


@dataclass(frozen=True)
class Server:
    """An endpoint whose address ends in /v1. Only the given key is sent, whatever the environment holds.

    `key_setting` is where the name of the key's variable comes from.
    """

    url: str
    key: str | None = None
    key_setting: str = ""

    def __post_init__(self) -> None:
        parts(self.url, "the server's url")

    @property
    def shown(self) -> str:
        """The address without what is secret in it."""
        return addresses.shown(self.url)

    @cached_property  # the look-up of a name may take seconds, and would hold up whoever else is on the loop
    def is_here(self) -> bool:
        """Whether it is on this machine."""
        return is_loopback(urlsplit(self.url).hostname or "")


@dataclass(frozen=True)
class Model:
    """A model by the name that its server knows it by."""

    name: str
    server: Server


@dataclass(frozen=True)
class Provider:
    """Where models come from: all that the server lists, or the one of that name. `label` tells servers apart."""

    server: Server
    label: str = ""
    model: str | None = None


@dataclass(frozen=True)
class Piece:
    """Some more text of a reply."""

    text: str


@dataclass(frozen=True)
class End:
    """The end of a reply: why it ended, if the server says; its tokens, if it counts them; seconds since the request.

    `first` is when the first text came, None if none did.
    """

    reason: str | None
    tokens: int | None
    seconds: float
    first: float | None

    @property
    def tokens_per_second(self) -> float | None:
        return self.tokens / self.seconds if self.tokens and self.seconds > 0 else None


def encodable(text: str) -> str:
    """The text with a question mark for each lone surrogate, which a model may write but UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


async def models(server: Server) -> list[str]:
    """The names of the models that it lists. Raises ConnectionError or RuntimeError, in a sentence, if it does not."""
    async with _client(server, ANSWER_SECONDS) as sdk:
        try:
            listed = (await sdk.models.list()).data
            return [encodable(str(model.id)) for model in listed]
        except (openai.OpenAIError, ValueError, TypeError, AttributeError) as error:
            raise _in_words(server, error) from error


async def available(providers: Sequence[Provider]) -> tuple[dict[str, Model], list[ConnectionError | RuntimeError]]:
    """The models to choose from, by what they are called, and for each server that lists none the error that says why.

    It is a ConnectionError where the server cannot be reached.
    """
    listed = await asyncio.gather(*(models(source.server) for source in providers), return_exceptions=True)
    found: dict[str, Model] = {}
    troubles: list[ConnectionError | RuntimeError] = []
    for source, names in zip(providers, listed, strict=True):
        if isinstance(names, ConnectionError | RuntimeError):
            troubles.append(names)
        elif isinstance(names, BaseException):
            raise names
        else:
            # A named model need not be listed: some services list only a part of what they serve.
            for name in [source.model] if source.model else names:
                label = f"{name} ({source.label})" if source.label else name
                found[label] = Model(name, source.server)
            if not names and not source.model:
                troubles.append(RuntimeError(f"{source.server.shown} lists no model"))
    return found, troubles


async def stream(server: Server, body: dict[str, Json]) -> AsyncGenerator[Piece | End, None]:
    """The reply to the request in pieces, then its End. Raises ConnectionError or RuntimeError, in a sentence."""
    first: float | None = None
    reason: str | None = None
    tokens: int | None = None
    asked: dict[str, Any] = body | STREAMED
    async with _client(server, READ_SECONDS) as sdk:
        start = time.monotonic()
        try:
            async for chunk in await sdk.chat.completions.create(**asked):
                if chunk.usage is not None:
                    tokens = chunk.usage.completion_tokens
                for choice in chunk.choices[:1]:
                    reason = choice.finish_reason or reason
                    if text := choice.delta.content:
                        first = time.monotonic() - start if first is None else first
                        yield Piece(encodable(text))
        except (openai.OpenAIError, httpx2.HTTPError, ValueError, TypeError, AttributeError) as error:
            raise _in_words(server, error) from error
        seconds = time.monotonic() - start
    if reason is None:
        raise ConnectionError(f"{server.shown} broke off in the middle of its reply")
    yield End(reason, tokens, seconds, first)


@asynccontextmanager
async def _client(server: Server, seconds: float) -> AsyncIterator[openai.AsyncOpenAI]:
    sdk = openai.AsyncOpenAI(
        base_url=server.url,
        api_key=server.key or "EMPTY",  # without one the SDK would take OPENAI_API_KEY, which is for another host
        timeout=openai.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS)),
        max_retries=0,  # a person sees the error and asks again
        http_client=openai.DefaultAsyncHttpxClient(
            verify=_certificates(),
            trust_env=not server.is_here,  # no proxy between us and this machine
        ),
    )
    async with sdk:
        yield sdk


@cache  # 20 ms, on the loop that reads the streams
def _certificates() -> ssl.SSLContext:
    return httpx2.create_ssl_context()


def _in_words(server: Server, error: Exception) -> ConnectionError | RuntimeError:
    words = encodable(" ".join(str(error.__cause__ or error).split())) or type(error).__name__
    for secret in filter(None, (server.key, urlsplit(server.url).password, urlsplit(server.url).query)):
        words = words.replace(secret, "***")
    if isinstance(error, openai.APITimeoutError):
        return ConnectionError(f"{server.shown} gave no answer in time")
    if isinstance(error, openai.APIConnectionError | httpx2.HTTPError):
        return ConnectionError(f"{server.shown} cannot be reached ({words[:300]})")
    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        given = "the key that was given" if server.key else "a request without a key"
        setting = server.key_setting
        way = f"; {setting}= names the environment variable that holds its key" if setting else ""
        return RuntimeError(f"{server.shown} refused {given} ({words[:300]}){way}")
    if isinstance(error, openai.OpenAIError):
        return RuntimeError(f"{server.shown} refused the request: {words[:300]}")
    return RuntimeError(f"{server.shown} did not answer as an OpenAI-compatible endpoint does ({words[:200]})")
