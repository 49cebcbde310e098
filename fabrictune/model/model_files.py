"""Where a model's files lie: a folder, a hub's cache, or our own cache for one that has to be made first.

Imports no torch, so that convert.py can ask for a tokenizer in a second.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from fabrictune.log import logger
from fabrictune.model import qwen

WEIGHTS = ("*.safetensors",)
TEXTS = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")


def place(
    source: str,
    id: str,
    file: str | None,
    dtype: str,
    revision: str | None = None,
    patterns: tuple[str, ...] = WEIGHTS + TEXTS,
) -> Path:
    """The folder with the model in transformers' own layout.

    A package's is not there before it is unpacked, and one of Qwen 1's not before it is converted; of that, the
    tokenizer is converted here if `patterns` name no weights. Raises as `original` does, FileNotFoundError if the
    package is not there, and ValueError if a model of Qwen 1's cannot be read.
    """
    if source == "package":
        return _cache(f"{id}-{packed_weights(id, file).stem}-{dtype}")
    folder = original(source, id, revision, patterns)
    if not qwen.is_qwen1(folder):
        return folder
    if set(WEIGHTS) <= set(patterns):
        return _converted(folder, id, dtype)
    target = _converted(folder, id, None)
    if not target.exists():
        qwen.convert_tokenizer(folder, target)
    return target


def original(source: str, id: str, revision: str | None = None, patterns: tuple[str, ...] = WEIGHTS + TEXTS) -> Path:
    """The folder with the model as it was published.

    A hub's model is fetched, as far as `patterns` name its files. Raises FileNotFoundError if the folder is not there
    or the weights asked for are not, ConnectionError if the hub does not give the model.
    """
    if source == "hub":
        return _from_hub(id, revision, patterns)
    folder = Path(id).expanduser()
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"model.id={id}: no model folder (config.json is missing)")
    return folder


def packed_weights(package: str, file: str | None) -> Path:
    """The weights that an installed package carries. Raises FileNotFoundError if they are not there."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # raised for a name with a dot, or for none
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"model.id={package}: no such package is installed; run `make install`")
    weights = Path(spec.submodule_search_locations[0]) / str(file)
    if not weights.exists():
        raise FileNotFoundError(f"model.file={file}: not in the package {package} at {weights.parent}")
    return weights


def _converted(folder: Path, id: str, dtype: str | None) -> Path:
    """Where our cache has a model of Qwen 1's; another revision of it has another place. Without a dtype, its texts."""
    name = Path(id).expanduser().resolve().name  # of a hub's id, what comes after the owner
    return _cache(f"{name}-{qwen.stamp(folder, weights=dtype is not None)}-{dtype or 'tokenizer'}")


def cache(kind: str) -> Path:
    """Where we keep what takes long to make, by kind: models, tokens. FABRICTUNE_CACHE moves it."""
    return Path(os.environ.get("FABRICTUNE_CACHE", "~/.cache/fabrictune")).expanduser() / kind


def _cache(name: str) -> Path:
    return cache("models") / name


def _from_hub(id: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    from httpx2 import HTTPError  # what huggingface_hub's own errors derive from
    from huggingface_hub import snapshot_download  # takes a second that only a hub's model needs
    from huggingface_hub.errors import IncompleteSnapshotError

    ways = "log in or go online, or put the model's files into a folder and use model=folder model.id=FOLDER"
    logger.info("asking huggingface for %s", id)
    try:
        found = Path(snapshot_download(id, revision=revision, allow_patterns=list(patterns)))
    except (OSError, HTTPError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's, say that it is full
            raise
        is_partial = isinstance(error, IncompleteSnapshotError)
        reason = "only some of its files were fetched before" if is_partial else "the hub gave no such model"
        raise ConnectionError(f"model.id={id}: {reason} ({type(error).__name__}); {ways}") from error
    # Offline the client gives what it has, which is the texts alone if only convert.py has asked before.
    if set(WEIGHTS) <= set(patterns) and not any(found.glob(WEIGHTS[0])):
        raise FileNotFoundError(f"model.id={id}: its weights ({WEIGHTS[0]}) are not in {found}; {ways}")
    return found
