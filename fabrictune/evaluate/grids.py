"""Tables for a terminal of 80 to 120 columns, whose cells are written as fully as there is room for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDEST = 120  # columns; a wider table is hard to follow from one side to the other
NAME_ROOM = 20  # columns that the names at the left get before anything else is made shorter
HEAD_ROOM = 16  # columns from which on a head is folded

# What is in a cell, from its longest way of being written to its shortest: with its interval, with it below, without.
Cell = tuple[str, str, str]
Line = tuple[str, Sequence[Cell]]  # its name at the left, and its cells
EMPTY: Cell = ("", "", "")


@dataclass
class Grid:
    """A table before it is known how much of each cell there is room for."""

    title: str
    corner: str
    heads: Sequence[str]
    sections: list[list[Line]] = field(default_factory=list)
    has_section_heads: bool = False


def terminal() -> Console:
    """The terminal, or lines of `WIDEST` columns where there is none."""
    return Console(width=None if os.isatty(1) else WIDEST)


def width_of(console: Console) -> int:
    """The columns that a table may take."""
    return min(console.width, WIDEST)


def say(console: Console, text: str, style: str = "") -> None:
    """Prints the text, whatever stands in it."""
    console.print(Text(clean(text, keep="\n"), style), width=width_of(console))


def clean(text: str, keep: str = "") -> str:
    """Without control characters and lone surrogates, which a terminal cannot show."""
    return "".join(char if char.isprintable() or char in keep else " " for char in text)


def show(console: Console, grid: Grid) -> None:
    """Prints the grid, with as much of each cell as all of them have room for; an empty one is left out."""
    lines = [line for section in grid.sections for line in section]
    if not lines:
        return
    width = width_of(console)
    room = width - 4 - min(NAME_ROOM, max(cell_len(name) for name, _ in lines))
    layouts = [(detail, _widths(grid, lines, detail, folded)) for detail in range(3) for folded in (False, True)]
    detail, widths = next((layout for layout in layouts if sum(layout[1]) + 3 * len(layout[1]) <= room), layouts[-1])
    if sum(widths) + 3 * len(widths) > room and len(widths) > 1:
        for half in _halves(grid):
            show(console, half)
        return
    say(console, f"\n{grid.title}", style="bold")  # a table's own title is folded at the table's width
    console.print(_table(grid, lines, detail, widths), width=width)


def _halves(grid: Grid) -> Iterator[Grid]:
    """The same with the first half of the columns, then with the second."""
    middle = len(grid.heads) // 2
    for part in (slice(0, middle), slice(middle, None)):
        sections = [[(name, cells[part]) for name, cells in section] for section in grid.sections]
        yield replace(grid, heads=grid.heads[part], sections=sections)


def _widths(grid: Grid, lines: Sequence[Line], detail: int, folded: bool) -> list[int]:
    """The columns that each column of cells takes with this much of them, its head folded between words or not."""
    widths = []
    for column, head in enumerate(grid.heads):
        parts = head.split() if folded else head.split("\n")
        texts = [text for _, cells in lines for text in cells[column][detail].split("\n")]
        widths.append(max([1, min(HEAD_ROOM, max(map(cell_len, parts), default=0)), *map(cell_len, texts)]))
    return widths


def _table(grid: Grid, lines: Sequence[Line], detail: int, widths: Sequence[int]) -> Table:
    table = Table(caption=_caption(lines, detail), caption_justify="left")
    table.add_column(Text(grid.corner), overflow="fold")  # what is too long is folded here, and only here
    for head, width in zip(grid.heads, widths, strict=True):
        table.add_column(Text(clean(head, keep="\n")), justify="right", overflow="fold", width=width)
    for section in grid.sections:
        for place, (name, cells) in enumerate(section):
            style = "bold" if grid.has_section_heads and place == 0 else None
            table.add_row(Text(clean(name)), *(Text(cell[detail]) for cell in cells), style=style)
        table.add_section()
    return table


def _caption(lines: Sequence[Line], detail: int) -> str | None:
    dropped = detail == 2 and any(cell[0] != cell[2] for _, cells in lines for cell in cells)
    return "Too narrow for the rest of each cell: the file has it." if dropped else None
