"""How many tokens an exchange has, fast enough for every row of a conversion.

Imports no torch: each worker process of convert.py has a Ruler of its own.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from fabrictune.dialogue import Exchange, Message
from fabrictune.model import encoding

CHARACTERS_KEPT = 5_000_000
# A text has this many tokens more or less than its pieces counted one by one, and one for each piece at the very most.
SLACK = 16
# Tokens join blanks and line breaks to what stands before or after them, but none spans a cut here. Cut at each line
# break, texts came out 16 tokens off with Qwen's splitting, and indented lines three tokens a line.
_CUT = re.compile(r"\n(?=\S)")
_ASKED = Exchange("", 0, 0, "", (Message("system", "Be brief."), Message("user", "Hello")), ())


class Ruler:
    """Token counts of exchanges with the tokenizer in a model's folder.

    A line of text is counted once, whoever says it: the system prompts of one dialogue, and tools that many offer.
    Line by line a text may come out a few tokens off, so one near `limit` is tokenised whole, as `encoding` does it.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        """Raises FileNotFoundError or ValueError if the folder has no fast tokenizer with a fitting chat template."""
        if not (folder / "tokenizer.json").exists():
            raise FileNotFoundError(
                f"{folder} has no tokenizer.json, so tokens cannot be counted; choose another model=, or "
                f"data.count_tokens=false"
            )
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        encoding.require_template(self.tokenizer)
        # A checkpoint may have been saved with either; only `exact` would be spared.
        self.tokenizer.backend_tokenizer.no_padding()
        self.tokenizer.backend_tokenizer.no_truncation()
        self.limit = limit
        self._known: dict[str, int] = {}
        self._characters = 0
        self._frames: dict[tuple[str, ...], int] = {}
        encoding.prompt(_ASKED, self.tokenizer)  # a template that takes no system message would refuse every row

    def lengths(self, exchanges: Sequence[Exchange]) -> list[int]:
        """Tokens of each exchange, its end token among them: exact near the limit, else most often so."""
        lines = [
            [*_lines(encoding.prompt(exchange, self.tokenizer)), *_lines(exchange.reply_text)] for exchange in exchanges
        ]
        self._learn(line for own in lines for line in own)
        rough = [sum(map(self._known.__getitem__, own)) + 1 for own in lines]
        return [
            self.exact(exchange) if abs(length - self.limit) <= len(own) + SLACK else length
            for exchange, own, length in zip(exchanges, lines, rough, strict=True)
        ]

    def exact(self, exchange: Exchange) -> int:
        """Tokens of the exchange as `encoding.encode` makes them."""
        texts = [encoding.prompt(exchange, self.tokenizer), exchange.reply_text]
        return sum(map(len, self.tokenizer(texts, add_special_tokens=False)["input_ids"])) + 1

    def all_fit(self, exchanges: Sequence[Exchange]) -> bool:
        """Whether no exchange can exceed the limit, found without tokenising what is said only once.

        A token holds one byte at least, so text that is not known yet counts by its bytes. Where that is too much, the
        lines of the first message are learnt, where the tools are. False means that `lengths` has to tell.
        """
        if self._all_at_most_limit(exchanges):
            return True
        self._learn(_lines(exchanges[0].messages[0].content))
        return self._all_at_most_limit(exchanges)

    def _all_at_most_limit(self, exchanges: Sequence[Exchange]) -> bool:
        bounds: dict[str, int] = {}  # exchanges of a dialogue repeat each other's messages
        for exchange in exchanges:
            bound = self._frame(exchange) + SLACK
            for text in (*(message.content for message in exchange.messages), exchange.reply_text):
                if text not in bounds:
                    bounds[text] = sum(map(self._at_most, _lines(text)))
                bound += bounds[text]
            if bound > self.limit:
                return False
        return True

    def _at_most(self, line: str) -> int:
        known = self._known.get(line)
        if known is not None:
            return known + 1
        return len(line) if line.isascii() else _bytes(line)

    def _frame(self, exchange: Exchange) -> int:
        """The tokens of what the template puts around messages of these roles."""
        roles = tuple(message.role for message in exchange.messages)
        if roles not in self._frames:
            empty = replace(exchange, messages=tuple(Message(role, "") for role in roles), reply=())
            self._frames[roles] = self.exact(empty)
        return self._frames[roles]

    def _learn(self, lines: Iterable[str]) -> None:
        if self._characters > CHARACTERS_KEPT:
            self._known.clear()
            self._characters = 0
        new = list({line for line in lines if line not in self._known})
        if new:
            self._characters += sum(map(len, new))
            # Splitting the blanks at a line's end depends on whether a word follows, so one does.
            followed = [f"{line}a" if line.endswith("\n") else line for line in new]
            counted = self.tokenizer.backend_tokenizer.encode_batch_fast(followed, add_special_tokens=False)
            for line, encoded in zip(new, counted, strict=True):
                self._known[line] = len(encoded) - line.endswith("\n")


def _lines(text: str) -> list[str]:
    """The text in pieces: a line, with the empty and the indented ones after it."""
    *before, last = _CUT.split(text)
    return [*(f"{line}\n" for line in before), last]


def _bytes(text: str) -> int:
    """The most bytes that a tokenizer makes of the text: NFC, which Qwen's applies, makes some letters longer."""
    return max(len(form.encode("utf-8", "surrogatepass")) for form in (text, unicodedata.normalize("NFC", text)))
