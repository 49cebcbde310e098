"""train.py: LoRA on the converted rows; reads the config and puts the parts together, `trainer` trains."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from transformers import PreTrainedTokenizerBase, TrainingArguments

from fabrictune import protocol, record
from fabrictune.config import Config, Dtype, LauncherKind, is_point
from fabrictune.log import logger
from fabrictune.model import models
from fabrictune.train import (
    accelerators,
    dry_run,
    launching,
    planning,
    points,
    ranks,
    samples,
    tracking,
    wandb_run,
    zero,
)
from fabrictune.train.ranks import Stop
from fabrictune.train.trainer import CHECKPOINT, HIGHER_IS_BETTER, RowTrainer, newest_checkpoint

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")


def train(config: Config) -> float | None:
    """Trains into the train folder: checkpoint-*, best/ (the adapter), metrics.jsonl, images/, run.json.

    Returns the best value of train.best_by, which a sweep's search goes by. With a launcher this process starts the
    ranks, which come through here too, and waits for them. Raises ranks.Stopped if it was asked to stop and has saved.
    """
    if ranks.is_rank():
        with ranks.rank() as this:
            this.results = fit(config, this.stop)
    if config.dry_run:
        dry_run.show(config)
        return None
    converted = planning.converted_folder(config)
    folder, known = config.run_folder / "train", planning.settings(config, converted)
    stats = None
    if not (config.resume and record.is_finished(folder)):
        # What can be refused is refused before an old run is replaced, a new one begun or a rank started.
        stats = planning.prepare(config, converted)
    stage = record.open_stage(folder, known, overwrite=config.overwrite, resume=config.resume)
    if stage.finished:
        logger.info("%s is finished already", folder)
        _show_points(config)
        return float(stage.run["results"]["best"])
    record.write_json(folder / "stats.json", stats)
    if config.launcher.kind is LauncherKind.single:
        with ranks.stopping() as stop:
            results = fit(config, stop)
    else:
        launcher, script = config.launcher, record.ROOT / "train.py"
        results = launching.launch(
            launcher.kind.value, launcher.gpus, script, _overrides(config), folder, planning.hostfile(config)
        )
    stage.finish(**results)
    for line in [*tracking.summary(folder, results["best_step"]), *record.closing(config.run_folder)]:
        logger.info(line)
    _show_points(config)
    return float(results["best"])


def _show_points(config: Config) -> None:
    """Within a sweep: what has come of its points so far; after the last one that is the sweep's table."""
    if is_point():
        best_by = config.train.best_by.partition("/")[0]
        points.show(config.run_folder.parent, higher_is_better=best_by in HIGHER_IS_BETTER)


def _overrides(config: Config) -> list[str]:
    """What makes a rank compose this very config: of a sweep this point alone."""
    hydra = HydraConfig.get()
    flags = ["--config-name", str(hydra.job.config_name)]
    for source in hydra.runtime.config_sources:
        if source.provider == "command-line":
            flags += ["--config-dir", source.path]
    variant = config.variant.replace("'", r"\'")
    return [*flags, *hydra.overrides.task, f"variant='{variant}'", "hydra.mode=RUN"]


def fit(config: Config, stop: Stop) -> dict[str, Any]:
    """One rank's training, from the last checkpoint if there is one; returns what came out of it.

    Raises ranks.Stopped once it has saved what it was asked to leave.
    """
    folder, converted = config.run_folder / "train", config.convert_folder
    known = record.settings_of(folder)
    if known != json.loads(json.dumps(planning.settings(config, converted))):
        raise RuntimeError(f"this rank composed another config than {folder / 'run.json'} says; start train.py anew")
    switches = planning.switches(config, accelerators.machine())
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # which DeepSpeed would find out with a warning
        if config.launcher.kind is LauncherKind.deepspeed:
            launching.use_no_compiler()
    checkpoint = newest_checkpoint(folder)
    base = models.local_folder(**config.model.plain())
    tokenizer = models.load_tokenizer(base)
    plan = planning.plan(config, converted, base, planning.rank_count(config))
    test_rows, test_sources = planning.test_rows(config, converted, base)
    steps = planning.step_count(config, plan)
    args = arguments(config, folder, steps, switches)
    # Asking for the device joins the ranks, before ZeRO-3 divides the model among them as it is loaded.
    logger.info("%d ranks on %s", args.world_size, args.device)
    assert args.world_size == plan.ranks
    args._n_gpu = min(args.n_gpu, 1)  # Trainer would spread a single process over all GPUs that it sees
    model = _model(config, base, switches)
    with _tracker(config, folder) as tracker:
        trainer = RowTrainer(
            model,
            args,
            plan,
            test_rows,
            test_sources,
            stop.requested,
            tracker.progress.row,
            callbacks=[tracker],
            sample=_sample(config, converted, base, tokenizer),
            every=config.eval.every,
            show=tracker.write_samples,
        )
        output = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if trainer.stopped and (trainer.state.global_step < steps or trainer.evaluation_due):
            saved = folder / f"{CHECKPOINT}{trainer.state.global_step}"
            raise ranks.Stopped(f"asked to stop; {saved} holds everything, and resume=true goes on from it")
        if trainer.is_world_process_zero():
            _copy_adapter(folder / f"{CHECKPOINT}{trainer.state.best_global_step}", folder / "best")
            tracker.finish(trainer.state.best_global_step, folder / "best" if config.wandb.artifact else None)
    return {
        "base": str(base),
        "data": asdict(plan.counts()),
        "tokens": {"computed": trainer.tokens, "unshared": trainer.unshared},  # since the last resume
        "steps": steps,
        "steps_per_epoch": plan.steps_per_epoch,
        "best_step": trainer.state.best_global_step,
        "best": trainer.state.best_metric,
        "seconds": output.metrics["train_runtime"],  # since the last resume
        "memory": {key: getattr(config.train, key) for key in planning.FREE},
        "switches": asdict(switches),
    }


def arguments(config: Config, folder: Path, steps: int, switches: accelerators.Resolved) -> TrainingArguments:
    """HF's training arguments. A step of the Trainer is one batch of ours, however many rows a rank computes for it."""
    train = config.train
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        max_steps=steps,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.lr_scheduler.value,
        warmup_steps=train.warmup_ratio,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        optim=switches.optimizer,
        gradient_checkpointing=train.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if train.gradient_checkpointing else None,
        logging_steps=train.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        eval_strategy="steps",
        eval_steps=train.eval_steps,
        save_strategy="steps",
        save_steps=train.eval_steps,
        metric_for_best_model=train.best_by,
        greater_is_better=train.best_by.partition("/")[0] in HIGHER_IS_BETTER,
        seed=config.seed,
        data_seed=config.seed,
        use_cpu=not torch.cuda.is_available(),
        report_to=[],
        remove_unused_columns=False,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
        **_deepspeed(config),
    )


def _deepspeed(config: Config) -> dict[str, Any]:
    if config.launcher.kind is not LauncherKind.deepspeed:
        return {}
    bf16, on_gpu = config.model.dtype is Dtype.bfloat16, torch.cuda.is_available()
    launcher = config.launcher
    return {"deepspeed": zero.settings(launcher.zero, launcher.offload.value, bf16, on_gpu=on_gpu), "bf16": bf16}


def _divides_parameters(config: Config) -> bool:
    return config.launcher.kind is LauncherKind.deepspeed and config.launcher.zero == 3


def _model(config: Config, base: Path, switches: accelerators.Resolved) -> torch.nn.Module:
    logger.info("loading %s", base)
    model = models.load(base, config.model.dtype.value, switches.attention, switches.quantization, switches.liger)
    if _divides_parameters(config):
        zero.repair_rotary(model)
    lora = config.lora
    return models.attach(model, lora.rank, lora.alpha, lora.dropout, config.seed, planning.targets(config))


def _tracker(config: Config, folder: Path) -> tracking.Tracker:
    wandb = config.wandb
    mode = wandb_run.chosen_mode(wandb.mode.value)
    logger.info("W&B: %s", mode)
    about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return tracking.Tracker(
        folder,
        wandb_run.Wandb(
            folder,
            mode,
            wandb.project,
            f"{config.name}/{config.variant}",
            about["settings"] | {"commit": about["commit"], "versions": about["versions"]},
            wandb.entity,
            config.name,
            wandb.tags,
        ),
    )


def _sample(config: Config, converted: Path, base: Path, tokenizer: PreTrainedTokenizerBase) -> samples.Sample | None:
    """What the run generates on while it trains, if anything."""
    chosen = planning.sampled(config, converted, base)
    dialect = protocol.dialect_of(record.settings_of(converted)["format"], "train.py")
    return samples.Sample(chosen, tokenizer, dialect, config.eval.sample_tokens) if chosen else None


def _copy_adapter(checkpoint: Path, best: Path) -> None:
    aside = best.with_name(f".{best.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    for name in ADAPTER_FILES:
        shutil.copyfile(checkpoint / name, aside / name)
    shutil.rmtree(best, ignore_errors=True)
    aside.replace(best)
