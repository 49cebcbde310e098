"""Scores, comparisons and sweeps as `scores` makes them, as tables for a terminal of 80 to 120 columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fabrictune.evaluate import grids
from fabrictune.evaluate.grids import EMPTY, Cell, Line
from fabrictune.evaluate.scores import SPLIT, STEP, natural
from fabrictune.measures import HEADLINES, KINDS, LABELS, MALFORMED, MEASURES, TUTORIAL_KINDS

CHANGES_SHOWN = 10
QUERY_SHOWN = 120  # characters of a query
ROWS = {"agentfabric": "turns", "smoke": "turns", "toolbench": "replies", "bfcl": "examples"}
TITLES = LABELS | {STEP: "step"}
KIND_TITLES = {kind: MEASURES[kind].title for kind in KINDS}

Scores = Mapping[str, Any]
Cells = dict[str, Mapping[str, Any] | None]  # model -> its cell of scores.json


def show(scores: Scores, console: Console | None = None) -> None:
    """Prints scores.json: the headline measures, failures by kind, then breakdowns, with the models side by side."""
    console = console or grids.terminal()
    is_bfcl = scores["suite"] == "bfcl"
    for grid in _by_category(scores) if is_bfcl else [_headlines(scores)]:
        grids.show(console, grid)
    for grid in (_failures(scores), _calls(scores)):
        grids.show(console, grid)
    for grid in _breakdowns(scores, grids.width_of(console)):
        grids.show(console, grid)
    for model, cell in _of_all(scores).items():
        for name, rows in (cell or {}).get("unusable", {}).items():
            grids.say(
                console, f"{model}: {MEASURES[name].title} is no finite number in {rows} rows, which do not count"
            )


def show_comparison(comparison: Scores, name_a: str, name_b: str, console: Console | None = None) -> None:
    """Prints what `scores.compare` found: differences with intervals, how many rows changed, the first of them."""
    console = console or grids.terminal()
    grids.say(console, f"a: {name_a}\nb: {name_b}")
    grids.say(
        console,
        f"{comparison['pairs']} rows of {comparison['dialogues']} dialogues in both; "
        f"only in a: {comparison['only_a']}, only in b: {comparison['only_b']}",
    )
    grids.show(console, _differences(comparison))
    grids.show(console, _differences_by_label(comparison))
    for name, rows in comparison.get("unusable", {}).items():
        grids.say(console, f"{MEASURES[name].title} is no finite number in {rows} rows of a and b, which do not count")
    _print_changes(console, comparison["changed"])


def show_sweep(lines: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """Prints what `scores.collect` made: for each headline measure the points of the sweep, in all, seen and unseen."""
    console = console or grids.terminal()
    for suite in dict.fromkeys(line["suite"] for line in lines):
        grids.show(console, _sweep(suite, [line for line in lines if line["suite"] == suite]))


def _score(name: str, cell: Mapping[str, Any] | None) -> Cell:
    """The measure of a cell of scores.json."""
    found = (cell or {}).get("measures", {}).get(name, {})
    return _with_interval(found, "value", MEASURES[name].value)


def _score_of(name: str, cell: Mapping[str, Any] | None) -> Cell:
    """The same with how many rows, or calls, it is of."""
    return _of(name, _made(cell, name), cell["rows"] if cell else 0, _score(name, cell))


def _of(name: str, count: int, rows: int, score: Cell) -> Cell:
    """The score with its count where that is not the number of rows; perplexity counts tokens, which says nothing."""
    if count in (0, rows) or MEASURES[name].unit == "perplexity":
        return score
    first, *rest = score[1].split("\n")
    return (f"{score[0]} of {count}", "\n".join([f"{first} of {count}", *rest]), score[2])


def _with_interval(found: Mapping[str, Any], value: str, write: Any) -> Cell:
    if found.get(value) is None:
        return ("-", "-", "-")
    bare = write(found[value])
    if found["low"] is None or found["high"] is None:
        return (bare, bare, bare)
    interval = f"[{write(found['low'])}, {write(found['high'])}]"
    return (f"{bare} {interval}", f"{bare}\n{interval}", bare)


def _plain(text: object) -> Cell:
    return (str(text),) * 3


def _of_all(scores: Scores) -> Cells:
    return {model: found["all"] for model, found in scores["models"].items()}


def _labelled(scores: Scores, name: str) -> dict[str, Cells]:
    """{label: each model's cell}; empty if every row has the same label, or none."""
    by = {model: found["by"].get(name, {}) for model, found in scores["models"].items()}
    labels = sorted({label for cells in by.values() for label in cells}, key=natural)
    found: dict[str, Cells] = {label: {model: by[model].get(label) for model in by} for label in labels}
    return {} if len(labels) == 1 and _rows(found[labels[0]]) == _rows(_of_all(scores)) else found


def _rows(cells: Cells) -> list[int]:
    return [cell["rows"] if cell else 0 for cell in cells.values()]


def _count(cells: Cells) -> Cell:
    """Rows in a cell: one number if all models have as many."""
    return _plain("/".join(map(str, dict.fromkeys(_rows(cells)))))


def _splits(scores: Scores) -> dict[str, Cells]:
    """{title: cells}: all rows, then those with seen and with unseen tools where there are both."""
    return {"all": _of_all(scores)} | {f"{label} tools": cells for label, cells in _labelled(scores, SPLIT).items()}


def _headlines(scores: Scores) -> grids.Grid:
    noun = ROWS.get(scores["suite"], "rows")
    grid = grids.Grid(f"{_title(scores)}, with 95 % intervals", "", list(scores["models"]), has_section_heads=True)
    for title, cells in _splits(scores).items():
        head = (title, [(f"{rows} {noun}", f"{rows} {noun}", str(rows)) for rows in _rows(cells)])
        names = HEADLINES[scores["suite"]]
        lines = [(MEASURES[name].title, [_score_of(name, cell) for cell in cells.values()]) for name in names]
        grid.sections.append([head, *lines])
    return grid


def _title(scores: Scores) -> str:
    units = dict.fromkeys(MEASURES[name].unit for name in HEADLINES[scores["suite"]])
    return f"{scores['suite']}: {', '.join('percent' if unit == 'percent' else unit for unit in units)}"


def _scores(name: str, cells: Cells) -> list[Cell]:
    return [_score(name, cell) for cell in cells.values()]


def _by_category(scores: Scores) -> Iterator[grids.Grid]:
    """A grid for each headline measure, whose lines are the categories, then all rows, then the categories' mean."""
    categories = _labelled(scores, "category")
    for name in HEADLINES[scores["suite"]]:
        title = f"{_title(scores)} {MEASURES[name].title}, with 95 % intervals"
        grid = grids.Grid(title, TITLES["category"], [ROWS[scores["suite"]], *scores["models"]])
        lines: list[Line] = [(label, [_count(cells), *_scores(name, cells)]) for label, cells in categories.items()]
        everything = _of_all(scores)
        overall: Line = ("overall", [_count(everything), *_scores(name, everything)])
        means = [_mean(name, categories.values(), model) for model in scores["models"]]
        mean: list[Line] = [("mean of the categories", [EMPTY, *means])] if categories else []
        grid.sections = [lines, [overall, *mean]]
        yield grid


def _mean(name: str, cells: Iterable[Cells], model: str) -> Cell:
    """The model's unweighted mean over the categories; none where one of them has no score."""
    values = [(of_models[model] or {}).get("measures", {}).get(name, {}).get("value") for of_models in cells]
    return _plain("-" if None in values or not values else MEASURES[name].value(fmean(values)))


def _failures(scores: Scores) -> grids.Grid:
    """Rows by kind of failure; the kinds that came up, and those that the suite's headline names."""
    splits = _splits(scores)
    everything = splits.pop("all")
    if [sum(rows) for rows in zip(*map(_rows, splits.values()), strict=True)] != _rows(everything):
        splits = {"all": everything} | splits  # some rows have no such label
    columns = [(split, model, cells[model]) for split, cells in splits.items() for model in cells]
    named = [kind for kind in HEADLINES[scores["suite"]] if kind in TUTORIAL_KINDS]
    noun = ROWS.get(scores["suite"], "rows")
    heads = [f"{split}\n{model}" if len(splits) > 1 else model for split, model, _ in columns]
    grid = grids.Grid(f"Failures: {noun} by kind (one may fail in several ways)", "failure", heads)
    cells = [cell for _, _, cell in columns]
    measured = {*named, *(name for cell in cells for name in (cell or {}).get("measures", {}))}
    for part, titles in (("kinds", KIND_TITLES), ("malformed", MALFORMED)):
        found = dict.fromkeys([*titles, *(kind for cell in cells for kind in (cell or {}).get(part, {}))])
        lines: list[Line] = [
            (titles.get(kind, kind), [_share(cell, part, kind, kind in measured) for cell in cells])
            for kind in found
            if kind in named or any((cell or {}).get(part, {}).get(kind) for cell in cells)
        ]
        grid.sections += [lines] if lines else []
    if grid.sections:
        grid.sections.append([(noun, [_plain(cell["rows"] if cell else 0) for cell in cells])])
    return grid


def _share(cell: Mapping[str, Any] | None, part: str, kind: str, is_measured: bool) -> Cell:
    """In how many rows the kind was found: of those that its measure applies to, else of all."""
    count = cell[part].get(kind, 0) if cell else 0
    if not cell or (is_measured and not count and not _made(cell, kind)):
        return _plain("-")
    measure = cell["measures"].get(kind, {"value": 0.0, "count": 0})
    # A kind may be found in rows that its measure does not apply to: a needless call after those that were due.
    is_share = measure["count"] and round(measure["value"] * measure["count"]) == count
    rows = measure["count"] if is_share else cell["rows"]
    share = f"({100 * count / rows:.1f} %)"
    if rows == cell["rows"]:
        return (f"{count} {share}", f"{count} {share}", str(count))
    return (f"{count} of {rows} {share}", f"{count} {share}\nof {rows}", str(count))


def _calls(scores: Scores) -> grids.Grid:
    """What the measures say of the calls that were due, all of them and by their place in the turn."""
    everything = _of_all(scores)
    names = [name for name, measure in MEASURES.items() if measure.by_step and _has(everything, name)]
    grid = grids.Grid(
        "Calls that were due, each judged on its own, in percent", "", list(scores["models"]), has_section_heads=True
    )
    if not names or scores["suite"] == "toolbench":
        return grid
    name = "exact_call" if "exact_call" in names else names[0]
    places = _labelled(scores, STEP)
    lines = [(MEASURES[name].title, _scores(name, everything)) for name in names]
    grid.sections.append(
        [("all calls", [_plain(f"{_made(cell, name)} calls") for cell in everything.values()]), *lines]
    )
    if len(places) > 1:
        by_place = [(f"call {place}", _scores(name, cells)) for place, cells in places.items()]
        grid.sections.append(
            [(f"{MEASURES[name].title}, by its place in the turn", [EMPTY] * len(everything)), *by_place]
        )
    return grid


def _has(cells: Cells, name: str) -> bool:
    return any(name in (cell or {}).get("measures", {}) for cell in cells.values())


def _made(cell: Mapping[str, Any] | None, name: str) -> int:
    return int((cell or {}).get("measures", {}).get(name, {}).get("count", 0))


def _breakdowns(scores: Scores, width: int) -> Iterator[grids.Grid]:
    """The first two headline measures by label, in one grid if there is room, else in one for each."""
    is_bfcl = scores["suite"] == "bfcl"
    labels = [name for name in TITLES if name != SPLIT and not (is_bfcl and name == "category")]
    # Of agentfabric the step is a call's, which `_calls` shows.
    found = {name: groups for name in labels if (groups := _labelled(scores, name)) and _is_of_rows(scores, name)}
    names = HEADLINES[scores["suite"]][:2]
    fits = (
        4 + grids.NAME_ROOM + (3 + len("turns")) + len(names) * len(scores["models"]) * (3 + grids.HEAD_ROOM) <= width
    )
    for group in [names] if fits else [(name,) for name in names]:
        yield _breakdown(scores, found, group)


def _is_of_rows(scores: Scores, name: str) -> bool:
    """Whether the label divides rows: the cells of calls have no headline measure."""
    first = HEADLINES[scores["suite"]][0]
    return name != STEP or any(_has(cells, first) for cells in _labelled(scores, name).values())


def _breakdown(scores: Scores, found: Mapping[str, Mapping[str, Cells]], names: Sequence[str]) -> grids.Grid:
    noun = ROWS.get(scores["suite"], "rows")
    title = " and ".join(MEASURES[name].title for name in names)
    heads = [noun, *(f"{MEASURES[name].title}\n{model}" for name in names for model in scores["models"])]
    grid = grids.Grid(f"Broken down: {title}", "", heads, has_section_heads=True)
    for label, groups in found.items():
        head = (TITLES[label], [EMPTY] * len(heads))
        lines = [
            (value or "(none)", [_count(cells), *(score for name in names for score in _scores(name, cells))])
            for value, cells in groups.items()
        ]
        grid.sections.append([head, *lines])
    return grid


def _change(name: str, value: float) -> str:
    """A difference of two scores, signed: in percentage points, or of perplexities."""
    return f"{value:+.2f}" if MEASURES[name].unit == "perplexity" else f"{100 * value:+.1f}"


def _difference(name: str, found: Mapping[str, Any]) -> Cell:
    return _with_interval(found, "difference", lambda value: _change(name, value))


def _mark(name: str, found: Mapping[str, Any]) -> str:
    """What the difference is if its interval excludes 0."""
    if found["low"] is None or found["high"] is None or found["low"] <= 0 <= found["high"]:
        return ""
    return "better" if (found["low"] > 0) == (MEASURES[name].better == "higher") else "worse"


def _differences(comparison: Scores) -> grids.Grid:
    grid = grids.Grid(
        "Differences, with 95 % intervals; b is better or worse where they exclude 0", "", ["a", "b", "b - a", ""]
    )
    lines: list[Line] = []
    for name, found in comparison["measures"].items():
        a, b = (_plain("-" if found[side] is None else MEASURES[name].value(found[side])) for side in ("a", "b"))
        difference = _of(name, found["count"], comparison["pairs"], _difference(name, found))
        lines.append((MEASURES[name].title, [a, b, difference, _plain(_mark(name, found))]))
    grid.sections = [lines]
    return grid


def _differences_by_label(comparison: Scores) -> grids.Grid:
    measures = comparison["measures"]
    headlines = next((names for names in HEADLINES.values() if names[0] in measures), tuple(measures))
    names = [name for name in headlines if name in measures][:2]
    heads = ["rows", *(f"{MEASURES[name].title}\nb - a" for name in names)]
    grid = grids.Grid("Differences by label", "", heads, has_section_heads=True)
    for label in TITLES:
        cells = comparison["by"].get(label, {})
        if len(cells) > 1 or any(cell["pairs"] < comparison["pairs"] for cell in cells.values()):
            lines = [
                (value or "(none)", [_plain(cell["pairs"]), *(_difference_in(cell, name) for name in names)])
                for value, cell in cells.items()
            ]
            grid.sections.append([(TITLES[label], [EMPTY] * len(heads)), *lines])
    return grid


def _difference_in(cell: Mapping[str, Any], name: str) -> Cell:
    return _difference(name, cell["measures"].get(name, {}))


def _print_changes(console: Console, changed: Sequence[Mapping[str, Any]]) -> None:
    counts = {how: sum(change["change"] == how for change in changed) for how in ("better", "worse", "other")}
    dialogues = len({change["dialogue"] for change in changed})
    grids.say(
        console,
        f"{len(changed)} rows of {dialogues} dialogues changed: {counts['better']} better, {counts['worse']} worse, "
        f"{counts['other']} wrong in another way",
    )
    if not changed:
        return
    shown = changed[:CHANGES_SHOWN]
    if len(shown) < len(changed):
        grids.say(console, f"The first {len(shown)}:")
    table = Table()
    for head in ("row", "b is", "a", "b", "query"):
        table.add_column(head, overflow="fold")
    for change in shown:
        kinds = (", ".join(KIND_TITLES.get(kind, kind) for kind in change[side]) or "-" for side in ("a", "b"))
        cells = [change["key"], change["change"], *kinds, change["query"][:QUERY_SHOWN]]
        table.add_row(*(Text(grids.clean(cell)) for cell in cells))
    console.print(table, width=grids.width_of(console))


def _sweep(suite: str, lines: Sequence[Mapping[str, Any]]) -> grids.Grid:
    names = HEADLINES[suite]
    labels = [
        label for label in ("seen", "unseen") if any(line.get(f"{names[0]}_{label}") is not None for line in lines)
    ]
    grid = grids.Grid(f"Sweep, {suite}", "", ["all", *labels], has_section_heads=True)
    one_model = len({line["model"] for line in lines}) == 1
    for name in names:
        points = [
            (line["point"] if one_model else f"{line['point']} {line['model']}", _sweep_cells(name, labels, line))
            for line in lines
        ]
        grid.sections.append([(MEASURES[name].title, [EMPTY] * (1 + len(labels))), *points])
    return grid


def _sweep_cells(name: str, labels: Sequence[str], line: Mapping[str, Any]) -> list[Cell]:
    columns = [name, *(f"{name}_{label}" for label in labels)]
    found = [{"value": line.get(c), "low": line.get(f"{c}_low"), "high": line.get(f"{c}_high")} for c in columns]
    return [_with_interval(entry, "value", MEASURES[name].value) for entry in found]
