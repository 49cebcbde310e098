"""ModelScope's ms_bench records -> Dialogue (iic/ms_bench): general chat without tools.

A row is {"conversations": [{"from": "system" | "user" | "assistant", "value"}]}, a list or the text of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fabrictune.dialogue import Dialogue, Turn
from fabrictune.formats import conversations
from fabrictune.formats.messages import read_name

# ms-swift v1.7.3 (March 2024) takes this system message out and skips rows with the first three words, its revision of
# August 2026 those with the fourth also: other assistants' names, and dialogues inside one message.
DEFAULT_SYSTEM = "You are a helpful assistant."
UNWANTED = ("moss", "human:", "assistant:", "user:")


def parse(row: Mapping[str, Any]) -> Dialogue:
    """The row as a Dialogue without tools; a system message other than the default one is its instruction.

    Raises ValueError with the reason where the row is left out: it cannot be read, holds one of `UNWANTED` in any
    letter case (ms-swift v1.7.3; "user:" as of August 2026), or is no sequence of queries and replies. v1.7.3 demanded
    of the latter only that the last two messages are a pair, and dropped a dangling one before them.
    """
    messages = conversations.read(row)
    if messages[0] == ("system", DEFAULT_SYSTEM):
        messages.pop(0)
    for _, value in messages:
        lowered = value.lower()
        for word in UNWANTED:
            if word in lowered:
                at = lowered.index(word)
                raise ValueError(
                    f"a message holds '{word}', as ms-swift filters it: {value[max(at - 40, 0) : at + 40]!r}"
                )
    instruction = messages.pop(0)[1] if messages and messages[0][0] == "system" else ""
    turns = tuple(Turn(query, (), reply) for query, reply in conversations.pairs(messages))
    return Dialogue(read_name(row, "id"), (), turns, instruction)
