"""What a model in training replies to test requests, always the same ones: generated greedily, and judged.

A reply ends where a server would end it: at a token that ends the model's message, or before a stop string of the
client's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from fabrictune import protocol
from fabrictune.dialogue import Exchange, Reply
from fabrictune.log import progress
from fabrictune.model import encoding
from fabrictune.score import scoring
from fabrictune.score.scoring import ReplyVerdict
from fabrictune.score.testset import spaced
from fabrictune.train import attention

PROMPT_SHOWN = 300  # characters of a prompt's end, where the user's question stands
BATCH = 8
# A model's own generation_config may ask for a penalty or for sampling, which would hide what it has learned.
GREEDY = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "use_cache": True}
SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 50}  # transformers' defaults, about which it does not warn


def choose(exchanges: Sequence[Exchange], count: int) -> list[Exchange]:
    """`count` of the exchanges, or all if there are fewer: the sources take turns, each evenly from first to last."""
    by_source: dict[str, list[Exchange]] = {}
    for exchange in exchanges:
        by_source.setdefault(exchange.source, []).append(exchange)
    shares = dict.fromkeys(by_source, 0)
    while sum(shares.values()) < min(count, len(exchanges)):
        shares[min((s for s in shares if shares[s] < len(by_source[s])), key=lambda s: shares[s])] += 1
    return [exchange for name, own in by_source.items() for exchange in spaced(own, shares[name])]


class Sample:
    """Test exchanges and how replies to them are generated, of `max_new_tokens` at most, and judged by a dialect."""

    def __init__(
        self,
        exchanges: Sequence[Exchange],
        tokenizer: PreTrainedTokenizerBase,
        dialect: protocol.Dialect,
        max_new_tokens: int,
    ) -> None:
        self.exchanges = list(exchanges)
        self.tokenizer, self.dialect, self.max_new_tokens = tokenizer, dialect, max_new_tokens
        self.prompts = [encoding.prompt(exchange, tokenizer) for exchange in exchanges]

    def generate(
        self, model: torch.nn.Module, rank: int, ranks: int, before_batch: Callable[[], None]
    ) -> dict[int, Reply]:
        """This rank's replies, by the exchange's place; `generate` says the rest."""
        ends = end_tokens(model, self.tokenizer)
        bounds = (self.max_new_tokens, ends, protocol.STOP)
        return generate(model, self.tokenizer, self.prompts, *bounds, rank, ranks, before_batch)

    def verdicts(self, replies: Mapping[int, Reply]) -> list[ReplyVerdict]:
        """One an exchange, whose replies are all there."""
        return judge(self.exchanges, [replies[place] for place in range(len(self.exchanges))], self.dialect)

    def rows(self, replies: Mapping[int, Reply], verdicts: Sequence[ReplyVerdict]) -> list[dict[str, str | bool | int]]:
        """One row an exchange, for samples.jsonl and W&B's table."""
        return [
            {
                "source": exchange.source,
                "dialogue": exchange.dialogue,
                "turn": exchange.turn,
                "call": exchange.step,
                "prompt_end": self.prompts[place][-PROMPT_SHOWN:],
                "expected": exchange.reply_text,
                "reply": replies[place].text,
                "stopped": replies[place].stopped,
                "verdict": ", ".join((*verdict.kinds, *verdict.malformed)) or "right",
            }
            for place, (exchange, verdict) in enumerate(zip(self.exchanges, verdicts, strict=True))
        ]


def judge(exchanges: Sequence[Exchange], replies: Sequence[Reply], dialect: protocol.Dialect) -> list[ReplyVerdict]:
    """The verdict on each exchange's reply, by what was expected."""
    pairs = zip(exchanges, replies, strict=True)
    return [scoring.judge_reply(exchange.reply_text, reply, dialect) for exchange, reply in pairs]


def metrics(exchanges: Sequence[Exchange], verdicts: Sequence[ReplyVerdict], prefix: str) -> dict[str, float]:
    """The mean of each measure over the exchanges that it applies to, as `PREFIX_call_exact`; none if to none.

    Where there are several sources also that of each, as `PREFIX_call_exact/SOURCE`.
    """
    values: dict[str, list[float]] = {}
    several = len({exchange.source for exchange in exchanges}) > 1
    for exchange, verdict in zip(exchanges, verdicts, strict=True):
        for name, value in _measured(verdict).items():
            for suffix in ("", f"/{exchange.source}") if several else ("",):
                values.setdefault(f"{prefix}_{name}{suffix}", []).append(value)
    return {name: sum(found) / len(found) for name, found in values.items()}


def measurable(exchanges: Sequence[Exchange], dialect: protocol.Dialect, prefix: str) -> set[str]:
    """The metrics that these exchanges have whatever a model replies."""
    expected = [Reply(exchange.reply_text, stopped=True) for exchange in exchanges]
    return set(metrics(exchanges, judge(exchanges, expected, dialect), prefix))


def _measured(verdict: ReplyVerdict) -> dict[str, float]:
    """The measures that apply to one reply, 0 or 1 each but for ROUGE-L, which lies between."""
    kinds = set(verdict.kinds)
    found: dict[str, float] = {}
    if verdict.step is not None:
        found["call_exact"] = verdict.step.exact
        found["no_call"] = "no_call" in kinds
        found["wrong_tool"] = bool(kinds & {"wrong_tool", "unknown_tool"})
        found["wrong_args"] = "wrong_arguments" in kinds
    else:
        found["needless_call"] = "needless_call" in kinds
    if verdict.step is not None or verdict.called is not None or verdict.malformed:
        found["malformed"] = bool(verdict.malformed)
    if verdict.rouge_l is not None:
        found["rouge_l"] = verdict.rouge_l
    found["not_stopped"] = "not_stopped" in kinds
    return found


def end_tokens(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens at which a server ends a reply: the template's, the tokenizer's, and what the model itself names."""
    return encoding.reply_ends(tokenizer, attention.inner(model).generation_config.eos_token_id)


def generate(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
    stop_ids: Sequence[int],
    stops: Sequence[str] = (),
    rank: int = 0,
    ranks: int = 1,
    before_batch: Callable[[], None] = lambda: None,
) -> dict[int, Reply]:
    """The model's greedy replies to this rank's share of the prompts, by their places; without what stopped them.

    Each equals what the prompt alone would give. No random number is drawn, and the model is left in the mode that it
    was in. All ranks compute, and ask `before_batch`, equally often, as ZeRO-3 needs it.
    """
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stop_ids[0]
    settings = GenerationConfig(
        **GREEDY, **SAMPLING, max_new_tokens=max_new_tokens, eos_token_id=list(stop_ids), pad_token_id=pad
    )
    encoded = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    # Those of one length together, since what pads a batch is computed like any token.
    order = sorted(range(len(prompts)), key=lambda place: len(encoded[place]))
    replies: dict[int, Reply] = {}
    with attention.generating(model), torch.no_grad():
        for start in progress(range(0, len(order), BATCH * ranks), "generating"):
            before_batch()
            mine = order[start : start + BATCH * ranks][rank::ranks]
            made = _generate_batch(
                model, [encoded[place] for place in mine or order[:1]], pad, settings, tokenizer, stops
            )
            replies |= {
                place: _reply(tokens, tokenizer, set(stop_ids), stops)
                for place, tokens in zip(mine, made, strict=False)
            }
    return replies


def _generate_batch(
    model: torch.nn.Module,
    prompts: list[list[int]],
    pad: int,
    settings: GenerationConfig,
    tokenizer: PreTrainedTokenizerBase,
    stops: Sequence[str],
) -> list[list[int]]:
    """The new tokens after each prompt. Prompts are padded on the left: all end where their reply begins."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
    seen = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    device = attention.device_of(model)
    made: torch.Tensor = attention.inner(model).generate(
        input_ids=ids.to(device),
        attention_mask=seen.to(device),
        generation_config=settings,
        stopping_criteria=StoppingCriteriaList([_StopStrings(tokenizer, stops, width)] if stops else []),
    )
    replies: list[list[int]] = made[:, width:].tolist()
    return replies


class _StopStrings(StoppingCriteria):
    """Ends each reply of a batch as soon as it holds a stop string.

    transformers' own criterion sees the prompt too, whose end may begin a stop string, and takes 2 to 10 s to be made.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str], width: int) -> None:
        self.tokenizer, self.stops, self.width = tokenizer, stops, width
        self.tail = max(len(stop.encode()) for stop in stops)  # tokens: none is shorter than a byte

    def __call__(self, input_ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        texts = self.tokenizer.batch_decode(input_ids[:, max(self.width, input_ids.shape[1] - self.tail) :])
        found = [any(stop in text for stop in self.stops) for text in texts]
        return torch.tensor(found, device=input_ids.device)


def _reply(tokens: list[int], tokenizer: PreTrainedTokenizerBase, ends: set[int], stops: Sequence[str]) -> Reply:
    end = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
    text = tokenizer.decode(tokens[:end], skip_special_tokens=True)  # as a server's answer has it
    cut = min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))
    return Reply(text[:cut], stopped=end < len(tokens) or cut < len(text))
