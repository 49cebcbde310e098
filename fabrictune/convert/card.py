"""card.html: what a conversion made, as one self-contained page that needs neither network nor script."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from os.path import commonprefix
from typing import TypeVar

import jinja2
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fabrictune import charts, pages, protocol
from fabrictune.convert.histogram import REACH, Histogram
from fabrictune.dialogue import PARTS, Dialogue, Exchange, Json, Message, Part


@dataclass(frozen=True)
class SourceCard:
    """One source: what it is, how many of its rows were read, and what became of them.

    `not_drawn` are rows beyond the number wanted, `not_used` those that may not be trained on beside the test set,
    `held_back` those kept to test general chat on.
    """

    name: str
    kind: str
    place: str
    role: str
    rows_read: int
    dialogues: int
    exchanges: int
    rejected: int
    not_drawn: int
    not_used: int
    held_back: int
    long: int | None  # exchanges beyond max_length; None where tokens are not counted
    train: int
    test: int
    lengths: Histogram


@dataclass(frozen=True)
class RejectKind:
    """Rows of one source left out for one reason, and where one of them stands."""

    source: str
    reason: str
    count: int
    example_file: str
    example_line: int


@dataclass(frozen=True)
class Sample:
    """A dialogue to show, with the exchanges made from it."""

    dialogue: Dialogue
    source: str
    exchanges: tuple[Exchange, ...]


@dataclass(frozen=True)
class Card:
    """All that the page shows. `totals` are its headline numbers by label, in the order given."""

    title: str
    written: str
    format: str
    max_length: int
    long: str
    sources: tuple[SourceCard, ...]
    languages: dict[str, int]
    tools_per_dialogue: dict[int, int]
    calls_per_turn: dict[int, int]
    rejects: tuple[RejectKind, ...]
    samples: tuple[Sample, ...]
    totals: dict[str, int]


def render(card: Card) -> str:
    """The page. All text in it is escaped; what has no UTF-8 form is shown as a backslash escape."""
    page = _template().render(
        card=card,
        charts={source.name: _length_chart(source, card.max_length) for source in card.sources},
        tools=_bar_chart("tools", card.tools_per_dialogue),
        calls=_bar_chart("calls", card.calls_per_turn),
        samples=[_SampleView(sample) for sample in card.samples],
    )
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


_BAR, _OVER = charts.COLOURS[1], "#e0763a"
_STYLE = charts.STYLE | {"font.size": 8, "axes.spines.left": False, "axes.grid.axis": "y"}


def _short(number: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 10 * size:
            return f"{number / size:,.0f}{letter}"
        if number >= size:
            return f"{number / size:.1f}".removesuffix(".0") + letter
    return f"{number:,.0f}"


def _axes() -> tuple[Figure, Axes]:
    figure, axes = charts.axes(charts.WIDTH, 1.9, _STYLE)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    return figure, axes


def _length_chart(source: SourceCard, max_length: int) -> Markup | None:
    """The source's histogram with `max_length` marked; None for an empty one. A wide last interval is one bar apart."""
    lengths = source.lengths
    if not lengths.counts:
        return None
    figure, axes = _axes()
    limit = max_length if lengths.unit == "tokens" else None
    width = lengths.edges[1] - lengths.edges[0]
    lefts, right = list(lengths.edges[:-1]), lengths.edges[-1]
    colours = [_OVER if limit is not None and edge >= limit else _BAR for edge in lefts]
    if lengths.apart:
        if limit is not None and lefts[-1] < limit < right:
            colours[-1] = charts.AXIS  # it holds lengths on both sides of the limit
        lefts[-1] += width
        right = lefts[-1] + width
    axes.bar(lefts, lengths.counts, width=0.9 * width, align="edge", color=colours, clip_on=False)
    if limit is not None:
        right = _mark_limit(axes, limit, right)
    axes.set_xlim(0, right)
    axes.margins(y=0.2)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    return charts.svg(figure, f"lengths {source.name}", style=_STYLE)


def _mark_limit(axes: Axes, limit: int, right: int) -> int:
    """Draws the line at `limit` and returns the axis's right end; a limit too far out to show is named instead."""
    label = f"max_length {limit:,}"
    if limit > REACH * right:
        axes.text(1, 1, f"{label} \N{RIGHTWARDS ARROW}", transform=axes.transAxes, ha="right", va="top")
        return right
    axes.axvline(limit, color=_OVER, linestyle=(0, (4, 2)), linewidth=1.2)
    right = max(right, limit + limit // 50 + 1)
    side = "right" if limit > right / 2 else "left"
    axes.text(limit, 1, f" {label} ", transform=axes.get_xaxis_transform(), ha=side, va="top")
    return right


def _bar_chart(name: str, counts: Mapping[int, int]) -> Markup | None:
    """A bar for each number, those above 24 in one; None where there is nothing to draw."""
    if not counts:
        return None
    last = min(max(counts), 25)
    heights = [counts.get(number, 0) for number in range(last)]
    heights.append(sum(count for number, count in counts.items() if number >= last))
    figure, axes = _axes()
    bars = axes.bar(range(last + 1), heights, width=0.8, color=_BAR)
    if last <= 9:
        axes.bar_label(bars, [_short(height) if height else "" for height in heights], padding=1)
        axes.margins(y=0.15)
    axes.set_xlim(-0.6, max(last, 4) + 0.6)
    ticks = [number for number in range(last + 1) if last <= 12 or number % 5 == 0]
    over = "+" if max(counts) > last else ""
    axes.set_xticks(ticks, [f"{number}{over if number == last else ''}" for number in ticks])
    axes.tick_params(axis="x", length=0)
    return charts.svg(figure, name, style=_STYLE)


# The bytes that parts of a sample may take, so that a page of ten large ones stays below 1.5 MB. The rest is counted
# and named, not shown. An item costs its markup, about so many bytes, beside its text.
_ABOUT, _CHAT, _EXACT = 30_000, 40_000, 60_000
_LONGEST, _LONGEST_EXACT = 8_000, 24_000
_MARKUP = 400
# Control characters, and those that are invisible or turn the direction of writing.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]")

Item = TypeVar("Item")


@dataclass
class _Room:
    """How many bytes may still be written, and how many of them for one text."""

    left: int
    longest: int
    omitted: int = 0

    def show(self, text: str, line_ends: bool = False) -> Markup:
        """The text escaped, hidden characters named; what there is no room for is replaced by its length."""
        room = max(0, min(self.left, self.longest))
        shown = text[:room]
        while (size := _size(written := _written(shown, line_ends))) > room:
            shown = shown[: len(shown) * room // size]
        self.left -= size
        if len(shown) < len(text):
            written += Markup('<span class="cut">[{} of {:,} characters not shown]</span>').format(
                f"the last {len(text) - len(shown):,}" if shown else "all", len(text)
            )
        return written

    def some(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items while there is room; `omission` then tells of the others."""
        every = list(items)
        for number, item in enumerate(every):
            if self.left <= 0:
                self.omitted = len(every) - number
                return
            self.left -= _MARKUP
            yield item
        self.omitted = 0

    def omission(self, what: str) -> Markup:
        """A note on the items that the last `some` to end left out; nothing if it left out none."""
        note = Markup('<p class="cut">[{:,} more {} not shown]</p>')
        return note.format(self.omitted, what) if self.omitted else Markup()


def _written(text: str, line_ends: bool) -> Markup:
    named = _HIDDEN.sub(lambda found: f'<span class="hidden">U+{ord(found[0]):04X}</span>', str(escape(text)))
    return Markup(named.replace("\n", '<i class="end"></i>\n') if line_ends else named)


def _size(text: str) -> int:
    return len(text.encode("utf-8", "backslashreplace"))


@dataclass(frozen=True)
class _Shared:
    """What an exchange has in common with the one before: so many leading messages, then so many characters."""

    messages: int = 0
    characters: int = 0


@dataclass
class _SampleView:
    """A sample as the template walks through it."""

    sample: Sample
    about: _Room = field(default_factory=lambda: _Room(_ABOUT, _LONGEST))
    chat: _Room = field(default_factory=lambda: _Room(_CHAT, _LONGEST))
    exact: _Room = field(default_factory=lambda: _Room(_EXACT, _LONGEST_EXACT))

    @cached_property
    def language(self) -> str:
        return protocol.language(*(turn.query for turn in self.sample.dialogue.turns))

    @cached_property
    def parts(self) -> list[Part]:
        found = {span.part for exchange in self.sample.exchanges for span in exchange.reply}
        return [part for part in PARTS if part in found]

    def strength(self, part: Part) -> str:
        """How opaque the mark of a piece of this part is."""
        return f"{0.12 + 0.15 * PARTS.index(part):.2f}"

    def exchanges(self) -> Iterator[tuple[Exchange, _Shared]]:
        before: tuple[Message, ...] = ()
        for exchange in self.sample.exchanges:
            yield exchange, _shared(before, exchange.messages)
            before = exchange.messages


def _shared(before: Sequence[Message], messages: Sequence[Message]) -> _Shared:
    same = 0
    while same < min(len(before), len(messages)) and before[same] == messages[same]:
        same += 1
    if same == min(len(before), len(messages)) or before[same].role != messages[same].role:
        return _Shared(same)
    return _Shared(same, len(commonprefix([before[same].content, messages[same].content])))


def _pretty(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


def _rest_of_schema(schema: Mapping[str, Json]) -> str:
    """What a parameter's schema holds beyond its type and description, as JSON; "" for nothing."""
    rest = {key: value for key, value in schema.items() if key not in ("type", "description")}
    return json.dumps(rest, ensure_ascii=False) if rest else ""


def _intervals(lengths: Histogram) -> list[tuple[str, int]]:
    ranges = zip(lengths.edges, lengths.edges[1:], lengths.counts, strict=False)
    return [(f"{low:,} to {high - 1:,}", count) for low, high, count in ranges]


def _is_long(text: str) -> bool:
    return len(text) > 400 or text.count("\n") > 8


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def _share(part: int, whole: int) -> str:
    """Percent of the whole, never rounded to none or all unless it is."""
    percent = 100 * part / whole if whole else 0.0
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f} %"


def _template() -> jinja2.Template:
    environment = pages.environment()
    environment.filters |= {"number": _number, "pretty": _pretty, "intervals": _intervals, "rest": _rest_of_schema}
    environment.tests["long"] = _is_long
    environment.globals["share"] = _share
    return environment.get_template("convert/card.html.jinja")
