"""Runs of W&B, and what they wrote offline, read back: LevelDB's log format around W&B's own protobuf records.

A file is a header of 7 bytes and blocks of 32 KiB (the header counts in the first). A block holds pieces, each with
its checksum, length and type (1 whole, 2 first, 3 middle, 4 last); an end too short for a piece's head is zeros.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

from fabrictune.train.wandb_run import Wandb

FILE_HEADER = b":W&B" + struct.pack("<HB", 0xBEE1, 0)
BLOCK = 32 * 1024
PIECE = struct.Struct("<IHB")
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def new_run(folder: Path, mode: str = "offline", **settings: Any) -> Wandb:
    """A run of ours that is not started yet."""
    config = {"lora": {"rank": 8}, "name": "demo"}
    return Wandb(folder, mode, "a-project", "demo/r8", config, entity="us", group="demo", tags=["t"], **settings)


class OfflineRun:
    """One folder that a run left: its id, its config, the rows of its history in order, its summary, its tables."""

    def __init__(self, folder: Path) -> None:
        (path,) = folder.glob("run-*.wandb")
        self.folder = folder
        self.config: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.artifacts: dict[str, list[str]] = {}
        self.exit_code: int | None = None
        for record in records(path.read_bytes()):
            self._take(record)

    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """Key -> (step, value) in the order in which they were logged; what W&B adds by itself is left out."""
        found: dict[str, list[tuple[int, float]]] = {}
        for row in self.history:
            for key, value in row.items():
                if isinstance(value, (int, float)) and not key.startswith("_") and key != "train/global_step":
                    found.setdefault(key, []).append((row["train/global_step"], value))
        return found

    def tables(self, name: str) -> list[tuple[int, dict[str, Any]]]:
        """(step, {"columns": ..., "data": ...}) of each table that was logged under the name."""
        logged = [(row["train/global_step"], row[name]) for row in self.history if name in row]
        return [(step, json.loads((self.folder / "files" / file["path"]).read_text())) for step, file in logged]

    def _take(self, record: Record) -> None:
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            self.id, self.project, self.entity = run.run_id, run.project, run.entity
            self.name, self.group, self.tags = run.display_name, run.run_group, list(run.tags)
            self.config |= {item.key: json.loads(item.value_json) for item in run.config.update}
        elif kind == "history":
            self.history.append(_nested(record.history.item))
        elif kind == "summary":
            for item in record.summary.update:
                self.summary["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
        elif kind == "artifact":
            entries = record.artifact.manifest.contents
            self.artifacts[record.artifact.name] = sorted(entry.path for entry in entries)
        elif kind == "exit":
            self.exit_code = record.exit.exit_code


def runs(folder: Path) -> list[OfflineRun]:
    """The runs that W&B kept in the folder, the oldest first."""
    return [OfflineRun(path) for path in sorted((folder / "wandb").glob("offline-run-*"))]


def records(content: bytes) -> Iterator[Record]:
    """The records of a .wandb file; one that a kill cut off is left out. Raises ValueError where it is damaged."""
    if content[: len(FILE_HEADER)] != FILE_HEADER:
        raise ValueError(f"no W&B file: it begins with {content[: len(FILE_HEADER)]!r}")
    whole, at = b"", len(FILE_HEADER)
    while at + PIECE.size <= len(content):
        room = BLOCK - at % BLOCK
        if room < PIECE.size:
            at += room
            continue
        checksum, length, kind = PIECE.unpack_from(content, at)
        piece = content[at + PIECE.size : at + PIECE.size + length]
        at += PIECE.size + length
        if len(piece) < length:
            return
        if zlib.crc32(bytes([kind]) + piece) != checksum:
            raise ValueError(f"the checksum of the piece that ends at {at} is wrong")
        whole = piece if kind in (WHOLE, FIRST) else whole + piece
        if kind in (WHOLE, LAST):
            yield Record.FromString(whole)


def _nested(items: Any) -> dict[str, Any]:
    """{"a": {"b": 1}} of items with the key a or the nested keys a, b."""
    found: dict[str, Any] = {}
    for item in items:
        *path, last = item.nested_key or [item.key]
        place = found
        for key in path:
            place = place.setdefault(key, {})
        place[last] = json.loads(item.value_json)
    return found
