"""The real clients against our served model, through the recording proxy, whole and streamed.

The model is MODEL's, or the demo's. A turn is asked that it gets right when our own client asks: the same must come
out of the real ones, request by request. In an evaluation's words: these tests are about the wire, not about the model.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import httpx2
import pytest
from clients import HERE, ROLE_PLAYS, TOOLS_CLIENTS, Heard, dialogues, play
from transformers import AutoTokenizer

from fabrictune import processes, protocol
from fabrictune.dialogue import Dialogue, Exchange, Json, Played, Reply
from fabrictune.evaluate import endpoints
from fabrictune.formats import agentfabric
from fabrictune.model.encoding import prompt
from fabrictune.score.client import play_turn, recorded_tools

ROOT = HERE.parents[1]
MODEL = Path(os.environ.get("MODEL") or ROOT / "outputs/demo/main/merge/model").resolve()
# The format that the model was trained on; the tools= interface is answered in it.
DIALECT = protocol.DIALECTS[os.environ.get("FORMAT") or "agentfabric"]
NAME = "my-qwen-7b-chat"
CANDIDATES = 32  # turns of a kind that the model is asked; the demo's gets 4 of 10 first calls right
BOUND = 160  # tokens of a reply; the longest that these dialogues want has 110
DEADLINE = 300.0  # seconds for a server to come up

pytestmark = pytest.mark.skipif(
    not (MODEL / "config.json").exists(),
    reason=f"{MODEL} is no model folder; make demo makes one, or give MODEL=FOLDER",
)
STREAM = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
CALLS = pytest.mark.parametrize("calls", [1, 2], ids=["a call", "two calls"])


@dataclass(frozen=True)
class Served:
    """`model` and `proxy` are addresses that end in /v1; `log` is the folder where the proxy keeps exchanges."""

    model: str
    proxy: str
    log: Path

    def exchanges(self) -> list[dict[str, Any]]:
        """What the proxy has recorded, in order."""
        files = sorted(self.log.glob("*.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]

    def prompt(self, body: dict[str, Any]) -> list[int]:
        """The token ids of the prompt that the server makes of a request."""
        asked = {key: body[key] for key in ("model", "messages", "tools") if key in body}
        answer = httpx2.post(self.model.removesuffix("/v1") + "/tokenize", json=asked, trust_env=False)
        return answer.raise_for_status().json()["tokens"]

    def answered(self, body: dict[str, Any]) -> tuple[list[int], str]:
        """The token ids of the prompt that the server answers a request with, and its answer, whole."""
        asked = body | {"stream": False, "return_token_ids": True}
        answer = httpx2.post(f"{self.model}/chat/completions", json=asked, trust_env=False, timeout=DEADLINE)
        said = answer.raise_for_status().json()
        return said["prompt_token_ids"], said["choices"][0]["message"]["content"]


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    outputs = tmp_path_factory.mktemp("outputs")
    run = [f"outputs={outputs}", "name=clients", f"data.format={DIALECT.name}"]
    ports = [processes.free_port(), processes.free_port()]
    model, proxy = (f"http://127.0.0.1:{port}/v1" for port in ports)
    own = [f"serve.model={MODEL}", f"serve.model_name={NAME}", f"serve.max_new_tokens={BOUND}"]
    own += ["serve.strict=true", "serve.react=true"]
    with (
        script(outputs / "serve.log", model, [*run, *own, f"serve.port={ports[0]}", "serve.cpu_memory_gib=1"]),
        script(
            outputs / "capture.log", proxy, [*run, "serve=capture", f"serve.upstream={model}", f"serve.port={ports[1]}"]
        ),
    ):
        yield Served(model, proxy, outputs / "clients" / "main" / "capture")


@contextmanager
def script(log: Path, url: str, overrides: Sequence[str]) -> Iterator[None]:
    """serve.py with these overrides while the block runs, begun when it lists its models."""
    words = [sys.executable, str(ROOT / "serve.py"), *overrides]
    environment = {name: value for name, value in os.environ.items() if name != "VLLM_API_KEY"}
    environment |= {"PYTHONPATH": str(ROOT)}
    with (
        log.open("w", encoding="utf-8") as output,
        processes.program(words, environment, output, dies_with_us=True) as process,
    ):
        begun = time.monotonic()
        while not lists_models(url):
            said = log.read_text(encoding="utf-8", errors="replace")[-3000:]
            assert process.poll() is None, f"serve.py ended with exit code {process.returncode}:\n{said}"
            assert time.monotonic() - begun < DEADLINE, f"serve.py did not come up:\n{said}"
            time.sleep(0.3)
        yield


def lists_models(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/models", trust_env=False, timeout=5).is_success
    except httpx2.HTTPError:
        return False


@dataclass(frozen=True)
class Right:
    """A dialogue of one turn whose calls the model writes as we train it to, with what our own client got."""

    dialogue: Dialogue
    exchanges: list[Exchange]
    played: Played


@pytest.fixture(scope="module")
def right(served):
    """The turn for a dialect and a number of calls, searched for once."""
    found: dict[tuple[str, int], Right] = {}

    def find(dialect: protocol.Dialect, calls: int) -> Right:
        key = dialect.name, calls
        if key not in found:
            found[key] = asyncio.run(search(served.model, dialect, calls))
        return found[key]

    return find


async def search(url: str, dialect: protocol.Dialect, calls: int) -> Right:
    """The first turn of the candidates that the model gets right, alone as well as among the others."""
    candidates = list(islice(dialogues("en", calls), CANDIDATES))
    async with endpoints.connect(
        url, model=NAME, api_key=None, timeout=None, retries=2, max_new_tokens=None, temperature=None
    ) as asked:
        together = await asyncio.gather(*(attempt(asked.ask, one, dialect) for one in candidates))
        for dialogue in (one for one, right in zip(candidates, together, strict=True) if right):
            if alone := await attempt(asked.ask, dialogue, dialect):
                return alone
    pytest.fail(
        f"of {CANDIDATES} turns with {calls} calls in {dialect.name} the model gets none right; give another MODEL="
    )


async def attempt(ask: Any, dialogue: Dialogue, dialect: protocol.Dialect) -> Right | None:
    (turn,) = dialogue.turns
    instruction, tools = dialogue.instruction, dialogue.tools
    played = await play_turn(
        ask, NAME, tools, instruction, "", (), turn.query, recorded_tools(tools, turn), dialect=dialect
    )
    exchanges = list(agentfabric.render(dialogue, "test", dialect=dialect))
    wanted = [exchange.reply_text.removesuffix("Observation:") for exchange in exchanges[:-1]]
    is_right = played.ended and [reply.text for reply in played.replies[:-1]] == wanted
    return Right(dialogue, exchanges, played) if is_right else None


def ask(client: str, folder: Path, served: Served, dialogue: Dialogue, stream: bool) -> tuple[Heard, list[Json]]:
    """What the client did, and what it sent: one entry of the proxy's log a request."""
    before = len(served.exchanges())
    heard = play(client, folder, served.proxy, NAME, dialogue, stream=stream)
    recorded = served.exchanges()[before:]
    assert all(one["status"] == 200 and one["error"] is None for one in recorded)
    assert {one["streamed"] for one in recorded} == {stream}
    assert not stream or heard.pieces > len(recorded)
    return heard, recorded


def trained_on(exchanges: Sequence[Exchange]) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    return [tokenizer(prompt(one, tokenizer), add_special_tokens=False)["input_ids"] for one in exchanges]


def assert_same(heard: Heard, right: Right) -> None:
    """The calls and the answer are those that our own client got."""
    assert heard.calls == [{"name": call.name, "arguments": call.arguments} for call in right.dialogue.calls]
    assert [answer.strip() for answer in heard.answers] == [right.played.answer.strip()]


@STREAM
@CALLS
@pytest.mark.parametrize(("client", "dialect"), ROLE_PLAYS.items(), ids=ROLE_PLAYS)
def test_role_play_plays_a_turn_as_it_was_trained(tmp_path, served, right, client, dialect, calls, stream):
    turn = right(dialect, calls)
    heard, recorded = ask(client, tmp_path, served, turn.dialogue, stream)
    assert_same(heard, turn)
    sent = [one["request"]["messages"] for one in recorded]
    assert sent == [
        [{"role": message.role, "content": message.content} for message in exchange.messages]
        for exchange in turn.exchanges
    ]
    assert [Reply(one["reply"], True) for one in recorded] == list(turn.played.replies)
    assert [served.prompt(one["request"]) for one in recorded] == trained_on(turn.exchanges)


@STREAM
@CALLS
@pytest.mark.parametrize("client", TOOLS_CLIENTS)
def test_a_client_of_the_tools_interface_plays_a_turn_as_it_was_trained(tmp_path, served, right, client, calls, stream):
    turn = right(DIALECT, calls)
    heard, recorded = ask(client, tmp_path, served, turn.dialogue, stream)
    assert_same(heard, turn)
    assert [one["finish_reason"] for one in recorded] == ["tool_calls"] * calls + ["stop"]
    assert [served.prompt(one["request"]) for one in recorded] == trained_on(turn.exchanges)


@CALLS
def test_react_chat_plays_a_turn_as_it_was_trained(tmp_path, served, right, calls):
    """It streams always; the same requests asked once more, whole, get the same replies."""
    turn = right(DIALECT, calls)
    heard, recorded = ask("react_chat", tmp_path, served, turn.dialogue, True)
    assert_same(heard, turn)
    assert not any("tools" in one["request"] for one in recorded)
    assert [one["finish_reason"] for one in recorded] == ["stop"] * (calls + 1)
    answered = [served.answered(one["request"]) for one in recorded]
    assert [prompt for prompt, _ in answered] == trained_on(turn.exchanges)
    assert [said for _, said in answered] == [one["reply"] for one in recorded]
