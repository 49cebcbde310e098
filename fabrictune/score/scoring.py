"""Is this turn or this reply right, and which kind of wrong: the judge of what a model did, pure.

Calls are judged strictly (right tool, right arguments, in order, nothing extra) and as the client reads them; what is
said of an answer is `grounding`'s. Failures have the names of `measures`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from fabrictune import protocol
from fabrictune.dialogue import Attempt, Dialogue, Json, Played, Reply, same_json
from fabrictune.measures import KINDS, MALFORMED
from fabrictune.protocol import Dialect
from fabrictune.score import attempts, grounding, likeness

CALL_KINDS = ("no_call", "wrong_arguments", "wrong_tool")  # failures that only a call that was due can have
ANSWER_KINDS = ("bad_summary", "made_up")  # and those that only an answer can have


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


def judge(dialogue: Dialogue, number: int, played: Played, dialect: Dialect) -> Verdict:
    """The verdict on turn `number` (from 0) of the dialogue, whose earlier turns went as expected."""
    turn = dialogue.turns[number]
    due = [Attempt(step.call.name, "", step.call.arguments, "") for step in turn.steps]
    offered = {tool.name for tool in dialogue.tools}
    tries = attempts.of_turn(played, turn.answer, offered, dialect)
    answer = None if tries and tries[-1].attempt is None else played.answer
    kinds = _call_kinds(due, tries, offered)
    checked = {} if answer is None else _checked(dialogue, number, played, dialect, went_wrong=bool(kinds))
    kinds |= {kind for kind in KINDS if checked.get(kind)}
    if not played.ended or not all(reply.stopped for reply in played.replies):
        kinds.add("not_stopped")
    first = (bool(tries) and tries[0].makes(due[0])) if due else None
    return Verdict(
        first,
        _in_order(kinds, KINDS),
        _in_order({one.malformed for one in tries}, MALFORMED),
        tuple(_step(call, made.attempt if made else None) for call, made in _aligned(due, tries) if call),
        _measures(first, kinds, checked, likeness.rouge_l(turn.answer, answer) if answer is not None else 0.0),
    )


def judge_reply(expected: str, reply: Reply, dialect: Dialect, offered: Collection[str] | None = None) -> ReplyVerdict:
    """The verdict on one reply, by the text of the reply wanted; a call is due if the client finds one in that.

    Calls of unknown tools are told from those of wrong ones only where the names `offered` are given.
    """
    due, made = attempts.find(expected, dialect), attempts.find(reply.text, dialect)
    tried: attempts.Try | None
    if made is None:
        names = {*(offered or ()), *({due.name} if due else ())}
        tried = attempts.stray_call(reply, "" if due else expected, names)
    else:
        is_right = due is not None and attempts.is_same(due, made)
        tried = attempts.Try(made) if is_right else attempts.read(made, reply, dialect)
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
        None if due else 0.0 if tried else likeness.rouge_l(expected, reply.text),
    )


def _measures(
    first_call: bool | None, kinds: Collection[str], checked: dict[str, bool], rouge_l: float
) -> dict[str, list[float]]:
    """The turn's own measures; those of single calls are in its steps. A missing answer scores 0 in ROUGE-L."""
    found: dict[str, bool | float] = {"success": not kinds}
    if first_call is not None:
        found |= {"first_call": first_call} | {kind: kind in kinds for kind in CALL_KINDS}
    found |= {kind: kind in kinds for kind in KINDS if kind not in (*CALL_KINDS, *ANSWER_KINDS)}
    found |= {name: value for name, value in checked.items() if name != "no_answer"}
    found["rouge_l"] = rouge_l
    return {name: [float(value), 1] for name, value in found.items()}


# The kinds of failure


def _call_kinds(due: Sequence[Attempt], tries: Sequence[attempts.Try], offered: Collection[str]) -> set[str]:
    """What is wrong where the tries first leave the calls that were due, and with any call of the turn.

    Of what comes later only what is wrong whatever was due counts: malformed, unknown, repeated, needless.
    """
    kinds = {"malformed"} if any(one.malformed for one in tries) else set()
    if any(one.name and one.name not in offered for one in tries):
        kinds.add("unknown_tool")
    repeated = {place for place in range(len(tries)) if _is_repeated(tries, place)}
    if any(place >= len(due) or not tries[place].makes(due[place]) for place in repeated):
        kinds.add("repeated_call")
    for call, made in _aligned(due, tries[: len(due)]):
        here = _kinds_at(call, made, offered)
        if here:
            kinds |= here
            break
    extra = [place for place in range(len(due), len(tries)) if place not in repeated]
    return kinds.union(*(_kinds_at(None, tries[place], offered) for place in extra if _is_needless(due, tries, place)))


def _kinds_at(due: Attempt | None, made: attempts.Try | None, offered: Collection[str] | None) -> set[str]:
    """What is wrong with what was made of a call that was due, or made where none was."""
    if made is None:
        return {"no_call"} if due else set()
    name = made.name
    is_unknown = offered is not None and name not in offered
    if due is None:
        return {"malformed", "needless_call"} if made.malformed else {"unknown_tool" if is_unknown else "needless_call"}
    if made.makes(due):
        return set()
    kinds = {"malformed"} if made.malformed else set()
    if name and name != due.name:
        return kinds | {"unknown_tool" if is_unknown else "wrong_tool"}
    return kinds or {"wrong_arguments"}


def _checked(dialogue: Dialogue, number: int, played: Played, dialect: Dialect, *, went_wrong: bool) -> dict[str, bool]:
    """What is found in the answer that ended a turn, whose calls were all right unless it `went_wrong`.

    Where it says something that can be checked: grounded, and made_up. After right calls: contradiction, and
    bad_summary, the sum of all that can be wrong with a summary, so that made_up does not count it again. Where no
    call was due: no_answer.
    """
    turn, answer = dialogue.turns[number], played.answer or ""
    is_summary = bool(turn.steps) and not went_wrong
    says = bool(answer.strip()) and not grounding.repeats(answer, _messages(dialogue, number, dialect))
    told = grounding.told(dialogue, number, played.attempts)
    whole = answer if all(reply.stopped for reply in played.replies[-1:]) else grounding.whole_words(answer, told)
    grounded = grounding.unfounded(whole, told) is None
    found: dict[str, bool] = {}
    if says and not grounding.asks_for_knowledge(dialogue, number):
        claims = not turn.steps and not played.attempts and grounding.claims(turn, answer)
        found = {"grounded": grounded, "made_up": not is_summary and (claims or not grounded)}
    if is_summary:
        contradiction = grounding.contradicts(turn, answer)
        bad = not says or not grounded or contradiction or grounding.ignores(turn, answer)
        found |= {"contradiction": contradiction, "bad_summary": bad}
    elif not went_wrong:
        found["no_answer"] = not says
    return found


def _messages(dialogue: Dialogue, number: int, dialect: Dialect) -> list[str]:
    """The user's query as it stands and as the client may have sent it."""
    turn = dialogue.turns[number]
    prefixes = [
        protocol.query_prefix(dialogue.tools, dialogue.instruction, knowledge, lang, files=turn.files, dialect=dialect)
        for lang in ("zh", "en")
        for knowledge in {dialogue.knowledge, ""}
    ]
    return [turn.query, *(prefix + turn.query for prefix in prefixes)]


def _is_needless(due: Sequence[Attempt], tries: Sequence[attempts.Try], place: int) -> bool:
    """Whether a call behind those that were due is no late try at one that is still missing."""
    missing = {call.name for call in due if not any(one.makes(call) for one in tries[:place])}
    return tries[place].name not in missing if tries[place].name else not missing


def _is_repeated(tries: Sequence[attempts.Try], place: int) -> bool:
    """Whether an earlier try was the same call."""
    attempt = tries[place].attempt
    return attempt is not None and any(
        earlier.attempt is not None and attempts.is_same(earlier.attempt, attempt) for earlier in tries[:place]
    )


def _aligned(due: Sequence[Attempt], tries: Sequence[attempts.Try]) -> list[tuple[Attempt | None, attempts.Try | None]]:
    return list(zip_longest(due, tries))


def _in_order(kinds: Collection[str | None], names: Collection[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name in kinds)


# One call that was due


def _step(due: Attempt, made: Attempt | None) -> StepVerdict:
    if made is None:
        return StepVerdict(due.name, None, False, False, 0.0, False)
    argument_em = attempts.is_same(replace(made, name=due.name), due)
    if made.name != due.name:
        return StepVerdict(due.name, made.name, False, argument_em, 0.0, False)
    f1 = 1.0 if argument_em else _argument_f1(due.arguments or {}, made.arguments)
    return StepVerdict(due.name, made.name, True, argument_em, f1, argument_em)


def _argument_f1(due: dict[str, Json], made: dict[str, Json] | None) -> float:
    """A right key counts half, with the right value whole: over the arguments made (precision) and due (recall)."""
    if made is None or not due or not made:
        return float(made == due)
    shared = due.keys() & made.keys()
    matched = sum(1.0 if same_json(due[key], made[key]) else 0.5 for key in shared)
    return 2 * matched / (len(due) + len(made))
