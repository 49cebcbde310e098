"""Records come out of a user's file one by one, numbered, whatever a single line holds."""

from pathlib import Path

import pytest

from fabrictune.sources import files


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def test_each_line_of_a_jsonl_file_is_a_record_with_its_line_number(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", b'{"a": 1}\n\n  \nno json\r\n{"b": "\xe4\xbd\xa0"}')
    assert list(files.records(path)) == [(1, '{"a": 1}'), (4, "no json"), (5, '{"b": "你"}')]


def test_a_line_that_is_no_utf8_keeps_its_bytes(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", b'{"a": "\xff\xfe"}\n{"b": 2}\n')
    (first, text), second = files.records(path)
    assert (first, second) == (1, (2, '{"b": 2}'))
    assert text.encode("utf-8", "surrogateescape") == b'{"a": "\xff\xfe"}'


def test_each_item_of_a_json_list_is_a_record_with_its_place(tmp_path: Path) -> None:
    path = written(tmp_path, "a.json", '[{"a": "你"},\n [1], "x"]'.encode())
    assert list(files.records(path)) == [(1, '{"a": "你"}'), (2, "[1]"), (3, '"x"')]


def test_a_json_file_may_hold_a_single_record(tmp_path: Path) -> None:
    assert list(files.records(written(tmp_path, "a.json", b'{"a":\n1}'))) == [(1, '{"a": 1}')]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", b"a,b\n", r"cannot read '.csv' files; choose one of .jsonl, .json"),
        ("a", b"{}\n", r"cannot read '' files; choose one of .jsonl, .json"),
        ("a.jsonl", b"", "holds no records"),
        ("a.jsonl", b"\n \n", "holds no records"),
        ("a.json", b"[]", "holds no records"),
        ("a.json", b'{"a": 1}\n{"b": 2}\n', "no JSON .*name it .jsonl"),
        ("a.json", b"[" * 100_000, "no JSON"),
    ],
)
def test_a_file_without_records_is_refused_by_name(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = written(tmp_path, name, content)
    with pytest.raises(ValueError, match=reason) as error:
        list(files.records(path))
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", ["missing.jsonl", "."])
def test_what_is_no_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match="no such file") as error:
        files.existing(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)
