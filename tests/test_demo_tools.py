"""Demo tools compute what they say, tell what is wrong with a call in words, and run nothing else."""

from __future__ import annotations

import json

import pytest

from fabrictune import protocol
from fabrictune.serve.chat import demo_tools
from fabrictune.serve.chat.demo_tools import BY_NAME, run


@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [
        ("calculator", {"expression": "(3 + 4) * 2.5"}, {"result": 17.5}),
        ("calculator", {"expression": "2^10 - sqrt(16) ÷ 2"}, {"result": 1022}),
        ("calculator", {"expression": "-7 // 2 + max(1, 9, 3)"}, {"result": 5}),
        ("convert_units", {"value": 26.2, "source": "mile", "target": "km"}, {"result": 42.1648}),
        ("convert_units", {"value": -40, "source": "celsius", "target": "fahrenheit"}, {"result": -40}),
        ("convert_units", {"value": 212, "source": "fahrenheit", "target": "celsius"}, {"result": 100}),
        ("convert_currency", {"amount": 40, "source": "USD", "target": "EUR"}, {"result": 36, "rate": 0.9}),
        ("days_between", {"start": "2024-02-28", "end": "2024-03-01"}, {"days": 2}),
        ("days_between", {"start": "2026-03-01", "end": "2026-02-28"}, {"days": -1}),
        ("weekday", {"date": "1969-07-20"}, {"weekday": "Sunday"}),
        ("order_status", {"order": " a1001 "}, {"status": "shipped", "arrives": "2026-12-03"}),
        ("get_weather", {"city": "lisbon"}, {"temperature": 22, "sky": "sunshine"}),
        ("get_weather", {"city": "Oslo", "unit": "fahrenheit"}, {"temperature": 39, "sky": "light rain"}),
    ],
)
def test_a_tool_computes_its_result(name, arguments, result) -> None:
    assert run(name, arguments, "en") == result


def test_results_are_in_the_language_spoken() -> None:
    assert run("weekday", {"date": "1969-07-20"}, "zh") == {"weekday": "星期日"}
    assert run("order_status", {"order": "A1002"}, "zh")["status"] == "已打包"
    assert run("get_weather", {"city": "上海"}, "zh") == {"temperature": 19, "sky": "毛毛雨"}


def test_dice_roll_the_same_for_the_same_seed_and_otherwise_differ() -> None:
    rolls = [run("roll_dice", {"count": 20, "sides": 6, "seed": seed}, "en") for seed in (1, 1, 2)]
    assert rolls[0] == rolls[1] != rolls[2]
    assert set(rolls[0]["rolled"]) <= set(range(1, 7)) and rolls[0]["sum"] == sum(rolls[0]["rolled"])


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("calculator", {}, "param `expression` is required"),
        ("calculator", {"expression": 7}, "must be of type string"),
        ("calculator", {"expression": "1 / 0"}, "division by zero"),
        ("calculator", {"expression": "2 +"}, "cannot calculate"),
        ("calculator", {"expression": "9" * 201}, "at most 200 characters"),
        ("calculator", {"expression": "9**9**9"}, "exponent"),
        ("calculator", {"expression": "10**60"}, "at most"),
        ("calculator", {"expression": "(-8)**0.5"}, "real"),
        ("calculator", {"expression": "1e308 * 10"}, "at most"),
        ("calculator", {"expression": "round(123, -10**15)"}, "cannot calculate"),
        ("calculator", {"expression": "(" * 199}, "cannot calculate"),
        ("calculator", {"expression": "__import__('os').system('touch /tmp/owned')"}, "is no number"),
        ("calculator", {"expression": "(1).__class__"}, "is no number"),
        ("calculator", {"expression": "'a' * 9"}, "is no number"),
        ("calculator", {"expression": "True + 1"}, "is no number"),
        ("convert_units", {"value": True, "source": "m", "target": "km"}, "must be of type number"),
        ("convert_units", {"value": 1, "source": "m", "target": "kg"}, "m measures length, kg mass"),
        ("convert_units", {"value": 1, "source": "yard", "target": "m"}, "must be one of m, km"),
        ("convert_units", {"value": float("inf"), "source": "m", "target": "km"}, "too large"),
        ("convert_units", {"value": float("nan"), "source": "m", "target": "km"}, "too large"),
        ("days_between", {"start": "yesterday", "end": "2024-03-01"}, "no date like"),
        ("get_weather", {"city": "Atlantis"}, "no weather data for Atlantis"),
        ("get_weather", {"city": None}, "must be of type string"),
        ("get_weather", {"city": "Oslo", "when": "today"}, "param `when` is unknown"),
        ("order_status", {"order": "B7"}, "order B7 not found"),
        ("roll_dice", {"count": 10**9}, "1 to 100 of them"),
    ],
)
def test_a_call_that_cannot_work_is_told_why(name, arguments, words) -> None:
    with pytest.raises(ValueError, match=words.replace("(", r"\(").replace("*", r"\*")):
        run(name, arguments, "en")


@pytest.mark.parametrize("demo", demo_tools.DEMO_TOOLS, ids=lambda demo: demo.name)
def test_every_tool_is_described_in_both_languages_in_its_own_script(demo) -> None:
    english, chinese = demo.tool("en"), demo.tool("zh")
    assert english.name == chinese.name and english.required == chinese.required
    assert BY_NAME[english.name] is demo
    assert not protocol.has_chinese(json.dumps(english.parameters, ensure_ascii=False) + english.description)
    assert protocol.has_chinese(chinese.description)
    assert all(protocol.has_chinese(schema["description"]) for schema in chinese.properties.values())
