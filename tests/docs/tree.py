"""The tree as the README shows it: `make map`; `make map ROOM=train` says what each module of a room is for."""

from __future__ import annotations

import argparse
import ast
import textwrap
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ("convert", "train", "merge", "serve", "evaluate")
WIDTH = 138
COLUMN = 19  # where the sentences begin
# What the folders are for that hold no modules of the library.
FOLDERS = {
    "conf": "Values, never code: config.yaml is the root, each folder a group; "
    "+cluster, +experiment, +sweep are overlays.",
    "tests": "test_<module>.py, or of what several do; golden/: recordings and cases; docs/: what README and docs say; "
    "e2e/: vLLM, launchers, a browser; clients/: make test-clients; gpu/: make gpu.",
    "benchmarks": "Scripts that measure against peers, both sides in one run.",
    "requirements": "The locks for CPU and GPU, with hashes: make lock, make audit.",
    "docs": "How-tos, and log.md, the dated record of experiments, failed ones too.",
}


def sentence(file: Path) -> str:
    """The first line of a module's docstring; "" if it has none."""
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def contract(number: int, root: Path = ROOT) -> list[str]:
    """What a contract of import-linter's names, the lowest layer first."""
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers: list[str] = settings["contracts"][number]["layers"]
    return [name.strip() for layer in reversed(layers) for name in layer.split("|")]


def floors(root: Path = ROOT) -> list[str]:
    """Every module, or package that is one floor, from the ground up: "fabrictune.config" is the first."""
    return contract(0, root)


def modules(room: Path, root: Path = ROOT) -> list[Path]:
    """The modules that lie in a folder, those first that the others import; a room that is one floor by name."""
    height = {name: i for i, name in enumerate(floors(root))}
    dotted = {file: ".".join(file.relative_to(root).with_suffix("").parts) for file in room.glob("[a-z]*.py")}
    return sorted(dotted, key=lambda file: (height.get(dotted[file], 0), file.name))


def tree(root: Path = ROOT) -> list[str]:
    """The lines of `make map`: scripts, the library room by room, and the folders around it."""
    lines = [line for name in SCRIPTS for line in entry(f"{name}.py", sentence(root / f"{name}.py"))]
    lines += entry("conf/", FOLDERS["conf"]) + names(
        item for item in sorted((root / "conf").iterdir()) if item.is_dir()
    )
    lines += entry(
        "fabrictune/", "The library. A room imports only from the rooms above it in this list, a module likewise."
    )
    for module in modules(root / "fabrictune", root):
        lines += entry(f"  {module.name}", sentence(module))
    for name in contract(1, root):
        room = root.joinpath(*name.split("."))
        if room.is_dir():
            lines += _room(room, root)
    lines += entry("tests/", FOLDERS["tests"])
    for folder in ("docs", "benchmarks", "requirements"):
        files = (file for file in sorted((root / folder).iterdir()) if file.suffix in {".md", ".py", ".txt"})
        lines += entry(f"{folder}/", FOLDERS[folder]) + (names(files) if folder == "docs" else [])
    return lines


def _room(room: Path, root: Path) -> list[str]:
    indent = "  " * len(room.relative_to(root).parts[1:])
    lines = entry(f"{indent}{room.name}/", sentence(room / "__init__.py")) + names(modules(room, root))
    for inner in sorted(file.parent for file in room.glob("*/__init__.py")):
        lines += _room(inner, root)
    return lines


def entry(name: str, text: str) -> list[str]:
    """A name and its sentence, the lines that do not fit below the sentence."""
    first, *rest = textwrap.wrap(text, WIDTH - COLUMN) or [""]
    return [f"{name:{COLUMN}}{first}".rstrip(), *(" " * COLUMN + line for line in rest)]


def names(files: Iterable[Path]) -> list[str]:
    """Their names, in the column of the sentences."""
    text = " ".join(file.stem for file in files)
    return [" " * COLUMN + line for line in textwrap.wrap(text, WIDTH - COLUMN, break_on_hyphens=False)]


def of_room(name: str, root: Path = ROOT) -> list[str]:
    """Each module of a room with its sentence. Raises SystemExit with the rooms there are."""
    found = {file.parent.name: file.parent for file in sorted((root / "fabrictune").rglob("__init__.py"))}
    if name not in found:
        raise SystemExit(f"error: ROOM={name}: no such room; there are {', '.join(found)}")
    return [line for module in modules(found[name], root) for line in entry(f"{module.name}  ", sentence(module))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("room", nargs="?", help="a folder of fabrictune/, e.g. train")
    room = parser.parse_args().room
    print("\n".join(of_room(room) if room else tree()))


if __name__ == "__main__":
    main()
