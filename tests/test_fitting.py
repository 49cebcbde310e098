"""Too long a dialogue is kept, cut or split as the user chose; what is kept fits, and no other word is changed."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fabrictune.convert.fitting import SHORTEST_OBSERVATION, Fitted, fit
from fabrictune.dialogue import Call, Dialogue, Exchange, Message, Span, Step, Tool, Turn
from fabrictune.formats import agentfabric
from fabrictune.sources import synthetic

LAMP = Tool("lamp", "", {"type": "object", "properties": {}})
CUTTING = ("drop", "truncate_observation", "split_history")


def write(dialogue: Dialogue) -> tuple[Exchange, ...]:
    """An exchange for each call and each answer, whose request is all that was said and returned before."""
    said, exchanges = dialogue.instruction, []
    for number, turn in enumerate(dialogue.turns):
        said += turn.query
        replies = [(step.thought, step.observation) for step in turn.steps] + [(turn.answer, "")]
        for position, (reply, returned) in enumerate(replies):
            request = (Message("user", said),)
            exchanges.append(Exchange(dialogue.id, number, position, "s", request, (Span(reply),)))
            said += reply + returned
    return tuple(exchanges)


def characters(exchanges: Sequence[Exchange]) -> list[int]:
    return [len(one.messages[0].content) + len(one.reply_text) for one in exchanges]


def step(observation: str, thought: str = "") -> Step:
    return Step(Call("lamp", {}), observation, thought)


def of(*turns: Turn, instruction: str = "") -> Dialogue:
    return Dialogue("d", (LAMP,), turns, instruction)


fitted = partial(fit, write=write, measure=characters)

_TEXT = st.text("ab灯", min_size=1, max_size=30)
_RESULT = st.integers(0, 450).map(lambda size: ("xyz图" * size)[:size])
_STEPS = st.lists(st.builds(step, _RESULT, st.just("") | _TEXT), max_size=3).map(tuple)
DIALOGUES = st.builds(
    lambda turns, instruction: of(*turns, instruction=instruction),
    st.lists(st.builds(Turn, _TEXT, _STEPS, _TEXT), min_size=1, max_size=4),
    st.text("s", max_size=30),
)
LIMITS = st.integers(10, 1800)


def pairs(result: Fitted) -> list[tuple[Exchange, int]]:
    return [pair for piece in result.pieces for pair in zip(piece.exchanges, piece.lengths, strict=True)]


@settings(deadline=None)
@given(DIALOGUES, LIMITS, st.sampled_from(["keep", *CUTTING]))
def test_what_is_kept_fits_and_what_is_left_out_is_counted(dialogue: Dialogue, limit: int, policy: str) -> None:
    whole = write(dialogue)
    result = fitted(dialogue, limit=limit, policy=policy)
    assert result.longest == max(characters(whole))
    assert result.too_long == len([length for length in characters(whole) if length > limit])
    assert [length for _, length in pairs(result)] == characters([exchange for exchange, _ in pairs(result)])
    if policy == "keep" or not result.too_long:
        assert result == Fitted((result.pieces[0],), result.too_long, 0, result.longest)
        assert (result.pieces[0].dialogue, result.pieces[0].exchanges) == (dialogue, whole)
    else:
        assert all(length <= limit for _, length in pairs(result))
        assert all(piece.exchanges for piece in result.pieces)
        assert len(pairs(result)) + result.left_out == len(whole)
        assert result.left_out <= result.too_long


@settings(deadline=None)
@given(DIALOGUES, LIMITS)
def test_dropping_leaves_out_just_the_exchanges_that_are_too_long(dialogue: Dialogue, limit: int) -> None:
    result = fitted(dialogue, limit=limit, policy="drop")
    lengths = list(zip(write(dialogue), characters(write(dialogue)), strict=True))
    short = [one for one, length in lengths if length <= limit]
    lost = min([one.turn for one, length in lengths if length > limit], default=len(dialogue.turns))
    assert [exchange for exchange, _ in pairs(result)] == short
    for piece in result.pieces:
        assert piece.dialogue == replace(dialogue, turns=dialogue.turns[: max(1, lost)])
        assert piece.is_whole == (lost > 0)
    assert len(result.pieces) == bool(short)


def cut(dialogue: Dialogue, most: int) -> Dialogue:
    return replace(
        dialogue,
        turns=tuple(
            Turn(turn.query, tuple(step(one.observation[:most], one.thought) for one in turn.steps), turn.answer)
            for turn in dialogue.turns
        ),
    )


def fits(dialogue: Dialogue, limit: int) -> bool:
    return max(characters(write(dialogue))) <= limit


@settings(deadline=None)
@given(DIALOGUES, st.data())
def test_results_are_cut_to_the_most_characters_that_fit_and_nothing_else_is_changed(
    dialogue: Dialogue, data: st.DataObject
) -> None:
    shortest, longest = (max(characters(write(one))) for one in (cut(dialogue, SHORTEST_OBSERVATION), dialogue))
    assume(shortest < longest)
    limit = data.draw(st.integers(shortest, longest - 1))
    result = fitted(dialogue, limit=limit, policy="truncate_observation")
    (piece,) = result.pieces
    kept = max(len(one.observation) for turn in piece.dialogue.turns for one in turn.steps)
    assert kept >= SHORTEST_OBSERVATION
    assert piece.dialogue == cut(dialogue, kept)
    assert fits(cut(dialogue, kept), limit) and not fits(cut(dialogue, kept + 1), limit)
    assert piece.exchanges == write(piece.dialogue) and result.left_out == 0


def test_results_are_cut_no_further_than_leaves_ground_for_an_answer() -> None:
    dialogue = of(Turn("Light?", (step("x" * 1000, "Hm."),), "On."))
    result = fitted(dialogue, limit=100, policy="truncate_observation")
    assert (result.too_long, result.left_out, result.longest) == (1, 1, len("Light?Hm.On.") + 1000)
    assert [exchange.step for exchange, _ in pairs(result)] == [0]
    assert (result.pieces[0].dialogue, result.results_cut) == (dialogue, 0)


def test_results_are_cut_for_the_exchanges_that_it_saves_and_not_for_a_hopeless_one() -> None:
    asked = Turn("Light?", (step("x" * 900),), "On.")
    hopeless = fitted(of(asked, Turn("y" * 3000, (), "No.")), limit=1000, policy="truncate_observation")
    assert [piece.dialogue for piece in hopeless.pieces] == [of(asked)]
    assert (hopeless.left_out, hopeless.results_cut) == (1, 0)
    saved = fitted(of(asked, asked, Turn("y" * 3000, (), "No.")), limit=1000, policy="truncate_observation")
    assert [(exchange.turn, exchange.step) for exchange, _ in pairs(saved)] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert (saved.left_out, saved.results_cut) == (1, 2)
    assert max(length for _, length in pairs(saved)) in (999, 1000)


def test_a_dialogue_without_results_has_nothing_to_cut() -> None:
    dialogue = of(Turn("a" * 10, (), "b" * 10), Turn("c" * 10, (), "d" * 10))
    result = fitted(dialogue, limit=30, policy="truncate_observation")
    assert [exchange.turn for exchange, _ in pairs(result)] == [0]
    assert result.pieces[0].dialogue == replace(dialogue, turns=dialogue.turns[:1])


@settings(deadline=None)
@given(DIALOGUES, st.data())
def test_a_split_keeps_every_turn_once_and_in_order_in_as_long_runs_as_fit(
    dialogue: Dialogue, data: st.DataObject
) -> None:
    alone = max(max(characters(write(replace(dialogue, turns=(turn,))))) for turn in dialogue.turns)
    longest = max(characters(write(dialogue)))
    assume(alone < longest)
    limit = data.draw(st.integers(alone, longest - 1))
    result = fitted(dialogue, limit=limit, policy="split_history")
    dialogues = [piece.dialogue for piece in result.pieces]
    assert tuple(turn for one in dialogues for turn in one.turns) == dialogue.turns
    assert [one.id for one in dialogues] == [f"d#{number}" for number in range(1, len(dialogues) + 1)]
    for piece in result.pieces:
        assert replace(piece.dialogue, id="d", turns=dialogue.turns) == dialogue
        assert piece.exchanges == write(piece.dialogue)
    for one, following in zip(dialogues, dialogues[1:], strict=False):
        assert not fits(replace(one, turns=(*one.turns, following.turns[0])), limit)
    assert (result.left_out, result.results_cut) == (0, 0)


def test_a_turn_that_is_too_long_by_itself_is_left_out_and_the_turns_around_it_are_kept() -> None:
    short = Turn("Light?", (), "On.")
    called = Turn("Why?", (step("x" * 500, "Hm."),), "So.")
    result = fitted(of(short, short, Turn("y" * 500, (), "No."), called, short), limit=30, policy="split_history")
    assert [(piece.dialogue.id, [turn.query for turn in piece.dialogue.turns]) for piece in result.pieces] == [
        ("d#1", ["Light?", "Light?"]),
        ("d#3", ["Why?"]),
        ("d#4", ["Light?"]),
    ]
    assert [exchange.step for exchange in result.pieces[1].exchanges] == [0]
    assert (result.too_long, result.left_out) == (4, 2)


def test_the_longest_exchange_may_be_any() -> None:
    def replies(exchanges: Sequence[Exchange]) -> list[int]:
        return [len(one.reply_text) for one in exchanges]

    dialogue = of(Turn("q", (), "a"), Turn("q", (), "a" * 50), Turn("q", (), "aa"))
    assert fit(dialogue, write, replies, 40, "keep").longest == 50
    result = fit(dialogue, write, replies, 40, "split_history")
    assert [(piece.dialogue.id, piece.lengths) for piece in result.pieces] == [("d#1", (1,)), ("d#3", (2,))]


@pytest.mark.parametrize("policy", CUTTING)
def test_a_dialogue_of_which_nothing_fits_has_no_pieces(policy: str) -> None:
    result = fitted(of(Turn("Light?", (), "On.")), limit=5, policy=policy)
    assert result == Fitted((), 1, 1, 9)


@pytest.mark.parametrize("policy", CUTTING)
def test_agentfabric_dialogues_fit_too(policy: str) -> None:
    def measure(exchanges: Sequence[Exchange]) -> list[int]:
        return [sum(len(message.content) for message in one.messages) + len(one.reply_text) for one in exchanges]

    pieces = 0
    for dialogue in synthetic.generate(3, 30, ("en", "zh")):
        whole = tuple(agentfabric.render(dialogue, "s"))
        limit = measure(whole)[0] + 200
        result = fit(dialogue, lambda one: tuple(agentfabric.render(one, "s")), measure, limit, policy)
        assert all(length <= limit for _, length in pairs(result))
        assert len(pairs(result)) + result.left_out == len(whole)
        pieces += len(result.pieces)
    assert pieces > 30 if policy == "split_history" else pieces == 30
