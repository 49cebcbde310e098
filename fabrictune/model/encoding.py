"""Exchange -> token ids and what each token is, given a tokenizer; from those, loss weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jinja2
import numpy as np
from transformers import PreTrainedTokenizerBase

from fabrictune.dialogue import PARTS, Exchange

# What a token is: of the request, of a reply's part (1 and on, as PARTS names them), or the end of the reply.
REQUEST = 0
END = len(PARTS) + 1
_CODES = {part: code for code, part in enumerate(PARTS, 1)}
_PROBE = "a reply"


@dataclass(frozen=True)
class Labelled:
    """One exchange as tokens: `ids` (T,) int32, `parts` (T,) uint8 codes of what each is, `scales` (T,) float32.

    A scale is the row's own weight of the span that the token belongs to; 1 on the request and on the end.
    """

    ids: np.ndarray
    parts: np.ndarray
    scales: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def weighted(self, loss_weights: Mapping[str, float], source: int = 0, number: int = 0) -> Encoded:
        """The exchange with the loss weight of each token: its scale times what `weight_table` gives its part."""
        return Encoded(self.ids, weight_table(loss_weights)[self.parts] * self.scales, source, number)


@dataclass(frozen=True)
class Encoded:
    """One exchange as tokens: `ids` (T,) and `weights` (T,) float32, the loss weight of predicting each token.

    `source` and `number` say which data source and which exchange of the data it is.
    """

    ids: np.ndarray
    weights: np.ndarray
    source: int = 0
    number: int = 0

    def __len__(self) -> int:
        return len(self.ids)


def weight_table(loss_weights: Mapping[str, float]) -> np.ndarray:
    """(END + 1,) float32: the loss weight of each code, 0 for a request and 1 for an end; parts not named have 1.

    Raises ValueError for a part that there is none of, and for a weight that is negative or not finite.
    """
    unknown = sorted(set(loss_weights) - set(PARTS))
    if unknown:
        raise ValueError(f"train.loss_weights names {unknown}; the parts of a reply are {', '.join(PARTS)}")
    for part, weight in loss_weights.items():
        if not 0 <= weight < math.inf:
            raise ValueError(f"train.loss_weights.{part} is {weight}, but must be at least 0 and finite")
    return np.array([0.0, *(loss_weights.get(part, 1.0) for part in PARTS), 1.0], np.float32)


def encode(exchange: Exchange, tokenizer: PreTrainedTokenizerBase, end: int) -> Labelled:
    """The request through the chat template, then the reply's spans, then the token `end` that ends it.

    Raises ValueError as `encode_all` does.
    """
    return encode_all([exchange], tokenizer, end)[0]


def encode_all(exchanges: Sequence[Exchange], tokenizer: PreTrainedTokenizerBase, end: int) -> list[Labelled]:
    """Each exchange as `encode` gives it, tokenised together, which takes less time than one by one.

    The reply is tokenised apart from the request, as a server continues it. Raises ValueError where the template
    refuses the messages, or where a span's weight is not one to train with.
    """
    if not exchanges:
        return []
    parts = [_span_codes(exchange) for exchange in exchanges]
    requests = tokenizer([prompt(exchange, tokenizer) for exchange in exchanges], **_BARE)["input_ids"]
    texts = [exchange.reply_text for exchange in exchanges]
    replies = tokenizer(texts, return_offsets_mapping=True, **_BARE)
    labelled = []
    for exchange, codes, request, reply, offsets in zip(
        exchanges, parts, requests, replies["input_ids"], replies["offset_mapping"], strict=True
    ):
        spans = _spans_of(exchange, np.array([start for start, _ in offsets], np.int64))
        weights = np.array([span.weight for span in exchange.reply], np.float32)
        ids = np.array([*request, *reply, end], np.int32)
        of_parts = np.full(len(ids), REQUEST, np.uint8)
        scales = np.ones(len(ids), np.float32)
        of_parts[len(request) : -1], of_parts[-1] = codes[spans], END
        scales[len(request) : -1] = weights[spans]
        labelled.append(Labelled(ids, of_parts, scales))
    return labelled


# The template has written all special tokens; nothing is padded, so there is no mask to make.
_BARE = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False}


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


def reply_end(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of the token that ends an assistant's message, read off the chat template itself.

    Raises ValueError if the template does not end one.
    """
    question = {"role": "user", "content": "a question"}
    asked = tokenizer.apply_chat_template([question], tokenize=False, add_generation_prompt=True)
    answered = tokenizer.apply_chat_template([question, {"role": "assistant", "content": _PROBE}], tokenize=False)
    tail = answered.removeprefix(asked).removeprefix(_PROBE)
    if len(tail) in (0, len(answered)):
        raise ValueError(
            f"{tokenizer.name_or_path}: its chat template does not end an assistant's message with a token of its own; "
            "choose another model="
        )
    end: int = tokenizer(tail, add_special_tokens=False)["input_ids"][0]
    return end


def reply_ends(tokenizer: PreTrainedTokenizerBase, named: int | list[int] | None) -> list[int]:
    """All tokens at which a server ends a reply: the template's, the tokenizer's, and those that the model `named`."""
    others = named if isinstance(named, list) else [named]
    found = [reply_end(tokenizer), tokenizer.eos_token_id, *others]
    return list(dict.fromkeys(token for token in found if token is not None))


def _span_codes(exchange: Exchange) -> np.ndarray:
    """(spans,) the code of each span's part. Raises ValueError for a weight that cannot be meant."""
    for span in exchange.reply:
        if not 0 <= span.weight < math.inf:
            raise ValueError(f"the span {span.text[:60]!r} has the weight {span.weight}; give 0 or more")
        if span.part == "answer" and span.weight == 0:
            raise ValueError(
                f"the answer {span.text[:60]!r} has the weight 0, and would not be learnt; give it one, or leave the "
                f"exchange out"
            )
    return np.array([_CODES[span.part] for span in exchange.reply], np.uint8)


def _spans_of(exchange: Exchange, starts: np.ndarray) -> np.ndarray:
    """(R,) the span to which each token of the reply belongs, given the characters at which the tokens start.

    It is the span in which a token starts, since the reply is tokenised whole, as the model will write it. An answer
    in which none starts takes the token that covers its beginning, so that it is never without weight.
    """
    edges = np.cumsum([0, *(len(span.text) for span in exchange.reply)])
    spans = np.searchsorted(edges, starts, side="right") - 1
    spans = np.minimum(spans, max(0, len(exchange.reply) - 1))
    for number, span in enumerate(exchange.reply):
        if span.part == "answer" and span.text and len(starts) and number not in spans:
            spans[max(0, int(np.searchsorted(starts, edges[number], side="right")) - 1)] = number
    return spans
