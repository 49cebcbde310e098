"""Sampling and splitting: seeded, whole dialogues, nothing lost and nothing in two places."""

import numpy as np
import pytest

from fabrictune.convert import mixture
from fabrictune.convert.mixture import Part, Rows, Sides
from fabrictune.dialogue import Call, Dialogue, Step, Tool, Turn


def rows(
    keys: list[tuple[int, ...]], heldout: set[int] = frozenset(), incomplete: set[int] = frozenset(), seed: int = 1
):
    count = len(keys)
    return Rows(
        np.array([key for own in keys for key in own], np.uint64),
        np.repeat(np.arange(count), [len(own) for own in keys]),
        np.array([row not in incomplete for row in range(count)]),
        np.array([row in heldout for row in range(count)]),
        mixture.sample(count, None, seed, "x/split"),
    )


def singles(count: int) -> list[tuple[int, ...]]:
    return [(number,) for number in range(1, count + 1)]


def split(given: Rows, ratio: float = 0.1, heldout_max: int | None = None, sides: Sides | None = None) -> list[Part]:
    return [Part(part) for part in mixture.split(given, ratio, sides or Sides(heldout_max))]


@pytest.mark.parametrize("count", [None, 10, 11])
def test_a_count_that_bounds_nothing_takes_everything(count: int | None) -> None:
    assert sorted(mixture.sample(10, count, 1, "x")) == list(range(10))


def test_a_sample_is_drawn_from_all_rows_and_not_from_the_first() -> None:
    drawn = mixture.sample(1000, 200, 1, "x")
    assert len(set(drawn.tolist())) == 200
    assert 400 < drawn.mean() < 600
    assert drawn.min() < 50 and drawn.max() > 950


def test_a_sample_depends_on_seed_and_purpose_alone() -> None:
    drawn = mixture.sample(1000, 100, 1, "x").tolist()
    assert drawn == mixture.sample(1000, 100, 1, "x").tolist()
    assert drawn != mixture.sample(1000, 100, 2, "x").tolist()
    assert drawn != mixture.sample(1000, 100, 1, "y").tolist()


def test_a_row_added_at_the_end_changes_no_other_priority() -> None:
    assert mixture.priorities(101, 1, "x")[:100].tolist() == mixture.priorities(100, 1, "x").tolist()


@pytest.mark.parametrize(
    ("count", "ratio", "tests"),
    [(10, 0.0, 0), (10, 0.01, 1), (10, 0.11, 2), (10, 0.99, 9), (1, 0.5, 0), (2, 0.5, 1), (30000, 0.01, 300)],
)
def test_the_test_share_is_rounded_up_and_leaves_one_to_train_on(count: int, ratio: float, tests: int) -> None:
    parts = split(rows(singles(count)), ratio)
    assert (parts.count(Part.test), parts.count(Part.train)) == (tests, count - tests)


def test_held_out_rows_are_never_trained_on_and_beyond_the_bound_not_used() -> None:
    hotels = set(range(0, 200, 4))
    parts = split(rows(singles(200), heldout=hotels), heldout_max=20)
    assert {row for row, part in enumerate(parts) if part in (Part.heldout, Part.unused)} == hotels
    assert [parts.count(part) for part in Part] == [135, 15, 20, 30, 0]


def test_rows_that_share_a_key_directly_or_through_others_go_to_one_side() -> None:
    keys = [(number // 3, 10_000 + number // 5) for number in range(300)]  # 15 rows hang together
    for seed in range(5):
        parts = split(rows(keys, seed=seed), 0.2)
        assert all(len(set(parts[start : start + 15])) == 1 for start in range(0, 300, 15))
        assert parts.count(Part.test) == 60


def test_a_group_too_big_for_the_test_set_is_trained_on_and_others_fill_it() -> None:
    keys = [(1,)] * 50 + [(10 + number,) for number in range(50)]
    for seed in range(5):
        parts = split(rows(keys, seed=seed), 0.1)
        assert set(parts[:50]) == {Part.train}
        assert parts.count(Part.test) == 10


def test_an_incomplete_row_and_its_near_duplicates_are_never_tested_on() -> None:
    parts = split(rows([(1,), (1,), (2,), (3,)], incomplete={0}), 0.9)
    assert parts[:2] == [Part.train, Part.train]
    assert parts.count(Part.test) == 2


def test_an_incomplete_row_of_a_held_out_family_is_not_used() -> None:
    assert split(rows(singles(4), heldout={0, 1}, incomplete={1}), 0)[:2] == [Part.heldout, Part.unused]


def test_a_near_duplicate_in_a_later_source_follows_the_side_of_the_first() -> None:
    sides = Sides()
    first = split(rows(singles(100)), 0.1, sides=sides)
    later = split(rows(singles(100), seed=7), 0.1, sides=sides)
    assert later == first


def test_a_held_out_row_whose_like_an_earlier_source_trained_on_is_not_tested_on() -> None:
    sides = Sides()
    assert split(rows([(1,)]), 0, sides=sides) == [Part.train]
    assert split(rows([(1,), (2,)], heldout={0, 1}), 0, sides=sides) == [Part.unused, Part.heldout]


def test_the_bound_on_held_out_rows_holds_for_all_sources_together() -> None:
    sides = Sides(heldout=3)
    first, second = (split(rows([(key,) for key in keys], heldout={0, 1}), 0, sides=sides) for keys in ((1, 2), (3, 4)))
    assert first == [Part.heldout] * 2
    assert sorted(second) == [Part.heldout, Part.unused]


def test_the_rows_held_back_are_the_last_ones_drawn_of_those_that_may_be() -> None:
    given = rows(singles(100))
    late = np.isin(np.arange(100), given.order[-30:])
    assert set(np.flatnonzero(mixture.hold_back(given, late, 10, Sides()))) == set(given.order[-10:].tolist())
    late[given.order[-4:]] = False
    assert set(np.flatnonzero(mixture.hold_back(given, late, 10, Sides()))) == set(given.order[-14:-4].tolist())
    assert mixture.hold_back(given, late, 40, Sides()).sum() == 26
    assert not mixture.hold_back(given, late, 0, Sides()).any()


def test_a_row_whose_like_an_earlier_source_tested_or_trained_on_is_not_held_back() -> None:
    given = rows(singles(40))
    last = given.order[-4:].tolist()
    sides = Sides(
        tested=np.array([last[0] + 1], np.uint64),  # a row's key is its number and 1
        trained=np.array([last[1] + 1], np.uint64),
    )
    held = mixture.hold_back(given, np.ones(40, bool), 4, sides)
    assert set(np.flatnonzero(held)) == set(last[2:])
    assert set(sides.tested.tolist()) == {last[0] + 1, last[2] + 1, last[3] + 1}


def test_a_row_that_is_incomplete_or_of_a_held_out_family_is_not_held_back() -> None:
    given = rows(singles(6), heldout={0, 1}, incomplete={1, 2})
    assert set(np.flatnonzero(mixture.hold_back(given, np.ones(6, bool), 6, Sides()))) == {3, 4, 5}


def test_of_a_key_that_repeats_some_rows_are_held_back_and_the_others_are_left_out_beside_them() -> None:
    for seed in range(10):
        keys = [(number % 60,) for number in range(200)]
        given, sides = rows(keys, seed=seed), Sides()
        held = mixture.hold_back(given, np.ones(200, bool), 20, sides)
        assert held.sum() == 20
        trained = mixture.beside(given, sides) == Part.train
        assert trained.any()
        assert not {keys[row] for row in np.flatnonzero(held)} & {keys[row] for row in np.flatnonzero(trained)}


def test_a_source_beside_the_tests_leaves_out_their_likes_and_is_known_to_later_ones() -> None:
    sides = Sides(tested=np.array([2], np.uint64))
    assert mixture.beside(rows(singles(3), heldout={2}), sides).tolist() == [Part.train, Part.unused, Part.unused]
    assert sides.trained.tolist() == [1]


@pytest.mark.parametrize("ratio", [0.07, 0.14, 0.28, 0.55, 0.56])
def test_a_share_that_comes_out_even_is_not_rounded_up_for_floats_sake(ratio: float) -> None:
    assert split(rows(singles(100)), ratio).count(Part.test) == round(100 * ratio)


def test_the_split_depends_on_the_order_of_drawing() -> None:
    assert split(rows(singles(200))) == split(rows(singles(200)))
    assert split(rows(singles(200))) != split(rows(singles(200), seed=2))


def asked(query: str, called: bool = True, tools: tuple[str, ...] = ("a", "b")) -> Turn:
    return Turn(query, (Step(Call(tools[0], {}), "done"),) if called else (), "!")


def keyed(*turns: Turn, tools: tuple[str, ...] = ("a", "b")) -> set[int]:
    offered = tuple(Tool(name, "", {"type": "object", "properties": {}, "required": []}) for name in tools)
    return set(mixture.keys(Dialogue("d", offered, turns)))


def test_queries_that_differ_in_case_blanks_and_punctuation_are_near_duplicates() -> None:
    plain = keyed(asked("weather in Oslo"))
    assert keyed(asked("  Weather, in OSLO?！")) == plain
    assert keyed(asked("weather in Rome")) != plain
    assert keyed(asked("weather in Oslo"), tools=("a", "c")) != plain


def test_the_order_of_tools_and_talk_without_calls_make_no_difference() -> None:
    plain = keyed(asked("weather in Oslo"))
    assert keyed(asked("hello", called=False), asked("weather in Oslo"), asked("thanks", called=False)) == plain
    assert keyed(asked("weather in Oslo", tools=("a",)), tools=("b", "a")) == plain


def test_a_dialogue_without_calls_is_known_by_its_first_query() -> None:
    assert keyed(asked("hello", called=False), asked("thanks", called=False)) == keyed(asked("Hello!", called=False))
    assert keyed(asked("???", called=False)) != keyed(asked("!!!", called=False))
