"""`evaluate.py`: plays AgentFabric's client against models, and writes what they said and how often they were right."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import openai

from fabrictune import client, log, protocol, record, scoreboard, scoring, server
from fabrictune.config import Config
from fabrictune.dialogue import Dialogue, Message, Played, from_json
from fabrictune.formats import agentfabric
from fabrictune.log import logger
from fabrictune.scoring import Scored, Verdict

ENDPOINT = "endpoint"  # the label of a model that we did not start
HEARTBEAT = 4.0  # seconds after which the bar is shown again though no turn has ended


@dataclass(frozen=True)
class Job:
    """One turn to play; `line` (from 1) in the file of test dialogues names its dialogue beyond doubt."""

    line: int
    dialogue: Dialogue
    turn: int
    history: tuple[Message, ...]
    source: str
    seen: bool
    dialect: protocol.Dialect = protocol.APRIL


def evaluate(config: Config) -> None:
    """Writes predictions.jsonl and scores.json of the run and prints the scores.

    Raises FileNotFoundError, FileExistsError or ValueError for what does not fit, ConnectionError or RuntimeError if
    an endpoint fails; what was played is kept then.
    """
    run = config.run_folder
    made_by = f"python convert.py name={config.name} variant={config.variant}"
    converted = record.require_finished(config.convert_folder, made_by)
    tests = converted / "test_dialogues.jsonl"
    labels = [ENDPOINT] if config.eval.url else config.eval.models
    dialect = protocol.dialect_of(record.settings_of(converted)["format"], "evaluate.py")
    jobs = read_jobs(record.require(tests, f"{made_by} overwrite=true"), config.eval.dialogues, dialect)
    settings = _settings(config, run, tests, labels)
    stage = record.open_stage(run / "evaluate", settings, overwrite=config.overwrite, resume=config.resume)
    scores_path = stage.folder / "scores.json"
    if not stage.finished:
        predictions = stage.folder / "predictions.jsonl"
        rows = _play_models(config, stage.folder, labels, jobs, predictions)
        record.write_json(scores_path, scoring.aggregate(map(_scored, rows)))
        stage.finish(turns=len(rows), predictions=record.file_hash(predictions))
    scoreboard.show(json.loads(scores_path.read_text(encoding="utf-8")))
    logger.info("every reply is in %s", stage.folder / "predictions.jsonl")


def read_jobs(path: Path, limit: int | None, dialect: protocol.Dialect = protocol.APRIL) -> list[Job]:
    """The turns of the test dialogues, or of `limit` dialogues evenly spaced over the file."""
    texts = path.read_text(encoding="utf-8").split("\n")  # splitlines() would also split inside a string, at U+2028
    lines = [(number, text) for number, text in enumerate(texts, start=1) if text.strip()]
    if not lines:
        raise ValueError(f"{path} holds no dialogue to test with; raise data.test_ratio and convert again")
    if limit is not None and limit < len(lines):
        lines = [lines[at * len(lines) // limit] for at in range(limit)]
    return [job for number, text in lines for job in _jobs(path, number, text, dialect)]


def _jobs(path: Path, number: int, text: str, dialect: protocol.Dialect) -> Iterator[Job]:
    """The turns of one dialogue, each with the history that is expected before it.

    A turn is scored on its own: after a wrong turn the record's later queries would make no sense to the model, and
    turns with expected histories can be played at the same time.
    """
    try:
        row = json.loads(text)
        dialogue = from_json(row["dialogue"])
        exchanges = list(agentfabric.render(dialogue, row["source"], dialect=dialect))
        for turn, group in groupby(exchanges, key=lambda exchange: exchange.turn):
            history = next(group).messages[1:-1]
            yield Job(number, dialogue, turn, history, row["source"], bool(row["seen"]), dialect)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}:{number}: not a test dialogue ({error}); convert again") from error


def _settings(config: Config, run: Path, tests: Path, labels: Sequence[str]) -> dict[str, Any]:
    """All that the scores depend on; an endpoint's credentials are left out."""
    models: dict[str, Any] = {}
    for label in labels:
        if label == ENDPOINT:
            models[label] = {"url": _without_credentials(str(config.eval.url)), "model_name": config.eval.model_name}
        elif label == "base":
            models[label] = config.model.plain()
        else:
            models[label] = record.file_hash(_merge_folder(config, run) / "run.json")
    return {
        "suite": config.eval.suite.value,
        "dialogues": config.eval.dialogues,
        "max_new_tokens": config.eval.max_new_tokens,
        "test_dialogues": record.file_hash(tests),
        "models": models,
    }


def _merge_folder(config: Config, run: Path) -> Path:
    return record.require_finished(run / "merge", f"python merge.py name={config.name} variant={config.variant}")


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _play_models(
    config: Config, folder: Path, labels: Sequence[str], jobs: Sequence[Job], predictions: Path
) -> list[dict[str, Any]]:
    """The rows of all turns by all models: those already in the file, and the rest, which is played now."""
    done = {(row["model"], row["line"], row["turn"]) for row in _read_whole_lines(predictions)}
    for label in labels:
        left = [job for job in jobs if (label, job.line, job.turn) not in done]
        if not left:
            continue
        try:
            with _address(config, label, folder) as (url, model):
                asyncio.run(_play_all(config, label, url, model, left, len(jobs), predictions))
        except (ConnectionError, RuntimeError) as error:
            raise type(error)(f"{error}\nWhat was played is kept in {predictions}; go on with resume=true") from error
    return _read_whole_lines(predictions)


def _read_whole_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of the file; a last line that a crash cut short is removed from it."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    if lines[-1]:
        record.write_lines(path, lines[:-1])
    return [json.loads(line) for line in lines[:-1]]


@contextmanager
def _address(config: Config, label: str, folder: Path) -> Iterator[tuple[str, str | None]]:
    """Where the model answers, and its name (None: the first that is listed)."""
    if label == ENDPOINT:
        yield str(config.eval.url), config.eval.model_name
        return
    settings = server.Settings(
        max_length=config.serve.max_length,
        temperature=0,
        max_new_tokens=config.eval.max_new_tokens,
        memory_gib=config.serve.cpu_memory_gib,
    )
    with server.running(
        _model_folder(config, label, folder.parent), label, settings, folder / f"vllm-{label}.log"
    ) as url:
        yield url, label


def _model_folder(config: Config, label: str, run: Path) -> Path:
    if label == "tuned":
        return _merge_folder(config, run) / "model"
    from fabrictune import models  # it imports torch, which an evaluation of an endpoint does not need

    return models.local_folder(**config.model.plain())


async def _play_all(
    config: Config, label: str, url: str, model: str | None, jobs: Sequence[Job], total: int, predictions: Path
) -> None:
    """Plays the jobs, so many at a time as eval.concurrency says, and appends each to the file when it ends."""
    waiting = iter(jobs)
    async with _endpoint(config, url) as endpoint:
        name = model or await client.first_model(endpoint)
        ask = client.asker(endpoint, max_new_tokens=config.eval.max_new_tokens, temperature=0)
        with (
            predictions.open("a", encoding="utf-8") as file,
            log.bar(f"{label}: turns", total, total - len(jobs)) as bar,
        ):

            async def work() -> None:
                for job in waiting:
                    played = await _play(job, ask, name)
                    # ASCII, because a lone surrogate in a reply has no UTF-8.
                    file.write(json.dumps(_row(label, job, played), ensure_ascii=True) + "\n")
                    file.flush()
                    bar.update()

            beat = asyncio.create_task(_refresh(bar))
            await asyncio.gather(*(work() for _ in range(config.eval.concurrency)))
            beat.cancel()


@asynccontextmanager
async def _endpoint(config: Config, url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    key = config.eval.api_key or os.environ.get("OPENAI_API_KEY") or "EMPTY"  # as the client itself does
    on_loopback = urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")
    http = openai.DefaultAsyncHttpxClient(trust_env=not on_loopback)  # no proxy between us and this machine
    async with openai.AsyncOpenAI(base_url=url, api_key=key, timeout=config.eval.timeout, http_client=http) as endpoint:
        yield endpoint


async def _refresh(bar: Any) -> None:
    while True:
        await asyncio.sleep(HEARTBEAT)
        bar.refresh()


async def _play(job: Job, ask: client.Ask, model: str) -> Played:
    dialogue, turn = job.dialogue, job.dialogue.turns[job.turn]
    run_tool = client.recorded_tools(dialogue.tools, turn)
    return await client.play_turn(
        ask,
        model,
        dialogue.tools,
        dialogue.instruction,
        dialogue.knowledge,
        job.history,
        turn.query,
        run_tool,
        files=turn.files,
        dialect=job.dialect,
    )


def _row(label: str, job: Job, played: Played) -> dict[str, Any]:
    """The line of predictions.jsonl: what was expected, every raw text, and the verdict."""
    turn = job.dialogue.turns[job.turn]
    verdict = scoring.judge(job.dialogue, job.turn, played)
    return {
        "model": label,
        "line": job.line,
        "dialogue": job.dialogue.id,
        "turn": job.turn,
        "source": job.source,
        "seen": job.seen,
        "family": job.dialogue.family,
        "query": turn.query,
        "expected": {"calls": [asdict(step.call) for step in turn.steps], "answer": turn.answer},
        "replies": [asdict(reply) for reply in played.replies],
        "calls": [{"name": a.name, "arguments": a.text, "observation": a.observation} for a in played.attempts],
        "answer": played.answer,
        "first_call": verdict.first_call,
        "success": verdict.success,
        "kinds": list(verdict.kinds),
    }


def _scored(row: dict[str, Any]) -> Scored:
    return Scored(row["model"], row["seen"], row["family"], Verdict(row["first_call"], tuple(row["kinds"])))
