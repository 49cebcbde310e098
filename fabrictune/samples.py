"""What a model in training answers to a few test requests: generated in process, greedily, for a human to read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from fabrictune import attention
from fabrictune.dialogue import Exchange, Reply

PROMPT_SHOWN = 300  # characters of a prompt's end, where the user's question stands
BATCH = 8
# A model's own generation_config may ask for a penalty or for sampling, which would hide what it has learned.
GREEDY = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 50}  # transformers' defaults, about which it does not warn


def choose(exchanges: Sequence[Exchange], count: int) -> list[Exchange]:
    """`count` of the exchanges, or all if there are fewer: the sources take turns, each evenly from first to last."""
    by_source: dict[str, list[Exchange]] = {}
    for exchange in exchanges:
        by_source.setdefault(exchange.source, []).append(exchange)
    shares = dict.fromkeys(by_source, 0)
    while sum(shares.values()) < min(count, len(exchanges)):
        shares[min((s for s in shares if shares[s] < len(by_source[s])), key=lambda s: shares[s])] += 1
    return [own[place * len(own) // shares[name]] for name, own in by_source.items() for place in range(shares[name])]


def generate(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
    stop_ids: Sequence[int],
) -> list[Reply]:
    """The model's greedy replies, without the stop token; each equals what the prompt alone would give.

    No random number is drawn, and the model is left in the mode that it was in. Under ZeRO-3 every rank must call it.
    """
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stop_ids[0]
    settings = GenerationConfig(
        **GREEDY, **SAMPLING, max_new_tokens=max_new_tokens, eos_token_id=list(stop_ids), pad_token_id=pad
    )
    encoded = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    # Those of one length together, since what pads a batch is computed like any token.
    order = sorted(range(len(prompts)), key=lambda index: len(encoded[index]))
    replies: dict[int, Reply] = {}
    with attention.generating(model), torch.no_grad():
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            made = _generate_batch(model, [encoded[index] for index in part], pad, settings)
            replies |= {
                index: _reply(tokens, tokenizer, set(stop_ids)) for index, tokens in zip(part, made, strict=True)
            }
    return [replies[index] for index in range(len(prompts))]


def rows(
    exchanges: Sequence[Exchange], prompts: Sequence[str], replies: Sequence[Reply]
) -> list[dict[str, str | bool | int]]:
    """One row an exchange, for samples.jsonl and W&B's table."""
    return [
        {
            "source": exchange.source,
            "dialogue": exchange.dialogue,
            "turn": exchange.turn,
            "call": exchange.step,
            "prompt_end": prompt[-PROMPT_SHOWN:],
            "expected": exchange.reply_text,
            "reply": reply.text,
            "stopped": reply.stopped,
        }
        for exchange, prompt, reply in zip(exchanges, prompts, replies, strict=True)
    ]


def _generate_batch(
    model: torch.nn.Module, prompts: list[list[int]], pad: int, settings: GenerationConfig
) -> list[list[int]]:
    """The new tokens after each prompt. Prompts are padded on the left: all end where their reply begins."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
    seen = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    device = attention.device_of(model)
    made = attention.inner(model).generate(
        input_ids=ids.to(device), attention_mask=seen.to(device), generation_config=settings, use_cache=True
    )
    return made[:, width:].tolist()


def _reply(tokens: list[int], tokenizer: PreTrainedTokenizerBase, stops: set[int]) -> Reply:
    end = next((place for place, token in enumerate(tokens) if token in stops), len(tokens))
    return Reply(tokenizer.decode(tokens[:end], skip_special_tokens=False), stopped=end < len(tokens))
