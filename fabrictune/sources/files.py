"""Records out of a user's own file: one JSON value a line (.jsonl), or one JSON value or list of them (.json)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

SUFFIXES = (".jsonl", ".json")


def existing(path: Path) -> Path:
    """The path, if it is a file of a kind that `records` reads. Raises FileNotFoundError or ValueError if not."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the data file's path")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: cannot read '{path.suffix}' files; choose one of {', '.join(SUFFIXES)}")
    return path


def records(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, JSON text) of each record; in a .json list the number is the record's place.

    Raises as `existing` does, and ValueError if there are no records. What a single line holds is for the caller to
    judge, so that one bad row never stops the rest.
    """
    found = 0
    for number, text in _lines(existing(path)) if path.suffix == ".jsonl" else _items(existing(path)):
        found += 1
        yield number, text
    if not found:
        raise ValueError(f"{path}: holds no records")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    # surrogateescape: a line that is no UTF-8 reaches its reject row whole.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line.rstrip("\r\n")


def _items(path: Path) -> Iterator[tuple[int, str]]:
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig", errors="surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no JSON ({error}); if it holds one record a line, name it .jsonl") from error
    for number, item in enumerate(value if isinstance(value, list) else [value], 1):
        yield number, json.dumps(item, ensure_ascii=False)
