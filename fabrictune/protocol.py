"""AgentFabric's wire protocol: ModelScope-Agent's RolePlay, of April 2024 (0.4.0) and of its last release.

These strings are facts: the clients send them byte for byte (tests/golden/agentfabric holds recorded requests).
`formats.agentfabric` writes training data from them and `client` speaks them, so the two cannot drift apart.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from fabrictune.dialogue import Call, Json, Message, Role, Tool

# What a reply is made of, and how the client marks a result.
ACTION, ARGUMENTS, OBSERVATION = "Action:", "Action Input:", "Observation:"
RESULT, RESULT_END = "<result>", "</result>"
STOP = (OBSERVATION, f"{OBSERVATION}\n")
MAX_CALLS = 10  # requests the client makes for one user message before it gives up
# The client keeps int(6000 / 2 - tokens of the empty template) characters of a result in its messages.
OBSERVATION_CHARACTERS = 2988
RAW_OBSERVATION_CHARACTERS = 2813  # for a raw prompt to DashScope's models, which are given 5,650 instead of 6,000
KNOWLEDGE_CHARACTERS = 4000
CODE_INTERPRETER = "code_interpreter"  # with this tool on offer, uploaded files stand in for the knowledge
ANSWER_MARK = "\nAnswer:"
# The client reads arguments by json5, which is written in Python and takes 0.1 s for this many; beyond, none are read.
ARGUMENT_CHARACTERS = 10_000

KNOWLEDGE = {
    "zh": "\n\n# 知识库\n\n{knowledge}\n\n",
    "en": "\n\n# Knowledge Base\n\n{knowledge}\n\n",
}
_TOOLS = {
    "zh": (
        "\n# 工具\n\n## 你拥有如下工具：\n\n{tools}\n\n"
        "## 当你需要调用工具时，请在你的回复中穿插如下的工具调用命令，可以根据需求调用零次或多次：\n\n"
        "工具调用\nAction: 工具的名称，必须是[{names}]之一\nAction Input: 工具的输入\n"
        "Observation: <result>工具返回的结果</result>\n"
        "Answer: 根据Observation总结本次工具调用返回的结果"
    ),
    "en": (
        "\n# Tools\n\n## You have the following tools:\n\n{tools}\n\n"
        "## When you need to call a tool, please intersperse the following tool command in your reply. "
        "You can call zero or more times according to your needs:\n\n"
        "Tool Invocation\nAction: The name of the tool, must be one of [{names}]\nAction Input: Tool input\n"
        "Observation: <result>Tool returns result</result>\n"
        "Answer: Summarize the results of this tool call based on Observation."
    ),
}
TOOLS = {
    "zh": _TOOLS["zh"] + "，如果结果中出现url，请使用如下格式展示出来：![图片](url)\n\n",
    "en": _TOOLS["en"] + " If the result contains url, please display it in the following format:![Image](URL)\n\n",
}
TOOLS_V072 = {
    "zh": _TOOLS["zh"] + "。如果结果中出现url，请严格遵循Observation中url的格式进行展示。\n\n",
    "en": _TOOLS["en"] + "\n\n",
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
PREFIX_FILES = {"zh": '[上传文件 "{names}"]', "en": '[Upload file "{names}"]'}  # behind the parentheses of the others
PERSONA = {
    "zh": ("你扮演AI-Agent，", "你的名字是{name}。", "\n你具有下列具体功能：", "\n下面你将开始扮演{name}"),
    "en": (
        "You are playing as an AI-Agent, ",
        "Your name is {name}.",
        "\nYou have the following specific functions:",
        "\nNow you will start playing as{name}",
    ),
}

_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_CALL = re.compile(r"Action: (.+)\nAction Input: (.+)")
_CALL_WORDS = re.compile(r"Action(?=:| Input:)")
_to_json = json.JSONEncoder(ensure_ascii=False).encode


def find_last_call(text: str) -> Found | None:
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


def find_first_call(text: str) -> Found | None:
    """(name, arguments, output) as client 0.7.2 finds them: the first call counts, arguments are one line.

    Blanks around a name belong to it, so that the client knows no such tool.
    """
    found = _CALL.search(text)
    return (found[1], found[2], text) if found else None


Language = Literal["zh", "en"]
Found = tuple[str, str, str]  # name, arguments, output


@dataclass(frozen=True)
class Dialect:
    """What differs between the two generations of the client.

    `tools` is the section on tools by language; a client that always `lists_tools` writes it, and the words on tools
    before the query, even where there are none. `blank_line` says whether a call and its result stand a blank line
    apart in the messages, with a server that cuts a reply at the stop string, as vLLM does.
    """

    name: str
    tools: Mapping[str, str] = field(repr=False, compare=False)
    lists_tools: bool
    blank_line: bool
    find_call: Callable[[str], Found | None] = field(repr=False)


APRIL = Dialect("agentfabric", TOOLS, lists_tools=False, blank_line=False, find_call=find_last_call)
V072 = Dialect("agentfabric_v072", TOOLS_V072, lists_tools=True, blank_line=True, find_call=find_first_call)
DIALECTS = {dialect.name: dialect for dialect in (APRIL, V072)}


def dialect_of(format: str, script: str) -> Dialect:
    """The generation of the client that a data.format is for. Raises ValueError, on a script's behalf, if for none."""
    if format not in DIALECTS:
        raise ValueError(
            f"the data was converted with data.format={format}, for other trainers; {script} needs the exchanges of "
            f"data.format={' or '.join(DIALECTS)}: convert again"
        )
    return DIALECTS[format]


def has_chinese(text: str) -> bool:
    return not text.isascii() and _CHINESE.search(text) is not None


def language(*texts: str) -> Language:
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
    schema = _to_json(shown)
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
    text = listed.removesuffix("；") if isinstance(listed, str) else "；".join(listed)
    return (
        opening
        + (named.format(name=instruction.name) if instruction.name else "")
        + instruction.description
        + functions
        + text
        + closing.format(name=instruction.name)
    )


def system_text(
    tools: Sequence[Tool],
    instruction: str | Role,
    knowledge: str,
    lang: str,
    *,
    dialect: Dialect = APRIL,
    lines: Sequence[str] | None = None,
) -> str:
    """The system message: knowledge (its beginning), tools, instruction; no section that has nothing to say.

    `lines` are the tools' `tool_line`s, for a caller who asks for more than one text about them.
    """
    text = KNOWLEDGE[lang].format(knowledge=knowledge[:KNOWLEDGE_CHARACTERS]) if knowledge else ""
    if tools or dialect.lists_tools:
        listed = "\n\n".join(map(tool_line, tools) if lines is None else lines)
        text += dialect.tools[lang].format(tools=listed, names=_names(tools))
    return text + INSTRUCTION[lang].format(persona=persona(instruction, lang))


def query_prefix(
    tools: Sequence[Tool],
    instruction: str | Role,
    knowledge: str,
    lang: str,
    *,
    files: Sequence[str] = (),
    dialect: Dialect = APRIL,
) -> str:
    """What stands before the newest user query, "" where the client writes nothing."""
    pieces = [
        PREFIX_ROLE[lang].format(name=instruction.name) if isinstance(instruction, Role) else "",
        PREFIX_TOOLS[lang].format(names=_names(tools)) if tools or dialect.lists_tools else "",
        PREFIX_KNOWLEDGE[lang] if knowledge else "",
    ]
    prefix = f"({''.join(pieces)})" if any(pieces) else ""
    names = ",".join(map(posixpath.basename, files))
    return prefix + PREFIX_FILES[lang].format(names=names) if files else prefix


def opening(
    tools: Sequence[Tool],
    instruction: str | Role,
    knowledge: str,
    history: Iterable[Message],
    query: str,
    *,
    files: Sequence[str] = (),
    lang: str | None = None,
    dialect: Dialect = APRIL,
    lines: Sequence[str] | None = None,
) -> list[Message]:
    """The messages of the first request for a query; history alternates user and assistant, without a system.

    `lines` are as for `system_text`.

    Where `lang` is None, the language is the one that the client chooses. Its texts are the query, the whole knowledge,
    the files' names and the history, which AgentFabric begins with the system message of the first turn: an agent
    described in Chinese that is spoken to in English gets its first prompt in English and the later ones in Chinese.
    """
    past = list(history)
    is_code_run = bool(files) and any(tool.name == CODE_INTERPRETER for tool in tools)
    shown = "" if is_code_run else knowledge
    chosen: str = lang or language(query, knowledge, *files, *(message.content for message in past))
    system = system_text(tools, instruction, shown, chosen, dialect=dialect, lines=lines)
    if lang is None and past and chosen == "en" and has_chinese(system):
        chosen = "zh"
        system = system_text(tools, instruction, shown, chosen, dialect=dialect, lines=lines)
    prefix = query_prefix(tools, instruction, shown, chosen, files=files, dialect=dialect)
    return [Message("system", system), *past, Message("user", prefix + query)]


def result(observation: str) -> str:
    """A tool's result as the client streams it to its user."""
    return f"\nObservation: <result>{observation}</result>{ANSWER_MARK}"


def trace(output: str, observation: str, characters: int = OBSERVATION_CHARACTERS) -> str:
    """What one call adds to the messages: the output that the client's `find_call` saw, then the result, cut."""
    return output + result(observation[:characters])


def raw_content(text: str) -> str:
    """A user's or assistant's content as it stands in a raw prompt to DashScope."""
    return text.lstrip("\n").rstrip()


def call_text(call: Call) -> str:
    """The call as the model must write it: both client parsers find it, whatever the arguments hold.

    The protocol's own words inside an argument get their first letter escaped, which JSON allows everywhere in a
    string; without that a parser would take them for the next call.
    """
    arguments = _CALL_WORDS.sub(r"\\u0041ction", _to_json(call.arguments))
    arguments = arguments.replace("Observation:", r"\u004fbservation:")
    return f"Action: {call.name}\nAction Input: {arguments}\n"


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
