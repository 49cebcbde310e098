"""Alpaca rows -> Dialogue: {"instruction", "input", "output", "system", "history": [[query, answer], ...]}.

`instruction` and `input` are one query, joined by a line break as LLaMA-Factory does; either may be empty. Refused, as
in every plain chat (`messages`): an empty query or answer, and a placeholder such as {{name}} that is not filled in.
Not read: all other keys but `id` and `family`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fabrictune.dialogue import Dialogue
from fabrictune.formats import messages


def parse(row: Mapping[str, Any]) -> Dialogue:
    """The row as a Dialogue. Raises ValueError saying what in it cannot be read."""
    missing = [key for key in ("instruction", "output") if key not in row]
    if missing:
        raise ValueError(f"no row of alpaca data without {missing[0]}: the row has {sorted(row)}")
    messages.check_no_tools(row)
    asked = filter(None, (messages.read_text(row, "instruction"), messages.read_text(row, "input")))
    return messages.exchange(row, "\n".join(asked), messages.read_text(row, "output"))
