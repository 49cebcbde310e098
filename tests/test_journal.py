"""The journal: whatever it says is written is on the disk, whole, in order, in files of bounded size."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fabrictune.record import ROOT
from fabrictune.serve.capture.journal import Journal


def rows(folder: Path) -> list[int]:
    """The numbers in all files of the folder, in the order of names and lines."""
    return [json.loads(line) for path in sorted(folder.iterdir()) for line in path.read_text("utf-8").splitlines()]


@contextmanager
def full_after(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes while the block runs: the kernel says EFBIG, as ENOSPC on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_lines_are_on_the_disk_in_order_when_they_are_said_to_be(tmp_path: Path) -> None:
    with Journal[int](tmp_path / "log", "numbers", 1 << 20, str) as journal:
        assert not list((tmp_path / "log").iterdir())  # a file without a line is no data file
        for number in range(50):
            journal.append(number).result(10)
            assert rows(tmp_path / "log")[-1] == number
        assert (journal.written, journal.size) == (50, 90 + 50)
    assert rows(tmp_path / "log") == list(range(50))
    (path,) = (tmp_path / "log").iterdir()
    assert path.name.startswith("numbers-2") and path.name.endswith("Z-0001.jsonl")
    assert path.stat().st_mode & 0o077 == 0  # nobody else's to read


def test_callers_that_wait_together_are_written_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_go, waits = threading.Event(), []
    fsync = os.fsync

    def counted(file: int) -> None:
        waits.append(file)
        fsync(file)

    def spelled(number: int) -> str:
        assert number or may_go.wait(10)
        return str(number)

    with Journal[int](tmp_path, "numbers", 1 << 20, spelled) as journal:
        journal.append(1).result(10)
        monkeypatch.setattr(os, "fsync", counted)
        waiting = [journal.append(number) for number in (0, *range(2, 33))]
        time.sleep(0.1)
        assert not any(done.done() for done in waiting)
        may_go.set()
        for done in waiting:
            done.result(10)
    assert len(waits) <= 2  # the one that the thread held, and all that came meanwhile
    assert rows(tmp_path) == [1, 0, *range(2, 33)]


def test_a_failure_of_another_kind_than_the_disk_s_leaves_no_caller_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: int) -> None:
        raise MemoryError("no room")

    with Journal[int](tmp_path, "numbers", 1 << 20, str) as journal:
        with monkeypatch.context() as broken:
            broken.setattr(os, "fsync", fail)
            with pytest.raises(OSError, match="no room"):
                journal.append(1).result(10)
            assert journal.trouble and "no room" in journal.trouble
        journal.append(2).result(10)
        assert journal.trouble is None
    assert rows(tmp_path) == [1, 2]


def test_a_caller_that_waits_no_longer_and_one_that_comes_too_late_stop_nothing(tmp_path: Path) -> None:
    with Journal[int](tmp_path, "numbers", 1 << 20, str) as journal:
        assert not journal.append(1).cancel()
        journal.append(2).result(10)
    with pytest.raises(OSError, match="has ended"):
        journal.append(3).result(10)
    assert rows(tmp_path) == [1, 2]


def test_a_file_that_has_reached_its_size_is_followed_by_another(tmp_path: Path) -> None:
    with Journal[int](tmp_path, "numbers", 1000, lambda number: json.dumps(number).rjust(99)) as journal:
        for number in range(35):
            journal.append(number)
    sizes = [path.stat().st_size for path in sorted(tmp_path.iterdir())]
    assert sizes == [1000, 1000, 1000, 500]
    assert rows(tmp_path) == list(range(35))


def test_a_full_disk_fails_the_line_keeps_it_and_writes_it_once_there_is_room(tmp_path: Path) -> None:
    with Journal[str](tmp_path, "texts", 1 << 20, json.dumps) as journal:
        journal.append("a" * 3000).result(10)
        with full_after(4096):
            with pytest.raises(OSError, match="File too large"):
                journal.append("b" * 3000).result(10)
            assert journal.trouble and "File too large" in journal.trouble
            with pytest.raises(OSError, match="File too large"):
                journal.append("c" * 2000).result(10)
            # What the disk took of them is cut off again: no half line amid the log.
            assert [row[0] for row in rows(tmp_path)] == ["a"]
        deadline = time.monotonic() + 10
        while journal.trouble and time.monotonic() < deadline:
            time.sleep(0.05)
        assert journal.trouble is None and journal.written == 3
        journal.append("d").result(10)
    assert [row[0] for row in rows(tmp_path)] == ["a", "b", "c", "d"]


def test_lines_that_no_disk_took_are_an_error_at_the_end(tmp_path: Path) -> None:
    journal = Journal[str](tmp_path, "texts", 1 << 20, json.dumps)
    with full_after(100):
        with pytest.raises(OSError, match="File too large"):
            journal.append("b" * 3000).result(10)
        with pytest.raises(OSError, match=r"1 lines of .* are lost"):
            journal.close()
    assert not list(tmp_path.iterdir())


def test_a_line_that_cannot_be_made_fails_alone(tmp_path: Path) -> None:
    with Journal[object](tmp_path, "values", 1 << 20, json.dumps) as journal:
        good, bad, after = journal.append(1), journal.append({1, 2}), journal.append(2)
        good.result(10), after.result(10)
        with pytest.raises(TypeError, match="set is not JSON"):
            bad.result(10)
    assert rows(tmp_path) == [1, 2]


def test_two_journals_of_one_folder_have_files_of_their_own(tmp_path: Path) -> None:
    with (
        Journal[int](tmp_path, "numbers", 20, str) as one,
        Journal[int](tmp_path, "numbers", 20, str) as other,
    ):
        for number in range(100, 200, 2):
            one.append(number)
            other.append(number + 1)
    found = [[int(line) for line in path.read_text().splitlines()] for path in tmp_path.iterdir()]
    assert sorted(number for numbers in found for number in numbers) == list(range(100, 200))
    assert all(len({number % 2 for number in numbers}) == 1 for numbers in found)


WRITER = """
import sys
from pathlib import Path
from fabrictune.serve.capture.journal import Journal
journal = Journal(Path(sys.argv[1]), "numbers", 2000, lambda number: f"[{number}, {'x' * 300!r}]".replace("'", '"'))
for number in range(10**9):
    journal.append(number).result()
    print(number, flush=True)
"""


def test_a_process_that_is_killed_loses_nothing_that_was_said_to_be_written(tmp_path: Path) -> None:
    words = [sys.executable, "-c", WRITER, str(tmp_path / "log")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(40)]
        process.kill()
        said += process.stdout.readlines()
    told = int([line for line in said if line.endswith("\n")][-1])
    *whole, last = sorted((tmp_path / "log").iterdir())
    assert whole and all(path.read_bytes().endswith(b"\n") for path in whole)
    lines = [line for path in [*whole, last] for line in path.read_bytes().split(b"\n") if line]
    written = [json.loads(line)[0] for line in lines[: told + 1]]
    assert written == list(range(told + 1))
    assert len(lines) <= told + 2  # the one that was on its way
