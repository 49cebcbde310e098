"""A chat template by which a model of AgentFabric's requests answers the OpenAI interface's `tools=`.

A request with tools becomes the very messages that AgentFabric's client would send for it (`tools.jinja`, which
computes in a template what `protocol` does here), and the model's own template makes the prompt of them. A request
without tools goes to the model's own template as it is.

Repairs, as the formats that read such data make them: system and developer messages, wherever they stand, are the
instruction, joined by a blank line, each said once; user messages in a row are one query; what the assistant says
before a call is its thought; parallel calls come one after the other, each with its own result, whose ids may be
missing; a parameter whose schema refers to one beside it is shown as that.

Refused, in a sentence that vLLM answers with status 400: a result without a call, a call without a result, any other
role, content that is no text, parameters that are no schema.

Not like `protocol`: arguments that are given as text, which vLLM never does, keep their escapes and their spelling of
numbers. Not held by the OpenAI interface: knowledge, a Role as such, uploaded files.
"""

from __future__ import annotations

import json
from pathlib import Path

from fabrictune import protocol
from fabrictune.dialogue import Call, Json, Tool

_SOURCE = Path(__file__).with_name("tools.jinja")
_NOTHING: dict[str, Json] = {"type": "object", "properties": {}, "required": []}
# The names that tools.jinja gives the texts it fills in.
_NAMES = Tool("{names}", "", _NOTHING)
_PROTOCOL_WORDS = (protocol.ACTION, protocol.ARGUMENTS, protocol.OBSERVATION)


def chat_template(own: str, dialect: protocol.Dialect) -> str:
    """The text of a chat template, for vLLM's `--chat-template` and for transformers; `own` is the model's."""
    strings = {
        "zh": _by_language("zh", dialect),
        "en": _by_language("en", dialect),
        "call": protocol.call_text(Call("{name}", {})).replace("{}", "{arguments}"),
        "escapes": {word: _escaped(word) for word in _PROTOCOL_WORDS},
        "result": protocol.result("{observation}"),
        "characters": protocol.OBSERVATION_CHARACTERS,
        "blank_line": dialect.blank_line,
    }
    # What is JSON here is an expression of jinja, too. The line break before `own` is the block's, not the prompt's.
    written = json.dumps(strings, ensure_ascii=False)
    return f"{{%- set _fabric = {written} %}}\n{_SOURCE.read_text(encoding='utf-8')}{own}"


def _by_language(lang: protocol.Language, dialect: protocol.Dialect) -> dict[str, str]:
    """The protocol's texts, with names in braces for what is filled in."""
    return {
        "system": protocol.system_text([_NAMES], "{persona}", "", lang, dialect=dialect, lines=["{tools}"]),
        "prefix": protocol.query_prefix([_NAMES], "", "", lang, dialect=dialect),
        "tool": _tool_line(lang),
    }


def _tool_line(lang: protocol.Language) -> str:
    mark = "字" if lang == "zh" else ""  # a line is Chinese if its description is
    line = protocol.tool_line(Tool("{name}", mark + "{description}", _NOTHING))
    return line.replace(mark + "{description}", "{description}").replace(json.dumps(_NOTHING), "{schema}")


def _escaped(word: str) -> str:
    """A word of the protocol as it stands in the arguments of a call."""
    return protocol.call_text(Call("", {"": word})).split('"')[3]
