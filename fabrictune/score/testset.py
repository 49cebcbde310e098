"""The dialogues that convert.py kept for tests, as an evaluation reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fabrictune.dialogue import Dialogue, from_json

T = TypeVar("T")


@dataclass(frozen=True)
class TestDialogue:
    """A dialogue and where it stands: `line` (from 1) names it beyond doubt.

    `seen`: training saw its tools; None where that is not known.
    """

    __test__ = False  # pytest would take it for a class of tests

    line: int
    dialogue: Dialogue
    source: str
    seen: bool | None

    @property
    def labels(self) -> dict[str, str]:
        """Those of `measures.LABELS` that all its rows share."""
        labels = {"source": self.source}
        if self.seen is not None:
            labels["tools"] = "seen" if self.seen else "unseen"
        if self.dialogue.family:
            labels["family"] = self.dialogue.family
        return labels


def read(path: Path, limit: int | None = None) -> list[TestDialogue]:
    """The dialogues of the file, or `limit` of them evenly spaced. Raises ValueError for a line that holds none."""
    texts = path.read_text(encoding="utf-8").split("\n")  # splitlines() would also split inside a string, at U+2028
    lines = [(number, text) for number, text in enumerate(texts, start=1) if text.strip()]
    if not lines:
        raise ValueError(
            f"{path} holds no dialogue to test with; raise data.test_ratio, or, where all rows are general chat or end "
            "with a call (xLAM), add a source that is tested on, and convert again"
        )
    return [_parse(path, number, text) for number, text in spaced(lines, limit)]


def spaced(items: Sequence[T], limit: int | None) -> list[T]:
    """The items, or `limit` of them evenly from first to last."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[at * len(items) // limit] for at in range(limit)]


def _parse(path: Path, number: int, text: str) -> TestDialogue:
    try:
        row = json.loads(text)
        return TestDialogue(number, from_json(row["dialogue"]), row["source"], bool(row["seen"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}:{number}: not a test dialogue ({error}); it takes a test_dialogues.jsonl as convert.py writes it "
            "now: convert again"
        ) from error
