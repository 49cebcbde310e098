"""Making a dialogue's exchanges fit the model's length, by the policy that the user chose (`data.long`)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fabrictune.dialogue import Dialogue, Exchange

Write = Callable[[Dialogue], tuple[Exchange, ...]]
Measure = Callable[[Sequence[Exchange]], list[int]]
# Less of a result than this would leave nothing to ground an answer on.
SHORTEST_OBSERVATION = 200


@dataclass(frozen=True)
class Piece:
    """A dialogue with those of its exchanges that are kept, and the length of each."""

    dialogue: Dialogue
    exchanges: tuple[Exchange, ...]
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Fitted:
    """What became of one dialogue: its pieces, and how many exchanges were too long before and were left out after."""

    pieces: tuple[Piece, ...]
    too_long: int
    left_out: int
    longest: int


def fit(dialogue: Dialogue, write: Write, measure: Measure, limit: int, policy: str) -> Fitted:
    """The dialogue as pieces whose exchanges have at most `limit` tokens.

    "truncate_observation" cuts long results to as many characters as fit, "split_history" begins a dialogue anew at
    the turn that its history makes too long; an exchange that is too long all the same is left out, as "drop" does at
    once. "keep" only counts.
    """
    whole = _written(dialogue, write, measure)
    too_long = sum(length > limit for length in whole.lengths)
    longest = max(whole.lengths)
    if policy == "keep" or not too_long:
        return Fitted((whole,), too_long, 0, longest)
    pieces: tuple[Piece, ...] = (whole,)
    if policy == "truncate_observation":
        pieces = (_truncated(whole, write, measure, limit),)
    elif policy == "split_history":
        pieces = _split(dialogue, write, measure, limit)
    fitting = tuple(_fitting(piece, limit) for piece in pieces)
    left_out = sum(len(piece.lengths) for piece in pieces) - sum(len(piece.lengths) for piece in fitting)
    return Fitted(tuple(piece for piece in fitting if piece.exchanges), too_long, left_out, longest)


def _written(dialogue: Dialogue, write: Write, measure: Measure) -> Piece:
    exchanges = write(dialogue)
    return Piece(dialogue, exchanges, tuple(measure(exchanges)))


def _fitting(piece: Piece, limit: int) -> Piece:
    kept = [at for at, length in enumerate(piece.lengths) if length <= limit]
    return replace(
        piece,
        exchanges=tuple(piece.exchanges[at] for at in kept),
        lengths=tuple(piece.lengths[at] for at in kept),
    )


def _truncated(whole: Piece, write: Write, measure: Measure, limit: int) -> Piece:
    """The dialogue with its results cut to the greatest number of characters with which all exchanges fit."""
    longest = max((len(step.observation) for turn in whole.dialogue.turns for step in turn.steps), default=0)
    cuts = range(SHORTEST_OBSERVATION, longest)

    def exceeds(cut: int) -> bool:
        return max(_written(_cut(whole.dialogue, cut), write, measure).lengths) > limit

    first_too_long = bisect_right(cuts, False, key=exceeds)
    if not cuts:
        return whole
    return _written(_cut(whole.dialogue, cuts[max(0, first_too_long - 1)]), write, measure)


def _cut(dialogue: Dialogue, characters: int) -> Dialogue:
    turns = tuple(
        replace(turn, steps=tuple(replace(step, observation=step.observation[:characters]) for step in turn.steps))
        for turn in dialogue.turns
    )
    return replace(dialogue, turns=turns)


def _split(dialogue: Dialogue, write: Write, measure: Measure, limit: int) -> tuple[Piece, ...]:
    """Runs of turns, each as long as it fits; only a turn that is too long by itself makes a piece that does not."""
    pieces: list[Piece] = []
    for turn in dialogue.turns:
        if pieces:
            longer = replace(pieces[-1].dialogue, turns=(*pieces[-1].dialogue.turns, turn))
            grown = _written(longer, write, measure)
            if max(grown.lengths) <= limit:
                pieces[-1] = grown
                continue
        name = f"{dialogue.id}#{len(pieces) + 1}"
        pieces.append(_written(replace(dialogue, id=name, turns=(turn,)), write, measure))
    return tuple(pieces)
