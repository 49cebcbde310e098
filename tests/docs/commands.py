"""What a markdown text lets its reader type: its commands, its settings, and the other code that it shows."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

SHELLS = frozenset({"sh", "bash", "shell", "console"})
ENVIRONMENT = re.compile(r"[A-Za-z_]\w*=")
SETTING = re.compile(r"(?:[+~]{0,2})([A-Za-z][\w./*-]*)=(.*)", re.DOTALL)
HEREDOC = re.compile(r"<<-?\s*(['\"]?)(\w+)\1")
# Blocks that name no language, and are no commands: trees, which are drawn or give each line a path and what it is.
TREE = re.compile(r"[├└→]|^\S+/$|^(?:\S*(?:/|\.\w+) )+  +\w")


@dataclass(frozen=True)
class Code:
    """A block of code, or what stands between backticks in a line. `place` is file:line of its beginning."""

    file: str
    line: int
    text: str
    language: str = ""  # of a fence
    is_inline: bool = False

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def kind(self) -> str:
        """The fence's language; without one json, python, yaml or text by the look of it, else bash."""
        if self.language:
            return "bash" if self.language in SHELLS else self.language
        first = self.text.strip().partition("\n")[0]
        if _parses(json.loads, "{" + self.text.strip().rstrip(",") + "}") or _parses(json.loads, self.text):
            return "json"
        if re.match(r"(from|import) [\w.]+", first):
            return "python"
        if re.match(r"# @package |(- )?[\w/.]+:( |$)", first):
            return "yaml"
        return "text" if TREE.search(first) else "bash"

    def check(self) -> None:
        """Raises ValueError (SyntaxError, YAMLError) if JSON, Python or YAML that is shown is none."""
        match self.kind:
            case "json":
                text = self.text.strip()
                json.loads(text if text[:1] in "[{" else "{" + text.rstrip(",") + "}")
            case "jsonl":
                for line in self.text.splitlines():
                    json.loads(line)
            case "python":
                ast.parse(self.text)
            case "yaml":
                yaml.safe_load(self.text)


@dataclass(frozen=True)
class Command:
    """One program with its words, as a shell would start it.

    `line` is all that is typed at once, `environment` the NAME=VALUE before the program, `folder` where a `cd` before
    it led ("" if there was none), `stdin` the body of a heredoc.
    """

    place: str
    line: str
    words: tuple[str, ...]
    environment: tuple[str, ...] = ()
    folder: str = ""
    stdin: str = ""

    @property
    def program(self) -> str:
        return self.words[0]


def codes(text: str, file: str) -> list[Code]:
    """All code of a markdown text, in its order: fences, indented blocks, and what stands between backticks."""
    found: list[Code] = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        first = token.map[0] if token.map else 0
        if token.type == "fence":
            found.append(Code(file, first + 2, token.content, (token.info.split() or [""])[0].lower()))
        elif token.type == "code_block":
            found.append(Code(file, first + 1, token.content))
        elif token.type == "inline" and token.map:
            found += _inline(token, text.splitlines()[token.map[0] : token.map[1]], file)
    return found


def links(text: str, file: str) -> list[tuple[str, str]]:
    """(place, target) of the links and images of a markdown text."""
    found = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        for child in token.children or []:
            target = child.attrGet("href") or child.attrGet("src")
            if target and token.map:
                found.append((f"{file}:{token.map[0] + 1}", str(target)))
    return found


def commands(code: Code, programs: frozenset[str]) -> list[Command]:
    """The commands of a block, or of inline code that begins with one of `programs` and says more than its name.

    A script's name alone may also begin a sentence: behind it only settings and flags make a command.
    """
    if not code.is_inline:
        return list(_block(code)) if code.kind == "bash" else []
    made = list(_line(code.text, code.place, "")) if re.search(r"\s", code.text) else []
    if not made or made[0].program not in programs or set(made[0].words[1:]) <= {"...", "…"}:
        return []
    is_sentence = made[0].program.endswith(".py") and not all(re.match(r"-|\S+=", word) for word in made[0].words[1:])
    return [] if is_sentence else made


def settings(code: Code) -> list[tuple[str, str]]:
    """(key, value) of each setting if inline code is nothing but settings, such as `lora.rank=8 seed=1`."""
    words = _split(code.text) if code.is_inline else None
    made = [SETTING.fullmatch(word) for word in words or []]
    return [(one[1], one[2]) for one in made if one] if all(made) else []


def _inline(token: Token, lines: list[str], file: str) -> Iterator[Code]:
    assert token.map
    source, at = "\n".join(lines), 0
    for child in token.children or []:
        if child.type == "code_inline":
            first = (child.content.split() or [child.content])[0]
            at = max(at, source.find(first, source.find("`", at)))
            yield Code(file, token.map[0] + 1 + source.count("\n", 0, at), child.content, is_inline=True)
            at += len(first)


def _block(code: Code) -> Iterator[Command]:
    folder, lines = "", code.text.splitlines()
    is_session = any(line.startswith("$ ") for line in lines)  # then lines without the prompt are what was answered
    number = 0
    while number < len(lines):
        place, line = f"{code.file}:{code.line + number}", lines[number]
        number += 1
        if is_session and not line.startswith("$ "):
            continue
        line = line.removeprefix("$ ")
        while number < len(lines) and not _is_whole(line):
            line += "\n" + lines[number]
            number += 1
        for command in _line(line, place, folder):
            folder = command.folder
            yield command


def _is_whole(line: str) -> bool:
    opened = HEREDOC.search(line)
    if opened:
        return line.splitlines()[-1].strip() == opened[2] and "\n" in line
    return not line.endswith("\\") and _split(line) is not None


def _split(text: str) -> list[str] | None:
    """The words of a line as a shell splits them, its operators (&&, |, ;) too; None where a quotation is open."""
    lexer = shlex.shlex(re.sub(r"\d?>&\d", "", text.replace("\\\n", "")), posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    try:
        return list(lexer)
    except ValueError:
        return None


def _line(line: str, place: str, folder: str) -> Iterator[Command]:
    """The commands of all that is typed at once, each with the folder it is run in."""
    head, stdin = line, ""
    if HEREDOC.search(line):
        head, _, stdin = line.partition("\n")
        stdin = stdin.rpartition("\n")[0]
    words = _split(head)
    if words is None:  # bash has more to say of it
        words = head.split()
    for part in _parts(words):
        environment = []
        while part and ENVIRONMENT.match(part[0]):
            environment.append(part.pop(0))
        if part[:1] == ["cd"]:
            folder = part[-1]
        if part or environment:
            yield Command(place, line, tuple(part or ["export", *environment]), tuple(environment), folder, stdin)


def _parts(words: list[str]) -> Iterator[list[str]]:
    part: list[str] = []
    for word in words:
        if set(word) <= set(";&|"):
            yield part
            part = []
        else:
            part.append(word)
    if part:
        yield part


def _parses(parse: object, text: str) -> bool:
    assert callable(parse)
    try:
        return text.strip() != "{}" and isinstance(parse(text), dict | list)
    except ValueError:
        return False
