"""`serve.py serve=chat`: a page on this machine to talk to served models."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import uvicorn

from fabrictune import protocol
from fabrictune.addresses import check_port, key_for, upstream_key, url
from fabrictune.config import Config, Endpoint
from fabrictune.dialogue import Tool
from fabrictune.log import logger
from fabrictune.serve import serving
from fabrictune.serve.chat import page, streaming
from fabrictune.serve.chat.streaming import Model, Provider, Server

OPENAI = "https://api.openai.com/"


def chat(config: Config) -> None:
    """Shows the page until it is ended. Raises ValueError, FileNotFoundError or OSError if that cannot work."""
    dialect = protocol.dialect_of(serving.format_of(config), "serve.py serve=chat")
    host, port = config.serve.host, config.serve.port
    key = key_for(host, config.serve.api_key_env)
    check_port(host, port)
    found = providers(config)
    list_models = partial(available, found, serving.plain_command(config))
    own = _own_tools(config.serve.tools_file)
    models, troubles = asyncio.run(list_models())
    for trouble in troubles:
        logger.warning("%s", trouble)
    if not models:
        logger.warning("there is no model to talk to yet")
    app = page.application(models, list_models, own, dialect, host=host, key=key)
    who = f", user {page.USER}, password: the key in {config.serve.api_key_env}" if key else ""
    shown = url(host, port).removesuffix("/v1")
    logger.info("the page is at %s%s (%d models; Ctrl-C ends it)", shown, who, len(models))
    uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=1)


async def available(found: Sequence[Provider], command: str) -> tuple[dict[str, Model], list[str]]:
    """The models to choose from, and sentences on what is missing; the command starts a model where none can be had."""
    models, troubles = await streaming.available(found)
    sentences = [str(trouble) for trouble in troubles]
    if not models and any(isinstance(trouble, ConnectionError) for trouble in troubles):
        sentences.append(f"Start a model with `{command}` (or give another serve.upstream=), then refresh.")
    return models, sentences


def providers(config: Config) -> list[Provider]:
    """Where the page's models come from. Raises ValueError naming the setting that is wrong."""
    serve = config.serve
    found = []
    if serve.upstream:
        found.append(
            Provider(_server("serve.upstream", serve.upstream, "serve.upstream_key_env", serve.upstream_key_env))
        )
    for name, endpoint in serve.endpoints.items():
        setting = f"serve.endpoints.{name}"
        if not endpoint.url or endpoint.folder or endpoint.adapter:
            raise ValueError(f"{setting}: the page talks to served models: give {setting}.url=, and nothing else")
        # The variable that nobody named is for OpenAI: what it holds is sent to no other host.
        is_named = endpoint.api_key_env != Endpoint.api_key_env or endpoint.url.startswith(OPENAI)
        variable = endpoint.api_key_env if is_named else None
        server = _server(f"{setting}.url", endpoint.url, f"{setting}.api_key_env", variable)
        found.append(Provider(server, name, endpoint.model_name))
    if not found:
        raise ValueError("there is no model to talk to: give serve.upstream=http://HOST:PORT/v1")
    return found


def _server(setting: str, url: str, key_setting: str, variable: str | None) -> Server:
    key = upstream_key(variable, key_setting)
    try:
        return Server(url, key, key_setting)
    except ValueError as error:
        raise ValueError(f"{setting}: {error}") from error


def _own_tools(file: str | None) -> tuple[Tool, ...]:
    if file is None:
        return ()
    path = Path(file).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"serve.tools_file={file}: there is no such file")
    return page.read_file(str(path), path.read_bytes())
