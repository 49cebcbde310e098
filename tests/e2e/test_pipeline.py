"""The scripts in a row, as a user types them: a tiny random model, two steps on two ranks, real vLLM over HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import openai
import pytest
from conftest import write_tiny_model

from fabrictune import processes

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.e2e


def script(name: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"{name}.py", *overrides]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def overrides(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("e2e")
    return [
        "model=folder",
        f"model.id={write_tiny_model(folder / 'tiny')}",
        f"outputs={folder / 'outputs'}",
        "name=tiny",
        "data.mix.synthetic.count=16",
        "data.test_ratio=0.2",
        "data.max_length=4000",
        "train.row_tokens=4000",
        "train.max_steps=2",
        "train.eval_steps=2",
        "lora.rank=4",
        "launcher=deepspeed",
        "launcher.gpus=2",
        "serve.cpu_memory_gib=1",
        "eval.max_new_tokens=8",
    ]


@pytest.fixture(scope="module")
def run(overrides) -> Path:
    """The folder of a run that was converted, trained and merged."""
    for name in ("convert", "train", "merge"):
        done = script(name, *overrides)
        assert done.returncode == 0, f"{name}.py: {done.stderr[-3000:]}"
    outputs = next(word.partition("=")[2] for word in overrides if word.startswith("outputs="))
    return Path(outputs) / "tiny" / "main"


def test_the_merged_model_is_served_by_vllm_and_evaluated_over_http(run, overrides) -> None:
    done = script("evaluate", *overrides, "eval.models=[tuned]", "eval.dialogues=2")
    assert done.returncode == 0, done.stderr[-3000:]
    folder = run / "evaluate" / "agentfabric"
    predictions = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert {row["model"] for row in predictions} == {"tuned"}
    assert all(row["replies"] for row in predictions), "every turn was answered by the server"
    scores = json.loads((folder / "scores.json").read_text())["models"]["tuned"]["all"]
    assert scores["rows"] == len(predictions)
    assert scores["measures"]["first_call"]["value"] == 0, "two steps from random weights cannot call a tool"
    assert "first call exact" in (folder / "report.html").read_text()


def test_serve_becomes_vllm_and_says_how_to_try_it(run, overrides) -> None:
    port = processes.free_port()
    log = run / "serve.log"
    with (
        log.open("w") as output,
        processes.program(
            [sys.executable, "serve.py", *overrides, f"serve.port={port}", "serve.model_name=my-agent"],
            os.environ | {"PWD": str(ROOT), "PYTHONPATH": str(ROOT)},
            output,
        ) as process,
    ):
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="EMPTY", max_retries=0)
        names = wait_for(lambda: [model.id for model in client.models.list().data], process, log)
        assert names == ["my-agent"]
        command = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode().split("\0")
        assert "vllm.entrypoints.openai.api_server" in command, "serve.py replaces itself with vLLM"
        curl = next(line for line in log.read_text().splitlines() if line.strip().startswith("curl "))
        answer = subprocess.run(["bash", "-c", curl], capture_output=True, text=True)
        assert json.loads(answer.stdout)["choices"][0]["message"]["role"] == "assistant"

        taken = script("serve", *overrides, f"serve.port={port}")
        assert taken.returncode == 1 and f"{port}" in taken.stderr and "serve.port=" in taken.stderr
        os.killpg(process.pid, signal.SIGINT)


def wait_for(question, process: subprocess.Popen[bytes], log: Path, seconds: float = 240):  # type: ignore[no-untyped-def]
    """The answer to the question as soon as there is a server to give it."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return question()
        except openai.APIConnectionError:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(1)
