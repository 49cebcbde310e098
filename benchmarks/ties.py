"""Where two greedy replies to one prompt part, and how far apart the two next tokens' logits are there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fabrictune import protocol
from fabrictune.dialogue import Json

# Two programs that compute in bfloat16 round logits of 16 to 32 in steps of 0.125, and a sum over layers before them
# in another order: tokens that float32 puts so near each other may come out either way.
TIE = 0.25


@dataclass(frozen=True)
class Pair:
    """Two replies, {"text", "stopped"}, to the same messages."""

    messages: list[dict[str, str]]
    replies: tuple[dict[str, Json], dict[str, Json]]

    @property
    def same(self) -> bool:
        return self.replies[0] == self.replies[1]


def pairs(first: dict[str, Json], second: dict[str, Json]) -> Iterator[Pair]:
    """The requests of two rows of predictions that have the same messages: up to the first reply that differs."""
    for messages, *replies in zip(requests(first), first["replies"], second["replies"], strict=False):
        pair = Pair(messages, (replies[0], replies[1]))
        yield pair
        if not pair.same:
            return


def requests(row: dict[str, Json]) -> Iterator[list[dict[str, str]]]:
    """The messages of each request of a row: those of the first, and what each call adds to the last of them."""
    *before, last = row["prompt"]
    content = last["content"]
    yield row["prompt"]
    for reply, call in zip(row["replies"], row["calls"], strict=False):
        found = protocol.APRIL.find_call(reply["text"])
        assert found is not None
        content += protocol.trace(found[2], call["observation"])
        yield [*before, last | {"content": content}]


def gaps(folder: str, parted: Sequence[Pair]) -> list[float | None]:
    """How far apart, in float32, the logits of the first tokens that differ are.

    None where a reply ended by the bound on tokens just where the other goes on, so that one of them is not known. A
    reply says not whether its end token or the stop string ended it; the nearer one counts.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]

    @torch.inference_mode()
    def gap(pair: Pair) -> float | None:
        prompt = tokenizer.apply_chat_template(pair.messages, tokenize=False, add_generation_prompt=True)
        prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        first, second = (_written(tokenizer, reply, ends) for reply in pair.replies)
        found = []
        for common, left, right in filter(None, (parting(one, other) for one in first for other in second)):
            ids = torch.tensor([prompt_ids + common])
            logits = model(input_ids=ids, logits_to_keep=1).logits[0, -1]
            found.append(abs(logits[left] - logits[right]).item())
        return min(found, default=None)

    return [gap(pair) for pair in parted]


def _written(tokenizer: Any, reply: dict[str, Json], ends: Sequence[int]) -> list[list[int]]:
    """The token ids that a reply may consist of, with what may have ended it."""
    ids = tokenizer(reply["text"], add_special_tokens=False)["input_ids"]
    if not reply["stopped"]:
        return [ids]
    stopped = tokenizer(reply["text"] + protocol.STOP[0], add_special_tokens=False)["input_ids"]
    return [*([*ids, end] for end in ends), stopped]


def parting(first: Sequence[int], second: Sequence[int]) -> tuple[list[int], int, int] | None:
    """What two sequences begin with in common, and the next element of each; None where one begins the other."""
    for at, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return list(first[:at]), left, right
    return None
