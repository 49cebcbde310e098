"""convert.py: sources -> dialogues -> exchanges, with every row that is left out kept and explained.

Rows stream through worker processes onto one shelf a source; when a source is all read, the mixture chooses what is
trained on and what is tested on; at the end the chosen rows are copied from the shelves into the files.
"""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import msgspec
import numpy as np

from fabrictune import card, mixture, model_files, processes, record, rows
from fabrictune import dialogue as dialogues
from fabrictune.config import GENERATED, Config, Data, Language, MixEntry, Source
from fabrictune.dialogue import Dialogue, Exchange, Weights
from fabrictune.formats import captured, ms_agent
from fabrictune.log import bar, logger, progress
from fabrictune.mixture import Part, Sides
from fabrictune.rows import Facts, Recipe, Row
from fabrictune.shelf import Shelf
from fabrictune.sources import files, hubs, self_cognition, synthetic
from fabrictune.summary import SourceSummary, Summary

CHUNK = 128  # rows that a worker gets at once
FEW = 1000  # rows that are converted in this process, sooner than a worker would have started
MEASURED = 2000  # rows of each source, about, whose lengths make its histogram
SAMPLES = 10  # dialogues shown on the card
Run = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]  # as map
FILES = ("train.jsonl", "test.jsonl", "test_dialogues.jsonl")


@dataclass
class Reading:
    """A source of the mix while it is read: where its rows lie, its converted rows, and which Part each is for."""

    name: str
    entry: MixEntry
    recipe: Recipe
    paths: list[Path]
    shelf: Shelf
    parts: np.ndarray


def convert(config: Config) -> None:
    """Writes train.jsonl, test.jsonl, test_dialogues.jsonl, rejects.jsonl, stats.json and card.html into the folder."""
    folder = config.run_folder / "convert"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # or its threads, once begun here, would block every forked worker
    paths = _all_paths(config)
    stage = record.open_stage(
        folder, settings(config, paths), overwrite=config.overwrite, resume=config.resume, continues=False
    )
    if stage.finished:
        logger.info("%s is finished already", folder)
        return
    with ExitStack() as stack:
        tokenizer = _tokenizer(config)
        summary = Summary("tokens" if tokenizer else "characters")
        readings = []
        for name, entry in config.data.mix.items():
            shelf = stack.enter_context(Shelf(folder))
            recipe = _recipe(name, entry, config, tokenizer)
            readings.append(Reading(name, entry, recipe, paths[name], shelf, np.empty(0, np.int8)))
            summary.sources[name] = SourceSummary(_place(entry, config))
        _read_all(readings, config, summary, folder)
        _check_used(readings, summary)
        samples = _write(readings, summary, config.seed, folder)
    stats = summary.plain()
    record.write_json(folder / "stats.json", stats)
    with record.replacing(folder / "card.html") as file:
        file.write(card.render(_card(config, summary, readings, samples)))
    hashes = {file: record.file_hash(folder / file) for file in FILES}
    stage.finish(hashes=hashes, **{key: stats[key] for key in ("train", "test", "rejected")})
    _report(folder, summary)


def settings(config: Config, paths: dict[str, list[Path]]) -> dict[str, Any]:
    """All that the conversion's result depends on, the content of the files read among it."""
    data = config.data
    mix = {
        name: {
            "source": entry.source.value,
            "files": {str(path): record.file_hash(path) for path in paths[name]},
            "count": entry.count,
            "ratio": entry.ratio,
            "tested": entry.is_tested,
            "plain": entry.is_plain,
            "languages": entry.spoken if entry.source in GENERATED else None,
            "names": entry.names,
            "authors": entry.authors,
        }
        for name, entry in data.mix.items()
    }
    return {
        "seed": config.seed,
        "mix": mix,
        "format": data.format.value,
        "language": data.language.value,
        "shapes": vars(data.shapes),
        "other_break": data.other_break,
        "weights": vars(data.weights),
        "test_ratio": data.test_ratio,
        "heldout_families": data.heldout_families,
        "heldout_max": data.heldout_max,
        "max_length": data.max_length,
        "long": data.long.value,
        "model": config.model.plain() if data.count_tokens else None,
    }


def _all_paths(config: Config) -> dict[str, list[Path]]:
    """The files that hold each source's rows, fetched from a hub if need be; none for a generated source.

    Raises ConnectionError naming every source that cannot be fetched, ValueError for what a generator refuses.
    """
    paths: dict[str, list[Path]] = {}
    missing: list[str] = []
    for name, entry in config.data.mix.items():
        try:
            paths[name] = _paths(entry, config.data)
        except ConnectionError as error:
            missing.append(f"data.mix.{name}: {error}")
        if entry.source in GENERATED:
            next(_generated(entry, config, 0), None)
    if missing:
        raise ConnectionError("; ".join(missing))
    return paths


def _paths(entry: MixEntry, data: Data) -> list[Path]:
    if entry.source in GENERATED:
        return []
    if entry.dataset is None:
        return files.listed(Path(str(entry.path)), entry.files)
    hub, id = entry.dataset
    return files.listed(hubs.fetch(hub, id, entry.files, entry.revision, Path(data.folder)), entry.files)


def _place(entry: MixEntry, config: Config) -> str:
    if entry.source in GENERATED:
        return f"generated with seed {config.seed}"
    return entry.path or ":".join(entry.dataset or ())


def _tokenizer(config: Config) -> Path | None:
    """The folder with the tokenizer that counts tokens, None where they are not counted."""
    if not config.data.count_tokens or config.data.format.value in rows.WRITERS:
        return None
    model = config.model.plain()
    folder = model_files.place(**model, patterns=model_files.TEXTS)
    if not folder.exists():
        from fabrictune import models  # takes five seconds and 300 MB, for once unpacking a model

        return models.local_folder(**model)
    return folder


def _recipe(name: str, entry: MixEntry, config: Config, tokenizer: Path | None) -> Recipe:
    data = config.data
    return Recipe(
        name=name,
        source=entry.source.value,
        format=data.format.value,
        plain=entry.is_plain,
        language=None if data.language is Language.auto else data.language.value,
        raw_share=data.shapes.raw / (data.shapes.chat + data.shapes.raw),
        other_break=data.other_break,
        weights=Weights(**vars(data.weights)),
        tokenizer=tokenizer,
        max_length=data.max_length,
        long=data.long.value,
        measured_share=1.0,
        seed=config.seed,
    )


def _read_all(readings: list[Reading], config: Config, summary: Summary, folder: Path) -> None:
    """Fills the shelves and decides each row's Part: first of the sources tested on, then of those beside them."""
    sides = Sides(config.data.heldout_max)
    count = config.data.processes or processes.cpus()
    failure = None
    with record.replacing(folder / "rejects.jsonl") as rejected, processes.workers(count) as pool:
        run: Run = partial(processes.in_order, pool, ahead=2 * count + 1) if count > 1 else map
        for reading in sorted(readings, key=lambda one: not one.entry.is_tested):
            wanted = reading.entry.count
            if reading.entry.ratio is not None:
                trained = sum(int((one.parts == Part.train).sum()) for one in readings if one.entry.is_tested)
                wanted = round(trained * reading.entry.ratio)
            _read(reading, wanted, config, summary, rejected, run)
            if not len(reading.shelf) and wanted != 0:
                failure = _nothing_read(reading, summary, folder)
                break
            _divide(reading, wanted, config, summary, sides)
    if failure:  # not before rejects.jsonl has taken its name
        raise ValueError(failure)


def _read(reading: Reading, wanted: int | None, config: Config, summary: Summary, rejected: TextIO, run: Run) -> None:
    """Converts the rows onto the shelf: all of them, or those drawn until `wanted` are there or none is left."""
    name, shelf = reading.name, reading.shelf
    own = summary.sources[name]
    total = own.rows = _count(reading, config, wanted)
    if reading.paths and not total:
        raise ValueError(f"data.mix.{name}: none of the {len(reading.paths)} files in {own.place} holds a record")
    if reading.entry.source is Source.agentfabric:
        own.covered = sum(1 for path in reading.paths for _ in _records(path, alone=False)) - total
    drawn = total if wanted is None else min(total, wanted)
    recipe = replace(reading.recipe, measured_share=MEASURED / max(drawn, 1))
    order = mixture.sample(total, None, config.seed, f"{name}/count")
    done = 0
    while done < drawn:
        chosen = np.zeros(total, bool)
        chosen[order[done:drawn]] = True
        picked = (row for row in _rows(reading, config, wanted) if chosen[row.number])
        chunks = ((recipe, chunk) for chunk in _chunks(picked))
        results = map(rows.convert, chunks) if drawn - done <= FEW else run(rows.convert, chunks)
        with bar(f"converting {name}", drawn - done) as moving:
            for kept, rejects in results:
                for row in kept:
                    shelf.add(row, config.data.heldout_families)
                for reject in rejects:
                    summary.reject(reject)
                    rejected.write(json.dumps(vars(reject)) + "\n")  # ASCII: it may be no valid UTF-8
                moving.update(len(kept) + sum(not reject.in_part for reject in rejects))
        done = drawn
        if wanted is not None and len(shelf) < wanted:  # as many more as it takes if the same share of them is good
            drawn = min(total, done + math.ceil((wanted - len(shelf)) * done / max(len(shelf), 1)))
    own.not_drawn = total - done


def _count(reading: Reading, config: Config, wanted: int | None) -> int:
    if reading.entry.source in GENERATED:
        return wanted or 0
    return sum(1 for _ in progress(_rows(reading, config, wanted), f"counting {reading.name}"))


def _divide(reading: Reading, wanted: int | None, config: Config, summary: Summary, sides: Sides) -> None:
    """Gives each row on the shelf its Part."""
    shelf, own, data = reading.shelf, summary.sources[reading.name], config.data
    drawing = mixture.priorities(own.rows, config.seed, f"{reading.name}/count")[shelf.numbers]
    kept = np.sort(np.argsort(drawing, kind="stable")[:wanted])
    if wanted is not None and len(kept) < wanted:
        logger.info("%s: only %d of the %d rows wanted are there; all are used", reading.name, len(kept), wanted)
    own.not_drawn += len(shelf) - len(kept)
    chosen = shelf.rows(kept, mixture.priorities(own.rows, config.seed, f"{reading.name}/test"))
    reading.parts = np.full(len(shelf), Part.unused, np.int8)
    if reading.entry.is_tested:
        reading.parts[kept] = mixture.split(chosen, data.test_ratio, sides)
    else:
        reading.parts[kept] = np.where(
            mixture.stands_in(chosen, sides.tested) | chosen.heldout, Part.unused, Part.train
        )
    summary.heldout_not_used += int((chosen.heldout & (reading.parts[kept] == Part.unused)).sum())
    own.used = int((reading.parts != Part.unused).sum())
    own.not_used = len(kept) - own.used
    if reading.entry.is_tested and data.test_ratio and not np.isin(reading.parts, (Part.test, Part.heldout)).any():
        logger.warning(
            "%s: no row is left to test on; of %d rows %d are complete, and near-duplicates go to one side whole",
            *(reading.name, len(kept), chosen.complete.sum()),
        )


def _rows(reading: Reading, config: Config, wanted: int | None) -> Iterator[Row]:
    """The source's rows in their order."""
    entry, number = reading.entry, 0
    if entry.source in GENERATED:
        place = _place(entry, config)
        for number, text in enumerate(_generated(entry, config, wanted or 0)):
            yield Row(number, place, number + 1, text)
        return
    for path in reading.paths:
        records = _records(path, alone=len(reading.paths) == 1)
        if entry.source is Source.agentfabric:
            records = captured.uncovered(records)
        for line, text in records:
            yield Row(number, str(path), line, text)
            number += 1


def _records(path: Path, alone: bool) -> Iterator[tuple[int, str]]:
    """The file's records; of several files one may have none."""
    try:
        yield from files.records(path)
    except files.NoRecords:
        if alone:
            raise


def _generated(entry: MixEntry, config: Config, count: int) -> Iterator[str]:
    made: Iterable[Dialogue]
    if entry.source is Source.self_cognition:
        made = self_cognition.generate(config.seed, count, entry.names, entry.authors, entry.spoken)
        return (msgspec.json.encode(one).decode() for one in made)
    made = synthetic.generate(config.seed, count, entry.spoken, heldout=config.data.heldout_families)
    return (json.dumps(ms_agent.render(one), ensure_ascii=False) for one in made)


def _chunks(picked: Iterator[Row]) -> Iterator[list[Row]]:
    while chunk := list(islice(picked, CHUNK)):
        yield chunk


def _nothing_read(reading: Reading, summary: Summary, folder: Path) -> str:
    kind = next(kind for kind in summary.reasons() if kind.source == reading.name)
    first = summary.first_rejects[reading.name]
    return (
        f"data.mix.{reading.name}: none of the {summary.sources[reading.name].rows} rows in "
        f"{summary.sources[reading.name].place}, read as {reading.entry.source.value}, can be used; most often "
        f"({kind.count} times): {kind.reason}; the first, {first.file}:{first.line}: {first.reason[:300]}; all are in "
        f"{folder / 'rejects.jsonl'}; is data.mix.{reading.name}.source right?"
    )


def _check_used(readings: list[Reading], summary: Summary) -> None:
    """Raises ValueError if nothing is left to train on."""
    if any((reading.parts == Part.train).any() for reading in readings):
        return
    tests = sum(int(np.isin(reading.parts, (Part.test, Part.heldout)).sum()) for reading in readings)
    raise ValueError(
        f"no dialogue is left to train on: {tests} are test dialogues, {summary.heldout_not_used} of held-out families "
        f"are not used; lower data.test_ratio or shorten data.heldout_families"
    )


def _write(readings: list[Reading], summary: Summary, seed: int, folder: Path) -> list[card.Sample]:
    """Copies the chosen rows from the shelves into the files; returns some of the dialogues to show."""
    used = sum(int((reading.parts != Part.unused).sum()) for reading in readings)
    shown = set(random.Random(f"{seed}/card").sample(range(used), min(SAMPLES, used)))
    samples: list[card.Sample] = []
    count = 0
    with ExitStack() as stack:
        train, test, tests = (stack.enter_context(record.replacing(folder / name)).buffer for name in FILES)
        moving = stack.enter_context(bar("writing", used))
        for part, file in (("train", train), ("test", test)):
            for reading in readings:
                wanted = [Part.train] if part == "train" else [Part.test, Part.heldout]
                for place in np.flatnonzero(np.isin(reading.parts, wanted)).tolist():
                    for facts, dialogue, lines in _pieces(reading.shelf.blob(place)):
                        summary.use(reading.name, part, facts)
                        file.writelines(line + b"\n" for line in lines)
                        if part == "test":
                            tests.write(_test_line(dialogue, reading.name, summary.is_seen(facts)))
                        if count in shown:
                            samples.append(_sample(dialogue, reading, lines))
                    count += 1
                    moving.update()
    return samples


def _pieces(blob: bytes) -> Iterator[tuple[Facts, bytes, list[bytes]]]:
    """(facts, dialogue, lines) of each dialogue that became of a row."""
    lines = iter(blob.split(b"\n")[:-1])
    for head in lines:
        facts = msgspec.json.decode(head, type=Facts)
        yield facts, next(lines), list(islice(lines, facts.lines))


def _test_line(dialogue: bytes, source: str, seen: bool) -> bytes:
    row = {"dialogue": msgspec.Raw(dialogue), "source": source, "seen": seen}
    return msgspec.json.encode(row) + b"\n"


def _sample(dialogue: bytes, reading: Reading, lines: list[bytes]) -> card.Sample:
    foreign = reading.recipe.format in rows.WRITERS
    exchanges = () if foreign else tuple(map(Exchange.from_line, lines))
    return card.Sample(dialogues.from_json(json.loads(dialogue)), reading.name, exchanges)


def _card(config: Config, summary: Summary, readings: list[Reading], samples: list[card.Sample]) -> card.Card:
    sources = []
    for reading in readings:
        own = summary.sources[reading.name]
        sources.append(
            card.SourceCard(
                name=reading.name,
                kind=reading.entry.source.value,
                place=own.place,
                role="train and test" if reading.entry.is_tested else "train",
                rows_read=own.rows,
                dialogues=own.dialogues.total(),
                exchanges=own.exchanges.total(),
                rejected=own.rejected,
                not_drawn=own.not_drawn,
                not_used=own.not_used,
                long=own.too_long if summary.counts_tokens else None,
                train=own.dialogues["train"],
                test=own.dialogues["test"],
                lengths=own.lengths.histogram(summary.unit, config.data.max_length if summary.counts_tokens else 0),
            )
        )
    totals = {
        "train dialogues": summary.dialogues["train"],
        "train exchanges": summary.exchanges["train"],
        "test dialogues": summary.dialogues["test"],
        "test exchanges": summary.exchanges["test"],
        "rows left out": summary.rejected,
        "rows kept in part": summary.in_part,
    }
    return card.Card(
        title=f"{config.name}/{config.variant}",
        written=time.strftime("%Y-%m-%d %H:%M"),
        format=config.data.format.value,
        max_length=config.data.max_length,
        long=config.data.long.value,
        sources=tuple(sources),
        languages=dict(summary.languages),
        tools_per_dialogue=dict(sorted(summary.tools_per_dialogue.items())),
        calls_per_turn=dict(sorted(summary.calls_per_turn.items())),
        rejects=tuple(summary.reasons()),
        samples=tuple(samples),
        totals=totals,
    )


def _report(folder: Path, summary: Summary) -> None:
    for part in ("train", "test"):
        logger.info("%s: %d dialogues, %d exchanges", part, summary.dialogues[part], summary.exchanges[part])
    logger.info("test dialogues with seen tools %d, unseen %d", summary.tested[True], summary.tested[False])
    for name, own in summary.sources.items():
        if own.too_long:
            logger.info("%s: %d exchanges were longer than data.max_length", name, own.too_long)
        if own.results_cut:
            logger.info("%s: %d results were cut to make exchanges fit", name, own.results_cut)
        if own.covered:
            logger.info("%s: %d requests are repeated by later ones of their conversations", name, own.covered)
    if not summary.counts_tokens:
        logger.info("tokens were not counted; train.py will leave out exchanges beyond its max_length and say how many")
    logger.info("left out: %d rows%s", summary.rejected, " (see rejects.jsonl)" if summary.rejected else "")
    if summary.in_part:
        logger.info("kept in part: %d rows (see rejects.jsonl)", summary.in_part)
    for kind in summary.reasons()[:10]:
        logger.info("  %d x %s: %s", kind.count, kind.source, kind.reason)
    if len(summary.reasons()) > 10:
        logger.info("  and %d more kinds of reasons (see stats.json)", len(summary.reasons()) - 10)
    logger.info("wrote %s; card.html shows what is in it", folder)
