"""AgentFabric's config/model_config.json: a model's entry, put in as text, so that all else stays byte for byte."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from fabrictune.dialogue import Json

BOM = "\ufeff"
INDENT = "    "  # of AgentFabric's own file, for one that is empty

# Names of upstream's that client 0.7.2 cannot speak to through an OpenAI-compatible server: for base models it puts a
# list where the request must have a stop word, which the server refuses; for the others it ends with a KeyError.
_BASES = (
    *("codefuse-qwen-14b-chat", "llama2-7b", "llama2-13b", "llama2-70b", "llama2-7b-aqlm-2bit-1x16", "llama3-8b"),
    *("llama3-70b", "mixtral-moe-7b-aqlm-2bit-1x16", "qwen-1_8b", "qwen-7b", "qwen-14b", "qwen-72b", "qwen-vl"),
    "tongyi-finance-14b",
)
_UNKNOWN = (
    *("llava1d6-mistral-7b-instruct", "llava1d6-yi-34b-instruct", "mplug-owl2-chat", "mplug-owl2d1-chat"),
    *("qwen-audio", "qwen-audio-chat"),
)
_FAILING = frozenset((*_BASES, *_UNKNOWN))


def is_failing_name(model: str) -> bool:
    """Whether client 0.7.2 fails for a model so called; it knows a name by all of it, or by what is before a _."""
    parts = model.split("_")
    return any("_".join(parts[:count]) in _FAILING for count in range(1, len(parts) + 1))


def entry(model: str, api_base: str) -> dict[str, Json]:
    """The entry of a model behind an OpenAI-compatible server, as both generations of the client read it.

    `is_function_call` must be there: where it is not, the client asks the server for a call to find out, and its mode
    for such calls fails. The key is not in it: the client takes it from OPENAI_API_KEY.
    """
    return {
        "type": "openai",
        "model": model,
        "api_base": api_base,
        "is_chat": True,
        "is_function_call": False,
        "support_stream": False,
    }


@dataclass(frozen=True)
class _Member:
    """A name and its value in the text: where the value begins and ends, and the blanks before the name."""

    name: str
    value: Json
    start: int
    end: int
    gap: str


def with_entry(text: str, name: str, value: Mapping[str, Json], *, overwrite: bool) -> str:
    """The text with the entry in it, indented as the text is; the very same text if it has that entry already.

    Raises ValueError for text that is no JSON object, and for another entry of the name unless it may be overwritten.
    """
    body = text.removeprefix(BOM)
    head = text[: len(text) - len(body)]
    members, opened = _members(body)
    known = [member for member in members if member.name == name]
    if known and known[-1].value == value:  # of two with a name the last one counts
        return text
    if known and not overwrite:
        raise ValueError(f"it has another entry '{name}'; replace it with overwrite=true, or give serve.model_name=")
    line_end = "\r\n" if "\r\n" in body else "\n"
    if known:
        place = known[-1]
        return head + body[: place.start] + _written(value, place.gap, line_end) + body[place.end :]
    gap = members[-1].gap if members else line_end + INDENT
    written = f"{gap}{json.dumps(name, ensure_ascii=False)}: {_written(value, gap, line_end)}"
    if members:
        return head + body[: members[-1].end] + "," + written + body[members[-1].end :]
    return head + body[:opened] + written + line_end + body[opened:].lstrip()


def _written(value: Mapping[str, Json], gap: str, line_end: str) -> str:
    """The value as the file has its others: on lines of its own if its name begins one."""
    if "\n" not in gap:
        return json.dumps(value, ensure_ascii=False)
    indent = gap.rpartition("\n")[2]
    lines = json.dumps(value, ensure_ascii=False, indent=indent or INDENT).split("\n")
    return (line_end + indent).join(lines)


def _members(text: str) -> tuple[list[_Member], int]:
    """The members of the object that the text is, and where its first one would begin."""
    if not isinstance(json.loads(text), dict):
        raise ValueError("it is no JSON object")
    decoder = json.JSONDecoder()
    opened = text.index("{") + 1
    found = []
    at = opened
    while text[_blank(text, at)] != "}":
        begin = _blank(text, at)
        name, end = decoder.raw_decode(text, begin)
        start = _blank(text, _blank(text, end) + 1)  # behind the colon
        value, end = decoder.raw_decode(text, start)
        found.append(_Member(name, value, start, end, text[at:begin]))
        at = _blank(text, end)
        at += text[at] == ","
    return found, opened


def _blank(text: str, at: int) -> int:
    """The first place from there on that is no blank."""
    while text[at] in " \t\r\n":
        at += 1
    return at
