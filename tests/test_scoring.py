"""Verdicts, from cases judged by hand: tests/golden/scoring.

A file holds a dialogue in its first line and in each other one a turn of it as a model played it. replies.jsonl holds
single replies, each with the reply expected. A text may be given as {"text", "times"}, to be repeated.
"""

import asyncio
import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabrictune import dialogue, protocol
from fabrictune.dialogue import Attempt, Dialogue, Played, Reply, Step, Turn
from fabrictune.measures import KINDS, MALFORMED, MEASURES
from fabrictune.score import client, scoring
from fabrictune.score.scoring import ReplyVerdict, StepVerdict, Verdict

GOLDEN = Path(__file__).parent / "golden" / "scoring"
LINES = {
    path.stem: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for path in sorted(GOLDEN.glob("*.jsonl"))
}
REPLIES = LINES.pop("replies")
DIALOGUES = {name: dialogue.from_json(lines[0]["dialogue"]) for name, lines in LINES.items()}
TURNS = [(name, case) for name, lines in LINES.items() for case in lines[1:]]
CALL = 'Action: get_weather\nAction Input: {"city": "Oslo", "days": 2}\n'
DIALECTS = pytest.mark.parametrize("dialect", protocol.DIALECTS.values(), ids=lambda dialect: dialect.name)


def reply_of(given: str | dict) -> Reply:
    if isinstance(given, str):
        return Reply(given, stopped=True)
    return Reply(given["text"] * given.get("times", 1), given.get("stopped", True))


def dialect_of(case: dict) -> protocol.Dialect:
    return protocol.DIALECTS[case.get("dialect", "agentfabric")]


def play(said: Dialogue, turn: int, replies: list[str | dict], dialect: protocol.Dialect = protocol.APRIL) -> Played:
    script = iter(map(reply_of, replies))

    async def ask(body: dict) -> Reply:
        reply = next(script)
        return Reply(reply.text.split("Observation:")[0], reply.stopped)

    run_tool = client.recorded_tools(said.tools, said.turns[turn])
    query = said.turns[turn].query
    loop = client.play_turn(ask, "m", said.tools, said.instruction, "", [], query, run_tool, dialect=dialect)
    played = asyncio.run(loop)
    assert next(script, None) is None, "the client did not ask for every reply of the case"
    return played


def shown(step: StepVerdict) -> list:
    assert step.exact == (step.tool_em and step.argument_em)
    return [step.made, step.tool_em, step.argument_em, round(step.argument_f1, 3)]


@pytest.mark.parametrize(("name", "case"), [pytest.param(n, c, id=f"{n}: {c['case']}") for n, c in TURNS])
def test_the_verdict_on_a_turn_is_a_persons(name: str, case: dict) -> None:
    said = DIALOGUES[name]
    verdict = scoring.judge(
        said, case["turn"], play(said, case["turn"], case["replies"], dialect_of(case)), dialect_of(case)
    )
    assert (verdict.first_call, set(verdict.kinds)) == (case["first_call"], set(case["kinds"]))
    assert set(verdict.malformed) == set(case.get("malformed", []))
    assert verdict.success == (not case["kinds"])
    for name in ("grounded", "contradiction"):
        if name in case:
            assert verdict.measures[name] == [case[name], 1]
    if "steps" in case:
        assert [shown(step) for step in verdict.steps] == case["steps"]
    assert len(verdict.steps) == len(said.turns[case["turn"]].steps)


@pytest.mark.parametrize("case", REPLIES, ids=lambda case: case["case"])
def test_the_verdict_on_a_reply_is_a_persons(case: dict) -> None:
    verdict = scoring.judge_reply(case["expected"], reply_of(case["reply"]), dialect_of(case), case.get("offered"))
    assert (set(verdict.kinds), set(verdict.malformed)) == (set(case["kinds"]), set(case.get("malformed", [])))
    assert verdict.called == case["called"]
    assert (shown(verdict.step) if verdict.step else None) == case.get("step")
    assert (verdict.step is None) == (verdict.rouge_l is not None)
    if "rouge_l" in case:
        assert verdict.rouge_l == pytest.approx(case["rouge_l"], abs=1e-3)


def test_the_cases_are_many_and_hold_every_kind_of_failure() -> None:
    cases = [case for _, case in TURNS] + REPLIES
    assert len(cases) >= 150
    assert {kind for case in cases for kind in case["kinds"]} == set(KINDS)
    for judged in ([case for _, case in TURNS], REPLIES):
        assert {kind for case in judged for kind in case.get("malformed", [])} == set(MALFORMED)
    assert {dialect_of(case) for case in cases} == set(protocol.DIALECTS.values())


def test_a_call_is_malformed_in_some_way_exactly_where_the_failure_is_named() -> None:
    for case in [case for _, case in TURNS] + REPLIES:
        assert ("malformed" in case["kinds"]) == bool(case.get("malformed")), case["case"]


@DIALECTS
@pytest.mark.parametrize("name", DIALOGUES)
def test_the_expected_dialogue_itself_succeeds(name: str, dialect: protocol.Dialect) -> None:
    said = DIALOGUES[name]
    for number, turn in enumerate(said.turns):
        replies = [protocol.call_text(step.call) for step in turn.steps] + [turn.answer]
        verdict = scoring.judge(said, number, play(said, number, replies, dialect), dialect)
        assert verdict.success
        assert verdict.measures["rouge_l"] == [1, 1]
        assert all(step.exact and step.argument_f1 == 1 for step in verdict.steps)
        for text in replies:
            single = scoring.judge_reply(text, Reply(text, True), dialect, [tool.name for tool in said.tools])
            assert single.kinds == () and (single.step.exact if single.step else single.rouge_l == 1)


def test_a_measure_counts_only_where_it_applies() -> None:
    said = DIALOGUES["weather_en"]
    right = scoring.judge(said, 0, play(said, 0, [CALL, said.turns[0].answer]), protocol.APRIL).measures
    assert set(right) == set(MEASURES) & {
        *KINDS,
        *("success", "first_call", "grounded", "contradiction", "rouge_l"),
    }
    silent = scoring.judge(said, 0, play(said, 0, ["Sunny."]), protocol.APRIL).measures
    assert set(right) - set(silent) == {"contradiction", "bad_summary"}
    empty = scoring.judge(said, 0, play(said, 0, [""]), protocol.APRIL).measures
    assert set(silent) - set(empty) == {"grounded", "made_up"}
    talk = scoring.judge(said, 1, play(said, 1, ["I am your assistant."]), protocol.APRIL).measures
    assert set(silent) - set(talk) == {"first_call", "no_call", "wrong_arguments", "wrong_tool"}
    assert {count for measures in (right, silent, talk) for _, count in measures.values()} == {1}
    assert (silent["no_call"], silent["success"], talk["success"]) == ([1, 1], [0, 1], [1, 1])


def test_a_missing_answer_scores_nothing_in_rouge_l() -> None:
    said = DIALOGUES["weather_en"]
    assert scoring.judge(said, 0, play(said, 0, [CALL] * 10), protocol.APRIL).measures["rouge_l"] == [0, 1]


@pytest.mark.parametrize(
    ("due", "made", "f1"),
    [
        ("{}", "{}", 1),
        ("{}", '{"a": 1}', 0),
        ('{"a": 1}', "{}", 0),
        ('{"a": 1, "b": 2}', '{"a": 1, "b": 2}', 1),
        ('{"a": 1, "b": 2}', '{"a": 1}', 2 / 3),  # P 1, R 1/2
        ('{"a": 1, "b": 2}', '{"a": 1, "b": 3}', 0.75),  # P = R = 1.5/2
        ('{"a": 1}', '{"a": 2, "c": 0, "d": 0}', 0.25),  # P 0.5/3, R 0.5
        ('{"a": 1}', '{"a": "1"}', 0.5),
        ('{"a": 1}', '{"a": 1.0}', 1),
        ('{"a": [1, {"b": true}]}', '{"a": [1, {"b": 1}]}', 0.5),
        ('{"a": 1}', '{"b": 1}', 0),
        ('{"a": 1}', "a=1", 0),
    ],
)
def test_argument_f1_is_the_benchmarks_with_values_compared_as_json(due: str, made: str, f1: float) -> None:
    texts = [f"Action: t\nAction Input: {text}" for text in (due, made)]
    step = scoring.judge_reply(texts[0], Reply(texts[1], True), protocol.APRIL).step
    assert step is not None and step.argument_f1 == pytest.approx(f1)


def test_an_expected_call_too_long_to_be_read_is_compared_as_text() -> None:
    text = protocol.call_text(dialogue.Call("note", {"text": "x" * protocol.ARGUMENT_CHARACTERS}))
    assert scoring.judge_reply(text, Reply(text, True), protocol.APRIL).kinds == ()
    other = scoring.judge_reply(text, Reply(text.replace("xx", "xy", 1), True), protocol.APRIL)
    assert other.kinds == ("malformed",)


PIECES = [
    "Action:",
    "Action Input:",
    "Observation:",
    "\n",
    '{"city": "Oslo"}',
    "{",
    '"',
    "get_weather",
    "<tool_call>",
    " ",
]
ODD = st.lists(st.sampled_from(PIECES) | st.text(alphabet="ab\x00\ud800,-.0123456789天气", max_size=8), max_size=12)


@DIALECTS
@settings(max_examples=50)
@given(replies=st.lists(ODD.map("".join), min_size=10, max_size=10), stopped=st.booleans())
def test_every_text_gets_a_verdict(dialect: protocol.Dialect, replies: list[str], stopped: bool) -> None:
    said = DIALOGUES["weather_en"]
    singles = [scoring.judge_reply(CALL, Reply(text, stopped), dialect) for text in replies]
    assert all(isinstance(one, ReplyVerdict) and ("not_stopped" in one.kinds) != stopped for one in singles)

    async def ask(body: dict) -> Reply:
        return Reply(replies.pop(), stopped)

    run_tool = client.recorded_tools(said.tools, said.turns[0])
    played = asyncio.run(client.play_turn(ask, "m", said.tools, "", "", [], "?", run_tool, dialect=dialect))
    verdict = scoring.judge(said, 0, played, dialect)
    assert isinstance(verdict, Verdict) and ("malformed" in verdict.kinds) == bool(verdict.malformed)


MEGABYTE = 1_000_000
MONSTERS = [
    *(
        "9",
        "1,",
        "111,",
        "https://",
        "can not ",
        "\ud800",
        "\x00",
        "A1-",
        "Oslo, ",
        "\n",
        " ",
        "《天",
        "“天天",
        " x Name",
    ),
    *("Action: x\n", "Action Input: {}\n", "Action: x\nAction Input: ", CALL, '{"a":', "[", '{"name": "a", ', "{'a':"),
]


@pytest.mark.parametrize("piece", MONSTERS)
def test_a_megabyte_of_anything_is_judged_within_a_second(piece: str) -> None:
    said = DIALOGUES["weather_en"]
    step = said.turns[0].steps[0]
    text = (piece * (MEGABYTE // len(piece) + 1))[:MEGABYTE]
    right = Attempt(step.call.name, CALL, step.call.arguments, step.observation)
    answered = Played((Reply(CALL, True), Reply(text, False)), (right,), text)
    broken = Played((Reply(CALL + text, True),), (Attempt("t", text, None, "-"),), None)
    talked = Played((Reply(text, False),), (), text)
    told = Played((Reply(CALL, True), Reply(text, False)), (Attempt("t", text, None, text),), text)
    verdicts = [
        lambda: scoring.judge(said, 1, talked, protocol.APRIL),
        lambda: scoring.judge(said, 1, told, protocol.APRIL),
        lambda: scoring.judge(said, 0, answered, protocol.APRIL),
        lambda: scoring.judge(said, 0, broken, protocol.V072),
        lambda: scoring.judge_reply(CALL, Reply(CALL[:-3] + text, False), protocol.APRIL),
        lambda: scoring.judge_reply("Hi", Reply(text, False), protocol.V072),
    ]
    for verdict in verdicts:
        started = time.process_time()
        assert "not_stopped" in verdict().kinds
        assert time.process_time() - started < 1


def test_arguments_nested_for_ever_are_compared() -> None:
    said = DIALOGUES["weather_en"]
    deep = "[" * 600 + "]" * 600
    for again in (deep, deep.replace("]", " ]", 1)):
        texts = [f'Action: get_weather\nAction Input: {{"city": {value}}}' for value in (deep, again)]
        verdict = scoring.judge(said, 0, play(said, 0, [*texts, "It failed."]), protocol.APRIL)
        assert {"wrong_arguments"} <= set(verdict.kinds) <= {"wrong_arguments", "repeated_call"}


def test_a_record_nested_for_ever_may_be_met_by_the_same_call() -> None:
    deep: list = []
    for _ in range(600):
        deep = [deep]
    call = dialogue.Call("get_weather", {"city": deep})
    said = Dialogue("d", DIALOGUES["weather_en"].tools, (Turn("Oslo?", (Step(call, "cold"),), "It is cold."),))
    verdict = scoring.judge(said, 0, play(said, 0, [protocol.call_text(call), "It is cold."]), protocol.APRIL)
    assert verdict.kinds == ("wrong_arguments",)


def test_an_answer_that_looks_like_a_call_is_right_where_it_was_wanted() -> None:
    answer = 'Send {"name": "get_weather", "arguments": {}} in a <tool_call>.'
    said = Dialogue("d", (), (Turn("How do I call it?", (), answer),))
    played = Played((Reply(answer, True),), (), answer)
    assert scoring.judge(said, 0, played, protocol.APRIL).success
    other = Dialogue("d", (), (Turn("How do I call it?", (), "No idea."),))
    assert scoring.judge(other, 0, played, protocol.APRIL).malformed == ("foreign",)


def test_a_call_due_twice_may_be_made_twice() -> None:
    step = Step(DIALOGUES["weather_en"].turns[0].steps[0].call, "cold")
    said = Dialogue("d", DIALOGUES["weather_en"].tools, (Turn("Oslo, twice?", (step, step), "It is cold."),))
    assert scoring.judge(said, 0, play(said, 0, [CALL, CALL, "It is cold."]), protocol.APRIL).success
    thrice = scoring.judge(said, 0, play(said, 0, [CALL, CALL, CALL, "It is cold."]), protocol.APRIL)
    assert thrice.kinds == ("repeated_call",)
