"""README.md and README.zh.md say the same, are short, and show the tree that is there."""

import re
from pathlib import Path

import pytest
import tree

ROOT = Path(__file__).resolve().parents[2]
READMES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md")}
LONGEST = 200  # lines of a README
NUMBER = re.compile(r"\d+(?:\.\d+)?")


@pytest.fixture(params=sorted(READMES))
def readme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def lines(name: str, begin: str) -> list[str]:
    return [line for line in READMES[name].splitlines() if line.startswith(begin)]


def test_a_readme_shows_the_tree_as_make_map_prints_it(readme: str) -> None:
    shown = "\n".join(f"    {line}".rstrip() for line in tree.tree())
    is_there = shown in READMES[readme]
    assert is_there, f"{readme}: its map is not that of `make map`; put in:\n{shown}"


def test_a_readme_is_short_enough_to_be_read(readme: str) -> None:
    count = len(READMES[readme].splitlines())
    assert count <= LONGEST


def test_both_have_the_same_sections_and_tables() -> None:
    english, chinese = READMES
    assert len(lines(english, "## ")) == len(lines(chinese, "## ")) >= 8
    assert len(lines(english, "| ")) == len(lines(chinese, "| ")) >= 15


def test_both_give_the_same_numbers_row_by_row() -> None:
    english, chinese = ([NUMBER.findall(line) for line in lines(name, "| ")] for name in READMES)
    assert english == chinese
    assert sum(map(len, english)) > 40, "the table of results is there"


def test_both_show_the_same_pictures_and_name_the_same_pages() -> None:
    english, chinese = (
        [sorted(set(re.findall(pattern, text))) for pattern in (r"\(docs/images/[\w.]+\)", r"docs/\w+\.md")]
        for text in READMES.values()
    )
    assert english == chinese
    assert english[0] and len(english[1]) >= 12
    for page in english[1]:
        assert (ROOT / page).is_file(), f"{page} is not there"
