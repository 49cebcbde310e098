"""The chat page as a person uses it: a real page process, a scripted model behind HTTP, headless Chromium."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1]))
from endpoint import Endpoint, serving

from fabrictune import processes, protocol
from fabrictune.dialogue import Message, Tool
from fabrictune.serve.chat import demo_tools

pytestmark = pytest.mark.e2e

ATTACK = (
    "<script>alert('x')</script><img src='http://x.example/a.png' onerror=alert(1)>![a](http://x.example/b.png) "
    "${alert(2)} {{constructor.constructor('alert(3)')()}} </pre></details>"
)
TICKET = {
    "type": "function",
    "function": {
        "name": "ticket_status",
        "description": "Tells the state of a ticket",
        "parameters": {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]},
    },
}


def reply(body: dict[str, Any]) -> Any:
    """The scripted agent: what it calls goes by the question, and then it repeats what it was told."""
    newest = body["messages"][-1]["content"]
    _, *observations = newest.split("Observation: <result>")
    if observations:
        return f" {body['model']} says: {observations[-1].partition('</result>')[0]}"
    if "Lisbon" in newest:
        return 'I will look that up.\nAction: get_weather\nAction Input: {"city": "Lisbon"}\n'
    if "上海" in newest:
        return 'Action: get_weather\nAction Input: {"city": "上海"}\n'
    if "attack" in newest:
        return f"Action: {ATTACK}\nAction Input: {ATTACK}\n"
    if "ticket" in newest:
        return 'Action: ticket_status\nAction Input: {"id": "T7 \\ud83d"}\n'
    if "for ever" in newest:
        return endless()
    if "fail" in newest:
        return 400, {"error": {"message": "this is <b>too</b> long", "type": "BadRequestError", "code": 400}}
    return "Nothing to do."


def endless() -> Iterator[str]:
    while True:
        time.sleep(0.02)
        yield "more "


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with serving(reply, names=("tuned", "base")) as server:
        yield server


@pytest.fixture(scope="module")
def address(endpoint: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page's address, served by serve.py."""
    pytest.importorskip("gradio", reason="NO GRADIO: the chat page was not opened; make install")
    folder, port = tmp_path_factory.mktemp("chat"), processes.free_port()
    words = [sys.executable, "serve.py", "serve=chat", f"serve.upstream={endpoint.bare_url}", f"serve.port={port}"]
    words += [f"outputs={folder}", f"hydra.run.dir={folder}/hydra"]
    log = folder / "log"
    with log.open("w") as output, processes.program(words, dict(os.environ), output, grace=5) as process:
        deadline = time.monotonic() + 120
        while "the page is at" not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/"
        assert process.poll() is None, log.read_text()
    assert "Traceback" not in log.read_text(), log.read_text()


@pytest.fixture(scope="module")
def windows(browser: Any) -> Any:
    """What all windows share, gradio's scripts once fetched among it."""
    return browser.new_context(viewport={"width": 1300, "height": 900})


@pytest.fixture
def window(windows: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page in a new window, light or dark; errors, dialogs and requests to elsewhere fail the test."""
    wrong: list[str] = []
    window = windows.new_page()
    window.emulate_media(color_scheme=getattr(request, "param", "light"))
    window.set_default_timeout(15_000)
    window.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
    window.on("pageerror", lambda error: wrong.append(str(error)))
    window.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    inside = (address, "data:", "blob:")
    window.on("request", lambda asked: None if asked.url.startswith(inside) else wrong.append(asked.url))
    for _ in range(20):  # it says that it is there just before it listens
        try:
            window.goto(address)
            break
        except Exception as error:
            if "ERR_CONNECTION_REFUSED" not in str(error):
                raise
            time.sleep(0.2)
    window.wait_for_selector("#question textarea")
    yield window
    window.close()
    assert not [line for line in wrong if "ERR_CONNECTION_REFUSED" not in line]


def ask(window: Any, question: str) -> None:
    window.fill("#question textarea", question)
    window.click("#send")
    window.wait_for_selector(f".ft-query:text-is('{question}')")


def shown(window: Any, selector: str) -> str:
    window.wait_for_selector(selector)
    return str(window.locator(selector).last.text_content())


def prompt(query: str, language: str) -> list[Message]:
    """The client's first request for the query, with the tools that are chosen at first."""
    tools = [demo_tools.BY_NAME[name].tool(language) for name in ("get_weather", "order_status", "convert_currency")]
    instruction = "You are a helpful assistant." if language == "en" else "你是一个乐于助人的助手。"
    return protocol.opening(tools, instruction, "", [], query)


def test_a_question_shows_call_observation_answer_prompt_and_speed(window, endpoint) -> None:
    ask(window, "Weather in Lisbon?")
    assert shown(window, "#side-1 .ft-answer pre") == ' tuned says: {"temperature": 22, "sky": "sunshine"}'
    assert shown(window, "#side-1 .ft-thought pre") == "I will look that up."
    assert shown(window, "#side-1 .ft-tool") == "get_weather"
    assert shown(window, "#side-1 .ft-arguments") == '{"city": "Lisbon"}'
    assert shown(window, "#side-1 .ft-observation pre") == '{"temperature": 22, "sky": "sunshine"}'
    first, second = window.locator("#side-1 .ft-prompt").all()
    sent = endpoint.bodies[-2:]
    for details, body, call in zip((first, second), sent, ("", sent[1]["messages"][-1]["content"]), strict=True):
        details.locator("summary").click()
        texts = [pre.inner_text() for pre in details.locator(".ft-message").all()]
        expected = prompt("Weather in Lisbon?", "en")
        assert texts[0] == expected[0].content == body["messages"][0]["content"]
        assert texts[1] == (call or expected[1].content) == body["messages"][1]["content"]
    assert "Observation: <result>" in sent[1]["messages"][-1]["content"]
    for line in window.locator("#side-1 .ft-speed").all_text_contents():
        assert "tokens in" in line and "the first after" in line and line.endswith("tokens/s")


def test_a_chinese_question_gets_the_chinese_prompt(window, endpoint) -> None:
    ask(window, "上海天气怎么样？")
    assert shown(window, ".ft-answer pre") == ' tuned says: {"temperature": 19, "sky": "毛毛雨"}'
    expected = [{"role": one.role, "content": one.content} for one in prompt("上海天气怎么样？", "zh")]
    assert endpoint.bodies[-2]["messages"] == expected
    window.locator(".ft-prompt summary").first.click()
    assert window.locator(".ft-message").first.inner_text() == expected[0]["content"]


def test_two_models_stand_side_by_side(window) -> None:
    window.click("#model-2 input")
    window.click("[role=option]:has-text('base')")
    window.wait_for_selector("#side-2")
    ask(window, "Weather in Lisbon?")
    for side, model in (("#side-1", "tuned"), ("#side-2", "base")):
        assert shown(window, f"{side} .ft-answer pre").startswith(f" {model} says:")
    left, right = (window.locator(side).bounding_box() for side in ("#side-1", "#side-2"))
    assert left["x"] + left["width"] <= right["x"] and abs(left["y"] - right["y"]) < 2


@pytest.mark.parametrize("window", ["light", "dark"], indirect=True)
def test_markup_in_what_a_model_writes_is_text(window, request) -> None:
    ask(window, "an attack, please")
    assert ATTACK in shown(window, ".ft-answer pre")
    assert shown(window, ".ft-tool") == ATTACK and shown(window, ".ft-arguments") == ATTACK
    assert window.locator(".ft-turn script, .ft-turn img").count() == 0
    colours = window.evaluate(
        "['color', 'background-color'].map(name => getComputedStyle(document.querySelector('.ft-answer'))[name])"
    )
    text, ground = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours)
    assert (ground - text if request.node.callspec.params["window"] == "light" else text - ground) > 400, "of 765"


def test_a_tool_from_a_file_is_offered_and_its_result_typed_by_hand(window, endpoint, tmp_path) -> None:
    file = tmp_path / "tools.json"
    file.write_text(json.dumps([TICKET]))
    window.set_input_files("#upload input[type=file], input[type=file]", str(file))
    window.wait_for_selector("#tools label:has-text('ticket_status')")
    ask(window, "How is my ticket T7?")
    window.wait_for_selector("#result textarea")
    wish = shown(window, ".ft-wish")
    assert 'tuned calls ticket_status with {"id": "T7 ?"}' in wish, "half an emoji is nothing that a page can hold"
    window.fill("#result textarea", "open <b>since</b> Monday")
    window.click("#continue")
    assert shown(window, ".ft-answer pre") == " tuned says: open <b>since</b> Monday"
    assert not window.locator("#result").is_visible()
    tool = Tool("ticket_status", TICKET["function"]["description"], TICKET["function"]["parameters"])  # type: ignore
    assert protocol.tool_line(tool) in endpoint.bodies[-1]["messages"][0]["content"]


def test_a_file_that_is_no_tools_and_a_servers_refusal_are_told_in_the_page(window, tmp_path) -> None:
    file = tmp_path / "notes.json"
    file.write_text('{"some": "thing"}')
    window.set_input_files("#upload input[type=file], input[type=file]", str(file))
    assert "notes.json: no JSON file of tools" in shown(window, "#banner [role=alert]")
    ask(window, "please fail")
    assert "refused the request" in shown(window, ".ft-trouble") and "this is <b>too</b> long" in shown(
        window, ".ft-trouble"
    )


def test_a_turn_can_be_stopped_and_the_page_stays_usable(window, endpoint) -> None:
    endpoint.left.clear()
    ask(window, "Talk for ever")
    window.wait_for_selector(".ft-coming:has-text('more more')")
    window.click("#stop")
    assert "stopped" in shown(window, ".ft-trouble")
    assert endpoint.left.wait(5), "the model still writes"
    ask(window, "And now?")
    assert shown(window, ".ft-answer pre") == "Nothing to do."
    assert window.locator(".ft-query").all_text_contents() == ["Talk for ever", "And now?"]
    assert [one["content"] for one in endpoint.bodies[-1]["messages"][1:]][-1].endswith("And now?")
    assert "for ever" not in json.dumps(endpoint.bodies[-1]), "a broken turn is no history"
    window.click("#clear")
    window.wait_for_selector(".ft-turn", state="detached")
