"""The curves of a training run: metrics.jsonl read back, and images/*.png of it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

STEP = "step"
NO_CURVES = (STEP, "epoch")
SMOOTHING = 0.9  # of the train loss, whose every point is another batch
_DARK, _LIGHT = "#1f4e8c", "#a9c4e6"

# What is right of the tokens, replies and calls expected, and the image of all of them.
ACCURACIES = {
    "eval/token_acc": "tokens right",
    "eval/sentence_acc": "replies right, given their beginning",
    "eval/call_exact": "calls exact, as generated",
}
ACCURACY = "eval/accuracy"

# A curve is its steps and its values.
Curve = tuple[list[int], list[float]]


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of JSON objects; none if there is no file. The torn last line of a killed run is left out.

    Raises ValueError naming any other line that is no JSON object.
    """
    if not path.exists():
        return []
    *whole, rest = path.read_bytes().split(b"\n")
    lines = []
    for number, line in enumerate([*whole, rest] if rest else whole, 1):
        try:
            value = json.loads(line)
        except ValueError as error:
            if number > len(whole):
                break
            raise ValueError(f"{path}:{number}: no JSON ({error}); delete the line to go on") from error
        if not isinstance(value, dict):
            raise ValueError(f"{path}:{number}: no JSON object: {line[:60]!r}; delete the line to go on")
        lines.append(value)
    return lines


def name(key: str) -> str:
    """A metric's curve as W&B groups it: `loss` is train/loss, `eval_loss/weather` is eval/loss/weather."""
    if key.startswith(("eval/", "train/")):
        return key
    return f"eval/{key.removeprefix('eval_')}" if key.startswith("eval_") else f"train/{key}"


def collect(lines: Sequence[dict[str, Any]]) -> dict[str, dict[str, Curve]]:
    """Metric -> source -> curve; the source "" is all of them together."""
    found: dict[str, dict[str, Curve]] = {}
    for line in lines:
        for key, value in line.items():
            if key in NO_CURVES or not isinstance(value, (int, float)):
                continue
            group, metric, *source = name(key).split("/")
            curves = found.setdefault(f"{group}/{metric}", {})
            steps, values = curves.setdefault("/".join(source), ([], []))
            steps.append(line[STEP])
            values.append(value)
    return found


def draw(metrics: Path, folder: Path) -> list[Path]:
    """Writes one PNG a metric of the file into the folder and returns their paths.

    The curves of a metric's sources stand in one image; the train loss is shown smoothed too. The accuracies of all
    sources, where there are several, stand together in eval_accuracy.png.
    """
    found = collect(read(metrics))
    folder.mkdir(parents=True, exist_ok=True)
    figures = {metric: _figure(metric, by_source) for metric, by_source in found.items()}
    accuracies = {label: found[metric][""] for metric, label in ACCURACIES.items() if "" in found.get(metric, {})}
    if len(accuracies) > 1:
        figures[ACCURACY] = _figure_of_accuracies(accuracies)
    paths = []
    for title, figure in figures.items():
        path = folder / f"{title.replace('/', '_')}.png"
        _save(figure, path)
        paths.append(path)
    return paths


def smoothed(values: Sequence[float], weight: float = SMOOTHING) -> list[float]:
    """The exponential moving average, corrected for its start at 0. A value that is not finite leaves it as it was."""
    mean, total, result = 0.0, 0.0, []
    for value in values:
        if math.isfinite(value):
            mean, total = weight * mean + (1 - weight) * value, weight * total + (1 - weight)
        result.append(mean / total if total else math.nan)
    return result


def _figure(metric: str, by_source: dict[str, Curve]) -> Figure:
    figure = Figure(figsize=(8, 5), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    whole = by_source.get("")
    # A short curve would be invisible without its points.
    mark = "o" if max(len(steps) for steps, _ in by_source.values()) < 30 else ""
    if whole and metric == "train/loss":
        steps, values = whole
        axes.plot(steps, values, color=_LIGHT, marker=mark, markersize=3, label="each point")
        axes.plot(steps, smoothed(values), color=_DARK, linewidth=2, label=f"smoothed ({SMOOTHING})")
    elif whole:
        axes.plot(*whole, color=_DARK, linewidth=2, marker=mark, markersize=4, label="all")
    for place, source in enumerate(sorted(by_source.keys() - {""})):
        colour, style = f"C{place % 10}", "-" if place < 10 else "--"
        axes.plot(*by_source[source], style, color=colour, linewidth=1, marker=mark, markersize=3, label=source)
    axes.set_xlabel("step")
    axes.set_ylabel(metric)
    axes.grid(alpha=0.3)
    if len(axes.lines) > 1:
        axes.legend(fontsize="small")
    return figure


def _figure_of_accuracies(curves: dict[str, Curve]) -> Figure:
    figure = Figure(figsize=(8, 5), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for place, (title, curve) in enumerate(curves.items()):
        axes.plot(*curve, color=f"C{place}", linewidth=2, marker="o" if len(curve[0]) < 30 else "", label=title)
    axes.set_xlabel("step")
    axes.set_ylabel("share")
    axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure


def _save(figure: Figure, path: Path) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        FigureCanvasAgg(figure)
        figure.savefig(aside, format="png")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
