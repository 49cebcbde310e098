"""A file of exchanges as tokens: made once for each content and tokenizer, kept on the disk, mapped into memory.

An entry of the cache is a folder of flat arrays. It is written aside by worker processes that stream over the file and
takes its name when all of it is on the disk, so that whatever has the name is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from fabrictune import processes, record
from fabrictune.dialogue import PARTS, Exchange
from fabrictune.log import bar, logger
from fabrictune.model import encoding
from fabrictune.model.encoding import Encoded, Labelled, weight_table

FORMAT = 1  # of an entry; another one is another key
# What decides how a tokenizer reads, config.json too, from which transformers chooses the tokenizer's class.
TOKENIZER_FILES = ("*token*.json", "*vocab*", "merges.txt", "*.model", "*.tiktoken", "*.jinja", "config.json")
KEPT_DAYS = 30  # after its last use
BLOCK = 1 << 20  # bytes of the file that a worker takes at a time
# A system message of fewer characters is no reason to keep dialogues together; "You are a helpful assistant." is not.
SHARED_CHARACTERS = 256
PROCESSES_AHEAD = 2

# Each array's file, and its columns. `offsets` has one element more than there are exchanges; `scaled` are the tokens
# (their places in ids) whose span has another weight than 1, and `scales` are those weights.
_ARRAYS = {
    "ids": (np.int32, 0),
    "parts": (np.uint8, 0),
    "scaled": (np.int64, 0),
    "scales": (np.float32, 0),
    "offsets": (np.int64, 0),
    "dialogues": (np.int32, 0),
    "sources": (np.int32, 0),
    "counts": (np.int32, encoding.END + 1),
    "keys": (np.uint64, 0),
}


class Tokens:
    """A file's exchanges as tokens, E of them of D dialogues; `tokens[i]` is the i-th as a Labelled.

    dialogues, sources, lengths (E,): each exchange's dialogue and source by number, and its tokens.
    counts (E, END + 1): its tokens of each code, as far as the row's own weight is not 0.
    keys (D,) uint64: equal for dialogues that share a long system message, 0 for those without one.
    names, source_names: of the dialogues and sources, by number.
    """

    def __init__(self, folder: Path, path: Path) -> None:
        """Opens an entry of the cache. Raises ValueError if it is not whole."""
        self.folder, self.path = folder, path
        try:
            self._meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            found = {name: (folder / name).stat().st_size for name in _ARRAYS}
            if self._meta["bytes"] != found:
                raise ValueError("its files have other sizes than they were written with")
            self._arrays = {name: self._mapped(name) for name in _ARRAYS}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{folder} is no whole entry of the cache ({error})") from error
        self.source_names: list[str] = self._meta["sources"]
        self.end: int = self._meta["end"]

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokens, (self.folder, self.path)  # a process that gets it maps the files itself

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, number: int) -> Labelled:
        first, last = self.offsets[number], self.offsets[number + 1]
        scaled = self._arrays["scaled"]
        low, high = np.searchsorted(scaled, (first, last))
        scales = np.ones(last - first, np.float32)
        scales[scaled[low:high] - first] = self._arrays["scales"][low:high]
        return Labelled(self._arrays["ids"][first:last], self._arrays["parts"][first:last], scales)

    def encoded(self, number: int, loss_weights: Mapping[str, float]) -> Encoded:
        """The exchange of that number with its loss weights."""
        return self[number].weighted(loss_weights, int(self.sources[number]), number)

    def supervised(self, loss_weights: Mapping[str, float]) -> np.ndarray:
        """(E,) how many of each exchange's tokens have a loss weight."""
        return self.counts @ (weight_table(loss_weights) > 0)

    def by_source(self, numbers: np.ndarray, values: np.ndarray | None = None) -> dict[str, int]:
        """How many of the exchanges `numbers` each source has, or the sum of their `values`; sources with none too."""
        sums = np.bincount(self.sources[numbers], values, len(self.source_names))
        return {name: int(total) for name, total in zip(self.source_names, sums, strict=True)}

    @cached_property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    @cached_property
    def names(self) -> list[str]:
        names: list[str] = json.loads((self.folder / "names.json").read_text(encoding="utf-8"))
        return names

    @property
    def offsets(self) -> np.ndarray:
        return self._arrays["offsets"]

    @property
    def dialogues(self) -> np.ndarray:
        return self._arrays["dialogues"]

    @property
    def sources(self) -> np.ndarray:
        return self._arrays["sources"]

    @property
    def counts(self) -> np.ndarray:
        return self._arrays["counts"]

    @property
    def keys(self) -> np.ndarray:
        return self._arrays["keys"]

    def _mapped(self, name: str) -> np.ndarray:
        kind, columns = _ARRAYS[name]
        if not self._meta["bytes"][name]:  # nothing cannot be mapped
            return np.empty((0, columns) if columns else 0, kind)
        # A plain view of the mapping: slices of a memmap take five times as long as those of an array.
        flat = np.asarray(np.memmap(self.folder / name, kind, "r"))
        return flat.reshape(-1, columns) if columns else flat


def cached(path: Path, tokenizer_folder: Path, cache_root: Path, count: int | None = None) -> Tokens:
    """The tokens of the file at `path`, out of the cache or made now by `count` processes (None: one for each CPU).

    Raises ValueError naming file and line for a row that is no exchange or that the chat template refuses, and for a
    file or tokenizer that cannot be used.
    """
    folder = cache_root / _key(path, tokenizer_folder)
    found = _opened(folder, path)
    if found:
        return found
    cache_root.mkdir(parents=True, exist_ok=True)
    _clear(cache_root)  # before the lock, whose file may be as old
    with _one_at_a_time(folder):
        found = _opened(folder, path)  # another process may have made it while we waited
        if found:
            return found
        _build(path, tokenizer_folder, folder, count or processes.cpus())
    return Tokens(folder, path)


def _key(path: Path, tokenizer_folder: Path) -> str:
    """The entry's name: what the tokens depend on, hashed."""
    files = sorted({file for pattern in TOKENIZER_FILES for file in tokenizer_folder.glob(pattern) if file.is_file()})
    parts = {
        "format": FORMAT,
        "parts": PARTS,
        "versions": record.versions(("transformers", "tokenizers")),
        "data": record.file_hash(path),
        "tokenizer": {file.name: record.file_hash(file) for file in files},
        "shared_characters": SHARED_CHARACTERS,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _opened(folder: Path, path: Path) -> Tokens | None:
    """The entry, marked as used now; None if there is none that is whole."""
    if not folder.exists():
        return None
    try:
        found = Tokens(folder, path)
    except ValueError as error:
        logger.info("%s; it is made anew", error)
        return None
    with contextlib.suppress(OSError):  # a cache that only others may write to
        os.utime(folder)
    return found


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Other processes that come here for the same folder wait until the block ends, or its process does."""
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        logger.info("another process is tokenising the same file; waiting for it")
        lock.acquire()
    except OSError:  # on a file system without locks each makes its own, and the first to end gives the name
        pass
    try:
        yield
    finally:
        lock.release()


def _clear(cache_root: Path) -> None:
    """Removes what nobody has used for KEPT_DAYS days, leavings of killed processes among it."""
    for path in cache_root.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime < KEPT_DAYS * 86_400:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _build(path: Path, tokenizer_folder: Path, folder: Path, count: int) -> None:
    """Writes the entry, aside at first."""
    _tokenizer.cache_clear()  # the folder may hold another one by now
    _, end = _tokenizer(tokenizer_folder)  # before the workers are forked, so that they have it
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # or its threads, once begun here, would block every forked worker
    aside = folder.with_name(f".{folder.name}.{os.uname().nodename}.{os.getpid()}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        with ExitStack() as stack:
            writer = _Writer({name: stack.enter_context((aside / name).open("wb")) for name in _ARRAYS})
            moving = stack.enter_context(bar(f"tokens of {path.name}", path.stat().st_size))
            moving.unit, moving.unit_scale = "B", True
            work = partial(_encoded_block, path, tokenizer_folder)
            if count > 1:
                pool = stack.enter_context(processes.workers(count))
                done: Iterator[_Encoded] = processes.in_order(pool, work, _blocks(path), PROCESSES_AHEAD * count)
            else:
                done = map(work, _blocks(path))
            for block in done:
                writer.add(block)
                moving.update(block.read)
            writer.finish(aside, end)
        _take_name(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _take_name(aside: Path, folder: Path) -> None:
    """Renames a whole entry; one that another process has made in the meantime stays, a broken one goes."""
    try:
        aside.replace(folder)
    except OSError:
        if not folder.exists():
            raise
        try:
            Tokens(folder, folder)
        except ValueError:
            shutil.rmtree(folder)
            aside.replace(folder)


@dataclass(frozen=True)
class _Encoded:
    """A block's exchanges as bytes of the arrays in the file's order, and what the parent makes numbers of."""

    read: int
    ids: bytes
    parts: bytes
    scaled: np.ndarray  # places in this block's ids
    scales: bytes
    lengths: list[int]
    counts: bytes
    names: list[str]
    sources: list[str]
    keys: list[int]


@lru_cache(maxsize=1)
def _tokenizer(folder: Path) -> tuple[PreTrainedTokenizerBase, int]:
    """The tokenizer in the folder and the id that ends a reply. Raises ValueError if it cannot be used here."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoding.require_template(tokenizer)
    if not tokenizer.is_fast:
        raise ValueError(f"{folder}: its tokenizer does not say where tokens start; it needs a tokenizer.json")
    return tokenizer, encoding.reply_end(tokenizer)


def _blocks(path: Path) -> Iterator[tuple[int, list[bytes]]]:
    """Lines of about BLOCK bytes together, with the number of the first."""
    number = 1
    with path.open("rb") as file:
        while lines := file.readlines(BLOCK):
            yield number, lines
            number += len(lines)


def _encoded_block(path: Path, tokenizer_folder: Path, block: tuple[int, list[bytes]]) -> _Encoded:
    """In a worker: the lines as tokens. Raises ValueError naming file and line."""
    first, lines = block
    exchanges = []
    for number, line in enumerate(lines, first):
        with _named(path, number):
            exchanges.append(Exchange.from_line(line))
    labelled = _labelled(path, first, exchanges, tokenizer_folder)
    scales = np.concatenate([one.scales for one in labelled])
    parts = np.concatenate([one.parts for one in labelled])
    scaled = np.flatnonzero(scales != 1)
    columns = encoding.END + 1
    counts = [np.bincount(one.parts[one.scales > 0], minlength=columns) for one in labelled]
    return _Encoded(
        read=sum(map(len, lines)),
        ids=np.concatenate([one.ids for one in labelled]).tobytes(),
        parts=parts.tobytes(),
        scaled=scaled,
        scales=scales[scaled].tobytes(),
        lengths=list(map(len, labelled)),
        counts=np.array(counts, np.int32).tobytes(),
        names=[one.dialogue for one in exchanges],
        sources=[one.source for one in exchanges],
        keys=list(map(_system_key, exchanges)),
    )


def _labelled(path: Path, first: int, exchanges: Sequence[Exchange], tokenizer_folder: Path) -> list[Labelled]:
    tokenizer, end = _tokenizer(tokenizer_folder)
    try:
        return encoding.encode_all(exchanges, tokenizer, end)
    except ValueError:
        labelled = []
        for number, exchange in enumerate(exchanges, first):  # to find which
            with _named(path, number):
                labelled.append(encoding.encode(exchange, tokenizer, end))
        return labelled


@contextmanager
def _named(path: Path, number: int) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}:{number}: {error}") from error


def _system_key(exchange: Exchange) -> int:
    """A number for a system message that is worth sharing, 0 where there is none."""
    first = exchange.messages[0] if exchange.messages else None
    if first is None or first.role != "system" or len(first.content) < SHARED_CHARACTERS:
        return 0
    return int.from_bytes(hashlib.blake2b(first.content.encode(), digest_size=8).digest(), "little") or 1


class _Writer:
    """Appends blocks to the arrays' files; in memory some 30 bytes an exchange, and the dialogues' names."""

    def __init__(self, files: Mapping[str, BinaryIO]) -> None:
        self._files = files
        self._names: dict[str, int] = {}
        self._sources: dict[str, int] = {}
        self._offsets = array("q", [0])
        self._dialogues = array("i")
        self._of_sources = array("i")
        self._keys = array("Q")

    def add(self, block: _Encoded) -> None:
        self._files["ids"].write(block.ids)
        self._files["parts"].write(block.parts)
        self._files["scaled"].write((block.scaled + self._offsets[-1]).astype(np.int64).tobytes())
        self._files["scales"].write(block.scales)
        self._files["counts"].write(block.counts)
        for length, name, source, key in zip(block.lengths, block.names, block.sources, block.keys, strict=True):
            if name not in self._names:
                self._keys.append(key)
            self._offsets.append(self._offsets[-1] + length)
            self._dialogues.append(self._names.setdefault(name, len(self._names)))
            self._of_sources.append(self._sources.setdefault(source, len(self._sources)))

    def finish(self, folder: Path, end: int) -> None:
        """Writes the rest, and forces all of it to the disk."""
        rest = {
            "offsets": self._offsets,
            "dialogues": self._dialogues,
            "sources": self._of_sources,
            "keys": self._keys,
        }
        for name, values in rest.items():
            self._files[name].write(values.tobytes())
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        sizes = {name: os.fstat(file.fileno()).st_size for name, file in self._files.items()}
        record.write_json(folder / "names.json", list(self._names))
        record.write_json(folder / "meta.json", {"end": end, "sources": list(self._sources), "bytes": sizes})
