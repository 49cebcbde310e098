"""Choosing dialogues: sampling a source, holding out families, splitting into train and test. Pure and seeded."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

from fabrictune.dialogue import Dialogue

Item = TypeVar("Item")


@dataclass(frozen=True)
class Split:
    """A source's dialogues: to train on, to test on, and to test on with families that training never sees."""

    train: list[Dialogue]
    test: list[Dialogue]
    heldout: list[Dialogue]
    unused: int


def sample(items: Sequence[Item], count: int | None, seed: int, purpose: str) -> list[Item]:
    """`count` of the items drawn uniformly from all of them, in their own order; all of them if count is None."""
    if count is None or count >= len(items):
        return list(items)
    chosen = random.Random(f"{seed}/{purpose}").sample(range(len(items)), count)
    return [items[index] for index in sorted(chosen)]


def split(
    dialogues: Sequence[Dialogue],
    test_ratio: float,
    heldout_families: Collection[str],
    heldout_max: int | None,
    seed: int,
    purpose: str,
) -> Split:
    """The dialogues split whole; a share `test_ratio` of those of seen families, rounded up, is the test set.

    One dialogue at least is left to train on.
    """
    seen = [dialogue for dialogue in dialogues if dialogue.family not in heldout_families]
    unseen = [dialogue for dialogue in dialogues if dialogue.family in heldout_families]
    tests = max(0, min(math.ceil(len(seen) * test_ratio), len(seen) - 1))
    test = sample(seen, tests, seed, f"{purpose}/test")
    tested = {id(dialogue) for dialogue in test}
    kept = sample(unseen, heldout_max, seed, f"{purpose}/heldout")
    train = [dialogue for dialogue in seen if id(dialogue) not in tested]
    return Split(train, test, kept, len(unseen) - len(kept))


def is_seen(dialogue: Dialogue, trained: Collection[str]) -> bool:
    """Whether the tools that the dialogue is about (those called, else all offered) were offered in training."""
    about = {call.name for call in dialogue.calls} or {tool.name for tool in dialogue.tools}
    return about <= set(trained)
