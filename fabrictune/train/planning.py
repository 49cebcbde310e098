"""What a run of train.py takes, and whether it can begin: its data, switches, ranks, steps and refusals."""

from __future__ import annotations

import json
import math
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from fabrictune import processes, protocol, record
from fabrictune.command_line import MAIN
from fabrictune.config import GENERATED_MEASURES, Config, LauncherKind, Offload, Optimizer, command, swept
from fabrictune.dialogue import Exchange
from fabrictune.log import logger
from fabrictune.model import encoding, model_files, models
from fabrictune.train import (
    accelerators,
    batches,
    footprint,
    nodes,
    samples,
    tokens,
    wandb_run,
    zero,
)
from fabrictune.train.batches import Batches
from fabrictune.train.packing import Row

EVEN = {"tool": 1.0, "arguments": 1.0, "answer": 1.0}  # of test rows, so that runs of other weights can be compared
ALL_LINEAR = "all-linear"
ESTIMATED = 16  # steps of an epoch whose rows are laid out to estimate the tokens of all
# What may be another after a resume: it changes the memory and what is shown, not what is computed.
FREE = ("row_tokens", "gradient_checkpointing")
# Of data.*, what converted rows can do without.
NOT_CONVERTED = {"data.max_length", "data.count_tokens", "data.folder", "data.processes"}
FEW_STEPS, ENOUGH_STEPS = 10, 30  # what teaches next to nothing, and what is proposed instead


def converted_folder(config: Config) -> Path:
    """The converted data to train on: the variant's own, or those of `main`.

    Raises FileNotFoundError naming the command that makes them, ValueError if they are rows for other trainers or, of
    another variant, were converted with other settings.
    """
    converted, by_itself = config.convert_folder, config.run_folder / "convert"
    has_own = by_itself.exists() or (_sweeps_data() and not record.is_finished(converted))
    # Else one conversion serves all points of a sweep.
    made_by = command("convert.py", config if has_own else replace(config, variant=MAIN))
    converted = record.require_finished(by_itself if has_own else converted, made_by)
    known = record.settings_of(converted)
    protocol.dialect_of(known["format"], "train.py")
    if config.variant != MAIN and converted == Path(config.outputs) / config.name / MAIN / "convert":
        wanted = _conversion(config)
        own = {key: value for key, value in known.items() if key in wanted}
        own["mix"] = {
            name: {key: value for key, value in entry.items() if key != "files"} for name, entry in known["mix"].items()
        }
        changed = list(record.differences(own, json.loads(json.dumps(wanted))))
        if changed:
            raise ValueError(
                f"{converted} was converted with other settings ({'; '.join(changed[:4])}); convert for this variant: "
                f"{command('convert.py', config)}; or give train.py the data.* that convert.py was given"
            )
    return converted


def _sweeps_data() -> bool:
    """Whether each point of this sweep has data of its own."""
    keys = {key.lstrip("+~") for key in swept()} - NOT_CONVERTED
    return any(key == "seed" or key.startswith(("data.", "data/")) for key in keys)


def _conversion(config: Config) -> dict[str, Any]:
    """Of what a conversion depends on, what can be told without its files."""
    data = config.data
    keys = ("other_break", "test_ratio", "general_test", "heldout_families", "heldout_max")
    return {
        "seed": config.seed,
        "format": data.format.value,
        "language": data.language.value,
        "shapes": asdict(data.shapes),
        "long": data.long.value,
        "mix": {name: entry.values() for name, entry in data.mix.items()},
    } | {key: getattr(data, key) for key in keys}


def switches(config: Config, machine: accelerators.Machine) -> accelerators.Resolved:
    """What computes on the machine. Raises ValueError for a switch that was asked for by name and cannot be had."""
    train = config.train
    is_deepspeed = config.launcher.kind is LauncherKind.deepspeed
    wanted = accelerators.Wanted(
        train.attention.value,
        train.packing.value,
        train.optimizer.value,
        train.liger,
        train.quantization.value,
        config.model.dtype.value,
        config.launcher.zero if is_deepspeed else None,
    )
    return accelerators.resolve(wanted, machine)


def machine_of_ranks() -> accelerators.Machine:
    """What is here. Where there are GPUs a fresh process asks: who asks keeps some of every GPU's memory."""
    if not nodes.visible_gpus():
        return accelerators.machine()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(accelerators.machine).result()


def targets(config: Config) -> str | list[str]:
    """lora.targets as peft has them."""
    return ALL_LINEAR if config.lora.targets == [ALL_LINEAR] else list(config.lora.targets)


def hostfile(config: Config) -> Path | None:
    return Path(config.launcher.hostfile) if config.launcher.hostfile else None


def rank_count(config: Config) -> int:
    """How many ranks train, on all nodes."""
    if config.launcher.kind is LauncherKind.single:
        return 1
    return sum(nodes.place(config.launcher.gpus, hostfile(config)).values())


def plan(config: Config, converted: Path, tokenizer: Path, ranks: int) -> Batches:
    """The batches of the run. Raises ValueError if no row fits data.max_length."""
    train = config.train
    return Batches(
        tokens.cached(converted / "train.jsonl", tokenizer, model_files.cache("tokens"), config.data.processes),
        max_length=config.data.max_length,
        loss_weights=asdict(train.loss_weights),
        batch_size=train.batch_size,
        together=train.together,
        row_tokens=train.row_tokens,
        packing=train.packing.value,
        ranks=ranks,
        epochs=train.epochs,
        seed=config.seed,
    )


def test_rows(config: Config, converted: Path, tokenizer: Path) -> tuple[list[Row], list[str]]:
    """The rows of an evaluation while training, and the names of the sources that their terms count."""
    known = tokens.cached(converted / "test.jsonl", tokenizer, model_files.cache("tokens"), config.data.processes)
    rows = batches.evaluation_rows(
        known,
        max_length=config.data.max_length,
        loss_weights=EVEN,
        row_tokens=config.train.row_tokens,
        packing=config.train.packing.value,
        dialogues=config.train.eval_dialogues,
    )
    return rows, list(known.source_names)


def sampled(config: Config, converted: Path, tokenizer: Path) -> list[Exchange]:
    """The test exchanges to which replies are generated while training, none with eval.every=0.

    They fit data.max_length, and the reply expected fits eval.sample_tokens: another could only be cut off.
    """
    if not config.eval.every:
        return []
    path = converted / "test.jsonl"
    known = tokens.cached(path, tokenizer, model_files.cache("tokens"), config.data.processes)
    fitting = set(np.flatnonzero(known.lengths <= config.data.max_length).tolist())
    with path.open(encoding="utf-8") as file:
        exchanges = [
            Exchange.from_line(line)
            for number, line in enumerate(file)
            if number in fitting and _reply_tokens(known, number) <= config.eval.sample_tokens
        ]
    return samples.choose(exchanges, config.eval.sample)


def _reply_tokens(known: tokens.Tokens, number: int) -> int:
    """Those of the exchange's reply and of its end."""
    return int((known[number].parts != encoding.REQUEST).sum())


def settings(config: Config, converted: Path) -> dict[str, Any]:
    """All that the training's result depends on, but for rounding."""
    data = json.loads((converted / "run.json").read_text(encoding="utf-8"))["results"]["hashes"]
    train = {key: value for key, value in asdict(config.train).items() if key not in FREE}
    chooses = {key: getattr(config.eval, key) for key in ("sample", "sample_tokens")}
    return {
        "seed": config.seed,
        "model": config.model.plain(),
        "lora": asdict(config.lora),
        "train": {key: getattr(value, "value", value) for key, value in train.items()},
        "launcher": {
            "kind": config.launcher.kind.value,
            "ranks": rank_count(config),
            "zero": config.launcher.zero,
            "offload": config.launcher.offload.value,
        },
        "max_length": config.data.max_length,
        "data": {file: data[file] for file in ("train.jsonl", "test.jsonl")},
    } | ({"eval": chooses} if _is_generated(config.train.best_by) else {})


def _is_generated(measure: str) -> bool:
    return measure.partition("/")[0] in GENERATED_MEASURES


def step_count(config: Config, batches: Batches) -> int:
    return batches.steps if config.train.max_steps < 0 else min(batches.steps, config.train.max_steps)


def prepare(config: Config, converted: Path) -> dict[str, Any]:
    """Makes what all ranks need, once, and refuses what they would refuse; returns what stats.json says of the data."""
    problems = launcher_problems(config)
    if problems:
        raise ValueError("; ".join(problems))
    wandb_run.chosen_mode(config.wandb.mode.value)
    for note in switches(config, machine_of_ranks()).notes:
        logger.info(note)
    base = models.local_folder(**config.model.plain())
    models.load_tokenizer(base)
    known = footprint.parameters(base, config.lora.rank, targets(config))
    batches = plan(config, converted, base, rank_count(config))
    stats = epoch_stats(batches) | {"test": test_counts(config, converted, base)}
    whole = stats["all"]
    logger.info(
        "%s: %d dialogues, %d exchanges of %d tokens, %d of them trained on; about %.0f %% of an epoch's tokens are "
        "shared away",
        converted / "train.jsonl",
        *(whole[key] for key in ("dialogues", "exchanges", "unshared", "supervised")),
        100 * whole["shared_away"] / whole["unshared"],
    )
    for file, counts in (("train.jsonl", whole), ("test.jsonl", stats["test"])):
        if counts["too_long"]:
            logger.info(
                "%s: %d exchanges longer than data.max_length=%d tokens are left out",
                file,
                counts["too_long"],
                config.data.max_length,
            )
    if config.eval.every:
        logger.info(
            "to %d test exchanges replies of at most %d tokens are generated at %s",
            stats["test"]["generated_on"],
            config.eval.sample_tokens,
            "every evaluation" if config.eval.every == 1 else f"one of {config.eval.every} evaluations",
        )
    logger.info(
        "%d steps of %d dialogues; %s trainable parameters of %s",
        step_count(config, batches),
        config.train.batch_size,
        f"{known.trainable:,}",
        f"{known.base:,}",
    )
    if advice := few_steps(config, batches):
        logger.warning(advice)
    return stats


def few_steps(config: Config, batches: Batches) -> str:
    """What to do where the data make too few steps to learn from; "" elsewhere, or where train.max_steps wants few."""
    train, steps = config.train, batches.steps
    if steps >= FEW_STEPS or train.max_steps > 0:
        return ""
    dialogues = batches.counts().dialogues
    size = min(train.batch_size, 4)
    epochs = max(math.ceil(train.epochs), math.ceil(ENOUGH_STEPS / math.ceil(dialogues / size)))
    idle = ", in which the warmup has the learning rate 0" if train.warmup_ratio else ""
    made = f"{steps} steps" if steps > 1 else f"1 step{idle}"
    return (
        f"{dialogues} dialogues make {made}: too few to learn from; train.epochs={epochs} train.batch_size={size} "
        f"makes {epochs * math.ceil(dialogues / size)}"
    )


def test_counts(config: Config, converted: Path, tokenizer: Path) -> dict[str, int]:
    """What an evaluation computes. Raises ValueError if nothing can be tested, or not what train.best_by names."""
    rows, sources = test_rows(config, converted, tokenizer)
    tested = {sources[number] for row in rows for number in set(row.term_sources.tolist())}
    chosen = sampled(config, converted, tokenizer)
    _, _, source = config.train.best_by.partition("/")
    if _is_generated(config.train.best_by):
        _require_measurable(config, converted, chosen)
    elif source and (source not in tested or len(sources) == 1):
        among = ", ".join(sorted(tested)) if len(sources) > 1 else "none: there is only one"
        raise ValueError(f"train.best_by is {config.train.best_by}, but the sources with test rows are {among}")
    known = tokens.cached(converted / "test.jsonl", tokenizer, model_files.cache("tokens"), config.data.processes)
    return {
        "rows": len(rows),
        "supervised": sum(len(row.targets) for row in rows),
        "too_long": int((known.lengths > config.data.max_length).sum()),
        "generated_on": len(chosen),
    }


def _require_measurable(config: Config, converted: Path, chosen: Sequence[Exchange]) -> None:
    """Raises ValueError if the exchanges generated on cannot tell what train.best_by names."""
    dialect = protocol.dialect_of(record.settings_of(converted)["format"], "train.py")
    found = samples.measurable(chosen, dialect, "eval")
    if config.train.best_by not in found:
        has = ", ".join(sorted(found)) or "nothing"
        raise ValueError(
            f"train.best_by is {config.train.best_by}, but the {len(chosen)} test exchanges generated on, with replies "
            f"of at most {config.eval.sample_tokens} tokens, tell {has}; choose one of these, or raise eval.sample or "
            f"eval.sample_tokens"
        )


def epoch_stats(batches: Batches) -> dict[str, Any]:
    """Counts of an epoch, in all and by source; what is computed and what is shared away is estimated of some steps."""
    estimate = batches.estimate(ESTIMATED)
    whole = asdict(batches.counts())
    shared = {"computed": estimate.tokens, "shared_away": max(0, whole["unshared"] - estimate.tokens)}
    return {
        "all": whole | shared,
        "sources": {name: asdict(counts) for name, counts in batches.counts_by_source().items()},
        "steps_per_epoch": batches.steps_per_epoch,
        "rows_per_step_and_rank": round(estimate.rows, 2),
        "longest_row": estimate.largest,
        "estimated_from_steps": min(batches.steps_per_epoch, ESTIMATED),
    }


def launcher_problems(config: Config) -> list[str]:
    """What of the launcher cannot be had here, a sentence each; empty if all can."""
    launcher = config.launcher
    problems = []
    on_gpu = nodes.visible_gpus() > 0  # by NVML: asking CUDA would keep some of its memory
    if launcher.kind is LauncherKind.deepspeed:
        problems += zero.problems(launcher.zero, launcher.offload.value, on_gpu)
    if launcher.offload is not Offload.none and config.train.optimizer is Optimizer.adamw_8bit:
        problems.append("launcher.offload brings DeepSpeed's own Adam, so train.optimizer=adamw_8bit cannot be had")
    if launcher.kind is LauncherKind.single:
        return problems
    placed = nodes.place(launcher.gpus, hostfile(config))
    problems += nodes.problems(launcher.kind.value, placed, hostfile(config))
    if not on_gpu:
        cpus, here = processes.cpus(), placed.get("localhost", 0)
        if here > max(cpus, 2):
            problems.append(
                f"launcher.gpus is {here}, but this machine has no GPU, and {cpus} CPUs for as many ranks; train where "
                "the GPUs are, or give another launcher.gpus=, or launcher=single"
            )
    return problems
