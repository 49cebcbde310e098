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
    """A dialogue with those of its exchanges that are kept, and the length of each.

    Where exchanges were left out the dialogue ends before the first turn that lost one, since it is what is tested on;
    of a dialogue that begins with such a turn that turn is left, and `is_whole` is False.
    """

    dialogue: Dialogue
    exchanges: tuple[Exchange, ...]
    lengths: tuple[int, ...]
    is_whole: bool = True


@dataclass(frozen=True)
class Fitted:
    """What became of one dialogue: its pieces, how many exchanges were too long before and were left out after, the
    longest exchange before, and how many results were cut."""

    pieces: tuple[Piece, ...]
    too_long: int = 0
    left_out: int = 0
    longest: int = 0
    results_cut: int = 0


def fit(dialogue: Dialogue, write: Write, measure: Measure, limit: int, policy: str) -> Fitted:
    """The dialogue as pieces whose exchanges have at most `limit` tokens.

    "truncate_observation" cuts long results to as many characters as fit, for the sake of those exchanges that fit
    with results of 200 characters; "split_history" begins a dialogue anew at the turn that its history makes too long.
    An exchange that is too long all the same is left out, as "drop" does at once. "keep" only counts.
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
    kept = tuple(piece for piece in fitting if piece.exchanges)
    results_cut = _cuts(dialogue, pieces[0].dialogue) if policy == "truncate_observation" else 0
    return Fitted(kept, too_long, left_out, longest, results_cut)


def _written(dialogue: Dialogue, write: Write, measure: Measure) -> Piece:
    exchanges = write(dialogue)
    return Piece(dialogue, exchanges, tuple(measure(exchanges)))


def _fitting(piece: Piece, limit: int) -> Piece:
    kept = [at for at, length in enumerate(piece.lengths) if length <= limit]
    if len(kept) == len(piece.lengths):
        return piece
    whole = min(
        exchange.turn for exchange, length in zip(piece.exchanges, piece.lengths, strict=True) if length > limit
    )
    return Piece(
        replace(piece.dialogue, turns=piece.dialogue.turns[: max(1, whole)]),
        tuple(piece.exchanges[at] for at in kept),
        tuple(piece.lengths[at] for at in kept),
        is_whole=whole > 0,
    )


def _truncated(whole: Piece, write: Write, measure: Measure, limit: int) -> Piece:
    """The dialogue with its results cut to the greatest number of characters with which all exchanges fit that can."""
    longest = max((len(step.observation) for turn in whole.dialogue.turns for step in turn.steps), default=0)
    shortest = _written(_cut(whole.dialogue, SHORTEST_OBSERVATION), write, measure).lengths
    saved = [at for at, length in enumerate(shortest) if length <= limit]
    if all(whole.lengths[at] <= limit for at in saved):
        return whole

    def exceeds(cut: int) -> bool:
        lengths = _written(_cut(whole.dialogue, cut), write, measure).lengths
        return any(lengths[at] > limit for at in saved)

    cuts = range(SHORTEST_OBSERVATION, longest)
    return _written(_cut(whole.dialogue, cuts[bisect_right(cuts, False, key=exceeds) - 1]), write, measure)


def _cuts(before: Dialogue, after: Dialogue) -> int:
    """How many results of the turns that both have are shorter after."""
    turns = zip(before.turns, after.turns, strict=False)
    steps = [pair for old, new in turns for pair in zip(old.steps, new.steps, strict=True)]
    return sum(len(new.observation) < len(old.observation) for old, new in steps)


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
