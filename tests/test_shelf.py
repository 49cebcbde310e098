"""A shelf gives back what was put on it to the byte, tells a split of the rows that are kept, and leaves no file."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fabrictune.convert.rows import Converted
from fabrictune.convert.shelf import Shelf

ROWS = st.lists(
    st.builds(
        Converted,
        number=st.integers(0, 2**40),
        blob=st.binary(max_size=300),
        keys=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4, unique=True).map(tuple),
        family=st.sampled_from(["", "hotels", "旅行"]),
        is_complete=st.booleans(),
    ),
    max_size=12,
)


def row(number: int, blob: bytes = b"", keys: tuple[int, ...] = (1,)) -> Converted:
    return Converted(number, blob, keys, "", True)


@settings(deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_rows_come_back_as_they_were_in_any_order(
    tmp_path_factory, rows: list[Converted], order: random.Random
) -> None:
    with Shelf(tmp_path_factory.getbasetemp()) as shelf:
        for one in rows:
            shelf.add(one, ())
        places = list(range(len(rows))) * 2
        order.shuffle(places)
        assert [shelf.blob(place) for place in places] == [rows[place].blob for place in places]
        assert len(shelf) == len(rows)
        assert shelf.numbers.tolist() == [one.number for one in rows]


@settings(deadline=None)
@given(ROWS, st.data())
def test_a_split_is_told_of_the_rows_kept_and_of_no_other(
    tmp_path_factory, rows: list[Converted], data: st.DataObject
) -> None:
    kept = sorted(data.draw(st.sets(st.sampled_from(range(len(rows)))))) if rows else []
    with Shelf(tmp_path_factory.getbasetemp()) as shelf:
        for number, one in enumerate(rows):
            shelf.add(Converted(number, one.blob, one.keys, one.family, one.is_complete), {"hotels"})
        told = shelf.rows(np.array(kept, np.int64), np.random.default_rng(0).random(len(rows)))
    mine = [rows[place] for place in kept]
    owned = [(owner, key) for owner, one in enumerate(mine) for key in one.keys]
    assert list(zip(told.owners.tolist(), told.keys.tolist(), strict=True)) == owned
    assert told.complete.tolist() == [one.is_complete for one in mine]
    assert told.heldout.tolist() == [one.family == "hotels" for one in mine]


def test_rows_are_drawn_by_the_priority_of_their_number_in_the_source(tmp_path: Path) -> None:
    priorities = np.array([0.9, 0.1, 0.5, 0.7, 0.3])
    with Shelf(tmp_path) as shelf:
        for number in (3, 0, 4, 1):  # 2 was rejected
            shelf.add(row(number), ())
        assert shelf.rows(np.arange(4), priorities).order.tolist() == [3, 2, 0, 1]
        assert shelf.rows(np.array([0, 2]), priorities).order.tolist() == [1, 0]


def test_the_folder_stays_empty_and_the_rows_do_not_lie_in_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    with Shelf(tmp_path) as shelf:
        for number in range(20_000):
            shelf.add(row(number, number.to_bytes(4, "big") * 250, (number, 2**64 - 1 - number)), ())
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert list(tmp_path.iterdir()) == []
        assert held / 20_000 < 100
        for place in (0, 19_999, 7, 12_345, 12_344):
            assert shelf.blob(place) == place.to_bytes(4, "big") * 250
        told = shelf.rows(np.arange(10_000, 20_000), np.arange(20_000) / 20_000)
        assert told.keys[-2:].tolist() == [19_999, 2**64 - 20_000] and told.owners[-2:].tolist() == [9_999, 9_999]
    assert list(tmp_path.iterdir()) == []


def test_rows_may_be_read_between_additions(tmp_path: Path) -> None:
    with Shelf(tmp_path) as shelf:
        shelf.add(row(0, b"first"), ())
        shelf.add(row(1, b"second"), ())
        assert shelf.blob(0) == b"first"
        shelf.add(row(2, b"third"), ())
        assert [shelf.blob(place) for place in (2, 1, 0)] == [b"third", b"second", b"first"]
