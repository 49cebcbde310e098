"""What a run will need is told whole as JSON, and in tables that fit a terminal."""

from __future__ import annotations

import io
import json
from typing import Any

from rich.console import Console

from fabrictune.train import estimates, forecast
from fabrictune.train.estimates import GIB, Memory
from fabrictune.train.footprint import Footprint, Parameters

# Qwen-7B as Qwen2, LoRA of rank 8 on all linear layers.
QWEN = Parameters(
    7_721_324_544, 19_988_480, 6_476_005_376, 622_329_856, 45_088_768, 622_329_856, 131_072, 151_936, 4096
)


def test_the_report_is_json_and_its_tables_fit_a_terminal_of_120_columns() -> None:
    estimate = _report()

    text = _shown(estimate)

    assert json.loads(json.dumps(estimate)) == estimate
    for words in ("mine", "agent", "30,488", "2,828", "7,721,324,544", "19,988,480 (0.26%)", "ZeRO-2 *", "A100-80GB"):
        assert words in text
    assert "Nothing would be refused" in text
    assert "…" not in text and max(map(len, text.splitlines())) <= 120
    assert [row["chosen"] for row in estimate["memory"]].count(True) == 1


def test_the_way_that_is_configured_is_shown_also_where_it_is_no_zero_stage() -> None:
    alone = estimates.memory(QWEN, Footprint(4096, GIB, GIB), 1)

    text = _shown(_report(alone, ["[it] does not fit"]))

    assert "no ZeRO *" in text
    assert "refused: [it] does not fit" in text and "Nothing would be refused" not in text


def test_hours_are_not_shown_before_the_data_are_known() -> None:
    assert "Hours of training" in _shown(_report())
    assert "Hours of training" not in _shown(_report(operations=0))


def test_hours_that_would_all_be_0_are_told_in_a_line() -> None:
    text = _shown(_report(operations=10**12))
    assert "Hours of training" not in text and "under 0.1 hours on one GPU (A100" in text
    assert "under 0.1" not in _shown(_report()) + _shown(_report(operations=0))


def _report(
    chosen: Memory | None = None,
    refusals: list[str] | None = None,
    operations: int = 3 * 10**18,
) -> dict[str, Any]:
    memories = estimates.stages(QWEN, Footprint(4096, GIB, GIB), 8)
    return forecast.report(
        "mine",
        {"agent": {"rows": 30_488, "tokens": 19_000_000}, "general": {"rows": 60_366}},
        {"steps": 2828, "effective_batch": 64, "warmup_steps": 85},
        QWEN,
        memories,
        chosen or memories[2],
        operations,
        {"zero_optimization": {"stage": 2}},
        refusals or [],
    )


def _shown(estimate: dict[str, Any]) -> str:
    page = io.StringIO()
    forecast.show(estimate, Console(file=page, width=120))
    return page.getvalue()
