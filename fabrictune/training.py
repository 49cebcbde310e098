"""train.py: LoRA on the converted rows, with HF's Trainer around a loss over packed rows."""

from __future__ import annotations

import ctypes
import json
import math
import os
import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments

from fabrictune import attention, launching, models, packing, protocol, record, tracking
from fabrictune.config import Config, Dtype, LauncherKind, Train
from fabrictune.dialogue import Exchange
from fabrictune.encoding import Encoded, encode
from fabrictune.log import Clock, bar, logger, progress
from fabrictune.packing import Row

# What a checkpoint must hold to be continued from; a kill while saving leaves some of it missing.
CHECKPOINT_FILES = ("trainer_state.json", "adapter_model.safetensors", "scheduler.pt")
OPTIMIZER_FILE = {
    LauncherKind.single: "optimizer.pt",
    LauncherKind.torchrun: "optimizer.pt",
    LauncherKind.deepspeed: "latest",
}


def train(config: Config) -> None:
    """Trains into the train folder: checkpoint-*, best/ (the adapter), metrics.jsonl, run.json.

    With a launcher this process starts the ranks, which come through here too, and waits for them.
    """
    root = config.run_folder
    folder = root / "train"
    if launching.is_rank():
        results = fit(config, root / "convert", folder)
        if os.environ[launching.RANK] == "0":
            record.write_json(Path(os.environ[launching.RESULT]), results)
        launching.leave()
    converted = record.require_finished(root / "convert", f"python convert.py name={config.name} ...")
    protocol.dialect_of(record.settings_of(converted)["format"], "train.py")
    stage = record.open_stage(folder, settings(config, converted), overwrite=config.overwrite, resume=config.resume)
    if stage.finished:
        logger.info("%s is finished already", folder)
        return
    if config.launcher.kind is LauncherKind.single:
        results = fit(config, converted, folder)
    else:
        models.local_folder(**config.model.plain())  # fetched or unpacked once, before the ranks would all do it
        results = launching.launch(
            config.launcher.kind.value, config.launcher.ranks, Path(sys.argv[0]), sys.argv[1:], folder / "result.json"
        )
    stage.finish(**results)
    logger.info("best %s, eval loss %.4f", results["best"], results["eval_loss"])
    logger.info("wrote %s; next: python merge.py name=%s variant=%s", folder, config.name, config.variant)


def fit(config: Config, converted: Path, folder: Path) -> dict[str, Any]:
    """One rank's training, from the newest whole checkpoint if there is one; returns what came out of it."""
    if config.launcher.kind is LauncherKind.deepspeed and not torch.cuda.is_available():
        launching.use_no_compiler()
    checkpoint = newest_checkpoint(folder, config.launcher.kind)
    base = models.local_folder(**config.model.plain())
    tokenizer = models.load_tokenizer(base)
    rows, counts = training_rows(converted / "train.jsonl", tokenizer, config)
    test_rows, _ = training_rows(converted / "test.jsonl", tokenizer, config, config.train.eval_dialogues)
    logger.info("loading %s", base)
    model = models.attach(
        models.load(base, config.model.dtype.value, attention.NAME),
        config.lora.rank,
        config.lora.alpha,
        config.lora.dropout,
        config.seed,
    )
    mode = tracking.set_up(config.wandb.mode.value, config.wandb.project, folder)
    logger.info("training on %d tokens, %d of them supervised; wandb %s", counts["tokens"], counts["supervised"], mode)
    trainer = PackedTrainer(
        model=model,
        args=arguments(config, folder, mode != "disabled"),
        train_dataset=rows,
        eval_dataset=test_rows,
        data_collator=collate,
        callbacks=[tracking.MetricsFile(folder / "metrics.jsonl"), RowProgress(), MemoryRelease(), EvaluateAtTheEnd()],
    )
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    save_best(trainer, folder)
    best = trainer.state.best_model_checkpoint
    return {
        "data": counts,
        "steps": trainer.state.global_step,
        "best": Path(best).name if best else None,
        "eval_loss": trainer.state.best_metric,
        "seconds": sum(entry.get("train_runtime", 0) for entry in trainer.state.log_history),
    }


def settings(config: Config, converted: Path) -> dict[str, Any]:
    """All that the training's result depends on."""
    data = json.loads((converted / "run.json").read_text(encoding="utf-8"))["results"]["hashes"]
    return {
        "seed": config.seed,
        "model": config.model.plain(),
        "lora": vars(config.lora),
        "train": vars(config.train),
        "launcher": {"kind": config.launcher.kind.value, "ranks": config.launcher.ranks, "zero": config.launcher.zero},
        "max_length": config.data.max_length,
        "data": {file: data[file] for file in ("train.jsonl", "test.jsonl")},
    }


def training_rows(
    path: Path, tokenizer: PreTrainedTokenizerBase, config: Config, dialogues: int | None = None
) -> tuple[list[Row], dict[str, int]]:
    """The file's exchanges, packed, and how many exchanges and tokens there were; at most `dialogues` dialogues.

    Dialogues with the same system message stand side by side, since a row computes what they share once; agents and
    the dialogues of an agent are in seeded random order. Raises ValueError if nothing fits `data.max_length`.
    """
    end = models.reply_end(tokenizer)
    groups: dict[str, list[Exchange]] = {}
    with path.open(encoding="utf-8") as file:
        for line in file:
            exchange = Exchange.from_line(line)
            groups.setdefault(exchange.dialogue, []).append(exchange)
    order = list(groups)
    if dialogues is not None:
        # Evenly over the file, so that seen and unseen tools both count.
        order = order[:: max(1, math.ceil(len(order) / dialogues))]
    too_long = tokens = 0
    encoded: dict[str, list[list[Encoded]]] = {}
    for name in progress(order, f"tokens of {path.name}"):
        sequences = [encode(exchange, tokenizer, end) for exchange in groups[name]]
        kept = [sequence for sequence in sequences if len(sequence) <= config.data.max_length]
        too_long += len(sequences) - len(kept)
        tokens += sum(map(len, kept))
        if kept:
            encoded.setdefault(groups[name][0].messages[0].content, []).append(kept)
    if not groups:
        raise ValueError(
            f"{path} is empty; raise data.test_ratio, or add a source that is tested on, and convert again"
        )
    if not encoded:
        raise ValueError(
            f"{path}: none of its {sum(map(len, groups.values()))} exchanges fits data.max_length="
            f"{config.data.max_length} tokens; raise it"
        )
    rows = list(packing.fill(_shuffled(list(encoded.values()), config.seed), config.train.row_tokens))
    packed = sum(map(len, rows))
    supervised = sum(len(row.targets) for row in rows)
    logger.info(
        "%s: %d tokens in %d rows, %.1f times fewer than the exchanges one by one%s",
        path.name,
        packed,
        len(rows),
        tokens / packed,
        f"; {too_long} exchanges longer than {config.data.max_length} left out" if too_long else "",
    )
    return rows, {
        "rows": len(rows),
        "tokens": packed,
        "tokens_unshared": tokens,
        "supervised": supervised,
        "too_long": too_long,
    }


def _shuffled(agents: list[list[list[Encoded]]], seed: int) -> list[list[Encoded]]:
    generator = random.Random(f"{seed}/packing")
    generator.shuffle(agents)
    for dialogues in agents:
        generator.shuffle(dialogues)
    return [dialogue for dialogues in agents for dialogue in dialogues]


def arguments(config: Config, folder: Path, wandb: bool) -> TrainingArguments:
    """HF's training arguments for a batch of one packed row and `rows_per_step` rows an optimiser step."""
    train: Train = config.train
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=train.rows_per_step // config.launcher.ranks,
        num_train_epochs=train.epochs,
        max_steps=train.max_steps,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.lr_scheduler,
        warmup_steps=train.warmup_ratio,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        gradient_checkpointing=train.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if train.gradient_checkpointing else None,
        logging_steps=train.logging_steps,
        logging_first_step=True,
        eval_strategy="steps",
        eval_steps=train.eval_steps,
        save_strategy="steps",
        save_steps=train.eval_steps,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        seed=config.seed,
        data_seed=config.seed,
        use_cpu=not torch.cuda.is_available(),
        report_to=["wandb"] if wandb else [],
        run_name=f"{config.name}/{config.variant}",
        remove_unused_columns=False,
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        label_names=["targets"],
        ddp_find_unused_parameters=False,
        **_deepspeed(config),
    )


def _deepspeed(config: Config) -> dict[str, Any]:
    if config.launcher.kind is not LauncherKind.deepspeed:
        return {}
    bf16 = config.model.dtype is Dtype.bfloat16
    settings = {
        "zero_optimization": {"stage": config.launcher.zero},
        "bf16": {"enabled": bf16},
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_force_ds_cpu_optimizer": False,
    }
    return {"deepspeed": settings, "bf16": bf16}


def newest_checkpoint(folder: Path, kind: LauncherKind) -> Path | None:
    """The newest checkpoint that is whole; a run that was killed while saving goes on from the one before."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for path in found:
        if all((path / name).exists() for name in (*CHECKPOINT_FILES, OPTIMIZER_FILE[kind])):
            logger.info("going on from %s", path)
            return path
    return None


def collate(rows: Sequence[Row]) -> dict[str, Any]:
    """A batch of one row as tensors: (1, T) inputs, (N,) loss terms, and the row itself for its tree."""
    (row,) = rows
    return {
        "input_ids": torch.from_numpy(row.ids)[None],
        "position_ids": torch.from_numpy(row.positions)[None],
        "sources": torch.from_numpy(row.sources),
        "targets": torch.from_numpy(row.targets),
        "weights": torch.from_numpy(row.weights),
        "row": row,
    }


def weighted_nll(model: torch.nn.Module, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """(N,) weighted negative log likelihoods in nats, and (N, V) logits, computed at the N loss terms only."""
    ids = batch["input_ids"]
    with models.compute_context(model):
        output = model(
            input_ids=ids,
            position_ids=batch["position_ids"],
            use_cache=False,
            logits_to_keep=batch["sources"],
            blocks=attention.blocks(batch["row"], models.base_weight(model).dtype, ids.device),
        )
    logits = output.logits[0].float()
    return cross_entropy(logits, batch["targets"], reduction="none") * batch["weights"], logits


class PackedTrainer(Trainer):
    """Trainer over packed rows: the loss is sum(w * NLL) / sum(w) over the whole step, whatever its micro-batches."""

    loss_is_scaled_for_ga = True

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> torch.Tensor:
        weight = torch.stack([batch["weights"].sum() for batch in batch_samples]).sum().to(device)
        return self.accelerator.gather(weight).sum()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):  # type: ignore[no-untyped-def]
        losses, _ = weighted_nll(model, inputs)
        assert num_items_in_batch is not None
        # Ranks average their gradients, so each one's share counts as often as there are ranks.
        return losses.sum() / num_items_in_batch * self.accelerator.num_processes

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):  # type: ignore[no-untyped-def]
        """Loss and token accuracy over all supervised tokens of the test rows, each token counted once."""
        self.model.eval()
        clock = Clock()
        sums = torch.zeros(3)
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        # Each rank takes its own rows; a distributed sampler would repeat some of them to even the ranks out.
        for index in progress(range(rank, len(rows), ranks), "evaluating"):
            inputs = self._prepare_inputs(collate([rows[index]]))
            with torch.no_grad():
                losses, logits = weighted_nll(self.model, inputs)
            right = (logits.argmax(-1) == inputs["targets"]) * inputs["weights"]
            sums += torch.stack([losses.sum(), right.sum(), inputs["weights"].sum()]).cpu()
        sums = self.accelerator.reduce(sums.to(self.args.device), reduction="sum")
        loss, right_share = (sums[:2] / sums[2]).tolist()
        metrics = {
            f"{metric_key_prefix}_loss": loss,
            f"{metric_key_prefix}_token_acc": right_share,
            f"{metric_key_prefix}_seconds": round(clock.seconds(), 1),
        }
        logger.info("step %d: eval loss %.4f, token accuracy %.3f", self.state.global_step, loss, right_share)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class RowProgress(TrainerCallback):
    """A progress bar that moves at every packed row, since an optimiser step may take a minute on a CPU."""

    def on_train_begin(self, args, state, control, **_):  # type: ignore[no-untyped-def]
        total = state.max_steps * args.gradient_accumulation_steps
        done = state.global_step * args.gradient_accumulation_steps
        self.bar = bar("training: rows", total, done)

    def on_substep_end(self, *_, **__):  # type: ignore[no-untyped-def]
        self.bar.update()

    def on_step_end(self, *_, **__):  # type: ignore[no-untyped-def]
        self.bar.update()

    def on_log(self, args, state, control, logs=None, **_):  # type: ignore[no-untyped-def]
        if logs and "loss" in logs:
            self.bar.set_postfix(loss=f"{logs['loss']:.3f}", refresh=False)
            if not math.isfinite(float(logs["loss"])):
                raise ValueError(
                    f"the loss is {logs['loss']} at step {state.global_step}; lower train.learning_rate "
                    f"(now {args.learning_rate}) or train in float32 (model.dtype=float32)"
                )

    def on_train_end(self, *_, **__):  # type: ignore[no-untyped-def]
        self.bar.close()


class MemoryRelease(TrainerCallback):
    """Gives freed memory back to the system after every row.

    Rows differ in length, and glibc keeps the holes between their tensors: in the demo two ranks grew from 7 to 12 GB
    within 60 steps without this.
    """

    def __init__(self) -> None:
        libc = ctypes.CDLL(None)
        self.trim = getattr(libc, "malloc_trim", lambda _: None)  # glibc only

    def on_substep_end(self, *_, **__):  # type: ignore[no-untyped-def]
        self.trim(0)

    def on_step_end(self, *_, **__):  # type: ignore[no-untyped-def]
        self.trim(0)


class EvaluateAtTheEnd(TrainerCallback):
    """The last step is evaluated and saved even where it is no multiple of eval_steps, so that it may be the best."""

    def on_step_end(self, args, state, control, **_):  # type: ignore[no-untyped-def]
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True
        return control


def save_best(trainer: Trainer, folder: Path) -> None:
    """Writes the best adapter, which Trainer has loaded back, to best/ under a temporary name first."""
    aside = folder / ".best.part"
    trainer.save_model(str(aside))
    if not trainer.is_world_process_zero():
        return
    shutil.rmtree(folder / "best", ignore_errors=True)
    aside.replace(folder / "best")
