"""README.md of a run's folder: what the run is, which steps are done, what its files are, and what to try next."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2

from fabrictune import protocol
from fabrictune.measures import HEADLINES, MEASURES

NAME = "README.md"
TEMPLATE = Path(__file__).with_name("run_page.md.jinja")
MAIN = "main"  # the variant whose converted data a sweep's points share

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

# Of a step's command: what says how it was run and not what it made, and words of one point of a sweep.
_MANNER = ("resume=", "overwrite=", "dry_run=", "variant=", "hydra", "+sweep=", "+cluster=", "compare=", "collect=")
# Overrides that merge.py, evaluate.py and serve.py do not read.
_OF_TRAINING = re.compile(r"\+{0,2}(train|launcher|wandb)([./][^=]*)?=")

Plain = Mapping[str, Any]


@dataclass(frozen=True)
class Step:
    """A step that was begun in this run, or in `main` for a point of a sweep. `run` is its run.json."""

    name: str  # of its folder in the run's, as evaluate/agentfabric
    folder: Path
    run: Plain
    is_shared: bool = False

    @property
    def is_finished(self) -> bool:
        return self.run.get("finished") is not None

    @property
    def command(self) -> str:
        words = self.run.get("command")
        return shlex.join(["python", *words]) if words else "(its run.json names no command)"

    @property
    def overrides(self) -> list[str]:
        """What was typed, of a sweep for this point, without how it was run."""
        typed = self.run["overrides"] if "overrides" in self.run else self.run.get("command", [])[1:]
        return [word for word in typed if "=" in word and not word.startswith(_MANNER)]


@dataclass(frozen=True)
class Try:
    """Something to do next: one sentence, and the commands for it, if any."""

    sentence: str
    commands: tuple[str, ...] = ()


def run_of(stage: Path) -> Path | None:
    """The folder of the run that a step's folder belongs to, None if it is not one of a run's steps."""
    if stage.parent.name == "evaluate":
        return stage.parent.parent
    return stage.parent if stage.name in STEPS else None


def render(run: Path) -> str:
    """The page as markdown, of what lies in the run's folder now."""
    steps, files = {step.name: step for step in _steps(run)}, list(_files(run))
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
        scores=[_scores(step) for step in steps.values() if _is_scored(step)],
        tries=next_steps(run),
    )


def closing(run: Path) -> list[str]:
    """The lines that a step ends with: where everything is told, and the first command to try next."""
    first = next((command for one in next_steps(run) for command in one.commands), None)
    return [f"what lies where and what to try next: {run / NAME}", *([f"next: {first}"] if first else [])]


def next_steps(run: Path) -> list[Try]:
    """What is sensible at the run's state, the most natural first."""
    steps = {step.name: step for step in _steps(run)}
    begun = next((step for step in steps.values() if not step.is_finished and not step.is_shared), None)
    if begun is not None:
        script = f"{begun.name.partition('/')[0]}.py"
        again = shlex.join(["python", script, *begun.overrides, *_variant(run), "resume=true"])
        return [Try(f"{begun.name} was begun and is not finished. Unless it runs just now, go on with it:", (again,))]
    return list(_next_steps(run, steps))


def _next_steps(run: Path, steps: Mapping[str, Step]) -> Iterator[Try]:
    convert, train = steps.get("convert"), steps.get("train")
    evaluated = [step for step in steps.values() if _is_scored(step)]
    if "merge" in steps:
        if not evaluated:
            yield Try(
                "Is it better than its base? Both are asked the test dialogues:", (_command("evaluate", run, steps),)
            )
        yield from _looks(run, evaluated)
        yield from _uses(run, steps)
    elif train is not None:
        yield from _looks(run, evaluated)
        yield Try("Put the adapter into the base:", (_command("merge", run, steps),))
    elif convert is not None and not convert.is_shared:
        yield Try("Look at the data in convert/card.html: are these the dialogues that you meant?")
        if convert.run["settings"]["format"] not in protocol.DIALECTS:
            yield Try(f"The rows are data.format={convert.run['settings']['format']}, for another trainer to train on.")
            return
        if not convert.run.get("results", {}).get("test", {}).get("dialogues", 1):
            yield _with_tests(run, convert)
            return
        words = shlex.join(["python", "train.py", *convert.overrides, *_variant(run)])
        yield Try("Train; the first command only says what that takes:", (f"{words} dry_run=true", words))
    if train is not None:
        yield from _other_runs(run, steps, train)


def _with_tests(run: Path, convert: Step) -> Try:
    """Another conversion, where this one kept no dialogue to test with."""
    kept = [word for word in convert.overrides if not word.startswith("data.test_ratio=")]
    if convert.run["settings"].get("test_ratio") == 0:
        reason, word = "data.test_ratio is 0", "data.test_ratio=0.2"
    else:
        reason = "general chat, and rows whose last call has no result (xLAM), are only trained on"
        word = "+data.mix.more={source: synthetic, count: 500}"
    again = shlex.join(["python", "convert.py", *kept, *_variant(run), word, "overwrite=true"])
    told = f"No dialogue was kept for tests, which train.py refuses: {reason}. Convert again, with some:"
    return Try(told, (again,))


def _looks(run: Path, evaluated: Sequence[Step]) -> Iterator[Try]:
    for step in evaluated:
        if (step.folder / "report.html").exists():
            yield Try(f"Open {step.name}/report.html in a browser: scores, failures and every dialogue.")
    if not evaluated and (run / "train" / "images").exists():
        yield Try("Look at the curves in train/images.")


def _uses(run: Path, steps: Mapping[str, Step]) -> Iterator[Try]:
    """What a merged model is there for."""
    serve = _command("serve", run, steps)
    yield Try(
        "Talk to the model: serve it, and in a second terminal start the page; when both are up, open "
        "http://127.0.0.1:7860.",
        (serve, f"{serve} serve=chat"),
    )
    yield Try(
        "Let AgentFabric use it while it is served (docs/agentfabric.md):",
        (f"{serve} serve=register serve.agentfabric=FOLDER",),
    )


def _other_runs(run: Path, steps: Mapping[str, Step], train: Step) -> Iterator[Try]:
    """The next run: one's own data, other settings."""
    model = [word for word in _which(run, steps) if word.startswith(("outputs=", "model"))]
    own = ["data/mix=files", "data.mix.file.path=FILE", "data.mix.file.source=openai", "name=mine"]
    yield Try(
        "Train on data of your own: FILE is JSONL, and docs/data.md names the formats to choose from.",
        (shlex.join(["python", "convert.py", *own, *model]), shlex.join(["python", "train.py", "name=mine", *model])),
    )
    if run.name != MAIN:
        collect = shlex.join(["python", "evaluate.py", *_which(run, steps), "collect=*"])
        yield Try("Compare all variants of this run that are evaluated:", (collect,))
        return
    kept = [word for word in train.overrides if not word.startswith("lora.rank=")]
    sweep = shlex.join(["python", "train.py", "-m", *kept, "lora.rank=8,32", "resume=true"])
    minutes = train.run["results"].get("seconds", 0) / 60
    each = f", each of about {minutes:.0f} minutes here" if minutes >= 1 else ""
    yield Try(f"Train the same with other settings{each}; every point is a variant beside this one:", (sweep,))


def _command(script: str, run: Path, steps: Mapping[str, Step]) -> str:
    return shlex.join(["python", f"{script}.py", *_which(run, steps), *_variant(run)])


def _which(run: Path, steps: Mapping[str, Step]) -> list[str]:
    """The overrides that lead to this very run, as config.command has them, without what concerns training alone."""
    made = [steps[name] for name in ("train", "merge", "convert") if name in steps]
    words = [word for word in (made[0].overrides if made else []) if not _OF_TRAINING.match(word)]
    if run.parent.parent != Path("outputs") and not any(word.startswith("outputs=") for word in words):
        words.append(f"outputs={run.parent.parent}")  # it has been moved or copied
    is_named = any(word.startswith(("name=", "+experiment=")) for word in words)
    return words if is_named else [f"name={run.parent.name}", *words]


def _variant(run: Path) -> list[str]:
    return [f"variant={run.name}"] if run.name != MAIN else []


def _steps(run: Path) -> Iterator[Step]:
    """The steps that were begun, in their order; the converted data of `main` where the run has none of its own."""
    for name in ("convert", "train", "merge"):
        if (known := _json(run / name / "run.json")) is not None:
            yield Step(name, run / name, known)
        elif name == "convert" and (shared := _json(run.parent / MAIN / name / "run.json")) is not None:
            yield Step(name, run.parent / MAIN / name, shared, is_shared=True)
    for file in sorted(run.glob("evaluate/*/run.json")):
        yield Step(f"evaluate/{file.parent.name}", file.parent, _json(file) or {})


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
    folders = [run / name for name in STEPS] + sorted(run.glob("evaluate/*"))
    for folder in filter(Path.is_dir, folders):
        known = {**STEPS.get(folder.name, ("", EVALUATION))[1], **EVERY}
        names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir() if not path.name.startswith("."))
        told = [(name, next((text for glob, text in known.items() if Path(name).match(glob)), "")) for name in names]
        order = list(known.values())
        yield (
            folder.relative_to(run).as_posix(),
            sorted(told, key=lambda one: order.index(one[1]) if one[1] else len(order)),
        )


def _is_scored(step: Step) -> bool:
    return step.name.startswith("evaluate/") and step.is_finished and (step.folder / "scores.json").exists()


def _scores(step: Step) -> dict[str, Any]:
    """The suite's first two headline measures, a model each column, in all and on tools seen and unseen."""
    scored = _json(step.folder / "scores.json") or {}
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


def _json(path: Path) -> Plain | None:
    if not path.exists():
        return None
    found: Plain = json.loads(path.read_text(encoding="utf-8"))
    return found
