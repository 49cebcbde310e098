"""Records out of data files, whatever their kind: JSON texts, one by one, with memory for one at a time."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from itertools import count, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from fabrictune.dialogue import Json

if TYPE_CHECKING:
    from pyarrow import DataType

KINDS = (".jsonl", ".json", ".csv", ".parquet")
PACKINGS = (".gz", ".zst")
SUFFIXES = tuple(kind + packing for kind in KINDS for packing in ("", *PACKINGS))

# What hubs and the datasets library write beside the rows, about them.
_ABOUT = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json")
_CHOICES = f"choose from {', '.join(KINDS)}, each also with {' or '.join(PACKINGS)}"
_BLOCK = 1 << 20
_BATCH = 256  # rows of a table in memory at a time
_LONGEST_CELL = 1 << 24  # characters; a longer cell is a quote that nobody closed
_BLANKS = re.compile(r"[ \t\r\n]*")
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_DECODER = json.JSONDecoder()


class NoRecords(ValueError):
    """A file that is whole but holds nothing."""


def listed(path: Path, pattern: str | None = None) -> list[Path]:
    """The path itself if it is a file that `records` reads; of a folder all such files below it, sorted.

    `pattern` is a glob on the path below the folder, in which `*` also matches "/", as the hubs' clients have it.
    Hidden files and folders are left out, and so are the descriptions that hubs put beside the rows. Raises
    FileNotFoundError if there is nothing at the path, ValueError naming what is there if none of it can be read.
    """
    if path.is_file():
        _kind(path)
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file or folder; give the path of the data")
    names = sorted(_names(path))
    readable = [path / name for name in names if _is_data(name) and (not pattern or fnmatchcase(name, pattern))]
    if not readable:
        wanted = f"file that can be read and matches '{pattern}'" if pattern else "file that can be read"
        found = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise ValueError(f"{path}: holds no {wanted}, only: {found or 'nothing'}; {_CHOICES}")
    return readable


def records(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, JSON text) of each record: the line where it starts in .jsonl and .csv, else its place.

    What a single record holds is for the caller to judge, so that one bad row never stops the rest: a line is passed on
    whatever it is, bytes that are no UTF-8 as surrogate escapes. A row of a .csv is an object of strings; one that does
    not fit the header is passed on as a JSON string of its text, which no format takes for a row.
    Raises NoRecords if there are none, ValueError where the file itself is broken or ends too early, and for other
    kinds.
    """
    number = 0
    kind = _kind(path)
    try:
        for number, text in _READERS[kind](path):
            yield number, text
    except (
        EOFError,
        KeyError,
        OverflowError,
        RecursionError,
        TypeError,
        ValueError,
        OSError,
        csv.Error,
        zlib.error,
    ) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's, not what is wrong with the content
            raise
        place = f"after {'line' if kind in ('.jsonl', '.csv') else 'record'} {number}" if number else "at its start"
        raise ValueError(f"{path}: is broken {place}: {error}") from error
    if not number:
        raise NoRecords(f"{path}: holds no records; delete it, or leave it out with the source's `files` pattern")


def _kind(path: Path) -> str:
    """The one of KINDS that the file's name says. Raises ValueError if none."""
    kind = path.with_suffix("").suffix if path.suffix in PACKINGS else path.suffix
    if kind not in KINDS:
        raise ValueError(f"{path}: cannot read '{path.suffix}' files; {_CHOICES}")
    return kind


def _names(folder: Path) -> Iterator[str]:
    """The files below the folder, as paths relative to it, without hidden ones."""
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        # Data often lies behind links to other disks; without this a link to a folder above itself would never end.
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name).relative_to(folder).as_posix() for name in names if not name.startswith("."))


def _is_data(name: str) -> bool:
    return name.endswith(SUFFIXES) and Path(name).name not in _ABOUT


def _open(path: Path) -> IO[bytes]:
    """The file's bytes, unpacked. An end before the end of what was packed raises EOFError or OSError.

    Raises ValueError for text in UTF-16, which some programs of Windows write.
    """
    file = cast(io.BufferedReader, _unpacked(path))
    if file.peek(2)[:2] in _UTF16:
        file.close()
        raise ValueError(f"text in UTF-16, not UTF-8; write it anew: iconv -f UTF-16 -t UTF-8 {path} > NEW")
    return file


def _unpacked(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return io.BufferedReader(cast(io.RawIOBase, gzip.open(path)), _BLOCK)
    if path.suffix == ".zst":
        # Its import takes a third of a second, so only who needs it pays. The zstandard package would do as well, but
        # takes a file that was cut off for a whole one.
        import pyarrow

        return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"), _BLOCK)
    return path.open("rb", buffering=_BLOCK)


# Lines


def _read_jsonl(path: Path) -> Iterator[tuple[int, str]]:
    """The lines; of a file that is only named so, and holds a list or values spread over lines, the items or values."""
    lines = _read_lines(path)
    begin = list(islice(lines, 2))
    if _is_spread(*([text.strip() for _, text in begin] + ["", ""])[:2]):
        lines.close()
        yield from _read_json(path)
        return
    yield from begin
    yield from lines


def _is_spread(first: str, second: str) -> bool:
    """Whether lines that begin so are pieces of JSON, and not the first of them a torn row before good ones."""
    if _is_json(first) or not second:
        return first.startswith("[") and not second
    if first != "[" and _is_json(second):
        return False
    return _goes_on(first) and (_goes_on(both := f"{first}\n{second}") or _is_json(both))


def _goes_on(text: str) -> bool:
    """Whether it is the beginning of a JSON value that ends between two signs, as lines that spread one do."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return error.pos >= len(text) - 1 and not error.msg.startswith("Unterminated")
    except (ValueError, RecursionError):
        return False
    return False


def _read_lines(path: Path) -> Generator[tuple[int, str], None, None]:
    # Bytes, decoded line by line, are twice as fast as a text file and end lines at "\n" only.
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line and not line.isspace():
                yield number, line.rstrip(b"\r\n").decode("utf-8", "surrogateescape")


# JSON


def _read_json(path: Path) -> Iterator[tuple[int, str]]:
    """The items of a list, the lines if each holds a value, or the values that are spread over lines."""
    with _open(path) as file:
        text = _Text(file)
        if text.peek() == "[":
            yield from _items(text)
            return
    _, line = next(_read_lines(path), (0, ""))
    if _is_json(line):
        yield from _read_lines(path)
    elif line:
        with _open(path) as file:
            text = _Text(file)
            for number in count(1):
                yield number, text.value()
                if not text.peek():
                    return


def _items(text: _Text) -> Iterator[tuple[int, str]]:
    """The items of the list that the text is, each as it is spelled there."""
    number = 0
    sign = text.take()
    if text.peek() == "]":
        sign = text.take()
    while sign in ("[", ","):
        number += 1
        yield number, text.value()
        sign = text.take()
    if sign != "]":
        raise ValueError(f"expected ',' or ']': {text.near(-len(sign))}")
    if text.peek():
        raise ValueError(f"more follows the JSON list: {text.near()}")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


class _Text:
    """A file's JSON text, read as far as needed and forgotten as far as taken.

    Values are cut out as they are spelled. ijson, which would build them, turns lone surrogates into "?" without a
    word, gives up the file at a byte that is no UTF-8 or a NaN, and takes memory quadratic in the depth of nesting.
    """

    def __init__(self, file: IO[bytes], block: int = _BLOCK) -> None:
        self._block = block
        self._file = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        self._text = ""
        self._at = 0

    def peek(self) -> str:
        """The next character that is no blank; "" at the end."""
        while True:
            blanks = _BLANKS.match(self._text, self._at)
            assert blanks  # an empty match at least
            self._at = blanks.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_on():
                return ""

    def take(self) -> str:
        sign = self.peek()
        self._at += len(sign)
        return sign

    def value(self) -> str:
        """The JSON value that comes next. Raises ValueError if none does."""
        self.peek()
        while True:
            try:
                _, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # A value that is cut off fails at the end of the text, or at the start of its last string.
                offset = error.pos - self._at
                is_cut = error.msg.startswith("Unterminated") or error.pos > len(self._text) - 16
                if not (is_cut and self._read_on()):
                    raise ValueError(f"{error.msg}: {self.near(offset)}") from error
                continue
            length = end - self._at
            if end >= len(self._text) - 2 and self._read_on():  # "12" may go on as 123, and "1e+" as 1e+3
                continue
            start, self._at = self._at, self._at + length
            return self._text[start : self._at]

    def near(self, offset: int = 0) -> str:
        return repr(self._text[self._at + offset :][:40])

    def _read_on(self) -> bool:
        """Whether there was more. At least doubles the text at hand, so that a long value is not parsed too often."""
        rest = self._text[self._at :]
        more = self._file.read(max(self._block, len(rest)))
        self._text, self._at = rest + more, 0
        return bool(more)


# Tables


def _read_csv(path: Path) -> Iterator[tuple[int, str]]:
    lines: list[str] = []  # of the row being read, as they stand in the file

    def kept(file: io.TextIOWrapper) -> Iterator[str]:
        for line in file:
            lines.append(line)
            yield line

    csv.field_size_limit(_LONGEST_CELL)
    with io.TextIOWrapper(_open(path), encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        rows = csv.reader(kept(file), strict=True)
        header = next((cells for cells in rows if cells), [])
        if len(set(header)) != len(header):
            raise ValueError(f"the header names a column twice: {header}")
        while True:
            lines.clear()
            start = rows.line_num + 1
            try:
                cells = next(rows)
            except StopIteration:
                return
            except csv.Error:  # a quote amid a cell, or one that nobody closed
                cells = None
            if cells is not None and len(cells) == len(header):
                yield start, json.dumps(dict(zip(header, cells, strict=True)), ensure_ascii=False)
            elif cells != []:  # as an empty line is
                yield start, json.dumps("".join(lines), ensure_ascii=False)


def _read_parquet(path: Path) -> Iterator[tuple[int, str]]:
    import pyarrow.parquet  # here for the reason given in _open

    number = 0
    # pyarrow would read whole row groups ahead, which may be gigabytes.
    with (
        _seekable(path) as file,
        pyarrow.parquet.ParquetFile(file, buffer_size=_BLOCK, pre_buffer=False) as table,
    ):
        names = table.schema_arrow.names
        if len(set(names)) != len(names):
            raise ValueError(f"a column stands there twice: {names}")
        readable = pyarrow.schema([(one.name, _readable(one.type)) for one in table.schema_arrow])
        for batch in table.iter_batches(batch_size=_BATCH, use_threads=False):
            for row in batch.cast(readable).to_pylist(maps_as_pydicts="strict"):
                number += 1
                yield number, _spelled(row)


def _readable(kind: DataType) -> DataType:
    """The kind of a column with text for what counts nanoseconds, which Python's own times cannot hold."""
    import pyarrow
    from pyarrow import types

    if types.is_temporal(kind) and getattr(kind, "unit", None) == "ns":
        return pyarrow.string()
    if types.is_struct(kind):
        return pyarrow.struct([(one.name, _readable(one.type)) for one in kind])
    if types.is_map(kind):
        return pyarrow.map_(_readable(kind.key_type), _readable(kind.item_type))
    if types.is_fixed_size_list(kind):
        return pyarrow.list_(_readable(kind.value_type), kind.list_size)
    if types.is_large_list(kind):
        return pyarrow.large_list(_readable(kind.value_type))
    return pyarrow.list_(_readable(kind.value_type)) if types.is_list(kind) else kind


def _spelled(row: dict[str, object]) -> str:
    try:
        return json.dumps(row, ensure_ascii=False, default=_plain)
    except TypeError:  # a map whose keys are days, say
        return json.dumps(_with_text_keys(row), ensure_ascii=False, default=_plain)


def _with_text_keys(value: object) -> object:
    if isinstance(value, dict):
        return {key if isinstance(key, str) else _plain(key): _with_text_keys(one) for key, one in value.items()}
    return [_with_text_keys(one) for one in value] if isinstance(value, list) else value


@contextmanager
def _seekable(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, unpacked on disk if they are packed, since a table is not read from front to back."""
    with _open(path) as file:
        if path.suffix not in PACKINGS:
            yield file
            return
        with tempfile.TemporaryFile() as unpacked:
            shutil.copyfileobj(file, unpacked, _BLOCK)
            unpacked.seek(0)
            yield unpacked


def _plain(value: object) -> Json:
    """A cell of a kind that JSON has not: text stored as bytes, times, decimal numbers."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


_READERS: dict[str, Callable[[Path], Iterator[tuple[int, str]]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
