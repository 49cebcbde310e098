"""The loss of an adapter over converted rows, for benchmarks/train.py: each supervised token of each row counts once.

python benchmarks/nll.py MODEL ADAPTER_OR_NONE ROWS.jsonl OUT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.train_plain import encoded


def mean_nll(folder: str, adapter: str, rows: Path) -> dict[str, Any]:
    """Mean negative log likelihood in nats of the replies' tokens, ends included, and their number.

    In bfloat16 with float32 softmax, a sequence at a time, through transformers' and peft's own code.
    """
    import torch
    from peft import PeftModel
    from torch.nn.functional import cross_entropy
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    if adapter != "none":
        model = PeftModel.from_pretrained(model, adapter)
    model.eval()
    total, count = 0.0, 0
    with rows.open(encoding="utf-8") as file, torch.inference_mode():
        for line in file:
            ids, prompt = encoded(line, tokenizer)
            targets = torch.tensor(ids[prompt:])
            logits = model(input_ids=torch.tensor([ids[:-1]]), logits_to_keep=len(targets)).logits[0]
            total += cross_entropy(logits.float(), targets, reduction="sum").item()
            count += len(targets)
    return {"nll": total / count, "tokens": count}


if __name__ == "__main__":
    model, adapter, rows, out = sys.argv[1:]
    Path(out).write_text(json.dumps(mean_nll(model, adapter, Path(rows))), encoding="utf-8")
