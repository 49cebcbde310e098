"""Programs and workers that we started leave nothing behind, work comes back in order, and a free port is free."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import count, islice
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
    deadline = time.monotonic() + 30
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


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no kernel tells it")
def test_a_program_that_is_to_die_with_us_does_so_when_we_are_killed(tmp_path: Path) -> None:
    notes = {dies: tmp_path / str(dies) for dies in (True, False)}
    script = f"""
import os, time
from fabrictune import processes

def shell(note):
    return ["sh", "-c", f"echo $$ > {{note}}.part; mv {{note}}.part {{note}}; exec sleep 1000"]

with (
    processes.program(shell({str(notes[True])!r}), os.environ, dies_with_us=True),
    processes.program(shell({str(notes[False])!r}), os.environ),
):
    time.sleep(1000)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).resolve().parent.parent)
    try:
        doomed, other = (child_of(note) for note in notes.values())
        assert is_running(doomed) and is_running(other)
    finally:
        parent.kill()
        parent.wait()
    try:
        assert eventually(lambda: not is_running(doomed))
        assert is_running(other), "a launcher of ranks is told in another way"
    finally:
        for pid in filter(is_running, (doomed, other)):
            os.kill(pid, signal.SIGKILL)


def test_a_free_port_can_be_listened_on() -> None:
    port = processes.free_port()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()
        assert 1024 <= port <= 65535


def uneven(number: int) -> tuple[int, int]:
    time.sleep(number * 7 % 5 * 0.01)
    return number, os.getpid()


def squared(number: int) -> int:
    if number == 5:
        raise LookupError("no square of 5")
    return number * number


def slow(number: int) -> int:
    time.sleep(0.05)
    return number


def interrupted(number: int) -> int:
    os.kill(os.getpid(), signal.SIGINT)
    return number


def killed(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


class Counted:
    """The numbers from 0, and how many of them were read."""

    def __init__(self) -> None:
        self.read = 0

    def __iter__(self) -> Iterator[int]:
        for number in count():
            self.read += 1
            yield number


def test_results_come_in_the_order_of_the_items_from_several_workers() -> None:
    with processes.workers(3) as pool:
        results = list(processes.in_order(pool, uneven, iter(range(40)), 9))
        pids = {pid for _, pid in results}
        assert [number for number, _ in results] == list(range(40))
        assert len(pids) > 1 and os.getpid() not in pids
        assert list(processes.in_order(pool, squared, [], 9)) == []
        assert list(processes.in_order(pool, squared, [2], 9)) == [4], "fewer items than may be read ahead"
    assert not any(map(is_running, pids))


@pytest.mark.parametrize("ahead", [1, 2, 7])
def test_no_more_is_read_ahead_than_allowed(ahead: int) -> None:
    items = Counted()
    with processes.workers(2) as pool:
        for taken, (number, _) in enumerate(islice(processes.in_order(pool, uneven, items, ahead), 20)):
            assert number == taken
            assert items.read == taken + ahead


def test_an_error_in_a_worker_comes_out_after_the_results_before_it_and_ends_the_reading() -> None:
    items, squares = Counted(), []
    with processes.workers(2) as pool:
        with pytest.raises(LookupError, match="no square of 5"):
            for square in processes.in_order(pool, squared, items, 3):
                squares.append(square)
        assert squares == [0, 1, 4, 9, 16]
        assert items.read == 5 + 3
        assert list(processes.in_order(pool, squared, [6], 3)) == [36], "the workers are still there"


def test_a_worker_that_was_killed_is_an_error_and_the_others_end_too() -> None:
    items = Counted()
    with processes.workers(2) as pool:
        pids = {pool.submit(os.getpid).result() for _ in range(20)}
        with pytest.raises(RuntimeError):
            list(processes.in_order(pool, killed, items, 4))
        assert items.read <= 3 + 4
    assert eventually(lambda: not any(map(is_running, pids)))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_does_not_wait_for_what_is_queued(error: type[BaseException]) -> None:
    with pytest.raises(error), processes.workers(2) as pool:
        for number in range(200):
            pool.submit(slow, number)
        began = time.monotonic()
        raise error
    assert time.monotonic() - began < 2, "200 items would take 5 seconds"


def test_tokenizers_start_no_threads_in_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    with processes.workers(1) as pool:
        assert list(processes.in_order(pool, os.getenv, ["TOKENIZERS_PARALLELISM"], 1)) == ["false"]
    assert "TOKENIZERS_PARALLELISM" not in os.environ


def test_a_request_to_interrupt_goes_past_the_workers() -> None:
    with processes.workers(1) as pool:
        assert list(processes.in_order(pool, interrupted, range(3), 2)) == [0, 1, 2]


def test_results_that_nobody_takes_are_not_waited_for() -> None:
    with processes.workers(2) as pool:
        for number in processes.in_order(pool, slow, count(), 200):
            assert number == 0
            began = time.monotonic()
            break
    assert time.monotonic() - began < 2, "200 items would take 5 seconds"


@pytest.mark.parametrize("busy", [True, False])
def test_no_worker_outlives_a_process_that_is_killed(tmp_path: Path, busy: bool) -> None:
    note = tmp_path / "pids"
    script = f"""
import os, sys, time
from pathlib import Path
from fabrictune import processes

def pid(_):
    time.sleep(0.01)
    return os.getpid()

with processes.workers(3) as pool:
    pids = set()
    while len(pids) < 3:
        pids |= set(processes.in_order(pool, pid, range(9), 9))
    working = [pool.submit(time.sleep, 1000) for _ in range(3)] if {busy} else []
    part = Path({str(note)!r} + ".part")
    part.write_text(" ".join(map(str, pids)))
    part.rename({str(note)!r})
    time.sleep(1000)
"""
    root = Path(__file__).resolve().parent.parent
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=root)
    try:
        assert eventually(note.exists)
        pids = list(map(int, note.read_text(encoding="utf-8").split()))
        assert len(pids) == 3 and all(map(is_running, pids))
    finally:
        parent.kill()
        parent.wait()
    assert eventually(lambda: not any(map(is_running, pids)))


@pytest.mark.parametrize(("quota", "share"), [("max 100000", 1e9), ("100000 100000", 1), ("50000 100000", 1)])
def test_a_container_has_as_many_cpus_as_its_share_of_time_fills(tmp_path: Path, quota: str, share: float) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota}\n", encoding="ascii")
    assert processes.cpus(tmp_path / "cpu.max") == min(share, processes.cpus(tmp_path / "missing"))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere all CPUs of the machine are ours")
def test_a_share_is_rounded_up_and_never_more_than_the_cpus_we_may_use(tmp_path: Path) -> None:
    ours = len(os.sched_getaffinity(0))
    for given, expected in [(ours * 1000 + 1, ours), (ours * 1000 - 1, ours), (ours * 1000 - 999, ours), (1, 1)]:
        (tmp_path / "cpu.max").write_text(f"{given} 1000\n", encoding="ascii")
        assert processes.cpus(tmp_path / "cpu.max") == expected


def test_a_held_port_is_given_to_nobody_else_but_a_server_may_listen_on_it() -> None:
    with processes.held_port() as port, socket.socket() as stranger, socket.socket() as server:
        with pytest.raises(OSError, match="in use"):
            stranger.bind(("", port))
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("", port))
        server.listen()
        socket.create_connection(("127.0.0.1", port), timeout=5).close()


def test_a_program_has_the_grace_that_it_is_given(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    with processes.program(shell_with_a_child(note, "trap '' TERM;"), os.environ, grace=0.2) as shell:
        child_of(note)
        began = time.monotonic()
    assert 0.2 <= time.monotonic() - began < processes.GRACE
    assert shell.returncode == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_the_signal_that_ended_anothers_child_is_known_until_that_one_waits() -> None:
    sleeper = subprocess.Popen(["sleep", "1000"])
    assert processes.is_running(sleeper.pid) and processes.signal_that_ended(sleeper.pid) == 0
    os.kill(sleeper.pid, signal.SIGABRT)
    assert eventually(lambda: not processes.is_running(sleeper.pid))
    assert processes.signal_that_ended(sleeper.pid) == signal.SIGABRT
    sleeper.wait()
    assert not processes.is_running(sleeper.pid) and processes.signal_that_ended(sleeper.pid) == 0
