"""The report shows the numbers it was given, escaped, and a browser can filter, open and search its dialogues."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from fabrictune.evaluate import report, scores
from fabrictune.measures import KINDS, MEASURES

SCRIPT = "</script><script>alert('x')</script><img src=x onerror=alert(1)>"
TOOLS = {
    "weather": ("amap_weather", {"location": "Lisbon"}, "18 °C, light rain"),
    "drawing": ("image_gen", {"text": "a red fox in snow", "resolution": "1024*1024"}, "![IMAGEGEN](fox.png)"),
    "speech": ("say_aloud", {"text": "Good morning"}, "<audio src='hello.wav'>"),
    "money": ("convert_currency", {"amount": 40, "source": "EUR", "target": "JPY"}, '{"result": 6512.4}'),
    "search": ("search_web", {"query": "opening hours of the city library"}, "Mon to Sat, 9:00 to 19:00"),
    "calendar": ("add_event", {"title": "dentist", "date": "2026-12-03"}, '{"status": "ok"}'),
}
QUERIES = {
    "weather": ("What is the weather like in Lisbon today?", "里斯本今天天气怎么样？"),
    "drawing": ("Draw me a red fox in snow.", "帮我画一只雪地里的红狐狸"),
    "speech": ("Say good morning out loud.", "大声说早上好"),
    "money": ("How many yen are 40 euros?", "40欧元是多少日元？"),
    "search": ("When is the city library open?", "市图书馆几点开门？"),
    "calendar": ("Put the dentist on 3 December.", "把12月3日的牙医预约加进日历"),
}
STEP_MEASURES = ("tool_em", "argument_em", "argument_f1", "exact_call")
SKILL = {"base": 0.12, "tuned": 0.68}


def call_text(name: str, arguments: str) -> str:
    return f"Action: {name}\nAction Input: {arguments}\n"


def a_row(model: str, number: int, kind: str | None, generator: random.Random) -> dict[str, Any]:
    """A row as evaluation writes it: a turn with one call that goes wrong in the way of `kind`, or right."""
    family = list(TOOLS)[number % len(TOOLS)]
    chinese = number % 3 == 2
    name, arguments, observation = TOOLS[family]
    written = json.dumps(arguments)
    made: str | None = name
    first, last, stopped = call_text(name, written), f"Here it is: {observation}", True
    if kind == "no_call":
        made, first, last = None, "", "I am sorry, I can not do that."
    elif kind == "wrong_arguments":
        written = json.dumps(dict.fromkeys(arguments, "?"))
    elif kind in ("wrong_tool", "unknown_tool"):
        made = generator.choice([tool for tool, *_ in TOOLS.values()]) if kind == "wrong_tool" else "make_magic"
    elif kind == "bad_summary":
        last = "I cannot get this information."
    elif kind == "not_stopped":
        last, stopped = "and then the user says " * 40, False
    if made is not None:
        first = call_text(made, written)
    calls = [] if made is None else [{"name": made, "arguments": written, "observation": observation}]
    replies = ([{"text": first, "stopped": True}] if made else []) + [{"text": last, "stopped": stopped}]
    system = "You are a helpful assistant.\n\n# Tools\n\n" + "\n\n".join(
        f"{tool}: {tool} API. Parameters: {json.dumps(list(wanted))}. Format the arguments as a JSON object."
        for tool, wanted, _ in TOOLS.values()
    )
    steps = [{"due": name, "made": made, "measures": {}}]
    if number % 4 == 1:  # a second call is due, which only a right turn makes
        steps.append({"due": "say_aloud", "made": "say_aloud" if kind is None else None, "measures": {}})
    if number % 4 == 1 and kind is None:
        spoken = json.dumps({"text": observation})
        calls.append({"name": "say_aloud", "arguments": spoken, "observation": "spoken"})
        replies.insert(1, {"text": call_text("say_aloud", spoken), "stopped": True})
    query = QUERIES[family][chinese]
    exact = made == name and kind != "wrong_arguments"
    if kind == "needless_call":
        calls.append({"name": "say_aloud", "arguments": "{}", "observation": "spoken"})
        replies.insert(-1, {"text": call_text("say_aloud", "{}"), "stopped": True})
    flag = lambda value: [int(value), 1]  # noqa: E731
    for place, step in enumerate(steps):
        right = step["made"] == step["due"]
        whole = exact if place == 0 else right
        step["measures"] = {
            "tool_em": flag(right),
            "argument_em": flag(whole),
            "argument_f1": flag(whole),
            "exact_call": flag(whole),
        }
    return {
        "model": model,
        "key": f"{number}/0",
        "dialogue": str(number),
        "labels": {
            "tools": "unseen" if family in ("search", "calendar") else "seen",
            "language": "zh" if chinese else "en",
            "offered": ("1", "2-3", "4-7", "8+")[number % 4],
            "family": family,
            "source": "synthetic",
        },
        "prompt": [{"role": "system", "content": system}, {"role": "user", "content": query}],
        "query": query,
        "expected": {"calls": [{"name": name, "arguments": arguments}], "answer": f"Here it is: {observation}"},
        "replies": replies,
        "calls": calls,
        "answer": last,
        "measures": {
            **{one: [sum(step["measures"][one][0] for step in steps), len(steps)] for one in STEP_MEASURES},
            **{one: flag(one == kind) for one in KINDS},
            "first_call": flag(exact),
            "success": flag(kind is None),
            "rouge_l": [0.4 + 0.5 * (kind is None), 1],
        },
        "steps": steps,
        "kinds": [kind] if kind else [],
        "malformed": ["bad_json"] if kind == "malformed" else [],
    }


def made_rows(count: int = 60) -> list[dict[str, Any]]:
    generator = random.Random("report")
    kinds = [*KINDS[:4], "wrong_tool", "unknown_tool", "malformed", "needless_call"]
    rows = []
    for model, skill in SKILL.items():
        for number in range(count):
            kind = None if generator.random() < skill else generator.choice(kinds)
            rows.append(a_row(model, number, kind, generator))
    return rows


def scores_of(rows: list[dict[str, Any]], suite: str = "agentfabric") -> dict[str, Any]:
    return scores.aggregate(suite, rows, 0)


def made_curves() -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for step in range(10, 310, 10):
        lines.append({"step": step, "loss": 2.2 * 0.99**step + 0.4 + 0.1 * (step % 30 == 0), "learning_rate": 1e-4})
        if step % 50 == 0:
            share = 1 - 0.99**step
            lines.append(
                {
                    "step": step,
                    "eval_loss": 2.1 * 0.99**step + 0.45,
                    "eval_loss/synthetic": 2.0 * 0.99**step + 0.40,
                    "eval_seconds": 8.1,
                    "eval_token_acc": 0.5 + 0.45 * share,
                    "eval_call_exact": 0.7 * share,
                    "eval_no_call": 0.6 * (1 - share),
                    "eval_wrong_args": 0.3 * (1 - share),
                    "eval_not_stopped": 0.5 * (1 - share) ** 2,
                }
            )
    return lines


ABOUT = {
    "run": "demo/smollm2",
    "model base": "SmolLM2 <135M>",
    "commit": "9a43e42",
    "data": "110 dialogues that training did not see",
    "seed": "0",
}


def sample_page(count: int = 60) -> str:
    rows = made_rows(count)
    return report.page(scores_of(rows), rows, made_curves(), ABOUT)


DATA = r'<script type="application/json" id="data">(.*?)</script>'


def embedded(page: str) -> Any:
    """The rows that the page holds, as a browser would read them."""
    return json.loads(re.search(DATA, page, re.S)[1])


def test_the_first_table_has_every_score_with_its_interval_for_seen_and_unseen_tools() -> None:
    rows = made_rows()
    found = scores_of(rows)
    page = report.page(found, rows, [], ABOUT)
    line = re.search(r'<tr data-measure="first_call">(.*?)</tr>', page, re.S)[1]
    shown = re.findall(r">([\d.]+) %</span>\s*<small>([\d.]+) to ([\d.]+)<", line)
    wanted = []
    for group in ("all", "seen", "unseen"):
        for model in ("base", "tuned"):
            of_model = found["models"][model]
            score = (of_model["all"] if group == "all" else of_model["by"]["tools"][group])["measures"]["first_call"]
            wanted.append(tuple(f"{100 * score[name]:.1f}" for name in ("value", "low", "high")))
    assert shown == wanted
    bar = found["models"]["tuned"]["by"]["tools"]["unseen"]["measures"]["no_call"]
    assert f"<title>no call made, tuned, unseen tools: {100 * bar['value']:.1f} % (" in page
    bar = found["models"]["base"]["by"]["step"]["2"]["measures"]["tool_em"]
    assert f"<title>2 ({bar['count']}), base: {100 * bar['value']:.1f} % (" in page
    assert "more is better" in line
    assert "less is better" in re.search(r'<tr data-measure="no_call">(.*?)</tr>', page, re.S)[1]


def test_a_score_without_an_interval_is_shown_without_one() -> None:
    rows = made_rows(1)
    found = scores_of(rows)
    for model in found["models"].values():
        for score in model["all"]["measures"].values():
            score["low"] = score["high"] = None
    assert re.search(r"0\.0 %</span>\s*<small></small>", report.page(found, rows, [], ABOUT))


def test_beside_a_score_stands_its_difference_to_the_first_model_and_which_way_it_goes_where_that_is_sure() -> None:
    rows = made_rows()
    page = report.page(scores_of(rows), rows, [], ABOUT, seed=3)
    found = scores.compare(rows[:60], rows[60:], 3)
    for cell in (found, found["by"]["tools"]["seen"], found["by"]["tools"]["unseen"]):
        wanted = cell["measures"]["success"]
        shown = f"+{100 * wanted['difference']:.1f} [{100 * wanted['low']:.1f}, {100 * wanted['high']:.1f}] "
        assert f">{shown}{'better' if wanted['low'] > 0 else ''}<".replace("[-", "[\N{MINUS SIGN}") in page
    assert found["measures"]["success"]["low"] > 0
    backwards = report.page(scores_of(rows[60:] + rows[:60]), rows[60:] + rows[:60], [], ABOUT)
    assert re.search(r">\N{MINUS SIGN}[\d.]+ \[\N{MINUS SIGN}[\d.]+, \N{MINUS SIGN}[\d.]+\] worse<", backwards)
    few = [row for row in rows if int(row["dialogue"]) < 5]
    for row in few:
        row["measures"] = {"success": [int(row["model"] == "tuned"), 1]}
    page = report.page(scores_of(few), few, [], ABOUT)
    assert "+100.0 [100.0, 100.0] <" in page  # five dialogues do so by chance
    rows = made_rows()
    same = rows[:60] + [{**row, "model": "again"} for row in rows[:60]]
    page = report.page(scores_of(same), same, [], ABOUT)
    assert "+0.0 [0.0, 0.0] <" in page and not re.search(r"\] (better|worse)<", page)


def test_a_failure_that_was_never_judged_is_no_zero_and_a_score_of_fewer_rows_says_of_how_many() -> None:
    rows = made_rows()
    for row in rows:
        if row["model"] == "base" or int(row["dialogue"]) % 2:
            del row["measures"]["bad_summary"]
            row["kinds"] = [kind for kind in row["kinds"] if kind != "bad_summary"]
    rows[-2]["measures"]["bad_summary"] = [1, 1]
    page = report.page(scores_of(rows), rows, [], ABOUT)
    line = re.search(r'<tr data-measure="bad_summary">(.*?)</tr>', page, re.S)[1]
    assert line.count("not judged") == 3 and "n&nbsp;=&nbsp;30<" in line
    assert "n&nbsp;=" not in re.search(r'<tr data-measure="no_call">(.*?)</tr>', page, re.S)[1]
    bars = re.findall(rf"<title>{MEASURES['bad_summary'].title}, (\w+), \w+ tools: ", page)
    assert set(bars) == {"tuned"}


def test_the_header_says_which_model_stands_behind_a_label_and_time_is_no_curve() -> None:
    page = sample_page(4)
    assert '<span class="model m0">base</span></dt><dd>SmolLM2 &lt;135M&gt;</dd>' in page
    assert "<b>eval/token_acc</b>" in page and "eval/seconds" not in page


def test_the_same_arguments_give_the_same_page_that_points_nowhere_else() -> None:
    rows = made_rows(8)
    for row in rows:
        del row["labels"]["family"], row["labels"]["source"], row["labels"]["offered"]
    page, again = (report.page(scores_of(rows), rows, made_curves()[:6], ABOUT) for _ in range(2))
    assert page == again
    page = page.replace(re.search(DATA, page, re.S)[1], "")
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#)""", page)
    assert not re.search(r"url\((?!#)|@import", page)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_no_text_of_a_model_or_a_user_becomes_markup_or_ends_the_script_that_holds_it() -> None:
    rows = made_rows(4)
    for row in rows:
        row["model"] += SCRIPT
        row["key"] += SCRIPT
        row["query"] = row["prompt"][1]["content"] = row["answer"] = SCRIPT
        row["steps"][0]["made"] = SCRIPT
        row["calls"] = [{"name": SCRIPT, "arguments": SCRIPT, "observation": SCRIPT}]
        row["replies"][0]["text"] = f"<!--<script>{SCRIPT}\u2028"
        row["labels"]["family"] = SCRIPT
    page = report.page(scores_of(rows), rows, made_curves(), {"run": SCRIPT, SCRIPT: SCRIPT})
    assert "<img" not in page and "<script>alert" not in page and "\u2028" not in page
    assert page.count("</script>") == 2
    assert embedded(page)["rows"][0]["replies"][0][0] == f"<!--<script>{SCRIPT}\u2028"


def test_half_a_surrogate_pair_and_a_number_that_is_none_leave_the_page_valid() -> None:
    rows = made_rows(2)
    for row in rows:
        row["replies"][0]["text"] = "half \ud83d of it"
        row["steps"][0]["made"] = "tool\udc00"
        row["labels"]["family"] = "f\ud83d"
        row["expected"]["calls"][0]["arguments"] = {"amount": float("nan")}
    page = report.page(scores_of(rows), rows, [], {"run": "\ud83d"})
    page.encode("utf-8")
    data = embedded(page)
    assert data["rows"][0]["replies"][0][0] == "half \ud83d of it"
    assert data["rows"][0]["steps"][0][1] == "tool\\udc00"


def test_texts_that_rows_share_are_held_once_and_long_ones_are_cut_with_a_note() -> None:
    rows = made_rows(12)
    for row in rows:
        row["labels"] = {}
        row["replies"][-1]["text"] = "x" * 10_000
    page = report.page(scores_of(rows), rows, [], ABOUT)
    assert page.count("You are a helpful assistant.") == 1
    shown = embedded(page)["rows"][0]["replies"][-1][0]
    assert shown.startswith("x" * 8_000) and "[the last 2,000 of 10,000 characters" in shown


@pytest.mark.parametrize(
    ("suite", "measures", "labels", "kinds", "verdicts"),
    [
        ("bfcl", {"correct": [0, 1]}, {"category": "simple"}, [], "wrong"),
        ("bfcl", {"correct": [1, 1]}, {"category": "simple"}, [], "right"),
        ("general", {"perplexity": [12.5, 10]}, {"category": "chat"}, [], "not judged"),
        ("toolbench", {"plan_em": [1, 1], "act_em": [1, 1], "malformed": [0, 1]}, {}, ["wrong_arguments"], "wrong"),
        ("toolbench", {"plan_em": [1, 1], "act_em": [1, 1], "malformed": [0, 1]}, {}, [], "right"),
    ],
)
def test_a_suite_without_steps_or_curves_has_a_page_without_them(
    suite: str, measures: dict[str, list[float]], labels: dict[str, str], kinds: list[str], verdicts: str
) -> None:
    rows = made_rows(3)
    for row in rows:
        row |= {"labels": labels, "measures": measures, "kinds": kinds, "malformed": []}
        row["steps"] = []
    page = report.page(scores_of(rows, suite), rows, [], ABOUT)
    assert 'class="confusion"' not in page and "While training" not in page
    assert ("How it fails" in page) == (suite == "toolbench")
    assert {row["verdict"] for row in embedded(page)["rows"]} == {verdicts}


def test_a_row_that_turns_right_on_the_page_is_better_where_runs_are_compared() -> None:
    rows = made_rows()
    for row in rows[::3]:  # as toolbench's, which no one measure calls right
        del row["measures"]["success"]
    shown = embedded(report.page(scores_of(rows), rows, [], ABOUT))["rows"]
    verdicts = {(row["model"], row["key"]): row["verdict"] for row in shown}
    better = {one["key"] for one in scores.compare(rows[:60], rows[60:], 0)["changed"] if one["change"] == "better"}
    turned = {key for (model, key), verdict in verdicts.items() if (model, verdict) == ("tuned", "right")}
    assert better == {key for key in turned if verdicts["base", key] == "wrong"} != set()


def test_a_curve_that_holds_nan_and_a_line_without_a_step_are_drawn_around() -> None:
    lines: list[dict[str, Any]] = [{"note": 1.0}, {"step": 1, "eval_loss": float("nan")}, {"step": 2, "eval_loss": 1.5}]
    page = report.page(scores_of(made_rows(1)), made_rows(1), lines, ABOUT)
    assert "<title>all, step 2: 1.5</title>" in page and "step 1:" not in page


@pytest.fixture(scope="module")
def rows_with_attack() -> list[dict[str, Any]]:
    rows = made_rows(40)
    rows[0]["replies"][0]["text"] = f"Action: {SCRIPT} half \ud83d of it"
    return rows


def open_page(browser: Any, path: Path, scheme: str) -> tuple[Any, list[str]]:
    """The page in a new window, and a list that whatever is wrong goes to: console, exceptions, requests, dialogs."""
    wrong: list[str] = []
    window = browser.new_context(color_scheme=scheme, viewport={"width": 1250, "height": 900}).new_page()
    window.on("console", lambda message: wrong.append(message.text))
    window.on("pageerror", lambda error: wrong.append(str(error)))
    window.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    window.on("request", lambda request: None if request.url.startswith(path.as_uri()) else wrong.append(request.url))
    window.goto(path.as_uri())
    return window, wrong


def brightness(window: Any, selector: str, name: str) -> float:
    """The relative luminance of a computed colour, 0 to 1 (WCAG 2, gamma taken as 2.2)."""
    colour = window.eval_on_selector(selector, f"node => getComputedStyle(node).{name}")
    red, green, blue = (int(part) / 255 for part in re.findall(r"\d+", colour)[:3])
    return float(0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2)


def contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


@pytest.mark.e2e
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_filters_a_search_and_a_click_show_the_dialogues(
    browser: Any, rows_with_attack: list[dict[str, Any]], tmp_path: Path, scheme: str
) -> None:
    rows = rows_with_attack
    path = tmp_path / "report.html"
    path.write_text(report.page(scores_of(rows), rows, made_curves(), ABOUT), encoding="utf-8")
    window, wrong = open_page(browser, path, scheme)
    count, lines = window.locator("#count"), window.locator("#list > details")
    assert count.inner_text() == "80 of 80 rows" and lines.count() == 50
    window.click("#more")
    assert lines.count() == 80

    window.select_option("select[name=verdict]", "no_call")
    wanted = sum("no_call" in row["kinds"] for row in rows)
    assert 0 < wanted < 50
    assert count.inner_text() == f"{wanted} of 80 rows" and lines.count() == wanted
    window.select_option("select[name=l-language]", "zh")
    both = sum("no_call" in row["kinds"] and row["labels"]["language"] == "zh" for row in rows)
    assert count.inner_text() == f"{both} of 80 rows" and "verdict=no_call&l-language=zh" in window.url

    window.click("#clear")
    window.fill("input[name=q]", "HALF")
    assert count.inner_text() == "1 of 80 rows"
    lines.first.locator("summary").first.click()
    lines.first.locator("pre").first.wait_for()  # a row is written when the browser tells that it was opened
    opened = lines.first.inner_text()
    assert SCRIPT in opened and "U+D83D" in opened  # text, not markup
    assert opened.count("reply 1, as it came") == 2  # the other model's beside it
    lines.first.locator("summary", has_text="prompt:").click()
    lines.first.get_by_text("You are a helpful assistant.").first.wait_for()
    assert "takes the reply as the answer" in opened and "expected" in opened
    assert window.locator("#list img, #list script").count() == 0

    panel, page = brightness(window, ".panel", "backgroundColor"), brightness(window, "body", "backgroundColor")
    assert page > 0.8 if scheme == "light" else page < 0.05
    for selector, name in (("pre", "color"), (".soft", "color"), (".chip.wrong", "color"), (".chart text", "fill")):
        assert contrast(brightness(window, selector, name), panel) > 4.5, selector
    assert wrong == []


@pytest.mark.e2e
def test_in_a_browser_a_cell_of_the_confusion_and_a_link_show_the_same_dialogues(browser: Any, tmp_path: Path) -> None:
    rows = made_rows(40)
    path = tmp_path / "report.html"
    path.write_text(report.page(scores_of(rows), rows, [], ABOUT), encoding="utf-8")
    window, wrong = open_page(browser, path, "light")
    window.select_option("select[name=confusion]", "tuned")
    count = window.locator("#count")
    for line in ("first-child", "last-child"):  # of the tool most confused, and of calls that were not due
        link = window.locator(f"[data-value=tuned] .confusion tbody tr:{line} td.miss a").first
        times = int(link.inner_text())
        link.click()
        window.get_by_text(f"{times} of 80 rows", exact=True).wait_for(timeout=5000)
    assert "due=none" in window.url
    window.locator("#list summary").first.click()
    window.wait_for_function("location.hash.includes('open=')")
    linked, wrong_there = open_page(browser, path, "light")
    linked.goto(window.url)
    linked.reload()
    assert linked.locator("#count").inner_text() == count.inner_text()
    linked.locator("#list details[open] .dialogue").wait_for()  # of exactly one
    assert wrong == wrong_there == []
