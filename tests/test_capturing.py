"""serve.py serve=capture as it is run: what it refuses, what it says, and what is left when it ends or is killed."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from endpoint import PASSWORD, Endpoint, serving
from hydra import compose, initialize_config_dir

from fabrictune import processes
from fabrictune.config import Config, typed
from fabrictune.formats import captured
from fabrictune.serve import capturing

ROOT = Path(__file__).resolve().parent.parent
KEY = "sk-client-4711-hush-hush"


def composed(*overrides: str) -> Config:
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        return typed(compose("config", ["serve=capture", *overrides]))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([], "give serve.upstream=URL"),
        (["serve.upstream=dashscope"], "serve.upstream=dashscope is no address"),
        (["serve.upstream=http://a.b:99999/v1"], "is no address"),
        (["serve.upstream='http://u:hush@a.b/v1?key=hush'"], r"serve.upstream=http://a.b/v1 must end with its path"),
        (["serve.upstream=http://localhost:8010/v1"], "is this proxy itself"),
        (["serve.upstream=http://127.0.0.1:8010/v1", "serve.host=0.0.0.0"], "is this proxy itself"),
        (
            ["serve.upstream=http://127.0.0.1:1/v1", "serve.upstream_key_env=NO_SUCH_KEY"],
            "serve.upstream_key_env=NO_SUCH_KEY: that variable",
        ),
        (["serve.upstream=http://127.0.0.1:1/v1", "serve.host=0.0.0.0"], "set FABRICTUNE_CAPTURE_KEY"),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(overrides: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        capturing.capture(composed(f"outputs={tmp_path}", *overrides))
    assert "hush" not in str(caught.value) and not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "default").touch()
    settings = (f"outputs={tmp_path}", "serve.upstream=http://127.0.0.1:1/v1", f"serve.port={processes.free_port()}")
    with pytest.raises(OSError, match="capture cannot be written to"):
        capturing.capture(composed(*settings))


@contextmanager
def proxy(upstream: Endpoint, outputs: Path, *overrides: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The proxy as its users start it, and the address that it says."""
    port = processes.free_port()
    words = [sys.executable, str(ROOT / "serve.py"), "serve=capture", f"serve.port={port}", f"outputs={outputs}"]
    words += [f"serve.upstream={upstream.url}", *overrides]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(words, env=os.environ | {"NO_PROXY": "*"}, **pipes) as process:
        try:
            deadline = time.monotonic() + 60
            while not _answers(f"http://127.0.0.1:{port}/v1"):
                assert process.poll() is None and time.monotonic() < deadline, process.stdout and process.stdout.read()
                time.sleep(0.05)
            yield process, f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()


def _answers(url: str) -> bool:
    try:
        ask_models(url)
    except openai.APIConnectionError:
        return False
    return True


def ask_models(url: str) -> None:
    openai.OpenAI(base_url=url, api_key=KEY, max_retries=0).models.list()


def ask(url: str, messages: Any) -> str:
    sdk = openai.OpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=30)
    return sdk.chat.completions.create(model="m", messages=messages).choices[0].message.content or ""


def test_capture_says_how_to_go_on_lets_requests_end_and_leaves_rows_that_convert_reads(tmp_path: Path) -> None:
    is_asked = threading.Event()

    def model(body: dict[str, Any]) -> str:
        is_asked.set()
        time.sleep(1.0)
        return "一切都好。"

    messages = json.loads((ROOT / "tests/golden/agentfabric/zh.json").read_text("utf-8"))["requests"][0]["messages"]
    basic = base64.b64encode(f"user:{PASSWORD}".encode()).decode()
    with serving(model) as upstream, proxy(upstream, tmp_path, "name=mine", "variant=v2") as (process, url):
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(ask, url, messages)
            assert is_asked.wait(20)
            process.send_signal(signal.SIGTERM)  # while the reply is on its way
            assert asking.result(20) == "一切都好。"
        said, _ = process.communicate(timeout=20)
        assert process.returncode == 0, said
        assert upstream.keys == [f"Basic {basic}"]  # the address's own name and password, not the client's key
    folder = tmp_path / "mine/v2/capture"
    assert f"Recording at {url}" in said and str(folder) in said
    assert f"passes on to   http://127.0.0.1:{upstream.server_port}/v1" in said and PASSWORD not in said
    assert f"data.mix.file.source=agentfabric data.mix.file.path={folder} name=mine variant=v2" in said
    assert "captured 1 exchanges, 0 errors" in said and "Traceback" not in said
    (path,) = folder.iterdir()
    row = json.loads(path.read_text("utf-8"))
    assert row["request"]["messages"] == messages
    assert captured.parse(row).turns[-1].answer == "一切都好。"
    assert not any(secret in path.read_text("utf-8") for secret in (KEY, PASSWORD, "Authorization"))


def test_killed_it_has_all_that_clients_have_and_another_proxy_s_lines_are_its_own(tmp_path: Path) -> None:
    had: dict[str, list[str]] = {"killed": [], "other": []}

    def load(name: str, url: str, number: int) -> None:
        for turn in range(1000):
            said = f"{name} {number} {turn} " + "x" * 5000
            try:
                ask(url, [{"role": "user", "content": said}])
            except openai.APIConnectionError:
                return
            had[name].append(said)
            if name == "other" and is_killed.is_set():
                return

    is_killed = threading.Event()
    with (
        serving(lambda body: "good") as upstream,
        proxy(upstream, tmp_path) as (process, url),
        proxy(upstream, tmp_path) as (_, other),
        ThreadPoolExecutor(8) as pool,
    ):
        loads = [pool.submit(load, "killed", url, number) for number in range(4)]
        loads += [pool.submit(load, "other", other, number) for number in range(4)]
        deadline = time.monotonic() + 60
        while len(had["killed"]) < 30 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()  # SIGKILL
        is_killed.set()
        for one in loads:
            one.result(60)
        with proxy(upstream, tmp_path) as (_, again):
            ask(again, [{"role": "user", "content": "again"}])
    files = sorted((tmp_path / "default/main/capture").iterdir())
    owners: Counter[str] = Counter()
    told: list[str] = []
    for path in files:
        *lines, rest = path.read_bytes().split(b"\n")  # the rest: half a line, if any
        texts = [json.loads(line)["request"]["messages"][0]["content"] for line in lines]
        owners.update({text.split()[0] for text in texts})
        assert len({text.split()[0] for text in texts}) == 1, "a file is one proxy's"
        assert not rest or texts[0].startswith("killed")
        told += texts
    assert owners == {"killed": 1, "other": 1, "again": 1}
    assert set(had["killed"]) | set(had["other"]) <= set(told)
    assert len(told) - len(set(told)) == 0 and len(told) <= len(had["killed"]) + len(had["other"]) + 4 + 1
