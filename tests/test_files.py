"""Records come out of data files one by one, numbered, whatever a single one of them holds."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fabrictune.sources import files

ROOT = Path(__file__).parent.parent
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": lambda content: pyarrow.compress(content, "zstd", asbytes=True),
}
PACKED = pytest.mark.parametrize("packing", PACKERS)


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def in_table(folder: Path, rows: list[dict[str, object]], **options: object) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "a.parquet", **options)
    return folder / "a.parquet"


def parsed(path: Path) -> list[object]:
    return [json.loads(text) for _, text in files.records(path)]


# Which files


def test_a_folder_gives_all_its_data_files_sorted_wherever_they_lie(tmp_path: Path) -> None:
    names = ["b.csv", "a.jsonl", "zh/c.json.gz", "zh/deep/d.parquet", "e.jsonl.zst"]
    for name in [*names, "README.md", ".hidden.jsonl", ".git/x.json", "f.jsonl.incomplete", "dataset_infos.json"]:
        written(tmp_path, name, b"")
    assert files.listed(tmp_path) == [tmp_path / name for name in sorted(names)]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.csv", ["b.csv", "zh/c.csv"]),
        ("zh/*", ["zh/a.jsonl", "zh/c.csv"]),
        ("a.jsonl", ["a.jsonl"]),
        ("*", ["a.jsonl", "b.csv", "zh/a.jsonl", "zh/c.csv"]),
    ],
)
def test_a_pattern_is_matched_with_the_path_below_the_folder(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    for name in ("a.jsonl", "b.csv", "zh/a.jsonl", "zh/c.csv", "zh/README.md"):
        written(tmp_path, name, b"")
    assert [str(file.relative_to(tmp_path)) for file in files.listed(tmp_path, pattern)] == expected


def test_data_behind_a_link_is_found_and_a_link_upwards_ends(tmp_path: Path) -> None:
    written(tmp_path, "disk/far/a.jsonl", b"")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "far" / "up").symlink_to(tmp_path / "data")
    assert files.listed(tmp_path / "data") == [tmp_path / "data" / "linked" / "far" / "a.jsonl"]


def test_a_file_is_taken_as_it_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, ".hidden.jsonl", b"")
    assert files.listed(path, "other*") == [path]


@pytest.mark.parametrize(
    ("name", "pattern", "kind", "reason"),
    [
        ("missing", None, FileNotFoundError, "no such file or folder"),
        ("note.txt", None, ValueError, r"cannot read '.txt' files; choose from .jsonl, .json, .csv, .parquet, each"),
        ("rows.txt.gz", None, ValueError, "cannot read '.gz' files; choose from .jsonl"),
        ("", "*.csv", ValueError, r"no file that can be read and matches '\*.csv', only: a.jsonl, note.txt, rows.txt"),
        ("empty", None, ValueError, "no file that can be read, only: nothing; choose from .jsonl"),
    ],
)
def test_what_is_no_data_is_refused_by_name_with_what_is_there(
    tmp_path: Path, name: str, pattern: str | None, kind: type[Exception], reason: str
) -> None:
    for other in ("a.jsonl", "note.txt", "rows.txt.gz"):
        written(tmp_path, other, b"")
    (tmp_path / "empty").mkdir()
    with pytest.raises(kind, match=reason) as error:
        files.listed(tmp_path / name, pattern)
    assert str(error.value).startswith(f"{tmp_path / name}: ")


# Lines


@PACKED
def test_each_line_of_a_jsonl_file_is_a_record_with_its_line_number(tmp_path: Path, packing: str) -> None:
    content = b'\xef\xbb\xbf{"a": 1}\n\n  \nno json\r\n{"b": "\xe4\xbd\xa0\xe2\x80\xa8\x0c"}'
    path = written(tmp_path, f"a.jsonl{packing}", PACKERS[packing](content))
    assert list(files.records(path)) == [(1, '{"a": 1}'), (4, "no json"), (5, '{"b": "你\u2028\x0c"}')]


@PACKED
@pytest.mark.parametrize(
    "content",
    [
        '[{"a": 1}, {"a": 2}]',
        '[\n  {"a": 1},\n  {"a": 2}\n]\n',
        '[{"a": 1},\n{"a": 2}]',
        '[\n {\n  "a": 1\n },\n {\n  "a": 2\n }\n]',
        '{\n "a": 1\n}\n{\n "a": 2\n}\n',
        '\ufeff{"a":\r\n1}\r\n\r\n{"a":\r\n2}',
    ],
)
def test_a_jsonl_file_that_is_a_list_or_has_rows_over_several_lines_is_read_as_it_is_meant(
    tmp_path: Path, packing: str, content: str
) -> None:
    path = written(tmp_path, f"a.jsonl{packing}", PACKERS[packing](content.encode()))
    assert parsed(path) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    "first", ["{", '{"id": "a", "ti', '{"id": [', '{"id":', "[INFO] begins", '[{"a": 1}]', '[{"a": 1},', "x"]
)
def test_a_torn_first_line_takes_no_other_with_it(tmp_path: Path, first: str) -> None:
    path = written(tmp_path, "a.jsonl", f'{first}\n{{"a": 1}}\n{{"a": 2}}\n'.encode())
    assert list(files.records(path)) == [(1, first), (2, '{"a": 1}'), (3, '{"a": 2}')]


@PACKED
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_text_in_utf16_is_refused_with_the_way_out(tmp_path: Path, name: str, packing: str) -> None:
    path = written(tmp_path, name + packing, PACKERS[packing]('{"a": "b"}'.encode("utf-16")))
    with pytest.raises(ValueError, match="is broken at its start: text in UTF-16, not UTF-8; .* iconv -f UTF-16"):
        list(files.records(path))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_bytes_that_are_no_utf8_reach_the_caller_whole(tmp_path: Path, name: str) -> None:
    content = {
        "a.jsonl": b'{"a": "\xff\xfe"}\n{"a": "b"}\n',
        "a.json": b'[{"a": "\xff\xfe"},\n{"a": "b"}]',
        "a.csv": b"a\n\xff\xfe\nb\n",
    }
    (_, first), (_, second) = files.records(written(tmp_path, name, content[name]))
    assert first.encode("utf-8", "surrogateescape") == b'{"a": "\xff\xfe"}'
    assert second == '{"a": "b"}'


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_a_file_packed_in_pieces_is_read_to_its_end(tmp_path: Path, packing: str) -> None:
    pieces = PACKERS[packing](b'{"a": 1}\n{"a"') + PACKERS[packing](b": 2}\n")
    assert parsed(written(tmp_path, f"a.jsonl{packing}", pieces)) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("packing", [".gz", ".zst"])
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_a_packed_file_that_was_cut_off_is_told_with_its_place(tmp_path: Path, packing: str, kind: str) -> None:
    texts = [os.urandom(500).hex() for _ in range(5000)]
    content = {
        "jsonl": "".join(f'{{"a": "{text}"}}\n' for text in texts).encode(),
        "json": json.dumps([{"a": text} for text in texts]).encode(),
        "csv": "\n".join(["a", *texts]).encode(),
        "parquet": in_table(tmp_path, [{"a": text} for text in texts]).read_bytes(),
    }[kind]
    packed = PACKERS[packing](content)
    path = written(tmp_path, f"a.{kind}{packing}", packed[: len(packed) * 9 // 10])
    read = []
    with pytest.raises(ValueError, match=f"^{path}: is broken ") as error:
        for number, text in files.records(path):
            read.append((number, json.loads(text)))
    assert [row for _, row in read] == [{"a": text} for text in texts[: len(read)]]
    assert len(read) > 3000 or kind == "parquet"
    assert (f"after {'record' if kind == 'json' else 'line'} {read[-1][0]}: " if read else "at its start: ") in str(
        error.value
    )


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet", "a.json"])
def test_bytes_of_another_kind_are_no_data(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name, b"%PDF-1.7 and so on, and so on")
    with pytest.raises(ValueError, match=f"^{path}: is broken at its start: "):
        list(files.records(path))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_a_file_without_records_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    path = written(tmp_path, name, content)
    with pytest.raises(files.NoRecords, match=f"^{path}: holds no records; delete it, or .* `files` pattern$"):
        list(files.records(path))


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    schema = pyarrow.schema([("a", pyarrow.string())])
    pyarrow.parquet.write_table(schema.empty_table(), tmp_path / "a.parquet")
    for path in (tmp_path / "a.parquet", written(tmp_path, "a.csv", b"a,b\n"), written(tmp_path, "a.json", b" [ ]\n")):
        with pytest.raises(files.NoRecords, match="holds no records"):
            list(files.records(path))


def test_what_is_missing_or_of_no_kind_is_no_broken_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(files.records(tmp_path / "a.jsonl"))
    with pytest.raises(ValueError, match="cannot read '.txt' files; choose from"):
        list(files.records(tmp_path / "a.csv.txt"))


# JSON


@PACKED
def test_each_item_of_a_json_list_is_a_record_with_its_place(tmp_path: Path, packing: str) -> None:
    path = written(tmp_path, f"a.json{packing}", PACKERS[packing]('\ufeff[{"a": "你"},\n [1] , "x"]\n'.encode()))
    assert list(files.records(path)) == [(1, '{"a": "你"}'), (2, "[1]"), (3, '"x"')]


def test_values_of_a_json_list_are_as_they_were_spelled(tmp_path: Path) -> None:
    spelled = [
        "1",
        "1.0",
        "1e5",
        "123456789012345678901234567890",
        "0.10000000000000000001",
        "NaN",
        '"\\ud83d \\u4f60"',
    ]
    path = written(tmp_path, "a.json", f"[{', '.join(spelled)}]".encode())
    assert [text for _, text in files.records(path)] == spelled


def test_a_json_file_may_hold_a_single_record_on_several_lines(tmp_path: Path) -> None:
    assert parsed(written(tmp_path, "a.json", b'{"a":\n1}\n')) == [{"a": 1}]


def test_a_json_file_may_hold_one_record_a_line(tmp_path: Path) -> None:
    path = written(tmp_path, "a.json", b'{"a": 1}\n\n{"b": \n{"c": 3}\n')
    assert list(files.records(path)) == [(1, '{"a": 1}'), (3, '{"b": '), (4, '{"c": 3}')]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(_JSON, min_size=1), st.integers(1, 40), st.sampled_from([None, 1]), st.booleans())
@example([0.0, 1e300, -1e-7, 12], 1, None, True)
def test_a_list_is_cut_into_its_items_wherever_the_blocks_end(
    items: list[object], block: int, indent: int | None, is_ascii: bool
) -> None:
    content = json.dumps(items, indent=indent, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
    text = files._Text(io.BytesIO(content), block)
    assert [json.loads(item) for _, item in files._items(text)] == json.loads(
        content.decode("utf-8", "surrogateescape")
    )


@pytest.mark.parametrize(
    ("content", "place", "reason"),
    [
        (b'[{"a": 1}, {"b": 2', "after record 1", "Expecting ',' delimiter: ''"),
        (b'[{"a": 1}, {"b": "2', "after record 1", "Unterminated string"),
        (b'[{"a": 1} {"b": 2}]', "after record 1", "expected ',' or ']': '{\"b\": 2}]'"),
        (b"[1, 2,]", "after record 2", "Expecting value: ']'"),
        (b"[1, 2] [3]", "after record 2", "more follows the JSON list: '[3]'"),
        (b"[1, 2", "after record 2", "expected ',' or ']': ''"),
        (b"[1, nul, 2]" + b" " * 100, "after record 1", "Expecting value: 'nul, 2]"),
        (b'{"a":\n1}\nb', "after record 1", "Expecting value: 'b'"),
        (b"[" * 100_000, "at its start", "maximum recursion depth"),
    ],
)
def test_json_that_is_broken_is_told_with_its_place(tmp_path: Path, content: bytes, place: str, reason: str) -> None:
    path = written(tmp_path, "a.json", content)
    with pytest.raises(ValueError) as error:
        list(files.records(path))
    assert str(error.value).startswith(f"{path}: is broken {place}: {reason}")


# Tables


@PACKED
def test_a_row_of_a_csv_file_is_an_object_of_strings_under_its_first_line(tmp_path: Path, packing: str) -> None:
    content = '\ufeff\r\nid,"the, text"\r\n1,"a ""b""\r\n你"\r\n\r\n2.0,\r\n'.encode()
    path = written(tmp_path, f"a.csv{packing}", PACKERS[packing](content))
    assert [(number, json.loads(text)) for number, text in files.records(path)] == [
        (3, {"id": "1", "the, text": 'a "b"\r\n你'}),
        (6, {"id": "2.0", "the, text": ""}),
    ]


def test_a_row_that_does_not_fit_the_header_comes_whole_and_the_next_ones_too(tmp_path: Path) -> None:
    lines = ["a,b", "1,2", "1", '"1","2","3', 'x"', '"1" 2,3', "5,6", '7,"8', "9,10", ""]
    path = written(tmp_path, "a.csv", "\n".join(lines).encode())
    assert [(number, json.loads(text)) for number, text in files.records(path)] == [
        (2, {"a": "1", "b": "2"}),
        (3, "1\n"),
        (4, '"1","2","3\nx"\n'),
        (6, '"1" 2,3\n'),
        (7, {"a": "5", "b": "6"}),
        (8, '7,"8\n9,10\n'),
    ]


def test_a_long_cell_is_read(tmp_path: Path) -> None:
    assert parsed(written(tmp_path, "a.csv", b"a\n" + b"x" * 1_000_000)) == [{"a": "x" * 1_000_000}]


def test_a_header_that_names_a_column_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"at its start: the header names a column twice: \['a', 'b', 'a'\]"):
        list(files.records(written(tmp_path, "a.csv", b"a,b,a\n1,2,3\n")))


_CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))


@given(st.lists(st.lists(_CELL, min_size=2, max_size=2), min_size=1))
def test_what_the_csv_writer_wrote_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["a", "b"], *rows])
    assert parsed(path) == [{"a": a, "b": b} for a, b in rows]


@PACKED
def test_a_row_of_a_table_is_an_object_with_its_nested_values(tmp_path: Path, packing: str) -> None:
    rows: list[dict[str, object]] = [
        {
            "n": 1,
            "x": 1.0,
            "t": "你",
            "list": [{"from": "user", "value": None}],
            "b": b"raw\xff",
            "d": date(2024, 3, 14),
        },
        {"n": None, "x": 0.5, "t": None, "list": [], "b": None, "d": None},
    ] * 300
    content = in_table(tmp_path, rows, row_group_size=70).read_bytes()
    read = list(files.records(written(tmp_path, f"b.parquet{packing}", PACKERS[packing](content))))
    assert [number for number, _ in read] == list(range(1, 601))
    assert read[0][1].startswith('{"n": 1, "x": 1.0, "t": "你", "list": [{"from": "user", "value": null}], ')
    assert json.loads(read[0][1]) == {**rows[0], "b": "raw\udcff", "d": "2024-03-14"}
    assert json.loads(read[-1][1]) == rows[1]


def test_maps_of_a_table_are_objects_and_decimal_numbers_text(tmp_path: Path) -> None:
    kinds = pyarrow.schema([("m", pyarrow.map_(pyarrow.string(), pyarrow.int64())), ("n", pyarrow.decimal128(5, 2))])
    rows = pyarrow.Table.from_pylist([{"m": [("k", 1)], "n": Decimal("1.10")}], schema=kinds)
    pyarrow.parquet.write_table(rows, tmp_path / "a.parquet")
    assert parsed(tmp_path / "a.parquet") == [{"m": {"k": 1}, "n": "1.10"}]


def test_keys_of_a_map_become_text(tmp_path: Path) -> None:
    kinds = {"day": pyarrow.date32(), "raw": pyarrow.binary(), "number": pyarrow.int64()}
    row = {"day": [(date(2024, 3, 14), 1)], "raw": [(b"k\xff", 2)], "number": [(7, 3)]}
    schema = pyarrow.schema([(name, pyarrow.map_(kind, pyarrow.int64())) for name, kind in kinds.items()])
    schema = schema.append(pyarrow.field("inner", pyarrow.list_(pyarrow.struct([schema.field("day")]))))
    rows = pyarrow.Table.from_pylist([row | {"inner": [{"day": row["day"]}]}], schema=schema)
    pyarrow.parquet.write_table(rows, tmp_path / "a.parquet")
    day = {"2024-03-14": 1}
    assert parsed(tmp_path / "a.parquet") == [
        {"day": day, "raw": {"k\udcff": 2}, "number": {"7": 3}, "inner": [{"day": day}]}
    ]


def test_a_map_whose_keys_are_no_text_at_all_is_told_with_its_place(tmp_path: Path) -> None:
    kind = pyarrow.map_(pyarrow.struct([("x", pyarrow.int64())]), pyarrow.int64())
    rows = pyarrow.Table.from_pylist([{"m": [({"x": 1}, 2)]}], schema=pyarrow.schema([("m", kind)]))
    pyarrow.parquet.write_table(rows, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="a.parquet: is broken at its start: "):
        parsed(tmp_path / "a.parquet")


def test_times_finer_than_python_s_are_text_wherever_they_stand(tmp_path: Path) -> None:
    when, text = pyarrow.timestamp("ns"), "2024-03-14 10:00:00.123456789"
    time = pyarrow.scalar(1_710_410_400_123_456_789, pyarrow.int64()).cast(when)
    cells: dict[str, tuple[pyarrow.DataType, object, object]] = {
        "plain": (when, time, text),
        "zoned": (pyarrow.timestamp("ns", "UTC"), time.cast(pyarrow.int64()).as_py(), f"{text}Z"),
        "clock": (pyarrow.time64("ns"), 123_456_789, "00:00:00.123456789"),
        "list": (pyarrow.list_(when), [time], [text]),
        "large": (pyarrow.large_list(when), [time], [text]),
        "pair": (pyarrow.list_(when, 2), [time, None], [text, None]),
        "struct": (pyarrow.struct([("t", when), ("n", pyarrow.int64())]), {"t": time, "n": 1}, {"t": text, "n": 1}),
        "map": (pyarrow.map_(pyarrow.string(), when), [("k", time)], {"k": text}),
        "coarse": (pyarrow.timestamp("us"), 1_710_410_400_000_000, "2024-03-14 10:00:00"),
    }
    columns = [pyarrow.array([cell, None], kind) for kind, cell, _ in cells.values()]
    pyarrow.parquet.write_table(pyarrow.table(dict(zip(cells, columns, strict=True))), tmp_path / "a.parquet")
    first, second = parsed(tmp_path / "a.parquet")
    assert first == {name: expected for name, (_, _, expected) in cells.items()}
    assert isinstance(second, dict) and second.keys() == cells.keys() and second["plain"] is None


# Size and speed

MEMORY = """
import resource, sys
from pathlib import Path
from fabrictune.sources import files
import pyarrow.parquet
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
rows = sum(1 for _ in files.records(Path(sys.argv[1])))
print(rows, peak() - before)
"""


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str) -> None:
    count, size = 30_000, 3000  # 90 MB
    row = {"a": "x" * size}
    if name == "a.parquet":
        with pyarrow.parquet.ParquetWriter(
            tmp_path / name, pyarrow.schema([("a", pyarrow.string())]), use_dictionary=False, compression="none"
        ) as writer:
            writer.write_table(pyarrow.Table.from_pylist([row] * count), row_group_size=count)
    else:
        line, join = json.dumps(row), {"a.jsonl": "\n", "a.json": ",\n", "a.csv": "\n"}[name]
        whole = join.join([row["a"] if name == "a.csv" else line] * count)
        written(
            tmp_path, name, ({"a.csv": "a\n", "a.json": "["}.get(name, "") + whole + "]" * (name == "a.json")).encode()
        )
    program = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path / name)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    rows, grown = map(int, program.stdout.split())
    assert rows == count
    assert grown < 60  # MB


def test_reading_lines_needs_no_heavy_import() -> None:
    program = "import sys; from fabrictune.sources import files, hubs; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"pyarrow", "huggingface_hub", "modelscope_hub", "requests", "httpx2"} & set(done.stdout.split())
