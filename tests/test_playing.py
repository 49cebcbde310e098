"""Tasks are played at a real endpoint; the rows are what stays of them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from endpoint import Endpoint, serving

from fabrictune import protocol
from fabrictune.dialogue import Message
from fabrictune.evaluate import endpoints, playing
from fabrictune.evaluate.tasks import Asked, Task


def task(key: str) -> Task:
    async def play(asked: Asked) -> dict[str, Any]:
        reply = await asked.ask(protocol.request(asked.model, [Message("user", key)]))
        return {"answer": reply.text}

    return Task(key, f"d{key}", {"language": "zh"}, play)


def question(body: dict[str, Any]) -> str:
    text: str = body["messages"][0]["content"]
    return text


def play(endpoint: Endpoint, tasks: Sequence[Task], file: Path, concurrency: int = 4, what: str = "turns") -> None:
    async def run() -> None:
        async with endpoints.connect(
            endpoint.url, model="m", api_key=None, timeout=9, retries=0, max_new_tokens=None, temperature=None
        ) as asked:
            count = len(tasks)
            await playing.play(tasks, asked, "tuned", file, concurrency=concurrency, done=0, total=count, what=what)

    asyncio.run(run())


def test_every_task_becomes_a_line_of_ascii(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    with serving(lambda body: f"答\ud800\u2028{question(body)}") as endpoint:
        play(endpoint, [task(str(number)) for number in range(9)], file)
    assert file.read_bytes().isascii()
    rows = sorted(playing.read(file), key=lambda row: row["key"])
    assert rows[3] == {
        "model": "tuned",
        "key": "3",
        "dialogue": "d3",
        "labels": {"language": "zh"},
        "answer": "答\ud800\u20283",
    }
    assert len(rows) == 9


def test_as_many_are_played_at_a_time_as_asked_for_and_begun_in_order(tmp_path: Path) -> None:
    together = threading.Barrier(3, timeout=5)

    def model(body: dict[str, Any]) -> str:
        together.wait()
        return ""

    with serving(model) as endpoint:
        play(endpoint, [task(str(number)) for number in range(9)], tmp_path / "rows.jsonl", concurrency=3)
        play(endpoint, [], tmp_path / "rows.jsonl")
    assert endpoint.most_at_once == 3
    begun = [question(body) for body in endpoint.bodies]
    assert [sorted(begun[at : at + 3]) for at in (0, 3, 6)] == [list("012"), list("345"), list("678")]


def test_the_bar_names_what_is_played(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(lambda body: "") as endpoint:
        play(endpoint, [task("1")], tmp_path / "rows.jsonl", what="examples")
    assert "tuned: examples" in capsys.readouterr().err


def test_the_first_task_that_fails_ends_the_others_and_rows_stay(tmp_path: Path) -> None:
    file, over = tmp_path / "rows.jsonl", threading.Event()

    def model(body: dict[str, Any]) -> Any:
        if question(body) == "slow":
            over.wait(9)
        return "fine" if question(body) != "bad" else (404, {"error": {"message": "no such model"}})

    begun = time.monotonic()
    with serving(model) as endpoint:
        with pytest.raises(RuntimeError, match="no such model"):
            play(endpoint, [task(key) for key in ("slow", "1", "2", "bad", "never")], file, concurrency=2)
        over.set()
    assert time.monotonic() - begun < 5
    assert [row["key"] for row in playing.read(file)] == ["1", "2"]
    assert "never" not in [question(body) for body in endpoint.bodies]


def test_an_error_of_our_own_names_its_task(tmp_path: Path) -> None:
    async def broken(asked: Asked) -> dict[str, Any]:
        raise KeyError("calls")

    with (
        serving(lambda body: "") as endpoint,
        pytest.raises(AssertionError, match="task '7/1' played at tuned raised KeyError: 'calls'"),
    ):
        play(endpoint, [Task("7/1", "7", {}, broken)], tmp_path / "rows.jsonl")


def test_ctrl_c_keeps_the_rows(tmp_path: Path) -> None:
    file, over = tmp_path / "rows.jsonl", threading.Event()
    words = f"""
import signal; signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background has not
import sys; sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parent.parent)]!r}
from pathlib import Path; from types import SimpleNamespace; import test_playing as t
t.play(SimpleNamespace(url=sys.argv[1]), [t.task("1"), t.task("slow")], Path({str(file)!r}), concurrency=1)
"""

    def model(body: dict[str, Any]) -> str:
        if question(body) == "slow":
            os.kill(child.pid, signal.SIGINT)
            over.wait(9)
        return ""

    with serving(model) as endpoint:
        child = subprocess.Popen([sys.executable, "-c", words, endpoint.url], stderr=subprocess.PIPE, text=True)
        _, errors = child.communicate(timeout=60)
        over.set()
    assert errors.strip().endswith("KeyboardInterrupt")
    assert [row["key"] for row in playing.read(file)] == ["1"]


def test_a_torn_last_line_is_removed_and_a_broken_one_is_named(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    assert playing.read(file) == []
    file.write_text('{"key": "1"}\n{"key": "2", "answer": "ha', encoding="utf-8")
    assert playing.read(file) == [{"key": "1"}]
    assert file.read_text(encoding="utf-8") == '{"key": "1"}\n'
    for broken in ("\0\0\0", "[]"):
        file.write_text(json.dumps({"key": "1"}) + f"\n{broken}\n", encoding="utf-8")
        with pytest.raises(
            ValueError,
            match=r"rows.jsonl:2: not a row .*delete the line and go on with resume=true, or .*overwrite=true",
        ):
            playing.read(file)
