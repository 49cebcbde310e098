"""report.html: what an evaluation found, as one self-contained page with charts and a browser of its dialogues."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import jinja2
from markupsafe import Markup

from fabrictune import pages
from fabrictune.charts import COLOURS, Score, Series, bars, curve
from fabrictune.evaluate.browser import browser
from fabrictune.evaluate.confusion import confusion
from fabrictune.evaluate.scores import SPLIT, compare
from fabrictune.measures import HEADLINES, KINDS, LABELS, MALFORMED, MEASURES, TUTORIAL_KINDS, Measure
from fabrictune.train import curves as training_curves

_UNSEEN = 0.5  # the opacity of a bar of unseen tools
_VALUES = 24  # of a label that the page shows; more stand in scores.json, and the page says how many
# Curves of the training in this order, then any other of the evaluation; all, speeds too, are in the run's images/.
_CURVES = ("call_exact", "no_call", "wrong_args", "not_stopped", "token_acc", "sentence_acc", "loss")
_SPEEDS = ("seconds", "runtime", "samples_per_second", "steps_per_second")

# Five dialogues that all go one way do so by chance 6 times in 100 (2 / 2**5), and their interval leaves out 0.
_ENOUGH = 6

NO_CALL, NONE_DUE = "no call", "no call due"


def page(
    scores: Mapping[str, Any],
    rows: Sequence[dict[str, Any]],
    curves: Sequence[dict[str, Any]],
    about: Mapping[str, str],
    seed: int = 0,
) -> str:
    """The page. The same arguments give the same page; all text in it is escaped.

    `scores` is `scores.aggregate`'s, `rows` are the lines of predictions.jsonl, `curves` those of metrics.jsonl (none:
    no section of curves), `about` is shown above all, its "run" as the title. Of several models each is compared with
    the first on the rows that both have, by `scores.compare` with the seed. What has no UTF-8 form is shown by its
    number.
    """
    models = list(scores["models"])
    colours = {model: COLOURS[place % len(COLOURS)] for place, model in enumerate(models)}
    differences = _differences(rows, models, seed)
    text = _template().render(
        suite=scores["suite"],
        about=about,
        models=models,
        colours=colours,
        headline=_table(scores, HEADLINES.get(scores["suite"], ()), differences),
        others=_table(
            scores, [name for name in MEASURES if name not in HEADLINES.get(scores["suite"], ())], differences
        ),
        has_unseen=any("tools" in model["by"] for model in scores["models"].values()),
        unusable=[
            (model, MEASURES[name].title, count)
            for model, found in scores["models"].items()
            for name, count in found["all"].get("unusable", {}).items()
        ],
        failures=[figure for figure in _failures(scores, colours) if figure.chart or figure.never],
        breakdowns=list(_breakdowns(scores, colours)),
        curves=list(_curves(curves)),
        confusions={model: found for model in models if (found := confusion(rows, model)).due},
        data=Markup(_embedded(browser(rows, models))),
    )
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _score(cell: Mapping[str, Any] | None, name: str) -> Score | None:
    found = cell["measures"].get(name) if cell is not None else None
    if found is None or found["value"] is None:
        return None
    return Score(found["value"], found["low"], found["high"], found["count"])


def _share(cell: Mapping[str, Any], kind: str) -> Score | None:
    """A failure's measure; of a way to be malformed, its share of the rows in which a call could be."""
    if kind not in MALFORMED:
        return _score(cell, kind)
    judged = _score(cell, "malformed")
    return judged and Score(cell["malformed"].get(kind, 0) / judged.count, None, None, judged.count)


@dataclass(frozen=True)
class _Difference:
    """How much higher a score is than the first model's, in the rows that both have."""

    value: float
    low: float | None
    high: float | None
    count: int
    dialogues: int

    def titled(self, measure: Measure, first: str) -> str:
        return f"{self.said(measure)} beside {first}, n = {self.count:,}"

    def said(self, measure: Measure) -> str:
        """As "+44.9 [36.1, 53.5]", in points of percent."""
        value, *bounds = (_signed(measure, one) for one in (self.value, self.low, self.high) if one is not None)
        return f"{value} [{', '.join(bound.removeprefix('+') for bound in bounds)}]" if bounds else value

    def verdict(self, measure: Measure) -> str:
        """better or worse where the interval leaves out 0 and is of enough dialogues, else ""."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high or self.dialogues < _ENOUGH:
            return ""
        return "better" if (self.low > 0) == (measure.better == "higher") else "worse"


def _signed(measure: Measure, value: float) -> str:
    return ("+" if value >= 0 else "\N{MINUS SIGN}") + measure.value(abs(value))


def _differences(
    rows: Sequence[Mapping[str, Any]], models: Sequence[str], seed: int
) -> dict[tuple[str, str, str], _Difference]:
    """(group, model, measure) -> the difference to the first model; no model that shares no row with it."""
    rows_of = {model: [row for row in rows if row["model"] == model] for model in models}
    found = {}
    for model in models[1:]:
        first, other = rows_of[models[0]], rows_of[model]
        if not {row["key"] for row in first} & {row["key"] for row in other}:
            continue
        compared = compare(first, other, seed)
        for group, cell in {"all": compared, **compared["by"].get(SPLIT, {})}.items():
            for name, one in cell["measures"].items():
                if one["difference"] is not None:
                    found[group, model, name] = _Difference(
                        one["difference"], one["low"], one["high"], one["count"], min(cell["dialogues"], one["count"])
                    )
    return found


@dataclass(frozen=True)
class _Column:
    """A model on all rows (`group` is "all"), or on those with seen or with unseen tools."""

    group: str
    model: str
    cell: Mapping[str, Any]


def _columns(scores: Mapping[str, Any]) -> list[_Column]:
    every = [_Column("all", model, found["all"]) for model, found in scores["models"].items()]
    for group in ("seen", "unseen"):
        for model, found in scores["models"].items():
            if (cell := found["by"].get("tools", {}).get(group)) is not None:
                every.append(_Column(group, model, cell))
    return every


@dataclass(frozen=True)
class _Table:
    """`lines` are a measure's name and its score in each column."""

    columns: list[_Column]
    lines: list[tuple[str, list[Score | None]]]
    differences: Mapping[tuple[str, str, str], _Difference]

    @property
    def groups(self) -> list[tuple[str, int]]:
        return list(Counter(column.group for column in self.columns).items())

    def difference(self, name: str, place: int) -> _Difference | None:
        return self.differences.get((self.columns[place].group, self.columns[place].model, name))


def _table(
    scores: Mapping[str, Any], names: Sequence[str], differences: Mapping[tuple[str, str, str], _Difference]
) -> _Table:
    columns = _columns(scores)
    lines = [(name, [_score(column.cell, name) for column in columns]) for name in names]
    return _Table(columns, [(name, found) for name, found in lines if any(found)], differences)


@dataclass(frozen=True)
class _Figure:
    """`never` are failures that no row has, which get no bars."""

    title: str
    chart: Markup | None
    series: list[Series]
    never: list[str]


def _failures(scores: Mapping[str, Any], colours: Mapping[str, str]) -> Iterator[_Figure]:
    columns = _columns(scores)
    if any(column.group != "all" for column in columns):
        columns = [column for column in columns if column.group != "all"]
    columns.sort(key=lambda column: (list(colours).index(column.model), column.group))
    titles = {name: MEASURES[name].title for name in KINDS}
    for title, names in (
        ("The four failures that the tutorial names", {name: titles[name] for name in TUTORIAL_KINDS}),
        ("Other failures", {name: titles[name] for name in KINDS if name not in TUTORIAL_KINDS}),
        ("How calls were malformed", MALFORMED),
    ):
        found = {name: [_share(column.cell, name) for column in columns] for name in names}
        shown = [name for name in names if any(score and score.value for score in found[name])]
        never = [names[name] for name in names if any(found[name]) and name not in shown]
        series = [
            Series(
                column.model,
                column.model + ("" if column.group == "all" else f", {column.group} tools"),
                colours[column.model],
                _UNSEEN if column.group == "unseen" else 1,
                [found[name][place] for name in shown],
            )
            for place, column in enumerate(columns)
        ]
        chart = bars(title, [names[name] for name in shown], series, MEASURES["malformed"])
        yield _Figure(title, chart, series, never if shown or names is not MALFORMED else [])


@dataclass(frozen=True)
class _Breakdown:
    """The charts of one label by measure; `left_out` values of it have no bars."""

    label: str
    title: str
    charts: dict[str, Markup]
    left_out: int


def _breakdowns(scores: Mapping[str, Any], colours: Mapping[str, str]) -> Iterator[_Breakdown]:
    by_step = [name for name, measure in MEASURES.items() if measure.by_step]
    by_step.sort(key=lambda name: name != "exact_call")
    for label, title in {"step": "step: the first call of a turn, the second, …", **LABELS}.items():
        if label == "tools":  # the first table has them side by side
            continue
        cells = {model: found["by"].get(label, {}) for model, found in scores["models"].items()}
        values = _in_order({value: cell["rows"] for by in cells.values() for value, cell in by.items()})
        if len(values) < 2:
            continue
        charts = {}
        for name in (*(by_step if label == "step" else ()), *HEADLINES.get(scores["suite"], ())):
            series = [
                Series(model, model, colours[model], 1, [_score(by.get(value), name) for value in values[:_VALUES]])
                for model, by in cells.items()
            ]
            names = [_counted(value, series, place) for place, value in enumerate(values[:_VALUES])]
            if (chart := bars(f"{label} {name}", names, series, MEASURES[name])) is not None:
                charts[name] = chart
        if charts:
            yield _Breakdown(label, title, charts, len(values[_VALUES:]))


def _in_order(rows: Mapping[str, int]) -> list[str]:
    """Numbers and ranges of them ascending, names by their rows descending."""
    if all(re.match(r"\d", value) for value in rows):
        return sorted(rows, key=lambda value: int(re.match(r"\d+", value)[0]))  # type: ignore[index]
    return sorted(rows, key=lambda value: (-rows[value], value))


def _counted(value: str, series: Sequence[Series], place: int) -> str:
    counts = {score.count for one in series if (score := one.scores[place]) is not None}
    return f"{value} ({counts.pop():,})" if len(counts) == 1 else value


def _curves(lines: Sequence[dict[str, Any]]) -> Iterator[tuple[str, Markup]]:
    """(metric, chart) of the curves that tell of quality, those of the replies first; the train loss is the last."""
    found = training_curves.collect([line for line in lines if training_curves.STEP in line])
    evaluated = [metric.removeprefix("eval/") for metric in found if metric.startswith("eval/")]
    names = dict.fromkeys([*_CURVES, *sorted(set(evaluated) - set(_SPEEDS))])
    for metric in (*(f"eval/{name}" for name in names), "train/loss"):
        if metric in found:
            raw = found[metric].get("") if metric == "train/loss" else None
            smoothed = training_curves.smoothed(raw[1]) if raw else None
            yield metric, curve(metric, found[metric], smoothed)


def _embedded(value: Any) -> str:
    """JSON that can stand inside a script element: no markup in it, and no line separators."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _digest(script: str) -> str:
    """The script's hash, by which the page's policy lets this script run and no other."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _link(model: str, due: str | None, made: str | None) -> str:
    """The URL's hash that filters the dialogues by one cell of a confusion table; a "=" comes before a tool's name."""
    filters = {name: "none" if tool is None else f"={tool}" for name, tool in (("due", due), ("made", made))}
    return urlencode({"model": model, **filters})


def _template() -> jinja2.Template:
    environment = pages.environment()
    environment.filters["digest"] = _digest
    environment.globals |= {
        "MEASURES": MEASURES,
        "link": _link,
        "NO_CALL": NO_CALL,
        "NONE_DUE": NONE_DUE,
        "ENOUGH": _ENOUGH,
    }
    return environment.get_template("evaluate/report.html.jinja")
