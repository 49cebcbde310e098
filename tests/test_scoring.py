"""Verdicts, from cases judged by hand: tests/golden/scoring, a dialogue in the first line, a case in each other one."""

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabrictune import client, dialogue, scoring
from fabrictune.dialogue import Attempt, Played, Reply
from fabrictune.scoring import Scored, Verdict

FILES = sorted((Path(__file__).parent / "golden" / "scoring").glob("*.jsonl"))
LINES = {path.stem: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] for path in FILES}
DIALOGUES = {name: dialogue.from_json(lines[0]["dialogue"]) for name, lines in LINES.items()}
CASES = [pytest.param(name, case, id=f"{name}: {case['case']}") for name, lines in LINES.items() for case in lines[1:]]


def play(said: dialogue.Dialogue, turn: int, replies: list[str | dict]) -> Played:
    script = iter([Reply(r, True) if isinstance(r, str) else Reply(**r) for r in replies])

    async def ask(body: dict) -> Reply:
        reply = next(script)
        return Reply(reply.text.split("Observation:")[0], reply.stopped)

    run_tool = client.recorded_tools(said.tools, said.turns[turn])
    query = said.turns[turn].query
    played = asyncio.run(client.play_turn(ask, "m", said.tools, said.instruction, "", [], query, run_tool))
    assert next(script, None) is None, "the client did not ask for every reply of the case"
    return played


@pytest.mark.parametrize(("name", "case"), CASES)
def test_the_verdict_is_a_persons(name: str, case: dict) -> None:
    said = DIALOGUES[name]
    verdict = scoring.judge(said, case["turn"], play(said, case["turn"], case["replies"]))
    assert (verdict.first_call, set(verdict.kinds)) == (case["first_call"], set(case["kinds"]))
    assert verdict.success == (not case["kinds"])


@pytest.mark.parametrize("name", DIALOGUES)
def test_the_expected_dialogue_itself_succeeds(name: str) -> None:
    said = DIALOGUES[name]
    for number, turn in enumerate(said.turns):
        attempts = [Attempt(s.call.name, "", s.call.arguments, s.observation) for s in turn.steps]
        replies = [Reply("", True)] * (len(attempts) + 1)
        assert scoring.judge(said, number, Played(tuple(replies), tuple(attempts), turn.answer)).success


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 60


@pytest.mark.parametrize(
    ("answer", "told", "grounded"),
    [
        ("It costs 1,234.50 euros", '{"price": 1234.5}', True),
        ("It costs 1234 euros", "1,234", True),
        ("Seats 12 and 14", "[12,14]", True),
        ("Seats 12,14 are free", '{"seats": [12, 14]}', True),
        ("At 9:30", "09:30:00", True),
        ("May 4, 2024", "2024-05-04", True),
        ("Order A-1001", "A-1001", True),
        ("Order A-1002", "A-1001", False),
        ("23 degrees", "2023", False),
        ("It is -5 degrees", "5", False),
        ("It is 5 degrees", "-5", False),
        ("5 below zero", "-5", True),
        ("零下5度", "-5", True),
        ("气温是-5度", "temperature: -5", True),
        ("今天3度-5度", "3 5", True),
        ("3℃-5℃", "3 5", True),
        ("see https://a.example/b.", "https://a.example/b", True),
        ("see https://a.example/b", "https://a.example/bc", False),
        ("看https://a.example/b。谢谢", "https://a.example/b", True),
        ("二十三度", "23", True),
        ("1. red\n2. blue", "red blue", True),
    ],
)
def test_numbers_and_urls_must_have_been_told(answer: str, told: str, grounded: bool) -> None:
    assert scoring.is_grounded(answer, told) is grounded


@given(
    st.lists(st.text(alphabet='Action: InputObsv{}"\n\ud800,-.0123456789天气', max_size=80), min_size=10, max_size=10)
)
def test_every_text_gets_a_verdict(replies: list[str]) -> None:
    said = DIALOGUES["weather_zh"]

    async def ask(body: dict) -> Reply:
        return Reply(replies.pop(), True)

    run_tool = client.recorded_tools(said.tools, said.turns[0])
    played = asyncio.run(client.play_turn(ask, "m", said.tools, "", "", [], "?", run_tool))
    assert isinstance(scoring.judge(said, 0, played), Verdict)


def test_monstrous_answers_get_a_verdict() -> None:
    said = DIALOGUES["weather_zh"]
    turn = said.turns[0]
    attempt = Attempt(turn.steps[0].call.name, "", turn.steps[0].call.arguments, turn.steps[0].observation)
    for answer in (
        "9" * 20_000,
        "1," * 10_000,
        "-" * 20_000,
        "https://" * 3000,
        "can not " * 3000,
        "\ud800",
        "a" * 50_000,
    ):
        played = Played((Reply("", True),), (attempt,), answer)
        assert scoring.judge(said, 0, played).kinds == ("bad_summary",)


def test_scores_are_grouped_by_model_split_and_family() -> None:
    right, wrong, talk = Verdict(True, ()), Verdict(False, ("wrong_arguments", "not_stopped")), Verdict(None, ())
    rows = [
        Scored("base", True, "weather", right),
        Scored("base", True, "weather", wrong),
        Scored("base", True, "hotel", talk),
        Scored("base", False, "bank", wrong),
        Scored("tuned", True, "hotel", talk),
    ]
    scores = scoring.aggregate(rows)
    assert list(scores) == ["base", "tuned"]
    seen = scores["base"]["seen"]
    assert (seen["turns"], seen["calls_due"], seen["first_call"], seen["success"]) == (3, 2, 0.5, 2 / 3)
    assert {kind: count for kind, count in seen["failures"].items() if count} == {
        "wrong_arguments": 1,
        "not_stopped": 1,
    }
    assert list(seen["families"]) == ["hotel", "weather"]
    assert seen["families"]["hotel"]["first_call"] is None
    assert scores["base"]["unseen"]["success"] == 0
    assert "unseen" not in scores["tuned"]
