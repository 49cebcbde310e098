"""The counts of a conversion add up, like rejects count together, and a dialogue is seen if its tools were."""

from __future__ import annotations

import json

import pytest

from fabrictune import dialogue as dialogues
from fabrictune.convert.rows import Facts, Reject
from fabrictune.convert.summary import SourceSummary, Summary
from fabrictune.dialogue import Call, Dialogue, Step, Tool, Turn
from fabrictune.formats import agentfabric, openai


def facts(lengths: tuple[int, ...] = (10, 20), tools=("lamp",), called=("lamp",), calls=(1,), **rest) -> Facts:
    languages = rest.get("languages", ("en",) * len(calls))
    return Facts(
        2,
        rest.get("too_long", 0),
        rest.get("results_cut", 0),
        lengths,
        tools,
        called,
        calls,
        languages,
        rest.get("family", ""),
    )


def reject(reason: str, source: str = "mine", line: int = 1, in_part: bool = False, too_long: int = 0) -> Reject:
    return Reject(source, "rows.jsonl", line, reason, in_part, too_long, "{}")


def summary(*names: str) -> Summary:
    return Summary("tokens", {name: SourceSummary(f"{name}.jsonl") for name in names or ("mine",)})


def test_dialogues_count_by_part_and_source() -> None:
    made = summary("mine", "other")
    made.use("mine", "train", facts(calls=(1, 0, 2), languages=("en", "zh", "zh"), family="home"))
    made.use("mine", "test", facts(calls=(2,), family="home"))
    made.use("other", "train", facts(lengths=(), tools=(), called=(), calls=(0,)))
    plain = made.plain()
    assert plain["train"] == {"dialogues": 2, "exchanges": 4}
    assert plain["test"] == {"dialogues": 1, "exchanges": 2}
    assert plain["by_source"] == {"mine": 2, "other": 1}
    assert plain["by_family"] == {"home": 2, "": 1}
    assert plain["languages"] == {"en": 3, "zh": 2}
    assert plain["calls_per_turn"] == {"0": 2, "1": 1, "2": 2}
    assert plain["tools_per_dialogue"] == {"0": 1, "1": 2}
    assert plain["tools"] == {"train": 1, "test": 1}
    assert plain["sources"]["mine"]["train"] == {"dialogues": 1, "exchanges": 2}
    assert plain["sources"]["mine"]["test"] == {"dialogues": 1, "exchanges": 2}
    assert plain["sources"]["other"]["test"] == {"dialogues": 0, "exchanges": 0}
    assert plain["sources"]["mine"]["length"] == {
        "unit": "tokens",
        "measured": 4,
        "mean": 15.0,
        "p50": 10,
        "p95": 20,
        "max": 20,
    }
    assert plain["sources"]["other"]["length"]["measured"] == 0


@pytest.mark.parametrize(
    ("tools", "called", "is_seen"),
    [
        (("lamp", "clock"), ("lamp", "clock"), True),
        (("lamp", "radio"), ("lamp",), True),  # what is called counts, not what is offered beside it
        (("lamp", "radio"), ("lamp", "radio"), False),
        (("lamp", "radio"), (), False),  # none is called: all that are offered count
        (("clock", "lamp"), (), True),
        ((), (), True),
    ],
)
def test_a_test_dialogue_is_seen_if_training_offered_its_tools(tools, called, is_seen: bool) -> None:
    made = summary()
    made.use("mine", "train", facts(tools=("lamp",), called=()))
    made.use("mine", "train", facts(tools=("clock",)))
    tested = facts(tools=tools, called=called)
    assert made.is_seen(tested) is is_seen
    made.use("mine", "test", tested)
    assert made.is_seen(tested) is is_seen, "a test dialogue trains nothing"
    assert (made.plain()["test_seen"], made.plain()["test_unseen"]) == (int(is_seen), int(not is_seen))


def test_rows_held_back_add_up_over_the_sources() -> None:
    made = summary("mine", "other")
    made.sources["mine"].held_back, made.sources["other"].held_back = 3, 4
    plain = made.plain()
    assert plain["held_back"] == 7
    assert [plain["sources"][name]["held_back"] for name in ("mine", "other")] == [3, 4]


def test_rejects_count_by_source_and_those_in_part_count_apart() -> None:
    made = summary("mine", "other")
    for line, in_part in ((3, False), (5, True), (7, False)):
        made.reject(reject("too long: 1 of 2", line=line, in_part=in_part))
    made.reject(reject("too long: 2 of 2", "other", line=9))
    made.reject(reject("no JSON: Expecting value", "other", line=11))
    plain = made.plain()
    assert (plain["rejected"], plain["kept_in_part"]) == (4, 1)
    assert [plain["sources"][name]["rejected"] for name in ("mine", "other")] == [2, 2]
    assert plain["rejected_by_reason"] == {"mine: too long": 3, "other: too long": 1, "other: no JSON": 1}
    first, *_ = made.reasons()
    assert (first.source, first.reason, first.count, first.example_line) == ("mine", "too long", 3, 3)


def test_exchanges_that_are_too_long_count_once_for_rows_kept_used_or_left_out() -> None:
    made = summary("mine", "other")
    made.use("mine", "train", facts(too_long=2))
    made.use("mine", "test", facts(too_long=1))
    made.reject(reject("too long: 1 of 3", in_part=True, too_long=1))  # one of those that are used
    made.reject(reject("too long: 4 of 4", too_long=4))
    assert [one["exchanges_too_long"] for one in made.plain()["sources"].values()] == [7, 0]


ODD = ["it", "it's", "bob's: hers", 'say "so"', "a: b", "two\nlines", "", "x" * 90, "天气"]
LAMP = Tool("lamp", "", {"type": "object", "properties": {}})


def raised(function, *arguments) -> str:
    with pytest.raises(ValueError) as error:
        list(function(*arguments) or ())
    return str(error.value)


def cut_call(name: str) -> str:
    """What agentfabric says of a call that a server would cut, in a dialogue whose id and text hold the name."""
    turn = Turn("q", (Step(Call("lamp", {}), "", f"{name}: Observation:"),), "a")
    return raised(agentfabric.render, Dialogue(name, (LAMP,), (turn,)), "s")


@pytest.mark.parametrize(
    "reason",
    [
        lambda name: raised(Dialogue, name, (), ()),
        lambda name: raised(Dialogue, name, (LAMP, LAMP), (Turn("q", (), "a"),)),
        lambda name: raised(Dialogue, name, (LAMP,), (Turn("q", (Step(Call(f"{name}?", {}), ""),), "a"),)),
        lambda name: raised(Turn, f"{name}: and so on", (), ""),
        lambda name: raised(Tool, f"{name} f", "", {}) if "\n" not in name else raised(Tool, "f", "", {}),
        lambda name: raised(Tool, "f", "", {"type": "object", "properties": {}, "required": [name, f"{name}?"]}),
        lambda name: raised(openai.parse, {"messages": [{"role": f"{name}!", "content": "x"}]}),
        lambda name: raised(openai.parse, {"messages": [{"role": "user", "content": {name: name}}]}),
        lambda name: raised(dialogues.from_json, {"id": name}),
        cut_call,
        lambda name: f"dialogue '{name}', turn 3: tool '{name}': it is odd: {name}",
    ],
    ids=["turnless", "twice", "call", "answer", "schema", "required", "role", "content", "json", "cut", "nested"],
)
def test_rejects_of_one_kind_count_together_whatever_the_rows_name(reason) -> None:
    made = summary()
    for name in ODD:
        made.reject(reject(reason(name)))
    ((kind, count),) = made.plain()["rejected_by_reason"].items()
    assert count == len(ODD) and len(kind) > len("mine: 123")


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("dialogue 'd', turn 0: a client would take it for a call: 'x'", "a client would take it for a call"),
        ("dialogue 'd' has no turns", "dialogue '...' has no turns"),
        ("tool 'f': 'required' is no list of parameter names: None", "'...' is no list of parameter names"),
        ("a message's content is no text: {'a': 1}", "a message's content is no text"),
        ("text that is no valid Unicode", "text that is no valid Unicode"),
    ],
)  # fmt: skip
def test_a_kind_keeps_the_words_that_are_no_name(reason: str, kind: str) -> None:
    made = summary()
    made.reject(reject(reason))
    assert [one.reason for one in made.reasons()] == [kind]


def test_the_summary_of_nothing_has_the_keys_of_stats_json() -> None:
    plain = summary().plain()
    assert list(plain) == [
        "train",
        "test",
        "test_seen",
        "test_unseen",
        "held_back",
        "rejected",
        "kept_in_part",
        "rejected_by_reason",
        "heldout_not_used",
        "by_source",
        "by_family",
        "languages",
        "calls_per_turn",
        "tools_per_dialogue",
        "tools",
        "sources",
    ]
    assert plain["sources"] == {
        "mine": {
            "place": "mine.jsonl",
            "rows": 0,
            "covered": 0,
            "used": 0,
            "held_back": 0,
            "rejected": 0,
            "not_drawn": 0,
            "not_used": 0,
            "exchanges_too_long": 0,
            "results_cut": 0,
            "train": {"dialogues": 0, "exchanges": 0},
            "test": {"dialogues": 0, "exchanges": 0},
            "length": {"unit": "tokens", "measured": 0, "mean": 0.0, "p50": 0, "p95": 0, "max": 0},
        }
    }
    assert json.loads(json.dumps(plain)) == plain
