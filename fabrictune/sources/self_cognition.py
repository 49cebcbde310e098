"""Dialogues in which users ask the model who it is, and it answers with its own name and its author's."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import count as counting
from itertools import islice

from fabrictune.dialogue import Dialogue, Turn
from fabrictune.sources import self_cognition_en, self_cognition_zh

TEMPLATES: dict[str, tuple[tuple[str, ...], ...]] = {
    "zh": self_cognition_zh.TEMPLATES,
    "en": self_cognition_en.TEMPLATES,
}
# Whom the model is taken for in the templates, and denies to be or to come from.
DENIED = (
    *("ChatGPT", "GPT", "GPT-4", "GPT-4o", "GPT-3.5", "Claude", "Gemini", "Copilot", "Llama", "Mistral", "DeepSeek"),
    *("Qwen", "千问", "通义千问", "ERNIE Bot", "文心一言", "Kimi", "豆包", "星火", "讯飞星火", "小度", "小爱同学"),
    *("Siri", "Alexa", "OpenAI", "Anthropic", "Google", "谷歌", "Meta", "微软", "Alibaba", "阿里巴巴", "百度"),
)


def generate(
    seed: int,
    count: int,
    names: Mapping[str, str],
    authors: Mapping[str, str],
    languages: Sequence[str] = ("zh", "en"),
) -> Iterator[Dialogue]:
    """`count` dialogues of one turn or two, without tools; `names` and `authors` are texts by language.

    Text without a name of its own language bears the other one's. All templates are used before any is used again, in a
    new order each time; any first n dialogues hold the languages in proportion to their templates, to within one.
    Raises ValueError for an unknown language, a missing name, or one that the templates say the model does not bear.
    """
    if not languages:
        raise ValueError(f"self-cognition: languages is empty; choose from {list(TEMPLATES)}")
    unknown = sorted({*languages, *names, *authors} - set(TEMPLATES))
    if unknown:
        raise ValueError(f"self-cognition: unknown language {unknown}; choose from {list(TEMPLATES)}")
    if count < 0:
        raise ValueError(f"self-cognition: count is {count}, but must not be negative")
    values = {
        language: {"NAME": _choose(names, language, "names"), "AUTHOR": _choose(authors, language, "authors")}
        for language in languages
    }
    return islice(_dialogues(seed, values), count)


def _choose(texts: Mapping[str, str], language: str, what: str) -> str:
    """The text in `language`, or else the one there is in the other language."""
    given = {key: text.strip() for key, text in texts.items() if text.strip()}
    if not given:
        raise ValueError(f"self-cognition: {what} is empty; give it for at least one of {list(TEMPLATES)}")
    text = given.get(language) or next(iter(given.values()))
    if text.casefold() in {denied.casefold() for denied in DENIED}:
        raise ValueError(
            f"self-cognition: {what} holds {text!r}, which the templates deny; use a fuller one ('{text} of ...')"
        )
    return text


def _dialogues(seed: int, values: Mapping[str, Mapping[str, str]]) -> Iterator[Dialogue]:
    """Endlessly, pass after pass over all templates."""
    numbers = counting(1)
    for number in counting():
        for language, template in _pass(f"{seed}/self_cognition/{number}", list(values)):
            said = [_fill(text, values[language]) for text in template]
            turns = tuple(Turn(query, (), answer) for query, answer in zip(said[::2], said[1::2], strict=True))
            yield Dialogue(f"self-{next(numbers):04d}", (), turns, family="self_cognition")


def _pass(seed: str, languages: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Every template once, each language's in a random order and spread evenly over the whole."""
    placed = []
    for language in languages:
        rng = random.Random(f"{seed}/{language}")
        templates = rng.sample(TEMPLATES[language], len(TEMPLATES[language]))
        placed += [((k + rng.random()) / len(templates), language, text) for k, text in enumerate(templates)]
    return [(language, text) for _, language, text in sorted(placed)]


def _fill(text: str, values: Mapping[str, str]) -> str:
    """The text with names for placeholders; a name such as "Acme Inc." brings its own full stop."""

    def name(match: re.Match[str]) -> str:
        value, stop = values[match[1]], match[2]
        return value if value.endswith(".") else value + stop

    return re.sub(r"\{(NAME|AUTHOR)\}(\.?)", name, text)
