"""Behind the shield nothing comes from elsewhere, and what another web site asks is not answered."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from fabrictune.serve.chat.shield import Shield


def shielded(host: str | None) -> TestClient:
    async def answer(request: object) -> PlainTextResponse:
        return PlainTextResponse("answered", headers={"Content-Security-Policy": "default-src *"})

    return TestClient(Shield(Starlette(routes=[Route("/", answer)]), host), base_url="http://127.0.0.1:7860")


def test_an_answer_allows_nothing_from_elsewhere_whatever_the_page_says() -> None:
    (policy,) = shielded("127.0.0.1").get("/").headers.get_list("content-security-policy")
    assert policy.startswith("default-src 'self'; ")


@pytest.mark.parametrize(
    "headers", [{"host": "evil.example"}, {"host": "evil.example:7860"}, {"origin": "https://evil.example"}]
)
def test_another_web_site_is_not_answered_on_loopback(headers: dict[str, str]) -> None:
    answer = shielded("127.0.0.1").get("/", headers=headers)
    assert answer.status_code == 400 and answer.text == "This page is at 127.0.0.1 or localhost alone."
    assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_the_loopback_of_ipv6_is_as_guarded_and_answers_to_its_name() -> None:
    client = shielded("::1")
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    for name in ("[::1]:7860", "localhost:7860", "127.0.0.1:7860"):
        headers = {"host": name, "origin": f"http://{name}"}
        assert client.get("/", headers=headers).text == "answered"


def test_a_page_for_other_machines_is_answered_under_any_name() -> None:
    answer = shielded(None).get("/", headers={"host": "page.example", "origin": "https://page.example"})
    assert answer.text == "answered" and "default-src 'self'" in answer.headers["content-security-policy"]
