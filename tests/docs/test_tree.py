"""The map of the house is whole: every module has its floor, its room and its sentence."""

from pathlib import Path

import pytest
import tree as house

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "fabrictune"


def all_modules() -> list[Path]:
    return [file for file in sorted(PACKAGE.rglob("*.py")) if file.name != "__init__.py"]


def test_every_module_stands_on_exactly_one_floor() -> None:
    floors = house.floors()
    for file in all_modules():
        dotted = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        places = [floor for floor in floors if dotted == floor or dotted.startswith(f"{floor}.")]
        assert len(places) == 1, f"{dotted} stands on {places}: give it one place in the first layers of pyproject.toml"


def test_every_floor_is_a_module_or_a_room_that_is_there() -> None:
    for floor in house.floors():
        path = ROOT.joinpath(*floor.split("."))
        assert path.is_dir() or path.with_suffix(".py").is_file(), f"pyproject.toml names {floor}, which is not there"


def test_the_tree_names_every_module_and_every_room() -> None:
    words = " ".join(house.tree()).split()
    for file in all_modules():
        assert file.stem in words or file.name in words, f"{file} is not in the map"
    for room in PACKAGE.rglob("__init__.py"):
        assert f"{room.parent.name}/" in words


def test_every_module_says_in_a_sentence_what_it_holds() -> None:
    for file in [*all_modules(), *PACKAGE.glob("*/__init__.py"), *ROOT.glob("*.py")]:
        first = house.sentence(file)
        assert len(first.split()) >= 4, f"{file}: its docstring begins with {first!r}"
        assert first.endswith((".", "?")), f"{file}: its docstring's first line is no whole sentence: {first!r}"


def test_the_map_of_a_room_has_a_line_for_each_of_its_modules() -> None:
    lines = house.of_room("merge")
    begins = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert sorted(begins) == sorted(file.name for file in (PACKAGE / "merge").glob("[a-z]*.py"))


def test_an_unknown_room_is_answered_with_those_there_are() -> None:
    with pytest.raises(SystemExit, match=r"ROOM=cellar: no such room; there are .*train"):
        house.of_room("cellar")
