"""A recording proxy: passes requests on to an OpenAI-compatible server as they come, and keeps each exchange.

A reply passes chunk by chunk. Its last bytes wait until the exchange is on the disk, so that whatever a client has
whole is in the log.
"""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import aiohttp
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send
from yarl import URL

from fabrictune import addresses, record
from fabrictune.log import logger
from fabrictune.serve import guard
from fabrictune.serve.capture.journal import Journal
from fabrictune.serve.capture.recording import Heard, Hiding, request_told

RECORDED = ("/chat/completions", "/completions")  # ends of paths
CONNECT_SECONDS = 10.0  # a server may take minutes to answer, but not to take up a connection
IDLE_SECONDS = 4.0  # a connection is kept; uvicorn, and so vLLM, closes its own after 5
STATUS_SECONDS = 10.0
LONGEST_HEADER = 1 << 16
# Of one connection, not of what passes over it (RFC 9110, 7.6.1), or set anew for the next connection.
HOP_BY_HOP = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"),
        *("te", "trailer", "transfer-encoding", "upgrade"),
    }
)
OURS = HOP_BY_HOP | {"host", "content-length", "expect"}
SHORTEST_KEY = 16  # of what a client sends that needs no key: shorter, or without a digit, it is a word ("not-needed")
KEY_HEADERS = ("authorization", "api-key", "x-api-key")
# Set by the client library where a client sends none, were it not for this.
NOT_ADDED = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
DONE = b"\ndata: [DONE]"

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Upstream:
    """The server behind the proxy. `url` ends in what its /v1 is; `key` is given to it instead of the client's own."""

    url: str
    key: str | None = None
    trust_env: bool = True  # whether HTTPS_PROXY, HTTP_PROXY and NO_PROXY hold for it

    @property
    def shown(self) -> str:
        return addresses.shown(self.url)

    @property
    def proxy(self) -> str | None:
        """The address of the proxy that the environment names for it."""
        url = URL(self.url)
        is_direct = not self.trust_env or urllib.request.proxy_bypass(url.host or "")
        return None if is_direct else urllib.request.getproxies().get(url.scheme)

    def target(self, path: str, query: str) -> URL:
        """Where a request for the path goes: /v1/x to the url's /x, any other path beside the url's /v1."""
        base = self.url.rstrip("/")
        whole = base + path[3:] if path == "/v1" or path.startswith("/v1/") else base.removesuffix("/v1") + path
        return URL(f"{whole}?{query}" if query else whole, encoded=True)


@dataclass
class Count:
    """What has gone through."""

    exchanges: int = 0
    errors: int = 0


@dataclass(frozen=True)
class Rules:
    """`client_key` is what clients must give; where there is none, any program on this machine may ask, and no web
    site: that asks by another name than this machine's or `host`, which is the one that the proxy listens at. With
    `redact` the log holds placeholders for personal data.
    """

    client_key: str | None = None
    host: str = "127.0.0.1"
    redact: bool = False


def app(upstream: Upstream, journal: Journal[Heard], rules: Rules, count: Count) -> Starlette:
    """The proxy as an ASGI app."""
    proxy = _Proxy(upstream, journal, rules, count)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        with ThreadPoolExecutor(1, "redaction") as proxy.aside:
            async with _session(upstream) as proxy.session:
                telling = asyncio.create_task(_tell(journal, count))
                yield
                telling.cancel()

    return Starlette(routes=[Route("/{path:path}", proxy)], lifespan=lifespan)


def _session(upstream: Upstream) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),  # one client's cookies are not another's
        auto_decompress=False,
        skip_auto_headers=NOT_ADDED,
        proxy=upstream.proxy,  # and no trust_env, by which ~/.netrc would replace what a client sends
        max_line_size=LONGEST_HEADER,
        max_field_size=LONGEST_HEADER,
    )


def status(journal: Journal[Heard], count: Count) -> str:
    """What has gone through, in a line."""
    return f"{count.exchanges:,} exchanges, {count.errors:,} errors, {journal.size / 1e6:.1f} MB"


async def _tell(journal: Journal[Heard], count: Count) -> None:
    known = 0
    while True:
        await asyncio.sleep(STATUS_SECONDS)
        if count.exchanges != known:
            known = count.exchanges
            logger.info("%s", status(journal, count))


class _Proxy:
    """The ASGI endpoint. A class, because Starlette gives a function a Request and no way to send."""

    session: aiohttp.ClientSession
    aside: ThreadPoolExecutor

    def __init__(self, upstream: Upstream, journal: Journal[Heard], rules: Rules, count: Count) -> None:
        self.upstream, self.journal, self.rules, self.count = upstream, journal, rules, count

    @property
    def has_key_of_its_own(self) -> bool:
        """Whether the key that a client sends is for the proxy, and not passed on."""
        return bool(self.upstream.key or self.rules.client_key or URL(self.upstream.url).user)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        if refusal := self._refusal(request):
            await refusal(scope, receive, send)
            return
        try:
            body = await request.body()
        except ClientDisconnect:
            return
        passing = _Passing(self, request, body, send)
        task = asyncio.current_task()
        assert task is not None

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            passing.has_hung_up = True
            task.cancel()

        watching = asyncio.create_task(watch())
        try:
            await passing.run()
        finally:
            watching.cancel()

    def _refusal(self, request: Request) -> JSONResponse | None:
        key = self.rules.client_key
        given = request.headers.get("authorization", "").encode("latin-1")  # as it came
        if key and not guard.is_bearer(given, key.encode()):
            return _error(401, "invalid_api_key", "this proxy asks for a key: send it as Authorization: Bearer KEY")
        if not key and (foreign := _foreign(request, self.rules.host)):
            words = (
                f"{foreign} is not this machine; others than its own programs need the proxy's key (docs/capture.md)"
            )
            return _error(403, "foreign_site", words)
        if self.journal.trouble and _is_recorded(request):
            words = f"the capture log cannot be written ({self.journal.trouble}), so nothing is passed on"
            return _error(503, "capture_failed", words)
        return None


class _Passing:
    """One request on its way, and back."""

    def __init__(self, proxy: _Proxy, request: Request, body: bytes, send: Send) -> None:
        self.proxy, self.request, self.body, self._send = proxy, request, body, send
        secrets = (proxy.upstream.key or "", proxy.rules.client_key or "", *_secrets(request, proxy.has_key_of_its_own))
        self.heard = Heard(request.url.path, body, Hiding(secrets, proxy.rules.redact))
        self.is_recorded = _is_recorded(request)
        self.due: int | None = None  # bytes of the reply, if the server says
        self.is_kept = self.has_begun = self.has_hung_up = False

    async def run(self) -> None:
        """Asks the server and passes on what it answers, as it comes."""
        if self.is_recorded and self.proxy.rules.redact:  # while the server answers, and not after its last token
            self.heard.asked = self.proxy.aside.submit(request_told, self.heard)
        try:
            async with self._ask() as reply:
                await self._begin(reply)
                async for chunk in reply.content.iter_any():
                    await self._pass_on(chunk)
                await self._kept()
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        except (aiohttp.ClientError, OSError, ValueError) as error:  # timeouts are OSErrors
            await self._fail(error)
        except asyncio.CancelledError:  # ends here: nobody is left to hear of it
            await self._stop()

    def _ask(self) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        query = self.request.scope["query_string"].decode("latin-1")
        path = self.request.scope["raw_path"].decode("latin-1")
        return self.proxy.session.request(
            self.request.method,
            self.proxy.upstream.target(path, query),
            headers=self._headers(),
            data=self.body or None,
            allow_redirects=False,
        )

    def _headers(self) -> list[tuple[str, str]]:
        upstream = self.proxy.upstream
        left_out = OURS | _named_by_connection(self.request.headers.getlist("connection"))
        if self.proxy.has_key_of_its_own:
            left_out |= {"authorization"}  # the client's is for us
        if self.is_recorded:
            left_out |= {"accept-encoding"}
        headers = [
            (name.decode("latin-1"), value.decode("utf-8", "replace"))
            for name, value in self.request.headers.raw
            if name.decode("latin-1") not in left_out
        ]
        if upstream.key:
            headers.append(("Authorization", f"Bearer {upstream.key}"))
        if self.is_recorded:
            headers.append(("Accept-Encoding", "identity"))
        return headers

    async def _begin(self, reply: aiohttp.ClientResponse) -> None:
        heard = self.heard
        heard.status, heard.kind = reply.status, reply.headers.get("Content-Type", "")
        heard.packing = reply.headers.get("Content-Encoding", "identity")
        length = reply.headers.get("Content-Length", "")
        self.due = int(length) if length.isdecimal() else None
        left_out = HOP_BY_HOP | _named_by_connection(reply.headers.getall("Connection", ()))
        headers = [one for one in reply.raw_headers if one[0].decode("latin-1").lower() not in left_out]
        await self._start(reply.status, headers)

    async def _start(self, status: int, headers: Headers) -> None:
        self.has_begun = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _pass_on(self, chunk: bytes) -> None:
        if self.is_recorded:
            self.heard.body += chunk
            if len(self.heard.body) == self.due or self._is_done():
                await self._kept()
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    def _is_done(self) -> bool:
        """Whether the stream's own end has come, after which clients do not wait for the connection's."""
        tail = bytes(self.heard.body[-len(DONE) - 4 :])
        return self.heard.is_streamed and (b"\n" + tail).rstrip().endswith(DONE)

    async def _fail(self, error: Exception) -> None:
        words = record.masked(" ".join(str(error).split()) or type(error).__name__)
        upstream = self.proxy.upstream.shown
        if self.has_begun:
            self.heard.fault = f"{upstream} broke off: {words}"
            logger.warning("%s", self.heard.fault)
            await self._kept()
            return  # an answer without its end: the client's connection is cut, as ours was
        answer = _error(502, "upstream_unreachable", f"{upstream} cannot be reached: {words}")
        logger.warning("%s cannot be reached: %s", upstream, words)
        self.heard.status, self.heard.kind = 502, "application/json"
        self.heard.body += bytes(answer.body)
        await self._start(502, answer.raw_headers)
        await self._kept()
        await self._send({"type": "http.response.body", "body": answer.body})

    async def _stop(self) -> None:
        """Keeps what there is, without waiting for the disk, because the client or the proxy itself is leaving."""
        if self.is_kept:
            return
        self.heard.fault = f"the {'client hung up' if self.has_hung_up else 'proxy was stopped'} before the reply's end"
        if done := self._keep():
            done.add_done_callback(_tell_fault)
        if not self.has_hung_up and not self.has_begun:  # a client that has the beginning finds its connection cut
            await _error(503, "capture_stopped", self.heard.fault)(self.request.scope, _nothing, self._send)

    async def _kept(self) -> None:
        """Returns when the exchange is on the disk, or the disk does not take it: the client gets its reply."""
        if done := self._keep():
            try:
                await asyncio.shield(asyncio.wrap_future(done))
            except OSError:  # the journal says so, keeps the line and tries again
                pass
            except Exception:  # a fault of ours costs the row, not the client's reply
                _tell_fault(done)

    def _keep(self) -> Future[None] | None:
        """Hands the exchange to the journal, once, if it is one to be kept."""
        if not self.is_recorded or self.is_kept:
            return None
        self.is_kept = True
        self.heard.seconds = time.monotonic() - self.heard.clock
        self.proxy.count.exchanges += 1
        self.proxy.count.errors += self.heard.fault is not None or self.heard.status >= 400
        return self.proxy.journal.append(self.heard)


def _tell_fault(done: Future[None]) -> None:
    error = done.exception()
    if error is not None and not isinstance(error, OSError):  # of which the journal tells
        logger.error("an exchange could not be recorded", exc_info=error)


def _is_recorded(request: Request) -> bool:
    return request.method == "POST" and request.url.path.endswith(RECORDED)


async def _nothing() -> Message:
    """What a client says that has nothing more to say."""
    return {"type": "http.disconnect"}


def _foreign(request: Request, host: str) -> str | None:
    """The header that says that a web site asks: its page has an origin, and its name may lead to this machine."""
    for name in ("host", "origin"):
        for value in request.headers.getlist(name):
            if not addresses.is_own(value, host):
                return f"{name.capitalize()}: {value}"
    return None


def _secrets(request: Request, has_key_of_its_own: bool) -> Iterator[str]:
    """What a client authorizes itself with; a word in a key's place, which is asked for by nobody, is none."""
    for name in KEY_HEADERS:
        value = request.headers.get(name, "").rpartition(" ")[2]
        is_word = len(value) < SHORTEST_KEY or not any(character.isdigit() for character in value)
        if not (name == "authorization" and has_key_of_its_own and is_word):
            yield value


def _named_by_connection(values: Iterable[str]) -> set[str]:
    return {name.strip().lower() for value in values for name in value.split(",")}


def _error(status: int, code: str, words: str) -> JSONResponse:
    """An answer as OpenAI's servers give it."""
    return JSONResponse({"error": {"message": words, "type": code, "param": None, "code": code}}, status)
