"""Exchange -> token ids and loss weights, given a tokenizer."""

from __future__ import annotations

from dataclasses import dataclass

import jinja2
import numpy as np
from transformers import PreTrainedTokenizerBase

from fabrictune.dialogue import Exchange


@dataclass(frozen=True)
class Encoded:
    """One exchange as tokens: `ids` (T,) int64 and `weights` (T,) float32, the loss weight of predicting each token."""

    ids: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


def encode(exchange: Exchange, tokenizer: PreTrainedTokenizerBase, end: int) -> Encoded:
    """The request through the chat template, then the reply's spans, then the token `end` that ends it.

    Weight 0 on the request, whatever it repeats of earlier replies and observations; each span's own weight on its
    tokens; 1 on the end token. The reply is tokenised apart from the request, as a server continues it.
    """
    ids = tokenizer(prompt(exchange, tokenizer), add_special_tokens=False)["input_ids"]
    weights = [0.0] * len(ids)
    reply = tokenizer(exchange.reply_text, add_special_tokens=False, return_offsets_mapping=True)
    ids += reply["input_ids"]
    weights += _span_weights(exchange, [start for start, _ in reply["offset_mapping"]])
    return Encoded(np.array([*ids, end], np.int64), np.array([*weights, 1.0], np.float32))


def prompt(exchange: Exchange, tokenizer: PreTrainedTokenizerBase) -> str:
    """The request through the chat template. A last message of the assistant's stays open: the reply goes on in it.

    Raises ValueError if the template refuses the messages; some take no system message.
    """
    *asked, last = exchange.messages
    is_open = last.role == "assistant"
    kept = asked if is_open else exchange.messages
    messages = [{"role": message.role, "content": message.content} for message in kept]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except jinja2.TemplateError as error:
        roles = ", ".join(message.role for message in kept)
        raise ValueError(
            f"the chat template refuses messages of {roles} ({error}): {tokenizer.name_or_path}; choose another model="
        ) from error
    # Templates strip an assistant's message or add thoughts to it, so none may write an open one.
    begun = last.content if is_open else ""
    return f"{text}{begun}"


def require_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises ValueError if the tokenizer has no chat template, which every prompt needs."""
    if not tokenizer.chat_template:
        raise ValueError(
            f"{tokenizer.name_or_path}: its tokenizer has no chat template; choose a chat (Instruct) model"
        )


def _span_weights(exchange: Exchange, starts: list[int]) -> list[float]:
    """The weight of the span in which each token starts; the reply is tokenised whole, as the model will write it."""
    edges, weights = [0], []
    for span in exchange.reply:
        edges.append(edges[-1] + len(span.text))
        weights.append(span.weight)
    return [weights[min(int(np.searchsorted(edges, start, side="right")) - 1, len(weights) - 1)] for start in starts]
