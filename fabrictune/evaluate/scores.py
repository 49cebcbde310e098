"""What the rows of predictions.jsonl come to, with `intervals`, and how two runs differ on the same rows."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fabrictune.evaluate import intervals
from fabrictune.evaluate.intervals import Array
from fabrictune.measures import HEADLINES, KINDS, MALFORMED, MEASURES

STEP = "step"  # the label of a call's place in its turn
OUTCOMES = ("success", "correct")  # the measures that say whether a row is right
SPLIT = "tools"  # the label by which `collect` tells seen from unseen
NUMBERS = re.compile(r"([0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)")

T = TypeVar("T")


@dataclass(frozen=True)
class _Row:
    """What scores need of a row of predictions.jsonl, or of one call that was due in it."""

    key: str
    dialogue: str
    query: str
    labels: Mapping[str, str]
    measures: Mapping[str, Sequence[float]]
    kinds: Sequence[str]
    malformed: Sequence[str]
    calls: Sequence[_Row] = ()


def aggregate(suite: str, rows: Iterable[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """scores.json of the suite's rows, in whatever order they come; models in the order in which they first come.

    {"suite", "models": {model: {"all": cell, "by": {label name: {label: cell}}}}}, where a cell is {"rows",
    "dialogues", "measures": {name: {"value", "low", "high", "count"}}, "kinds": {kind: rows}, "malformed": {kind:
    rows}}. Without a label "step" of their own, rows' calls are scored by "step", their place in the turn, from 1.
    `low` and `high` are None where fewer than two dialogues have the measure. Rows whose value is no finite number do
    not count; a cell that has such rows says how many in "unusable": {name: rows}.

    Raises ValueError for a suite or a measure that measures.py does not have, and for a key that comes twice.
    """
    if suite not in HEADLINES:
        raise ValueError(f"suite '{suite}' is not among {', '.join(HEADLINES)}")
    models: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        models.setdefault(row["model"], []).append(row)
    return {"suite": suite, "models": {name: _model(_read(model), seed) for name, model in models.items()}}


def compare(rows_a: Iterable[Mapping[str, Any]], rows_b: Iterable[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """How one model's rows in b differ from one model's rows in a, over the keys that both have.

    {"pairs", "dialogues", "measures": {name: {"a", "b", "difference", "low", "high", "count"}}, "by": {label name:
    {label: {"pairs", "dialogues", "measures"}}}, "changed": [{"key", "dialogue", "query", "a": kinds, "b": kinds,
    "change"}], "only_a", "only_b"}. A measure's entry is of the pairs in which it applies to both rows, and None where
    there are none. The difference is b - a, its interval from the same dialogues drawn for both; `count` is the smaller
    of the two, which differ only where each model's own tokens are counted. "change" is better, worse or other: wrong
    in another way. "unusable" is as in `aggregate`, for both together.

    Raises ValueError if no key is in both, or one comes twice.
    """
    a, b = ({row.key: row for row in _read(rows)} for rows in (rows_a, rows_b))
    pairs = [(a[key], b[key]) for key in a if key in b]
    if not pairs:
        raise ValueError(
            f"none of {len(a)} rows is among the {len(b)} that they are compared with; compare runs on one file"
        )
    return {
        **_paired_cell(pairs, seed),
        "by": {
            name: {label: _paired_cell(chosen, seed) for label, chosen in groups.items()}
            for name, groups in _grouped(pairs, lambda pair: pair[0].labels).items()
        },
        "changed": [
            {
                "key": x.key,
                "dialogue": x.dialogue,
                "query": x.query,
                "a": list(x.kinds),
                "b": list(y.kinds),
                "change": how,
            }
            for x, y in pairs
            if (how := _change(x, y))
        ],
        "only_a": len(a) - len(pairs),
        "only_b": len(b) - len(pairs),
    }


def collect(points: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A line for each point of a sweep and each of its models, all with the same columns; `points` are scores.json's.

    {"point", "suite", "model", "rows", "dialogues", then "first_call", "first_call_low", "first_call_high",
    "first_call_seen", "first_call_seen_low", ...} for the suite's headline measures; None where there is no such score.
    """
    lines = [
        {"point": point, "suite": scores["suite"], "model": name, "rows": model["all"]["rows"]}
        | {"dialogues": model["all"]["dialogues"]}
        | _flat(HEADLINES[scores["suite"]], model)
        for point, scores in points.items()
        for name, model in scores["models"].items()
    ]
    columns = dict.fromkeys(column for line in lines for column in line)
    return [{column: line.get(column) for column in columns} for line in lines]


def natural(text: str) -> tuple[list[str | float], str]:
    """A key to sort by that reads unsigned numbers as such: rank-16 is after rank-4, lr-0.0001 after lr-2e-05."""
    return [_number(part) if place % 2 else part for place, part in enumerate(NUMBERS.split(text))], text


def _number(text: str) -> float:
    return int(text) if text.isdecimal() else float(text)


def _flat(names: Sequence[str], model: Mapping[str, Any]) -> dict[str, float | None]:
    cells = {"": model["all"]} | {f"_{label}": cell for label, cell in model["by"].get(SPLIT, {}).items()}
    return {
        f"{name}{split}{end}": cell["measures"].get(name, {}).get(part)
        for name in names
        for split, cell in cells.items()
        for end, part in (("", "value"), ("_low", "low"), ("_high", "high"))
    }


def _read(rows: Iterable[Mapping[str, Any]]) -> list[_Row]:
    """The rows in the order of their keys, so that sums do not depend on the order in which they were played."""
    parsed = sorted(map(_parse, rows), key=lambda row: natural(row.key))
    for before, row in zip(parsed, parsed[1:], strict=False):
        if before.key == row.key:
            raise ValueError(f"two rows of one model have the key '{row.key}'; remove one of them, or evaluate again")
    return parsed


def _parse(row: Mapping[str, Any]) -> _Row:
    key, dialogue, query = row["key"], row["dialogue"], row["query"]
    calls = [
        _Row(key, dialogue, query, {STEP: str(place)}, step["measures"], (), ())
        for place, step in enumerate(row["steps"], start=1)
    ]
    measures = _of_calls(calls) | row["measures"]
    if unknown := sorted(measures.keys() - MEASURES.keys()):
        raise ValueError(f"row '{key}': measure '{unknown[0]}' is not among those of measures.py; evaluate again")
    return _Row(key, dialogue, query, row["labels"], measures, row["kinds"], row["malformed"], calls)


def _of_calls(calls: Sequence[_Row]) -> dict[str, list[float]]:
    """The measures of the calls, summed: a row's own where the row says nothing else."""
    sums: dict[str, list[float]] = {}
    for call in calls:
        for name, (value, count) in call.measures.items():
            before = sums.get(name, [0.0, 0])
            sums[name] = [before[0] + value, before[1] + count]
    return sums


def _model(rows: Sequence[_Row], seed: int) -> dict[str, Any]:
    groups = _grouped(rows, lambda row: row.labels)
    if STEP not in groups:
        groups |= _grouped([call for row in rows for call in row.calls], lambda call: call.labels)
    by = {name: {label: _cell(chosen, seed) for label, chosen in labels.items()} for name, labels in groups.items()}
    return {"all": _cell(rows, seed), "by": by}


def _grouped(items: Sequence[T], labels_of: Callable[[T], Mapping[str, str]]) -> dict[str, dict[str, list[T]]]:
    """{label name: {label: its items}}, both sorted."""
    groups: dict[str, dict[str, list[T]]] = {}
    for item in items:
        for name, label in labels_of(item).items():
            groups.setdefault(name, {}).setdefault(label, []).append(item)
    return {
        name: {label: groups[name][label] for label in sorted(groups[name], key=natural)} for name in sorted(groups)
    }


def _cell(rows: Sequence[_Row], seed: int) -> dict[str, Any]:
    names = _names(rows)
    totals, unusable = _totals(rows, _dialogues(rows), names), _unusable(rows, names)
    likely = _are_perplexities(names)
    (draws,) = intervals.drawn([totals], likely, seed)
    values, bounds = intervals.statistic(totals.sum(1), likely), intervals.bounds(draws, (totals[1] > 0).sum(0))
    measures = {
        name: {"value": _plain(values[at]), "low": _plain(bounds[at][0]), "high": _plain(bounds[at][1]), "count": count}
        for at, name in enumerate(names)
        if (count := int(totals[1, :, at].sum()))
    }
    kinds = _counted(KINDS, [row.kinds for row in rows])
    malformed = _counted(MALFORMED, [row.malformed for row in rows])
    cell = {
        "rows": len(rows),
        "dialogues": totals.shape[1],
        "measures": measures,
        "kinds": kinds,
        "malformed": malformed,
    }
    return cell | ({"unusable": unusable} if unusable else {})


def _paired_cell(pairs: Sequence[tuple[_Row, _Row]], seed: int) -> dict[str, Any]:
    rows = [row for pair in pairs for row in pair]
    names, dialogues = _names(rows), _dialogues(rows)
    shared = [_shared(*pair) for pair in pairs]
    a, b = (_totals([pair[side] for pair in shared], dialogues, names) for side in (0, 1))
    likely = _are_perplexities(names)
    draws_a, draws_b = intervals.drawn([a, b], likely, seed)
    bounds = intervals.bounds(draws_b - draws_a, (a[1] > 0).sum(0))
    value_a, value_b = (intervals.statistic(side.sum(1), likely) for side in (a, b))
    counts = np.minimum(a[1].sum(0), b[1].sum(0))
    measures = {
        name: {
            "a": _plain(value_a[at]),
            "b": _plain(value_b[at]),
            "difference": _plain(value_b[at] - value_a[at]),
            "low": _plain(bounds[at][0]),
            "high": _plain(bounds[at][1]),
            "count": int(counts[at]),
        }
        for at, name in enumerate(names)
        if any(_applies(name, row) for row in rows)
    }
    unusable = _unusable(rows, names)
    cell = {"pairs": len(pairs), "dialogues": len(dialogues), "measures": measures}
    return cell | ({"unusable": unusable} if unusable else {})


def _shared(a: _Row, b: _Row) -> tuple[_Row, _Row]:
    """Both rows with those measures only that apply to both: else an answer is compared with one never given."""
    names = [name for name in a.measures if _applies(name, a) and _applies(name, b)]
    x, y = ({name: row.measures[name] for name in names} for row in (a, b))
    return replace(a, measures=x), replace(b, measures=y)


def _applies(name: str, row: _Row) -> bool:
    """Whether the row has the measure, as a finite number."""
    pair = row.measures.get(name)
    return pair is not None and all(map(math.isfinite, pair)) and pair[1] > 0


def _names(rows: Sequence[_Row]) -> list[str]:
    present = {name for row in rows for name in row.measures}
    return [name for name in MEASURES if name in present]


def _are_perplexities(names: Sequence[str]) -> NDArray[np.bool_]:
    return np.array([MEASURES[name].unit == "perplexity" for name in names], dtype=bool)


def _dialogues(rows: Sequence[_Row]) -> dict[str, int]:
    """The place of each dialogue."""
    return {dialogue: place for place, dialogue in enumerate(dict.fromkeys(row.dialogue for row in rows))}


def _totals(rows: Sequence[_Row], dialogues: Mapping[str, int], names: Sequence[str]) -> Array:
    """Sums and counts of each measure in each dialogue (2, D, M)."""
    totals = np.zeros((2, len(dialogues), len(names)))
    for row in rows:
        for at, name in enumerate(names):
            if _applies(name, row):
                totals[:, dialogues[row.dialogue], at] += row.measures[name]
    return totals


def _unusable(rows: Iterable[_Row], names: Sequence[str]) -> dict[str, int]:
    """{measure: in how many rows it is no finite number}, of those that have such rows."""
    found = Counter(name for row in rows for name, pair in row.measures.items() if not all(map(math.isfinite, pair)))
    return {name: found[name] for name in names if found[name]}


def _plain(value: float) -> float | None:
    """JSON has neither NaN nor infinity."""
    return float(value) if math.isfinite(value) else None


def _counted(order: Iterable[str], found: Iterable[Iterable[str]]) -> dict[str, int]:
    """In how many rows each kind was found."""
    counts = Counter(kind for kinds in found for kind in set(kinds))
    return {kind: counts[kind] for kind in dict.fromkeys([*order, *sorted(counts)])}


def _change(a: _Row, b: _Row) -> str | None:
    before, after = _rightness(a), _rightness(b)
    if before != after:
        return "better" if after > before else "worse"
    return "other" if set(a.kinds) != set(b.kinds) else None


def _rightness(row: _Row) -> float:
    """Whether the row is right; of a row that no measure calls right, how few kinds of failure it has."""
    found = [row.measures[name] for name in OUTCOMES if name in row.measures]
    return found[0][0] / found[0][1] if found and found[0][1] else -float(len(set(row.kinds)))
