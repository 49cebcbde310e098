"""A turn is shown whole and as text: its prompts byte for byte, its steps, its speed."""

from __future__ import annotations

import html
import re
import sys

import pytest

from fabrictune.serve.chat import cards
from fabrictune.serve.chat.live_turn import LiveTurn, Round
from fabrictune.serve.chat.streaming import End

ATTACK = "</pre><script>alert(1)</script><img src=http://x.example/a.png onerror=alert(2)>{{ 7 * 7 }}"
SYSTEM = "\n# Tools\n\n  two blanks, a 'quote' & <angle>\n"


def request(*contents: str) -> dict:
    roles = ["system", "user"]
    messages = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=True)]
    return {"model": "m", "messages": messages, "stop": ["Observation:"], "stream": False}


def a_turn(text: str = "fine") -> LiveTurn:
    call = Round(request(SYSTEM, text), text, End("stop", 10, 0.5, 0.2), text, text, text, text)
    last = Round(request(SYSTEM, text), text, End("stop", 30, 1.5, 0.2))
    return LiveTurn(text, "m", [call, last], answer=text)


def pres(page: str) -> list[str]:
    """What a browser shows in each <pre>: it drops the line break that one begins with."""
    return [html.unescape(text.removeprefix("\n")) for text in re.findall(r"<pre[^>]*>(.*?)</pre>", page, re.DOTALL)]


def test_prompts_are_shown_byte_for_byte() -> None:
    assert pres(cards.render([a_turn()]))[:2] == [SYSTEM, "fine"]


def test_markup_in_any_part_of_a_turn_is_text() -> None:
    page = cards.render([a_turn(ATTACK), LiveTurn(ATTACK, "m", [], trouble=ATTACK)])
    assert "<script" not in page and "<img" not in page
    # 2 queries, the user's message of 2 prompts, thought, tool, arguments, observation, 2 replies, answer, trouble
    assert page.count("&lt;/pre&gt;&lt;script&gt;") == page.count("{{ 7 * 7 }}") == 12


def test_steps_stand_in_the_order_they_happened_with_their_speed() -> None:
    page = cards.render([a_turn()])
    kinds = re.findall(r"ft-card ft-(\w+)", page)
    assert kinds == ["thought", "call", "observation", "answer"]
    assert "10 tokens in 0.50 s, the first after 0.20 s: 20.0 tokens/s" in page
    assert "2 requests, 2.00 s of model time, 40 tokens: 20.0 tokens/s" in page


def test_a_page_that_is_drawn_again_compiles_no_template_again() -> None:
    compiled: list[str] = []
    seen = [compiled]
    sys.addaudithook(  # it stays for ever, and does nothing once `seen` is empty
        lambda event, given: seen[0].append(str(given[1])) if seen and event == "compile" else None
    )
    for _ in range(3):
        cards.render([a_turn()])
    seen.clear()
    assert len(compiled) <= 1


def test_a_reply_that_still_comes_is_shown_as_far_as_it_is() -> None:
    page = cards.render([LiveTurn("q", "m", [Round(request("s", "q"), "Action: get_we")])])
    assert re.findall(r"ft-card ft-(\w+)", page) == ["coming"] and "Action: get_we" in page


def test_a_broken_reply_stays_and_says_why_it_ended() -> None:
    page = cards.render([LiveTurn("q", "m", [Round(request("s", "q"), "half a")], trouble="stopped")])
    assert "Reply, broken off" in page and "half a" in page and "stopped" in page


def test_a_reply_cut_at_its_bound_and_an_observation_cut_by_the_client_say_so() -> None:
    cut = Round(request("s", "q"), "x", End("length", 9, 1.0, 0.1), "", "t", "{}", "y" * 3000)
    page = cards.render([LiveTurn("q", "m", [cut])])
    assert "cut at the bound on tokens" in page and "first 2988 characters of 3000" in page


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (End("stop", None, 2.0, 0.5), "tokens not counted by the server, in 2.00 s, the first after 0.50 s"),
        (End("stop", 0, 2.0, None), "0 tokens in 2.00 s"),
    ],
)
def test_speed_says_what_is_known(end, words) -> None:
    assert cards.speed(end) == words
