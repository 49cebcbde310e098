"""qwen-agent's ReActChat as its users see it: the prompt it sends, and how it reads and continues a reply."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fabrictune.dialogue import Dialogue

PROMPT = """Answer the following questions as best you can. You have access to the following tools:

{tools}

Use the following format:

Question: the input question you must answer
Thought: you should always think about what to do
Action: the action to take, should be one of [{names}]
Action Input: the input to the action
Observation: the result of the action
... (this Thought/Action/Action Input/Observation can be repeated zero or more times)
Thought: I now know the final answer
Final Answer: the final answer to the original input question

Begin!

Question: {query}
Thought: """


def prompt(dialogue: Dialogue, query: str) -> str:
    tools = "\n\n".join(
        f"{tool.name}: Call this tool to interact with the {tool.name} API. What is the {tool.name} API useful for? "
        f"{tool.description} Parameters: {json.dumps(tool.parameters, ensure_ascii=False)}"
        for tool in dialogue.tools
    )
    return PROMPT.format(tools=tools, names=",".join(tool.name for tool in dialogue.tools), query=query)


def find_call(text: str) -> tuple[str, str, str] | None:
    """(thought, name, arguments) of the call that the client runs: the last one that begins a line."""
    name_at, arguments_at = text.rfind("\nAction:"), text.rfind("\nAction Input:")
    if not 0 <= name_at < arguments_at:
        return None
    end = text.rfind("\nObservation:")
    arguments = text[arguments_at + len("\nAction Input:") : end if end >= arguments_at else len(text)]
    return text[:name_at], text[name_at + len("\nAction:") : arguments_at].strip(), arguments.strip()


def play(
    dialogue: Dialogue, ask: Callable[[list[dict[str, Any]]], str], run: Callable[[str, str], str]
) -> list[tuple[str, str]]:
    """The dialogue's queries asked one after the other; what was shown of each, and the last reply."""
    said: list[tuple[str, str]] = []
    history = [{"role": "system", "content": dialogue.instruction}] if dialogue.instruction else []
    for turn in dialogue.turns:
        asked, shown = prompt(dialogue, turn.query), "Thought: "
        while True:
            reply = ask([*history, {"role": "user", "content": asked}])
            shown += reply
            if not (call := find_call(reply)):
                break
            thought, name, arguments = call
            result = f"\nObservation: {run(name, arguments)}\nThought: "
            shown += result
            asked += f"{thought}\nAction: {name}\nAction Input: {arguments}{result}"
        history += [{"role": "user", "content": turn.query}, {"role": "assistant", "content": shown}]
        said.append((shown, reply))
    return said
