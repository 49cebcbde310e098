"""Is this turn or this reply right, and which kind of wrong: the judge of what a model did, pure.

Calls are judged strictly (right tool, right arguments, in order, nothing extra) and as the client reads them; what is
said of an answer is `grounding`'s. Failures have the names of `measures`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from fabrictune import client, grounding
from fabrictune.dialogue import Attempt, Dialogue, Json, Played, Reply, same_json
from fabrictune.measures import KINDS, MALFORMED
from fabrictune.protocol import V072, Dialect

CALL_KINDS = ("no_call", "wrong_arguments", "wrong_tool")  # failures that only a call that was due can have
OBSERVATION = "Observation:"  # where every server cuts a reply
ACTION = re.compile(r"^[ \t]*Action:[ \t]*(.*)$", re.MULTILINE)
INPUT = re.compile(r"^[ \t]*Action Input:", re.MULTILINE)
OPENING = re.compile(r"Action:[ \t]*(.+)\n[ \t]*Action Input:[ \t]*(?=\{)")
# Ways to call of other clients and models: Hermes, Qwen, Mistral, InternLM, Gemma, DeepSeek, LangChain.
FOREIGN = re.compile(
    r"</?tool_call>|</?function_?calls?>|<function=|<invoke |<tool_code>|```tool_code|\[TOOL_CALLS\]"
    r"|<start_function_call>|<\|(?:tool_call|action_start|plugin)|<｜tool|✿FUNCTION✿"
    r"|Action(?: Input)?：|^[ \t]*(?:action|ACTION)(?:[ _](?:input|INPUT))?:[ \t]*[\w{]"
    r"|^[ \t]*(?:动作|行动|调用工具|工具调用)[ \t]?[:：][ \t]?[A-Za-z_]\w"
    r"|\{\s{0,20}[\"']name[\"']\s{0,9}:\s{0,9}[\"'][^\"'\n]{1,80}[\"']\s{0,9},\s{0,20}[\"'](?:arguments|parameters|args|input)[\"']"
    r"|\{\s{0,20}[\"'](?:action|tool|function|tool_name|function_name)[\"']\s{0,9}:\s{0,9}[\"'][^\"'\n]{1,80}[\"']\s{0,9},"
    r"\s{0,20}[\"'](?:action_input|tool_input|arguments|parameters|args|input)[\"']"
    r"|[\"']function[\"']\s{0,9}:\s{0,9}\{\s{0,20}[\"']name[\"']",
    re.MULTILINE,
)


@dataclass(frozen=True)
class StepVerdict:
    """On one call that was due. `made` is the tool called in its place, None if none was.

    `argument_em` asks for arguments that are the same JSON, whatever the tool; `argument_f1` is that of MSAgent-Eval
    (arXiv 2309.00986, 4.1) and ToolBench by JSON values, from 0 to 1, and 0 for another tool. `exact`: both are right.
    """

    due: str
    made: str | None
    tool_em: bool
    argument_em: bool
    argument_f1: float
    exact: bool

    def row(self) -> dict[str, Json]:
        """One of the "steps" of a row of predictions.jsonl."""
        measures = {
            "tool_em": [float(self.tool_em), 1],
            "argument_em": [float(self.argument_em), 1],
            "argument_f1": [self.argument_f1, 1],
            "exact_call": [float(self.exact), 1],
        }
        return {"due": self.due, "made": self.made, "measures": measures}


@dataclass(frozen=True)
class Verdict:
    """What is wrong with a turn: `kinds`, none of them if it succeeded, and how calls were `malformed`.

    `first_call` says whether the first call was exact, None where none was due. `steps` has a verdict for each call
    that was due, in order; `measures` the sum and the count of each measure of the turn that applies.
    """

    first_call: bool | None
    kinds: tuple[str, ...]
    malformed: tuple[str, ...]
    steps: tuple[StepVerdict, ...]
    measures: dict[str, list[float]]

    @property
    def success(self) -> bool:
        return not self.kinds


@dataclass(frozen=True)
class ReplyVerdict:
    """What is wrong with one reply. `step` is None where no call was due, `rouge_l` where no answer was.

    `called` is the tool that the client finds in the reply, None if none.
    """

    kinds: tuple[str, ...]
    malformed: tuple[str, ...]
    step: StepVerdict | None
    called: str | None
    rouge_l: float | None


@dataclass(frozen=True)
class _Try:
    """A reply that calls or tries to: what the client finds in it, None if nothing, and how it is malformed, if so."""

    attempt: Attempt | None
    malformed: str | None = None

    def makes(self, due: Attempt) -> bool:
        return self.attempt is not None and not self.malformed and _is_same_call(self.attempt, due)


def judge(dialogue: Dialogue, number: int, played: Played, dialect: Dialect) -> Verdict:
    """The verdict on turn `number` (from 0) of the dialogue, whose earlier turns went as expected."""
    turn = dialogue.turns[number]
    due = [Attempt(step.call.name, "", step.call.arguments, "") for step in turn.steps]
    offered = {tool.name for tool in dialogue.tools}
    tries = _tries(played, turn.answer, offered, dialect)
    answer = None if tries and tries[-1].attempt is None else played.answer
    kinds = _call_kinds(due, tries, offered)
    checked: dict[str, bool] = {}
    if not kinds and answer is not None:
        checked = _checked(dialogue, number, answer) if due else {"no_answer": not answer.strip()}
    kinds |= {kind for kind in KINDS if checked.get(kind)}
    if not played.ended or not all(reply.stopped for reply in played.replies):
        kinds.add("not_stopped")
    first = (bool(tries) and tries[0].makes(due[0])) if due else None
    return Verdict(
        first,
        _in_order(kinds, KINDS),
        _in_order({one.malformed for one in tries}, MALFORMED),
        tuple(_step(call, made.attempt if made else None) for call, made in _aligned(due, tries) if call),
        _measures(first, kinds, checked, grounding.rouge_l(turn.answer, answer) if answer is not None else 0.0),
    )


def judge_reply(expected: str, reply: Reply, dialect: Dialect, offered: Collection[str] | None = None) -> ReplyVerdict:
    """The verdict on one reply, by the text of the reply wanted; a call is due if the client finds one in that.

    Calls of unknown tools are told from those of wrong ones only where the names `offered` are given.
    """
    due, made = _found(expected, dialect), _found(reply.text, dialect)
    tried: _Try | None
    if made is None:
        names = {*(offered or ()), *({due.name} if due else ())}
        tried = _stray(reply, "" if due else expected, names)
    else:
        is_right = due is not None and _is_same_call(due, made)
        tried = _Try(made) if is_right else _read(made, reply, dialect)
    kinds = _kinds_at(due, tried, offered)
    if not due and not tried and not reply.text.strip():
        kinds.add("no_answer")
    if not reply.stopped:
        kinds.add("not_stopped")
    attempt = tried.attempt if tried else None
    return ReplyVerdict(
        _in_order(kinds, KINDS),
        _in_order({tried.malformed} if tried else (), MALFORMED),
        _step(due, attempt) if due else None,
        attempt.name if attempt else None,
        None if due else 0.0 if tried else grounding.rouge_l(expected, reply.text),
    )


def _measures(
    first_call: bool | None, kinds: Collection[str], checked: dict[str, bool], rouge_l: float
) -> dict[str, list[float]]:
    """The turn's own measures; those of single calls are in its steps. A missing answer scores 0 in ROUGE-L."""
    found: dict[str, bool | float] = {"success": not kinds}
    if first_call is not None:
        found |= {"first_call": first_call} | {kind: kind in kinds for kind in CALL_KINDS}
    found |= {kind: kind in kinds for kind in KINDS if kind not in CALL_KINDS and kind != "bad_summary"}
    found |= {name: value for name, value in checked.items() if name != "no_answer"}
    found["rouge_l"] = rouge_l
    return {name: [float(value), 1] for name, value in found.items()}


# The kinds of failure


def _call_kinds(due: Sequence[Attempt], tries: Sequence[_Try], offered: Collection[str]) -> set[str]:
    """What is wrong where the tries first leave the calls that were due, and any malformed or repeated call."""
    kinds = {"malformed"} if any(one.malformed for one in tries) else set()
    repeated = {place for place in range(len(tries)) if _is_repeated(tries, place)}
    if any(place >= len(due) or not tries[place].makes(due[place]) for place in repeated):
        kinds.add("repeated_call")
    for place, (call, made) in enumerate(_aligned(due, tries)):
        here = _kinds_at(call, made, offered)
        if here:
            return kinds | (here - {"needless_call"} if place in repeated else here)
    return kinds


def _kinds_at(due: Attempt | None, made: _Try | None, offered: Collection[str] | None) -> set[str]:
    """What is wrong with what was made of a call that was due, or made where none was."""
    if made is None:
        return {"no_call"} if due else set()
    name = made.attempt.name if made.attempt else ""
    is_unknown = offered is not None and name not in offered
    if due is None:
        return {"malformed", "needless_call"} if made.malformed else {"unknown_tool" if is_unknown else "needless_call"}
    if made.makes(due):
        return set()
    kinds = {"malformed"} if made.malformed else set()
    if name.strip() and name != due.name:
        return kinds | {"unknown_tool" if is_unknown else "wrong_tool"}
    return kinds or {"wrong_arguments"}


def _checked(dialogue: Dialogue, number: int, answer: str) -> dict[str, bool]:
    """What is found in an answer after all the right calls: grounded, contradiction, and bad_summary, their sum."""
    turn = dialogue.turns[number]
    grounded = grounding.unfounded(answer, grounding.told(dialogue, number)) is None
    contradiction = grounding.contradicts(turn, answer)
    bad = not answer.strip() or not grounded or contradiction or grounding.ignores(turn, answer)
    return {"grounded": grounded, "contradiction": contradiction, "bad_summary": bad}


def _is_repeated(tries: Sequence[_Try], place: int) -> bool:
    """Whether an earlier try was the same call."""
    attempt = tries[place].attempt
    return attempt is not None and any(
        earlier.attempt is not None and _is_same_call(earlier.attempt, attempt) for earlier in tries[:place]
    )


def _is_same_call(left: Attempt, right: Attempt) -> bool:
    if left.name != right.name:
        return False
    if left.arguments is None or right.arguments is None:
        return left.arguments is right.arguments and left.text.strip() == right.text.strip()
    return _is_same(left.arguments, right.arguments)


def _is_same(left: Json, right: Json) -> bool:
    try:
        return same_json(left, right)
    except RecursionError:  # two values nested some 300 deep, which only a model in a loop writes
        return False


def _aligned(due: Sequence[Attempt], tries: Sequence[_Try]) -> list[tuple[Attempt | None, _Try | None]]:
    return list(zip_longest(due, tries))


def _in_order(kinds: Collection[str | None], names: Collection[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name in kinds)


# One call that was due


def _step(due: Attempt, made: Attempt | None) -> StepVerdict:
    if made is None:
        return StepVerdict(due.name, None, False, False, 0.0, False)
    argument_em = _is_same_call(replace(made, name=due.name), due)
    if made.name != due.name:
        return StepVerdict(due.name, made.name, False, argument_em, 0.0, False)
    f1 = 1.0 if argument_em else _argument_f1(due.arguments or {}, made.arguments)
    return StepVerdict(due.name, made.name, True, argument_em, f1, argument_em)


def _argument_f1(due: dict[str, Json], made: dict[str, Json] | None) -> float:
    """A right key counts half, with the right value whole: over the arguments made (precision) and due (recall)."""
    if made is None or not due or not made:
        return float(made == due)
    shared = due.keys() & made.keys()
    matched = sum(1.0 if _is_same(due[key], made[key]) else 0.5 for key in shared)
    return 2 * matched / (len(due) + len(made))


# How a call is malformed


def _tries(played: Played, wanted: str, offered: Collection[str], dialect: Dialect) -> list[_Try]:
    """The calls that the client made, and at the end a reply in which it found none although one was meant."""
    replies = [*played.replies, *[Reply("", True)] * len(played.attempts)]
    tries = [_read(attempt, reply, dialect) for attempt, reply in zip(played.attempts, replies, strict=False)]
    if played.answer is not None:
        stopped = played.replies[-1].stopped if played.replies else True
        stray = _stray(Reply(played.answer, stopped), wanted, offered)
        tries += [stray] if stray else []
    return tries


def _found(text: str, dialect: Dialect) -> Attempt | None:
    """The call that the client finds in a reply that its server has cut."""
    found = dialect.find_call(_cut(text))
    if found is None:
        return None
    value = _value(found[1])
    return Attempt(found[0], found[1], value if isinstance(value, dict) else None, "")


def _read(attempt: Attempt, reply: Reply, dialect: Dialect) -> _Try:
    """The attempt that the client made of a reply, and how it is malformed."""
    if not attempt.name.strip():
        return _Try(attempt, "no_name")
    if attempt.arguments is not None:
        return _Try(attempt)
    text = _cut(reply.text)
    if dialect == V072:  # the only client that stops reading at the end of the line
        written = text.partition(f"Action: {attempt.name}\nAction Input: {attempt.text}")[2]
        if written.strip() and isinstance(_value(attempt.text + written), dict):
            return _Try(attempt, "many_lines")
    return _Try(replace(attempt, name=_meant(attempt.name, text)), _fault(attempt.text, reply.stopped))


def _stray(reply: Reply, wanted: str, names: Collection[str]) -> _Try | None:
    """A call that was meant in a reply in which the client finds none; None if none was, as in the answer `wanted`."""
    kind = _stray_kind(_cut(reply.text), reply.stopped, names)
    return _Try(None, kind) if kind and not _stray_kind(wanted, True, names) else None


def _stray_kind(text: str, stopped: bool, names: Collection[str]) -> str | None:
    actions, inputs = list(ACTION.finditer(text)), list(INPUT.finditer(text))
    if inputs and (not actions or actions[0].start() > inputs[0].start()):
        return "no_name"
    if inputs and actions[-1].start() < inputs[-1].start():
        if not actions[-1][1].strip():
            return "no_name"
        arguments = text[inputs[-1].end() :].rstrip()
        if isinstance(_value(arguments), dict):
            return "many_lines" if "\n" in arguments else "foreign"
        return _fault(arguments, stopped)
    if actions and _is_tool_name(actions[-1][1].strip(), names):
        is_cut = not stopped and not text[actions[-1].end() :].strip()
        return "cut_off" if is_cut else "no_arguments"
    return "foreign" if FOREIGN.search(text) or _has_python_call(text, names) else None


def _is_tool_name(text: str, names: Collection[str]) -> bool:
    """Whether what follows "Action:" names a tool; people write "Action: restart the router." too."""
    return text in names or (text.isascii() and text.isidentifier())


def _has_python_call(text: str, names: Collection[str]) -> bool:
    """Whether a line begins with a call as Python writes it."""
    tool = "|".join(map(re.escape, names))
    return bool(names) and re.search(rf"^[ \t]*[`\[]?(?:{tool})\(", text, re.MULTILINE) is not None


def _fault(arguments: str, stopped: bool) -> str:
    """How arguments are malformed of which the client can make no object."""
    if not stopped and arguments.lstrip()[:1] in ("", "{") and not _begins_with_object(arguments):
        return "cut_off"
    return "bad_json" if _value(arguments) is _NOTHING else "no_object"


def _meant(name: str, text: str) -> str:
    """The tool that was meant by a call that the client read as that of `name`.

    The April client takes the protocol's words inside a string argument for the next call.
    """
    opening = OPENING.search(text)
    end = _end_of_object(text, opening.end()) if opening else None
    is_inside = opening is not None and end is not None and opening.end() < text.rfind("Action:") < end
    return opening[1].strip() if opening and is_inside else name


def _begins_with_object(text: str) -> bool:
    return _end_of_object(text.lstrip(), 0) is not None


def _end_of_object(text: str, start: int) -> int | None:
    """Where the JSON object that begins at `start` ends, None where none does."""
    try:
        return json.JSONDecoder().raw_decode(text, start)[1]
    except (ValueError, RecursionError):
        return None


_NOTHING = object()


def _value(text: str) -> Json:
    """What the client reads, _NOTHING if it can read nothing."""
    try:
        return client.parse_arguments(text)
    except ValueError:
        return _NOTHING


def _cut(text: str) -> str:
    return text.partition(OBSERVATION)[0]
