"""A streamed reply arrives piece by piece with its speed, and whatever goes wrong is said in a sentence."""

from __future__ import annotations

import asyncio
import sys
import threading
import time

import pytest
from endpoint import serving

from fabrictune.serve.chat.streaming import End, Model, Piece, Provider, Server, available, models, stream

BODY = {"model": "the-model", "messages": [{"role": "user", "content": "hi"}], "stop": ["Observation:"]}


async def collected(server: Server) -> list[Piece | End]:
    return [event async for event in stream(server, BODY)]


def test_a_reply_comes_in_pieces_and_ends_with_its_tokens_and_seconds() -> None:
    seen = threading.Event()

    def waiting(body):
        time.sleep(0.1)
        yield "Good "
        assert seen.wait(10), "the first piece was held back"
        yield "day"
        yield "."

    async def taken(server: Server) -> list[Piece | End]:
        events = []
        async for event in stream(server, BODY):
            events.append(event)
            if not seen.is_set():
                await asyncio.sleep(0.2)
                seen.set()
        return events

    with serving(waiting) as endpoint:
        *pieces, end = asyncio.run(taken(Server(endpoint.bare_url, "sesame")))
    assert pieces == [Piece("Good "), Piece("day"), Piece(".")]
    assert isinstance(end, End) and end.reason == "stop" and end.tokens == 3
    assert end.first is not None and end.first >= 0.1 and end.seconds >= end.first + 0.2
    assert end.tokens_per_second == pytest.approx(3 / end.seconds)
    assert endpoint.bodies == [BODY | {"stream": True, "stream_options": {"include_usage": True}}]
    assert endpoint.keys == ["Bearer sesame"]


def test_without_a_key_none_is_sent_whatever_the_environment_holds(monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "for another host")
    with serving(lambda body: "x") as endpoint:
        asyncio.run(collected(Server(endpoint.bare_url)))
    assert endpoint.keys == ["Bearer EMPTY"]


def test_a_server_that_counts_no_tokens_gives_no_rate() -> None:
    with serving(lambda body: "x", counts=False) as endpoint:
        end = asyncio.run(collected(Server(endpoint.bare_url)))[-1]
    assert isinstance(end, End) and end.tokens is None and end.tokens_per_second is None


def test_a_lone_surrogate_becomes_a_question_mark() -> None:
    with serving(lambda body: ["a\ud83db"]) as endpoint:
        assert asyncio.run(collected(Server(endpoint.bare_url)))[0] == Piece("a?b")


def test_a_refusal_is_told_without_the_key() -> None:
    refusal = (401, {"error": {"message": "wrong key sesame", "type": "auth", "code": "invalid_api_key"}})
    with serving(lambda body: refusal) as endpoint, pytest.raises(RuntimeError) as error:
        asyncio.run(collected(Server(endpoint.bare_url, "sesame")))
    assert "refused the key that was given" in str(error.value) and "wrong key ***" in str(error.value)


def test_a_refused_key_is_told_by_its_setting() -> None:
    refusal = (403, {"error": {"message": "no", "type": "auth", "code": 403}})
    with serving(lambda body: refusal) as endpoint, pytest.raises(RuntimeError, match=r"refused a .*; my\.key_env= "):
        asyncio.run(collected(Server(endpoint.bare_url, None, "my.key_env")))


def test_only_the_first_request_looks_a_servers_name_up_on_the_loop() -> None:
    looked_up: list[int] = []
    seen = [looked_up]
    sys.addaudithook(  # it stays for ever, and does nothing once `seen` is empty
        lambda event, given: seen[0].append(threading.get_ident()) if seen and event == "socket.getaddrinfo" else None
    )
    with serving(lambda body: "x") as endpoint:
        server = Server(endpoint.bare_url)
        for _ in range(3):
            asyncio.run(collected(server))
    seen.clear()
    assert looked_up.count(threading.get_ident()) == 1


def test_a_connection_cut_in_the_middle_is_an_error() -> None:
    def cut(body):
        yield "Good"
        raise OSError

    with serving(cut) as endpoint, pytest.raises(ConnectionError, match="broke off|cannot be reached"):
        asyncio.run(collected(Server(endpoint.bare_url)))


def test_models_of_several_servers_are_told_apart_and_a_missing_server_is_named() -> None:
    with serving(lambda body: "", names=("base", "tuned")) as one, serving(lambda body: "", names=("base",)) as two:
        gone = Server("http://user:hush@127.0.0.1:9/v1")
        found, troubles = asyncio.run(
            available(
                [
                    Provider(Server(one.bare_url)),
                    Provider(Server(two.bare_url), "far"),
                    Provider(Server(two.bare_url), "named", "hidden"),
                    Provider(gone),
                ]
            )
        )
    assert found == {
        "base": Model("base", Server(one.bare_url)),
        "tuned": Model("tuned", Server(one.bare_url)),
        "base (far)": Model("base", Server(two.bare_url)),
        "hidden (named)": Model("hidden", Server(two.bare_url)),
    }
    (trouble,) = troubles
    assert isinstance(trouble, ConnectionError) and "127.0.0.1:9/v1 cannot be reached" in str(trouble)
    assert "hush" not in str(trouble)


def test_a_page_of_html_is_no_list_of_models() -> None:
    with serving(lambda body: "") as endpoint, pytest.raises(RuntimeError, match="refused|did not answer"):
        endpoint.names = None  # type: ignore[assignment]
        Handler = endpoint.RequestHandlerClass
        endpoint.RequestHandlerClass = type(  # answers 200 with something else
            "Other", (Handler,), {"do_GET": lambda self: self.answer(200, {"models": []})}
        )
        asyncio.run(models(Server(endpoint.bare_url)))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://user:p@ss@127.0.0.1:9/v1", "http://127.0.0.1:9/v1"),
        ("HTTP://user:it's, so@[::1]:9/v1?key=hush#x", "http://[::1]:9/v1"),
        ("https://host/a@b/v1", "https://host/a@b/v1"),
    ],
)
def test_an_address_is_shown_as_scheme_host_port_and_path(url: str, expected: str) -> None:
    assert Server(url).shown == expected


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000/v1", "ftp://host/v1", "http:///v1"])
def test_an_address_without_scheme_or_host_is_refused(url) -> None:
    with pytest.raises(ValueError, match="is no address"):
        Server(url)
