"""The rows of an evaluation as the page's browser of dialogues shows them: each text once, and long ones cut."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fabrictune.evaluate.confusion import name_of, steps, text_of
from fabrictune.evaluate.scores import OUTCOMES
from fabrictune.measures import KINDS, LABELS, MALFORMED, MEASURES

MESSAGE, REPLY = 24_000, 8_000  # characters; the whole texts stand in predictions.jsonl, and the page says so


def browser(rows: Sequence[dict[str, Any]], models: Sequence[str]) -> dict[str, Any]:
    """What the page's script shows: the rows of a key together, and each text that several of them share once.

    Plain values, for JSON. Texts longer than MESSAGE or REPLY are cut, and say so.
    """
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
            "labels": number({name: name_of(value) for name, value in row["labels"].items()}),
            "query": number(_cut(row["query"], MESSAGE)),
            "prompt": [number([message["role"], _cut(message["content"], MESSAGE)]) for message in row["prompt"]],
            "expected": number(
                {
                    "calls": [
                        [name_of(call["name"]), text_of(call["arguments"])] for call in row["expected"].get("calls", ())
                    ],
                    "answer": _cut(row["expected"].get("answer") or "", MESSAGE),
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
        "replies": [[_cut(reply["text"], REPLY), bool(reply["stopped"])] for reply in row["replies"]],
        "calls": [
            [name_of(call["name"]), _cut(call["arguments"], REPLY), _cut(call["observation"], REPLY)]
            for call in row["calls"]
        ],
        "answer": None if row["answer"] is None else _cut(row["answer"], REPLY),
        "steps": steps(row),
        "verdict": _verdict(row),
        "kinds": list(row["kinds"]),
        "malformed": list(row["malformed"]),
        "scores": [
            f"{MEASURES[name].title} {_row_score(name, *found)}"
            for name, found in row["measures"].items()
            if name in MEASURES and not MEASURES[name].by_step and name not in (*KINDS, *OUTCOMES) and found[1]
        ],
    }


def _verdict(row: Mapping[str, Any]) -> str:
    """right, wrong, or "not judged" where a row has no measure that could say so; right is as in `scores.compare`."""
    measures = row["measures"]
    for name in OUTCOMES:
        if name in measures and measures[name][1]:
            return "right" if measures[name][0] == measures[name][1] else "wrong"
    if row["kinds"]:
        return "wrong"
    return "right" if any(name in measures for name in KINDS) else "not judged"


def _row_score(name: str, total: float, count: float) -> str:
    measure = MEASURES[name]
    if measure.unit == "perplexity":
        return measure.value(math.exp(min(total / count, 700)))  # e to the 710th is beyond a float
    return f"{measure.value(total / count)} %"


def _cut(text: Any, longest: int) -> str:
    whole = text_of(text)
    if len(whole) <= longest:
        return whole
    left = len(whole) - longest
    return f"{whole[:longest]}\n[the last {left:,} of {len(whole):,} characters stand in predictions.jsonl]"
