"""README.md of a run's folder: what the run is, which steps are done, what its files are, and what to try next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2

from fabrictune import run_steps
from fabrictune.measures import HEADLINES, MEASURES
from fabrictune.next_steps import next_steps
from fabrictune.run_steps import Plain, Step

NAME = "README.md"
TEMPLATE = Path(__file__).with_name("run_page.md.jinja")

# Steps of a run in their order: what each is for, and its files as patterns of names, each with what it holds.
STEPS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "convert": (
        "the data as the very requests that the client sends",
        {
            "card.html": "the data to look at: counts, lengths, ten dialogues",
            "train.jsonl": "what is trained on, a row for each request: messages, and the reply in weighted parts",
            "test.jsonl": "the same of dialogues that training does not see",
            "test_dialogues.jsonl": "those test dialogues free of any format, which the evaluation plays",
            "test_general.jsonl": "general chat that is held back, for the evaluation",
            "rejects.jsonl": "every row that was left out, whole, with file, line and reason",
            "stats.json": "the counts that card.html shows",
        },
    ),
    "train": (
        "LoRA on those rows",
        {
            "best": "the adapter that is merged, as peft has it",
            "checkpoint-*": "a whole state of the training, from which `resume=true` goes on",
            "images": "the curves as PNG",
            "metrics.jsonl": "every curve as numbers, a line for each step that was logged",
            "samples.jsonl": "replies to some test requests at each evaluation, with verdicts",
            "stats.json": "dialogues, exchanges and tokens, and how many of them are shared away",
            "wandb": "the W&B run; offline it can be sent with `wandb sync`",
            "wandb.json": "the name of the W&B run, the same one over every resume",
            "rank-*.log": "what the other ranks wrote",
        },
    ),
    "merge": (
        "base and adapter in one",
        {
            "model": "the model that vLLM and transformers load as it is, with a card of its own",
            "card.json": "what that card says of data and recipe, kept for when scores are added",
        },
    ),
    "serve": (
        "what vLLM was given",
        {
            "chat_template.jinja": "the chat template for the OpenAI interface's tools",
            "generation_config.json": "what ends a reply",
        },
    ),
    "capture": ("requests and replies that were recorded", {"capture-*.jsonl": "what clients and an upstream said"}),
}
EVALUATION = {
    "report.html": "the evaluation to look at: scores, failures, every dialogue",
    "scores.json": "the scores with 95 % intervals",
    "predictions.jsonl": "every prompt and raw reply, with its verdict",
    "vllm-*.log": "what the servers said",
}
EVERY = {"run.json": "command, commit, versions, machine, settings, times, hashes of this step"}


def run_of(stage: Path) -> Path | None:
    """The folder of the run that a step's folder belongs to, None if it is not one of a run's steps."""
    if stage.parent.name == "evaluate":
        return stage.parent.parent
    return stage.parent if stage.name in STEPS else None


def render(run: Path) -> str:
    """The page as markdown, of what lies in the run's folder now."""
    steps, files = {step.name: step for step in run_steps.steps(run)}, list(_files(run))
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        run=_name(run),
        facts=list(_facts(steps)),
        steps=list(steps.values()),
        purposes={name: purpose for name, (purpose, _) in STEPS.items()},
        pages=[(f"{folder}/{name}", text) for folder, own in files for name, text in own if name.endswith(".html")],
        notes={step.name: note for step in steps.values() if (note := _outdated(step, steps))},
        files=files,
        scores=[_scores(step) for step in steps.values() if step.is_scored],
        tries=next_steps(run),
    )


def closing(run: Path) -> list[str]:
    """The lines that a step ends with: where everything is told, and the first command to try next."""
    first = next((command for one in next_steps(run) for command in one.commands), None)
    return [f"what lies where and what to try next: {run / NAME}", *([f"next: {first}"] if first else [])]


def _outdated(step: Step, steps: Mapping[str, Step]) -> str | None:
    """That a step before this one was done again after it; None if all is in its order."""
    before = {"train": "convert", "merge": "train"}.get(step.name, "merge")
    earlier = steps.get(before)
    if step.name == "convert" or earlier is None or not earlier.is_finished or step.run["settings"].get("from"):
        return None
    if datetime.fromisoformat(step.run["started"]) >= datetime.fromisoformat(earlier.run["finished"]):
        return None
    return f"older than what {before} made since"


def _facts(steps: Mapping[str, Step]) -> Iterator[tuple[str, str]]:
    """(what, its value) of the run as a whole."""
    made = [steps[name] for name in ("train", "merge", "convert") if name in steps]
    experiment = [word for word in (made[0].overrides if made else []) if word.startswith("+experiment=")]
    if experiment:
        yield "experiment", f"`conf/experiment/{experiment[0].partition('=')[2]}.yaml`"
    models = [step.run["settings"]["model"] for step in made if step.run["settings"].get("model")]
    if models:
        yield "base model", " ".join(str(models[0][key]) for key in ("id", "file", "revision") if models[0].get(key))
    if "convert" in steps and steps["convert"].is_finished:
        yield "data", _data(steps["convert"].run)
    if "train" in steps:
        yield "training", _training(steps["train"].run)


def _data(convert: Plain) -> str:
    results, settings = convert["results"], convert["settings"]
    sources = ", ".join(f"{name} ({entry['source']})" for name, entry in settings["mix"].items())
    counts = [
        f"{results[part]['dialogues']:,} dialogues to {verb}"
        for part, verb in (("train", "train on"), ("test", "test with"))
    ]
    return f"{sources}: {', '.join(counts)}, {results['rejected']:,} rows left out; as `{settings['format']}`"


def _training(train: Plain) -> str:
    settings, results = train["settings"], train.get("results", {})
    lora = f"LoRA of rank {settings['lora']['rank']}, learning rate {settings['train']['learning_rate']:g}"
    if not results:
        return lora
    best = f"best {settings['train']['best_by']} {results['best']:.4f} at step {results['best_step']}"
    return f"{lora}, {results['steps']:,} steps; {best}"


def _files(run: Path) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """(folder, [(file in it, what it holds)]) of all that lies in the run's folder, but for what is hidden."""
    folders = [run / name for name in STEPS] + sorted(run.glob("evaluate/[!.]*"))
    for folder in filter(Path.is_dir, folders):
        known = {**STEPS.get(folder.name, ("", EVALUATION))[1], **EVERY}
        names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir() if not path.name.startswith("."))
        told = [(name, next((text for glob, text in known.items() if Path(name).match(glob)), "")) for name in names]
        order = list(known.values())
        yield (
            folder.relative_to(run).as_posix(),
            sorted(told, key=lambda one: order.index(one[1]) if one[1] else len(order)),
        )


def _scores(step: Step) -> dict[str, Any]:
    """The suite's first two headline measures, a model each column, in all and on tools seen and unseen."""
    scored = run_steps.read(step.folder / "scores.json") or {}
    suite, models = scored["suite"], scored["models"]
    rows = []
    for name in HEADLINES.get(suite, ())[:2]:
        for part in ("all", "seen", "unseen"):
            cells = [_cell(models[label], part).get(name) for label in models]
            if any(cell and cell["value"] is not None for cell in cells):
                where = "" if part == "all" else f", {part} tools"
                rows.append((f"{MEASURES[name].title}{where}", [_score(name, cell) for cell in cells]))
    return {"suite": suite, "models": list(models), "rows": rows}


def _cell(model: Plain, part: str) -> Plain:
    """The measures of a part of a model's rows, none where there are no such rows."""
    cell = model.get("all") if part == "all" else model.get("by", {}).get("tools", {}).get(part)
    found: Plain = (cell or {}).get("measures", {})
    return found


def _score(name: str, cell: Plain | None) -> str:
    if cell is None or cell["value"] is None:
        return "-"
    written = MEASURES[name].value
    bounds = "" if cell["low"] is None else f" [{written(cell['low'])}, {written(cell['high'])}]"
    return written(cell["value"]) + bounds


def _name(run: Path) -> str:
    return "/".join(run.absolute().parts[-2:])
