"""report.html: what an evaluation found, as one self-contained page with charts and a browser of its dialogues.

Charts are matplotlib's SVG, not plotly: ten kilobytes each where plotly.js is 4.6 MB, no new dependency, they take the
page's colours by CSS and are there without script; a bar says its numbers when pointed at, by an SVG <title>.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jinja2
import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fabrictune import curves as training_curves
from fabrictune.measures import HEADLINES, KINDS, LABELS, MALFORMED, MEASURES, TUTORIAL_KINDS, Measure

# Of middle brightness, readable on white and on black. A model has one by its place in the scores.
COLOURS = ("#dd7a3c", "#4f86d9", "#3c9f78", "#a277d6", "#b8962e", "#d0628f")
_WHOLE = COLOURS[1]  # of a curve of all sources
_AXIS = "#8b909a"
_INTERVAL = "#010203"  # the page's CSS gives what has this colour that of its text
_UNSEEN = 0.5  # the opacity of a bar of unseen tools
_WIDTH = 4.4  # inches: 317 points, which is a phone's width
_STYLE: dict[Any, Any] = {  # matplotlib's stubs know its 300 keys only as literals
    "svg.fonttype": "none",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.edgecolor": _AXIS,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": _AXIS,
    "grid.alpha": 0.25,
    "xtick.color": _AXIS,
    "ytick.color": _AXIS,
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
    "ytick.major.size": 0,
}
# What a page shows of the long: more stand in scores.json and predictions.jsonl, and the page says how many.
_VALUES, _TOOLS = 24, 30
_MESSAGE, _REPLY = 24_000, 8_000  # characters
# Curves of the training in this order, then any other of the evaluation; all, speeds too, are in the run's images/.
_CURVES = ("call_exact", "no_call", "wrong_args", "not_stopped", "token_acc", "sentence_acc", "loss")
_SPEEDS = ("runtime", "samples_per_second", "steps_per_second")
_DOTS = 60  # a curve of more points is drawn without them
_FIRST = ("success", "correct", "plan_em", "act_em")  # measures that say whether a row is right

NO_CALL = "no call"


def page(
    scores: Mapping[str, Any],
    rows: Sequence[dict[str, Any]],
    curves: Sequence[dict[str, Any]],
    about: Mapping[str, str],
) -> str:
    """The page. The same arguments give the same page; all text in it is escaped.

    `scores` is `scores.aggregate`'s, `rows` are the lines of predictions.jsonl, `curves` those of metrics.jsonl (none:
    no section of curves), `about` is shown above all, its "run" as the title. What has no UTF-8 form is shown by its
    number.
    """
    models = list(scores["models"])
    colours = {model: COLOURS[place % len(COLOURS)] for place, model in enumerate(models)}
    text = _template().render(
        suite=scores["suite"],
        about=about,
        models=models,
        colours=colours,
        headline=_table(scores, HEADLINES.get(scores["suite"], ())),
        others=_table(scores, [name for name in MEASURES if name not in HEADLINES.get(scores["suite"], ())]),
        has_unseen=any("tools" in model["by"] for model in scores["models"].values()),
        unusable=[
            (model, MEASURES[name].title, count)
            for model, found in scores["models"].items()
            for name, count in found["all"].get("unusable", {}).items()
        ],
        failures=[figure for figure in _failures(scores, colours) if figure.chart or figure.never],
        breakdowns=list(_breakdowns(scores, colours)),
        curves=list(_curves(curves)),
        confusions={model: found for model in models if (found := confusion(rows, model)).tools},
        data=Markup(_embedded(_browser(rows, models))),
    )
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@dataclass(frozen=True)
class Score:
    """A value with its interval (None: fewer than two dialogues) and the number of cases it is of."""

    value: float
    low: float | None
    high: float | None
    count: int

    def said(self, measure: Measure) -> str:
        sign = " %" if measure.unit == "percent" else ""
        return f"{measure.value(self.value)}{sign}{self.between(measure, ' (', ')')}, n = {self.count:,}"

    def between(self, measure: Measure, before: str = "", after: str = "") -> str:
        """The interval as people read it; "" if there is none."""
        if self.low is None or self.high is None:
            return ""
        return f"{before}{measure.value(self.low)} to {measure.value(self.high)}{after}"


def _score(cell: Mapping[str, Any] | None, name: str) -> Score | None:
    found = cell["measures"].get(name) if cell is not None else None
    if found is None or found["value"] is None:
        return None
    return Score(found["value"], found["low"], found["high"], found["count"])


def _share(cell: Mapping[str, Any], kind: str) -> Score | None:
    """A failure's measure, else the share of rows that it was counted in."""
    counted = cell["kinds"].get(kind, cell["malformed"].get(kind))
    rows = cell["rows"]
    return _score(cell, kind) or (None if counted is None or not rows else Score(counted / rows, None, None, rows))


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
    """`lines` are a measure's name and its score in each column; `best` are the places of the best of a group."""

    columns: list[_Column]
    lines: list[tuple[str, list[Score | None]]]

    @property
    def groups(self) -> list[tuple[str, int]]:
        return list(Counter(column.group for column in self.columns).items())

    def is_best(self, name: str, place: int) -> bool:
        """Whether no other model is better in the same group, and some model is worse."""
        found = dict(self.lines)[name]
        group = self.columns[place].group
        rivals = [
            score.value
            for column, score in zip(self.columns, found, strict=True)
            if column.group == group and score is not None
        ]
        mine = found[place]
        pick = max if MEASURES[name].better == "higher" else min
        return mine is not None and len(set(rivals)) > 1 and mine.value == pick(rivals)


def _table(scores: Mapping[str, Any], names: Sequence[str]) -> _Table:
    columns = _columns(scores)
    lines = [(name, [_score(column.cell, name) for column in columns]) for name in names]
    return _Table(columns, [(name, found) for name, found in lines if any(found)])


@dataclass(frozen=True)
class Confusion:
    """Tools due (the most confused first) and made, with their counts; `left_out` are tools due that have no line."""

    tools: list[str]
    made: list[str | None]
    counts: Counter[tuple[str, str | None]]
    left_out: int

    def row(self, due: str) -> list[tuple[str | None, int, float]]:
        """(tool made, times, share of the calls due)."""
        total = self.total(due)
        return [(made, self.counts[due, made], self.counts[due, made] / total) for made in self.made]

    def total(self, due: str) -> int:
        return sum(count for (tool, _), count in self.counts.items() if tool == due)

    @property
    def has_other(self) -> bool:
        return any(due in self.tools and made not in self.made for due, made in self.counts)

    def other(self, due: str) -> int:
        """Calls to tools that have no column."""
        return self.total(due) - sum(count for _, count, _ in self.row(due))


def confusion(rows: Sequence[dict[str, Any]], model: str) -> Confusion:
    """Which tool a model called where another was due; empty where its rows have no steps."""
    steps = [step for row in rows if row["model"] == model for step in _steps(row)]
    counts = Counter(steps)
    wrong = Counter(due for due, made in steps if made != due)
    times = Counter(due for due, _ in steps)
    due = sorted(times, key=lambda tool: (-wrong[tool], -times[tool], tool))
    shown = due[:_TOOLS]
    strangers = Counter(made for _, made in steps if made is not None and made not in shown)
    extra = sorted(strangers, key=lambda tool: (-strangers[tool], tool))[: max(0, _TOOLS - len(shown)) + 4]
    none: list[str | None] = [None] if any(made is None for _, made in steps) else []
    return Confusion(shown, [*none, *shown, *extra], counts, len(due) - len(shown))


def _steps(row: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    return [
        (_plain(step["due"]), None if step["made"] is None else _plain(step["made"])) for step in row.get("steps") or ()
    ]


def _plain(text: Any) -> str:
    """The text with a backslash escape for half a surrogate pair, which neither UTF-8 nor a URL can hold."""
    return _text(text).encode("utf-8", "backslashreplace").decode("utf-8")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class _Series:
    """The bars of one colour, a score or none for each place of the chart."""

    model: str
    label: str
    colour: str
    opacity: float
    scores: list[Score | None]


@dataclass(frozen=True)
class _Figure:
    """`never` are failures that no row has, which get no bars."""

    title: str
    chart: Markup | None
    series: list[_Series]
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
        # The counts of a suite that judges no failures are all 0, which says nothing.
        judged = shown or any(_score(column.cell, name) for column in columns for name in names)
        never = [names[name] for name in names if judged and name not in shown and any(found[name])]
        series = [
            _Series(
                column.model,
                column.model + ("" if column.group == "all" else f", {column.group} tools"),
                colours[column.model],
                _UNSEEN if column.group == "unseen" else 1,
                [found[name][place] for name in shown],
            )
            for place, column in enumerate(columns)
        ]
        yield _Figure(
            title, _bars(title, [names[name] for name in shown], series, MEASURES["malformed"]), series, never
        )


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
                _Series(model, model, colours[model], 1, [_score(by.get(value), name) for value in values[:_VALUES]])
                for model, by in cells.items()
            ]
            names = [_counted(value, series, place) for place, value in enumerate(values[:_VALUES])]
            if (chart := _bars(f"{label} {name}", names, series, MEASURES[name])) is not None:
                charts[name] = chart
        if charts:
            yield _Breakdown(label, title, charts, len(values[_VALUES:]))


def _in_order(rows: Mapping[str, int]) -> list[str]:
    """Numbers and ranges of them ascending, names by their rows descending."""
    if all(re.match(r"\d", value) for value in rows):
        return sorted(rows, key=lambda value: int(re.match(r"\d+", value)[0]))  # type: ignore[index]
    return sorted(rows, key=lambda value: (-rows[value], value))


def _counted(value: str, series: Sequence[_Series], place: int) -> str:
    counts = {score.count for one in series if (score := one.scores[place]) is not None}
    return f"{value} ({counts.pop():,})" if len(counts) == 1 else value


def _bars(name: str, places: Sequence[str], series: Sequence[_Series], measure: Measure) -> Markup | None:
    """Lying bars with their intervals, a group for each place; None where there is no score at all."""
    found = [score for one in series for score in one.scores if score is not None]
    if not found:
        return None
    height = 0.35 + len(places) * (0.16 * len(series) + 0.12)
    figure, axes = _axes(height)
    scale = 100 if measure.unit == "percent" else 1
    thick = 0.84 / len(series)
    titles: list[str] = []
    right = scale * max(score.value if score.high is None else max(score.high, score.value) for score in found) or 1
    for number, one in enumerate(series):
        for place, score in enumerate(one.scores):
            if score is None:
                continue
            middle = place + (number - (len(series) - 1) / 2) * thick
            bar = axes.barh(middle, scale * score.value, 0.9 * thick, color=one.colour, alpha=one.opacity)[0]
            bar.set_gid(f"tip{len(titles)}")
            titles.append(f"{places[place]}, {one.label}: {score.said(measure)}")
            end = scale * score.value
            if score.low is not None and score.high is not None:
                axes.plot(
                    [scale * score.low, scale * score.high], [middle, middle], color=_INTERVAL, linewidth=1, alpha=0.75
                )
                end = max(end, scale * score.high)
            axes.text(end + 0.015 * right, middle, measure.value(score.value), va="center", fontsize=8)
    axes.set_yticks(range(len(places)), [_short(place) for place in places], parse_math=False)
    axes.set_ylim(len(places) - 0.5, -0.5)
    axes.set_xlim(0, 1.12 * right)
    axes.grid(False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    return _svg(figure, name, titles)


def _short(text: str) -> str:
    text = " ".join(_plain(text).split())
    text = text if len(text) <= 40 else f"{text[:39]}…"
    return "\n".join(textwrap.wrap(text, 20)) or text


def _axes(height: float) -> tuple[Figure, Axes]:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        return figure, figure.subplots()


def _svg(figure: Figure, name: str, titles: Sequence[str]) -> Markup:
    """The figure as an SVG element. What has the id `tipN` gets the N-th title; ids that nothing refers to go."""
    written = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # The browser has glyphs that matplotlib's font lacks, such as Chinese.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(
            written,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")),
        )
    text = written.getvalue()
    text = re.sub(r' id="[a-z0-9.]+_\d+"', "", text[text.index("<svg") :])
    return Markup(
        re.sub(r'<g id="tip(\d+)">', lambda tip: f"<g><title>{escape(_plain(titles[int(tip[1])]))}</title>", text)
    )


def _curves(lines: Sequence[dict[str, Any]]) -> Iterator[tuple[str, Markup]]:
    """(metric, chart) of the curves that tell of quality, those of the replies first; the train loss is the last."""
    found = training_curves.collect([line for line in lines if training_curves.STEP in line])
    evaluated = [metric.removeprefix("eval/") for metric in found if metric.startswith("eval/")]
    names = dict.fromkeys([*_CURVES, *sorted(set(evaluated) - set(_SPEEDS))])
    for metric in (*(f"eval/{name}" for name in names), "train/loss"):
        if metric in found:
            yield metric, _curve(metric, found[metric])


def _curve(metric: str, by_source: Mapping[str, training_curves.Curve]) -> Markup:
    figure, axes = _axes(2.0)
    titles: list[str] = []
    others = [colour for colour in COLOURS if colour != _WHOLE]
    for place, source in enumerate(sorted(by_source)):
        colour = _WHOLE if source == "" else others[place % len(others)]
        steps, values = by_source[source]
        raw = metric == "train/loss" and source == ""
        axes.plot(steps, values, color=colour, linewidth=0.8 if raw or source else 1.8, alpha=0.5 if raw else 1)
        if raw:
            axes.plot(steps, training_curves.smoothed(values), color=colour, linewidth=1.8)
        for step, value in zip(steps, values, strict=True) if len(steps) <= _DOTS else ():
            if math.isfinite(value):
                (dot,) = axes.plot([step], [value], "o", color=colour, markersize=3, alpha=0.5 if raw else 1)
                dot.set_gid(f"tip{len(titles)}")
                titles.append(f"{source or 'all'}, step {step:,}: {value:.4g}")
        if len(by_source) > 1:
            axes.plot([], [], color=colour, label=_short(source or "all"))
    if len(by_source) > 1:
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("training step")
    return _svg(figure, metric, titles)


def _browser(rows: Sequence[dict[str, Any]], models: Sequence[str]) -> dict[str, Any]:
    """What the page's script shows: the rows of a key together, and each text that several of them share once."""
    shared: dict[str, int] = {}

    def number(value: Any) -> int:
        return shared.setdefault(json.dumps(value, ensure_ascii=False), len(shared))

    first: dict[str, int] = {}
    for row in rows:
        first.setdefault(row["key"], len(first))
    place = {model: number for number, model in enumerate(models)}
    ordered = sorted(rows, key=lambda row: (first[row["key"]], place.get(row["model"], len(place))))
    shown = [
        {
            "model": row["model"],
            "key": row["key"],
            "labels": number({name: _plain(value) for name, value in row["labels"].items()}),
            "query": number(_cut(row["query"], _MESSAGE)),
            "prompt": [number([message["role"], _cut(message["content"], _MESSAGE)]) for message in row["prompt"]],
            "expected": number(
                {
                    "calls": [
                        [_plain(call["name"]), _text(call["arguments"])] for call in row["expected"].get("calls", ())
                    ],
                    "answer": _cut(row["expected"].get("answer") or "", _MESSAGE),
                }
            ),
            **_played(row),
        }
        for row in ordered
    ]
    return {
        "models": list(models),
        "shared": [json.loads(text) for text in shared],
        "rows": shown,
        "labels": {**LABELS, "step": "step"},
        "kinds": {kind: MEASURES[kind].title for kind in KINDS},
        "malformed": MALFORMED,
    }


def _played(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "replies": [[_cut(reply["text"], _REPLY), bool(reply["stopped"])] for reply in row["replies"]],
        "calls": [
            [_plain(call["name"]), _cut(call["arguments"], _REPLY), _cut(call["observation"], _REPLY)]
            for call in row["calls"]
        ],
        "answer": None if row["answer"] is None else _cut(row["answer"], _REPLY),
        "steps": _steps(row),
        "verdict": _verdict(row),
        "kinds": list(row["kinds"]),
        "malformed": list(row["malformed"]),
        "scores": [
            f"{MEASURES[name].title} {_row_score(name, *found)}"
            for name, found in row["measures"].items()
            if name in MEASURES and not MEASURES[name].by_step and name not in (*KINDS, *_FIRST) and found[1]
        ],
    }


def _verdict(row: Mapping[str, Any]) -> str:
    """right, wrong, or "not judged" where a row has no measure that could say so."""
    judged = [found[0] == found[1] for name in _FIRST if (found := row["measures"].get(name)) and found[1]]
    if judged:
        return "right" if all(judged) else "wrong"
    if row["kinds"] or row["malformed"]:
        return "wrong"
    return "right" if any(name in row["measures"] for name in KINDS) else "not judged"


def _row_score(name: str, total: float, count: float) -> str:
    measure = MEASURES[name]
    if measure.unit == "perplexity":
        return measure.value(math.exp(min(total / count, 700)))  # e to the 710th is beyond a float
    return f"{measure.value(total / count)} %"


def _cut(text: Any, longest: int) -> str:
    whole = _text(text)
    if len(whole) <= longest:
        return whole
    left = len(whole) - longest
    return f"{whole[:longest]}\n[the last {left:,} of {len(whole):,} characters stand in predictions.jsonl]"


def _embedded(value: Any) -> str:
    """JSON that can stand inside a script element: no markup in it, and no line separators."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _digest(script: str) -> str:
    """The script's hash, by which the page's policy lets this script run and no other."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _link(model: str, due: str, made: str | None) -> str:
    """The URL's hash that filters the dialogues by one cell of a confusion table; a "=" comes before a tool's name."""
    return urlencode({"model": model, "due": f"={due}", "made": "none" if made is None else f"={made}"})


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"digest": _digest, "plain": _plain}
    environment.globals |= {"MEASURES": MEASURES, "link": _link, "NO_CALL": NO_CALL}
    return environment.get_template("report.html.jinja")
