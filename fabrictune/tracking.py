"""Where a training run's curves go: metrics.jsonl always, Weights & Biases as far as there is a key."""

from __future__ import annotations

import json
import netrc
import os
from pathlib import Path

from transformers import TrainerCallback

WANDB_HOST = "api.wandb.ai"


class MetricsFile(TrainerCallback):
    """Appends every set of metrics that Trainer logs to a file, one JSON object a line, as it comes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_log(self, args, state, control, logs=None, **_):  # type: ignore[no-untyped-def]
        if state.is_world_process_zero and logs:
            line = json.dumps({"step": state.global_step, **logs})
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


def set_up(mode: str, project: str, folder: Path) -> str:
    """Settles how W&B runs, in the environment it reads, and returns that mode. Never asks, never waits for a network.

    `auto` is online where a key is at hand and offline elsewhere; without a key `online` would end in a prompt.
    """
    chosen = ("online" if _has_key() else "offline") if mode == "auto" else mode
    if chosen == "online" and not _has_key():
        raise ValueError(
            "wandb.mode=online needs a key: set WANDB_API_KEY or run `wandb login`, or use wandb.mode=offline"
        )
    os.environ["WANDB_MODE"] = chosen
    os.environ["WANDB_PROJECT"] = project
    os.environ["WANDB_DIR"] = str(folder)
    os.environ["WANDB_SILENT"] = "true"
    return chosen


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators(WANDB_HOST) is not None
    except (OSError, netrc.NetrcParseError):
        return False
