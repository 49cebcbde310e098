"""A model's safetensors files: what lies where in them, and a copy of one in which some tensors are changed.

Bytes are read and written a few MB at a time and never mapped, so memory does not grow with a file or a tensor.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"  # as transformers saves a model
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# Bytes that a thread works on at once. A float32 copy of as many bfloat16 numbers, and the product that is added to
# it, stay within a core's cache; with 16 MiB the elementwise passes run at the memory's speed.
PIECE = 2 << 20
FLUSHED = 256 << 20  # bytes after which the disk is told to write what is done

# Changes the bytes of whole rows in place: the rows from the given one on. A tensor of one axis has a row a number.
Edit = Callable[[memoryview, int], None]


@dataclass(frozen=True)
class Tensor:
    """Where one tensor lies: `size` bytes from `start` of the file on. `dtype` is safetensors' word, as BF16."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    size: int

    @property
    def row(self) -> int:
        """Bytes of what one index of the first axis holds."""
        return self.size // self.shape[0] if self.shape and self.shape[0] else self.size


@dataclass(frozen=True)
class _Piece:
    """`size` bytes of a file from `start` on; `edit` changes them, which are the rows of a tensor from `row` on."""

    start: int
    size: int
    edit: Edit | None = None
    row: int = 0


def head(file: Path) -> dict[str, Tensor]:
    """The file's tensors by name, in the order of their bytes. Raises ValueError if it is no whole safetensors file."""
    try:
        with safe_open(str(file), framework="numpy"):  # checks that all bytes belong to one tensor each
            pass
    except (SafetensorError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{file} is no whole safetensors file ({error})") from error
    with file.open("rb") as raw:
        length = int.from_bytes(raw.read(8), "little")
        entries: dict[str, Any] = json.loads(raw.read(length))
    entries.pop("__metadata__", None)
    found = [
        Tensor(name, entry["dtype"], tuple(entry["shape"]), file, 8 + length + begin, end - begin)
        for name, entry in entries.items()
        for begin, end in [entry["data_offsets"]]
    ]
    return {tensor.name: tensor for tensor in sorted(found, key=lambda tensor: tensor.start)}


def files(folder: Path) -> list[Path]:
    """The files with the weights of a model in transformers' layout, in order.

    Raises FileNotFoundError if there are none or one is missing, ValueError if they are pickles.
    """
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    if not (folder / INDEX).exists():
        if pickled := sorted(path.name for pattern in PICKLED for path in folder.glob(pattern)):
            raise ValueError(
                f"{folder} has its weights as a pickle ({pickled[0]}), which can run code when it is read; only "
                f"safetensors are read here: save the model with transformers' save_pretrained"
            )
        raise FileNotFoundError(f"{folder} has no weights: neither {SINGLE} nor {INDEX}")
    names = sorted(set(_map(folder).values()))
    for name in names:
        if Path(name).name != name:
            raise ValueError(f"{folder / INDEX} names the file {name!r}, which is outside its folder")
        if not (folder / name).exists():
            raise FileNotFoundError(f"{folder / name} is missing, but {folder / INDEX} names it; fetch the model again")
    return [folder / name for name in names]


def weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model in transformers' layout, by name.

    Raises as `files` and `head` do, and ValueError if the index names a tensor that its file does not have.
    """
    found: dict[str, Tensor] = {}
    for file in files(folder):
        found |= head(file)
    if not (folder / SINGLE).exists():
        for name, file_name in _map(folder).items():
            if name not in found or found[name].file.name != file_name:
                raise ValueError(f"{folder / INDEX} places {name} in {file_name}, which does not have it")
    return found


def _map(folder: Path) -> dict[str, str]:
    """The file of each tensor, as the index has it."""
    path = folder / INDEX
    try:
        placed: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        if all(isinstance(name, str) for name in placed.values()):
            return placed
        raise TypeError("weight_map holds other than names")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is no index of safetensors files ({type(error).__name__}: {error})") from error


def rows(tensor: Tensor, start: int, stop: int) -> bytearray:
    """The bytes of the rows `start` to `stop`, without the last one."""
    found = bytearray((stop - start) * tensor.row)
    with tensor.file.open("rb", buffering=0) as file:
        _read(file, memoryview(found), tensor.start + start * tensor.row)
    return found


def spans(tensor: Tensor) -> Iterator[tuple[int, int]]:
    """The tensor's rows in pieces of about PIECE bytes: (start, stop) of each."""
    count = tensor.shape[0] if tensor.shape else 1
    step = max(1, PIECE // max(1, tensor.row))
    for start in range(0, count, step):
        yield start, min(count, start + step)


def rewrite(
    sources: Mapping[Path, Path], edit: Callable[[Tensor], Edit | None], threads: int, moved: Callable[[int], Any]
) -> None:
    """Copies each safetensors file to its target, with the tensors changed for which there is an edit.

    All else stays bit for bit. When it returns, the targets are on the disk. `moved` is told of bytes that are done.
    Raises OSError naming the file that cannot be read or written.
    """
    with ThreadPoolExecutor(threads) as pool, ThreadPoolExecutor(1) as flushing:
        flushed: list[Future[None]] = []
        for source, target in sources.items():
            with source.open("rb", buffering=0) as reading, target.open("xb", buffering=0) as writing:
                writing.truncate(source.stat().st_size)
                move = partial(_move, reading, writing)
                unflushed = 0
                with closing(_in_order(pool, 2 * threads, move, _pieces(source, edit))) as counts:
                    for count in counts:
                        moved(count)
                        unflushed += count
                        if unflushed >= FLUSHED:
                            flushed.append(flushing.submit(_flush, os.dup(writing.fileno()), target))
                            unflushed = 0
                flushed.append(flushing.submit(_flush, os.dup(writing.fileno()), target))
        for done in flushed:
            done.result()


def _in_order(
    pool: ThreadPoolExecutor, ahead: int, move: Callable[[_Piece], int], pieces: Iterable[_Piece]
) -> Generator[int, None, None]:
    """What `move` returns for each piece, `ahead` of which are under way; none is any more when this is closed."""
    waiting: deque[Future[int]] = deque()
    try:
        for piece in pieces:
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
            waiting.append(pool.submit(move, piece))
        while waiting:
            yield waiting.popleft().result()
    finally:
        wait([future for future in waiting if not future.cancel()])


def _pieces(file: Path, edit: Callable[[Tensor], Edit | None]) -> Iterator[_Piece]:
    """The whole file, its head too, in the order of its bytes."""
    done = 0
    for tensor in head(file).values():
        own = edit(tensor)
        if own is None:
            continue  # goes with the bytes up to the next tensor that changes
        yield from _unchanged(done, tensor.start)
        for start, stop in spans(tensor):
            yield _Piece(tensor.start + start * tensor.row, (stop - start) * tensor.row, own, start)
        done = tensor.start + tensor.size
    yield from _unchanged(done, file.stat().st_size)


def _unchanged(start: int, stop: int) -> Iterator[_Piece]:
    for at in range(start, stop, PIECE):
        yield _Piece(at, min(PIECE, stop - at))


def _move(reading: FileIO, writing: FileIO, piece: _Piece) -> int:
    """Takes a piece from file to file, changed if it is to be; returns its bytes."""
    content = memoryview(bytearray(piece.size))
    _read(reading, content, piece.start)
    if piece.edit:
        piece.edit(content, piece.row)
    done = 0
    with _named(writing.name):
        while done < piece.size:
            done += os.pwrite(writing.fileno(), content[done:], piece.start + done)
    return piece.size


def _read(file: FileIO, into: memoryview, start: int) -> None:
    done = 0
    while done < len(into):
        with _named(file.name):
            count = os.preadv(file.fileno(), [into[done:]], start + done)
        if not count:
            raise OSError(f"{file.name} has become shorter while it was read: it ends after {start + done} bytes")
        done += count


def _flush(file: int, path: Path) -> None:
    try:
        with _named(path):
            os.fsync(file)
    finally:
        os.close(file)


@contextmanager
def _named(path: object) -> Iterator[None]:
    """Puts the file's name into the system's error, which has none where a file is known by its number."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise
