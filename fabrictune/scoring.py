"""Is this turn right, and which kind of wrong: the judge of what a model did, pure and driven by the expected dialogue.

First call and whole turn are judged strictly (right tool, right arguments, in order, nothing extra). The answer is
judged by what can be checked without another model: it must state no number and no URL that nobody told it, must not
deny a result it got, and must take up something of the last result.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from fabrictune.dialogue import Attempt, Call, Dialogue, Played, Turn

# The four failures that the tutorial names, then further ones.
TUTORIAL_KINDS = ("no_call", "wrong_arguments", "bad_summary", "not_stopped")
KINDS = (*TUTORIAL_KINDS, "wrong_tool", "unknown_tool", "needless_call", "no_answer")

DENIAL = re.compile(
    r"\b(?:can ?not|can't|could not|couldn't)\s+(?:\w+ly\s+)?(?:access|answer|assist|book|check|complete|determine"
    r"|display|do|fetch|find|get|give|help|look|obtain|perform|process|provide|retrieve|see|show|tell)\b"
    r"|\b(?:unable|not able) to\b|\bfailed to\b|\b(?:do not|don't) have (?:access|any|the|enough|real)\b"
    r"|\bno (?:results?|information|data) (?:was|were|is|are|found|available)\b|\b(?:was|were) not found\b"
    r"|无法|不能(?:获取|查询|查到|提供|显示|展示|找到|完成|帮)|没能|未能|没有(?:找到|查到|获取|查询到|相关)|未找到|未查到"
    r"|查不到|找不到|获取不到|(?:获取|查询|调用|预订|操作)失败",
    re.IGNORECASE,
)
# Any way of saying that something went wrong; far wider than DENIAL, because it must let every honest answer pass.
TROUBLE = re.compile(
    r"\b(?:no|not|none|can ?not|unable|sorry|unfortunately|invalid|unavailable|missing|timed? ?out|unknown)\b|n't\b"
    r"|fail|error|problem|issue|wrong|down\b|again|later|失败|错误|出错|异常|无法|不能|不到|不可用|没|未|抱歉|不存在|无效|超时|稍后|问题",
    re.IGNORECASE,
)
FAILED = re.compile(
    r"error|fail|time[d-]? ?out|unavailable|invalid|not found|refused|失败|错误|出错|异常|超时|不存在|无效|不可用",
    re.IGNORECASE,
)
URL = re.compile(r"https?://[^\s()\[\]<>\"'`，。；、）】》“”]+")
# A dash is a sign unless it joins two things, as in 2024-05-01, A-1001, 3℃-5℃ and 3度-5度.
NUMBER = re.compile(
    r"(?<![A-Za-z0-9_.)℃°%])(?<!\d[\u3400-\u9fff])-\d[\d,]*(?:\.\d+)?"
    r"|\d+(?:,\d{3})*(?!,?\d)(?:\.\d+)?|\d+(?:\.\d+)?"
)
LIST_MARKER = re.compile(r"^\s*\d+[.)、．]\s", re.MULTILINE)
MINUS = re.compile(r"minus|below|negative|零下|负", re.IGNORECASE)
WORD = re.compile(r"[a-z][a-z'-]{2,}[a-z]", re.IGNORECASE)
CJK = re.compile(r"[\u3400-\u9fff]{2,}")


@dataclass(frozen=True)
class Verdict:
    """What is wrong with a turn: `kinds`, none of them if it succeeded. `first_call` is None where no call was due."""

    first_call: bool | None
    kinds: tuple[str, ...]

    @property
    def success(self) -> bool:
        return not self.kinds


@dataclass(frozen=True)
class Scored:
    """A verdict with the labels that scores are grouped by."""

    model: str
    seen: bool
    family: str
    verdict: Verdict


def judge(dialogue: Dialogue, number: int, played: Played) -> Verdict:
    """The verdict on turn `number` (from 0) of the dialogue, whose earlier turns went as expected."""
    turn = dialogue.turns[number]
    due = [step.call for step in turn.steps]
    offered = {tool.name for tool in dialogue.tools}
    call_kind = _call_kind(due, played.attempts, offered)
    kinds = {call_kind} if call_kind else set()
    if not _has_stopped(due, played):
        kinds.add("not_stopped")
    if call_kind is None and played.answer is not None:
        if not turn.steps:
            kinds |= set() if played.answer.strip() else {"no_answer"}
        elif is_bad_summary(dialogue, number, played.answer):
            kinds.add("bad_summary")
    first = bool(played.attempts) and played.attempts[0].makes(due[0]) if due else None
    return Verdict(first, tuple(kind for kind in KINDS if kind in kinds))


def _call_kind(due: Sequence[Call], attempts: Sequence[Attempt], offered: set[str]) -> str | None:
    """The failure at the first place where the attempts leave the calls that were due, None if they never do."""
    for attempt, call in zip(attempts, due, strict=False):
        if not attempt.makes(call):
            if attempt.name == call.name:
                return "wrong_arguments"
            return "wrong_tool" if attempt.name in offered else "unknown_tool"
    if len(attempts) < len(due):
        return "no_call"
    if len(attempts) > len(due):
        extra = attempts[len(due)]
        if extra.name not in offered:
            return "unknown_tool"
        return "not_stopped" if _is_repeated(attempts, len(due)) else "needless_call"
    return None


def _has_stopped(due: Sequence[Call], played: Played) -> bool:
    """Whether every reply came to its end, the loop did, and no call was made again that was not due again."""
    repeated = any(
        _is_repeated(played.attempts, position) and not (position < len(due) and attempt.makes(due[position]))
        for position, attempt in enumerate(played.attempts)
    )
    return played.ended and not repeated and all(reply.stopped for reply in played.replies)


def _is_repeated(attempts: Sequence[Attempt], position: int) -> bool:
    """Whether an earlier attempt was the same call."""
    attempt = attempts[position]
    return any(
        earlier.makes(Call(attempt.name, attempt.arguments))
        if attempt.arguments is not None
        else (earlier.name, earlier.text) == (attempt.name, attempt.text)
        for earlier in attempts[:position]
    )


def is_bad_summary(dialogue: Dialogue, number: int, answer: str) -> bool:
    """Whether the answer after all the right calls contradicts or ignores what the tools returned, or adds to it."""
    turn = dialogue.turns[number]
    return (
        not answer.strip()
        or _contradicts(turn, answer)
        or not is_grounded(answer, _told(dialogue, number))
        or _ignores(turn, answer)
    )


def _contradicts(turn: Turn, answer: str) -> bool:
    """Whether the answer denies a result, or claims one where the expected answer tells of a failure."""
    failed = DENIAL.search(turn.answer) or (FAILED.search(turn.steps[-1].observation) and TROUBLE.search(turn.answer))
    return not TROUBLE.search(answer) if failed else bool(DENIAL.search(answer))


def _told(dialogue: Dialogue, number: int) -> str:
    """All that an answer may draw on: what was said and returned so far, the calls made, and the expected answer."""
    told = [dialogue.knowledge, dialogue.turns[number].answer]
    for turn in dialogue.turns[: number + 1]:
        told.append(turn.query)
        for step in turn.steps:
            told += [_readable(step.observation), json.dumps(step.call.arguments, ensure_ascii=False)]
    return "\n".join(told)


def is_grounded(answer: str, told: str) -> bool:
    """Whether every URL and every number of the answer occurs in what was told, however the number is written."""
    urls = set(_urls(told))
    if any(url not in urls for url in _urls(answer)):
        return False
    known = set(_numbers(told)) | set(_numbers(told.replace(",", " ")))
    prose = LIST_MARKER.sub("", URL.sub(" ", answer))
    negated = {number.copy_negate() for number in known} if MINUS.search(answer) else set()
    return all(_is_known(text, known | negated) for text in NUMBER.findall(prose))


def _is_known(text: str, known: set[Decimal]) -> bool:
    """1,234 may be one number or two."""
    return _value(text) in known or ("," in text and all(_value(part) in known for part in text.split(",") if part))


def _ignores(turn: Turn, answer: str) -> bool:
    """Whether the answer takes up nothing of the last result although the expected answer does."""
    result = _readable(turn.steps[-1].observation)
    news = _marks(result) - _marks(turn.query)
    return bool(news & _marks(turn.answer)) and not news & _marks(answer)


def _marks(text: str) -> set[object]:
    """What a text can be recognised by: URLs, numbers, words of four letters and more, pairs of Chinese characters."""
    pairs = (run[at : at + 2] for run in CJK.findall(text) for at in range(len(run) - 1))
    return {*_urls(text), *_numbers(text), *(word.lower() for word in WORD.findall(text)), *pairs}


def _urls(text: str) -> list[str]:
    return [url.rstrip(".,;:!?*_") for url in URL.findall(text)]


def _numbers(text: str) -> list[Decimal]:
    return [_value(match) for match in NUMBER.findall(text)]


def _value(text: str) -> Decimal:
    return Decimal(text.replace(",", ""))


def _readable(observation: str) -> str:
    """The observation with JSON's escapes undone, which hide words and URLs."""
    try:
        return json.dumps(json.loads(observation), ensure_ascii=False)
    except (ValueError, RecursionError):
        return observation


def aggregate(scored: Iterable[Scored]) -> dict[str, Any]:
    """{model: {"seen" or "unseen": a row with {"families": {family: row}} beside}}; `_row` makes a row."""
    groups: dict[str, dict[str, dict[str, list[Verdict]]]] = {}
    for item in scored:
        families = groups.setdefault(item.model, {}).setdefault("seen" if item.seen else "unseen", {})
        families.setdefault(item.family, []).append(item.verdict)
    return {
        model: {
            split: _row([verdict for verdicts in families.values() for verdict in verdicts])
            | {"families": {family: _row(families[family]) for family in sorted(families)}}
            for split, families in sorted(splits.items())
        }
        for model, splits in groups.items()
    }


def _row(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Turns, those with a call due, the share of exact first calls among these, of successes, and the failures."""
    first = [verdict.first_call for verdict in verdicts if verdict.first_call is not None]
    return {
        "turns": len(verdicts),
        "calls_due": len(first),
        "first_call": sum(first) / len(first) if first else None,
        "success": sum(verdict.success for verdict in verdicts) / len(verdicts),
        "failures": {kind: sum(kind in verdict.kinds for verdict in verdicts) for kind in KINDS},
    }
