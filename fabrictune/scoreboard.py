"""The scores that `scoring.aggregate` makes, as tables with the models side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

# The four failures that the tutorial names come first.
KIND_NAMES = {
    "no_call": "no call made",
    "wrong_arguments": "wrong arguments",
    "bad_summary": "summary contradicts or ignores",
    "not_stopped": "did not stop or repeated a call",
    "wrong_tool": "another tool",
    "unknown_tool": "a tool not on offer",
    "needless_call": "needless call",
    "no_answer": "no answer",
}


def show(scores: dict[str, Any], console: Console | None = None) -> None:
    """Prints the scores of all models side by side: rates by split and family, then failures by kind."""
    console = console or Console(width=None if os.isatty(1) else 120)
    console.print(_rates(scores))
    console.print(_failures(scores))


def _rates(scores: dict[str, Any]) -> Table:
    table = Table(title="AgentFabric: exact first calls and successful turns, in percent")
    table.add_column("tools")
    table.add_column("turns", justify="right")
    for measure in ("first call", "turn"):
        for model in scores:
            table.add_column(f"{measure}\n{model}", justify="right")
    splits = [split for split in ("seen", "unseen") if any(split in by_split for by_split in scores.values())]
    for split in splits:
        table.add_row(*_rates_of(f"all {split}", [by_split.get(split) for by_split in scores.values()]), style="bold")
    for split in splits:
        table.add_section()
        families = sorted(
            {name for by_split in scores.values() for name in by_split.get(split, {}).get("families", {})}
        )
        for family in families:
            rows = [by_split.get(split, {}).get("families", {}).get(family) for by_split in scores.values()]
            table.add_row(*_rates_of(f"{family or '(no family)'} ({split})", rows))
    return table


def _rates_of(name: str, rows: Sequence[dict[str, Any] | None]) -> list[str]:
    turns = max(row["turns"] for row in rows if row)
    measures = [(row or {}).get(measure) for measure in ("first_call", "success") for row in rows]
    return [name, str(turns), *("-" if value is None else f"{100 * value:.1f}" for value in measures)]


def _failures(scores: dict[str, Any]) -> Table:
    table = Table(title="Failed turns by kind (a turn may fail in several ways)")
    table.add_column("failure")
    columns = [(model, split) for split in ("seen", "unseen") for model in scores if split in scores[model]]
    for model, split in columns:
        table.add_column(f"{split}\n{model}", justify="right")
    for kind, name in KIND_NAMES.items():
        table.add_row(name, *(str(scores[model][split]["failures"][kind]) for model, split in columns))
        if kind == "not_stopped":
            table.add_section()
    table.add_section()
    table.add_row("turns", *(str(scores[model][split]["turns"]) for model, split in columns))
    return table
