"""evaluate.py: asks models what a suite asks, and writes what they said, how often they were right, a report."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fabrictune import protocol, record
from fabrictune.command_line import MAIN
from fabrictune.config import ENDPOINT, Config, Suite, command, is_point
from fabrictune.evaluate import candidates, comparing, endpoints, playing, report, scoreboard, scores
from fabrictune.evaluate.candidates import Candidate
from fabrictune.evaluate.suites import agentfabric, bfcl, general, toolbench
from fabrictune.evaluate.tasks import Task
from fabrictune.log import logger
from fabrictune.merge import model_card
from fabrictune.score import testset
from fabrictune.score.testset import TestDialogue
from fabrictune.serve import server
from fabrictune.train import curves


def evaluate(config: Config) -> None:
    """Writes predictions.jsonl, scores.json and report.html of the run's suite, and prints the scores.

    Raises FileNotFoundError, FileExistsError or ValueError for what does not fit, ConnectionError or RuntimeError if
    an endpoint fails; what was played is kept then.
    """
    if config.compare:
        comparing.compare(config)
        return
    if config.collect:
        comparing.collect(config, config.collect)
        return
    run, suite = config.run_folder, config.eval.suite.value
    data = _Data(config)
    tasks = data.tasks()
    labels = [ENDPOINT] if config.eval.url else list(dict.fromkeys(config.eval.models))
    models = {label: candidates.find(config, label) for label in labels}
    settings = _settings(config, data, {label: model.known for label, model in models.items()})
    stage = record.open_stage(candidates.folder_of(config), settings, overwrite=config.overwrite, resume=config.resume)
    if not stage.finished:
        rows = _play_models(config, stage.folder, models, tasks)
        scored = scores.aggregate(suite, rows, config.seed)
        record.write_json(stage.folder / "scores.json", scored)
        titles = {f"model {label}": model.title for label, model in models.items()}
        _write_report(stage.folder, scored, rows, run, titles, config.seed)
        if model_card.TUNED in labels and (facts := model_card.scored(run)):
            model_card.write(run / "merge" / "model", facts)
        stage.finish(rows=len(rows), predictions=record.file_hash(stage.folder / "predictions.jsonl"))
    scoreboard.show(json.loads((stage.folder / "scores.json").read_text(encoding="utf-8")))
    logger.info(
        "every reply is in %s, to look at in %s", stage.folder / "predictions.jsonl", stage.folder / "report.html"
    )
    if len(labels) > 1:
        sides = f"{config.name}/{config.variant}:{labels[0]},{config.name}/{config.variant}:{labels[-1]}"
        words = record.masked(command("evaluate.py", config))
        logger.info("is the difference real? %s 'compare=[%s]'", words, sides)
    for line in record.closing(run):
        logger.info(line)
    if is_point():
        comparing.collect(config, "*")


# The questions of the suites that ask about each test dialogue by itself.
_ASKS = {Suite.agentfabric: agentfabric.tasks, Suite.smoke: agentfabric.tasks, Suite.toolbench: toolbench.tasks}


class _Data:
    """What the suite asks about, and where it comes from."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.suite, self.file = config.eval.suite, Path(config.eval.file) if config.eval.file else None
        converted = config.convert_folder
        # Without data of its own a variant is asked about those that all variants share.
        maker = config if (config.run_folder / "convert").exists() else replace(config, variant=MAIN)
        self.made_by = command("convert.py", maker, without="eval")
        if self.suite is Suite.bfcl or self.file:
            self.converted = converted if record.is_finished(converted) else None
        else:
            self.converted = record.require_finished(converted, self.made_by)
        format = record.settings_of(self.converted)["format"] if self.converted else config.data.format.value
        self.dialect = protocol.dialect_of(format, "evaluate.py")

    @property
    def paths(self) -> list[Path]:
        """The files that the questions depend on."""
        if self.file:
            return [record.require(self.file, "give eval.file=FILE as convert.py writes test_dialogues.jsonl")]
        if self.suite is Suite.bfcl or self.converted is None:
            return []
        tests = record.require(self.converted / "test_dialogues.jsonl", f"make it with: {self.made_by} overwrite=true")
        chat = self.converted / "test_general.jsonl"
        return [tests, chat] if self.suite is Suite.general and chat.exists() else [tests]

    def tasks(self) -> list[Task]:
        """The suite's questions. Raises ValueError where there are none."""
        limit, seed = self.config.eval.dialogues, self.config.seed
        if self.suite is Suite.bfcl and not self.file:
            return bfcl.tasks(self.config.eval.categories, limit, self.dialect)
        if self.suite is Suite.general:
            return self._general(limit, seed)
        if self.suite is Suite.bfcl:
            return _bounded(bfcl.of_dialogues(self._read(self.paths[0]), self.dialect), limit)
        tests = self._read(self.paths[0], limit)
        return _ASKS[self.suite](tests, self.dialect)

    def _read(self, path: Path, limit: int | None = None) -> list[TestDialogue]:
        """The dialogues; of a file of one's own nobody knows whether this run's training saw their tools."""
        tests = testset.read(path, limit)
        return [replace(test, seen=None) for test in tests] if self.file else tests

    def _general(self, limit: int | None, seed: int) -> list[Task]:
        tests, *chats = [self._read(path) for path in self.paths]
        if self.file:
            return general.of_dialogues(testset.spaced(tests, limit), self.dialect)
        if not chats:
            logger.info("no general chat was held back by %s, so there is no perplexity of it", self.made_by)
        return general.tasks([test for chat in chats for test in chat], tests, self.dialect, seed, limit)


def _bounded(tasks: Sequence[Task], limit: int | None) -> list[Task]:
    """The tasks, or `limit` of each category."""
    by_category: dict[str, list[Task]] = {}
    for task in tasks:
        by_category.setdefault(task.labels["category"], []).append(task)
    kept = [task for found in by_category.values() for task in testset.spaced(found, limit)]
    if len(kept) < len(tasks):
        logger.info(
            "%d of %d turns are asked, %d of each category; eval.dialogues=null asks all", len(kept), len(tasks), limit
        )
    return kept


def _settings(config: Config, data: _Data, models: dict[str, Any]) -> dict[str, Any]:
    """All that the scores depend on; an endpoint's credentials are left out."""
    settings = config.eval
    known: dict[str, Any] = {
        "suite": settings.suite.value,
        "dialogues": settings.dialogues,
        "max_new_tokens": settings.max_new_tokens,
        "max_length": config.serve.max_length,
        "seed": config.seed,
        "format": data.dialect.name,
        "data": {path.name: record.file_hash(path) for path in data.paths},
        "models": models,
    }
    if settings.suite is Suite.bfcl:
        known |= {"categories": settings.categories, **record.versions(["bfcl-eval"])}
    return known


def _play_models(
    config: Config, folder: Path, models: dict[str, Candidate], tasks: Sequence[Task]
) -> list[dict[str, Any]]:
    """The rows of all tasks by all models: those already in the file, and the rest, which is played now."""
    predictions = folder / "predictions.jsonl"
    done = {(row["model"], row["key"]) for row in playing.read(predictions)}
    for label, model in models.items():
        left = [task for task in tasks if (label, task.key) not in done]
        if not left:
            continue
        try:
            with candidates.answering(config, label, model, folder) as (url, name):
                asyncio.run(_ask_all(config, label, url, name, model, left, len(tasks), predictions))
        except (ConnectionError, RuntimeError) as error:
            raise type(error)(f"{error}\nWhat was played is kept in {predictions}; go on with resume=true") from error
    return playing.read(predictions)


async def _ask_all(
    config: Config,
    label: str,
    url: str,
    name: str,
    model: Candidate,
    tasks: Sequence[Task],
    total: int,
    predictions: Path,
) -> None:
    settings, is_ours = config.eval, model.folder is not None
    async with endpoints.connect(
        url,
        model=name,
        api_key=model.key,
        timeout=None if is_ours else settings.timeout,  # on a slow machine the last of many waits long for its turn
        retries=min(settings.retries, server.RETRIES) if is_ours else settings.retries,
        max_new_tokens=settings.max_new_tokens,
        temperature=0,
    ) as asked:
        done, what = total - len(tasks), scoreboard.ROWS.get(settings.suite.value, "questions")
        await playing.play(
            tasks, asked, label, predictions, concurrency=settings.concurrency, done=done, total=total, what=what
        )


def _write_report(
    folder: Path, scored: dict[str, Any], rows: Sequence[dict[str, Any]], run: Path, titles: dict[str, str], seed: int
) -> None:
    """report.html, of the scores and rows and the curves of the run's training."""
    made = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    about = {
        "run": "/".join(run.parts[-2:]),
        "commit": str(made["commit"]),
        "command": shlex.join(made["command"]),
        "begun": made["started"],
        **titles,
    }
    page = report.page(scored, rows, curves.read(run / "train" / "metrics.jsonl"), about, seed)
    with record.replacing(folder / "report.html") as file:
        file.write(page)
