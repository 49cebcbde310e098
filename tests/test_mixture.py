"""Sampling and splitting: seeded, whole dialogues, nothing lost and nothing in two places."""

import pytest

from fabrictune import mixture
from fabrictune.dialogue import Call, Dialogue, Step, Tool, Turn


def dialogue(number: int, family: str = "", tools: tuple[str, ...] = (), called: tuple[str, ...] = ()) -> Dialogue:
    steps = tuple(Step(Call(name, {}), "done") for name in called)
    offered = tuple(Tool(name, "", {"type": "object", "properties": {}, "required": []}) for name in tools)
    return Dialogue(f"d{number}", offered, (Turn("?", steps, "!"),), family=family)


MANY = [dialogue(number, family="hotels" if number % 4 == 0 else "rail") for number in range(200)]


def ids(dialogues: list[Dialogue]) -> set[str]:
    return {one.id for one in dialogues}


@pytest.mark.parametrize("count", [None, 10, 11])
def test_a_count_that_bounds_nothing_takes_everything(count: int | None) -> None:
    assert mixture.sample(range(10), count, 1, "x") == list(range(10))


def test_a_sample_keeps_the_order_and_repeats_nothing() -> None:
    drawn = mixture.sample(range(1000), 100, 1, "x")
    assert len(set(drawn)) == 100
    assert drawn == sorted(drawn)


def test_a_sample_is_drawn_from_all_items_and_not_from_the_first() -> None:
    drawn = mixture.sample(range(1000), 200, 1, "x")
    assert 400 < sum(drawn) / len(drawn) < 600
    assert min(drawn) < 50 and max(drawn) > 950


def test_a_sample_depends_on_seed_and_purpose_alone() -> None:
    drawn = mixture.sample(range(1000), 100, 1, "x")
    assert drawn == mixture.sample(range(1000), 100, 1, "x")
    assert drawn != mixture.sample(range(1000), 100, 2, "x")
    assert drawn != mixture.sample(range(1000), 100, 1, "y")


def test_a_split_loses_nothing_and_puts_nothing_in_two_places() -> None:
    split = mixture.split(MANY, 0.1, [], None, 1, "x")
    assert ids(split.train) | ids(split.test) == ids(MANY)
    assert not ids(split.train) & ids(split.test)
    assert split.heldout == [] and split.unused == 0


def test_held_out_families_are_never_trained_on() -> None:
    split = mixture.split(MANY, 0.1, ["hotels"], None, 1, "x")
    assert {one.family for one in split.train + split.test} == {"rail"}
    assert {one.family for one in split.heldout} == {"hotels"}
    assert (len(split.train), len(split.test), len(split.heldout), split.unused) == (135, 15, 50, 0)


def test_held_out_dialogues_beyond_the_bound_are_counted_and_not_used() -> None:
    split = mixture.split(MANY, 0.1, ["hotels"], 20, 1, "x")
    assert (len(split.heldout), split.unused) == (20, 30)
    assert not ids(split.heldout) & ids(split.train + split.test)


@pytest.mark.parametrize(
    ("count", "ratio", "tests"),
    [(10, 0.0, 0), (10, 0.01, 1), (10, 0.11, 2), (10, 0.99, 9), (1, 0.5, 0), (2, 0.5, 1), (0, 0.5, 0)],
)
def test_the_test_share_is_rounded_up_and_leaves_one_to_train_on(count: int, ratio: float, tests: int) -> None:
    split = mixture.split(MANY[:count], ratio, [], None, 1, "x")
    assert (len(split.test), len(split.train)) == (tests, count - tests)


def test_the_split_depends_on_the_seed() -> None:
    split = mixture.split(MANY, 0.1, ["hotels"], 20, 1, "x")
    assert split == mixture.split(MANY, 0.1, ["hotels"], 20, 1, "x")
    assert split.test != mixture.split(MANY, 0.1, ["hotels"], 20, 2, "x").test
    assert split.heldout != mixture.split(MANY, 0.1, ["hotels"], 20, 2, "x").heldout


@pytest.mark.parametrize(
    ("tools", "called", "seen"),
    [
        (("a", "b"), ("a",), True),
        (("a", "x"), ("a",), True),
        (("a", "x"), ("a", "x"), False),
        (("x",), ("x",), False),
        (("a",), (), True),
        (("a", "x"), (), False),
        ((), (), True),
    ],
)
def test_a_dialogue_is_seen_if_training_offered_the_tools_it_is_about(
    tools: tuple[str, ...], called: tuple[str, ...], seen: bool
) -> None:
    assert mixture.is_seen(dialogue(1, tools=tools, called=called), {"a", "b"}) is seen
