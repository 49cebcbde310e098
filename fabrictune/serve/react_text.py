"""A ReAct prompt, as qwen-agent's ReActChat writes it, told in AgentFabric's words, and its reply.

The model was trained on AgentFabric's requests and on no such prompt. The tools are read as training data of that kind
is (format ms_agent): each needs a JSON schema, so that a prompt without (langchain's own) cannot be read.

A trace is plain text, in which a result may hold anything, lines that look like a step too. A step is one here only in
the form in which `Telling` writes calls and clients hand them back: `Thought:`, `Action:` and a name, `Action Input:`
and a JSON object, each on its line, and `Observation:`, with the name of a tool on offer, or one that the client says
it does not know. All else is part of the result before it, or of the query. A result that forges a step in this very
form with a tool on offer cannot be told from a real one: the model will take that call for its own. It is not run:
clients run what a reply calls, and a reply is read as it comes from the model.

Not kept: blanks around a thought, how the JSON of a call was spelled, calls of one reply after the first, since these
clients run one a reply.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fabrictune import protocol
from fabrictune.dialogue import Call, Message, Role, Step, Tool
from fabrictune.formats import conversations, ms_agent, system_text, values
from fabrictune.formats.messages import read_messages
from fabrictune.log import logger
from fabrictune.serve import tool_calls

HEADER = "Answer the following questions as best you can. You have access to the following "
OWN_HEADER = f"{HEADER}tools:"  # under it a description's last dot is its own; ms_agent's original sets one behind each
FORMAT = "Use the following format:"
BEGIN = "\nBegin!\n\nQuestion:"
THOUGHT = "\nThought:"
FINAL = f"{ms_agent.FINAL_THOUGHT}\nFinal Answer: "
OFFER_CHARACTERS = 200_000  # of the text before the question, read in the server's event loop
# What a reply says before its first call waits until that comes: it is a thought then, else the answer's beginning.
# After so many characters it is the answer; those before the calls of our own data have 28 at most.
THOUGHT_CHARACTERS = 400

_CALL = re.compile(r"\nAction: ([^\n]+)\nAction Input: (\{[^\n]*\})[ \t]*\n\n?Observation: ?")
_END = re.compile(rf"{THOUGHT}\s*\Z")
# How qwen-agent and langchain answer a call to a tool that they do not have.
_UNKNOWN = ("Tool {name} does not exists.", "{name} is not a valid tool")


def is_prompt(text: str) -> bool:
    """Whether the text has the fixed words of a ReAct prompt."""
    return HEADER in text and FORMAT in text and BEGIN in text


def messages(asked: Sequence[Mapping[str, Any]], dialect: protocol.Dialect) -> list[Message]:
    """What AgentFabric's client would send where a ReAct client sends these messages, the last of them its prompt.

    Raises ValueError saying what cannot be read.
    """
    systems, said = read_messages({"messages": list(asked)})
    if not said or said[-1]["role"] != "user":
        raise ValueError("the last message is not the user's")
    offer, _, question = said[-1]["content"].partition(BEGIN)
    if len(offer) > OFFER_CHARACTERS:
        raise ValueError(f"the text before the question has {len(offer)} characters, more than {OFFER_CHARACTERS}")
    tools, own = _offer(offer)
    query, steps = _asked(question, tools)
    instruction = system_text.join([*systems, own]) or Role()
    written = [(message["role"], message["content"]) for message in said[:-1]]
    past = [
        Message(role, content)
        for query, reply in (conversations.pairs(written) if written else ())
        for role, content in (("user", query), ("assistant", _transcript(reply, tools)))
    ]
    *before, newest = protocol.opening(tools, instruction, "", past, query, dialect=dialect)
    trace = "".join(
        protocol.trace(written if dialect.blank_line else written.rstrip(), step.observation)
        for written, step in zip(_written(steps), steps, strict=True)
    )
    return [*before, Message("user", newest.content + trace)]


@functools.lru_cache(maxsize=64)  # an agent's requests have the same few tools
def _offer(text: str) -> tuple[tuple[Tool, ...], str]:
    """The tools that a prompt lists, and what it says before them."""
    read = ms_agent.parse(
        {
            "conversations": [
                {"from": "system", "value": f"{text}\nBegin!"},
                {"from": "user", "value": "-"},
                {"from": "assistant", "value": "-"},
            ]
        }
    )
    tools = read.tools
    if OWN_HEADER in text:
        dotted = [f"{tool.description}. Parameters: " in text for tool in tools]
        tools = tuple(
            replace(tool, description=f"{tool.description}.") if dot else tool
            for tool, dot in zip(tools, dotted, strict=True)
        )
    return tools, read.instruction if isinstance(read.instruction, str) else ""


def _asked(question: str, tools: Sequence[Tool]) -> tuple[str, list[Step]]:
    """The query and the steps so far, from what follows `Question:`."""
    end = _END.search(question)
    if not end:
        raise ValueError(f"the prompt does not end with 'Thought:': {question[-80:]!r}")
    query, steps = _split(question[: end.start()], tools)
    return query.removeprefix(" "), steps


def _split(text: str, tools: Sequence[Tool]) -> tuple[str, list[Step]]:
    """The text before the first step, and the steps; the last one's result is all that follows it."""
    names = {tool.name for tool in tools}
    pieces: list[str] = []
    calls: list[tuple[Call, str]] = []
    at, seen, thought = 0, 0, -1
    for found in _CALL.finditer(text):
        name = found[1].strip()
        if name not in names and not text.startswith(tuple(one.format(name=name) for one in _UNKNOWN), found.end()):
            continue
        thought = max(thought, text.rfind(THOUGHT, seen, found.start()))  # each character is looked at once
        seen, arguments = found.start(), _object(found[2])
        if thought >= at and arguments is not None:
            said = text[thought + len(THOUGHT) : found.start()].strip()
            pieces.append(text[at:thought])
            calls.append((Call(name, arguments), said.removeprefix(FINAL).strip()))
            at = found.end()
    head, *results = [*pieces, text[at:]]
    steps = [Step(call, result, thought) for (call, thought), result in zip(calls, results, strict=True)]
    return head, steps


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = values.DECODER.decode(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _written(steps: Sequence[Step]) -> list[str]:
    """The replies that the calls came in, as the model writes them; behind `Answer:` a thought begins with a blank."""
    leads = [f"{' ' if place else ''}{step.thought}\n" if step.thought else "" for place, step in enumerate(steps)]
    return [lead + protocol.call_text(step.call) for lead, step in zip(leads, steps, strict=True)]


def _transcript(reply: str, tools: Sequence[Tool]) -> str:
    """An earlier reply as AgentFabric keeps it: all that its user saw. A reply that shows no trace is the answer."""
    text = f"\n{reply}"
    head, steps = _split(text, tools)
    if not steps:
        shown, mark, answer = text.rpartition(f"{THOUGHT} {FINAL}")
        return answer if mark and not shown.strip() else reply.removeprefix(THOUGHT[1:]).strip()
    observation, mark, answer = steps[-1].observation.rpartition(f"{THOUGHT} {FINAL}")
    if not mark:  # the client's bound on calls ended the turn
        observation, _, answer = steps[-1].observation.rpartition(THOUGHT)
    lead = head.strip().removeprefix(THOUGHT[1:]).strip()
    steps[0] = replace(steps[0], thought="\n".join(filter(None, (lead, steps[0].thought))))
    steps[-1] = replace(steps[-1], observation=observation)
    shown = "".join(
        written + protocol.result(step.observation) for written, step in zip(_written(steps), steps, strict=True)
    )
    return f"{shown} {answer.strip()}" if answer.strip() else shown


def told(reply: str, prompt: str) -> str:
    """The whole reply of the model in ReAct's words, as it follows the prompt."""
    telling = Telling(prompt)
    return telling.feed(reply) + telling.finish()


class Telling:
    """Tells one reply as it streams. However it is cut, the pieces add up; one more than 400 characters long without a
    call is an answer as soon as that is known.
    """

    def __init__(self, prompt: str) -> None:
        self._blank = "" if prompt.endswith(" ") else " "  # between `Thought:` and the first word
        self._reader = tool_calls.Reader()
        self._held = ""
        self._is_answer = self._has_called = False

    def feed(self, piece: str) -> str:
        """What the next piece of the reply makes certain."""
        # A call ends with a brace. In pieces that end there, what is said stands before it, as `Told` does not say.
        parts = re.findall(r"[^}]*\}|[^}]+", piece)
        return "".join(self._tell(self._reader.feed(part)) for part in parts)

    def finish(self) -> str:
        """What the end of the reply makes certain: all that was held back."""
        text = self._tell(self._reader.finish())
        if self._has_called:
            return text
        begun = text if self._is_answer else text + self._begin_answer()
        rest, self._held = self._held, ""
        return begun + _without_calls(rest)

    def _tell(self, seen: tool_calls.Told) -> str:
        if self._has_called:
            if seen.calls:
                logger.warning("a reply calls more than once, and a ReAct client runs its first call only")
            return ""
        self._held += seen.content
        if seen.calls:
            return self._call(seen.calls[0])
        if not self._is_answer and len(self._held) <= THOUGHT_CHARACTERS:
            return ""
        begun = "" if self._is_answer else self._begin_answer()
        end = _certain(self._held)
        text, self._held = self._held[:end], self._held[end:]
        return begun + _without_calls(text)

    def _begin_answer(self) -> str:
        self._is_answer = True
        self._held = self._held.lstrip()
        return self._blank + FINAL

    def _call(self, call: tool_calls.ToolCall) -> str:
        self._has_called = True
        thought = _without_calls(self._held).rstrip() if self._is_answer else self._held.strip()
        blank = self._blank if thought and not self._is_answer else ""
        return f"{blank}{thought}\n{protocol.call_text(Call(call.name, json.loads(call.arguments)))}"


def _certain(text: str) -> int:
    """Where the end of an answer begins that may yet become a line with `Action:`."""
    at = text.rfind("\n")
    return at if at >= 0 and protocol.ACTION.startswith(text[at + 1 :]) else len(text)


def _without_calls(answer: str) -> str:
    """The answer with a blank before what begins a line and would be run as a call, which the model did not make."""
    return answer.replace(f"\n{protocol.ACTION}", f"\n {protocol.ACTION}")
