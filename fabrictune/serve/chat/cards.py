"""A turn as HTML: its question, a card for each step, the exact prompts, and how fast the model was."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache

import jinja2
from markupsafe import Markup, escape

from fabrictune import pages, protocol
from fabrictune.serve.chat.live_turn import LiveTurn, Round
from fabrictune.serve.chat.streaming import STREAMED, End

STYLE = """
.ft-turn { --accent: #64748b; font-size: 14px; line-height: 1.45; margin-bottom: 18px }
.ft-turn pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 2px 0 0; padding: 0; background: none; border: 0;
  font-family: var(--font-mono); font-size: 12.5px; color: var(--body-text-color) }
.ft-query { background: var(--color-accent-soft); color: var(--body-text-color); border-radius: 12px 12px 2px 12px;
  padding: 8px 12px; margin: 0 0 8px auto; width: fit-content; max-width: 90%; white-space: pre-wrap;
  overflow-wrap: anywhere }
.ft-card { border: 1px solid var(--border-color-primary); border-left: 4px solid var(--accent); border-radius: 6px;
  background: var(--block-background-fill); color: var(--body-text-color); padding: 6px 10px; margin: 6px 0 }
.ft-card b { font-size: 11px; letter-spacing: .04em; text-transform: uppercase; color: var(--accent) }
.ft-call { --accent: #b45309 } .ft-observation { --accent: #0f766e } .ft-answer { --accent: #1d4ed8 }
.ft-trouble { --accent: #b91c1c } .ft-thought { --accent: #7c3aed }
.dark .ft-turn { --accent: #94a3b8 }
.dark .ft-call { --accent: #fbbf24 } .dark .ft-observation { --accent: #2dd4bf } .dark .ft-answer { --accent: #93c5fd }
.dark .ft-trouble { --accent: #fca5a5 } .dark .ft-thought { --accent: #c4b5fd }
.ft-answer pre { font-family: inherit; font-size: 14px }
.ft-tool { font-family: var(--font-mono); font-weight: 600; color: var(--body-text-color); background: none }
.ft-prompt, .ft-raw, .ft-speed, .ft-total { font-size: 12px; color: var(--body-text-color); opacity: .8 }
.ft-prompt summary, .ft-raw summary { cursor: pointer }
.ft-prompt[open], .ft-raw[open] { border: 1px dashed var(--border-color-primary); border-radius: 6px;
  padding: 4px 10px }
.ft-role { margin-top: 6px; font-weight: 600 }
.ft-total { border-top: 1px solid var(--border-color-primary); padding-top: 4px; margin-top: 6px }
"""


def render(turns: Iterable[LiveTurn]) -> str:
    """The turns as HTML that is safe to show, whatever is in them."""
    return "".join(
        _template().render(
            turn=turn,
            lines=_lines,
            settings=_settings,
            prompt_characters=lambda round: sum(len(one["content"]) for one in round.request["messages"]),
            speed=speed,
            total=_total,
            shown_characters=protocol.OBSERVATION_CHARACTERS,
        )
        for turn in turns
    )


@cache  # to compile it takes 10 ms, and a page is drawn at every look
def _template() -> jinja2.Template:
    return pages.environment().get_template("serve/chat/cards.html.jinja")


def speed(end: End) -> str:
    """How fast a reply came, as `23 tokens in 0.61 s, the first after 0.21 s: 37.7 tokens/s`."""
    tokens = f"{end.tokens} tokens" if end.tokens is not None else "tokens not counted by the server,"
    first = f", the first after {end.first:.2f} s" if end.first is not None else ""
    rate = f": {end.tokens_per_second:.1f} tokens/s" if end.tokens_per_second else ""
    return f"{tokens} in {end.seconds:.2f} s{first}{rate}"


def _total(turn: LiveTurn) -> str:
    ends = [round.end for round in turn.rounds if round.end]
    seconds = sum(end.seconds for end in ends)
    counted = [end.tokens for end in ends if end.tokens is not None]
    words = f"{len(turn.rounds)} requests, {seconds:.2f} s of model time"
    if len(counted) == len(ends) and seconds > 0:
        words += f", {sum(counted)} tokens: {sum(counted) / seconds:.1f} tokens/s"
    return words


def _settings(round: Round) -> str:
    """The request without its messages, as it is sent."""
    rest = {key: value for key, value in round.request.items() if key != "messages"}
    return json.dumps(rest | STREAMED, ensure_ascii=False)


def _lines(text: str) -> Markup:
    """The text escaped, for a <pre>: HTML drops a line break that such an element begins with, so it gets one more."""
    return Markup("\n" if text.startswith("\n") else "") + escape(text)
