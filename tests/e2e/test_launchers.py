"""Two ranks under the real launchers, adding up numbers for ever: how a run ends, and that nothing is left of it."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from subprocess import Popen

import psutil
import pytest

from fabrictune import processes

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.e2e

STAND_IN = """
import json, os, sys, time
from pathlib import Path
from fabrictune.train import launching, ranks

kind, mode, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])

def train(rank):
    import torch
    from torch import distributed
    if mode == "deepspeed's own start":
        launching.use_no_compiler()
        import deepspeed
        deepspeed.init_distributed(verbose=False)
    else:
        distributed.init_process_group("gloo")
    note = folder / f".pid{rank.number}"
    note.write_text(str(os.getpid()))
    note.rename(folder / f"pid{rank.number}")
    for step in range(1, 100_000):
        numbers = torch.tensor([1.0, float(rank.stop.requested())])
        distributed.all_reduce(numbers)
        if numbers[1] and mode != "deaf":
            raise ranks.Stopped(f"saved step {step}")
        if mode == "fails" and step == 3 and rank.number == 1:
            raise ValueError("the loss is nan")
        if mode.endswith("start") and step == 3:
            environment = {name: os.environ[name] for name in ("MASTER_PORT", "OMP_NUM_THREADS")}
            return {"sum": numbers[0].item(), "words": sys.argv[4:]} | environment
        time.sleep(0.02)

if ranks.is_rank():
    with ranks.rank() as rank:
        print("rank", rank.number, "speaks", flush=True)
        rank.results = train(rank)
try:
    grace = 6 if mode == "deaf" else 100
    hosts = folder / "hosts" if (folder / "hosts").exists() else None
    gpus = None if hosts else 2
    results = launching.launch(kind, gpus, Path(sys.argv[0]), sys.argv[1:], folder, hosts, grace)
    print("results:", json.dumps(results))
except launching.RankFailed as error:
    print("error:", error)
    sys.exit(error.exit_code)
except ranks.Stopped as stopped:
    print("stopped:", stopped)
    raise
"""


# In the place of the network: every host is this machine, with a login's bare environment.
SSH = """#!/bin/bash
echo 127.0.0.1
"""
PDSH = """#!/bin/bash
while [ "${1#-}" != "$1" ]; do case $1 in -w) hosts=$2; shift 2;; -f) shift 2;; *) shift;; esac; done
number=0
for host in ${hosts//,/ }; do
    command="$*"
    env -i HOME="$HOME" PATH="$PATH" bash -c "${command//%n/$number}" &
    number=$((number + 1))
done
code=0
for job in $(jobs -p); do wait $job || code=$?; done
exit $code
"""


class Run:
    """The stand-in of train.py, started; its ranks by their process ids."""

    def __init__(self, folder: Path, kind: str, mode: str, *more: str) -> None:
        self.folder = folder
        folder.mkdir()
        script = folder / "train.py"
        script.write_text(STAND_IN, encoding="utf-8")
        self.words = [sys.executable, str(script), kind, mode, str(folder), *more]
        self.process: Popen[bytes]

    def started(self, stack: ExitStack, **environment: str) -> Run:
        output = stack.enter_context((self.folder / "output").open("a"))
        settings = os.environ | {"PYTHONPATH": str(ROOT)} | environment
        settings.pop("OMP_NUM_THREADS", None)
        self.process = stack.enter_context(processes.program(self.words, settings, output, grace=0))
        family: list[int] = []
        stack.callback(lambda: [psutil.Process(pid).kill() for pid in family if processes.is_running(pid)])
        self.family = family
        return self

    def working(self) -> Run:
        """Waits until both ranks add up; knows all processes of the run then."""
        notes = [self.folder / f"pid{rank}" for rank in range(2)]
        wait_until(lambda: all(note.exists() for note in notes) or self.process.poll() is not None, 120)
        assert self.process.poll() is None, self.output
        self.ranks = [int(note.read_text()) for note in notes]
        self.family += [child.pid for child in psutil.Process(self.process.pid).children(recursive=True)]
        assert set(self.ranks) < set(self.family)
        return self

    def ended(self, seconds: float = 120) -> int:
        """The exit code, once nothing of the run is left."""
        code = self.process.wait(seconds)
        wait_until(lambda: not any(map(processes.is_running, self.family)), 30)
        return code

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text(encoding="utf-8")


def wait_until(condition, seconds: float) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_two_runs_at_once_do_not_meet_and_return_what_rank_0_found(tmp_path: Path, stack: ExitStack) -> None:
    (tmp_path / "temporary").mkdir()
    runs = [Run(tmp_path / f"run{number}", "torchrun", "start") for number in range(2)]
    for run in runs:
        run.started(stack, TMPDIR=str(tmp_path / "temporary"))
    assert [run.process.wait(120) for run in runs] == [0, 0], runs[0].output + runs[1].output
    results = [json.loads(run.output.partition("results:")[2]) for run in runs]
    assert [result["sum"] for result in results] == [2.0, 2.0]
    assert results[0]["MASTER_PORT"] != results[1]["MASTER_PORT"]
    assert results[0]["OMP_NUM_THREADS"] == str(max(1, processes.cpus() // 2))
    assert "rank 0 speaks" in runs[0].output and "rank 1 speaks" not in runs[0].output
    assert "rank 1 speaks" in (runs[0].folder / "rank-1.log").read_text()
    assert not list((tmp_path / "temporary").iterdir()), "nothing is left there"


def test_deepspeed_starts_on_a_machine_without_a_compiler(tmp_path: Path, stack: ExitStack) -> None:
    builds = tmp_path / "builds"
    run = Run(tmp_path / "run", "deepspeed", "deepspeed's own start").started(
        stack, CXX="/nonexistent", TORCH_EXTENSIONS_DIR=str(builds), CUDA_VISIBLE_DEVICES=""
    )
    assert run.process.wait(180) == 0, run.output
    assert json.loads(run.output.partition("results:")[2])["sum"] == 2.0
    assert not list(builds.rglob("*.*")), "nothing was built"


@pytest.mark.parametrize("kind", ["torchrun", "deepspeed"])
def test_a_rank_that_fails_ends_the_run_with_its_message_and_its_code(
    tmp_path: Path, stack: ExitStack, kind: str
) -> None:
    run = Run(tmp_path / "run", kind, "fails").started(stack)
    assert run.process.wait(120) == 1
    log = run.folder / "rank-1.log"
    assert run.output.splitlines() == ["rank 0 speaks", f"error: rank 1: the loss is nan (see {log})"]
    assert "Traceback" in log.read_text(), "where it arose is kept"


@pytest.mark.parametrize("kind", ["torchrun", "deepspeed"])
def test_of_a_rank_that_is_killed_the_signal_is_told(tmp_path: Path, stack: ExitStack, kind: str) -> None:
    run = Run(tmp_path / "run", kind, "works").started(stack).working()
    os.kill(run.ranks[1], signal.SIGKILL)
    assert run.ended() == 128 + signal.SIGKILL, run.output
    assert "rank 1 was killed by SIGKILL" in run.output and "memory" in run.output
    assert "Traceback" not in run.output


@pytest.mark.parametrize(
    ("kind", "number"), [("torchrun", signal.SIGTERM), ("torchrun", signal.SIGINT), ("deepspeed", signal.SIGTERM)]
)
def test_a_request_to_end_saves_and_ends_with_the_code_that_says_so(
    tmp_path: Path, stack: ExitStack, kind: str, number: int
) -> None:
    run = Run(tmp_path / "run", kind, "works").started(stack).working()
    os.kill(run.process.pid, number)
    assert run.ended() == 75, run.output
    assert "stopped: saved step" in run.output


def test_ranks_that_do_not_stop_in_time_are_ended(tmp_path: Path, stack: ExitStack) -> None:
    run = Run(tmp_path / "run", "torchrun", "deaf").started(stack).working()
    run.process.send_signal(signal.SIGTERM)
    assert run.ended() == 128 + signal.SIGTERM
    assert "did not save and stop within 6 s" in run.output and "resume=true" in run.output


def test_a_second_request_ends_the_run_at_once(tmp_path: Path, stack: ExitStack) -> None:
    run = Run(tmp_path / "run", "torchrun", "deaf").started(stack).working()
    run.process.send_signal(signal.SIGINT)
    time.sleep(3)
    run.process.send_signal(signal.SIGINT)
    began = time.monotonic()
    assert run.ended() in (1, 128 + signal.SIGINT, -signal.SIGINT)
    assert time.monotonic() - began < 30
    assert "KeyboardInterrupt" in run.output


@pytest.mark.parametrize("kind", ["torchrun", "deepspeed"])
def test_nothing_outlives_train_py_if_it_is_killed(tmp_path: Path, stack: ExitStack, kind: str) -> None:
    run = Run(tmp_path / "run", kind, "works").started(stack).working()
    run.process.kill()
    run.ended()


@pytest.mark.parametrize("kind", ["torchrun", "deepspeed"])
def test_nothing_outlives_a_launcher_that_is_killed_and_the_run_has_failed(
    tmp_path: Path, stack: ExitStack, kind: str
) -> None:
    run = Run(tmp_path / "run", kind, "works").started(stack).working()
    (launcher,) = {psutil.Process(pid).ppid() for pid in run.ranks}
    os.kill(launcher, signal.SIGKILL)
    assert run.ended() not in (0, 75)
    assert "launcher was killed" in run.output


@pytest.fixture
def nodes(tmp_path: Path) -> dict[str, str]:
    """The environment in which alpha and beta can be reached."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in (("ssh", SSH), ("pdsh", PDSH)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return {"PATH": f"{programs}:{os.environ['PATH']}"}


def test_nodes_of_a_hostfile_train_together_over_ssh(tmp_path: Path, stack: ExitStack, nodes: dict[str, str]) -> None:
    words = ["lora.rank=8", "data.mix={a: 1}", "lora.targets=['q;v']"]
    run = Run(tmp_path / "run", "deepspeed", "start", *words)
    (run.folder / "hosts").write_text("alpha slots=1\nbeta slots=1\n")
    run.started(stack, **nodes)
    assert run.process.wait(180) == 0, run.output
    results = json.loads(run.output.partition("results:")[2])
    assert results["sum"] == 2.0 and results["words"] == words


def test_what_a_killed_run_left_on_its_nodes_ends_when_the_run_is_started_anew(
    tmp_path: Path, stack: ExitStack, nodes: dict[str, str]
) -> None:
    run = Run(tmp_path / "run", "deepspeed", "works")
    (run.folder / "hosts").write_text("alpha slots=1\nbeta slots=1\n")
    run.started(stack, **nodes).working()
    first = run.family
    run.process.kill()
    run.process.wait()
    time.sleep(3)
    assert all(map(processes.is_running, run.ranks)), "nothing tells them yet"
    run.words[3] = "start"
    run.started(stack, **nodes)
    wait_until(lambda: not any(map(processes.is_running, first)), 60)
    assert run.process.wait(180) == 0, run.output
    assert json.loads(run.output.partition("results:")[2].splitlines()[0])["sum"] == 2.0
