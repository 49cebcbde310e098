"""ModelScope's frame of a dialogue, {"conversations": [{"from", "value"}]}, as a list or as its text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fabrictune.formats import values


def read(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(from, value) of every message in `row["conversations"]`, a list or the text of one as JSON or Python.

    Windows line ends become plain ones. Raises ValueError if that is no such list, or an empty one.
    """
    conversations = row.get("conversations")
    if conversations is None:
        raise ValueError(f"no row without conversations: the row has {sorted(row)}")
    if isinstance(conversations, str):
        conversations = values.read(conversations)
    if not isinstance(conversations, list) or not conversations:
        raise ValueError(
            f"'conversations' is {type(conversations).__name__}, not a list of messages: {conversations!r:.120}"
        )
    return [_message(message) for message in conversations]


def pairs(messages: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """(query, reply) of messages from user and assistant in turn. Raises ValueError where they do not alternate."""
    for position, (role, _) in enumerate(messages):
        expected = "assistant" if position % 2 else "user"
        if role != expected:
            raise ValueError(f"user and assistant do not take turns: message {position} is from '{role}'")
    if not messages:
        raise ValueError("no message is from a user")
    if len(messages) % 2:
        raise ValueError("the last user message has no reply")
    for (_, query), (_, value) in zip(messages[::2], messages[1::2], strict=True):
        if not value.strip():
            raise ValueError(f"a reply is empty: to {query[:60]!r}")
        yield query, value


def _message(message: Any) -> tuple[str, str]:
    try:
        role, value = message["from"], message["value"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"a message is no {{'from', 'value'}} pair: {_shown(message)}") from error
    if not isinstance(role, str) or not isinstance(value, str):
        raise ValueError(f"a message is no text: {_shown(message)}")
    return role, value.replace("\r\n", "\n")


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {value!r:.120}"
