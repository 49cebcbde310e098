"""A rank notes how it ended and never outlives those who wait for it; a request to stop is heard once and obeyed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from test_processes import eventually

from fabrictune.train import ranks

ROOT = Path(__file__).resolve().parent.parent
BEGIN = """
import os, sys, time
from pathlib import Path
from fabrictune.train import ranks
with ranks.rank() as rank:
    print("speaks", flush=True)
"""


def start(notes: Path, body: str, number: int = 0, several: bool = False, **environment: str) -> subprocess.Popen[str]:
    """A rank of our own, without a launcher between."""
    notes.mkdir(exist_ok=True)
    settings = {"PYTHONPATH": str(ROOT), "RANK": str(number), "WORLD_SIZE": "2", ranks.NOTES: str(notes)}
    if not several:
        settings[ranks.STARTER] = str(os.getpid())
    script = BEGIN + "".join(f"    {line}\n" for line in body.splitlines())
    words = [sys.executable, "-u", "-c", script]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(words, env=os.environ | settings | environment, text=True, **pipes)


def run(notes: Path, body: str, number: int = 0, **environment: str) -> tuple[int, str, ranks.Note]:
    process = start(notes, body, number, **environment)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output, ranks.read_notes(notes)[-1]


def begun(notes: Path) -> bool:
    return bool(ranks.read_notes(notes))


def test_results_are_left_for_train_py_and_the_process_ends_with_the_block(tmp_path: Path) -> None:
    code, output, note = run(tmp_path / "notes", 'rank.results = {"loss": 0.5}\nprint(rank.number, rank.count)')
    assert (code, note.code) == (0, 0)
    assert output == "speaks\n0 2\n"
    assert '"loss": 0.5' in (tmp_path / "notes" / ranks.RESULT).read_text()
    assert not (tmp_path / "notes" / ranks.FAILED).exists()


def test_an_error_of_a_user_is_noted_in_its_own_words_and_the_traceback_kept(tmp_path: Path) -> None:
    code, output, note = run(tmp_path / "notes", 'raise ValueError("no\\n  such file")')
    assert (code, note.code, note.error, note.message) == (1, 1, "ValueError", "no such file")
    assert abs(note.time - time.time()) < 60 and not note.another
    assert output == "speaks\n"
    assert "Traceback" in (tmp_path / "rank-0.log").read_text()
    assert (tmp_path / "notes" / ranks.FAILED).exists(), "the others can see it"


def test_an_error_of_ours_is_shown_whole(tmp_path: Path) -> None:
    _, output, note = run(tmp_path / "notes", "assert 2 + 2 == 5, 'sum'")
    assert note.message == "AssertionError: sum"
    assert "Traceback" in output


def test_the_traceback_of_a_users_error_is_shown_on_request(tmp_path: Path) -> None:
    _, output, _ = run(tmp_path / "notes", "raise ValueError('no')", FABRICTUNE_TRACE="1")
    assert "Traceback" in output


def test_all_ranks_but_the_first_write_into_their_logs(tmp_path: Path) -> None:
    code, output, note = run(tmp_path / "notes", "os.system('echo from C')\nraise OSError('full')", number=3)
    assert (code, note.number, note.message) == (1, 3, "full")
    assert output == ""
    log = (tmp_path / "rank-3.log").read_text()
    assert "speaks" in log and "from C" in log and "OSError: full" in log


@pytest.mark.parametrize(("words", "code"), [("sys.exit(7)", 7), ("raise KeyboardInterrupt", 1), ("sys.exit('no')", 1)])
def test_other_ends_have_their_code(tmp_path: Path, words: str, code: int) -> None:
    assert run(tmp_path / "notes", words)[0] == code


def test_an_error_about_another_rank_is_known_as_one(tmp_path: Path) -> None:
    message = "[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4711"
    assert run(tmp_path / "notes", f"raise RuntimeError({message!r})")[2].another
    assert not run(tmp_path / "notes", "raise ValueError('closed by peer')")[2].another


LOOP = """
while not rank.stop.requested():
    time.sleep(0.01)
raise ranks.Stopped("saved step 3")
"""


def test_the_note_of_train_py_stops_a_rank_with_the_code_that_says_so(tmp_path: Path) -> None:
    process = start(tmp_path / "notes", LOOP)
    assert eventually(lambda: begun(tmp_path / "notes"))
    (tmp_path / "notes" / ranks.STOP).touch()
    assert process.wait(60) == ranks.STOPPED == 75
    (note,) = ranks.read_notes(tmp_path / "notes")
    assert (note.code, note.message, note.failed) == (75, "saved step 3", False)


def test_sigterm_stops_a_rank_and_ctrl_c_is_left_to_train_py(tmp_path: Path) -> None:
    process = start(tmp_path / "notes", LOOP)
    assert process.stdout and process.stdout.readline() == "speaks\n"
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == ranks.STOPPED


def test_a_rank_whose_train_py_is_not_above_it_ends_at_once(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "100"])
    try:
        process = start(tmp_path / "notes", "time.sleep(100)", FABRICTUNE_STARTER=str(stranger.pid))
        assert process.wait(60) == 1
    finally:
        stranger.kill()
        stranger.wait()
    (note,) = ranks.read_notes(tmp_path / "notes")
    assert "killed" in note.message and note.another


def test_ranks_on_several_nodes_end_where_train_py_no_longer_touches_its_note(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    process = start(notes, "ranks.SILENCE = 2\ntime.sleep(100)", several=True)
    assert eventually(lambda: begun(notes))
    for _ in range(40):
        (notes / ranks.ALIVE).touch()
        time.sleep(0.1)
    assert process.poll() is None, "touched for twice as long as it may be silent"
    assert process.wait(60) == 1
    assert ranks.read_notes(notes)[0].message == "train.py was killed"


def test_a_rank_that_waits_for_one_that_failed_ends_after_a_while(tmp_path: Path) -> None:
    began = time.monotonic()
    process = start(tmp_path / "notes", "time.sleep(100)")
    (tmp_path / "notes" / ranks.FAILED).touch()
    assert process.wait(60) == 1
    assert time.monotonic() - began >= ranks.PATIENCE, "it may end by itself, with more to say"
    (note,) = ranks.read_notes(tmp_path / "notes")
    assert note.another and note.failed


@pytest.mark.parametrize("pid", [1, None], ids=["another's", "gone"])
def test_a_rank_whose_notes_a_later_run_has_cleared_ends_and_leaves_no_more(tmp_path: Path, pid: int | None) -> None:
    notes = tmp_path / "notes"
    process = start(notes, "time.sleep(100)", several=True)
    assert process.stdout and process.stdout.readline() == "speaks\n"
    note = json.loads((notes / "rank0.json").read_text())
    shutil.rmtree(notes)
    notes.mkdir()
    if pid:
        (notes / "rank0.json").write_text(json.dumps(note | {"pid": pid}))
    assert process.wait(60) == 1
    assert [(left.pid, left.code) for left in ranks.read_notes(notes)] == ([(pid, None)] if pid else [])
    assert not (notes / ranks.FAILED).exists(), "which the later run would take for its own"


def test_a_rank_ends_and_says_so_where_its_spare_room_cannot_be_given_back(tmp_path: Path) -> None:
    body = "spare = Path(os.environ[ranks.NOTES]) / (ranks.SPARE + '0')\nspare.unlink()\nspare.mkdir()\n"
    code, _, note = run(tmp_path / "notes", body + "raise OSError('away')")
    assert (code, note.message) == (1, "away")


def test_a_file_system_that_cannot_say_is_no_request_to_stop(tmp_path: Path) -> None:
    note = tmp_path / ("x" * 300)
    with pytest.raises(OSError, match="too long"):
        note.exists()
    assert not ranks.Stop(note).requested()


def test_a_rank_leaves_no_temporary_folder(tmp_path: Path) -> None:
    body = "import tempfile\nkept = tempfile.TemporaryDirectory()\nprint(kept.name, Path(kept.name).exists())"
    _, output, _ = run(tmp_path / "notes", body, TMPDIR=str(tmp_path))
    name, existed = output.splitlines()[1].split()
    assert existed == "True" and Path(name).parent == tmp_path
    assert not Path(name).exists()


def test_a_request_is_heard_once_and_the_handlers_are_put_back() -> None:
    known = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with ranks.stopping() as stop:
        assert not stop.requested()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)  # as a terminal and a program above us may both send
        time.sleep(0.1)
        assert stop.requested() and stop.signal == signal.SIGTERM
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == known


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_second_request_later_on_ends_the_program(
    monkeypatch: pytest.MonkeyPatch, number: int, error: type[BaseException]
) -> None:
    monkeypatch.setattr(ranks, "TWICE", 0.05)
    with pytest.raises(error) as raised, ranks.stopping() as stop:
        os.kill(os.getpid(), number)
        time.sleep(0.2)
        assert stop.requested()
        os.kill(os.getpid(), number)
        time.sleep(1)
    assert not isinstance(raised.value, SystemExit) or raised.value.code == 143


def test_in_another_thread_no_request_arrives() -> None:
    heard: list[bool] = []

    def work() -> None:
        with ranks.stopping() as stop:
            heard.append(stop.requested())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert heard == [False]


def test_a_stop_that_nobody_handles_is_the_programs_exit_code() -> None:
    script = "from fabrictune.train.ranks import Stopped\nraise Stopped('saved')"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == ranks.STOPPED
