"""TRL's SFTTrainer, timed by benchmarks/train.py in an environment of its own; imports nothing of the project.

Prompts and completions with the loss on the completion, as TRL's documentation has it. With "packing", rows of
`max_length` tokens of whole examples (best-fit decreasing).

    PEER/bin/python benchmarks/train_trl.py SETTINGS.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer


def pair(line: str, tokenizer: Any) -> dict[str, str]:
    """Prompt and completion as text. TRL adds the token that ends the completion, and takes the first one off."""
    row = json.loads(line)
    prompt = tokenizer.apply_chat_template(row["messages"], tokenize=False, add_generation_prompt=True)
    return {"prompt": prompt, "completion": "".join(span["text"] for span in row["reply"])}


def train(settings: dict[str, Any]) -> dict[str, Any]:
    """Trains and saves the adapter; returns seconds, steps and tokens computed, with the padding."""
    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    with open(settings["data"], encoding="utf-8") as file:
        data = Dataset.from_list([pair(line, tokenizer) for line in file])
    out = Path(settings["out"])
    trainer = SFTTrainer(
        model=settings["model"],
        args=SFTConfig(
            output_dir=str(out),
            model_init_kwargs={"dtype": "bfloat16"},
            max_length=settings["max_length"],
            completion_only_loss=True,
            packing=settings["packing"],
            gradient_checkpointing=False,
            **settings["trainer"],
        ),
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=settings["rank"],
            lora_alpha=settings["alpha"],
            lora_dropout=0.0,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
    )
    trained = trainer.train()
    trainer.save_model(str(out / "adapter"))
    return {
        "seconds": trained.metrics["train_runtime"],
        "steps": trained.global_step,
        "tokens": trainer.state.num_input_tokens_seen,
    }


def main(path: Path) -> None:
    settings = json.loads(path.read_text(encoding="utf-8"))
    (Path(settings["out"]) / "trained.json").write_text(json.dumps(train(settings)), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
