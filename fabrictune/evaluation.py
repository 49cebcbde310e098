"""`evaluate.py`: asks models what a suite asks, and writes what they said, how often they were right, and a report."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from fabrictune import (
    comparing,
    curves,
    endpoints,
    playing,
    protocol,
    record,
    report,
    scoreboard,
    scores,
    server,
    testset,
)
from fabrictune.config import Config, Endpoint, Suite, command, is_point
from fabrictune.log import logger
from fabrictune.suites import agentfabric, bfcl, general, toolbench
from fabrictune.tasks import Task

ENDPOINT = "endpoint"  # the label of the model behind eval.url


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
    models = {label: _model(config, label) for label in labels}
    settings = _settings(config, data, {label: model.known for label, model in models.items()})
    stage = record.open_stage(run / "evaluate" / suite, settings, overwrite=config.overwrite, resume=config.resume)
    if not stage.finished:
        rows = _play_models(config, stage.folder, models, tasks)
        record.write_json(stage.folder / "scores.json", scores.aggregate(suite, rows, config.seed))
        _write_report(stage.folder, rows, run)
        stage.finish(rows=len(rows), predictions=record.file_hash(stage.folder / "predictions.jsonl"))
    scoreboard.show(json.loads((stage.folder / "scores.json").read_text(encoding="utf-8")))
    logger.info(
        "every reply is in %s, to look at in %s", stage.folder / "predictions.jsonl", stage.folder / "report.html"
    )
    if len(labels) > 1:
        sides = f"{config.name}/{config.variant}:{labels[0]},{config.name}/{config.variant}:{labels[-1]}"
        logger.info("is the difference real? %s 'compare=[%s]'", command("evaluate.py", config), sides)
    if is_point():
        comparing.collect(config, "*")


class _Data:
    """What the suite asks about, and where it comes from."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.made_by = f"python convert.py name={config.name} variant={config.variant}"
        self.suite, self.file = config.eval.suite, Path(config.eval.file) if config.eval.file else None
        converted = config.convert_folder
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
        tests = record.require(self.converted / "test_dialogues.jsonl", f"{self.made_by} overwrite=true")
        chat = self.converted / "test_general.jsonl"
        return [tests, chat] if self.suite is Suite.general and chat.exists() else [tests]

    def tasks(self) -> list[Task]:
        """The suite's questions. Raises ValueError where there are none."""
        limit, seed = self.config.eval.dialogues, self.config.seed
        if self.suite is Suite.bfcl and not self.file:
            return bfcl.tasks(self.config.eval.categories or bfcl.CATEGORIES, limit, self.dialect)
        if self.suite is Suite.general:
            return self._general(limit, seed)
        tests = testset.read(self.paths[0], limit)
        if self.suite is Suite.bfcl:
            return bfcl.of_dialogues(tests, self.dialect)
        return (toolbench if self.suite is Suite.toolbench else agentfabric).tasks(tests, self.dialect)

    def _general(self, limit: int | None, seed: int) -> list[Task]:
        tests, *chats = [testset.read(path) for path in self.paths]
        if self.file:
            return general.of_dialogues(testset.spaced(tests, limit), self.dialect)
        if not chats:
            logger.info("no general chat was held back by %s, so there is no perplexity of it", self.made_by)
        return general.tasks([test for chat in chats for test in chat], tests, self.dialect, seed, limit)


@dataclass(frozen=True)
class _Model:
    """A model to ask: behind `url`, or in `folder`, with `adapter` on it. `known` is what run.json says of it."""

    known: Any
    url: str | None = None
    name: str | None = None  # at the url; None: the first that it lists
    key: str | None = None
    folder: Path | None = None
    adapter: Path | None = None


def _model(config: Config, label: str) -> _Model:
    own = f"name={config.name} variant={config.variant}"
    run, settings = config.run_folder, config.eval
    if label == ENDPOINT:
        key = settings.api_key or os.environ.get("OPENAI_API_KEY")  # as the client itself does
        return _served(Endpoint(url=settings.url, model_name=settings.model_name), key)
    if label == "base":
        return _Model(config.model.plain(), folder=_base(config))
    if label == "tuned":
        merged = record.require_finished(run / "merge", f"python merge.py {own}")
        return _Model(record.file_hash(merged / "run.json"), folder=merged / "model")
    if label == "adapter":
        trained = record.require_finished(run / "train", f"python train.py {own}")
        return _Model(record.file_hash(trained / "run.json"), folder=_base(config), adapter=trained / "best")
    endpoint = settings.endpoints[label]
    if endpoint.url:
        return _served(endpoint, os.environ.get(endpoint.api_key_env))
    if endpoint.folder:
        folder = Path(endpoint.folder)
        config_file = record.require(folder / "config.json", f"give eval.endpoints.{label}.folder=FOLDER of a model")
        return _Model({"folder": str(folder), "config": record.file_hash(config_file)}, folder=folder)
    adapter = Path(str(endpoint.adapter))
    weights = record.require(
        adapter / "adapter_model.safetensors", f"give eval.endpoints.{label}.adapter=FOLDER of a LoRA adapter"
    )
    return _Model(
        {"adapter": record.file_hash(weights), "base": config.model.plain()}, folder=_base(config), adapter=adapter
    )


def _served(endpoint: Endpoint, key: str | None) -> _Model:
    url = str(endpoint.url)
    known = {"url": _without_credentials(url), "model_name": endpoint.model_name}
    return _Model(known, url=url, name=endpoint.model_name, key=key)


def _base(config: Config) -> Path:
    from fabrictune import models  # it imports torch, which an evaluation of an endpoint does not need

    return models.local_folder(**config.model.plain())


def _settings(config: Config, data: _Data, models: dict[str, Any]) -> dict[str, Any]:
    """All that the scores depend on; an endpoint's credentials are left out."""
    settings = config.eval
    known = {
        "suite": settings.suite.value,
        "dialogues": settings.dialogues,
        "max_new_tokens": settings.max_new_tokens,
        "seed": config.seed,
        "format": data.dialect.name,
        "data": {path.name: record.file_hash(path) for path in data.paths},
        "models": models,
    }
    if settings.suite is Suite.bfcl:
        known |= {"categories": settings.categories} | ({} if data.file else record.versions(["bfcl-eval"]))
    return known


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _play_models(
    config: Config, folder: Path, models: dict[str, _Model], tasks: Sequence[Task]
) -> list[dict[str, Any]]:
    """The rows of all tasks by all models: those already in the file, and the rest, which is played now."""
    predictions = folder / "predictions.jsonl"
    done = {(row["model"], row["key"]) for row in playing.read(predictions)}
    for label, model in models.items():
        left = [task for task in tasks if (label, task.key) not in done]
        if not left:
            continue
        try:
            with _address(config, label, model, folder) as (url, name):
                asyncio.run(_ask_all(config, label, url, name, model, left, len(tasks), predictions))
        except (ConnectionError, RuntimeError) as error:
            raise type(error)(f"{error}\nWhat was played is kept in {predictions}; go on with resume=true") from error
    return playing.read(predictions)


@contextmanager
def _address(config: Config, label: str, model: _Model, folder: Path) -> Iterator[tuple[str, str | None]]:
    """Where the model answers, and its name (None: the first that is listed)."""
    if model.url:
        yield model.url, model.name
        return
    assert model.folder is not None
    settings = server.Settings(
        max_length=config.serve.max_length,
        temperature=0,
        max_new_tokens=config.eval.max_new_tokens,
        memory_gib=config.serve.cpu_memory_gib,
        adapters={label: model.adapter} if model.adapter else {},
    )
    name = f"{label}-base" if model.adapter else label
    with server.running(model.folder, name, settings, folder / f"vllm-{label}.log") as url:
        yield url, label


async def _ask_all(
    config: Config,
    label: str,
    url: str,
    name: str | None,
    model: _Model,
    tasks: Sequence[Task],
    total: int,
    predictions: Path,
) -> None:
    settings, is_ours = config.eval, model.folder is not None
    async with endpoints.connect(
        url,
        model=name,
        api_key=model.key,
        timeout=settings.timeout,
        retries=min(settings.retries, server.RETRIES) if is_ours else settings.retries,
        max_new_tokens=settings.max_new_tokens,
        temperature=0,
    ) as asked:
        done = total - len(tasks)
        await playing.play(tasks, asked, label, predictions, concurrency=settings.concurrency, done=done, total=total)


def _write_report(folder: Path, rows: Sequence[dict[str, Any]], run: Path) -> None:
    """report.html, from what stands in the folder and the curves of the run's training."""
    made = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    about = {
        "run": "/".join(run.parts[-2:]),
        "commit": str(made["commit"]),
        "command": shlex.join(made["command"]),
        "begun": made["started"],
    }
    scored = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    page = report.page(scored, rows, curves.read(run / "train" / "metrics.jsonl"), about)
    with record.replacing(folder / "report.html") as file:
        file.write(page)
