"""What a run of train.py takes and whether it can begin, and what `dry_run=true` says of it."""

from __future__ import annotations

import json
import math
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from fabrictune import processes, protocol, record
from fabrictune.config import GENERATED_MEASURES, MAIN, Config, Dtype, LauncherKind, Offload, Optimizer, command
from fabrictune.dialogue import Exchange
from fabrictune.log import logger
from fabrictune.model import encoding, model_files, models
from fabrictune.train import (
    accelerators,
    batches,
    estimates,
    footprint,
    forecast,
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
FEW_STEPS, ENOUGH_STEPS = 10, 30  # what teaches next to nothing, and what is proposed instead
# What can be typed for a model whose files are not at hand: the sizes of Qwen2.5-7B.
ARCHITECTURE = (
    "'+model.architecture={model_type: qwen2, hidden_size: 3584, intermediate_size: 18944, num_hidden_layers: 28, "
    "num_attention_heads: 28, num_key_value_heads: 4, vocab_size: 152064}'"
)


def converted_folder(config: Config) -> Path:
    """The converted data to train on: the variant's own, or those of `main`.

    Raises FileNotFoundError naming the command that makes them, ValueError if they are rows for other trainers or, of
    another variant, were converted with other settings.
    """
    # One conversion serves all points of a sweep.
    converted = record.require_finished(config.convert_folder, command("convert.py", replace(config, variant=MAIN)))
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
    problems = _launcher_problems(config)
    if problems:
        raise ValueError("; ".join(problems))
    wandb_run.chosen_mode(config.wandb.mode.value)
    for note in switches(config, machine_of_ranks()).notes:
        logger.info(note)
    base = models.local_folder(**config.model.plain())
    models.load_tokenizer(base)
    known = footprint.parameters(base, config.lora.rank, targets(config))
    batches = plan(config, converted, base, rank_count(config))
    stats = _stats(batches) | {"test": _test_counts(config, converted, base)}
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


def _test_counts(config: Config, converted: Path, tokenizer: Path) -> dict[str, int]:
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


def _stats(batches: Batches) -> dict[str, Any]:
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


def _launcher_problems(config: Config) -> list[str]:
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


def show(config: Config) -> None:
    """Prints what the run would do, need and be refused for; needs no GPU and no weights, and no run is begun.

    The data's tokens are kept for the run. Raises ValueError if nothing is known of the model, SystemExit with code 1
    where something would be refused.
    """
    refusals: list[str] = []

    def tried(what: Callable[[], Any]) -> Any:
        try:
            return what()
        except (ValueError, OSError, RuntimeError, ImportError) as error:
            refusals.append(str(error))
            return None

    converted = tried(lambda: converted_folder(config))
    ranks = tried(lambda: rank_count(config)) or config.launcher.gpus or 1
    place = tried(lambda: _texts(config))
    architecture = place or config.model.architecture
    if not architecture:
        raise ValueError(
            f"nothing is known of the model: {refusals[-1]}; or give what its config.json says, as {ARCHITECTURE}"
        )
    known, memories, chosen = _needs(config, architecture, ranks)
    machine: accelerators.Machine | None = tried(machine_of_ranks)
    memory_here = machine.memory if machine else None
    refusals += (tried(lambda: _launcher_problems(config)) or []) + estimates.problems(chosen, memories, memory_here)
    if machine:
        tried(lambda: switches(config, machine))
    tried(lambda: wandb_run.chosen_mode(config.wandb.mode.value))
    data = counts = stats = None
    if converted and place and (data := tried(lambda: plan(config, converted, place, ranks))):
        counts = tried(lambda: _test_counts(config, converted, place))
        tried(lambda: record.require_free(config.run_folder / "train", settings(config, converted), **_ways(config)))
        stats = _stats(data)
    schedule, operations = _schedule(config, ranks, data, stats, known)
    schedule["memory_is_compared_with"] = estimates.card(memory_here)[1]
    if counts and config.eval.every:
        schedule["replies_generated_at_an_evaluation"] = counts["generated_on"]
    if converted and not data:
        schedule["steps"] = f"{_most_steps(config, converted):,} at most: the tokenizer, which tells, is not at hand"
    report = forecast.report(
        f"{config.name}/{config.variant}",
        _sources(converted, stats),
        schedule,
        known,
        memories,
        chosen,
        operations,
        _deepspeed(config),
        list(dict.fromkeys(refusals)),
    )
    console = Console(width=120)
    forecast.show(report, console)
    if data and (advice := few_steps(config, data)):
        console.print(advice, markup=False, soft_wrap=True)
    if refusals:
        console.print("Nothing was begun. The tables are of as many GPUs as the config asks for.")
        raise SystemExit(1)
    console.print(f"Nothing was begun. Begin it with: {command('train.py', config)}", markup=False, soft_wrap=True)


def _needs(
    config: Config, architecture: Mapping[str, Any] | Path, ranks: int
) -> tuple[footprint.Parameters, list[estimates.Memory], estimates.Memory]:
    """The model's parameters, and a GPU's memory: by each of DeepSpeed's stages, and as the config has it."""
    train, lora, dtype = config.train, config.lora, config.model.dtype.value
    known = footprint.parameters(architecture, lora.rank, targets(config))
    of_row = footprint.of_row(
        architecture,
        max(train.row_tokens, config.data.max_length),  # the longest exchange is a row of its own
        lora.rank,
        lora.dropout,
        targets(config),
        dtype,
        train.gradient_checkpointing,
        train.quantization.value,
    )
    options: dict[str, Any] = {"dtype": dtype, "quantization": train.quantization.value}
    if train.optimizer is Optimizer.adamw_8bit:
        options["moments"] = 2
    launcher = config.launcher
    stage = launcher.zero if launcher.kind is LauncherKind.deepspeed else None
    memories = estimates.stages(known, of_row, ranks, **options)
    return known, memories, estimates.memory(known, of_row, ranks, stage, launcher.offload.value, **options)


def _deepspeed(config: Config) -> dict[str, Any] | None:
    """What DeepSpeed is given, None without it."""
    launcher = config.launcher
    if launcher.kind is not LauncherKind.deepspeed:
        return None
    return zero.settings(launcher.zero, launcher.offload.value, config.model.dtype is Dtype.bfloat16)


def _most_steps(config: Config, converted: Path) -> int:
    """The run's steps if no exchange is too long."""
    dialogues: int = json.loads((converted / "stats.json").read_text(encoding="utf-8"))["train"]["dialogues"]
    return math.ceil(math.ceil(dialogues / config.train.batch_size) * config.train.epochs)


def _ways(config: Config) -> dict[str, bool]:
    return {"overwrite": config.overwrite, "resume": config.resume}


def _texts(config: Config) -> Path:
    """The folder with the model's config and tokenizer; its weights are not asked for."""
    model = config.model.plain()
    if model["source"] == "package":
        return models.local_folder(**model)
    return model_files.place(**model, patterns=model_files.TEXTS)


def _sources(converted: Path | None, stats: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Rows and tokens of each source: of the tokens if they are known, else as convert.py counted them."""
    if stats:
        named = {"unshared": "tokens", "supervised": "trained on", "too_long": "too long"}
        shown = ("dialogues", "exchanges", *named)
        rows = stats["sources"] | {"all": stats["all"]}
        return {name: {named.get(key, key): own[key] for key in shown} for name, own in rows.items()}
    if converted is None:
        return {}
    known = json.loads((converted / "stats.json").read_text(encoding="utf-8"))
    return {name: own["train"] for name, own in known["sources"].items()}


def _schedule(
    config: Config,
    ranks: int,
    batches: Batches | None,
    stats: dict[str, Any] | None,
    known: footprint.Parameters,
) -> tuple[dict[str, Any], int]:
    """Steps, batch and the like as far as they are known, and the operations of the whole run."""
    train = config.train
    schedule: dict[str, Any] = {
        "ranks": ranks,
        "effective_batch": f"{train.batch_size} dialogues a step, whatever the ranks",
        "row": f"{train.row_tokens} tokens at most, packing {train.packing.value}",
    }
    if batches is None or stats is None:
        return schedule | {
            "steps": "not known, nor the hours, before the data are converted and the tokenizer is at hand"
        }, 0
    steps = step_count(config, batches)
    epochs = steps / batches.steps_per_epoch
    whole = stats["all"]
    mean = whole["unshared"] / whole["exchanges"]
    operations = estimates.flops(
        known,
        round(whole["computed"] * epochs),
        round(whole["supervised"] * epochs),
        round(whole["computed"] * epochs * mean / 2),
        train.gradient_checkpointing,
    )
    return schedule | {
        "epochs": round(epochs, 2),
        "steps": steps,
        "warmup_steps": math.ceil(steps * train.warmup_ratio),
        "steps_between_evaluations": train.eval_steps,
        "rows_per_step_and_rank": stats["rows_per_step_and_rank"],
        "tokens_of_the_exchanges_one_by_one": whole["unshared"],
        "tokens_computed_in_an_epoch": whole["computed"],
    }, operations
