"""The scripts in a row, as a user types them: a tiny random model, two steps on two ranks, real vLLM over HTTP."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import openai
import pytest
import requests
import torch
from conftest import tiny_run
from safetensors.torch import load_file, save_file

from fabrictune import processes, protocol
from fabrictune.dialogue import Message

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.e2e


def script(name: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"{name}.py", *overrides]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def overrides(tmp_path_factory) -> list[str]:
    ranks = ["launcher=deepspeed", "launcher.gpus=2"]
    return tiny_run(tmp_path_factory.mktemp("e2e"), *ranks, "serve.cpu_memory_gib=1", "eval.max_new_tokens=8")


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


def test_serve_becomes_vllm_with_adapters_behind_a_key_and_says_how_to_try_it(run, overrides) -> None:
    port = processes.free_port()
    log = run / "serve.log"
    settings = [
        *overrides,
        f"serve.port={port}",
        f"+serve.adapters.tuned={run / 'train' / 'best'}",
        f"+serve.adapters.other={randomly(run / 'train' / 'best', run / 'other')}",
        "serve.strict=true",
        "serve.dtype=float32",  # how many share a batch must not decide between two tokens
    ]
    environment = os.environ | {"VLLM_API_KEY": "s3cret"}
    address = f"http://127.0.0.1:{port}/v1"
    with (
        log.open("w") as output,
        processes.program([sys.executable, str(ROOT / "serve.py"), *settings], environment, output) as process,
    ):
        client = openai.OpenAI(base_url=address, api_key="s3cret", max_retries=0)
        names = wait_for(lambda: [model.id for model in client.models.list().data], process, log)
        assert names == ["base", "tuned", "other"]
        command = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode().split("\0")
        assert "vllm.entrypoints.openai.api_server" in command, "serve.py replaces itself with vLLM"
        assert "s3cret" not in " ".join(command) + log.read_text()

        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=address, api_key="EMPTY", max_retries=0).models.list()
        assert requests.post(f"http://127.0.0.1:{port}/invocations", json={}).status_code == 401
        curl = next(line for line in log.read_text().splitlines() if line.startswith("curl "))
        answer = json.loads(subprocess.run(["sh", "-c", curl], env=environment, capture_output=True).stdout)
        assert answer["model"] == "tuned" and answer["choices"][0]["message"]["role"] == "assistant"

        row = json.loads((run / "convert" / "test.jsonl").read_text().splitlines()[0])
        asked = protocol.request("tuned", [Message(**message) for message in row["messages"]])
        bounded = client.chat.completions.create(**asked, max_tokens=8)
        assert bounded.choices[0].message.role == "assistant", "the grammar of serve.strict is one that vLLM takes"

        alone = {name: reply_of(client, name) for name in names}
        assert alone["base"] != alone["other"]
        with ThreadPoolExecutor(3 * len(names)) as threads:
            asked = 3 * names
            together = threads.map(partial(reply_of, client), asked)
            assert list(together) == [alone[name] for name in asked], "each answers as itself in a batch of several"

        taken = script("serve", *overrides, f"serve.port={port}")
        assert taken.returncode == 1 and f"{port}" in taken.stderr and "serve.port=" in taken.stderr
        process.send_signal(signal.SIGINT)
        process.wait(60)


def reply_of(client: openai.OpenAI, model: str) -> str:
    messages = [{"role": "user", "content": "Hello, who are you?"}]
    reply = client.chat.completions.create(model=model, messages=messages, max_tokens=32)  # type: ignore[arg-type]
    return str(reply.choices[0].message.content)


def randomly(adapter: Path, folder: Path) -> Path:
    """A copy of the adapter that changes the base at random: two steps of training do not change a word."""
    shutil.copytree(adapter, folder)
    weights = load_file(folder / "adapter_model.safetensors")
    noise = torch.Generator().manual_seed(0)
    changed = {name: torch.randn(tensor.shape, generator=noise).to(tensor.dtype) for name, tensor in weights.items()}
    save_file(changed, folder / "adapter_model.safetensors")
    return folder


def wait_for(question, process: subprocess.Popen[bytes], log: Path, seconds: float = 240):  # type: ignore[no-untyped-def]
    """The answer to the question as soon as there is a server to give it."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return question()
        except openai.APIConnectionError:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(1)
