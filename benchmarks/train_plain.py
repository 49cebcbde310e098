"""The plain loop that benchmarks/train.py times: HF's Trainer and peft, as their documentation has it.

One sequence an exchange, cut at `max_length`, in random order, padded to the longest of its micro-batch; -100 on the
prompt; logits at every position.

    python benchmarks/train_plain.py SETTINGS.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def encoded(line: str, tokenizer: Any) -> tuple[list[int], int]:
    """The token ids of a converted row's prompt, reply and end of reply, and how many of them the prompt has."""
    row = json.loads(line)
    prompt = tokenizer.apply_chat_template(row["messages"], tokenize=False, add_generation_prompt=True)
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    reply = "".join(span["text"] for span in row["reply"])
    reply_ids = tokenizer(reply, add_special_tokens=False)["input_ids"]
    return [*prompt_ids, *reply_ids, tokenizer.eos_token_id], len(prompt_ids)


def example(line: str, tokenizer: Any, max_length: int) -> dict[str, list[int]]:
    ids, prompt = encoded(line, tokenizer)
    labels = [-100] * prompt + ids[prompt:]
    return {"input_ids": ids[:max_length], "labels": labels[:max_length]}


def train(settings: dict[str, Any]) -> dict[str, Any]:
    """Trains and saves the adapter; returns seconds, steps and tokens computed, with the padding."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    set_seed(settings["seed"])
    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    with open(settings["data"], encoding="utf-8") as file:
        examples = [example(line, tokenizer, settings["max_length"]) for line in file]
    lora = LoraConfig(
        r=settings["rank"],
        lora_alpha=settings["alpha"],
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.bfloat16), lora)
    out = Path(settings["out"])
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(out),
            bf16=True,
            train_sampling_strategy=settings["sampling"],
            **settings["trainer"],
        ),
        train_dataset=examples,
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )
    trained = trainer.train()
    trainer.save_model(str(out / "adapter"))
    return {
        "seconds": trained.metrics["train_runtime"],
        "steps": trained.global_step,
        "tokens": trainer.state.num_input_tokens_seen,
        "is_main": trainer.is_world_process_zero(),
    }


def main(path: Path) -> None:
    settings = json.loads(path.read_text(encoding="utf-8"))
    trained = train(settings)
    if trained.pop("is_main"):
        (Path(settings["out"]) / "trained.json").write_text(json.dumps(trained), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
