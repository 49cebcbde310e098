"""`evaluate.py compare=[a,b]` and the table of a sweep: what finished evaluations say side by side."""

from __future__ import annotations

import csv
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fabrictune import record
from fabrictune.command_line import override
from fabrictune.config import Config
from fabrictune.evaluate import playing, scoreboard, scores
from fabrictune.log import logger


@dataclass(frozen=True)
class _Side:
    """One side of a comparison: a model's rows in a finished evaluation."""

    name: str
    settings: dict[str, Any]
    rows: list[dict[str, Any]]


def compare(config: Config) -> None:
    """Prints the paired differences of the two runs of `compare` and writes them, with all that changed, as JSON.

    Raises FileNotFoundError for a run that has no finished evaluation by the suite, ValueError for two that were not
    asked the same.
    """
    suite = config.eval.suite.value
    first, second = (_side(config, name, suite) for name in config.compare)
    if first.name == second.name:
        raise ValueError(f"compare holds {first.name} twice; name two runs, or two models as RUN:base and RUN:tuned")
    if changed := sorted(record.differences(_asked(first.settings), _asked(second.settings))):
        raise ValueError(
            f"{first.name} and {second.name} were not asked the same ({'; '.join(changed[:4])}); "
            "evaluate one of them again with the settings of the other"
        )
    result = scores.compare(first.rows, second.rows, config.seed)
    path = Path(config.outputs) / f"compare-{suite}-{_file_name(first.name)}-{_file_name(second.name)}.json"
    record.write_json(path, {"suite": suite, "a": first.name, "b": second.name, **result})
    scoreboard.show_comparison(result, first.name, second.name)
    logger.info("all differences, and the %d rows that changed, are in %s", len(result["changed"]), path)


def collect(config: Config, pattern: str) -> None:
    """Prints one table of all variants of the run that match the pattern and are evaluated, and writes it as CSV.

    Raises FileNotFoundError if there are none.
    """
    suite, home = config.eval.suite.value, Path(config.outputs) / config.name
    points, asked = {}, {}
    for folder in sorted(home.glob(pattern), key=lambda folder: scores.natural(folder.name)):
        evaluated = folder / "evaluate" / suite
        if record.is_finished(evaluated):
            points[folder.name] = json.loads((evaluated / "scores.json").read_text(encoding="utf-8"))
            asked[folder.name] = _asked(record.settings_of(evaluated))
    if not points:
        raise FileNotFoundError(
            f"no variant that matches {home / pattern} is evaluated by the suite {suite}; evaluate a sweep with: "
            f"{_command(config, f'name={config.name}', '+sweep=...')}"
        )
    first, *others = asked
    for name in others:
        if changed := sorted(record.differences(asked[first], asked[name])):
            logger.warning("%s was not asked the same as %s: %s", name, first, "; ".join(changed[:4]))
    lines = scores.collect(points)
    path = home / f"evaluate-{suite}.csv"
    with record.replacing(path) as file:
        columns = list(dict.fromkeys(column for line in lines for column in line))
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    scoreboard.show_sweep(lines)
    logger.info("the table is in %s", path)


def _side(config: Config, name: str, suite: str) -> _Side:
    """What `NAME/VARIANT` or `NAME/VARIANT:MODEL` stands for; without a model it is the tuned one, or the only one."""
    run, _, model = name.partition(":")
    folder = Path(config.outputs) / run / "evaluate" / suite
    if run.count("/") != 1:
        raise ValueError(f"compare names '{name}', which is no run; write NAME/VARIANT or NAME/VARIANT:MODEL")
    own, _, variant = run.partition("/")
    record.require_finished(folder, _command(config, f"name={own}", f"variant={variant}"))
    rows = playing.read(folder / "predictions.jsonl")
    models = list(dict.fromkeys(row["model"] for row in rows))
    chosen = model or ("tuned" if "tuned" in models else models[0])
    if chosen not in models or (not model and "tuned" not in models and len(models) > 1):
        raise ValueError(f"compare names '{name}', whose models are {', '.join(models)}; write {run}:MODEL")
    settings = record.settings_of(folder)
    return _Side(f"{run}:{chosen}", settings, [row for row in rows if row["model"] == chosen])


def _command(config: Config, *words: str) -> str:
    """What to type to evaluate another run by this suite. Of what was typed here it shares the folder alone."""
    place = [] if Path(config.outputs) == Path("outputs") else [override("outputs", config.outputs)]
    return shlex.join(["python", "evaluate.py", *words, f"eval={config.eval.suite.value}", *place])


def _asked(settings: dict[str, Any]) -> dict[str, Any]:
    """What an evaluation asked, whichever models it asked."""
    return {key: value for key, value in settings.items() if key != "models"}


def _file_name(side: str) -> str:
    return side.replace("/", "_").replace(":", "_")
