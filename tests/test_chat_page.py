"""The page's application: nothing from elsewhere, a key where one is asked for, and files of tools read with care."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("gradio", reason="NO GRADIO: the chat page was not made; make install")

from fastapi.testclient import TestClient

from fabrictune import protocol
from fabrictune.dialogue import Tool
from fabrictune.serve.chat import demo_tools
from fabrictune.serve.chat import page as chat_page
from fabrictune.serve.chat.streaming import Model, Server

LOOKUP = {"name": "lookup", "description": "Looks up", "parameters": {"type": "object", "properties": {}}}
OWN = Tool("lookup", "Looks up", {"type": "object", "properties": {}})


async def no_models() -> tuple[dict[str, Model], list[str]]:
    return {}, []


def opened(host: str = "127.0.0.1", key: str | None = None, own: tuple[Tool, ...] = ()) -> TestClient:
    models = {"tuned": Model("tuned", Server("http://127.0.0.1:1/v1"))}
    app = chat_page.application(models, no_models, own, protocol.APRIL, host=host, key=key)
    return TestClient(app, base_url="http://127.0.0.1:7860")


@pytest.fixture(scope="module")
def page() -> TestClient:
    """The page with a tool of one's own; it takes a second to make."""
    return opened(own=(OWN,))


def test_the_page_offers_models_and_tools_and_forbids_to_fetch_from_elsewhere(page) -> None:
    answer = page.get("/")
    assert answer.status_code == 200 and "default-src 'self'" in answer.headers["content-security-policy"]
    config = page.get("/config").json()
    assert config["analytics_enabled"] is False
    parts = {one["props"].get("elem_id"): one["props"] for one in config["components"]}
    assert [name for name, _ in parts["model-1"]["choices"]] == ["tuned"]
    assert [name for name, _ in parts["model-2"]["choices"]] == ["none", "tuned"]
    assert [name for name, _ in parts["tools"]["choices"]] == [*demo_tools.BY_NAME, "lookup"]


def test_nothing_of_the_page_is_an_open_programming_interface(page) -> None:
    assert page.get("/gradio_api/info").json()["named_endpoints"] == {}
    assert page.get("/docs").status_code == page.get("/openapi.json").status_code == 404


def test_a_file_too_large_for_tools_is_not_taken(page) -> None:
    sizes = {"small": 1000, "large": chat_page.LARGEST_FILE + 1}
    statuses = {
        name: page.post("/gradio_api/upload", files={"files": ("t.json", b"x" * size)}).status_code
        for name, size in sizes.items()
    }
    assert statuses == {"small": 200, "large": 413}


def test_another_web_site_is_not_answered_on_loopback(page) -> None:
    assert page.get("/config", headers={"origin": "https://evil.example"}).status_code == 400


def test_with_a_key_nothing_is_told_before_one_has_logged_in() -> None:
    client = opened("0.0.0.0", "sesame")
    assert client.get("/config", headers={"host": "page.example"}).status_code == 401
    assert client.post("/login", data={"username": "fabrictune", "password": "guess"}).status_code == 400
    assert client.post("/login", data={"username": "fabrictune", "password": "sesame"}).status_code == 200
    assert client.get("/config").status_code == 200


def test_a_tool_with_a_demo_tools_name_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="called 'calculator' already"):
        opened(own=(Tool("calculator", "", {"type": "object", "properties": {}}),))


@pytest.mark.parametrize("tools", [LOOKUP, [LOOKUP], [{"type": "function", "function": LOOKUP}]])
def test_a_file_holds_tools_in_either_form(tools) -> None:
    assert [tool.name for tool in chat_page.read_file("t.json", json.dumps(tools).encode("utf-8-sig"))] == ["lookup"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "t.json: no JSON file of tools"),
        (b"\xff\xfe\x00", "t.json: no JSON file of tools"),
        (b"[" * 100_000, "t.json: no JSON file of tools"),
        (b'[{"nom": "x"}]', "a tool is no object with a name"),
        (b"[3]", "a tool is no object with a name"),
        (b"[]", "there is no tool in it but []; give a list of tools, each with name,"),
        (b"null", "there is no tool in it but null"),
        (rb'{"name": "x", "description": "\ud83d", "parameters": {}}', "surrogates not allowed"),
    ],
)
def test_a_file_that_is_none_of_tools_is_refused_by_name(content, words) -> None:
    with pytest.raises(ValueError, match="t.json") as error:
        chat_page.read_file("t.json", content)
    assert words in str(error.value)
