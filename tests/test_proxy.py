"""The recording proxy between real clients and a scripted server: what passes is unchanged, what is kept is whole."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import resource
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from asgi_server import running

from fabrictune import processes
from fabrictune.log import logger
from fabrictune.serve.capture import recording
from fabrictune.serve.capture.journal import Journal
from fabrictune.serve.capture.proxy import Count, Rules, Upstream, app
from fabrictune.serve.capture.recording import Heard

KEY = "sk-client-4711-hush-hush"
MESSAGES: Any = [{"role": "user", "content": "天气?"}]
SSE = [(b"content-type", b"text/event-stream")]
JSON = [(b"content-type", b"application/json")]

Send = Callable[..., Awaitable[None]]


@dataclass
class Seen:
    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    is_over: threading.Event = field(default_factory=threading.Event)  # the proxy has hung up or has it all

    def header(self, name: str) -> str | None:
        return next((value for known, value in self.headers if known == name), None)


class Server:
    """A server whose answers are a coroutine of the test: answer(seen, start, send)."""

    def __init__(self, answer: Callable[[Seen, Send, Send], Awaitable[None]]) -> None:
        self.answer, self.seen = answer, []  # type: tuple[Any, list[Seen]]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        path = scope["raw_path"].decode() + ("?" + scope["query_string"].decode() if scope["query_string"] else "")
        headers = [(name.decode(), value.decode()) for name, value in scope["headers"]]
        seen = Seen(scope["method"], path, headers, body)
        self.seen.append(seen)

        async def start(status: int, headers: Any) -> None:
            await send({"type": "http.response.start", "status": status, "headers": headers})

        async def pass_on(content: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": content, "more_body": more})

        async def watch() -> None:
            await receive()
            seen.is_over.set()

        watching = asyncio.create_task(watch())
        await self.answer(seen, start, pass_on)
        watching.cancel()


@dataclass
class Proxy:
    port: int
    folder: Path
    server: Server
    journal: Journal[Heard]
    count: Count

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def rows(self) -> list[dict[str, Any]]:
        lines = [line for path in sorted(self.folder.iterdir()) for line in path.read_text("utf-8").splitlines()]
        return [json.loads(line) for line in lines]

    def waited_rows(self, count: int) -> list[dict[str, Any]]:
        """The rows once there are so many: those of a client that has hung up come a moment later."""
        deadline = time.monotonic() + 10
        while len(self.rows()) < count and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.rows()

    def sdk(self, key: str = KEY) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key=key, max_retries=0, timeout=20)


@contextmanager
def proxied(
    folder: Path,
    answer: Callable[[Seen, Send, Send], Awaitable[None]],
    client_key: str | None = None,
    upstream_key: str | None = None,
    redact: bool = False,
    trust_env: bool = False,
    spelled: Callable[[Heard], str] = recording.spelled,
) -> Iterator[Proxy]:
    server, count = Server(answer), Count()
    with running(server) as port, Journal[Heard](folder, "capture", 1 << 20, spelled) as journal:
        upstream = Upstream(f"http://127.0.0.1:{port}/compatible/v1", upstream_key, trust_env)
        with running(app(upstream, journal, Rules(client_key, redact=redact), count), lifespan="on") as own:
            yield Proxy(own, folder, server, journal, count)


def completion(text: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return json.dumps(body, ensure_ascii=False).encode()


def chunk(delta: dict[str, Any], reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    body = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n".encode()


async def say_sunny(seen: Seen, start: Send, send: Send) -> None:
    body = completion("晴")
    await start(200, [*JSON, (b"content-length", b"%d" % len(body))])
    await send(body, False)


def test_a_whole_reply_reaches_the_sdk_and_the_log(tmp_path: Path) -> None:
    with proxied(tmp_path, say_sunny) as proxy:
        reply = proxy.sdk().chat.completions.create(model="m", messages=MESSAGES, stop=["Observation:"])
        assert reply.choices[0].message.content == "晴"
        (row,) = proxy.rows()
        (seen,) = proxy.server.seen
        assert (proxy.count.exchanges, proxy.count.errors) == (1, 0)
    assert seen.path == "/compatible/v1/chat/completions"
    assert seen.header("authorization") == f"Bearer {KEY}"  # the client's own, where no other is given
    assert row["request"] == json.loads(seen.body) == {"model": "m", "messages": MESSAGES, "stop": ["Observation:"]}
    assert (row["reply"], row["finish_reason"], row["status"], row["error"]) == ("晴", "stop", 200, None)
    assert row["path"] == "/v1/chat/completions" and row["streamed"] is False and 0 < row["seconds"] < 10


def test_chunks_pass_as_they_come_and_become_one_row(tmp_path: Path) -> None:
    may_go = threading.Event()
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":'}}

    async def answer(seen: Seen, start: Send, send: Send) -> None:
        await start(200, SSE)
        await send(chunk({"role": "assistant", "content": "我来"}))
        await asyncio.to_thread(may_go.wait, 10)
        await send(chunk({"content": "查询。"})[:20])  # a chunk of the connection need not be an event's end
        await send(chunk({"content": "查询。"})[20:] + chunk({"tool_calls": [call]}))
        await send(chunk({"tool_calls": [{"index": 0, "function": {"arguments": ' "北京"}'}}]}))
        await send(chunk({}, "tool_calls") + b"data: [DONE]\n\n", False)

    with proxied(tmp_path, answer) as proxy:
        stream = proxy.sdk().chat.completions.create(model="m", messages=MESSAGES, stream=True)
        assert next(stream).choices[0].delta.content == "我来"
        assert not may_go.is_set() and not proxy.rows()  # the first is here before the second was sent
        may_go.set()
        rest = list(stream)
        assert "".join(one.choices[0].delta.content or "" for one in rest) == "查询。"
        (row,) = proxy.rows()
    assert row["reply"] == "我来查询。" and row["streamed"] and row["finish_reason"] == "tool_calls"
    (told,) = row["message"]["tool_calls"]
    assert told["function"] == {"name": "weather", "arguments": '{"city": "北京"}'} and told["id"] == "c1"


def read_until(client: socket.socket, end: bytes) -> None:
    client.settimeout(20)
    said = b""
    while end not in said:
        piece = client.recv(1 << 16)
        assert piece, f"the connection has ended after {said!r}"
        said += piece


@pytest.mark.parametrize("is_streamed", [True, False])
def test_the_row_is_on_the_disk_before_the_reply_is_whole(tmp_path: Path, is_streamed: bool) -> None:
    async def answer(seen: Seen, start: Send, send: Send) -> None:
        if is_streamed:
            await start(200, SSE)
            await send(chunk({"content": "a"}, "stop"))
            await send(b"data: [DONE]\n\n")
            await asyncio.sleep(0.5)  # the connection ends much later than the stream
            await send(b"", False)
        else:
            await say_sunny(seen, start, send)

    with proxied(tmp_path, answer) as proxy, socket.create_connection(("127.0.0.1", proxy.port)) as client:
        body = b'{"messages": []}'
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n"
        client.sendall(head % len(body) + body)
        read_until(client, b"[DONE]\n\n" if is_streamed else b"}]}")
        assert len(proxy.rows()) == 1


def test_what_passes_is_unchanged_on_every_path(tmp_path: Path) -> None:
    async def answer(seen: Seen, start: Send, send: Send) -> None:
        body = gzip.compress(b"[1]")
        headers = [
            (b"set-cookie", b"a=1"),
            (b"set-cookie", b"b=2"),
            (b"x-request-id", b"r1"),
            (b"connection", b"x-hop"),
        ]
        await start(
            207, [*headers, (b"x-hop", b"1"), (b"content-encoding", b"gzip"), (b"content-length", b"%d" % len(body))]
        )
        await send(body, False)

    with proxied(tmp_path, answer) as proxy:
        client = http.client.HTTPConnection("127.0.0.1", proxy.port)
        asked = {"X-Own": "1", "Connection": "x-private, keep-alive", "X-Private": "1", "Accept-Encoding": "gzip"}
        for path in ("/v1/models/a%2Fb?x=1%202&x=3", "/tokenize", "/"):
            client.request("PUT", path, b"\x00\xff", asked)
            reply = client.getresponse()
            assert (reply.status, gzip.decompress(reply.read())) == (207, b"[1]")
            assert reply.headers.get_all("set-cookie") == ["a=1", "b=2"] and reply.headers["x-request-id"] == "r1"
            assert "x-hop" not in reply.headers and "date" not in reply.headers
        client.request("HEAD", "/v1/models")
        assert client.getresponse().read() == b""
        seen = proxy.server.seen
        assert not proxy.rows()  # no chats
    assert [one.path for one in seen] == [
        *("/compatible/v1/models/a%2Fb?x=1%202&x=3", "/compatible/tokenize", "/compatible/", "/compatible/v1/models")
    ]
    assert [one.method for one in seen] == ["PUT"] * 3 + ["HEAD"]
    assert (
        seen[0].body == b"\x00\xff" and seen[0].header("x-own") == "1" and seen[0].header("accept-encoding") == "gzip"
    )
    assert {seen[0].header(name) for name in ("x-private", "user-agent", "accept", "content-type", "cookie")} == {None}
    assert seen[1].header("cookie") is None  # one client's cookies are not kept for the next


def test_a_server_s_errors_are_passed_on_and_kept(tmp_path: Path) -> None:
    async def answer(seen: Seen, start: Send, send: Send) -> None:
        await start(429, [*JSON, (b"retry-after", b"7")])
        await send(json.dumps({"error": {"message": f"slow down, {seen.header('authorization')}"}}).encode(), False)

    with proxied(tmp_path, answer) as proxy:
        with pytest.raises(openai.RateLimitError, match="slow down") as caught:
            proxy.sdk().chat.completions.create(model="m", messages=MESSAGES)
        assert caught.value.response.headers["retry-after"] == "7"
        (row,) = proxy.rows()
        assert (proxy.count.exchanges, proxy.count.errors) == (1, 1)
    assert (row["status"], row["error"], row["reply"]) == (429, "status 429: slow down, Bearer ***", "")


def test_a_server_that_cannot_be_reached_is_named_without_its_password(tmp_path: Path) -> None:
    upstream = Upstream(f"http://user:hush-4711@127.0.0.1:{processes.free_port()}/v1", trust_env=False)
    with (
        Journal[Heard](tmp_path, "capture", 1 << 20, recording.spelled) as journal,
        running(app(upstream, journal, Rules(), Count()), lifespan="on") as port,
        pytest.raises(openai.InternalServerError, match="cannot be reached") as caught,
    ):
        sdk = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=KEY, max_retries=0)
        sdk.chat.completions.create(model="m", messages=MESSAGES)
    assert caught.value.status_code == 502 and "hush" not in str(caught.value)
    assert upstream.shown in str(caught.value)
    (line,) = [path.read_text("utf-8") for path in tmp_path.iterdir()]
    assert json.loads(line)["status"] == 502 and "hush" not in line


def test_a_login_in_netrc_is_nobody_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login bob password hush-4711\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with proxied(tmp_path / "log", say_sunny, trust_env=True) as proxy:
        for given in ({"Authorization": f"Bearer {KEY}"}, {}):
            assert httpx2.post(proxy.url + "/chat/completions", headers=given, content=b"{}").status_code == 200
        assert [seen.header("authorization") for seen in proxy.server.seen] == [f"Bearer {KEY}", None]


@pytest.mark.parametrize("is_direct", [False, True])
def test_the_environment_s_proxy_is_used_with_its_login_and_not_for_no_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_direct: bool
) -> None:
    between = Server(say_sunny)
    with running(between) as port, Journal[Heard](tmp_path, "capture", 1 << 20, recording.spelled) as journal:
        monkeypatch.setenv("http_proxy", f"http://bob:hush-4711@127.0.0.1:{port}")
        monkeypatch.setenv("no_proxy", "127.0.0.1,localhost" if is_direct else "127.0.0.1")
        upstream = Upstream(f"http://localhost:{processes.free_port()}/v1")
        with running(app(upstream, journal, Rules(), Count()), lifespan="on") as own:
            headers = {"Authorization": f"Bearer {KEY}"}
            reply = httpx2.post(f"http://127.0.0.1:{own}/v1/chat/completions", headers=headers, content=b"{}")
    assert reply.status_code == (502 if is_direct else 200)
    logins = [(one.header("proxy-authorization"), one.header("authorization")) for one in between.seen]
    assert logins == ([] if is_direct else [("Basic " + b64encode(b"bob:hush-4711").decode(), f"Bearer {KEY}")])


def test_an_exchange_that_cannot_be_recorded_is_told_of_though_its_client_has_hung_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(seen: Seen, start: Send, send: Send) -> None:
        await asyncio.to_thread(seen.is_over.wait, 10)

    def refuse(heard: Heard) -> str:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(logger, "propagate", True)
    with proxied(tmp_path, answer, spelled=refuse) as proxy:
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(proxy.url + "/chat/completions", content=b"{}", timeout=0.5)
        assert proxy.server.seen[0].is_over.wait(5)
    assert "an exchange could not be recorded" in caplog.text and "a fault of ours" in caplog.text


@pytest.mark.parametrize("has_begun", [True, False])
def test_a_client_that_hangs_up_ends_the_request_to_the_server(tmp_path: Path, has_begun: bool) -> None:
    async def answer(seen: Seen, start: Send, send: Send) -> None:
        if has_begun:
            await start(200, SSE)
            await send(chunk({"content": "half"}))
        await asyncio.to_thread(seen.is_over.wait, 10)

    with proxied(tmp_path, answer) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\n{}")
            if has_begun:
                read_until(client, b"half")
            deadline = time.monotonic() + 10
            while not proxy.server.seen and time.monotonic() < deadline:
                time.sleep(0.01)
        assert proxy.server.seen[0].is_over.wait(5)
        (row,) = proxy.waited_rows(1)
    assert row["error"] == "the client hung up before the reply's end"
    assert (row["reply"], row["status"]) == (("half", 200) if has_begun else ("", 0))


def test_a_reply_that_breaks_off_is_broken_off_for_the_client_and_kept_with_the_reason(tmp_path: Path) -> None:
    async def answer(seen: Seen, start: Send, send: Send) -> None:
        await start(200, SSE)
        await send(chunk({"content": "half"}))
        raise ConnectionError("the server dies")

    with proxied(tmp_path, answer) as proxy:
        with pytest.raises((openai.APIConnectionError, httpx2.RemoteProtocolError)):
            list(proxy.sdk().chat.completions.create(model="m", messages=MESSAGES, stream=True))
        (row,) = proxy.rows()
    assert row["reply"] == "half" and "broke off" in row["error"]


def test_keys_are_asked_for_replaced_and_never_written(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("own", "both", "dropped")]
    with proxied(folders[0], say_sunny, upstream_key="sk-upstream-0815-key") as proxy:
        proxy.sdk().chat.completions.create(model="m", messages=MESSAGES)
        assert proxy.server.seen[0].header("authorization") == "Bearer sk-upstream-0815-key"
    with proxied(folders[1], say_sunny, client_key=KEY, upstream_key="sk-upstream-0815-key") as proxy:
        for wrong in ("sk-other", KEY + "x", KEY[:-1]):
            with pytest.raises(openai.AuthenticationError, match="asks for a key"):
                proxy.sdk(wrong).chat.completions.create(model="m", messages=MESSAGES)
        assert httpx2.get(proxy.url + "/models").status_code == 401
        assert not proxy.server.seen and not proxy.rows()
        proxy.sdk().chat.completions.create(model="m", messages=[{"role": "user", "content": f"My key is {KEY}."}])
        assert proxy.server.seen[0].header("authorization") == "Bearer sk-upstream-0815-key"
    with proxied(folders[2], say_sunny, client_key=KEY) as proxy:
        proxy.sdk().chat.completions.create(model="m", messages=MESSAGES)
        assert proxy.server.seen[0].header("authorization") is None  # ours is nobody else's
    written = b"".join(path.read_bytes() for folder in folders for path in folder.iterdir())
    assert written.count(b"\n") == 3 and b"My key is ***." in written
    for secret in (KEY, "sk-upstream-0815-key", "Authorization", "authorization"):
        assert secret.encode() not in written


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:80", "Origin": "https://evil.example", "Content-Type": "text/plain"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
def test_a_web_site_spends_no_key_and_writes_nothing(tmp_path: Path, headers: dict[str, str]) -> None:
    with proxied(tmp_path, say_sunny, upstream_key="sk-upstream-0815-key") as proxy:
        for method in ("POST", "OPTIONS", "GET"):
            reply = httpx2.request(method, proxy.url + "/chat/completions", headers=headers)
            assert reply.status_code == 403 and reply.json()["error"]["code"] == "foreign_site"
        assert not proxy.server.seen and not proxy.rows()
        own = {"Host": f"localhost:{proxy.port}", "Origin": "http://127.0.0.1:3000"}  # a page of this machine
        assert httpx2.post(proxy.url + "/chat/completions", headers=own, content=b"{}").status_code == 200


def test_a_client_that_has_the_proxy_s_key_may_ask_from_anywhere_by_any_name(tmp_path: Path) -> None:
    with proxied(tmp_path, say_sunny, client_key=KEY) as proxy:
        headers = {"Host": "gpu-box", "Origin": "https://chat.example", "Authorization": f"Bearer {KEY}"}
        assert httpx2.post(proxy.url + "/chat/completions", headers=headers, content=b"{}").status_code == 200


def test_a_word_in_a_key_s_place_stays_in_the_text_where_no_client_needs_a_key(tmp_path: Path) -> None:
    said: Any = [{"role": "user", "content": f"My password is not-needed by fabrictune, {KEY} neither."}]
    with proxied(tmp_path, say_sunny, upstream_key="sk-upstream-0815-key") as proxy:
        for key in ("password", "not-needed", "fabrictune", KEY):
            proxy.sdk(key).chat.completions.create(model="m", messages=said)
        texts = [row["request"]["messages"][0]["content"] for row in proxy.rows()]
    assert texts == [said[0]["content"]] * 3 + ["My password is not-needed by fabrictune, *** neither."]
    with proxied(tmp_path / "own", say_sunny) as proxy:  # where it is passed on, it is the upstream's to judge
        proxy.sdk("fabrictune").chat.completions.create(model="m", messages=said)
        assert "by ***, " in proxy.rows()[0]["request"]["messages"][0]["content"]


def test_a_packed_reply_passes_packed_and_is_kept_unpacked(tmp_path: Path) -> None:
    async def answer(seen: Seen, start: Send, send: Send) -> None:
        assert seen.header("accept-encoding") == "identity"
        await start(200, [*JSON, (b"content-encoding", b"gzip")])
        await send(gzip.compress(completion("晴")), False)

    with proxied(tmp_path, answer) as proxy:
        assert proxy.sdk().chat.completions.create(model="m", messages=MESSAGES).choices[0].message.content == "晴"
        assert proxy.rows()[0]["reply"] == "晴"


def test_the_log_is_redacted_and_the_server_is_not(tmp_path: Path) -> None:
    with proxied(tmp_path, say_sunny, redact=True) as proxy:
        said: Any = [{"role": "user", "content": "Call 13812345678"}]
        proxy.sdk().chat.completions.create(model="m", messages=said)
        assert json.loads(proxy.server.seen[0].body)["messages"] == said
        assert proxy.rows()[0]["request"]["messages"][0]["content"] == "Call <phone-1>"


def test_while_the_log_cannot_be_written_replies_in_flight_arrive_and_no_other_is_asked_for(tmp_path: Path) -> None:
    with proxied(tmp_path, say_sunny) as proxy:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # the kernel's EFBIG stands in for a full disk
        try:
            reply = proxy.sdk().chat.completions.create(model="m", messages=MESSAGES)
            assert reply.choices[0].message.content == "晴"
            with pytest.raises(openai.InternalServerError, match="capture log cannot be written") as caught:
                proxy.sdk().chat.completions.create(model="m", messages=MESSAGES)
            assert caught.value.status_code == 503 and len(proxy.server.seen) == 1
            assert httpx2.get(proxy.url + "/models").status_code == 200  # nothing to be kept of it
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert len(proxy.waited_rows(1)) == 1  # the one that waited
        deadline = time.monotonic() + 10
        while proxy.journal.trouble and time.monotonic() < deadline:
            time.sleep(0.02)
        proxy.sdk().chat.completions.create(model="m", messages=MESSAGES)
        assert len(proxy.rows()) == 2


def test_many_streams_at_a_time_are_kept_apart(tmp_path: Path) -> None:
    async def answer(seen: Seen, start: Send, send: Send) -> None:
        number = json.loads(seen.body)["messages"][0]["content"]
        await start(200, SSE)
        for part in range(10):
            await send(chunk({"content": f"{number}.{part} "}))
            await asyncio.sleep(0.005)
        await send(chunk({}, "stop") + b"data: [DONE]\n\n", False)

    async def ask(sdk: openai.AsyncOpenAI, number: int) -> str:
        said: Any = [{"role": "user", "content": str(number)}]
        stream = await sdk.chat.completions.create(model="m", messages=said, stream=True)
        return "".join([one.choices[0].delta.content or "" async for one in stream])

    async def ask_all(url: str) -> list[str]:
        async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as sdk:
            return await asyncio.gather(*(ask(sdk, number) for number in range(32)))

    with proxied(tmp_path, answer) as proxy:
        replies = asyncio.run(ask_all(proxy.url))
        rows = proxy.rows()
    assert replies == ["".join(f"{number}.{part} " for part in range(10)) for number in range(32)]
    assert {row["request"]["messages"][0]["content"]: row["reply"] for row in rows} == dict(
        zip(map(str, range(32)), replies, strict=True)
    )
    assert len({row["id"] for row in rows}) == 32


@pytest.mark.parametrize(
    ("url", "path", "query", "expected"),
    [
        (
            "https://a.b/compatible-mode/v1",
            "/v1/chat/completions",
            "",
            "https://a.b/compatible-mode/v1/chat/completions",
        ),
        ("https://a.b/v1/", "/v1/models", "x=1", "https://a.b/v1/models?x=1"),
        ("https://a.b/v1", "/health", "", "https://a.b/health"),
        ("https://a.b/api/paas/v4", "/v1/chat/completions", "", "https://a.b/api/paas/v4/chat/completions"),
        ("https://a.b", "/v1/models", "", "https://a.b/models"),
        ("https://a.b/v1", "/v10/x", "", "https://a.b/v10/x"),
    ],
)
def test_paths_lead_to_the_server_s_own(url: str, path: str, query: str, expected: str) -> None:
    assert str(Upstream(url).target(path, query)) == expected
