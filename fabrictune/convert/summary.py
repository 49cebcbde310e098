"""Counts of a conversion, added up row by row in fixed memory: what stats.json, card.html and the log say."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from fabrictune.convert.card import RejectKind
from fabrictune.convert.histogram import Lengths
from fabrictune.convert.rows import Facts, Reject


@dataclass
class SourceSummary:
    """One source: how many rows it has, and what became of them.

    `held_back` rows are kept to test general chat on, beside those used.
    `covered` are requests beside these rows, whose exchanges a later request of the same conversation repeats.
    """

    place: str
    rows: int = 0
    covered: int = 0
    used: int = 0
    held_back: int = 0
    rejected: int = 0
    not_drawn: int = 0
    not_used: int = 0
    too_long: int = 0
    results_cut: int = 0
    dialogues: Counter[str] = field(default_factory=Counter)  # by part, "train" and "test"
    exchanges: Counter[str] = field(default_factory=Counter)
    lengths: Lengths = field(default_factory=Lengths)


@dataclass
class Summary:
    """Everything counted. `unit` is what lengths are in, "tokens" or "characters"."""

    unit: str
    sources: dict[str, SourceSummary] = field(default_factory=dict)
    dialogues: Counter[str] = field(default_factory=Counter)
    exchanges: Counter[str] = field(default_factory=Counter)
    families: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    calls_per_turn: Counter[int] = field(default_factory=Counter)
    tools_per_dialogue: Counter[int] = field(default_factory=Counter)
    tools: dict[str, set[str]] = field(default_factory=lambda: {"train": set(), "test": set()})
    tested: Counter[bool] = field(default_factory=Counter)  # test dialogues, by whether their tools were trained on
    heldout_not_used: int = 0
    rejects: dict[tuple[str, str], RejectKind] = field(default_factory=dict)
    first_rejects: dict[str, Reject] = field(default_factory=dict)  # of each source, for an error that shows one
    rejected: int = 0
    in_part: int = 0

    @property
    def counts_tokens(self) -> bool:
        return self.unit == "tokens"

    @property
    def held_back(self) -> int:
        return sum(own.held_back for own in self.sources.values())

    def reject(self, reject: Reject) -> None:
        kind = _kind(reject.reason)
        self.first_rejects.setdefault(reject.source, reject)
        known = self.rejects.get((reject.source, kind))
        first = (known.example_file, known.example_line) if known else (reject.file, reject.line)
        self.rejects[reject.source, kind] = RejectKind(reject.source, kind, known.count + 1 if known else 1, *first)
        if reject.in_part:
            self.in_part += 1
        else:
            self.rejected += 1
            self.sources[reject.source].rejected += 1
            self.sources[reject.source].too_long += reject.too_long

    def use(self, source: str, part: str, facts: Facts) -> None:
        """Counts a dialogue that is written to `part`, "train" or "test"."""
        own = self.sources[source]
        for counts in (self, own):
            counts.dialogues[part] += 1
            counts.exchanges[part] += facts.lines
        own.too_long += facts.too_long
        own.results_cut += facts.results_cut
        for length in facts.lengths:
            own.lengths.add(length)
        self.families[facts.family] += 1
        self.languages.update(facts.languages)
        self.calls_per_turn.update(facts.calls)
        self.tools_per_dialogue[len(facts.tools)] += 1
        self.tools[part].update(facts.tools)
        if part == "test":
            self.tested[self.is_seen(facts)] += 1

    def is_seen(self, facts: Facts) -> bool:
        """Whether the tools that the dialogue is about (those called, else all offered) were offered in training."""
        return set(facts.called or facts.tools) <= self.tools["train"]

    def reasons(self) -> list[RejectKind]:
        return sorted(self.rejects.values(), key=lambda kind: -kind.count)

    def plain(self) -> dict[str, Any]:
        """The content of stats.json."""
        return {
            "train": self._part("train"),
            "test": self._part("test"),
            "test_seen": self.tested[True],
            "test_unseen": self.tested[False],
            "held_back": self.held_back,
            "rejected": self.rejected,
            "kept_in_part": self.in_part,
            "rejected_by_reason": {f"{kind.source}: {kind.reason}": kind.count for kind in self.reasons()},
            "heldout_not_used": self.heldout_not_used,
            "by_source": {name: own.dialogues.total() for name, own in self.sources.items()},
            "by_family": dict(self.families),
            "languages": dict(self.languages),
            "calls_per_turn": {str(count): self.calls_per_turn[count] for count in sorted(self.calls_per_turn)},
            "tools_per_dialogue": {str(n): self.tools_per_dialogue[n] for n in sorted(self.tools_per_dialogue)},
            "tools": {part: len(names) for part, names in self.tools.items()},
            "sources": {name: self._source(own) for name, own in self.sources.items()},
        }

    def _part(self, part: str) -> dict[str, int]:
        return {"dialogues": self.dialogues[part], "exchanges": self.exchanges[part]}

    def _source(self, own: SourceSummary) -> dict[str, Any]:
        lengths = own.lengths.histogram(self.unit)
        return {
            "place": own.place,
            "rows": own.rows,
            "covered": own.covered,
            "used": own.used,
            "held_back": own.held_back,
            "rejected": own.rejected,
            "not_drawn": own.not_drawn,
            "not_used": own.not_used,
            "exchanges_too_long": own.too_long if self.counts_tokens else None,
            "results_cut": own.results_cut,
            "train": {"dialogues": own.dialogues["train"], "exchanges": own.exchanges["train"]},
            "test": {"dialogues": own.dialogues["test"], "exchanges": own.exchanges["test"]},
            "length": {
                "unit": self.unit,
                "measured": own.lengths.count,
                "mean": round(lengths.mean, 1),
                "p50": lengths.p50,
                "p95": lengths.p95,
                "max": lengths.max,
            },
        }


# A quoted name or text, or several in a row; an apostrophe inside a word neither begins nor ends one.
_QUOTED = re.compile(r"""(?<!\w)(['"]).*?\1(?!\w)(, (['"]).*?\3(?!\w))*""", re.DOTALL)
_PLACE = re.compile(r"^((dialogue|tool) '\.\.\.'(, turn \d+)?: )+")


def _kind(reason: str) -> str:
    """The reason without the names and texts of its own row, so that like ones count together."""
    general = _QUOTED.sub("'...'", reason)  # first of all, since a name may hold the ": " that ends the general part
    return _PLACE.sub("", general).partition(": ")[0]
