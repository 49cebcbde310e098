from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
from scipy.stats import bootstrap

from fabrictune.evaluate import scores
from fabrictune.measures import KINDS


def row(key, measures, labels=None, kinds=(), steps=(), model="tuned", malformed=()):
    return {
        "model": model,
        "key": key,
        "dialogue": key.split("/")[0],
        "labels": labels or {},
        "query": f"query {key}",
        "measures": measures,
        "steps": [{"due": "t", "made": "t", "measures": step} for step in steps],
        "kinds": list(kinds),
        "malformed": list(malformed),
    }


def turns(outcomes, **kwargs):
    """A row for each outcome of each dialogue."""
    return [
        row(f"{d}/{t}", {"success": [float(ok), 1]}, kinds=() if ok else ("no_call",), **kwargs)
        for d, dialogue in enumerate(outcomes)
        for t, ok in enumerate(dialogue)
    ]


def drawn(seed, dialogues, size):
    generator = random.Random(seed)
    return [[generator.random() < 0.5 for _ in range(size)] for _ in range(dialogues)]


def scored(rows, suite="agentfabric", seed=0):
    return scores.aggregate(suite, rows, seed)["models"]["tuned"]


def success(rows, seed=0):
    return scored(rows, seed=seed)["all"]["measures"]["success"]


def width(score):
    return score["high"] - score["low"]


def test_a_score_is_the_sum_over_the_count_and_kinds_are_counted_in_rows():
    rows = [
        row("1/0", {"success": [1, 1], "grounded": [3, 4]}, malformed=()),
        row("1/1", {"success": [0, 1], "grounded": [0, 1]}, kinds=("malformed",), malformed=("bad_json", "bad_json")),
        row("2/0", {"success": [0, 1]}, kinds=("malformed", "not_stopped"), malformed=("foreign",)),
    ]
    cell = scored(rows)["all"]
    assert (cell["rows"], cell["dialogues"]) == (3, 2)
    assert cell["measures"]["success"]["value"] == pytest.approx(1 / 3)
    assert cell["measures"]["grounded"] == {"value": 0.6, "low": None, "high": None, "count": 5}  # in one dialogue
    assert set(cell["measures"]) == {"success", "grounded"}
    assert cell["kinds"] == dict.fromkeys(KINDS, 0) | {"malformed": 2, "not_stopped": 1}
    assert {kind: n for kind, n in cell["malformed"].items() if n} == {"bad_json": 1, "foreign": 1}


def test_perplexity_is_the_exponential_of_the_mean_over_tokens_and_so_is_its_interval():
    rows = [row(str(n), {"perplexity": [n * math.log(n), n]}) for n in (2, 3, 5, 4)]
    score = scored(rows, suite="general")["all"]["measures"]["perplexity"]
    mean = sum(n * math.log(n) for n in (2, 3, 5, 4)) / 14
    assert score["value"] == pytest.approx(math.exp(mean))
    assert score["count"] == 14
    assert 2 <= score["low"] < score["value"] < score["high"] <= 5


def test_scores_are_broken_down_by_label_and_calls_by_their_place():
    first, second = {"tool_em": [1, 1]}, {"tool_em": [0, 1]}
    rows = [
        row("1/0", {"success": [1, 1]}, {"tools": "seen", "language": "zh"}, steps=[first, second]),
        row("2/0", {"success": [0, 1]}, {"tools": "unseen"}, steps=[first]),
        row("3/0", {"success": [0, 1]}, {"tools": "unseen"}),
    ]
    model = scored(rows)
    assert model["all"]["measures"]["tool_em"]["value"] == pytest.approx(2 / 3)
    assert {label: cell["rows"] for label, cell in model["by"]["tools"].items()} == {"seen": 1, "unseen": 2}
    assert model["by"]["tools"]["seen"]["measures"]["success"]["value"] == 1
    assert list(model["by"]["language"]) == ["zh"]
    places = {place: cell["measures"] for place, cell in model["by"]["step"].items()}
    assert {place: (m["tool_em"]["value"], m["tool_em"]["count"]) for place, m in places.items()} == {
        "1": (1, 2),
        "2": (0, 1),
    }
    assert "success" not in places["1"]


def test_rows_that_say_their_step_themselves_are_grouped_by_it():
    steps = [{"argument_f1": [0.5, 1]}]
    rows = [row(f"1/0/{n}", {"plan_em": [1, 1]}, {"step": str(n + 1)}, steps=steps) for n in range(12)]
    model = scored(rows, suite="toolbench")
    assert list(model["by"]["step"]) == [str(n) for n in range(1, 13)]  # 10 after 9
    assert model["by"]["step"]["2"]["measures"]["plan_em"]["count"] == 1
    assert model["all"]["measures"]["argument_f1"] == {"value": 0.5, "low": None, "high": None, "count": 12}


def test_a_measure_that_the_row_itself_has_is_not_counted_again_from_its_calls():
    model = scored([row("1", {"tool_em": [1, 4]}, steps=[{"tool_em": [1, 1]}])])
    assert model["all"]["measures"]["tool_em"]["count"] == 4


def test_a_turn_that_is_repeated_in_its_dialogue_does_not_narrow_the_interval():
    once = drawn(1, 50, 1)
    twice = [dialogue * 2 for dialogue in once]
    apart = once + once
    assert width(success(turns(twice))) == width(success(turns(once)))
    assert width(success(turns(apart))) == pytest.approx(width(success(turns(once))) / math.sqrt(2), rel=0.15)


def test_the_order_of_rows_does_not_matter_and_the_seed_does():
    rows = [
        row(f"{d}/{t}", {"argument_f1": [random.Random(f"{d}/{t}").random(), 1]}, {"language": "en"})
        for d in range(12)
        for t in range(3)
    ]
    shuffled = random.Random(0).sample(rows, len(rows))
    assert scores.aggregate("smoke", shuffled, 7) == scores.aggregate("smoke", rows, 7)
    assert scores.aggregate("smoke", rows, 8) != scores.aggregate("smoke", rows, 7)
    assert scores.compare(shuffled, rows, 7) == scores.compare(rows, rows, 7)


def test_no_score_is_ever_nan_or_infinite():
    rows = [
        row("1", {"perplexity": [math.nan, 5], "needless_call": [0, 0]}),
        row("2", {"perplexity": [math.inf, 5], "needless_call": [0, 0]}),
        row("3", {"perplexity": [5.0, 5], "correct": [0, 0]}),
        row("4", {"perplexity": [5.0, 5], "rouge_l": [1, 1]}),
    ]
    found = scores.aggregate("general", rows, 0)
    cell = json.loads(json.dumps(found, allow_nan=False))["models"]["tuned"]["all"]
    assert cell["measures"]["perplexity"]["value"] == pytest.approx(math.e)
    assert set(cell["measures"]) == {"perplexity", "rouge_l"}  # what has no count has no score
    assert cell["unusable"] == {"perplexity": 2}
    huge = scores.aggregate("general", [row(str(n), {"perplexity": [1e9, 1]}) for n in range(3)], 0)
    assert json.loads(json.dumps(huge, allow_nan=False))["models"]["tuned"]["all"]["measures"]["perplexity"] == {
        "value": None,
        "low": None,
        "high": None,
        "count": 3,
    }
    json.dumps(scores.compare(rows[:3], rows[1:], 0), allow_nan=False)


def test_what_cannot_be_scored_is_refused_by_name():
    with pytest.raises(ValueError, match="suite 'mmlu' is not among agentfabric, smoke"):
        scores.aggregate("mmlu", [], 0)
    with pytest.raises(ValueError, match="row '1/0': measure 'sucess'"):
        scored([row("1/0", {"sucess": [1, 1]})])
    with pytest.raises(ValueError, match="the key '1/0'"):
        scored([row("1/0", {}), row("1/0", {})])
    with pytest.raises(ValueError, match="none of 1 rows is among the 1"):
        scores.compare([row("1", {})], [row("2", {})], 0)


def test_a_run_does_not_differ_from_itself():
    rows = [row(str(d), {"argument_f1": [random.Random(d).random(), 1], "success": [d % 2, 1]}) for d in range(37)]
    found = scores.compare(rows, rows, 0)
    assert found["changed"] == []
    for measure in found["measures"].values():
        assert (measure["difference"], measure["low"], measure["high"]) == (0, 0, 0)


def test_a_difference_is_paired_by_key_and_its_interval_is_narrower_than_unpaired():
    before = drawn(2, 60, 2)
    after = [[ok or d % 10 == 0 for ok in dialogue] for d, dialogue in enumerate(before)]
    rows_a = [*turns(before), row("900/0", {"success": [1, 1]})]
    rows_b = [*turns(after), row("901/0", {"success": [0, 1]}), row("902/0", {"success": [0, 1]})]
    found = scores.compare(rows_a, rows_b, 0)
    assert (found["pairs"], found["dialogues"], found["only_a"], found["only_b"]) == (120, 60, 1, 2)
    gained = sum(map(sum, after)) - sum(map(sum, before))
    measure = found["measures"]["success"]
    assert measure["a"] == pytest.approx(sum(map(sum, before)) / 120)
    assert measure["difference"] == pytest.approx(gained / 120)
    assert measure["count"] == 120
    oracle = bootstrap(
        ([sum(y) - sum(x) for x, y in zip(before, after, strict=True)],), lambda d, axis: d.sum(axis) / 120,
        n_resamples=20000, method="percentile", rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    assert (measure["low"], measure["high"]) == pytest.approx((oracle.low, oracle.high), abs=0.01)
    assert width(measure) < width(success(turns(before)))


def test_the_rows_that_changed_are_listed_and_how():
    rows_a = [
        row("10", {"success": [0, 1]}, kinds=("no_call",)),
        row("2", {"success": [1, 1]}),
        row("3", {"success": [0, 1]}, kinds=("no_call",)),
        row("4", {"success": [0, 1]}, kinds=("no_call",)),
        row("5", {"correct": [0, 1]}),
        row("6", {"plan_em": [0, 1]}, kinds=("no_call", "malformed")),
    ]
    rows_b = [
        row("10", {"success": [1, 1]}),
        row("2", {"success": [0, 1]}, kinds=("not_stopped",)),
        row("3", {"success": [0, 1]}, kinds=("wrong_tool", "malformed")),
        row("4", {"success": [0, 1]}, kinds=("no_call",)),
        row("5", {"correct": [1, 1]}),
        row("6", {"plan_em": [1, 1]}, kinds=("malformed",)),
    ]
    changed = scores.compare(rows_a, rows_b, 0)["changed"]
    assert [(entry["key"], entry["change"]) for entry in changed] == [
        ("2", "worse"),
        ("3", "other"),
        ("5", "better"),
        ("6", "better"),
        ("10", "better"),
    ]
    assert changed[0] == {
        "key": "2", "dialogue": "2", "query": "query 2", "a": [], "b": ["not_stopped"], "change": "worse",
    }  # fmt: skip


def test_differences_are_broken_down_by_label():
    rows_a = [row(str(d), {"success": [0, 1]}, {"tools": "seen" if d < 3 else "unseen"}) for d in range(8)]
    rows_b = [row(str(d), {"success": [d < 3, 1]}, {"tools": "seen" if d < 3 else "unseen"}) for d in range(8)]
    by = scores.compare(rows_a, rows_b, 0)["by"]["tools"]
    assert {label: (cell["pairs"], cell["measures"]["success"]["difference"]) for label, cell in by.items()} == {
        "seen": (3, 1),
        "unseen": (5, 0),
    }


def test_a_difference_is_of_the_rows_to_which_the_measure_applies_on_both_sides():
    """Of ten rows 0 to 5 are answered in a, 4 to 9 in b: 4 and 5 in both."""
    rows_a = [row(str(d), {"grounded": [d != 5, 1]} if d < 6 else {"grounded": [0, 0]}) for d in range(10)]
    rows_b = [row(str(d), {"grounded": [0, 1]} if d > 3 else {}) for d in range(10)]
    found = scores.compare(rows_a, rows_b, 0)
    assert found["pairs"] == 10
    assert found["measures"]["grounded"] == {"a": 0.5, "b": 0, "difference": -0.5, "low": -1, "high": 0, "count": 2}


def test_rows_that_differ_only_in_whether_a_measure_applies_make_no_difference_in_it():
    rows_a = [row(str(d), {"grounded": [d % 2, 1]}) for d in range(12)]
    rows_b = [entry for entry in rows_a if entry["measures"]["grounded"][0]] + [
        row(str(d), {}) for d in range(0, 12, 2)
    ]
    measure = scores.compare(rows_a, rows_b, 0)["measures"]["grounded"]
    assert measure == {"a": 1, "b": 1, "difference": 0, "low": 0, "high": 0, "count": 6}


def test_a_row_that_has_no_finite_number_leaves_the_pair_out_and_is_told():
    rows_a = [row(str(d), {"perplexity": [1.0, 1]}) for d in range(3)]
    rows_b = [row(str(d), {"perplexity": [math.nan if d else 2.0, 1]}) for d in range(3)]
    found = scores.compare(rows_a, rows_b, 0)
    assert found["unusable"] == {"perplexity": 2}
    assert found["measures"]["perplexity"]["count"] == 1
    assert found["measures"]["perplexity"]["difference"] == pytest.approx(math.e**2 - math.e)


@pytest.mark.parametrize("other", [{}, {"grounded": [0, 0]}])
def test_a_measure_that_only_one_of_the_runs_has_makes_no_difference(other):
    nothing = {"a": None, "b": None, "difference": None, "low": None, "high": None, "count": 0}
    rows = [row("1", {"grounded": [1, 1]})], [row("1", other)]
    assert scores.compare(*rows, 0)["measures"] == {"grounded": nothing}
    assert scores.compare(*reversed(rows), 0)["measures"] == {"grounded": nothing}


def test_names_are_ordered_by_the_numbers_in_them():
    def ordered(*names):
        return sorted(names, key=scores.natural) == list(names)

    assert ordered("rank-4", "rank-8", "rank-16", "rank-32")
    assert ordered("lr-2e-05", "lr-5e-5", "lr-0.0001", "lr-1.5e-4", "lr-2e-4")
    assert ordered("mix-0", "mix-0.5", "mix-1", "mix-1.25", "mix-10")
    assert ordered("lora.rank-8+lr-2e-05", "lora.rank-8+lr-0.0001", "lora.rank-16+lr-2e-05")
    assert ordered("2-3", "4-7", "8+", "10")
    assert ordered("9/2", "9/10", "10/0")
    assert ordered("", "1", "main", "rank-1", "x1e999", "x1e9999")  # alike as numbers, so by their text


def test_a_sweep_is_collected_into_lines_with_the_same_columns():
    seen, unseen = {"tools": "seen"}, {"tools": "unseen"}
    rows = [row("1", {"first_call": [1, 1]}, seen), row("2", {"first_call": [0, 1]}, unseen)]
    both = scores.aggregate("agentfabric", [*rows, *({**r, "model": "base"} for r in rows)], 0)
    one = scores.aggregate("agentfabric", [row("1", {"first_call": [1, 1], "success": [1, 1]})], 0)
    lines = scores.collect({"mix=0": both, "mix=1": one})
    assert [(line["point"], line["model"], line["rows"]) for line in lines] == [
        ("mix=0", "tuned", 2),
        ("mix=0", "base", 2),
        ("mix=1", "tuned", 1),
    ]
    assert len({tuple(line) for line in lines}) == 1
    columns = ["first_call", "first_call_seen", "first_call_unseen", "success"]
    assert [lines[0][column] for column in columns] == [0.5, 1, 0, None]
    assert [lines[2][column] for column in columns] == [1, None, None, 1]
    assert lines[0]["first_call_low"] == 0
    assert lines[0]["first_call_high"] == 1
