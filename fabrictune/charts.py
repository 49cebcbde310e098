"""Charts of a page as SVG elements: bars with intervals, and curves over training steps.

They are matplotlib's, not plotly's: ten kilobytes each where plotly.js is 4.6 MB, no new dependency, they take the
page's colours by CSS and are there without script. A mark says its numbers when pointed at, by an SVG <title>.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fabrictune.measures import Measure

# Of middle brightness, readable on white and on black; text is left black, which the page's CSS overrules.
COLOURS = ("#dd7a3c", "#4f86d9", "#3c9f78", "#a277d6", "#b8962e", "#d0628f")
AXIS = "#8b909a"
WIDTH = 4.4  # inches: 317 points, which is a phone's width
STYLE: dict[Any, Any] = {  # matplotlib's stubs know its 300 keys only as literals
    "svg.fonttype": "none",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.edgecolor": AXIS,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": AXIS,
    "grid.alpha": 0.25,
    "xtick.color": AXIS,
    "ytick.color": AXIS,
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
    "ytick.major.size": 0,
}
_WHOLE = COLOURS[1]  # of a curve of all sources
_INTERVAL = "#010203"  # the page's CSS gives what has this colour that of its text
_DOTS = 60  # a curve of more points is drawn without them


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


@dataclass(frozen=True)
class Series:
    """The bars of one colour, a score or none for each place of the chart."""

    model: str
    label: str
    colour: str
    opacity: float
    scores: list[Score | None]


def bars(name: str, places: Sequence[str], series: Sequence[Series], measure: Measure) -> Markup | None:
    """Lying bars with their intervals, a group for each place; None where there is no score at all.

    A place without a score says that it was not judged, for no bar would look like 0.
    """
    found = [score for one in series for score in one.scores if score is not None]
    if not found:
        return None
    figure, inside = axes(WIDTH, 0.35 + len(places) * (0.16 * len(series) + 0.12))
    scale = 100 if measure.unit == "percent" else 1
    thick = 0.84 / len(series)
    titles: list[str] = []
    right = scale * max(score.value if score.high is None else max(score.high, score.value) for score in found) or 1
    for number, one in enumerate(series):
        for place, score in enumerate(one.scores):
            middle = place + (number - (len(series) - 1) / 2) * thick
            if score is None:
                inside.text(0.015 * right, middle, "not judged", va="center", fontsize=7, style="italic", alpha=0.6)
                continue
            bar = inside.barh(middle, scale * score.value, 0.9 * thick, color=one.colour, alpha=one.opacity)[0]
            bar.set_gid(f"tip{len(titles)}")
            titles.append(f"{places[place]}, {one.label}: {score.said(measure)}")
            end = scale * score.value
            if score.low is not None and score.high is not None:
                between = [scale * score.low, scale * score.high]
                inside.plot(between, [middle, middle], color=_INTERVAL, linewidth=1, alpha=0.75)
                end = max(end, between[1])
            inside.text(end + 0.015 * right, middle, measure.value(score.value), va="center", fontsize=8)
    inside.set_yticks(range(len(places)), [_short(place) for place in places], parse_math=False)
    inside.set_ylim(len(places) - 0.5, -0.5)
    inside.set_xlim(0, 1.12 * right)
    inside.grid(False, axis="y")
    inside.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    return svg(figure, name, titles)


def curve(
    name: str, by_source: Mapping[str, tuple[list[int], list[float]]], smoothed: Sequence[float] | None = None
) -> Markup:
    """The steps and values of each source; "" is all of them together, drawn thinly below its `smoothed` values."""
    figure, inside = axes(WIDTH, 2.0)
    titles: list[str] = []
    others = [colour for colour in COLOURS if colour != _WHOLE]
    for place, source in enumerate(sorted(by_source)):
        colour = _WHOLE if source == "" else others[place % len(others)]
        steps, values = by_source[source]
        raw = smoothed is not None and source == ""
        inside.plot(steps, values, color=colour, linewidth=0.8 if raw or source else 1.8, alpha=0.5 if raw else 1)
        if smoothed is not None and raw:
            inside.plot(steps, smoothed, color=colour, linewidth=1.8)
        for step, value in zip(steps, values, strict=True) if len(steps) <= _DOTS else ():
            if math.isfinite(value):
                (dot,) = inside.plot([step], [value], "o", color=colour, markersize=3, alpha=0.5 if raw else 1)
                dot.set_gid(f"tip{len(titles)}")
                titles.append(f"{source or 'all'}, step {step:,}: {value:.4g}")
        if len(by_source) > 1:
            inside.plot([], [], color=colour, label=_short(source or "all"))
    if len(by_source) > 1:
        inside.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    inside.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    inside.set_xlabel("training step")
    return svg(figure, name, titles)


def axes(width: float, height: float, style: Mapping[Any, Any] = STYLE) -> tuple[Figure, Axes]:
    """An empty figure of so many inches."""
    with matplotlib.rc_context(dict(style)):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots()


def svg(figure: Figure, name: str, titles: Sequence[str] = (), style: Mapping[Any, Any] = STYLE) -> Markup:
    """The figure as an SVG element; of its ids only those stay that something in it refers to, salted with `name`.

    What has the id `tipN` gets the N-th title. `style` is the one that `axes` had: ticks are made when drawn.
    """
    written = io.StringIO()
    with matplotlib.rc_context({**style, "svg.hashsalt": name}), warnings.catch_warnings():
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
        re.sub(r'<g id="tip(\d+)">', lambda tip: f"<g><title>{escape(plain(titles[int(tip[1])]))}</title>", text)
    )


def plain(text: str) -> str:
    """The text with a backslash escape for half a surrogate pair, which neither UTF-8 nor a URL can hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _short(text: str) -> str:
    text = " ".join(plain(text).split())
    text = text if len(text) <= 44 else f"{text[:43]}…"  # three lines, of which bars have room for two to four
    return "\n".join(textwrap.wrap(text, 20)) or text
