"""What a system message says in the formats that know only text: the agent's knowledge and its instruction."""

from __future__ import annotations

from fabrictune import protocol
from fabrictune.dialogue import Dialogue, Role


def spell(dialogue: Dialogue) -> str:
    """The text, "" where there is nothing to say, as for an agent that nobody configured (an empty Role).

    Knowledge and a Role are spelled as AgentFabric does, in Chinese once a query or the knowledge is.
    """
    lang = protocol.language(dialogue.knowledge, *(turn.query for turn in dialogue.turns))
    knowledge = protocol.KNOWLEDGE[lang].format(knowledge=dialogue.knowledge).strip() if dialogue.knowledge else ""
    persona = "" if dialogue.instruction == Role() else protocol.persona(dialogue.instruction, lang)
    return "\n\n".join(filter(None, (knowledge, persona)))


def join(texts: list[str]) -> str:
    """The system texts of one record as one, each said once."""
    return "\n\n".join(dict.fromkeys(text for text in texts if text.strip()))
