"""Of what a strong model did, the turns are kept that a person would keep, and what is said again is found."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from fabrictune import protocol
from fabrictune.convert.keeping import Kept, fault, keep, likeness
from fabrictune.dialogue import Call, Dialogue, Step, Tool, Turn

CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "wind": {"type": "number"},
        "unit": {"type": "string", "enum": ["C", "F"]},
        "at": {"type": ["string", "null"]},
        "odd": {"type": "str"},
        "parts": {"type": "array"},
        "any": {},
    },
    "required": ["city"],
}
WEATHER = Tool("weather", "Tells the weather", CITY)
MAIL = Tool("mail", "发送邮件", {"type": "object", "properties": {"text": {"type": "string"}}})
LONG = json.dumps(
    {"city": "Oslo", "forecast": "cloudy with showers", "high": 21, "low": 14, "humidity": "68%", "wind": "NW"}
)


def said(*turns: Turn, **rest: object) -> Dialogue:
    return Dialogue("d", (WEATHER, MAIL), turns, **{"instruction": "Be brief."} | rest)


def turn(answer: str, *steps: Step, query: str = "How is Oslo?") -> Turn:
    return Turn(query, steps, answer)


def step(observation: str = "21 degrees", name: str = "weather", **arguments: object) -> Step:
    return Step(Call(name, arguments or {"city": "Oslo"}), observation)


GOOD = turn("Oslo has 21 degrees.", step())


@pytest.mark.parametrize(
    "good",
    [
        GOOD,
        turn("奥斯陆21度。", step('{"temperature": 21, "text": "sunny"}'), query="奥斯陆天气？"),
        turn("Hello, what can I do for you?", query="Hi"),
        turn("Oslo 21, Rome 30.", step("21"), step("30", city="Rome")),
        turn("Warm.", step("21", city="Oslo", days=2.0, wind=3, unit="C", at=None, odd=[1], any={})),
        turn("No errors were in the log.", step('{"errors": [], "lines": 3}')),
        turn("I found 3 errors in it.", step("Found 3 errors: E1, E2, E3.")),
        turn("I could not find any.", step("[]")),
        turn("There was no information found on it.", step("No information was found.")),
        turn(
            "Your mail is on its way.", step('{"status": "ok", "id": 48213}', name="mail", text="Hi"), query="Mail Ana."
        ),
        turn(
            "已经发给她了。",
            step('{"status": "ok", "code": 0, "error": null}', "mail", text="好"),
            query="给安娜发邮件",
        ),
        turn("It is on its way.", step('{"errcode": 0, "errmsg": "ok"}'), query="Mail Ana."),
        turn("It is on its way.", step('{"error_code": "0", "error_msg": "success"}'), query="Mail Ana."),
        turn("It is on its way.", step('{"error": "none", "errors": "No error", "exception": "null"}'), query="Mail."),
        turn("已经发给她了。", step('{"errmsg": "成功"}'), query="给安娜发邮件"),
        turn("That is Beauvais.", step('{"code": 451, "name": "Beauvais"}'), query="Which town is it?"),
        turn("It is sunny.", step('{"status": "1", "info": "OK", "infocode": "10000", "sky": "sunny"}')),
        turn("0.2 % of them.", step("Error rate of the service today: 0.2 %")),
        turn("There were 3.", step("Failed payments: 3")),
        turn("From 8:30 on.", step("Forbidden City, opens at 8:30")),
        turn("今天有大风。", step("异常天气预警，大风"), query="天气？"),
        turn("有3笔。", step("请求失败的支付有3笔"), query="支付？"),
        turn("Rather wet, with 14 to 21 degrees.", step(LONG)),
        turn("今天多云有阵雨。", step(LONG), query="奥斯陆天气？"),
    ],
)
def test_a_good_turn_is_kept(good: Turn) -> None:
    assert fault(said(good), 0) == ""
    assert keep(said(good), 1, {}) == (said(good), "")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (turn("21.", step("21", days=1)), "arguments that do not fit the tool: 'weather' requires ['city']"),
        (
            turn("21.", step("21", city=3)),
            "arguments that do not fit the tool: 'weather' wants string as 'city', not 3",
        ),
        (turn("21.", step("21", city=None)), "arguments that do not fit the tool: 'weather' wants string as 'city'"),
        (turn("21.", step("21", city="O", days="2")), "arguments that do not fit the tool: 'weather' wants integer"),
        (turn("21.", step("21", city="O", days=2.5)), "arguments that do not fit the tool: 'weather' wants integer"),
        (turn("21.", step("21", city="O", days=True)), "arguments that do not fit the tool: 'weather' wants integer"),
        (turn("21.", step("21", city="O", wind="3")), "arguments that do not fit the tool: 'weather' wants number"),
        (turn("21.", step("21", city="O", parts="a")), "arguments that do not fit the tool: 'weather' wants array"),
        (
            turn("21.", step("21", city="O", at=3)),
            "arguments that do not fit the tool: 'weather' wants ['string', 'null']",
        ),
        (
            turn("21.", step("21", city="O", unit="K")),
            "arguments that do not fit the tool: 'weather' wants one of ['C'",
        ),
        (turn("21.", step("21", city="O", zip="1")), "arguments that do not fit the tool: 'weather' has no parameter"),
        (turn("21.", step("21"), step("21")), "a call is repeated: 'weather' with"),
        (turn("21.", step("30", city="Rome"), step("21"), step("21", city="Oslo ")), "a call is repeated: 'weather'"),
        (
            turn("Sorry.", step(protocol.failure("weather", "{}", "boom"))),
            "a tool failed: 'weather' returned 'Tool api",
        ),
        (turn("Sorry.", step('{"error": "no such city"}')), "a tool failed: "),
        (turn("Sorry.", step('{"success": false}')), "a tool failed: "),
        (turn("Sorry.", step('{"status": "FAILED", "data": 1}')), "a tool failed: "),
        (turn("Sorry.", step('{"status": 404, "data": 1}')), "a tool failed: "),
        (turn("Sorry.", step('{"code": 404, "msg": "no such city", "data": 1}')), "a tool failed: "),
        (turn("Sorry.", step('{"code": 404, "data": null}')), "a tool failed: "),
        (turn("Sorry.", step('{"error_code": 10001, "reason": "KEY", "result": null}')), "a tool failed: "),
        (turn("Sorry.", step('{"errno": "-6", "errmsg": "ok"}')), "a tool failed: "),
        (
            turn("Sorry.", step('{"status": "0", "info": "INVALID_USER_KEY", "infocode": "10001"}')),
            "a tool failed: ",
        ),
        (turn("Sorry.", step("Traceback (most recent call last):\n")), "a tool failed: "),
        (turn("Sorry.", step("requests.exceptions.ConnectionError: refused")), "a tool failed: "),
        (turn("Sorry.", step("HTTP 502 Bad Gateway")), "a tool failed: "),
        (turn("Sorry.", step("HTTPError 503")), "a tool failed: "),
        (turn("Sorry.", step("Error code: 401 - no key")), "a tool failed: "),
        (turn("Sorry.", step("Error executing tool weather: boom")), "a tool failed: "),
        (turn("Sorry.", step("Failed to connect to the host")), "a tool failed: "),
        (turn("Sorry.", step("\nError\nno key")), "a tool failed: "),
        (turn("抱歉。", step("查询失败，请稍后再试")), "a tool failed: "),
        (turn("抱歉。", step("错误码：10001")), "a tool failed: "),
        (turn("21 degrees.", step("Error: try again"), step(city="Rome")), "a tool failed: "),
        (turn("I am unable to tell.", step("The service is unavailable")), "a tool failed: "),
        (turn("Oslo has 25 degrees.", step()), "an answer that is not grounded: nobody told '25'"),
        (
            turn("See https://x.example/a.png", step("https://x.example/b.png")),
            "an answer that is not grounded: nobody",
        ),
        (turn("奥斯陆25度。", step("21度"), query="奥斯陆天气？"), "an answer that is not grounded: nobody told '25'"),
        (turn("I cannot provide that.", step()), "an answer that denies the result: it says 'cannot provide'"),
        (turn("无法查询天气。", step("晴，21度"), query="奥斯陆天气？"), "an answer that denies the result: "),
        (turn("It is very nice there!", step(LONG)), "an answer that ignores the result: "),
        (turn("How is Oslo, I wonder?", step(), query="How is Oslo, I wonder"), "an answer that repeats the query: "),
        (turn("Ten.", *(step(str(n), city=f"City {n}") for n in range(10))), "too many calls: 10, where"),
        (Turn("Oslo?", (), "", pending=(step(""),)), "a turn that did not end: its last call is 'weather'"),
    ],
)
def test_a_bad_turn_is_left_out_with_its_reason(bad: Turn, reason: str) -> None:
    assert fault(said(bad), 0).startswith(reason)
    with pytest.raises(ValueError) as refused:
        keep(said(bad), 1, {})
    kind, _, details = reason.partition(": ")
    assert str(refused.value).startswith(f"{kind}: turn 1 of 1: {details}")


def test_nine_calls_and_an_answer_are_what_the_client_asks_for() -> None:
    steps = [step(str(n), city=f"City {n}") for n in range(protocol.MAX_CALLS - 1)]
    assert fault(said(turn("All done.", *steps)), 0) == ""


def test_what_an_earlier_turn_or_the_agent_told_grounds_an_answer() -> None:
    later = turn("Still 21, call 0800.", step("warm"), query="Now?")
    assert fault(said(GOOD, later, instruction="Hotline 0800"), 1) == ""
    assert fault(said(GOOD, later), 1).endswith("nobody told '0800'")
    assert fault(said(later, instruction="Hotline 0800"), 0).endswith("nobody told '21'")


def test_a_dialogue_ends_before_its_first_bad_turn() -> None:
    bad = turn("Oslo has 25 degrees.", step(), query="Again?")
    kept, reason = keep(said(GOOD, bad, GOOD), 3, {})
    assert kept == said(GOOD)
    assert reason == "an answer that is not grounded: turn 2 of 3: nobody told '25'"
    kept, reason = keep(said(GOOD, GOOD), 3, {2: "a trace that cannot be read: 'x'"})
    assert (kept, reason) == (said(GOOD, GOOD), "a trace that cannot be read: turn 3 of 3: 'x'")
    kept, reason = keep(said(GOOD, bad), 2, {1: "a reply that is not in the log"})
    assert reason == "a reply that is not in the log: turn 2 of 2", "what the log says goes first"


def twins(*dialogues: Dialogue) -> list[str | None]:
    kept = Kept()
    return [kept.twin(likeness(one), str(number)) for number, one in enumerate(dialogues)]


@pytest.mark.parametrize(
    ("query", "is_same"),
    [
        ("how is oslo", True),
        ("How is  OSLO ？!", True),
        ("How's Oslo?", True),
        ("Should I take an umbrella to Norway's capital?", False),
    ],
)
def test_the_same_question_in_other_spelling_is_a_near_duplicate(query: str, is_same: bool) -> None:
    assert twins(said(GOOD), said(replace(GOOD, query=query))) == [None, "0" if is_same else None]


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("What is 12+3?", "What is 12*3?", False),
        ("What is 12+3?", "what is 12 + 3", True),
        ("What is 1.23?", "What is 123?", False),
        ("Convert 15 USD", "Convert 1.5 USD", False),
        ("Convert 15 USD", "Convert -15 USD", False),
        ("Convert 15 USD", "Convert 15 USD!", True),
        ("What is C++?", "What is C?", False),
        ("What are 5 % of 20?", "What are 5 of 20?", False),
        ("北京，3月5日？", "北京3月5日", True),
        ("Well, 3 days: how is (Oslo)?", "well 3 days how is oslo", True),
        ("?!", "?", False),
    ],
)
def test_of_plain_questions_the_marks_of_numbers_count(one: str, other: str, is_same: bool) -> None:
    assert twins(said(turn("Well.", query=one)), said(turn("Well.", query=other))) == [None, "0" if is_same else None]


def test_the_same_words_with_other_calls_are_no_near_duplicate() -> None:
    days = [turn("Fine.", step("fine", city="Oslo", days=days), query="Next days?") for days in (2, 3)]
    assert twins(said(days[0]), said(days[1]), said(days[1])) == [None, None, "1"]
    thanks = turn("Bye.", query="Thanks")
    assert twins(said(days[0], thanks), said(days[1], thanks)) == [None, None]


def test_a_like_question_with_another_argument_or_agent_is_no_near_duplicate() -> None:
    bergen = replace(GOOD, query="How is Bergen?", steps=(step("21 degrees", city="Bergen"),), answer="Bergen has 21.")
    asked = [replace(GOOD, query=f"What will the weather be like in Oslo on {day}?") for day in ("Monday", "Sunday")]
    other = [replace(one, steps=(step(city="Oslo", days=days),)) for days, one in enumerate(asked)]
    assert twins(said(GOOD), said(bergen)) == [None, None]
    assert twins(said(asked[0]), said(asked[1])) == [None, "0"]
    assert twins(said(other[0]), said(other[1])) == [None, None]
    assert twins(said(GOOD), said(GOOD, instruction="Be verbose.")) == [None, None]
    hello = [turn("Hi.", query="Good morning to you all"), turn("Hi.", query="Good morning to you, Al")]
    assert twins(*map(said, hello)) == [None, None], "nothing but the words tells whether it is the same"


def test_the_beginning_of_an_earlier_dialogue_is_a_near_duplicate_and_a_longer_one_is_not() -> None:
    thanks = turn("Bye.", query="Thanks")
    now = turn("No.", query="Now?")
    assert (
        twins(said(replace(GOOD, query="Oslo " * 30), thanks), said(replace(GOOD, query="Oslo " * 30), now))
        == [None] * 2
    )
    assert twins(said(GOOD, thanks), said(GOOD), said(GOOD, thanks), said(thanks)) == [None, "0", "0", None]
    assert twins(said(GOOD), said(GOOD, thanks), said(thanks, GOOD), said(GOOD, thanks)) == [None, None, None, "1"]
