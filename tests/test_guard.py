"""Behind the guard every route but /health asks for the key, streams and all."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from fabrictune.serve.guard import Guard, is_bearer


async def talk(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("hello")
    await socket.close()


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> TestClient:
    monkeypatch.setenv("VLLM_API_KEY", "s3cret")

    async def answer(request: object) -> PlainTextResponse:
        return PlainTextResponse("answered")

    paths = ("/health", "/healthy", "/invocations", "/tokenize", "/v1/models")
    routes = [Route(path, answer, methods=["GET", "POST", "OPTIONS"]) for path in paths]
    return TestClient(Guard(Starlette(routes=[*routes, WebSocketRoute("/v1/realtime", talk)])))


@pytest.mark.parametrize("path", ["/invocations", "/tokenize", "/v1/models", "/healthy", "/nowhere"])
@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer s3cre"}, {"Authorization": "s3cret"}, {"Authorization": "Basic s3cret"}]
)
def test_without_the_key_no_route_answers(client: TestClient, path: str, headers: dict[str, str]) -> None:
    refused = client.post(path, headers=headers)
    assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
    assert refused.json()["error"]["code"] == "invalid_api_key"


def test_with_the_key_the_server_answers(client: TestClient) -> None:
    for scheme in ("Bearer", "bearer"):
        assert client.post("/v1/models", headers={"Authorization": f"{scheme} s3cret"}).text == "answered"


def test_health_and_a_browsers_question_are_free(client: TestClient) -> None:
    assert client.get("/health").text == "answered"
    assert client.options("/v1/models").text == "answered"


def test_a_websocket_needs_the_key_too(client: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/v1/realtime"):
        raise AssertionError("it was let in")
    with client.websocket_connect("/v1/realtime", headers={"Authorization": "Bearer s3cret"}) as socket:
        assert socket.receive_text() == "hello"


def test_a_header_is_the_key_only_as_a_whole_and_after_its_scheme() -> None:
    assert is_bearer(b"Bearer k", b"k") and is_bearer(b"BEARER  k ", b"k")
    assert not any(is_bearer(header, b"k") for header in (b"", b"k", b"Bearer", b"Bearer kk", b"Basic k", b"Bearerk"))
