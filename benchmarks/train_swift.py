"""ms-swift's `swift sft`, timed by benchmarks/train.py in an environment of its own; imports nothing of the project.

Rows of messages, the loss on the last reply only (`--loss_scale last_round`).

    PEER/bin/python benchmarks/train_swift.py SETTINGS.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from swift.pipelines import sft_main


def row(line: str) -> str:
    """The converted row with its reply as the last of the messages."""
    converted = json.loads(line)
    reply = {"role": "assistant", "content": "".join(span["text"] for span in converted["reply"])}
    return json.dumps({"messages": [*converted["messages"], reply]}, ensure_ascii=False)


def words(settings: dict[str, Any], data: Path) -> list[str]:
    """The arguments of `swift sft`. Its own defaults that differ from the other sides' settings are named."""
    options: dict[str, Any] = settings["trainer"] | {
        "model": settings["model"],
        "model_type": "llama",
        "template": "chatml",
        "dataset": data,
        "tuner_type": "lora",
        "target_modules": "all-linear",
        "lora_rank": settings["rank"],
        "lora_alpha": settings["alpha"],
        "lora_dropout": 0,
        "torch_dtype": "bfloat16",
        "max_length": settings["max_length"],
        "loss_scale": "last_round",
        "packing": settings["packing"],
        "gradient_checkpointing": False,
        "adam_beta2": 0.999,
        "split_dataset_ratio": 0,
        "dataloader_num_workers": 0,
        "check_model": False,
        "output_dir": settings["out"],
        "add_version": False,
        "save_strategy": "epoch",
        "save_only_model": True,
    }
    return [word for key, value in options.items() for word in (f"--{key}", str(value))]


def main(path: Path) -> None:
    settings = json.loads(path.read_text(encoding="utf-8"))
    out = Path(settings["out"])
    data = out / "messages.jsonl"
    with open(settings["data"], encoding="utf-8") as file:
        data.write_text("".join(f"{row(line)}\n" for line in file), encoding="utf-8")
    result = sft_main(words(settings, data))
    history = {key: value for entry in result["log_history"] for key, value in entry.items()}
    Path(result["last_model_checkpoint"]).rename(out / "adapter")
    trained = {
        "seconds": history["train_runtime"],
        "steps": result["global_step"],
        "tokens": history["num_input_tokens_seen"],
    }
    (out / "trained.json").write_text(json.dumps(trained), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
