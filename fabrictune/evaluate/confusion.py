"""Which tool a model called where another was due: the steps of an evaluation's rows, counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fabrictune.charts import plain

TOOLS = 30  # lines and columns that a page shows


@dataclass(frozen=True)
class Confusion:
    """Tools due (the most confused first) and made, with their counts; `left_out` are tools due that have no line.

    The tool due None stands for calls beyond those that were due, the tool made None for no call.
    """

    due: list[str | None]
    made: list[str | None]
    counts: Counter[tuple[str | None, str | None]]
    left_out: int

    def row(self, due: str | None) -> list[tuple[str | None, int, float]]:
        """(tool made, times, share of the line)."""
        total = self.total(due)
        return [(made, self.counts[due, made], self.counts[due, made] / total) for made in self.made]

    def total(self, due: str | None) -> int:
        return sum(count for (tool, _), count in self.counts.items() if tool == due)

    @property
    def has_other(self) -> bool:
        return any(due in self.due and made not in self.made for due, made in self.counts)

    def other(self, due: str | None) -> int:
        """Calls to tools that have no column."""
        return self.total(due) - sum(count for _, count, _ in self.row(due))


def confusion(rows: Sequence[dict[str, Any]], model: str) -> Confusion:
    """Which tool a model called where another was due, or none; empty where its rows have no steps."""
    found = [step for row in rows if row["model"] == model for step in steps(row)]
    counts = Counter(found)
    wrong = Counter(due for due, made in found if made != due)
    times = Counter(due for due, _ in found if due is not None)
    if not times:
        return Confusion([], [], Counter(), 0)
    due = sorted(times, key=lambda tool: (-wrong[tool], -times[tool], tool))
    shown = due[:TOOLS]
    strangers = Counter(made for _, made in found if made is not None and made not in shown)
    extra = sorted(strangers, key=lambda tool: (-strangers[tool], tool))[: max(0, TOOLS - len(shown)) + 4]
    no_call: list[str | None] = [None] if any(made is None for _, made in found) else []
    none_due: list[str | None] = [None] if wrong[None] else []
    return Confusion([*shown, *none_due], [*no_call, *shown, *extra], counts, len(due) - len(shown))


def steps(row: Mapping[str, Any]) -> list[tuple[str | None, str | None]]:
    """(tool due, tool made) of each call that was due, then (None, tool made) of the calls beyond them."""
    judged = [(name_of(step["due"]), None if step["made"] is None else name_of(step["made"])) for step in row["steps"]]
    # A row of BFCL says which calls were due, not which of those made are beyond them.
    beyond = row["calls"][len(judged) :] if judged or not row["expected"]["calls"] else ()
    return [*judged, *((None, name_of(call["name"])) for call in beyond)]


def text_of(value: Any) -> str:
    """The value if it is a text, else as JSON: a model may name anything."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def name_of(value: Any) -> str:
    """The same as a name that a table or a label can hold."""
    return plain(text_of(value))
