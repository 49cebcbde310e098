"""README.md of a merged model: the base, the data with its hashes, the recipe, the scores; as the hubs read it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from fabrictune import record
from fabrictune.measures import HEADLINES, MEASURES

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
KEPT = "card.json"
TUNED = "tuned"  # what an evaluation calls the run's own merged model
_LANGUAGES = ("en", "zh")

Plain = Mapping[str, Any]


@dataclass(frozen=True)
class Facts:
    """What is known of a merged model, each as its step wrote it (a run.json), None where that step is not known.

    `run` is its name as NAME/VARIANT, `scores` are the scores.json by suite.
    """

    run: str
    merge: Plain
    train: Plain | None
    convert: Plain | None
    statistics: Plain | None  # the conversion's stats.json
    scores: Mapping[str, Plain]


def read(run: Path, convert: Path, merge: Plain) -> Facts:
    """What a run's folder tells of the model that is merged now, by these settings.

    Of an adapter from elsewhere no more is known, nor of data that was converted anew since the training.
    """
    train = None if merge.get("from") else _json(run / "train" / "run.json")
    made = _json(convert / "run.json") if train else None
    if train and made and not train["settings"]["data"].items() <= made["results"]["hashes"].items():
        made = None
    statistics = _json(convert / "stats.json") if made else None
    return Facts("/".join(run.parts[-2:]), merge, train, made, statistics, {})


def scored(run: Path) -> Facts | None:
    """What was known when the run's model was merged, with the scores of that model; None if that was not kept."""
    kept = _json(run / "merge" / KEPT)
    scores = {folder.name: _known(_json(folder / "scores.json")) for folder in _evaluations(run)}
    return Facts(**{**kept, "scores": scores}) if kept else None


def render(facts: Facts) -> str:
    """The card as markdown behind the YAML that the hubs read."""
    base = facts.merge["model"]
    results = [_result(suite, *score) for suite, scored in facts.scores.items() for score in _headlines(suite, scored)]
    languages = (facts.statistics or {}).get("languages", {})
    data = ModelCardData(
        base_model=base["id"] if base["source"] == "hub" else None,
        language=[language for language in _LANGUAGES if languages.get(language)] or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["tool-calling", "agentfabric", "lora", "fabrictune"],
        model_name=facts.run if results else None,
        eval_results=results or None,
    )
    card = ModelCard.from_template(
        data,
        template_str=TEMPLATE.read_text(encoding="utf-8"),
        run=facts.run,
        base=base,
        merge=facts.merge,
        recipe=list(_recipe(facts.train)),
        data=list(_data(facts)),
        hashes=_hashes((facts.convert or {}).get("results", {}).get("hashes", {})),
        commits=_commits(facts),
        scores=[(suite, _table(suite, scored)) for suite, scored in facts.scores.items()],
    )
    return str(card)


def keep(folder: Path, facts: Facts) -> None:
    """Keeps the facts in the merge's folder: when scores are added, other data or training may lie in the run's."""
    record.write_json(folder / KEPT, asdict(facts))


def write(folder: Path, facts: Facts) -> None:
    """Puts the card into the model's folder."""
    with record.replacing(folder / "README.md") as file:
        file.write(render(facts))


def _evaluations(run: Path) -> Iterator[Path]:
    """The folders of evaluations of the merged model as it is."""
    merged = run / "merge" / "run.json"
    known = record.file_hash(merged) if merged.exists() else None
    for path in sorted(run.glob("evaluate/*/scores.json")):
        if record.settings_of(path.parent)["models"].get(TUNED) == known:
            yield path.parent


def _json(path: Path) -> Plain | None:
    if not path.exists():
        return None
    found: Plain = json.loads(path.read_text(encoding="utf-8"))
    return found


def _known(found: Plain | None) -> Plain:
    assert found is not None
    return found


def _recipe(train: Plain | None) -> Iterator[tuple[str, str]]:
    """(key, value) of what the training's result depends on, keys as they are typed."""
    if train is None:
        return
    settings = train["settings"]
    for section in ("lora", "train", "launcher"):
        for key, value in settings[section].items():
            yield f"{section}.{key}", _text(value)
    yield "data.max_length", _text(settings["max_length"])
    yield "seed", _text(settings["seed"])
    for key in ("steps", "best_step", "best", "seconds"):
        if key in train["results"]:
            yield key.replace("_", " "), _text(train["results"][key])


def _data(facts: Facts) -> Iterator[dict[str, Any]]:
    """Each source: where its rows are from, how many are trained and tested on, the hashes of its files."""
    mix = (facts.convert or {}).get("settings", {}).get("mix", {})
    for name, entry in mix.items():
        counted = (facts.statistics or {}).get("sources", {}).get(name, {})
        yield {
            "name": name,
            "source": entry["source"],
            "place": _text(counted.get("place", "")),
            "train": counted.get("train", {}).get("dialogues", "-"),
            "test": counted.get("test", {}).get("dialogues", "-"),
            "files": _hashes({Path(path).name: value for path, value in entry["files"].items()}),
        }


def _commits(facts: Facts) -> list[tuple[str, str, bool]]:
    """(step, commit, whether there were changes on top of it)."""
    steps = {"convert": facts.convert, "train": facts.train}
    return [(step, made["commit"], bool(made["patch"])) for step, made in steps.items() if made and made["commit"]]


def _headlines(suite: str, scored: Plain) -> list[tuple[str, Plain]]:
    """(measure, its cell) of the merged model in scores.json."""
    measures = scored["models"].get(TUNED, {}).get("all", {}).get("measures", {})
    return [(name, measures[name]) for name in HEADLINES.get(suite, ()) if _value(measures.get(name)) is not None]


def _result(suite: str, name: str, cell: Plain) -> EvalResult:
    measure = MEASURES[name]
    value = cell["value"] if measure.unit == "perplexity" else 100 * cell["value"]
    return EvalResult(
        task_type="text-generation",
        dataset_type=f"fabrictune/{suite}",
        dataset_name=suite,
        metric_type=name,
        metric_name=measure.title,
        metric_value=round(value, 2),
    )


def _table(suite: str, scored: Plain) -> dict[str, Any]:
    """The suite's headline measures, a model each column, with intervals."""
    models = list(scored["models"])
    cells = {model: scored["models"][model]["all"] for model in models}
    names = [name for name in HEADLINES.get(suite, ()) if any(name in cell["measures"] for cell in cells.values())]
    rows = [(_title(name), [_score(name, cells[model]["measures"].get(name)) for model in models]) for name in names]
    return {"models": models, "rows": rows, "of": {model: cells[model]["rows"] for model in models}}


def _title(name: str) -> str:
    measure = MEASURES[name]
    unit = ", percent" if measure.unit == "percent" else ""
    return f"{measure.title}{unit}" + (" (lower is better)" if measure.better == "lower" else "")


def _score(name: str, cell: Plain | None) -> str:
    value = _value(cell)
    if cell is None or value is None:
        return "-"
    written = MEASURES[name].value
    if cell["low"] is None or cell["high"] is None:
        return written(value)
    return f"{written(value)} [{written(cell['low'])}, {written(cell['high'])}]"


def _value(cell: Plain | None) -> float | None:
    return cell["value"] if cell else None


def _hashes(hashes: Mapping[str, str]) -> Sequence[tuple[str, str]]:
    return [(_text(name), value) for name, value in hashes.items()]


def _text(value: object) -> str:
    """The value as it may stand in a table's cell."""
    plain = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return plain.replace("|", r"\|").replace("\n", " ")
