"""A chart has a mark for each number it was given, which says it, and none for what is missing."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from fabrictune import charts
from fabrictune.charts import Score, Series
from fabrictune.measures import MEASURES

BASE = Series("base", "base", charts.COLOURS[0], 1, [Score(0.25, 0.1, 0.4, 8), None])
TUNED = Series("tuned", "tuned", charts.COLOURS[1], 1, [Score(0.5, None, None, 8), Score(0.0, 0.0, 0.0, 1200)])


def titles(svg: str) -> list[str | None]:
    return [node.text for node in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}title")]


def test_each_bar_says_its_score_and_a_place_without_one_that_it_was_not_judged() -> None:
    chart = charts.bars("failures", ["no call", "<b>bad</b>"], [BASE, TUNED], MEASURES["no_call"])
    assert chart is not None and "<b>" not in chart
    assert titles(chart) == [
        "no call, base: 25.0 % (10.0 to 40.0), n = 8",
        "no call, tuned: 50.0 %, n = 8",
        "<b>bad</b>, tuned: 0.0 % (0.0 to 0.0), n = 1,200",
    ]
    assert chart.count(">not judged<") == 1
    assert chart == charts.bars("failures", ["no call", "<b>bad</b>"], [BASE, TUNED], MEASURES["no_call"])


def test_bars_without_any_score_are_no_chart() -> None:
    assert charts.bars("none", ["a"], [Series("m", "m", charts.COLOURS[0], 1, [None])], MEASURES["success"]) is None


def test_a_curve_is_drawn_around_what_is_no_number_and_ids_do_not_meet_those_of_another_chart() -> None:
    lines = {"": ([1, 2, 3], [2.0, float("nan"), 1.5]), "half \ud83d": ([3], [1.0])}
    one, other = charts.curve("eval/loss", lines), charts.curve("train/loss", lines, smoothed=[2.0, 2.0, 1.7])
    assert titles(one) == ["all, step 1: 2", "all, step 3: 1.5", "half \\ud83d, step 3: 1"]
    assert not set(re.findall(r'\bid="([^"]+)"', one)) & set(re.findall(r'\bid="([^"]+)"', other))
