"""convert.py: sources -> dialogues -> exchanges, with every row that is left out kept and explained.

Rows stream through worker processes onto one shelf a source; when a source is all read, the mixture chooses what is
trained on and what is tested on; at the end the chosen rows are copied from the shelves into the files.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from fabrictune import dialogue as dialogues
from fabrictune import processes, record
from fabrictune.config import GENERAL, GENERATED, Config, Data, Language, MixEntry, Source
from fabrictune.convert import card, rows
from fabrictune.convert.mixture import Part, Sides
from fabrictune.convert.reading import Reading, Run, count_rows, divide, file_records, file_rows, fill
from fabrictune.convert.rows import Facts, Recipe, Row
from fabrictune.convert.shelf import Shelf
from fabrictune.convert.summary import SourceSummary, Summary
from fabrictune.dialogue import Dialogue, Exchange
from fabrictune.formats import ms_agent
from fabrictune.log import bar, logger
from fabrictune.model import model_files
from fabrictune.sources import files, hubs, self_cognition, synthetic

LOOKED_AT = 20  # rows that tell which source they are meant for
FEW_TESTS = 10  # dialogues, of which one more or less is ten points of a score
LARGE_TEST_RATIO = 0.2  # that a few rows need
SAMPLES = 10  # dialogues shown on the card
FILES = ("train.jsonl", "test.jsonl", "test_dialogues.jsonl")
# The sources that a file's rows may be of, and whether they are plain chat.
FROM_FILES = {source.value: source in GENERAL for source in Source if source not in GENERATED}
GENERAL_FILE = "test_general.jsonl"  # only where rows are held back


def convert(config: Config) -> None:
    """Writes train.jsonl, test.jsonl, test_dialogues.jsonl, rejects.jsonl, stats.json and card.html into the folder.

    Where rows of general chat are held back, they are in test_general.jsonl.
    """
    folder = config.run_folder / "convert"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # or its threads, once begun here, would block every forked worker
    paths = _all_paths(config)
    sizes = {path: path.stat().st_size for own in paths.values() for path in own}
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
            readings.append(
                Reading(
                    name=name,
                    recipe=_recipe(name, entry, config, tokenizer),
                    rows=_rows(entry, config, paths[name]),
                    is_generated=entry.source in GENERATED,
                    is_tested=entry.is_tested,
                    held_back=_held_back(entry, config.data),
                    shelf=shelf,
                )
            )
            summary.sources[name] = SourceSummary(_place(entry, config))
        _read_all(readings, config, paths, summary, folder)
        _check_unchanged(sizes)
        _check_used(readings, summary)
        samples = _write(readings, summary, config.seed, folder)
        _write_general(readings, folder)
    stats = summary.plain()
    record.write_json(folder / "stats.json", stats)
    with record.replacing(folder / "card.html") as file:
        file.write(card.render(_card(config, summary, readings, samples)))
    hashes = {file: record.file_hash(folder / file) for file in (*FILES, GENERAL_FILE) if (folder / file).exists()}
    stage.finish(hashes=hashes, **{key: stats[key] for key in ("train", "test", "held_back", "rejected")})
    _report(folder, summary, config.data.test_ratio)
    for line in record.closing(config.run_folder):
        logger.info(line)


def settings(config: Config, paths: dict[str, list[Path]]) -> dict[str, Any]:
    """All that the conversion's result depends on, the content of the files read among it."""
    data = config.data
    mix = {
        name: {
            **entry.values(),
            "files": {str(path): record.file_hash(path) for path in paths[name]},
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
        "test_ratio": data.test_ratio,
        "general_test": data.general_test,
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


def _held_back(entry: MixEntry, data: Data) -> int:
    """How many rows of the source, at most, test general chat; those that we generate are all alike."""
    return data.general_test if entry.is_general and entry.source not in GENERATED else 0


def _tokenizer(config: Config) -> Path | None:
    """The folder with the tokenizer that counts tokens, None where they are not counted.

    Raises as `model_files.place` does, with what does without.
    """
    if not config.data.count_tokens or config.data.format.value in rows.WRITERS:
        return None
    model = config.model.plain()
    try:
        folder = model_files.place(**model, patterns=model_files.TEXTS)
    except ConnectionError as error:
        raise ConnectionError(f"{error}; or count characters with data.count_tokens=false") from error
    if not folder.exists():
        from fabrictune.model import models  # takes five seconds and 300 MB, for once unpacking a model

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
        tokenizer=tokenizer,
        max_length=data.max_length,
        long=data.long.value,
        measured_share=1.0,
        seed=config.seed,
    )


def _rows(entry: MixEntry, config: Config, paths: list[Path]) -> Callable[[int], Iterator[Row]]:
    """How the source's rows are read from the start, a generator's as many as its argument says."""
    if entry.source not in GENERATED:
        return lambda _: file_rows(paths, entry.source is Source.agentfabric)
    place = _place(entry, config)
    return lambda count: (
        Row(number, place, number + 1, text) for number, text in enumerate(_generated(entry, config, count))
    )


def _generated(entry: MixEntry, config: Config, count: int) -> Iterator[str]:
    made: Iterable[Dialogue]
    if entry.source is Source.self_cognition:
        made = self_cognition.generate(config.seed, count, entry.names, entry.authors, entry.spoken)
        return (msgspec.json.encode(one).decode() for one in made)
    made = synthetic.generate(config.seed, count, entry.spoken, heldout=config.data.heldout_families)
    return (json.dumps(ms_agent.render(one), ensure_ascii=False) for one in made)


def _read_all(
    readings: list[Reading], config: Config, paths: dict[str, list[Path]], summary: Summary, folder: Path
) -> None:
    """Fills the shelves and decides each row's Part: first of the sources tested on, then of those beside them."""
    data, sides = config.data, Sides(config.data.heldout_max)
    cpus = data.processes or processes.cpus()
    failure = None
    with record.replacing(folder / "rejects.jsonl") as rejected, processes.workers(cpus) as pool:
        run: Run = partial(processes.in_order, pool, ahead=2 * cpus + 1) if cpus > 1 else map
        for one in sorted(readings, key=lambda one: not one.is_tested):
            entry, own = data.mix[one.name], summary.sources[one.name]
            wanted = entry.count
            if entry.ratio is not None:
                wanted = round(entry.ratio * sum(len(each.places(Part.train)) for each in readings if each.is_tested))
            own.rows = count_rows(one, wanted)
            if paths[one.name] and not own.rows:
                raise ValueError(f"data.mix.{one.name}: none of the files in {own.place} holds a record")
            if entry.source is Source.agentfabric:
                own.covered = sum(1 for path in paths[one.name] for _ in file_records(path, True)) - own.rows
            fill(one, wanted, config.seed, data.heldout_families, summary, rejected, run)
            if not len(one.shelf) and (wanted != 0 or one.held_back):
                failure = _nothing_read(one, summary, folder)
                break
            divide(one, wanted, config.seed, data.test_ratio, sides, summary)
    if failure:  # not before rejects.jsonl has taken its name
        raise ValueError(failure)


def _check_unchanged(sizes: dict[Path, int]) -> None:
    """Raises ValueError at a file that is no longer as large as it was: it is read more than once."""
    for path, size in sizes.items():
        if (now := path.stat().st_size) != size:
            raise ValueError(
                f"{path} had {size:,} bytes and has {now:,} now that it is read: end what writes to it (a capture "
                "proxy by Ctrl-C), or convert a copy of it, and convert again with overwrite=true"
            )


def _nothing_read(reading: Reading, summary: Summary, folder: Path) -> str:
    kind = next(kind for kind in summary.reasons() if kind.source == reading.name)
    first, own = summary.first_rejects[reading.name], summary.sources[reading.name]
    looked_at = list(islice(reading.rows(0), LOOKED_AT))
    if likely := rows.likely_source(looked_at, reading.recipe, FROM_FILES):
        source, count = likely
        way_out = f"{count} of the first {len(looked_at)} can be read with data.mix.{reading.name}.source={source}"
    else:
        way_out = f"is data.mix.{reading.name}.source right? docs/data.md shows a row of each"
    return (
        f"data.mix.{reading.name}: none of the {own.rows} rows in {own.place}, read as {reading.recipe.source}, can be "
        f"used; most often ({kind.count} times): {kind.reason}; the first, {first.file}:{first.line}: "
        f"{first.reason[:300]}; all are in {folder / 'rejects.jsonl'}; {way_out}"
    )


def _check_used(readings: list[Reading], summary: Summary) -> None:
    """Raises ValueError if nothing is left to train on."""
    if any(one.places(Part.train) for one in readings):
        return
    tests = sum(len(one.places(Part.test, Part.heldout)) for one in readings)
    raise ValueError(
        f"no dialogue is left to train on: {tests} are test dialogues, {summary.heldout_not_used} of held-out families "
        f"are not used; lower data.test_ratio or shorten data.heldout_families"
    )


def _write(readings: list[Reading], summary: Summary, seed: int, folder: Path) -> list[card.Sample]:
    """Copies the chosen rows from the shelves into the files; returns some of the dialogues to show."""
    used = sum(reading.used for reading in readings)
    shown = set(random.Random(f"{seed}/card").sample(range(used), min(SAMPLES, used)))
    samples: list[card.Sample] = []
    count = 0
    with ExitStack() as stack:
        train, test, tests = (stack.enter_context(record.replacing(folder / name)).buffer for name in FILES)
        moving = stack.enter_context(bar("writing", used))
        for part, file, wanted in (("train", train, (Part.train,)), ("test", test, (Part.test, Part.heldout))):
            for reading in readings:
                for place in reading.places(*wanted):
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


def _write_general(readings: list[Reading], folder: Path) -> None:
    """Writes the dialogues that are held back, if there are any."""
    if not any(reading.places(Part.general) for reading in readings):
        return
    with record.replacing(folder / GENERAL_FILE) as file:
        for reading in readings:
            for place in reading.places(Part.general):
                for _, dialogue, _ in _pieces(reading.shelf.blob(place)):
                    file.buffer.write(_test_line(dialogue, reading.name, seen=True))


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
    is_for_other_trainers = reading.recipe.format in rows.WRITERS
    exchanges = () if is_for_other_trainers else tuple(map(Exchange.from_line, lines))
    return card.Sample(dialogues.from_json(json.loads(dialogue)), reading.name, exchanges)


def _card(config: Config, summary: Summary, readings: list[Reading], samples: list[card.Sample]) -> card.Card:
    sources = []
    for reading in readings:
        own = summary.sources[reading.name]
        sources.append(
            card.SourceCard(
                name=reading.name,
                kind=reading.recipe.source,
                place=own.place,
                role="train and test" if reading.is_tested else "train",
                rows_read=own.rows,
                dialogues=own.dialogues.total(),
                exchanges=own.exchanges.total(),
                rejected=own.rejected,
                not_drawn=own.not_drawn,
                not_used=own.not_used,
                held_back=own.held_back,
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
        **({"rows held back": summary.held_back} if summary.held_back else {}),
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


def _report(folder: Path, summary: Summary, test_ratio: float) -> None:
    for part in ("train", "test"):
        logger.info("%s: %d dialogues, %d exchanges", part, summary.dialogues[part], summary.exchanges[part])
    logger.info("test dialogues with seen tools %d, unseen %d", summary.tested[True], summary.tested[False])
    if summary.held_back:
        logger.info("general chat held back for tests: %d rows", summary.held_back)
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
        place = f"{Path(kind.example_file).name}:{kind.example_line}"
        logger.info("  %d x %s: %s (first: %s)", kind.count, kind.source, kind.reason, place)
    if len(summary.reasons()) > 10:
        logger.info("  and %d more kinds of reasons (see stats.json)", len(summary.reasons()) - 10)
    if advice := _advice(summary, test_ratio):
        logger.warning(advice)
    logger.info("wrote %s; card.html shows what is in it", folder)


def _advice(summary: Summary, test_ratio: float) -> str:
    """What to do where there is too little to test on, "" elsewhere."""
    tests = summary.dialogues["test"]
    if not tests:
        return (
            "there is nothing to test on, and train.py will refuse that: general chat, and rows whose last call has no "
            "result (xLAM), are only trained on; if there are other rows raise data.test_ratio, else add a source such "
            "as '+data.mix.more={source: synthetic, count: 500}', and convert again with overwrite=true"
        )
    if tests < FEW_TESTS and test_ratio < LARGE_TEST_RATIO:
        return (
            f"scores of {tests} test dialogues say little; data.test_ratio={LARGE_TEST_RATIO} overwrite=true converts "
            "again and keeps more for tests"
        )
    return ""
