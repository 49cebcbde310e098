"""The whole estimate of a training run: as plain values for JSON, and as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from fabrictune.train.estimates import DEVICES, PARTS, Memory, gib, hours
from fabrictune.train.footprint import Parameters

HOURS_OF = (
    "{:.2e} floating point operations at an assumed share of the peak; without loading, evaluating and saving. "
    "The tutorial's own run of 2 h 14 min on 8 A100s reached 0.16 with all of these."
)
LEAST_HOURS = 0.05  # less is shown as 0.0


def report(
    name: str,
    sources: Mapping[str, Mapping[str, Any]],
    schedule: Mapping[str, Any],
    parameters: Parameters,
    memories: Sequence[Memory],
    chosen: Memory,
    operations: int,
    deepspeed: Mapping[str, Any] | None,
    refusals: Sequence[str],
) -> dict[str, Any]:
    """The whole estimate as plain values for JSON: bytes, operations, hours.

    `sources` maps a data source to its counts (rows, tokens, ...), `schedule` has the run's steps, batch and the like.
    `operations` are those of the whole run, 0 if its data are not known yet: then there are no hours.
    """
    return {
        "name": name,
        "sources": {source: dict(counts) for source, counts in sources.items()},
        "schedule": dict(schedule),
        "parameters": {**asdict(parameters), "trainable_share": parameters.trainable / parameters.base},
        "memory": [
            {**asdict(each), "total": each.total, "card": each.card, "label": each.label, "chosen": each == chosen}
            for each in ([] if chosen in memories else [chosen]) + list(memories)
        ],
        "flops": operations,
        "hours": [
            {"device": device, "gpus": gpus, "utilisation": known.utilisation, "hours": hours(operations, gpus, device)}
            for device, known in DEVICES.items()
            for gpus in (1, 8)
            if operations
        ],
        "deepspeed": dict(deepspeed) if deepspeed else None,
        "problems": list(refusals),
    }


def show(estimate: Mapping[str, Any], console: Console) -> None:
    """Prints what `report` returned as tables."""
    if estimate["sources"]:
        console.print(_sources(estimate["sources"]))
    console.print(_schedule(estimate))
    console.print(_memories(estimate["memory"]))
    if any(row["hours"] >= LEAST_HOURS for row in estimate["hours"]):
        console.print(_hours(estimate))
    elif estimate["hours"]:
        console.print(f"Training takes under 0.1 hours on one GPU ({', '.join(DEVICES)}; estimate).")
    if estimate["deepspeed"]:
        console.print("DeepSpeed's settings:", style="bold")
        console.print_json(data=estimate["deepspeed"])
    for problem in estimate["problems"]:
        console.print(f"refused: {problem}", style="bold red", markup=False, soft_wrap=True)  # a command stays one line
    if not estimate["problems"]:
        console.print("Nothing would be refused.")


def _sources(sources: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(title="Data")
    table.add_column("source")
    columns = list(dict.fromkeys(column for counts in sources.values() for column in counts))
    for column in columns:
        table.add_column(column, justify="right")
    for source, counts in sources.items():
        table.add_row(source, *(_count(counts.get(column, "-")) for column in columns))
    return table


def _schedule(estimate: Mapping[str, Any]) -> Table:
    table = Table(title=estimate["name"], show_header=False)
    known = estimate["parameters"]
    rows = {
        **estimate["schedule"],
        "parameters": known["base"],
        "trainable parameters": f"{known['trainable']:,} ({known['trainable_share']:.2%})",
    }
    for name, value in rows.items():
        table.add_row(name.replace("_", " "), _count(value))
    return table


def _memories(memories: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(
        title="Memory of a GPU at its fullest moment, GiB (estimate)", caption="* is what the config says", min_width=60
    )
    table.add_column("")
    for each in memories:
        heading = f"{each['label']}{' *' if each['chosen'] else ''}".replace(", ", "\n").replace(" and ", "\nand ")
        table.add_column(heading, justify="right", style="bold" if each["chosen"] else None)
    for part, name in PARTS.items():
        table.add_row(name, *(gib(each[part]) for each in memories))
    table.add_section()
    table.add_row("total", *(gib(each["total"]) for each in memories))
    table.add_row("fits", *("no card" if each["card"] is None else f"{each['card']} GB" for each in memories))
    table.add_row("in the machine's memory", *(gib(each["host"]) for each in memories))
    return table


def _hours(estimate: Mapping[str, Any]) -> Table:
    table = Table(title="Hours of training (estimate)", caption=HOURS_OF.format(estimate["flops"]), min_width=60)
    counts = sorted({row["gpus"] for row in estimate["hours"]})
    for column in ("GPU", "share of its peak", *(f"{count} GPU{'s' * (count > 1)}" for count in counts)):
        table.add_column(column, justify="left" if column == "GPU" else "right")
    for device in dict.fromkeys(row["device"] for row in estimate["hours"]):
        rows = {row["gpus"]: row for row in estimate["hours"] if row["device"] == device}
        share = next(iter(rows.values()))["utilisation"]
        table.add_row(device, f"{share:.2f}", *(f"{rows[count]['hours']:.1f}" for count in counts))
    return table


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
