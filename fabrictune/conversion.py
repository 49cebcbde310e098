"""convert.py: sources -> dialogues -> exchanges, with every row that is left out kept and explained."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fabrictune import dialogue as dialogues
from fabrictune import mixture, protocol, record
from fabrictune.config import Config, Data, Format, MixEntry, Source
from fabrictune.dialogue import Dialogue, Exchange, Weights
from fabrictune.formats import agentfabric, ms_agent
from fabrictune.log import logger, progress
from fabrictune.sources import files, synthetic

WRITERS = {Format.agentfabric: agentfabric.render}
READERS = {Source.ms_agent: ms_agent.parse, Source.synthetic: ms_agent.parse}


@dataclass(frozen=True)
class Reject:
    """A row left out: where it stood, why, and the row itself."""

    source: str
    file: str
    line: int
    reason: str
    row: str


@dataclass(frozen=True)
class Converted:
    """A dialogue with the exchanges it makes."""

    dialogue: Dialogue
    source: str
    exchanges: tuple[Exchange, ...]


def convert(config: Config) -> None:
    """Writes train.jsonl, test.jsonl, test_dialogues.jsonl, rejects.jsonl and stats.json into the convert folder."""
    folder = config.run_folder / "convert"
    stage = record.open_stage(
        folder, settings(config), overwrite=config.overwrite, resume=config.resume, continues=False
    )
    if stage.finished:
        logger.info("%s is finished already", folder)
        return
    rejects: list[Reject] = []
    train: list[Converted] = []
    test: list[Converted] = []
    unused = 0
    for name, entry in config.data.mix.items():
        read = _read(name, entry, config.data, config.seed, rejects)
        if not read:
            _write_rejects(folder, rejects)
            raise ValueError(_nothing_read(name, entry, rejects, folder))
        by_id = {converted.dialogue.id: converted for converted in read}
        parts = mixture.split(
            [converted.dialogue for converted in read],
            config.data.test_ratio,
            config.data.heldout_families,
            config.data.heldout_max,
            config.seed,
            name,
        )
        train += [by_id[one.id] for one in parts.train]
        test += [by_id[one.id] for one in parts.test + parts.heldout]
        unused += parts.unused
    if not train:
        raise ValueError(
            f"no dialogue is left to train on: all {len(test)} are test dialogues; lower data.test_ratio or shorten "
            f"data.heldout_families"
        )
    trained = {tool.name for converted in train for tool in converted.dialogue.tools}
    record.write_lines(folder / "train.jsonl", _exchange_lines(train))
    record.write_lines(folder / "test.jsonl", _exchange_lines(test))
    record.write_lines(folder / "test_dialogues.jsonl", (_test_line(one, trained) for one in test))
    _write_rejects(folder, rejects)
    summary = _statistics(train, test, trained, rejects, unused)
    record.write_json(folder / "stats.json", summary)
    hashes = {file: record.file_hash(folder / file) for file in ("train.jsonl", "test.jsonl", "test_dialogues.jsonl")}
    stage.finish(hashes=hashes, **{key: summary[key] for key in ("train", "test", "rejected")})
    _report(folder, summary)


def settings(config: Config) -> dict[str, Any]:
    """All that the conversion's result depends on, the content of the files read among it."""
    mix = {
        name: {
            "source": entry.source.value,
            "count": entry.count,
            "languages": entry.languages if entry.source is Source.synthetic else None,
            "file": str(entry.path) if entry.path else None,
            "sha256": record.file_hash(files.existing(Path(entry.path))) if entry.path else None,
        }
        for name, entry in config.data.mix.items()
    }
    data = config.data
    return {
        "seed": config.seed,
        "mix": mix,
        "format": data.format.value,
        "weights": vars(data.weights),
        "test_ratio": data.test_ratio,
        "heldout_families": data.heldout_families,
        "heldout_max": data.heldout_max,
    }


def _read(name: str, entry: MixEntry, data: Data, seed: int, rejects: list[Reject]) -> list[Converted]:
    """The source's dialogues that can be trained on; the others join `rejects`."""
    write = WRITERS[data.format]
    weights = Weights(**vars(data.weights))
    place = entry.path or f"generated with seed {seed}"
    rows = _rows(entry, data, seed)
    converted: list[Converted] = []
    taken: set[str] = set()
    for line, text in progress(rows, f"reading {name}", entry.count if entry.source is Source.synthetic else None):
        try:
            dialogue = READERS[entry.source](_object(text))
            own = f"{name}/{dialogue.id or line}"
            dialogue = replace(dialogue, id=own if own not in taken else f"{own}@{line}")
            exchanges = tuple(write(dialogue, name, weights))
            json.dumps(dialogues.to_json(dialogue), ensure_ascii=False).encode()  # all of it can be written
        except (ValueError, RecursionError) as error:
            rejects.append(Reject(name, place, line, _reason(error), text))
            continue
        taken.add(dialogue.id)
        converted.append(Converted(dialogue, name, exchanges))
    count = None if entry.source is Source.synthetic else entry.count
    return mixture.sample(converted, count, seed, f"{name}/count")


def _rows(entry: MixEntry, data: Data, seed: int) -> Iterator[tuple[int, str]]:
    if entry.source is not Source.synthetic:
        return files.records(Path(str(entry.path)))
    generated = synthetic.generate(seed, entry.count or 0, entry.languages, heldout=data.heldout_families)
    return ((number, json.dumps(ms_agent.render(one), ensure_ascii=False)) for number, one in enumerate(generated, 1))


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"no JSON object but {type(value).__name__}")
    return value


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeError):
        return "text that is no valid Unicode"
    if isinstance(error, RecursionError):
        return "values nested too deeply"
    return str(error).encode(errors="backslashreplace").decode()


def _kind(reason: str) -> str:
    """The reason without the names and texts of its own row, so that like ones count together."""
    general = re.sub(r"^dialogue '[^']*'(, turn \d+)?: ", "", reason)
    return re.sub(r"'[^']*'", "'...'", general.partition(": ")[0])


def _exchange_lines(converted: list[Converted]) -> Iterator[str]:
    return (exchange.to_line() for one in converted for exchange in one.exchanges)


def _test_line(converted: Converted, trained: set[str]) -> str:
    row = {
        "dialogue": dialogues.to_json(converted.dialogue),
        "source": converted.source,
        "seen": mixture.is_seen(converted.dialogue, trained),
    }
    return json.dumps(row, ensure_ascii=False)


def _write_rejects(folder: Path, rejects: list[Reject]) -> None:
    # ASCII only: a row may be left out because it cannot be written as UTF-8.
    record.write_lines(folder / "rejects.jsonl", (json.dumps(vars(reject)) for reject in rejects))


def _nothing_read(name: str, entry: MixEntry, rejects: list[Reject], folder: Path) -> str:
    reason, count = Counter(_kind(reject.reason) for reject in rejects if reject.source == name).most_common(1)[0]
    return (
        f"data.mix.{name}: none of the rows in {entry.path} can be read as {entry.source.value}; most often ({count} "
        f"times): {reason}; all are in {folder / 'rejects.jsonl'}"
    )


def _statistics(
    train: list[Converted], test: list[Converted], trained: set[str], rejects: list[Reject], unused: int
) -> dict[str, Any]:
    """Counts of the conversion, as stats.json holds them."""
    both = train + test
    turns = [turn for one in both for turn in one.dialogue.turns]
    reasons = Counter(f"{reject.source}: {_kind(reject.reason)}" for reject in rejects)
    return {
        "train": _counts(train),
        "test": _counts(test),
        "test_seen": sum(mixture.is_seen(one.dialogue, trained) for one in test),
        "test_unseen": sum(not mixture.is_seen(one.dialogue, trained) for one in test),
        "rejected": len(rejects),
        "rejected_by_reason": dict(reasons.most_common()),
        "heldout_not_used": unused,
        "by_source": dict(Counter(one.source for one in both)),
        "by_family": dict(Counter(one.dialogue.family for one in both)),
        "languages": dict(Counter(protocol.language(turn.query) for turn in turns)),
        "calls_per_turn": {str(k): n for k, n in sorted(Counter(len(turn.steps) for turn in turns).items())},
        "tools_per_dialogue": {str(k): n for k, n in sorted(Counter(len(one.dialogue.tools) for one in both).items())},
        "tools": {"train": len(trained), "test": len({t.name for one in test for t in one.dialogue.tools})},
    }


def _counts(converted: list[Converted]) -> dict[str, int]:
    return {"dialogues": len(converted), "exchanges": sum(len(one.exchanges) for one in converted)}


def _report(folder: Path, summary: dict[str, Any]) -> None:
    for part in ("train", "test"):
        logger.info("%s: %d dialogues, %d exchanges", part, summary[part]["dialogues"], summary[part]["exchanges"])
    logger.info("test dialogues with seen tools %d, unseen %d", summary["test_seen"], summary["test_unseen"])
    logger.info("left out: %d rows%s", summary["rejected"], " (see rejects.jsonl)" if summary["rejected"] else "")
    for reason, count in list(summary["rejected_by_reason"].items())[:10]:
        logger.info("  %d x %s", count, reason)
    logger.info("wrote %s", folder)
