"""What `dry_run=true` says of a run of train.py: its steps, memory and hours, and what it would be refused for."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from fabrictune import record
from fabrictune.config import Config, Dtype, LauncherKind, Optimizer, command
from fabrictune.model import model_files, models
from fabrictune.train import accelerators, estimates, footprint, forecast, planning, wandb_run, zero
from fabrictune.train.batches import Batches

# What can be typed for a model whose files are not at hand: the sizes of Qwen2.5-7B.
ARCHITECTURE = (
    "'+model.architecture={model_type: qwen2, hidden_size: 3584, intermediate_size: 18944, num_hidden_layers: 28, "
    "num_attention_heads: 28, num_key_value_heads: 4, vocab_size: 152064}'"
)
ON_CPU = "The tables are of GPUs. None is here, and of this machine's CPU neither time nor memory is estimated."


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

    converted = tried(lambda: planning.converted_folder(config))
    ranks = tried(lambda: planning.rank_count(config)) or config.launcher.gpus or 1
    place = tried(lambda: _texts(config))
    architecture = place or config.model.architecture
    if not architecture:
        raise ValueError(
            f"nothing is known of the model: {refusals[-1]}; or give what its config.json says, as {ARCHITECTURE}"
        )
    known, memories, chosen = _needs(config, architecture, ranks)
    machine: accelerators.Machine | None = tried(planning.machine_of_ranks)
    memory_here = machine.memory if machine else None
    is_on_cpu = bool(machine) and memory_here is None and config.launcher.kind is not LauncherKind.deepspeed
    refusals += tried(lambda: planning.launcher_problems(config)) or []
    refusals += estimates.problems(chosen, memories, memory_here)
    if machine:
        tried(lambda: planning.switches(config, machine))
    tried(lambda: wandb_run.chosen_mode(config.wandb.mode.value))
    data = counts = stats = None
    if converted and place and (data := tried(lambda: planning.plan(config, converted, place, ranks))):
        counts = tried(lambda: planning.test_counts(config, converted, place))
        tried(lambda: _require_free(config, converted))
        stats = planning.epoch_stats(data)
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
        [] if is_on_cpu else memories,  # DeepSpeed's ways say nothing to it
        chosen,
        operations,
        _deepspeed(config),
        list(dict.fromkeys(refusals)),
    )
    console = Console(width=120)
    forecast.show(report, console)
    if is_on_cpu:
        console.print(ON_CPU, soft_wrap=True)
    _conclude(console, config, data, is_refused=bool(refusals))


def _conclude(console: Console, config: Config, data: Batches | None, *, is_refused: bool) -> None:
    """Prints what to do about the run. Raises SystemExit with code 1 where something would be refused."""
    if data and (advice := planning.few_steps(config, data)):
        console.print(advice, markup=False, soft_wrap=True)
    if is_refused:
        console.print("Nothing was begun. The tables are of as many GPUs as the config asks for.")
        raise SystemExit(1)
    console.print(f"Nothing was begun. Begin it with: {command('train.py', config)}", markup=False, soft_wrap=True)


def _needs(
    config: Config, architecture: Mapping[str, Any] | Path, ranks: int
) -> tuple[footprint.Parameters, list[estimates.Memory], estimates.Memory]:
    """The model's parameters, and a GPU's memory: by each of DeepSpeed's stages, and as the config has it."""
    train, lora, dtype = config.train, config.lora, config.model.dtype.value
    known = footprint.parameters(architecture, lora.rank, planning.targets(config))
    of_row = footprint.of_row(
        architecture,
        max(train.row_tokens, config.data.max_length),  # the longest exchange is a row of its own
        lora.rank,
        lora.dropout,
        planning.targets(config),
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


def _require_free(config: Config, converted: Path) -> None:
    """Raises FileExistsError where the run would be refused for what its folder holds."""
    known = planning.settings(config, converted)
    record.require_free(config.run_folder / "train", known, overwrite=config.overwrite, resume=config.resume)


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
    steps = planning.step_count(config, batches)
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
