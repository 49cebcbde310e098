"""The models that an evaluation asks: a label of the config as a folder, an adapter or an address."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fabrictune import addresses, record
from fabrictune.config import ENDPOINT, Config, Endpoint, command
from fabrictune.evaluate import endpoints
from fabrictune.serve import server


@dataclass(frozen=True)
class Candidate:
    """A model to ask: behind `url`, or in `folder`, with `adapter` on it.

    `known` is what run.json says of it, `title` what people are told.
    """

    known: Any
    title: str
    url: str | None = None
    name: str = ""  # at the url
    key: str | None = None
    folder: Path | None = None
    adapter: Path | None = None


def find(config: Config, label: str) -> Candidate:
    """The model that a label stands for.

    Raises FileNotFoundError naming the command that makes it, ValueError for a key that the environment does not have,
    ConnectionError or RuntimeError for an endpoint that must be asked for its model's name and does not tell.
    """
    run, settings = config.run_folder, config.eval
    if label == ENDPOINT:
        return _served(config, label, Endpoint(settings.url, settings.model_name, settings.api_key_env))
    if label == "base":
        return Candidate(config.model.plain(), config.model.id, folder=_base(config))
    if label == "tuned":
        merged = record.require_finished(run / "merge", command("merge.py", config, without="eval"))
        return Candidate(record.file_hash(merged / "run.json"), "merged by this run", folder=merged / "model")
    if label == "adapter":
        trained = record.require_finished(run / "train", command("train.py", config, without="eval"))
        known = record.file_hash(trained / "run.json")
        return Candidate(known, "this run's adapter", folder=_base(config), adapter=trained / "best")
    endpoint = settings.endpoints[label]
    if endpoint.url:
        return _served(config, label, endpoint)
    if endpoint.folder:
        folder = Path(endpoint.folder)
        record.require(folder / "config.json", f"give eval.endpoints.{label}.folder=FOLDER of a model")
        files = {path.name: [(stat := path.stat()).st_size, stat.st_mtime_ns] for path in sorted(folder.glob("*.*"))}
        return Candidate({"folder": str(folder), "files": files}, str(folder), folder=folder)
    adapter = Path(str(endpoint.adapter))
    weights = record.require(
        adapter / "adapter_model.safetensors", f"give eval.endpoints.{label}.adapter=FOLDER of a LoRA adapter"
    )
    parts = {"adapter": record.file_hash(weights), "base": config.model.plain()}
    return Candidate(parts, f"{config.model.id} with {adapter}", folder=_base(config), adapter=adapter)


def _served(config: Config, label: str, endpoint: Endpoint) -> Candidate:
    """The model behind an address. Raises ValueError for a key that is missing or cannot be sent."""
    url, key = str(endpoint.url), os.environ.get(endpoint.api_key_env)
    if not key and endpoint.api_key_env != "OPENAI_API_KEY":
        raise ValueError(f"{endpoint.api_key_env}, which is to hold the key of '{label}', is not set; export it")
    setting = "eval.api_key_env" if label == ENDPOINT else f"eval.endpoints.{label}.api_key_env"
    addresses.check_sent_key(key or "", endpoint.api_key_env, setting)
    name = endpoint.model_name or _finished_name(config, label) or asyncio.run(_first_model(config, url, key))
    shown = record.masked(url)
    return Candidate({"url": shown, "model_name": name}, f"{name} at {shown}", url=url, name=name, key=key)


def _finished_name(config: Config, label: str) -> str | None:
    """The model that a finished evaluation asked: to show it again the endpoint need not answer."""
    folder = folder_of(config)
    if not config.resume or not record.is_finished(folder):
        return None
    return (record.settings_of(folder)["models"].get(label) or {}).get("model_name")


async def _first_model(config: Config, url: str, key: str | None) -> str:
    """The name of the first model that is listed there, so that run.json says which one answered."""
    settings = config.eval
    bounds: dict[str, Any] = {"timeout": settings.timeout, "retries": settings.retries}
    async with endpoints.connect(
        url, model=None, api_key=key, max_new_tokens=None, temperature=None, **bounds
    ) as asked:
        return asked.model


def folder_of(config: Config) -> Path:
    """Where the evaluation of this run by the suite lies."""
    return config.run_folder / "evaluate" / config.eval.suite.value


def _base(config: Config) -> Path:
    from fabrictune.model import models  # it imports torch, which an evaluation of an endpoint does not need

    return models.local_folder(**config.model.plain())


@contextmanager
def answering(config: Config, label: str, model: Candidate, folder: Path) -> Iterator[tuple[str, str]]:
    """Where the model answers while the block runs, and its name there; vLLM is started where nobody serves it yet."""
    if model.url:
        yield model.url, model.name
        return
    assert model.folder is not None
    if model.adapter:
        from fabrictune.model import models  # it imports torch, which an evaluation of an endpoint does not need

        # The base's own may lack the id that the adapter has learned to end with: the chat template's.
        models.save_generation(folder, models.load_tokenizer(model.folder), model.folder)
    settings = server.Settings(
        max_length=config.serve.max_length,
        temperature=0,
        max_new_tokens=config.eval.max_new_tokens,
        memory_gib=config.serve.cpu_memory_gib,
        adapters={label: model.adapter} if model.adapter else {},
        generation_config=folder if model.adapter else None,
    )
    name = f"{label}-base" if model.adapter else label
    with server.running(model.folder, name, settings, folder / f"vllm-{label}.log") as url:
        yield url, label
