from __future__ import annotations

import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from fabrictune.evaluate import scoreboard, scores
from fabrictune.measures import HEADLINES, MEASURES


def row(key, measures, labels=None, kinds=(), steps=(), model="tuned", malformed=(), query="q"):
    return {
        "model": model,
        "key": key,
        "dialogue": key.split("/")[0],
        "labels": labels or {},
        "query": query,
        "measures": {name: value if isinstance(value, list) else [value, 1] for name, value in measures.items()},
        "steps": [{"due": "t", "made": "t", "measures": {"exact_call": [step, 1]}} for step in steps],
        "kinds": list(kinds),
        "malformed": list(malformed),
    }


def printed(show, *args, width=80):
    """What is shown, without the lines of tables and with single spaces."""
    file = io.StringIO()
    show(*args, Console(width=width, file=file))
    lines = file.getvalue().split("\n")
    assert max(map(cell_len, lines)) <= min(width, 120)
    return [re.sub(r"\s+", " ", re.sub(r"[┃│]", "|", line)).strip(" |") for line in lines]


def shown(suite, rows, width=80):
    return printed(scoreboard.show, scores.aggregate(suite, rows, 0), width=width)


def after(lines, start):
    """The lines from the one that starts so."""
    return lines[next(place for place, line in enumerate(lines) if line.startswith(start)) :]


def agent_rows(models=("base", "tuned")):
    """base never gets a call right, tuned always with seen tools and half the time with unseen ones."""
    rows = []
    for model in models:
        for n in range(12):
            seen = n < 4
            right = model != "base" and (seen or n % 2 == 0)
            rows.append(
                row(
                    f"{n}/0",
                    {"first_call": float(right), "success": float(right), "no_call": float(not right)}
                    | {"wrong_arguments": 0.0, "bad_summary": 0.0, "not_stopped": 0.0},
                    {"tools": "seen" if seen else "unseen", "language": "en", "family": "weather" if seen else "music"},
                    () if right else ("no_call", "malformed"),
                    [1.0, float(right)] if n % 2 else [0.0],
                    model,
                    () if right else ("bad_json",),
                )
            )
    return rows


def test_agentfabric_shows_the_models_side_by_side_for_all_seen_and_unseen_tools():
    lines = shown("agentfabric", agent_rows())
    everything = lines[: lines.index("seen tools | 4 turns | 4 turns")]
    assert "all | 12 turns | 12 turns" in everything
    # 4 of 4 and 4 of 8; a model that is always wrong has an interval of no width
    assert "first call exact | 0.0 [0.0, 0.0] | 66.7 [41.7, 91.7]" in everything
    seen = after(lines, "seen tools")
    assert seen[1] == "first call exact | 0.0 [0.0, 0.0] | 100.0 [100.0, 100.0]"
    assert seen[3] == "no call made | 100.0 [100.0, 100.0] | 0.0 [0.0, 0.0]"
    unseen = after(lines, "unseen tools | 8 turns | 8 turns")
    assert re.fullmatch(r"turn right \| 0\.0 \[0\.0, 0\.0\] \| 50\.0 \[12\.5, 87\.5\]", unseen[2])


@pytest.mark.parametrize(("width", "share"), [(66, ""), (80, "(50.0 %)"), (120, "(50.0 %)")])
def test_failures_are_counted_by_kind_and_split_with_shares_where_there_is_room(width, share):
    failures = after(shown("agentfabric", agent_rows(), width), "Failures")
    no_call = next(line for line in failures if line.startswith("no call made"))
    if share:
        assert no_call == "no call made | 4 (100.0 %) | 0 (0.0 %) | 8 (100.0 %) | 4 (50.0 %)"
    else:
        assert no_call == "no call made | 4 | 0 | 8 | 4"
    text = "\n".join(failures)
    assert "did not stop" in text  # a headline, though it never came up
    assert "needless call" not in text
    assert "\narguments are no" in text  # the rest of the line may be folded
    assert "turns | 4 | 4 | 8 | 8" in failures


def rows_of_which_some_were_asked_for_no_call(models=("base", "tuned")):
    """10 rows with seen tools, of which a call was due in 8; only tuned gets to a summary, in 3 of them."""
    rows = []
    for model in models:
        for n in range(20):
            missed = model == "base" and n % 10 < 4
            measures = {"success": float(not missed), "first_call": 0.0, "not_stopped": 0.0}
            due = {"no_call": float(missed), "wrong_arguments": 0.0}
            measures |= due if n % 10 < 8 else {"needless_call": 0.0}
            measures |= {"bad_summary": float(n == 0)} if model != "base" and n % 10 < 3 else {}
            kinds = [kind for kind in ("no_call", "bad_summary") if measures.get(kind)]
            kinds += ["needless_call"] * (n == 7)  # after the call that was due
            rows.append(row(str(n), measures, {"tools": "seen" if n < 10 else "unseen"}, kinds, model=model))
    return rows


def test_a_score_that_is_not_of_all_rows_says_of_how_many():
    lines = shown("agentfabric", rows_of_which_some_were_asked_for_no_call())
    seen = after(lines, "seen tools | 10 turns | 10 turns")
    assert re.fullmatch(r"no call made \| 50\.0 \[[^]]*\] of 8 \| 0\.0 \[0\.0, 0\.0\] of 8", seen[3])
    assert re.fullmatch(r"turn right \| 60\.0 \[[^]]*\] \| 100\.0 \[100\.0, 100\.0\]", seen[2])
    assert any(re.fullmatch(r"answer contradicts.* \| - \| 33\.3 \[[^]]*\] of 3", line) for line in seen)


def test_the_count_stays_beside_a_score_whose_interval_stands_below_it():
    lines = shown("agentfabric", rows_of_which_some_were_asked_for_no_call(["base", "a", "b"]))
    at = next(n for n, line in enumerate(lines) if line.startswith("no call made | 50.0 of"))
    assert lines[at].startswith("no call made | 50.0 of 16 | 0.0 of 16 | 0.0 of 16")


@pytest.mark.parametrize("width", [80, 120])
def test_a_failure_has_the_same_share_as_its_measure_above(width):
    failures = after(shown("agentfabric", rows_of_which_some_were_asked_for_no_call(), width), "Failures")
    at = next(n for n, line in enumerate(failures) if line.startswith("no call made"))
    if width == 120:
        both = "4 of 8 (50.0 %) | 0 of 8 (0.0 %)"
        assert failures[at] == f"no call made | {both} | {both}"
        assert any(line.endswith("| - | 1 of 3 (33.3 %) | - | 0 of 3 (0.0 %)") for line in failures)
    else:
        assert failures[at] == "no call made | 4 (50.0 %) | 0 (0.0 %) | 4 (50.0 %) | 0 (0.0 %)"
        assert failures[at + 1].strip(" |") == "of 8 | of 8 | of 8 | of 8"
    # the measure is of the 2 rows without a call due, the needless call in one of the others
    assert any(line.startswith("needless call | 1 (10.0 %) | 1 (10.0 %) | 0 ") for line in failures)


def test_a_failure_that_no_measure_counts_is_a_share_of_all_rows():
    rows = [row(str(n), {"plan_em": 0.0}, kinds=("wrong_tool",) * (n < 1)) for n in range(4)]
    assert "another tool | 1 (25.0 %)" in shown("toolbench", rows)


def test_a_failure_that_could_not_come_up_is_no_failure_of_0_percent():
    lines = after(shown("agentfabric", [row("1", {"success": 0.0}, kinds=("no_call",))]), "Failures")
    assert "no call made | 1 (100.0 %)" in lines
    assert "did not stop | -" in lines


def test_calls_are_shown_by_their_place_in_the_turn():
    calls = after(shown("agentfabric", agent_rows()), "Calls that were due")
    assert "all calls | 18 calls | 18 calls" in calls
    assert any(line.startswith("call exact | 33.3 [") for line in calls)  # the 6 of 18 that are first of two
    assert any(line.startswith("call 2 | 0.0 [0.0, 0.0] | 33.3 [") for line in calls)


def test_a_label_that_all_rows_share_is_not_broken_down():
    lines = shown("agentfabric", agent_rows())
    broken_down = after(lines, "Broken down: first call exact")
    assert any(line.startswith("music | 8 | 0.0 [0.0, 0.0] | 50.0") for line in broken_down)
    assert not any(line.startswith(("language", "en |")) for line in lines)


def test_breakdowns_of_both_measures_stand_side_by_side_where_there_is_room():
    wide = shown("agentfabric", agent_rows(), 120)
    assert len([line for line in wide if line.startswith("Broken down")]) == 1
    weather = next(line for line in wide if line.startswith("weather"))
    assert weather == "weather | 4 | 0.0 [0.0, 0.0] | 100.0 [100.0, 100.0] | 0.0 [0.0, 0.0] | 100.0 [100.0, 100.0]"


def test_many_models_lose_their_intervals_before_their_values():
    models = [f"run-{n}" for n in range(6)]
    lines = shown("agentfabric", agent_rows(["base", *models]))
    assert any(line.endswith("| 0.0 | 66.7 | 66.7 | 66.7 | 66.7 | 66.7 | 66.7") for line in lines)
    assert "Too narrow for the rest of each cell: the file has it." in lines
    assert not any("[41.7" in line for line in lines[:20])
    three = shown("agentfabric", agent_rows(["base", *models[:2]]))
    at = next(n for n, line in enumerate(three) if line.startswith("first call exact | 0.0 | 66.7 | 66.7"))
    assert three[at + 1].endswith("[0.0, 0.0] | [41.7, 91.7] | [41.7, 91.7]")  # below the values


def test_a_table_with_more_columns_than_there_is_room_for_is_split():
    failures = after(shown("agentfabric", agent_rows(["base", *(f"a-model-{n}" for n in range(6))])), "Failures")
    counts = [re.sub(r" \([^)]*\)", "", line) for line in failures if line.startswith("no call made")]
    assert "".join(counts).replace("no call made", "") == " | 4" + " | 0" * 6 + " | 8" + " | 4" * 6
    assert len(counts) > 1


def test_rows_without_the_label_of_a_split_are_still_among_the_failures():
    rows = [row("1", {"success": 0.0}, {"tools": "seen"}, ("no_call",)), row("2", {"success": 0.0}, kinds=("no_call",))]
    failures = after(shown("smoke", rows), "Failures")
    assert any(re.match(r"no call made \| 2 .*\| 1 ", line) for line in failures)


def test_smoke_shows_a_model_alone():
    lines = shown("smoke", [row("1", {"first_call": 1.0, "success": 0.0}, kinds=("not_stopped",))])
    assert "all | 1 turns" in lines
    assert "first call exact | 100.0" in lines
    assert "did not stop | 1 (100.0 %)" in lines


def test_toolbench_shows_the_benchmarks_own_measures_and_its_steps():
    rows = [
        row(
            f"{n}/0/{step}",
            {"plan_em": float(step == 0), "act_em": 0.5, "hallucination": 0.25},
            {"step": str(step + 1)},
        )
        for n in range(4)
        for step in range(2)
    ]
    lines = shown("toolbench", rows)
    assert "all | 8 replies" in lines
    assert "Plan.EM | 50.0 [50.0, 50.0]" in lines
    assert "HalluRate | 25.0 [25.0, 25.0]" in lines
    assert "ROUGE-L of answers | -" in lines
    assert "1 | 4 | 100.0 [100.0, 100.0] | 50.0 [50.0, 50.0]" in after(lines, "step")


def test_bfcl_shows_its_categories_their_mean_and_the_overall_score():
    rows = [
        row(f"{category}/{n}", {"correct": float(n < right)}, {"category": category}, model=model)
        for model, rights in (("base", (0, 1)), ("tuned", (3, 1)))
        for category, right, size in zip(("simple_python", "irrelevance"), rights, (4, 2), strict=True)
        for n in range(size)
    ]
    for place, entry in enumerate(rows):
        entry["dialogue"] = str(place % 6)
    lines = shown("bfcl", rows)
    assert any(line.startswith("simple_python | 4 | 0.0 [0.0, 0.0] | 75.0 [") for line in lines)
    assert any(re.match(r"irrelevance \| 2 \| 50\.0 \[0\.0, 100\.0\] \| 50\.0 ", line) for line in lines)
    assert any(re.match(r"overall \| 6 \| 16\.7 \[.* \| 66\.7 \[", line) for line in lines)
    assert "mean of the categories | | 25.0 | 62.5" in lines
    assert not any(line.startswith("Broken down") and "category" in line for line in lines)


def test_general_shows_perplexity_as_it_is_and_what_could_not_be_counted():
    rows = [row(str(n), {"perplexity": [2.0 * n, n]}, {"language": "zh" if n % 2 else "en"}) for n in range(1, 7)]
    rows += [row("7", {"needless_call": 1.0}, {"language": "en"}, ("needless_call",)), row("8", {"needless_call": 0.0})]
    rows.append(row("9", {"perplexity": [float("nan"), 3]}))
    lines = shown("general", rows)
    assert lines[1] == "general: perplexity, percent, with 95 % intervals"
    assert "perplexity | 7.39 [7.39, 7.39]" in lines  # e squared
    assert "needless call | 50.0 [0.0, 100.0] of 2" in lines
    assert "tuned: perplexity is no finite number in 1 rows, which do not count" in lines
    assert any(line.startswith("zh | 3 | 7.39") for line in lines)


def test_every_suite_can_be_shown_at_any_width():
    for suite, names in HEADLINES.items():
        rows = [row(str(n), dict.fromkeys(names, 0.5), {"tools": "seen" if n else "unseen"}) for n in range(3)]
        for width in (40, 80, 200):
            text = " ".join(shown(suite, rows, width))
            assert width == 40 or all(MEASURES[name].title in text for name in names)


def test_names_from_data_are_shown_as_they_are():
    odd = "[bold]天气\ud800\x1b[31m"
    rows = [row(str(n), {"success": 1.0}, {"family": odd if n else "plain"}, model="[red]m") for n in range(3)]
    lines = shown("agentfabric", rows)
    assert any(line.startswith("[bold]天气 [31m | 2") for line in lines)
    assert any("[red]m" in line for line in lines)


def test_a_comparison_shows_differences_marks_and_what_changed():
    before = [row(str(n), {"success": 0.0, "not_stopped": 0.0}, {"tools": "seen"}, ("no_call",)) for n in range(20)]
    after_ = [
        row(
            str(n),
            {"success": float(n < 12), "not_stopped": float(n > 12)},
            {"tools": "seen"},
            ("not_stopped",) * (n > 12),
        )
        for n in range(20)
    ]
    compared = scores.compare(before, [*after_, row("99", {"success": 1.0})], 0)
    lines = printed(scoreboard.show_comparison, compared, "demo/main:base", "demo/main:tuned")
    assert lines[:3] == [
        "a: demo/main:base",
        "b: demo/main:tuned",
        "20 rows of 20 dialogues in both; only in a: 0, only in b: 1",
    ]
    assert any(re.fullmatch(r"turn right \| 0\.0 \| 60\.0 \| \+60\.0 \[\+.*, \+.*\] \| better", line) for line in lines)
    assert any(re.fullmatch(r"did not stop \| 0\.0 \| 35\.0 \| \+35\.0 \[.*\] \| worse", line) for line in lines)
    assert not any(line.startswith("Differences by label") for line in lines)  # all have seen tools
    assert "20 rows of 20 dialogues changed: 12 better, 0 worse, 8 wrong in another way" in lines
    changes = after(lines, "The first 10:")
    assert [line for line in changes if line.startswith("9 |")] == ["9 | better | no call made | - | q"]
    assert not any(line.startswith("10 |") for line in changes)


def test_a_comparison_that_shows_nothing_says_so_and_one_by_label_has_its_own_table():
    rows = [row(str(n), {"success": float(n % 2)}, {"tools": "seen" if n < 6 else "unseen"}) for n in range(12)]
    lines = printed(scoreboard.show_comparison, scores.compare(rows, rows, 0), "a", "b")
    assert "turn right | 50.0 | 50.0 | +0.0 [+0.0, +0.0]" in lines
    assert "0 rows of 0 dialogues changed: 0 better, 0 worse, 0 wrong in another way" in lines
    assert "unseen | 6 | +0.0 [+0.0, +0.0]" in after(lines, "Differences by label")


def test_a_difference_of_some_of_the_pairs_says_of_how_many():
    before = [row(str(n), {"success": 0.0} | ({"grounded": 0.0} if n < 4 else {})) for n in range(6)]
    later = [row(str(n), {"success": 1.0} | ({"grounded": 1.0} if n > 1 else {})) for n in range(6)]
    lines = printed(scoreboard.show_comparison, scores.compare(before, later, 0), "a", "b")
    assert "turn right | 0.0 | 100.0 | +100.0 [+100.0, +100.0] | better" in lines
    assert "answer grounded | 0.0 | 100.0 | +100.0 [+100.0, +100.0] of 2 | better" in lines


def test_a_comparison_of_perplexities_is_better_when_lower():
    before, later = ([row(str(n), {"perplexity": [x + n / 100, 1]}) for n in range(9)] for x in (1.0, 0.5))
    lines = printed(scoreboard.show_comparison, scores.compare(before, later, 0), "a", "b", width=120)
    assert any(
        re.fullmatch(r"perplexity \| 2\.83 \| 1\.72 \| -1\.11 \[-1\.\d\d, -1\.\d\d\] \| better", line) for line in lines
    )


@pytest.mark.parametrize("width", [80, 120])
def test_a_sweep_shows_each_headline_for_all_points_seen_and_unseen(width):
    points = {f"mix={n}": scores.aggregate("agentfabric", agent_rows(), 0) for n in (0, 4)}
    lines = printed(scoreboard.show_sweep, scores.collect(points), width=width)
    first = after(lines, "first call exact")
    values = re.sub(r" \[.*?\]", "", first[1])
    assert values == "mix=0 base | 0.0 | 0.0 | 0.0"
    tuned = next(line for line in first if line.startswith("mix=4 tuned"))
    assert re.sub(r" \[.*?\]", "", tuned) == "mix=4 tuned | 66.7 | 100.0 | 50.0"
    assert (width == 120) == ("[41.7, 91.7]" in tuned)  # at 80 it is in the line below
    assert any("[41.7, 91.7]" in line for line in first)
