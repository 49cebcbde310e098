"""A stage's folder is never overwritten or half-written, and every refusal names the ways out."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from fabrictune import record

ROOT = Path(__file__).resolve().parent.parent

SETTINGS = {"seed": 42, "data": {"ratio": 0.1, "families": ["a", "b"]}, "path": None}


def opened(folder: Path, settings: dict | None = None, **ways: bool) -> record.Stage:
    given = {"overwrite": False, "resume": False} | ways
    return record.open_stage(folder, settings or SETTINGS, **given)


def finished(folder: Path) -> record.Stage:
    stage = opened(folder)
    record.write_lines(folder / "result.txt", ["precious"])
    stage.finish(rows=3)
    return stage


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_new_stage_says_what_makes_it_and_a_finished_one_what_came_out(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "stage"
    stage = opened(folder)
    begun = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert begun["settings"] == SETTINGS
    assert begun["finished"] is None and not stage.finished
    assert begun["versions"]["torch"] and begun["python"].startswith("3.11")
    stage.finish(rows=3)
    ended = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert stage.finished and ended["finished"]
    assert ended["results"] == {"rows": 3}
    assert ended["settings"] == SETTINGS


def test_a_finished_folder_is_refused_with_the_ways_out_and_left_as_it_is(tmp_path: Path) -> None:
    finished(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(FileExistsError) as error:
        opened(tmp_path)
    for word in (str(tmp_path), "a finished run", "variant=", "name=", "overwrite=true", "resume=true"):
        assert word in str(error.value)
    assert contents(tmp_path) == before


def test_an_unfinished_folder_is_refused_too_where_its_stage_can_go_on(tmp_path: Path) -> None:
    opened(tmp_path)
    with pytest.raises(FileExistsError, match="an unfinished run.*resume=true"):
        opened(tmp_path)


@pytest.mark.parametrize("continues", [True, False])
def test_resuming_a_finished_stage_with_the_same_settings_finds_it_finished(tmp_path: Path, continues: bool) -> None:
    finished(tmp_path)
    before = contents(tmp_path)
    stage = opened(tmp_path, resume=True, continues=continues)
    assert stage.finished and stage.run["results"] == {"rows": 3}
    assert contents(tmp_path) == before


def test_resuming_an_unfinished_stage_keeps_what_it_left(tmp_path: Path) -> None:
    opened(tmp_path)
    (tmp_path / "checkpoint").mkdir()
    assert not opened(tmp_path, resume=True).finished
    assert (tmp_path / "checkpoint").is_dir()


@pytest.mark.parametrize("end", [True, False])
def test_resuming_with_other_settings_names_them_and_changes_nothing(tmp_path: Path, end: bool) -> None:
    stage = opened(tmp_path)
    if end:
        stage.finish()
    before = contents(tmp_path)
    other = {"seed": 43, "data": {"ratio": 0.2, "families": ["a", "b"]}, "path": None}
    with pytest.raises(ValueError, match=r"data.ratio: 0.1 -> 0.2; seed: 42 -> 43") as error:
        opened(tmp_path, other, resume=True)
    assert "overwrite=true" in str(error.value) and "variant=" in str(error.value)
    assert contents(tmp_path) == before


def test_the_record_says_what_code_ran_and_each_time_it_went_on(tmp_path: Path, monkeypatch) -> None:
    repository = tmp_path / "repository"
    git = ["git", "-C", str(repository), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q", str(repository)], check=True)
    (repository / "code.py").write_text("speed = 1\n", encoding="utf-8")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    monkeypatch.setattr(record, "ROOT", repository)
    assert opened(tmp_path / "clean").run["patch"] is None
    (repository / "code.py").write_text("speed = 2\n", encoding="utf-8")
    (repository / "new.py").touch()
    stage = opened(tmp_path / "run")
    assert "-speed = 1\n+speed = 2\n" in stage.run["patch"] and "new file: new.py" in stage.run["patch"]
    assert stage.run["commit"].endswith("+changes") and stage.run["machine"]["memory_gib"] > 0
    del stage
    (resumed,) = opened(tmp_path / "run", resume=True).run["resumed"]
    assert resumed["patch"] == json.loads((tmp_path / "run" / "run.json").read_text())["patch"] and resumed["at"]


def test_settings_are_compared_as_json_keeps_them(tmp_path: Path) -> None:
    record.open_stage(tmp_path, {"families": ("a", "b")}, overwrite=False, resume=False)
    record.open_stage(tmp_path, {"families": ("a", "b")}, overwrite=False, resume=True)


@pytest.mark.parametrize("end", [True, False])
def test_overwriting_begins_an_empty_folder(tmp_path: Path, end: bool) -> None:
    stage = finished(tmp_path) if end else opened(tmp_path)
    (tmp_path / "old").mkdir()
    stage = opened(tmp_path, overwrite=True)
    assert not stage.finished
    assert list(contents(tmp_path)) == ["run.json"]


def test_an_unfinished_stage_that_cannot_go_on_begins_anew_without_asking(tmp_path: Path) -> None:
    opened(tmp_path, continues=False)
    (tmp_path / "half.jsonl").write_text("half", encoding="utf-8")
    stage = opened(tmp_path, {"seed": 43}, continues=False)
    assert stage.run["settings"] == {"seed": 43}
    assert list(contents(tmp_path)) == ["run.json"]


def test_a_finished_stage_is_refused_even_if_it_could_not_go_on(tmp_path: Path) -> None:
    finished(tmp_path)
    with pytest.raises(FileExistsError, match="a finished run"):
        opened(tmp_path, continues=False)


def test_what_a_killed_run_left_of_an_old_one_is_deleted_and_does_not_stop_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    finished(folder)
    for number in (os.getpid(), 1):
        stale = tmp_path / f".stage.{number}.old" / "checkpoint"
        stale.mkdir(parents=True)
        (stale / "weights").write_bytes(b"0")
    (tmp_path / "kept.old").mkdir()
    opened(folder, overwrite=True).finish()
    assert {path.name for path in tmp_path.iterdir()} == {"stage", "kept.old"}
    assert list(contents(folder)) == ["run.json"]


@contextmanager
def undeletable(folder: Path) -> Iterator[None]:
    """Keeps what is in the folder from being deleted; root's way needs a file system that knows it."""
    forbid, allow = (("chmod", "500"), ("chmod", "700")) if os.geteuid() else (("chattr", "+i"), ("chattr", "-i"))
    if not shutil.which(forbid[0]) or subprocess.run([*forbid, folder], capture_output=True).returncode:
        pytest.skip("nothing is undeletable here")
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield
    finally:
        subprocess.run([*allow, os.readlink(f"/proc/self/fd/{handle}")], check=True)
        os.close(handle)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells where the folder went")
def test_an_old_run_that_cannot_be_deleted_does_not_stop_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    finished(folder)
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / "weights").touch()
    with undeletable(folder / "checkpoint"):
        assert not opened(folder, overwrite=True).finished
    assert list(contents(folder)) == ["run.json"]
    opened(folder, overwrite=True).finish()
    assert [path.name for path in tmp_path.iterdir()] == ["stage"]


HOLDER = """
import os, sys, time
from pathlib import Path
from fabrictune import record
stage = record.open_stage(Path(sys.argv[1]), {}, overwrite=False, resume=False, continues=False)
if sys.argv[2] == "with a fork" and not os.fork():
    time.sleep(1000)
print(os.getpid(), flush=True)
sys.stdin.readline()
stage.finish()
print("finished", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """Another process that has opened the stage."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "stage"), getattr(request, "param", "alone")]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True, start_new_session=True)
    assert process.stdout and process.stdout.readline() == f"{process.pid}\n"
    yield process
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("ways", [{}, {"overwrite": True}, {"resume": True}])
@pytest.mark.parametrize("continues", [True, False])
def test_a_folder_that_another_process_writes_is_refused_with_its_number(
    tmp_path: Path, holder: subprocess.Popen[str], ways: dict[str, bool], continues: bool
) -> None:
    before = contents(tmp_path / "stage")
    with pytest.raises(FileExistsError, match=f"stage is being written by process {holder.pid} on .*variant=") as error:
        opened(tmp_path / "stage", {}, continues=continues, **ways)
    assert str(error.value).startswith(str(tmp_path / "stage"))
    assert contents(tmp_path / "stage") == before
    opened(tmp_path / "other").finish()


@pytest.mark.parametrize("holder", ["alone", "with a fork"], indirect=True)
def test_a_folder_is_free_when_the_process_that_wrote_it_is_killed(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    holder.kill()
    holder.wait()
    opened(tmp_path / "stage", {}, continues=False).finish()
    assert [path.name for path in tmp_path.iterdir()] == ["stage"]


def test_a_folder_is_free_when_its_stage_is_finished_and_nothing_lies_beside_it(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    assert holder.stdin and holder.stdout
    holder.stdin.write("\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == "finished\n"
    assert [path.name for path in tmp_path.iterdir()] == ["stage"]
    assert record.open_stage(tmp_path / "stage", {}, overwrite=False, resume=True).finished
    assert [path.name for path in tmp_path.iterdir()] == ["stage"]


def test_a_refusal_leaves_no_lock(tmp_path: Path) -> None:
    finished(tmp_path / "stage")
    with pytest.raises(FileExistsError, match="a finished run"):
        opened(tmp_path / "stage")
    assert [path.name for path in tmp_path.iterdir()] == ["stage"]


VISITOR = """
import os, sys, time
from pathlib import Path
from fabrictune import record
deadline = time.monotonic() + 2
entered = 0
while time.monotonic() < deadline:
    try:
        unlock = record._lock(Path(sys.argv[1]))
    except FileExistsError:
        continue
    os.mkdir(sys.argv[2])  # fails where another process is in
    os.rmdir(sys.argv[2])
    unlock()
    entered += 1
print(entered)
"""


def test_of_processes_that_come_and_go_only_one_at_a_time_is_let_in(tmp_path: Path) -> None:
    command = [sys.executable, "-c", VISITOR, str(tmp_path / "stage"), str(tmp_path / "inside")]
    visitors = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    entered = [visitor.communicate()[0] for visitor in visitors]
    assert [visitor.returncode for visitor in visitors] == [0] * 4
    assert sum(map(int, entered)) > 100


def test_a_file_takes_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with record.replacing(path) as file:
        file.write("new 你")
        assert not path.exists()
    assert contents(tmp_path) == {"rows.jsonl": "new 你".encode()}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(error), record.replacing(path) as file:
        file.write("half")
        raise error
    assert contents(tmp_path) == {"rows.jsonl": b"old"}


def test_lines_are_counted_and_a_source_that_fails_leaves_no_file(tmp_path: Path) -> None:
    assert record.write_lines(tmp_path / "a", iter(["x", "y"])) == 2
    with pytest.raises(ZeroDivisionError):
        record.write_lines(tmp_path / "b", (str(1 / number) for number in (1, 0)))
    assert contents(tmp_path) == {"a": b"x\ny\n"}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 2, "d": 4}}, ["b.d: 3 -> 4"]),
        ({"a": 1}, {"b": 2}, ["a: 1 -> None", "b: None -> 2"]),
        ({"a": [1, 2]}, {"a": [2, 1]}, ["a: [1, 2] -> [2, 1]"]),
        ({"a": {"b": 1}}, {"a": 5}, ["a: {'b': 1} -> 5"]),
    ],
)
def test_differences_name_the_keys(old: dict, new: dict, expected: list[str]) -> None:
    assert list(record.differences(old, new)) == expected


def test_what_a_stage_needs_is_refused_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is missing; make it with: python convert.py"):
        record.require(tmp_path / "train.jsonl", "make it with: python convert.py")
    with pytest.raises(FileNotFoundError, match="dialogues.jsonl is missing; give eval.file=FILE$"):
        record.require(tmp_path / "dialogues.jsonl", "give eval.file=FILE")
    with pytest.raises(FileNotFoundError, match="is missing; make it with: python convert.py"):
        record.require_finished(tmp_path, "python convert.py")
    stage = opened(tmp_path)
    with pytest.raises(FileNotFoundError, match="unfinished run; finish it with: python convert.py resume=true"):
        record.require_finished(tmp_path, "python convert.py")
    stage.finish()
    assert record.require_finished(tmp_path, "python convert.py") == tmp_path


@pytest.mark.parametrize("stage", ["train", "evaluate/smoke"])
def test_a_run_that_is_not_there_is_told_with_the_names_of_those_that_are(tmp_path: Path, stage: str) -> None:
    def missing(name: str) -> str:
        with pytest.raises(FileNotFoundError) as error:
            record.require_finished(tmp_path / "outputs" / name / "main" / stage, "python train.py")
        return str(error.value).partition("run.json is missing; ")[2]

    assert missing("mien") == "make it with: python train.py", "there is no folder of outputs yet"
    for name in ("mine", "demo", ".trash"):
        opened(tmp_path / "outputs" / name / "main" / "convert").finish()
    opened(tmp_path / "outputs" / "served" / "main" / "evaluate" / "bfcl").finish()
    for name in ("mien", "empty"):
        (tmp_path / "outputs" / name / "main").mkdir(parents=True)
    assert missing("mien") == "there is no run 'mien', but demo, mine, served; make it with: python train.py"
    assert missing("demo") == missing("served") == "make it with: python train.py"
    for number in range(6):
        opened(tmp_path / "outputs" / f"a{number}" / "main" / "convert").finish()
    assert missing("mien").startswith("there is no run 'mien', but a0, a1, a2, a3, a4, a5, demo, mine, ...; make")


def test_a_hash_changes_with_the_content(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert record.file_hash(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://user:p@ss@127.0.0.1:9/v1", "http://127.0.0.1:9/v1"),
        ("HTTP://user:pw@host", "HTTP://host"),
        ("url=https://key@host:8/v1?api_key=hush more", "url=https://host:8/v1 more"),
        ("http://user:it's@host", "http://host"),
        ('http://user:a"b,c@host/v1', "http://host/v1"),
        ("http://user:pw@[::1]:8000/v1", "http://[::1]:8000/v1"),
        ("[http://a:1,http://u:p@b/v1?key=hush,https://k@[::1]/v1]", "[http://a:1,http://b/v1,https://[::1]/v1]"),
        ("http://u:p@a/v1,HTTPS://u:p@b/v1", "http://a/v1,HTTPS://b/v1"),
        ("http://a/b,c?key=hush", "http://a/b,c"),
        ("http://web/to/http://u:p@b/?key=hush", "http://web/to/http://b/"),
        ("""evaluate.py 'url="http://u:p@h/v1?k=1"' b=c@d""", """evaluate.py 'url="http://h/v1"' b=c@d"""),
        ("""'url=http://u:it'"'"'s@h/v1' b=c@d""", "'url=http://h/v1' b=c@d"),
    ],
)
def test_an_address_is_masked_whole_and_nothing_else_is_lost(text: str, expected: str) -> None:
    assert record.masked(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "https://host/@scope/a@b, me@example.com",
        "'http://a:1' and 'me@example.com'",
        '{"a":"http://a:1","b":"me@example.com"}',
        '["http://a:1","me@example.com"]',
        "{url: http://a:1, mail: me@example.com}",
        "see (http://[::1]:8/v1); write to me@example.com",
        "http://a,http://b:1/v1#part",
    ],
)
def test_text_without_secrets_in_its_addresses_is_left_as_it_is(text: str) -> None:
    assert record.masked(text) == text
