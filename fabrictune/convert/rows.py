"""One row of a source -> the lines that convert.py writes of it, in a worker process of its own."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from fabrictune import dialogue as dialogues
from fabrictune import protocol
from fabrictune.convert import keeping, mixture
from fabrictune.convert.fitting import Fitted, Piece, Write, fit
from fabrictune.convert.keeping import Likeness
from fabrictune.convert.lengths import Ruler
from fabrictune.dialogue import Dialogue, Exchange, Json
from fabrictune.formats import (
    agentfabric,
    captured_log,
    messages,
    ms_agent,
    openai,
    values,
)

# Formats whose rows another trainer reads; our own trains on the exchanges of the other formats.
WRITERS: Mapping[str, Callable[[Dialogue], dict[str, Json]]] = {
    "openai": openai.render,
    "messages": messages.render,
    "ms_agent": ms_agent.render,
}


# Sources whose rows are read by a format's module of another name.
_MODULES = {"agentfabric": "captured", "synthetic": "ms_agent"}
_RAW = re.compile("[\udc80-\udcff]")  # what `files.records` makes of a byte that is no UTF-8


@cache
def reader(source: str) -> Callable[[Mapping[str, Any]], Dialogue]:
    """What makes a Dialogue of a source's row: `parse` of the module in formats/ that has the source's name."""
    if source == "self_cognition":
        return dialogues.from_json
    parse: Callable[[Mapping[str, Any]], Dialogue]
    parse = import_module(f"fabrictune.formats.{_MODULES.get(source, source)}").parse
    return parse


@dataclass(frozen=True)
class Recipe:
    """All that the lines of a source's rows depend on, beside the rows.

    `tokenizer` None: lengths are in characters. `measured_share` of the rows, drawn by chance, tell their lengths.
    """

    name: str
    source: str
    format: str
    plain: bool
    language: str | None
    raw_share: float
    other_break: float
    tokenizer: Path | None
    max_length: int
    long: str
    measured_share: float
    seed: int


@dataclass(frozen=True)
class Row:
    """A row as it was read; `number` counts from 0 over all files of the source."""

    number: int
    file: str
    line: int
    text: str


@dataclass(frozen=True)
class Reject:
    """A row left out, or kept in part: where it stood, why, how many exchanges were too long, and the row itself."""

    source: str
    file: str
    line: int
    reason: str
    in_part: bool
    too_long: int
    row: str


@dataclass(frozen=True)
class Facts:
    """What statistics need to know of a dialogue written as `lines` lines.

    `too_long` exchanges of its row exceeded the limit before anything was left out, and `results_cut` of its results
    were cut (0 on the row's other pieces).
    `lengths` are those of its exchanges, none if they were not measured; `calls` and `languages` hold one a turn.
    """

    lines: int
    too_long: int
    results_cut: int
    lengths: tuple[int, ...]
    tools: tuple[str, ...]
    called: tuple[str, ...]
    calls: tuple[int, ...]
    languages: tuple[str, ...]
    family: str


@dataclass(frozen=True)
class Converted:
    """A row that was kept: for each dialogue that became of it a line of Facts, one of the dialogue, then its lines.

    What is kept of a capture log has a `likeness`, by which near-duplicates are found, and the row that it was.
    """

    number: int
    blob: bytes
    keys: tuple[int, ...]
    family: str
    is_complete: bool
    likeness: Likeness | None = None
    row: Row | None = None


class Converter:
    """Converts rows by a recipe."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.for_other_trainers = WRITERS.get(recipe.format)
        self.ruler = _ruler(recipe.tokenizer, recipe.max_length) if recipe.tokenizer else None

    def convert(self, row: Row) -> tuple[Converted | None, Reject | None]:
        """What is kept of the row, and why all or part of it is not."""
        try:
            dialogue, cut, likeness = self._read(_object(row.text))
            own = f":{dialogue.id}" if dialogue.id else ""
            dialogue = replace(dialogue, id=f"{self.recipe.name}/{row.number + 1}{own}")
            msgspec.json.encode(dialogue)  # refuses text that no file can hold, before a tokenizer stumbles over it
            measured = random.Random(f"{self.recipe.seed}/length/{dialogue.id}").random() < self.recipe.measured_share
            fitted = self._fitted(dialogue, measured)
            blob = b"".join(self._lines(piece, fitted, measured) for piece in fitted.pieces)
        except (ValueError, RecursionError) as error:
            return None, self._reject(row, _reason(error, row.text))
        lost = "; ".join(filter(None, [cut, *self._lost(dialogue, fitted)]))
        reject = self._reject(row, lost, fitted) if lost else None
        if not fitted.pieces:
            return None, reject
        is_testable = dialogue.is_complete and all(piece.is_whole for piece in fitted.pieces)
        return Converted(
            row.number,
            blob,
            mixture.keys(dialogue),
            dialogue.family,
            is_testable,
            likeness,
            row if likeness else None,
        ), reject

    def _read(self, row: dict[str, Any]) -> tuple[Dialogue, str, Likeness | None]:
        """The row's dialogue, why its last turns are not in it, and what it is compared by, both of a capture log."""
        if self.recipe.source != "agentfabric" or not captured_log.is_line(row):
            return reader(self.recipe.source)(row), "", None
        recorded = captured_log.parse(row)
        dialogue, cut = keeping.keep(recorded.dialogue, recorded.turns, recorded.faults)
        return dialogue, cut, keeping.likeness(dialogue)

    def _fitted(self, dialogue: Dialogue, measured: bool) -> Fitted:
        if self.for_other_trainers:
            return Fitted((Piece(dialogue, (), ()),))
        write = self._writer(dialogue)
        if self.ruler and measured:
            return fit(dialogue, write, self.ruler.lengths, self.recipe.max_length, self.recipe.long)
        exchanges = write(dialogue)
        if not self.ruler:
            return Fitted((Piece(dialogue, exchanges, _characters(exchanges)),))
        if self.ruler.all_fit(exchanges):
            return Fitted((Piece(dialogue, exchanges, ()),))
        return fit(dialogue, write, self.ruler.lengths, self.recipe.max_length, self.recipe.long)

    def _writer(self, dialogue: Dialogue) -> Write:
        """How this dialogue is written; what is drawn depends on the seed and its id alone."""
        recipe = self.recipe
        if recipe.plain:
            return lambda one: tuple(messages.exchanges(one, recipe.name))
        draw = random.Random(f"{recipe.seed}/form/{dialogue.id}")
        shape: agentfabric.Shape = "raw" if draw.random() < recipe.raw_share else "chat"
        dialect = protocol.DIALECTS[recipe.format]
        blank_line = dialect.blank_line is not (draw.random() < recipe.other_break)
        write = partial(
            agentfabric.render,
            source=recipe.name,
            dialect=dialect,
            language=recipe.language,
            shape=shape,
            blank_line=blank_line,
        )
        return lambda one: tuple(write(one))

    def _lines(self, piece: Piece, fitted: Fitted, measured: bool) -> bytes:
        """The piece as lines. Raises UnicodeError where a text cannot be written."""
        dialogue = piece.dialogue
        if self.for_other_trainers:
            written = self.for_other_trainers(dialogue)
            _check_reading(dialogue, reader(self.recipe.format)(written), self.recipe.format)
            lines = [msgspec.json.encode(written)]
            lengths: tuple[int, ...] = (len(lines[0].decode()),)
        else:
            lines = [exchange.to_line() for exchange in piece.exchanges]
            lengths = piece.lengths
        written_pending = None if self.for_other_trainers else 1
        facts = Facts(
            lines=len(lines),
            too_long=fitted.too_long if piece is fitted.pieces[0] else 0,
            results_cut=fitted.results_cut if piece is fitted.pieces[0] else 0,
            lengths=lengths if measured else (),
            tools=tuple(tool.name for tool in dialogue.tools),
            called=tuple({call.name: None for call in dialogue.calls}),
            calls=tuple(len(turn.steps) + len(turn.pending[:written_pending]) for turn in dialogue.turns),
            languages=tuple(protocol.language(turn.query) for turn in dialogue.turns),
            family=dialogue.family,
        )
        return b"\n".join([msgspec.json.encode(facts), msgspec.json.encode(dialogue), *lines, b""])

    def _lost(self, dialogue: Dialogue, fitted: Fitted) -> list[str]:
        """What of the dialogue is not written."""
        reasons = []
        if fitted.left_out:
            kept = sum(len(piece.exchanges) for piece in fitted.pieces)
            reasons.append(
                f"too long: {fitted.left_out} of {fitted.left_out + kept} exchanges have more than data.max_length="
                f"{self.recipe.max_length} tokens, the longest {fitted.longest}"
            )
        pending = len(dialogue.turns[-1].pending)
        if pending > 1 and not self.for_other_trainers:
            reasons.append(
                f"calls after one whose result is not known: {pending - 1} of {pending}, which the client would only "
                f"ask for when it has that result"
            )
        return reasons

    def _reject(self, row: Row, reason: str, fitted: Fitted | None = None) -> Reject:
        in_part, too_long = (bool(fitted.pieces), fitted.too_long) if fitted else (False, 0)
        return Reject(self.recipe.name, row.file, row.line, reason, in_part, too_long, row.text)


def likely_source(given: Sequence[Row], recipe: Recipe, sources: Mapping[str, bool]) -> tuple[str, int] | None:
    """The source as whose rows most of those given could be used, and how many; None if that is under half of them.

    `sources` says of each whether it is plain chat. Of several as good it is the one that finds most tools and calls,
    then plain chat, then the first of them.
    """
    found: dict[str, list[int | None]] = {}
    for source, plain in sources.items():
        converter = Converter(replace(recipe, source=source, plain=plain, tokenizer=None))
        found[source] = [_found(converter, row) for row in given]
    used = {source: sum(one is not None for one in counts) for source, counts in found.items()}
    best = max(sources, key=lambda source: (used[source], sum(one or 0 for one in found[source]), sources[source]))
    return (best, used[best]) if 2 * used[best] >= max(len(given), 1) else None


def _found(converter: Converter, row: Row) -> int | None:
    """How many tools and calls are in the row, None if it cannot be used."""
    converted, _ = converter.convert(row)
    if converted is None:
        return None
    facts = msgspec.json.decode(converted.blob.split(b"\n", 1)[0], type=Facts)
    return len(facts.tools) + sum(facts.calls)


def convert(job: tuple[Recipe, Sequence[Row]]) -> tuple[list[Converted], list[Reject]]:
    """What became of the rows, each list in their order."""
    recipe, rows = job
    converter = _converter(recipe)
    outcomes = [converter.convert(row) for row in rows]
    return [kept for kept, _ in outcomes if kept], [reject for _, reject in outcomes if reject]


@lru_cache(maxsize=1)
def _converter(recipe: Recipe) -> Converter:
    return Converter(recipe)


@lru_cache(maxsize=1)
def _ruler(folder: Path, limit: int) -> Ruler:
    return Ruler(folder, limit)


def _object(text: str) -> dict[str, Any]:
    try:
        value = values.DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"no JSON object but {type(value).__name__}")
    return value


def _check_reading(dialogue: Dialogue, read: Dialogue, format: str) -> None:
    """Raises ValueError if the dialogue's row, read back, says something else: its text is the format's own marks."""
    if _said(dialogue) != _said(read):
        raise ValueError(f"{format} cannot hold the dialogue: read back, its row would say something else")


def _said(dialogue: Dialogue) -> list[Any]:
    """The queries, calls, results and answers, but for blanks around texts."""
    return [
        (turn.query.strip(), turn.answer.strip(), [(step.call, step.observation.strip()) for step in turn.steps])
        + tuple(turn.calls)
        for turn in dialogue.turns
    ]


def _reason(error: Exception, text: str) -> str:
    if _RAW.search(text):
        return "bytes that are no UTF-8: if the file is GB18030, write it anew: iconv -f GB18030 -t UTF-8 OLD > NEW"
    if isinstance(error, UnicodeError):
        return "text that is no valid Unicode"
    if isinstance(error, RecursionError):
        return "values nested too deeply"
    return str(error).encode(errors="backslashreplace").decode()


def _characters(exchanges: Sequence[Exchange]) -> tuple[int, ...]:
    return tuple(sum(len(m.content) for m in one.messages) + len(one.reply_text) for one in exchanges)
