"""A program that we started leaves nothing behind, and a free port is free."""

import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from fabrictune import processes


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def eventually(condition) -> bool:
    deadline = time.monotonic() + 5
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def shell_with_a_child(note: Path, before: str = "") -> list[str]:
    return ["sh", "-c", f"{before} sleep 1000 & echo $! > {note}.part; mv {note}.part {note}; wait"]


def child_of(note: Path) -> int:
    assert eventually(note.exists)
    return int(note.read_text(encoding="utf-8"))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_ends_the_program_and_its_own_child(tmp_path: Path, error: type[BaseException]) -> None:
    note = tmp_path / "pid"
    with pytest.raises(error), processes.program(shell_with_a_child(note), os.environ) as shell:
        child = child_of(note)
        assert is_running(child) and is_running(shell.pid)
        raise error
    assert shell.returncode is not None
    assert eventually(lambda: not is_running(child))


def test_a_request_to_end_us_ends_the_program_and_its_own_child(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    known = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit), processes.program(shell_with_a_child(note), os.environ):
        child = child_of(note)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert eventually(lambda: not is_running(child))
    assert signal.getsignal(signal.SIGTERM) is known


def test_a_program_that_does_not_heed_the_request_is_ended_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "GRACE", 0.2)
    note = tmp_path / "pid"
    with processes.program(shell_with_a_child(note, "trap '' TERM;"), os.environ) as shell:
        child = child_of(note)
    assert shell.returncode == -signal.SIGKILL
    assert eventually(lambda: not is_running(child))


def test_a_program_that_ended_by_itself_keeps_its_exit_code_and_what_it_wrote(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        command = ["sh", "-c", 'echo "$WORD"; echo aside >&2; exit 3']
        with processes.program(command, {"PATH": os.environ["PATH"], "WORD": "hello"}, log) as shell:
            shell.wait(timeout=10)
    assert shell.returncode == 3
    assert (tmp_path / "log").read_text(encoding="utf-8") == "hello\naside\n"


def test_a_program_may_run_in_another_thread(tmp_path: Path) -> None:
    ended: list[int | None] = []

    def work() -> None:
        with processes.program(["sleep", "1000"], os.environ) as sleeper:
            pass
        ended.append(sleeper.returncode)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(timeout=20)
    assert ended == [-signal.SIGTERM]


def test_a_free_port_can_be_listened_on() -> None:
    port = processes.free_port()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()
        assert 1024 <= port <= 65535
