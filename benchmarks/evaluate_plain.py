"""The plain loop that benchmarks/evaluate.py times: transformers' generate, as its documentation has it.

One request after another, or of so many turns at a time, whose requests are padded to one batch. The turns, the tools'
answers and the judge are those of the suite agentfabric.

    python benchmarks/evaluate_plain.py SETTINGS.json
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fabrictune import protocol
from fabrictune.dialogue import Json, Message, Reply
from fabrictune.evaluate.suites import agentfabric
from fabrictune.evaluate.tasks import Asked, Task
from fabrictune.score import testset

Messages = list[dict[str, str]]
Generate = Callable[[Sequence[Messages]], list[Reply]]


def generator(folder: str, max_new_tokens: int, stops: Sequence[str] = protocol.STOP) -> Generate:
    """Greedy replies to a batch of requests, each cut at the first of the client's stop strings as vLLM cuts it.

    A prompt that leaves no room for the reply gets an empty one that did not stop, as evaluate.py counts it.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, StoppingCriteriaList, StopStringCriteria

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    room = model.config.max_position_embeddings - max_new_tokens
    # Made once; generate(stop_strings=...) would make it anew for each request, which takes half a second.
    stopping = StoppingCriteriaList([StopStringCriteria(tokenizer, list(stops))])
    ends = model.generation_config.eos_token_id
    ends = set(ends) if isinstance(ends, list) else {ends}

    def reply(ids: list[int]) -> Reply:
        text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        cut = min((text.find(stop) for stop in stops if stop in text), default=None)
        return Reply(text[:cut], stopped=cut is not None or not ends.isdisjoint(ids))

    @torch.inference_mode()
    def generate(requests: Sequence[Messages]) -> list[Reply]:
        texts = [
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) for messages in requests
        ]
        fitting = [text for text in texts if len(tokenizer(text, add_special_tokens=False)["input_ids"]) <= room]
        replies = {}
        if fitting:
            inputs = tokenizer(fitting, add_special_tokens=False, padding=True, return_tensors="pt")
            made = model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=max_new_tokens,
                stopping_criteria=stopping,
            )
            written = made[:, inputs["input_ids"].shape[1] :].tolist()
            replies = dict(zip(fitting, map(reply, written), strict=True))
        return [replies.get(text, Reply("", stopped=False)) for text in texts]

    return generate


async def play(tasks: Sequence[Task], generate: Generate, at_once: int) -> list[dict[str, Json]]:
    """The rows of the tasks, so many played at a time; what these ask is generated when all of them wait for it."""
    left, rows = iter(tasks), []
    waiting: list[tuple[Messages, asyncio.Future[Reply]]] = []
    playing = 0

    def answer_if_all_wait() -> None:
        if waiting and len(waiting) == playing:
            asked = waiting.copy()
            waiting.clear()
            for (_, future), reply in zip(asked, generate([messages for messages, _ in asked]), strict=True):
                future.set_result(reply)

    async def ask(body: dict[str, Json]) -> Reply:
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        waiting.append((body["messages"], future))
        answer_if_all_wait()
        return await future

    async def nothing(messages: Sequence[Message]) -> None:
        """The suite needs no likelihoods."""

    async def work() -> None:
        nonlocal playing
        for task in left:
            row = await task.play(Asked("plain", ask, nothing))
            rows.append({"key": task.key, "dialogue": task.dialogue} | row)
        playing -= 1
        answer_if_all_wait()

    playing = min(at_once, len(tasks))
    await asyncio.gather(*(work() for _ in range(playing)))
    return rows


def evaluate(settings: dict[str, Any]) -> tuple[list[dict[str, Json]], float]:
    """The rows, and the seconds that they took once the model was there."""
    tests = testset.read(Path(settings["tests"]), settings["dialogues"])
    tasks = agentfabric.tasks(tests, protocol.APRIL)
    generate = generator(settings["model"], settings["max_new_tokens"])
    start = time.monotonic()
    rows = asyncio.run(play(tasks, generate, settings["batch"]))
    return rows, time.monotonic() - start


def main(path: Path) -> None:
    settings = json.loads(path.read_text(encoding="utf-8"))
    rows, seconds = evaluate(settings)
    out = Path(settings["out"])
    lines = [json.dumps(row) + "\n" for row in rows]
    (out / "predictions.jsonl").write_text("".join(lines), encoding="utf-8")
    (out / "played.json").write_text(json.dumps({"seconds": seconds}), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
