"""Real clients, each in an environment of its own: how one is played, and the dialogues that all of them play."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from fabrictune import protocol
from fabrictune.dialogue import Dialogue
from fabrictune.sources import synthetic

HERE = Path(__file__).parent
ENVIRONMENTS = Path(os.environ.get("CLIENTS", HERE.parents[1] / ".venvs"))
# ModelScope-Agent's RolePlay, in both generations one script.
ROLE_PLAYS = {"role_play": protocol.V072, "role_play_april": protocol.APRIL}
TOOLS_CLIENTS = ("openai_sdk", "langchain")  # those that speak the OpenAI interface's tools=
SEED = 20260  # of dialogues that no conf/ generates
DEADLINE = 300.0  # seconds for a client; RolePlay takes 9 where nothing else runs, and 70 on a machine that is busy


@dataclass(frozen=True)
class Heard:
    """What a client did: the answer to each query, the calls it ran, and in how many pieces it got its replies."""

    answers: list[str]
    calls: list[dict[str, Any]]
    pieces: int


def play(client: str, folder: Path, url: str, model: str, dialogue: Dialogue, *, stream: bool) -> Heard:
    """The dialogue's queries asked by the client, whose tools answer from the dialogue. Skips where it is not built."""
    python = ENVIRONMENTS / client / "bin" / "python"
    if not python.exists():
        pytest.skip(f"the client {client} is not installed in {ENVIRONMENTS}; make test-clients installs it")
    results = [{**asdict(step.call), "observation": step.observation} for turn in dialogue.turns for step in turn.steps]
    case = {
        "url": url,
        "key": "EMPTY",
        "model": model,
        "tools": [asdict(tool) for tool in dialogue.tools],
        "instruction": dialogue.instruction,
        "queries": [turn.query for turn in dialogue.turns],
        "results": results,
        "stream": stream,
    }
    given, said = folder / "case.json", folder / "said.json"
    given.write_text(json.dumps(case, ensure_ascii=False), encoding="utf-8")
    # The clients leave files where they are run, and some ask the environment for proxies and keys.
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "NO_PROXY": "*", "LANG": "C.UTF-8"}
    done = subprocess.run(
        [python, HERE / f"play_{client.removesuffix('_april')}.py", given, said],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert said.exists(), f"{client} ended with exit code {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}"
    return Heard(**json.loads(said.read_text(encoding="utf-8")))


def dialogues(language: str, calls: int, turns: int = 1) -> Iterator[Dialogue]:
    """Generated dialogues cut to their first turns, the last of which makes so many calls, without end."""
    for dialogue in synthetic.generate(SEED, 10**9, languages=(language,)):
        kept = dialogue.turns[:turns]
        if len(kept) == turns and len(kept[-1].steps) == calls and isinstance(dialogue.instruction, str):
            yield replace(dialogue, turns=kept)
