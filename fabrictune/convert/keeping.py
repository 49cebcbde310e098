"""Which turns of a capture log a person would keep, and which dialogues say again what an earlier one said.

A strong model that is recorded is not always right, and nobody has said what it should have done. So a turn is judged
by itself: its calls by the tools that were on offer, its results by what failures look like, its answer by
`grounding`. What cannot be told from its text (was it the right tool?) is taken to be right.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b

from rapidfuzz import fuzz, process

from fabrictune import protocol
from fabrictune.dialogue import JSON_TYPES, Call, Dialogue, Json, Step, Tool, Turn, json_type, same_json
from fabrictune.score import grounding

# A result that reports a failure, by how it begins; a log that a tool looks up may well hold such words further in, and
# "Error rate: 0.2 %", "Failed payments: 3", "Forbidden City" and "异常天气" begin with one of them.
_FAILED = re.compile(
    r"\s*(?:(?:[\w.]*(?:error|exception|failure|failed)|unauthori[sz]ed|forbidden)(?:[^\S\n]*(?:[:：!.(]|[45]\d\d\b|$))"
    r"|error (?:code[:：]? ?\d|(?:calling|executing|fetching|invoking|processing|reading|running|when|while)\b)"
    r"|(?:an )?(?:error|exception) (?:(?:has )?occurred|in thread)|failed to\b|traceback\b|tool api \S+ failed to call"
    r"|http(?:/\d\S*)? ?[45]\d\d|(?:request|connection|call|operation|read) (?:timed? ?out|failed|refused|error)"
    r"|timed? ?out|too many requests|service unavailable|internal server error|bad gateway"
    r"|(?:调用|请求|查询|执行|操作|获取|连接)(?:失败|出错|超时|异常|错误)(?!率|的|次数)"
    r"|(?:失败|出错|超时|异常|错误)(?:了|码|代码|信息)?\s*(?:[:：，,。！!]|$))",
    re.IGNORECASE | re.MULTILINE,
)
_FAULT_KEYS = ("error", "errors", "error_message", "error_msg", "errmsg", "exception")
_NO_FAULT = ("", "ok", "success", "none", "null", "no error", "成功")
_FAULT_STATES = ("error", "fail", "failed", "failure", "exception", "timeout")
_FAULT_NUMBERS = ("errcode", "error_code", "errno")  # 0 is success, at WeChat Work, DingTalk, Baidu and Juhe
_REASONS = (*_FAULT_KEYS, "message", "msg", "reason", "detail", "details", "info")
# From so many characters on, something of a result has to come back in the answer; a shorter one ("sent") may be put
# in other words.
_TELLING = 80
_ALIKE = 85.0  # of 100: what two queries with the same calls share, beyond which they are near-duplicates
# What a query may have or not: marks and blanks, but for those between digits, signs, and a few that are read aloud.
_IDLE = re.compile(r"(?<=\d)\s*[^\w\s]+\s*(?=\d)|(?<!\w)[-+.]+(?=\d)|[+#%$€£]|([\W_])")
_COMPARED = 1000  # of the dialogues kept with the same calls, so many at most are compared


def keep(dialogue: Dialogue, turns: int, faults: Mapping[int, str]) -> tuple[Dialogue, str]:
    """The dialogue up to its first turn that is not to be kept, and why it ends there, "" where it is whole.

    It has the first of `turns` turns; `faults` are what is known against some, by number from 0. A later turn cannot do
    without what went before it, so that it is left out with it. Raises ValueError with the reason if nothing is kept.
    """
    for number in range(turns):
        reason = faults.get(number) or fault(dialogue, number)
        if reason:
            kind, _, details = reason.partition(": ")
            reason = ": ".join(filter(None, [kind, f"turn {number + 1} of {turns}", details]))
            if not number:
                raise ValueError(reason)
            return replace(dialogue, turns=dialogue.turns[:number]), reason
    return dialogue, ""


def fault(dialogue: Dialogue, number: int) -> str:
    """Why a person would not keep turn `number` (from 0), "" if nothing speaks against it."""
    turn = dialogue.turns[number]
    tools = {tool.name: tool for tool in dialogue.tools}
    if turn.pending:
        return f"a turn that did not end: its last call is '{turn.calls[-1].name}'"
    if len(turn.steps) >= protocol.MAX_CALLS:
        return f"too many calls: {len(turn.steps)}, where AgentFabric's client gives up after {protocol.MAX_CALLS}"
    for place, step in enumerate(turn.steps):
        found = (
            _misfit(tools[step.call.name], step.call) or _repetition(turn.steps[:place], step.call) or _failure(step)
        )
        if found:
            return found
    return _answer_fault(dialogue, number)


def _misfit(tool: Tool, call: Call) -> str:
    """How the arguments do not fit the schema that the client shows: required, type and enum of its parameters."""
    reason = f"arguments that do not fit the tool: '{tool.name}'"
    if missing := [name for name in tool.required if name not in call.arguments]:
        return f"{reason} requires {missing}"
    for name, value in call.arguments.items():
        if name not in tool.properties:
            return f"{reason} has no parameter '{name}'"
        schema = tool.properties[name]
        if not _has_type(value, schema.get("type")):
            return f"{reason} wants {schema['type']} as '{name}', not {value!r:.80}"
        choices = schema.get("enum")
        if isinstance(choices, list) and choices and not any(same_json(value, choice) for choice in choices):
            return f"{reason} wants one of {choices!r:.160} as '{name}', not {value!r:.80}"
    return ""


def _has_type(value: Json, wanted: Json) -> bool:
    """Whether a value is of a JSON schema's type, or of one of a list of them; a type of another name fits any."""
    names = wanted if isinstance(wanted, list) else [wanted]
    if not names or any(name not in (*JSON_TYPES, "null") for name in names):
        return True
    if value is None:
        return "null" in names
    kind = json_type(value)
    whole = kind == "integer" or (kind == "number" and float(value).is_integer())
    return kind in names or (kind == "integer" and "number" in names) or (whole and "integer" in names)


def _repetition(earlier: Sequence[Step], call: Call) -> str:
    same = any(step.call.name == call.name and same_json(step.call.arguments, call.arguments) for step in earlier)
    return (
        f"a call is repeated: '{call.name}' with {json.dumps(call.arguments, ensure_ascii=False)[:120]!r}"
        if same
        else ""
    )


def _failure(step: Step) -> str:
    failed = _FAILED.match(step.observation[:200]) or _reports_failure(step.observation)
    return f"a tool failed: '{step.call.name}' returned {step.observation[:160]!r}" if failed else ""


def _reports_failure(observation: str) -> bool:
    """Whether a result is an object that says so, in one of the usual ways."""
    try:
        value = json.loads(observation)
    except (ValueError, RecursionError):
        return False
    if not isinstance(value, dict):
        return False
    said = {key.lower(): one for key, one in value.items()}
    numbers = [said[key] for key in _FAULT_NUMBERS if re.fullmatch(r"-?\d+", str(said.get(key)))]
    if numbers:
        return any(int(number) for number in numbers)
    return any(map(_is_fault, map(said.get, _FAULT_KEYS))) or _has_failed(said)


def _is_fault(told: Json) -> bool:
    """Whether what stands under one of the fault keys tells of a fault."""
    return told.strip().casefold() not in _NO_FAULT if isinstance(told, str) else bool(told)


def _has_failed(said: Mapping[str, Json]) -> bool:
    """Whether an object's state or status says that it failed."""
    state = said.get("status", said.get("state"))
    # A bare "code" may be a dialling code, or a town's.
    is_told = any(said.get(key) for key in _REASONS) or not any(one for key, one in said.items() if key != "code")
    codes = ("status_code", "status", *(("code",) if is_told else ()))
    return (
        said.get("success", said.get("ok", True)) is False
        or (isinstance(state, str) and state.lower() in _FAULT_STATES)
        or ("infocode" in said and str(state) == "0")  # as Amap answers
        or any(type(said.get(key)) is int and 400 <= said[key] < 600 for key in codes)
    )


def _answer_fault(dialogue: Dialogue, number: int) -> str:
    turn = dialogue.turns[number]
    if grounding.repeats(turn.answer, [turn.query]):
        return f"an answer that repeats the query: {turn.answer[:120]!r}"
    if not turn.steps:
        return ""
    told = grounding.told(dialogue, number, with_expected_answer=False)
    if (strange := grounding.unfounded(turn.answer, told)) is not None:
        return f"an answer that is not grounded: nobody told {strange!r:.120}"
    if denial := grounding.DENIAL.search(turn.answer):
        return _denied(turn, denial[0])
    if _ignores(turn):
        return f"an answer that ignores the result: {turn.answer[:160]!r}"
    return ""


def _denied(turn: Turn, words: str) -> str:
    """What is wrong where the answer says that something cannot be done or found; to find nothing is a result."""
    last = turn.steps[-1]
    if not last.observation.strip(" \n[]{}\"'") or grounding.DENIAL.search(last.observation):
        return ""
    if grounding.FAILED.search(last.observation):
        return f"a tool failed: '{last.call.name}' returned {last.observation[:160]!r}"
    return f"an answer that denies the result: it says {words!r}"


def _ignores(turn: Turn) -> bool:
    """Whether the answer takes up nothing of the last result, where that has something to tell in the same language."""
    result = turn.steps[-1].observation
    if len(result) < _TELLING or protocol.has_chinese(result) != protocol.has_chinese(turn.answer):
        return False
    return grounding.ignores(replace(turn, answer=result), turn.answer)


# Near-duplicates


@dataclass(frozen=True)
class Likeness:
    """What a dialogue is compared by: its queries, and for each turn a key of what was done up to it.

    `agent` is a key of tools, instruction and knowledge. A turn's key stands for the calls of all turns, and for the
    queries of those without; it is None as long as nothing was called.
    """

    agent: bytes
    queries: tuple[str, ...]
    calls: tuple[bytes | None, ...]


def likeness(dialogue: Dialogue) -> Likeness:
    agent = _digest(repr((dialogue.tools, dialogue.instruction, dialogue.knowledge)))
    queries = tuple(_words(turn.query) for turn in dialogue.turns)
    done: list[Json] = []
    keys: list[bytes | None] = []
    for turn, query in zip(dialogue.turns, queries, strict=True):
        done.append([[call.name, call.arguments] for call in turn.calls] or query)
        has_called = any(isinstance(one, list) for one in done)
        keys.append(_digest(json.dumps(done, sort_keys=True)) if has_called else None)
    return Likeness(agent, queries, tuple(keys))


def _words(query: str) -> str:
    """The query without case, blanks, full-width forms, and punctuation that makes no difference to what is asked.

    1.5 is neither 15 nor -15, 12+3 is not 12*3, C++ is not C, and 5 % are not 5 $.
    """
    folded = unicodedata.normalize("NFKC", query).casefold()
    return _IDLE.sub(lambda mark: "" if mark[1] else "".join(mark[0].split()), folded) or folded


@dataclass
class Kept:
    """The dialogues kept so far, to find near-duplicates of; in memory about a hundred bytes and the query a turn."""

    _same: dict[bytes, str] = field(default_factory=dict)
    _near: dict[bytes, dict[str, str]] = field(default_factory=dict)

    def twin(self, one: Likeness, place: str) -> str | None:
        """The place of an earlier dialogue that begins as this whole one goes, None if there is none.

        Then this one is kept as that of `place`. Two begin alike under the same agent, if all their calls and arguments
        are the same, and their queries too, but for case, punctuation and blanks; with calls nearly is enough.
        """
        *_, (exact, near, text) = self._beginnings(one)
        if exact in self._same:
            return self._same[exact]
        alike = self._near.get(near, {}) if near else {}
        if alike and (found := process.extractOne(text, list(alike), scorer=fuzz.ratio, score_cutoff=_ALIKE)):
            return alike[found[0]]
        for exact, near, text in self._beginnings(one):
            self._same.setdefault(exact, place)
            known = self._near.setdefault(near, {}) if near else {}
            if len(known) < _COMPARED:
                known.setdefault(text, place)
        return None

    @staticmethod
    def _beginnings(one: Likeness) -> list[tuple[bytes, bytes | None, str]]:
        """For each turn what the dialogue is known by up to it: two keys, and the queries as one text."""
        texts = ["\n".join(one.queries[: number + 1]) for number in range(len(one.queries))]
        return [
            (_digest(text + (calls or b"").hex(), one.agent), calls and _digest(calls.hex(), one.agent), text)
            for text, calls in zip(texts, one.calls, strict=True)
        ]


def _digest(text: str, salt: bytes = b"") -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, key=salt).digest()
