"""Which tool was made where another was due is counted as it was, and what a table has no room for is told."""

from __future__ import annotations

from typing import Any

from fabrictune.evaluate.confusion import confusion


def stepped(model: str, steps: list[tuple[str, str | None]], *beyond: str) -> dict[str, Any]:
    """A row of the calls that were due and made, and of the calls made beyond them."""
    made = [name for _, name in steps if name is not None]
    return {
        "model": model,
        "steps": [{"due": due, "made": name} for due, name in steps],
        "expected": {"calls": [{"name": due, "arguments": {}} for due, _ in steps]},
        "calls": [{"name": name, "arguments": "{}", "observation": ""} for name in (*made, *beyond)],
    }


def test_the_confusion_counts_each_call_due_by_the_tool_that_was_made() -> None:
    due = [("a", "a"), ("a", None), ("b", "a"), ("b", "b"), ("b", "zzz"), ("b", "a")]
    rows = [stepped("tuned", [step]) for step in due]
    rows.append(stepped("base", [("b", "b")]))
    found = confusion(rows, "tuned")
    assert found.due == ["b", "a"]
    assert found.row("b") == [(None, 0, 0.0), ("b", 1, 0.25), ("a", 2, 0.5), ("zzz", 1, 0.25)]
    assert not found.has_other and found.left_out == 0


def test_calls_beyond_those_due_are_counted_on_a_line_of_their_own() -> None:
    rows = [
        stepped("m", [("a", "a")], "b", "a"),
        stepped("m", [], "zzz"),
        stepped("m", [("b", None)]),
        stepped("m", []),
    ]
    found = confusion(rows, "m")
    assert found.due == ["b", "a", None]
    assert {made: count for made, count, _ in found.row(None)} == {None: 0, "a": 1, "b": 1, "zzz": 1}
    judged_otherwise = {**stepped("m", [], "a"), "expected": {"calls": [{"name": "a", "arguments": {}}]}}
    assert confusion([judged_otherwise], "m").due == []


def test_tools_beyond_the_table_are_counted_as_others() -> None:
    rows = [stepped("m", [(f"d{n}", f"x{n}")]) for n in range(50)]
    found = confusion(rows, "m")
    assert len(found.due) == 30 and found.left_out == 20
    assert sum(found.other(due) + sum(count for _, count, _ in found.row(due)) for due in found.due) == 30
    assert found.has_other
