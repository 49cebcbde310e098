"""docs/troubleshooting.md and docs/rejects.md tell the cause of each message that the code has, and of no other."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import messages
import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

DOCS = messages.ROOT / "docs"
PAGES = ("troubleshooting.md", "rejects.md")
# What a row of data can be refused for by; what they raise belongs to rejects.md, the rest to troubleshooting.md.
OF_ROWS = ("fabrictune/formats/", "fabrictune/dialogue.py", "fabrictune/convert/rows", "fabrictune/convert/keeping")
FEWEST_WORDS = 6


@dataclass(frozen=True)
class Entry:
    """A list item below a heading of the second level or deeper: its first inline codes, and what follows the dash."""

    page: str
    line: int
    texts: tuple[str, ...]
    cause: str


def entries(page: str, text: str) -> Iterator[Entry]:
    """The items that begin with a message. Commas divide messages; a dash stands before the cause, else that is ""."""
    tokens = MarkdownIt().parse(text)
    is_below = False
    for number, token in enumerate(tokens):
        is_below |= token.type == "heading_open" and token.tag != "h1"
        if token.type == "list_item_open" and is_below:
            parts = tokens[number + 2].children or []
            if parts and parts[0].type == "code_inline":
                yield Entry(page, (token.map or [0])[0] + 1, *_told(parts))


def _told(parts: list[Token]) -> tuple[tuple[str, ...], str]:
    """(messages, cause) of an item's inline parts."""
    texts: list[str] = []
    for place, part in enumerate(parts):
        if part.type == "code_inline":
            texts.append(_in_one_line(part.content))
        elif part.content.strip(" ,"):
            words = "".join(" " if one.type == "softbreak" else one.content for one in parts[place:])
            return tuple(texts), words.strip().removeprefix("— ") if words.startswith((" — ", "— ")) else ""
    return tuple(texts), ""


def _in_one_line(text: str) -> str:
    return " ".join(text.split())


def _item(text: str) -> str:
    """The line to add for a message, ready to paste."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    blank = " " if text.startswith("`") or text.endswith("`") else ""
    return f"- {fence}{blank}{_in_one_line(text)}{blank}{fence} — CAUSE"


@pytest.fixture(scope="module")
def in_code() -> dict[str, list[str]]:
    """The places of each message."""
    found: dict[str, list[str]] = {}
    for message in messages.of_code():
        found.setdefault(_in_one_line(message.text), []).append(message.place)
    return found


@pytest.fixture(scope="module")
def in_docs() -> list[Entry]:
    return [entry for page in PAGES for entry in entries(page, (DOCS / page).read_text(encoding="utf-8"))]


def test_each_message_of_the_code_is_on_one_of_the_pages(in_code: dict[str, list[str]], in_docs: list[Entry]) -> None:
    known = {text for entry in in_docs for text in entry.texts}
    missing = [
        f"{', '.join(places)}: add to docs/{'rejects.md' if places[0].startswith(OF_ROWS) else 'troubleshooting.md'}\n"
        f"{_item(text)}"
        for text, places in in_code.items()
        if text not in known
    ]
    assert not missing, f"{len(missing)} messages have no entry:\n" + "\n".join(missing)


def test_no_page_has_a_message_that_the_code_has_no_longer(in_code: dict[str, list[str]], in_docs: list[Entry]) -> None:
    stale = [f"docs/{one.page}:{one.line}: {text}" for one in in_docs for text in one.texts if text not in in_code]
    assert not stale, f"{len(stale)} entries are of no message; delete or correct them:\n" + "\n".join(stale)


def test_each_entry_tells_a_cause(in_docs: list[Entry]) -> None:
    bare = [
        f"docs/{one.page}:{one.line}: {one.texts[0]} — {one.cause}"
        for one in in_docs
        if len(re.findall(r"\w+", one.cause)) < FEWEST_WORDS or "CAUSE" in one.cause
    ]
    assert not bare, f"{len(bare)} entries tell no cause in {FEWEST_WORDS} words:\n" + "\n".join(bare)


def test_no_page_tells_a_message_twice(in_docs: list[Entry]) -> None:
    told = Counter((one.page, text) for one in in_docs for text in one.texts)
    assert not [one for one, count in told.items() if count > 1]


def test_each_raise_says_words_of_ours_or_is_known_to_pass_on_those_of_others() -> None:
    found = messages.not_followed()
    new = {name: place for name, place in found.items() if name not in messages.PASSED_ON}
    assert not new, (
        f"no words are found for what is raised here; say so in messages.PASSED_ON if it is another's: {new}"
    )
    assert not set(messages.PASSED_ON) - set(found), "of messages.PASSED_ON these raise words of their own, or nothing"


# Reading a page


def test_an_entry_has_its_messages_and_its_cause_however_its_lines_are_wrapped() -> None:
    text = (
        "# T\n\n- `no` — entry\n\n## S\n\n- `a b\n  c`,\n  ``the `d` `` — it was\n  *not* there, see `e`.\n- no code\n"
    )
    assert list(entries("p.md", text)) == [
        Entry("p.md", 7, ("a b c", "the `d`"), "it was not there, see e."),
    ]


def test_an_entry_has_no_cause_where_no_dash_follows_its_messages() -> None:
    text = "## S\n\n- `a` or `b` — a cause of six words and more\n- `c`\n- `d` for `e`\n"
    assert [(one.texts, one.cause) for one in entries("p.md", text)] == [(("a",), ""), (("c",), ""), (("d",), "")]


def test_the_line_to_add_is_read_back_as_the_message() -> None:
    for text in ("plain … words", "param `…` is required", "files of the source's `files`", "`a` and\nmore"):
        (entry,) = entries("p.md", f"## S\n\n{_item(text)}\n")
        assert entry.texts == (_in_one_line(text),)
        assert entry.cause == "CAUSE"


# Reading code


def messages_of(tmp_path: Path, **files: str) -> list[str]:
    """The messages of a package with these modules."""
    folder = tmp_path / "fabrictune"
    folder.mkdir()
    for name, code in files.items():
        (folder / f"{name}.py").write_text(code, encoding="utf-8")
    read = messages.Code(sorted(folder.glob("*.py")), tmp_path)
    return [one.text for raised in read.raised() for one in raised.messages]


def test_values_in_a_message_are_gaps(tmp_path: Path) -> None:
    code = 'def f(path, kinds):\n    raise ValueError(f"{path}: none of {kinds!r:.80}" + "; choose another"[:200])\n'
    assert messages_of(tmp_path, a=code) == ["…: none of …; choose another"]


def test_a_message_from_elsewhere_is_followed_to_where_it_is_written(tmp_path: Path) -> None:
    code = """
from fabrictune import b
from fabrictune.b import LAST, refusal

def local(one):
    reason = "too long" if one else f"only {one} words"
    raise ValueError(reason)

def collected(one):
    problems = ["first word"]
    problems += listed(one)
    problems.append("last word")
    if problems:
        raise SystemExit("config: " + "; ".join(problems))

def listed(one):
    return [f"name{problem}" for problem in b.endings(one)]

def parameter(words):
    raise ValueError(f"{words}: …")

def calls():
    parameter("given here")
    raise refusal(1)

def constant():
    raise ValueError(LAST)
"""
    other = """
LAST = "the constant"

def endings(one):
    yield ".key is empty"
    if one:
        yield f".key is {one}"

def refusal(one):
    return RuntimeError(f"refused with {one}")
"""
    assert messages_of(tmp_path, a=code, b=other) == [
        "too long",
        "only … words",
        "config: first word",
        "config: name.key is empty",
        "config: name.key is …",
        "config: last word",
        "given here: …",
        "refused with …",
        "the constant",
    ]


def test_a_name_in_a_comprehension_is_another_than_that_of_the_function(tmp_path: Path) -> None:
    code = """
def missing(settings):
    if gone := [key for key in ("rank", "alpha") if key not in settings]:
        raise ValueError(f"there is no {gone[0]}")
    for key in ("bias", "dora"):
        raise ValueError(f"{key}={settings[key]}")
"""
    assert messages_of(tmp_path, a=code) == ["there is no …", "bias=…", "dora=…"]


def test_an_exit_code_is_no_message_and_what_another_library_says_is_known_as_such(tmp_path: Path) -> None:
    code = """
def exits(number):
    raise SystemExit(128 + number)

def again(error):
    raise

class Door:
    def opens(self):
        try:
            other.thing()
        except OSError as error:
            raise ValueError(str(error)) from error
"""
    assert messages_of(tmp_path, a=code) == []
    assert messages.not_followed(tmp_path) == {"fabrictune.a.Door.opens": "fabrictune/a.py:13"}


def test_a_text_by_itself_is_shown_without_following_anything() -> None:
    def shown(code: str) -> str:
        return messages.shown(ast.parse(code, mode="eval").body)

    assert shown('f"{path}: " + rest') == "…: …"
    assert shown('"as it stands"') == "as it stands"
