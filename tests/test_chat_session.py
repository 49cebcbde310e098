"""A visitor's conversation: two models at once, results typed by hand, stopping, and what the history keeps."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from endpoint import Endpoint, serving

from fabrictune import protocol
from fabrictune.dialogue import Tool
from fabrictune.serve.chat.session import Question, Session
from fabrictune.serve.chat.streaming import Model, Server

TICKET = Tool("ticket", "Tells of a ticket", {"type": "object", "properties": {"id": {"type": "string"}}})
WEATHER = Question("How is Oslo?", ["get_weather"])


def agent(call: str) -> Callable[[dict[str, Any]], str]:
    """A model that makes the call first and then repeats what it was told."""

    def reply(body: dict[str, Any]) -> str:
        _, told, observation = body["messages"][-1]["content"].partition("Observation: <result>")
        return f" It says {observation.partition('</result>')[0]}" if told else call

    return reply


CALL = 'Action: get_weather\nAction Input: {"city": "Oslo"}\n'


def models(*endpoints: Endpoint) -> list[Model]:
    return [Model("the-model", Server(endpoint.bare_url)) for endpoint in endpoints]


async def ask(session: Session, question: Question, chosen: list[Model]) -> None:
    async for _ in session.ask(question, chosen):
        pass


def test_a_demo_tool_runs_and_the_next_question_follows_with_the_history() -> None:
    session = Session(protocol.APRIL)
    with serving(agent(CALL)) as endpoint:

        async def talk() -> None:
            await ask(session, WEATHER, models(endpoint))
            await ask(session, Question("And now?", ["get_weather"]), models(endpoint))

        asyncio.run(talk())
    first, second = session.sides[0].past[0], session.sides[0].live
    assert first.rounds[0].observation == '{"temperature": 4, "sky": "light rain"}'
    assert first.answer == ' It says {"temperature": 4, "sky": "light rain"}'
    assert second is not None
    system, *past, _ = second.rounds[0].request["messages"]
    assert system["content"].count("You are a helpful assistant.") == 1
    assert [message["content"] for message in past] == [
        "How is Oslo?",
        f'{CALL}\nObservation: <result>{{"temperature": 4, "sky": "light rain"}}</result>\nAnswer:{first.answer}',
    ]
    assert [body["messages"] for body in endpoint.bodies[2:3]] == [second.rounds[0].request["messages"]]


def test_a_chinese_question_gets_chinese_tools_instruction_and_results() -> None:
    session = Session(protocol.V072)
    with serving(agent('Action: get_weather\nAction Input: {"city": "上海"}\n')) as endpoint:
        asyncio.run(ask(session, Question("上海天气怎么样？", ["get_weather"]), models(endpoint)))
    system = endpoint.bodies[0]["messages"][0]["content"]
    assert "# 工具" in system and "查询某个城市的实时天气情况" in system and "你是一个乐于助人的助手。" in system
    assert "毛毛雨" in endpoint.bodies[1]["messages"][-1]["content"]


def test_two_models_answer_at_the_same_time() -> None:
    meeting = threading.Barrier(2, timeout=10)  # neither goes on before the other has been asked

    def waiting(body):
        meeting.wait()
        return "Hello"

    session = Session(protocol.APRIL)
    with serving(waiting) as one, serving(waiting) as two:
        asyncio.run(ask(session, Question("Hi", []), models(one, two)))
    assert [side.live.answer for side in session.sides if side.live] == ["Hello", "Hello"]


def test_a_tool_from_a_file_waits_for_the_result_that_a_person_types() -> None:
    session = Session(protocol.APRIL)
    session.add([TICKET])

    async def talk(endpoint: Endpoint) -> None:
        typed = False
        async for _ in session.ask(Question("Ticket 7?", ["ticket"]), models(endpoint)):
            if session.wanted and not typed:
                assert (session.wanted[0].tool, session.wanted[0].arguments) == ("ticket", {"id": "7"})
                session.give("open since Monday")
                typed = True
        assert typed

    with serving(agent('Action: ticket\nAction Input: {"id": "7"}\n')) as endpoint:
        asyncio.run(asyncio.wait_for(talk(endpoint), 20))
    assert session.sides[0].live and session.sides[0].live.answer == " It says open since Monday"


def test_a_fixed_result_is_given_at_once() -> None:
    session = Session(protocol.APRIL)
    session.add([TICKET])
    with serving(agent('Action: ticket\nAction Input: {"id": "7"}\n')) as endpoint:
        asyncio.run(ask(session, Question("Ticket 7?", ["ticket"], fixed="closed"), models(endpoint)))
    assert session.sides[0].live and session.sides[0].live.answer == " It says closed"


@pytest.mark.parametrize("when", ["while a reply comes", "while a result is waited for"])
def test_a_stopped_turn_hangs_up_and_the_session_can_be_used_at_once(when) -> None:
    def endless(body):
        while True:
            time.sleep(0.02)
            yield "on and on "

    def first_endless(body):
        if body["messages"][-1]["content"].endswith("Hi"):
            return "Hello"
        return endless(body) if when == "while a reply comes" else 'Action: ticket\nAction Input: {"id": "7"}\n'

    session = Session(protocol.APRIL)
    session.add([TICKET])

    async def talk(endpoint: Endpoint) -> None:
        async for _ in session.ask(Question("Go on", ["ticket"]), models(endpoint)):
            if session.wanted or (session.sides[0].live and len(session.sides[0].live.rounds[0].reply) > 30):
                session.stop()
        assert session.sides[0].live and session.sides[0].live.trouble == "stopped"
        assert not session.wanted and not session.is_running
        await ask(session, Question("Hi", []), models(endpoint))

    with serving(first_endless) as endpoint:
        asyncio.run(asyncio.wait_for(talk(endpoint), 20))
        if when == "while a reply comes":
            assert endpoint.left.wait(5), "the server still writes"
    assert session.sides[0].live and session.sides[0].live.answer == "Hello"
    assert [message["content"] for message in endpoint.bodies[-1]["messages"][1:]] == ["Hi"], "no history of the broken"


def test_an_error_of_one_server_leaves_the_other_side_alone() -> None:
    session = Session(protocol.APRIL)
    refusal = (400, {"error": {"message": "too long", "type": "BadRequestError", "code": 400}})
    with serving(lambda body: refusal) as one, serving(lambda body: "Hello") as two:
        asyncio.run(ask(session, Question("Hi", []), models(one, two)))
    lives = [side.live for side in session.sides]
    assert lives[0] and "too long" in lives[0].trouble and lives[0].answer is None
    assert lives[1] and lives[1].answer == "Hello"


def test_a_visitor_who_leaves_ends_the_requests() -> None:
    def endless(body):
        while True:
            time.sleep(0.02)
            yield "on "

    session = Session(protocol.APRIL)

    async def leave(endpoint: Endpoint) -> None:
        asking = session.ask(Question("Hi", []), models(endpoint))
        async for _ in asking:
            if session.sides[0].live and session.sides[0].live.rounds[0].reply:
                break
        await asking.aclose()
        await asyncio.sleep(0.1)

    with serving(endless) as endpoint:
        asyncio.run(leave(endpoint))
        assert endpoint.left.wait(5)


def test_clear_begins_anew() -> None:
    session = Session(protocol.APRIL)
    with serving(lambda body: "Hello") as endpoint:
        asyncio.run(ask(session, Question("Hi", []), models(endpoint)))
        session.clear()
        asyncio.run(ask(session, Question("Who?", []), models(endpoint)))
    assert json.dumps(endpoint.bodies[-1]).count("Hi") == 0 and not session.sides[0].past


@pytest.mark.parametrize("name", ["get_weather", "ticket"])
def test_a_tool_whose_name_is_taken_is_refused(name) -> None:
    session = Session(protocol.APRIL)
    session.add([TICKET])
    with pytest.raises(ValueError, match=f"called '{name}' already"):
        session.add([Tool(name, "", {"type": "object", "properties": {}})])
