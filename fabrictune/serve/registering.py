"""serve.py serve=register: the served model's entry in an AgentFabric's config/model_config.json."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

from fabrictune import addresses, record
from fabrictune.config import Config
from fabrictune.log import logger
from fabrictune.serve import model_config
from fabrictune.serve.serving import served_names

NAME = "model_config.json"
PLACES = (Path(), Path("config"), Path("apps/agentfabric/config"))  # in the folder that is given


def register(config: Config) -> None:
    """Puts the entry of each name that is served in, the file as it was beside it; changes nothing that is there."""
    if not config.serve.agentfabric:
        raise ValueError("serve.agentfabric is empty; give serve.agentfabric=FOLDER, the folder of AgentFabric")
    path = find(Path(config.serve.agentfabric).expanduser())
    api_base = config.serve.upstream or addresses.url(config.serve.host, config.serve.port)
    _check(api_base)
    names = served_names(config)
    before = text = _read(path)
    try:
        for name in names:
            text = model_config.with_entry(text, name, model_config.entry(name, api_base), overwrite=config.overwrite)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if text == before:
        logger.info("%s has %s already; nothing is changed", path, ", ".join(names))
        return
    aside = replace(path, text)
    logger.info("%s has %s at %s now; as it was: %s", path, ", ".join(names), addresses.shown(api_base), aside.name)
    logger.info("start AgentFabric anew and choose it under Configure; docs/agentfabric.md says what else to set")


def _check(url: str) -> None:
    """Raises ValueError for what is no address, and warns of one whose path is not that of OpenAI's interface."""
    if not addresses.parts(url, "serve.upstream").path.rstrip("/").endswith("/v1"):
        logger.warning(
            "serve.upstream=%s does not end in /v1, where vLLM and most other servers answer", addresses.shown(url)
        )


def find(given: Path) -> Path:
    """The file itself, of AgentFabric's folder, its repository or its own path. Raises FileNotFoundError."""
    if given.is_file():
        return given.resolve()
    for place in PLACES:
        if (found := given / place / NAME).is_file():
            return found.resolve()  # a link stays one
    tried = ", ".join(str(place / NAME) for place in PLACES)
    raise FileNotFoundError(f"serve.agentfabric={given}: no AgentFabric is there (none of {tried})")


def replace(path: Path, text: str) -> Path:
    """Gives the file the text, whole or not at all, and returns where its content of before is kept."""
    aside = path.with_name(f"{path.name}.{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.bak")
    with path.open("rb") as old, aside.open("xb") as kept:
        shutil.copyfileobj(old, kept)
    shutil.copystat(path, aside)
    with record.replacing(path) as file:
        file.write(text)
        shutil.copymode(path, file.name)
    return aside


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error})") from error
