"""AgentFabric's wire protocol: ModelScope-Agent's RolePlay at its April 2024 source (0.4.0), openai-type model.

These strings are facts: the client sends them byte for byte (tests/golden/agentfabric holds recorded requests).
`formats.agentfabric` writes training data from them and `client` speaks them, so the two cannot drift apart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from fabrictune.dialogue import Call, Json, Message, Role, Tool

STOP = ("Observation:", "Observation:\n")
MAX_CALLS = 10  # requests the client makes for one user message before it gives up
# The client keeps int(6000 / 2 - tokens of the empty template) characters of a result in its messages.
OBSERVATION_CHARACTERS = 2988
ANSWER_MARK = "\nAnswer:"

KNOWLEDGE = {
    "zh": "\n\n# 知识库\n\n{knowledge}\n\n",
    "en": "\n\n# Knowledge Base\n\n{knowledge}\n\n",
}
TOOLS = {
    "zh": (
        "\n# 工具\n\n## 你拥有如下工具：\n\n{tools}\n\n"
        "## 当你需要调用工具时，请在你的回复中穿插如下的工具调用命令，可以根据需求调用零次或多次：\n\n"
        "工具调用\nAction: 工具的名称，必须是[{names}]之一\nAction Input: 工具的输入\n"
        "Observation: <result>工具返回的结果</result>\n"
        "Answer: 根据Observation总结本次工具调用返回的结果，如果结果中出现url，请使用如下格式展示出来：![图片](url)\n\n"
    ),
    "en": (
        "\n# Tools\n\n## You have the following tools:\n\n{tools}\n\n"
        "## When you need to call a tool, please intersperse the following tool command in your reply. "
        "You can call zero or more times according to your needs:\n\n"
        "Tool Invocation\nAction: The name of the tool, must be one of [{names}]\nAction Input: Tool input\n"
        "Observation: <result>Tool returns result</result>\n"
        "Answer: Summarize the results of this tool call based on Observation. "
        "If the result contains url, please display it in the following format:![Image](URL)\n\n"
    ),
}
INSTRUCTION = {
    "zh": (
        "\n# 指令\n\n{persona}\n\n请注意：你具有图像和视频的展示能力，也具有运行代码的能力，不要在回复中说你做不到。\n"
    ),
    "en": (
        "\n#Instructions\n\n{persona}\n\nNote: you have the ability to display images and videos, "
        "as well as the ability to run code. Don't say you can't do it.\n"
    ),
}
PREFIX_ROLE = {"zh": "你正在扮演{name}", "en": "You are playing as {name}"}
PREFIX_TOOLS = {"zh": "。你可以使用工具：[{names}]", "en": ". you can use tools: [{names}]"}
PREFIX_KNOWLEDGE = {"zh": "。请查看前面的知识库", "en": ". Please read the knowledge base at the beginning"}
PERSONA = {
    "zh": ("你扮演AI-Agent，", "你的名字是{name}。", "\n你具有下列具体功能：", "\n下面你将开始扮演{name}"),
    "en": (
        "You are playing as an AI-Agent, ",
        "Your name is {name}.",
        "\nYou have the following specific functions:",
        "\nNow you will start playing as{name}",
    ),
}


def has_chinese(text: str) -> bool:
    return re.search(r"[\u4e00-\u9fff]", text) is not None


def language(*texts: str) -> str:
    """ "zh" if any text that goes into the client's run() (query, history, knowledge) holds a Chinese character."""
    return "zh" if any(map(has_chinese, texts)) else "en"


def tool_line(tool: Tool) -> str:
    """The tool as one line of the system prompt; its language is its own description's, whatever the prompt's.

    The client shows type, description and enum of a parameter and nothing else of its schema.
    """
    shown = {
        "type": "object",
        "properties": {
            name: {key: schema[key] for key in ("type", "description", "enum") if key in schema}
            for name, schema in tool.properties.items()
        },
        "required": tool.required,
    }
    schema = json.dumps(shown, ensure_ascii=False)
    if has_chinese(tool.description):
        head = f"{tool.name}: {tool.name} API。{tool.description} 输入参数: {schema}"
    else:
        head = f"{tool.name}: {tool.name} API. {tool.description} Parameters: {schema}"
    return f"{head} Format the arguments as a JSON object."


def persona(instruction: str | Role, lang: str) -> str:
    """The instruction as text: a string stands as it is, a role is spelled out as the client does."""
    if isinstance(instruction, str):
        return instruction
    opening, named, functions, closing = PERSONA[lang]
    listed = instruction.instruction
    text = listed if isinstance(listed, str) else "；".join(listed)
    return (
        opening
        + (named.format(name=instruction.name) if instruction.name else "")
        + instruction.description
        + functions
        + text.removesuffix("；")
        + closing.format(name=instruction.name)
    )


def system_text(tools: Sequence[Tool], instruction: str | Role, knowledge: str, lang: str) -> str:
    """The system message: knowledge, tools, instruction, each section only where there is something to say."""
    text = KNOWLEDGE[lang].format(knowledge=knowledge) if knowledge else ""
    if tools:
        lines = "\n\n".join(map(tool_line, tools))
        text += TOOLS[lang].format(tools=lines, names=_names(tools))
    return text + INSTRUCTION[lang].format(persona=persona(instruction, lang))


def query_prefix(tools: Sequence[Tool], instruction: str | Role, knowledge: str, lang: str) -> str:
    """What stands before the newest user query, "" where the client writes nothing."""
    pieces = [
        PREFIX_ROLE[lang].format(name=instruction.name) if isinstance(instruction, Role) else "",
        PREFIX_TOOLS[lang].format(names=_names(tools)) if tools else "",
        PREFIX_KNOWLEDGE[lang] if knowledge else "",
    ]
    return f"({''.join(pieces)})" if any(pieces) else ""


def opening(
    tools: Sequence[Tool], instruction: str | Role, knowledge: str, history: Iterable[Message], query: str
) -> list[Message]:
    """The messages of the first request for a query; history alternates user and assistant, without a system."""
    past = list(history)
    lang = language(query, knowledge, *(message.content for message in past))
    system = Message("system", system_text(tools, instruction, knowledge, lang))
    user = Message("user", query_prefix(tools, instruction, knowledge, lang) + query)
    return [system, *past, user]


def result(observation: str) -> str:
    """A tool's result as the client streams it to its user."""
    return f"\nObservation: <result>{observation}</result>{ANSWER_MARK}"


def trace(output: str, observation: str) -> str:
    """What one call adds to the user message: the model's text up to the call's end, then the result, cut to length."""
    return output + result(observation[:OBSERVATION_CHARACTERS])


def call_text(call: Call) -> str:
    """The call as the model must write it: both client parsers find it, whatever the arguments hold.

    The protocol's own words inside an argument get their first letter escaped, which JSON allows everywhere in a
    string; without that a parser would take them for the next call.
    """
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    arguments = re.sub(r"Action(?=:| Input:)", r"\\u0041ction", arguments).replace("Observation:", r"\u004fbservation:")
    return f"Action: {call.name}\nAction Input: {arguments}\n"


def find_last_call(text: str) -> tuple[str, str, str] | None:
    """(name, arguments, output) as the April 2024 client finds them, or None where it sees no call.

    The last `Action:` counts; arguments reach to `Observation:` or the end and may span lines. `output` is what goes
    back into the messages.
    """
    name_at, arguments_at, end = text.rfind("Action:"), text.rfind("Action Input:"), text.rfind("Observation:")
    if not 0 <= name_at < arguments_at:
        return None
    if end < arguments_at:
        text = text.rstrip()
        end = len(text)
    name = text[name_at + len("Action:") : arguments_at].strip()
    return name, text[arguments_at + len("Action Input:") : end].strip(), text[:end]


def find_first_call(text: str) -> tuple[str, str, str] | None:
    """(name, arguments, output) as client 0.7.2 finds them: the first call counts, arguments are one line."""
    found = re.search(r"Action: (.+)\nAction Input: (.+)", text)
    return (found[1].strip(), found[2].strip(), text) if found else None


def failure(name: str, arguments: str, details: str) -> str:
    """The observation that the client makes of a call that raised."""
    return f"Tool api {name} failed to call. Args: {arguments}.Details: {details[:200]}"


def request(model: str, messages: Sequence[Message]) -> dict[str, Json]:
    """The body of one request; the client sets no temperature and no bound on new tokens."""
    return {
        "model": model,
        "messages": [{"role": message.role, "content": message.content} for message in messages],
        "stop": list(STOP),
        "stream": False,
    }


def _names(tools: Sequence[Tool]) -> str:
    return ",".join(tool.name for tool in tools)
