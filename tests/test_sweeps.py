"""Sweeps: points of the command line, Optuna's, and jobs of a SLURM cluster that is played by four small programs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from hydra import compose, initialize_config_dir

from fabrictune.config import typed
from fabrictune.convert import conversion

ROOT = Path(__file__).resolve().parent.parent

# What submitit calls on a cluster. sbatch keeps the script and runs each of its jobs here, again after a `requeue`.
CLUSTER = f"""#!{sys.executable}
import os, re, subprocess, sys
from pathlib import Path
me, words, folder = Path(sys.argv[0]).name, sys.argv[1:], Path(sys.argv[0]).resolve().parent
if me == "sbatch":
    script = Path(words[0]).read_text()
    (folder / "script.sh").write_text(script)
    array = re.search(r"--array=0-(\\d+)", script)
    for task in range(int(array[1]) + 1 if array else 1):
        node = [folder / "node", str(task)] + (["array"] if array else [])
        subprocess.Popen(node, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print("Submitted batch job 77")
elif me == "node":
    job = "77_" + words[0] if words[1:] else "77"
    ids = {{"SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": words[0]}} if words[1:] else {{}}
    again = True
    while again:
        subprocess.run(["bash", folder / "script.sh"], env=os.environ | ids | {{"SLURM_JOB_ID": "77"}})
        again = (folder / ("requeue-" + job)).exists()
        (folder / ("requeue-" + job)).unlink(missing_ok=True)
elif me == "srun":
    start = words.index(sys.executable)
    with (folder / "jobs.log").open("a") as log:
        sys.exit(subprocess.run(words[start:], stdout=log, stderr=log).returncode)
elif me == "scontrol":
    (folder / ("requeue-" + words[1])).touch()
    (folder / "requeued").touch()
"""


def overrides(model: Path, outputs: Path, *more: str) -> list[str]:
    return [
        *("model=folder", f"model.id={model}", "model.dtype=float32", f"outputs={outputs}", "name=sweep"),
        *("data.mix.synthetic.count=24", "data.test_ratio=0.2", "data.max_length=4000", "train.row_tokens=4000"),
        *("train.batch_size=2", "train.max_steps=2", "train.eval_steps=2", "train.eval_dialogues=1", "eval.every=0"),
        *("wandb.mode=disabled", "train.weight_decay=1e-2", *more),
    ]


@pytest.fixture(scope="module")
def converted(tiny_model, tmp_path_factory) -> Path:
    outputs = tmp_path_factory.mktemp("converted")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        conversion.convert(typed(compose("config", overrides(tiny_model, outputs))))
    return outputs / "sweep" / "main" / "convert"


@pytest.fixture
def words(converted, tiny_model, tmp_path) -> Iterator[list[str]]:
    """What every sweep on the converted data begins with; its runs, below tmp_path/out/sweep, end with the test."""
    shutil.copytree(converted, tmp_path / "out" / "sweep" / "main" / "convert")
    yield overrides(tiny_model, tmp_path / "out")
    for process in of(tmp_path):
        with suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.fixture
def cluster(tmp_path) -> dict[str, str]:
    """The environment with a cluster's commands; tmp_path/cluster holds what they were given."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    for name in ("sbatch", "node", "srun", "sacct", "scontrol"):
        (folder / name).write_text(CLUSTER)
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def of(folder: Path, word: str = "") -> list[psutil.Process]:
    """The processes whose command lines name the folder, and the word."""
    found = psutil.process_iter(["cmdline"])
    return [each for each in found if str(folder) in (line := " ".join(each.info["cmdline"] or [])) and word in line]


def start(
    words: list[str], environment: dict[str, str] | None = None, program: str = "train.py"
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, program, *words],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def script(words: list[str], environment: dict[str, str] | None = None, program: str = "train.py") -> tuple[int, str]:
    process = start(words, environment, program)
    said = process.communicate(timeout=600)[0]
    return process.returncode, said


def points(folder: Path) -> dict[str, dict]:
    """run.json of the sweep's points, by variant."""
    return {path.parent.parent.name: json.loads(path.read_text()) for path in folder.glob("out/sweep/*/train/run.json")}


@pytest.mark.e2e
def test_the_failing_point_of_a_sweep_is_named_at_its_end_and_the_others_are_trained(words, tmp_path) -> None:
    code, said = script(["-m", *words, "lora.rank=2,4", "lora.targets=[q_proj],[c_attn]"])
    assert code == 1 and "Traceback" not in said
    table = (tmp_path / "out" / "sweep" / "train.csv").read_text()
    assert table.splitlines()[0].startswith("variant,lora.rank,best_by,best,") and len(table.splitlines()) == 3
    done = {name: run["finished"] is not None for name, run in points(tmp_path).items()}
    assert [name for name in sorted(done) if done[name]] == [
        "lora.rank-2+lora.targets-_q_proj_",
        "lora.rank-4+lora.targets-_q_proj_",
    ]
    last = [line for line in said.splitlines() if line.startswith("failed: ")]
    assert [line.split(": ")[1] for line in last] == [f"lora.rank-{rank}+lora.targets-_c_attn_" for rank in (2, 4)]
    assert all("'c_attn' is no linear layer" in line for line in last)
    assert said.splitlines()[-4:-2] == last, "Hydra adds how to see more"


@pytest.mark.e2e
def test_the_ranks_of_a_point_that_another_process_trains_train_that_point(words, tmp_path) -> None:
    ranks = ["hydra/launcher=submitit_local", "launcher=torchrun", "launcher.gpus=1", "train.max_steps=1"]
    code, said = script(["-m", *words, *ranks, "lora.rank=2,4"])
    assert code == 0, said[-3000:]
    assert set(points(tmp_path)) == {"lora.rank-2", "lora.rank-4"}
    for rank in (2, 4):
        adapter = tmp_path / "out" / "sweep" / f"lora.rank-{rank}" / "train" / "best" / "adapter_config.json"
        assert json.loads(adapter.read_text())["r"] == rank


@pytest.mark.e2e
def test_a_sweep_of_the_mix_converts_each_point_with_its_own_share_of_chat(tiny_model, tmp_path) -> None:
    chat = tmp_path / "chat.jsonl"
    chat.write_text("".join(json.dumps({"query": f"What is {n}?", "response": "So."}) + "\n" for n in range(240)))
    words = [*overrides(tiny_model, tmp_path / "out"), f"+data.mix.general={{source: messages, path: {chat}}}"]
    words += ["data.general_test=10", "train.max_steps=1"]
    code, said = script([*words, "+sweep=mix"], program="convert.py")
    assert code == 0, said[-3000:]
    held = set()
    for ratio in (0, 1, 2, 4):
        folder = tmp_path / "out" / "sweep" / f"mix{ratio}" / "convert"
        stats = json.loads((folder / "stats.json").read_text())["sources"]
        agent, general = (stats[name]["train"]["dialogues"] for name in ("synthetic", "general"))
        assert agent > 0 and general == ratio * agent
        held.add((folder / "test_general.jsonl").read_text())
    assert len(held) == 1 and len(held.pop().splitlines()) == 10
    code, said = script([*words, "variant=mix2", "++data.mix.general.ratio=2"])
    assert code == 0, said[-3000:]
    trained = json.loads((tmp_path / "out" / "sweep" / "mix2" / "train" / "stats.json").read_text())["sources"]
    assert trained["general"]["dialogues"] == 2 * trained["synthetic"]["dialogues"]


def test_a_sweep_of_the_mix_without_general_chat_says_what_it_lacks(tiny_model, tmp_path) -> None:
    code, said = script([*overrides(tiny_model, tmp_path / "out"), "+sweep=mix"], program="convert.py")
    assert code == 1 and "Traceback" not in said
    assert "data.mix.general.source" in said.splitlines()[-1]
    assert not list(tmp_path.rglob("run.json"))


@pytest.mark.e2e
def test_a_search_goes_on_where_it_was_stopped(words, tmp_path) -> None:
    search = [*words, "+sweep=lr_search", "hydra.sweeper.sampler.n_startup_trials=1"]
    code, said = script([*search, "hydra.sweeper.n_trials=2"])
    assert code == 0, said[-3000:]
    first = points(tmp_path)
    assert len(first) == 2 and all(re.fullmatch(r"search-lr-[\d.e-]+-rank-(4|8|16|32)", name) for name in first)
    assert all(1e-5 <= run["settings"]["train"]["learning_rate"] <= 1e-3 for run in first.values())
    code, said = script([*search, "hydra.sweeper.n_trials=3"])
    assert code == 0, said[-3000:]
    assert said.count("is finished already") == 2
    both = points(tmp_path)
    assert len(both) == 3 and all(both[name] == run for name, run in first.items())
    best = min(both.values(), key=lambda run: run["results"]["best"])
    found = (tmp_path / "out" / "sweep" / "optimization_results.yaml").read_text()
    assert f"best_value: {best['results']['best']}" in found
    assert f"train.learning_rate: {best['settings']['train']['learning_rate']}" in found


@pytest.mark.e2e
def test_points_on_slurm_ask_for_a_node_each_and_are_named_as_here(words, cluster, tmp_path) -> None:
    sizes = ["hydra.launcher.partition=long", "hydra.launcher.timeout_min=60", "hydra.launcher.gpus_per_node=4"]
    code, said = script(["-m", *words, "+cluster=slurm", *sizes, "lora.rank=2,4", "train.max_steps=1"], cluster)
    assert code == 0, said[-3000:]
    assert {name for name, run in points(tmp_path).items() if run["finished"]} == {"lora.rank-2", "lora.rank-4"}
    lines = (tmp_path / "cluster" / "script.sh").read_text().splitlines()
    asked = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    assert asked >= {
        *("array=0-1%2", "nodes=1", "ntasks-per-node=1", "gpus-per-node=4", "cpus-per-task=64", "mem=0", "time=60"),
        *("partition=long", "signal=USR2@360", "requeue", "open-mode=append", "job-name=sweep"),
    }
    (command,) = [line for line in lines if line.startswith("srun ")]
    assert sys.executable in command and "submitit.core._submit" in command


@pytest.mark.e2e
def test_a_point_that_runs_out_of_time_saves_and_goes_on_as_the_queue_lets_it(words, cluster, tmp_path) -> None:
    steps = [
        "train.epochs=3",
        "train.max_steps=-1",
        "train.eval_steps=1000",
        "train.logging_steps=1",
        "hydra.launcher.timeout_min=1",
    ]
    process = start([*words, "+cluster=slurm", *steps], cluster)
    metrics = tmp_path / "out" / "sweep" / "main" / "train" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    for each in of(tmp_path, " -u -m submitit.core._submit"):
        if each.cmdline()[1] == "-u":  # the job and the workers that it forked, but not srun, whose words name it
            each.send_signal(signal.SIGUSR2)  # as SLURM does signal_delay_s before the end
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said[-3000:] + (tmp_path / "cluster" / "jobs.log").read_text()[-3000:]
    assert (tmp_path / "cluster" / "requeued").exists()
    run = points(tmp_path)["main"]
    assert run["finished"] and len(run["resumed"]) == 1
    steps_seen = [json.loads(line)["step"] for line in metrics.read_text().splitlines() if '"loss"' in line]
    assert steps_seen == list(range(1, 31)), "no step is trained twice, since it saved when it was told"
