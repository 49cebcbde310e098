"""Where a model's files lie: a folder, a hub's cache, or our own cache for one that a package carries.

Imports no torch, so that convert.py can ask for a tokenizer in a second.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

WEIGHTS = ("*.safetensors",)
TEXTS = ("*.json", "*.jinja", "*.txt", "*.model")


def place(source: str, id: str, file: str | None, dtype: str, patterns: tuple[str, ...] = WEIGHTS + TEXTS) -> Path:
    """The folder with the model in transformers' own layout; a package's is not there before it is unpacked.

    A hub's model is fetched, as far as `patterns` name its files. Raises FileNotFoundError if the folder or package is
    not there, ConnectionError if the hub cannot be reached.
    """
    if source == "folder":
        folder = Path(id).expanduser()
        if not (folder / "config.json").exists():
            raise FileNotFoundError(f"model.id={id}: no model folder (config.json is missing)")
        return folder
    if source == "hub":
        return _from_hub(id, patterns)
    return _cache(f"{id}-{packed_weights(id, file).stem}-{dtype}")


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


def _cache(name: str) -> Path:
    root = os.environ.get("FABRICTUNE_CACHE", "~/.cache/fabrictune")
    return Path(root).expanduser() / "models" / name


def _from_hub(id: str, patterns: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download  # takes a second that only a hub's model needs
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        found = snapshot_download(id, allow_patterns=list(patterns))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ConnectionError(
            f"model.id={id}: the hub gave no such model ({type(error).__name__}); log in or go online, or put the "
            f"model's files into a folder and use model=folder model.id=FOLDER"
        ) from error
    return Path(found)
