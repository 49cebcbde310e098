"""What to try next with a run: the commands that are sensible at its state, with its own words."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from fabrictune import protocol, run_steps
from fabrictune.command_line import MAIN, override
from fabrictune.run_steps import Step

# Overrides that merge.py, evaluate.py and serve.py do not read.
_OF_TRAINING = re.compile(r"\+{0,2}(train|launcher|wandb)([./][^=]*)?=")


@dataclass(frozen=True)
class Try:
    """Something to do next: one sentence, and the commands for it, if any."""

    sentence: str
    commands: tuple[str, ...] = ()


def next_steps(run: Path) -> list[Try]:
    """What is sensible at the run's state, the most natural first."""
    steps = {step.name: step for step in run_steps.steps(run)}
    begun = next((step for step in steps.values() if not step.is_finished and not step.is_shared), None)
    if begun is not None:
        script = f"{begun.name.partition('/')[0]}.py"
        again = shlex.join(["python", script, *_placed(run, begun.overrides), *_variant(run), "resume=true"])
        return [Try(f"{begun.name} was begun and is not finished. Unless it runs just now, go on with it:", (again,))]
    return list(_next_steps(run, steps))


def _next_steps(run: Path, steps: Mapping[str, Step]) -> Iterator[Try]:
    convert, train = steps.get("convert"), steps.get("train")
    evaluated = [step for step in steps.values() if step.is_scored]
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
        words = shlex.join(["python", "train.py", *_placed(run, convert.overrides), *_variant(run)])
        yield Try("Train; the first command only says what that takes:", (f"{words} dry_run=true", words))
    if train is not None:
        yield from _other_runs(run, steps, train)


def _with_tests(run: Path, convert: Step) -> Try:
    """Another conversion, where this one kept no dialogue to test with."""
    kept = _placed(run, [word for word in convert.overrides if not word.startswith("data.test_ratio=")])
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
    rows = ["data/mix=files", "data.mix.file.path=FILE", "data.mix.file.source=openai", "data.test_ratio=0.1"]
    settings = train.run["settings"]
    how = [f"train.learning_rate={settings['train']['learning_rate']:g}", f"lora.rank={settings['lora']['rank']}"]
    yield Try(
        "Train on data of your own: FILE is JSONL, and docs/data.md names the formats to choose from.",
        (
            shlex.join(["python", "convert.py", *rows, "name=mine", *model]),
            shlex.join(["python", "train.py", "name=mine", *how, *model]),
        ),
    )
    if run.name != MAIN:
        collect = shlex.join(["python", "evaluate.py", *_which(run, steps), "collect=*"])
        yield Try("Compare all variants of this run that are evaluated:", (collect,))
        return
    kept = _placed(run, [word for word in train.overrides if not word.startswith("lora.rank=")])
    sweep = shlex.join(["python", "train.py", "-m", *kept, "lora.rank=8,32", "resume=true"])
    minutes = train.run["results"].get("seconds", 0) / 60
    each = f", each of about {minutes:.0f} minutes here" if minutes >= 1 else ""
    yield Try(f"Train the same with other settings{each}; every point is a variant beside this one:", (sweep,))


def _command(script: str, run: Path, steps: Mapping[str, Step]) -> str:
    return shlex.join(["python", f"{script}.py", *_which(run, steps), *_variant(run)])


def _which(run: Path, steps: Mapping[str, Step]) -> list[str]:
    """The overrides that lead to this very run, as config.command has them, without what concerns training alone."""
    made = [steps[name] for name in ("train", "merge", "convert") if name in steps]
    return _placed(run, [word for word in (made[0].overrides if made else []) if not _OF_TRAINING.match(word)])


def _placed(run: Path, words: Sequence[str]) -> list[str]:
    """The words, such that a command with them is about this very run, also where it was moved or copied."""
    outputs = run.parent.parent
    kept = [word for word in words if not word.startswith("outputs=") or _is_place(word, outputs)]
    if not any(word.startswith("outputs=") for word in kept) and outputs.resolve() != Path("outputs").resolve():
        kept.append(override("outputs", str(outputs)))
    named = [word for word in kept if word.startswith("name=")]
    if any("${" not in word and word != f"name={run.parent.name}" for word in named):  # it was moved or copied
        kept, named = [word for word in kept if word not in named], []
    is_told = named or any(word == f"+experiment={run.parent.name}" for word in kept)
    return kept if is_told else [override("name", run.parent.name), *kept]


def _is_place(word: str, outputs: Path) -> bool:
    """Whether outputs=... names this folder. What stands for an environment variable or the like is believed."""
    try:
        value = str(OverridesParser.create().parse_override(word).value())
    except HydraException:  # a run.json may hold anything
        return False
    return "${" in value or Path(value).resolve() == outputs.resolve()


def _variant(run: Path) -> list[str]:
    return [f"variant={run.name}"] if run.name != MAIN else []
