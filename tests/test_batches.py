"""The plan of a run: every exchange once an epoch, and the same loss terms a step however the step is laid out."""

from __future__ import annotations

import pickle
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabrictune.dialogue import Exchange, Message, Span
from fabrictune.train import packing, tokens
from fabrictune.train.batches import Batches, Share, evaluation_rows
from fabrictune.train.packing import Row

AGENTS = 3
LONG = "You know these tools. " * 20


def lines() -> list[str]:
    """30 dialogues of 3 agents of 1 to 3 exchanges each, 20 of general chat under one short prompt, one too long."""
    made = []
    for number in range(30):
        system = Message("system", f"{LONG}{number % AGENTS}")
        for step in range(1 + number % 3):
            asked = Message("user", f"{number}?" + "Observation: 5" * step)
            spans = (Span("Action: "), Span("f", "tool"), Span("{}", "arguments"), Span(" done", "answer"))
            made.append(Exchange(f"agent/{number}", 0, step, "agent", (system, asked), spans))
    for number in range(20):
        asked = (Message("system", "Be brief."), Message("user", "why " * (1 + number % 7)))
        made.append(Exchange(f"general/{number}", 0, 0, "general", asked, (Span(f"so {number}", "answer"),)))
    made.append(Exchange("general/20", 0, 0, "general", (Message("user", "x" * 3000),), (Span("y", "answer"),)))
    return [one.to_line().decode() for one in made]


@pytest.fixture(scope="session")
def data(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tokens.Tokens:
    folder = tmp_path_factory.mktemp("batches")
    (folder / "train.jsonl").write_text("\n".join(lines()) + "\n")
    return tokens.cached(folder / "train.jsonl", tiny_model, folder / "cache", 1)


def plan(data: tokens.Tokens, **changes) -> Batches:
    given = {
        "max_length": 1500,
        "loss_weights": {"tool": 2.0},
        "batch_size": 8,
        "together": 4,
        "row_tokens": 1600,
        "packing": "tree",
        "ranks": 1,
        "epochs": 2,
        "seed": 7,
    }
    return Batches(data, **(given | changes))


def step_of(batches: Batches, step: int) -> list[Share]:
    return [batches[step * batches.ranks + rank] for rank in range(batches.ranks)]


def terms(rows: list[Row]) -> Counter:
    """The loss terms: exchange, source, weight, target, and the tokens that it is predicted from."""
    found: Counter = Counter()
    for row in rows:
        for at, target, weight, source, number in zip(
            row.sources, row.targets, row.weights, row.term_sources, row.term_sequences, strict=True
        ):
            past = np.flatnonzero((np.arange(len(row)) <= at) & (at < row.subtree_end))
            found[int(number), int(source), float(weight), int(target), row.ids[past].tobytes()] += 1
    return found


layouts = st.fixed_dictionaries(
    {
        "ranks": st.integers(1, 5),
        "row_tokens": st.integers(200, 4000),
        "packing": st.sampled_from(packing.PACKINGS),
        "together": st.integers(1, 9),
        "batch_size": st.integers(1, 60),
    }
)


@settings(max_examples=20, deadline=None)
@given(layouts, st.integers(0, 3))
def test_every_exchange_that_fits_is_trained_on_once_an_epoch(data, layout, seed: int) -> None:
    batches = plan(data, **layout, seed=seed)
    for epoch in range(2):
        steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
        seen = Counter(one.number for step in steps for group in batches.groups(step) for one in group)
        assert seen == Counter(np.flatnonzero(data.lengths <= 1500).tolist())
        assert {len(batches.groups(step)) for step in steps[:-1]} <= {batches.batch_size}
    assert len(batches) == 2 * batches.steps_per_epoch * layout["ranks"]


@settings(max_examples=20, deadline=None)
@given(layouts, st.integers(0, 20))
def test_a_steps_loss_terms_do_not_depend_on_how_it_is_laid_out(data, layout, step: int) -> None:
    same = {"batch_size": 8, "together": 4}
    step %= plan(data).steps
    (plain,) = step_of(plan(data, packing="none"), step)
    shares = step_of(plan(data, **layout | same), step)
    assert terms([row for share in shares for row in share.rows]) == terms(list(plain.rows))
    assert len({len(share.rows) for share in shares}) == 1
    for share in shares:
        assert share.weight == pytest.approx(sum(float(row.weights.sum()) for row in plain.rows))
        assert share.tokens == sum(len(row) for each in shares for row in each.rows)
        assert share.unshared == sum(len(row) for row in plain.rows)
        for row in share.rows:
            assert len(row) <= layout["row_tokens"] or len(set(row.term_sequences.tolist())) == 1


def test_epochs_differ_in_order_and_a_seed_gives_its_plan_again(data) -> None:
    def order(batches: Batches, epoch: int) -> list[int]:
        steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
        return [group[0].number for step in steps for group in batches.groups(step)]

    batches = plan(data)
    assert order(batches, 0) != order(batches, 1)
    assert order(batches, 0) == order(plan(data, ranks=4, packing="flat", row_tokens=300), 0), "whatever the layout"
    assert order(batches, 0) != order(plan(data, seed=8), 0)
    backwards = plan(data)
    assert [order(backwards, epoch) for epoch in (1, 0)] == [order(batches, epoch) for epoch in (1, 0)]


def test_an_item_is_the_same_in_a_process_that_was_sent_the_plan(data) -> None:
    batches = plan(data, ranks=2)
    batches[0]
    sent = pickle.dumps(batches)
    ours, theirs = batches[9], pickle.loads(sent)[9]
    assert pickle.dumps(ours) == pickle.dumps(theirs)
    with pytest.raises(IndexError):
        batches[len(batches)]


@pytest.mark.parametrize("together", [1, 4])
def test_dialogues_of_an_agent_come_together_and_never_more_at_a_time(data, together: int) -> None:
    runs = Counter()
    for seed in range(20):
        batches = plan(data, together=together, batch_size=1, seed=seed)
        keys = [int(data.keys[data.dialogues[batches.groups(step)[0][0].number]]) for step in range(50)]
        start = 0
        for place in range(1, len(keys) + 1):
            if place == len(keys) or keys[place] != keys[start]:
                runs[keys[start] != 0, place - start] += 1
                start = place
    agents = {length: count for (is_agent, length), count in runs.items() if is_agent}
    # 10 dialogues of each of 3 agents: chunks of 4, 4 and 2, of which two may meet by chance.
    if together == 4:
        assert set(agents) & {1, 3} == set() and agents[4] > agents.get(8, 0)
    else:
        assert agents[1] > agents[2] > agents[3]


def test_general_chat_under_a_short_prompt_is_spread_over_the_epoch(data) -> None:
    shares = []
    for seed in range(30):
        batches = plan(data, batch_size=10, seed=seed)
        sources = [[data.source_names[group[0].source] for group in batches.groups(step)] for step in range(5)]
        shares += [own.count("general") for own in sources]
    assert sum(shares) == 30 * 20
    # In one block it would fill two batches of five, and be missing in two or three.
    assert np.mean([share == 10 for share in shares]) < 0.1
    assert np.mean([share == 0 for share in shares]) < 0.1


def test_batches_share_more_when_dialogues_of_an_agent_come_together(data) -> None:
    apart, together = (plan(data, together=count, batch_size=4).estimate().tokens for count in (1, 4))
    assert together < apart < data.lengths[data.lengths <= 1500].sum()


def test_counts_say_what_is_trained_on_and_what_is_left_out(data) -> None:
    batches = plan(data, row_tokens=500)
    counts, by_source = batches.counts(), batches.counts_by_source()
    fitting = [number for number in range(len(data)) if len(data[number]) <= 1500]
    weights = [data.encoded(number, {"tool": 2.0}).weights for number in fitting]
    assert (counts.dialogues, counts.exchanges, counts.too_long, counts.left_out) == (50, len(fitting), 1, 1)
    assert counts.unshared == sum(len(data[number]) for number in fitting)
    assert counts.supervised == sum(int((own > 0).sum()) for own in weights)
    assert counts.longer_than_row == sum(len(data[number]) > 500 for number in fitting) > 0
    assert (by_source["agent"].dialogues, by_source["general"].dialogues) == (30, 20)
    assert (by_source["agent"].too_long, by_source["general"].too_long) == (0, 1)
    assert by_source["agent"].unshared + by_source["general"].unshared == counts.unshared


@pytest.mark.parametrize(("ranks", "kind"), [(1, "tree"), (3, "tree"), (2, "flat"), (2, "none")])
def test_an_estimate_over_all_steps_is_what_is_computed(data, ranks: int, kind: str) -> None:
    batches = plan(data, ranks=ranks, packing=kind)
    estimate = batches.estimate(batches.steps_per_epoch)
    shares = [step_of(batches, step) for step in range(batches.steps_per_epoch)]
    assert estimate.tokens == sum(step[0].tokens for step in shares)
    assert estimate.rows == np.mean([len(step[0].rows) for step in shares])
    assert estimate.largest == max(len(row) for step in shares for share in step for row in share.rows)
    assert batches.estimate(3).tokens == pytest.approx(estimate.tokens, rel=0.5)


@pytest.mark.parametrize(("epochs", "steps"), [(0.01, 1), (0.5, 4), (1, 7), (1.5, 11), (3, 21)])
def test_epochs_need_not_be_whole(data, epochs: float, steps: int) -> None:
    assert plan(data, epochs=epochs).steps == steps  # 50 dialogues, 8 a step


def test_where_nothing_fits_the_file_the_key_and_the_shortest_are_named(data) -> None:
    with pytest.raises(ValueError) as raised:
        plan(data, max_length=10)
    for said in (str(data.path), "data.max_length=10", f"the shortest has {data.lengths.min()}"):
        assert said in str(raised.value)


def test_an_empty_file_is_named(tiny_model) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "test.jsonl").touch()
        empty = tokens.cached(Path(folder) / "test.jsonl", tiny_model, Path(folder) / "cache", 1)
        with pytest.raises(
            ValueError,
            match=r"test.jsonl is empty; .*\(xLAM\), are only trained on; .*'\+data.mix.more=.*overwrite=true$",
        ):
            evaluation_rows(empty, max_length=10, loss_weights={}, row_tokens=100)


@pytest.mark.parametrize("kind", packing.PACKINGS)
@pytest.mark.parametrize("window", [7, 256])
def test_an_evaluation_counts_every_exchange_once(data, kind: str, window: int, monkeypatch) -> None:
    monkeypatch.setattr("fabrictune.train.batches.WINDOW", window)
    rows = evaluation_rows(data, max_length=1500, loss_weights={}, row_tokens=1600, packing=kind)
    expected = [packing.pack([data.encoded(number, {})]) for number in range(len(data)) if data.lengths[number] <= 1500]
    assert terms(rows) == terms(expected)
    assert all(len(row) <= 1600 for row in rows)


def test_a_bounded_evaluation_takes_dialogues_evenly_over_the_file(data) -> None:
    rows = evaluation_rows(data, max_length=1500, loss_weights={}, row_tokens=4000, dialogues=10)
    numbers = {int(number) for row in rows for number in row.term_sequences}
    names = sorted({data.names[data.dialogues[number]] for number in numbers})
    assert names == sorted([f"agent/{n}" for n in range(0, 30, 5)] + [f"general/{n}" for n in range(0, 20, 5)])
    for name in names:
        own = np.flatnonzero(data.dialogues == data.names.index(name))
        assert set(own.tolist()) <= numbers, "whole dialogues"
