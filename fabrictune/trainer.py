"""HF's Trainer around packed rows: one loss for any number of ranks, whole checkpoints, curves that resume exactly.

Trainer keeps the optimiser, the schedule, ranks, DeepSpeed and what a checkpoint holds. Here is what it cannot know:
that a batch is a set of dialogues which each rank computes in rows of its own, and that a step's loss is
sum(weight * NLL) / sum(weight) over all of them.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import DistributedType
from torch.utils.data import Dataset, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from fabrictune import loss, packing
from fabrictune.batches import Batches, Share
from fabrictune.log import Clock, logger, progress
from fabrictune.packing import Row

CHECKPOINT = "checkpoint-"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")
_PENDING = "pending_losses"  # in trainer_state.json: losses of the steps since the last line of the curve


class RowTrainer(Trainer):
    """Trainer whose batches are `Share`s of rows. After `train()`, `stopped` says whether a stop was asked for.

    `stop` is asked once a step on every rank; `computed` is told the tokens of each row, and how many rows its step
    has. `sources` names the data that a row's `term_sources` count.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        args: TrainingArguments,
        batches: Batches,
        test_rows: Sequence[Row],
        sources: Sequence[str],
        stop: Callable[[], bool],
        computed: Callable[[int, int], None],
        callbacks: Sequence[TrainerCallback],
    ) -> None:
        super().__init__(
            model=model,
            args=args,
            train_dataset=_Ahead(batches, args.max_steps),
            eval_dataset=test_rows,
            data_collator=_only,
            callbacks=list(callbacks),
        )
        self.remove_callback(PrinterCallback)  # the bar shows the loss, metrics.jsonl the rest
        self.add_callback(_Ends(self))
        self.sources = list(sources)
        self.steps_per_epoch = batches.steps_per_epoch
        self.stop = stop
        self.computed = computed
        self.stopped = False
        self.losses: list[float] = []

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        # The batches are in order already, and the ranks take turns.
        return SequentialSampler(self.train_dataset)

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # counted by estimates, which knows what is shared

    def _get_num_items_in_batch(self, batch_samples: Any, device: torch.device) -> None:
        return None  # a Share knows the weight of its step

    def _init_training_state(self, *args: Any) -> tuple[int, int]:
        found = super()._init_training_state(*args)
        self.losses = list(self.state.stateful_callbacks.pop(_PENDING, []))
        return found

    def training_step(self, model: torch.nn.Module, inputs: Share, num_items_in_batch: Any = None) -> torch.Tensor:
        """The step's loss over all ranks, a scalar. Raises ValueError where it is not finite."""
        model.train()
        total = torch.zeros((), device=self.args.device)
        for number, row in enumerate(inputs.rows):
            with self._last_synchronises(model, number == len(inputs.rows) - 1):
                outcome = loss.of_row(model, row)
                # Ranks average their gradients, so each one's share counts as often as there are ranks.
                scale = self.accelerator.num_processes / inputs.weight
                self.accelerator.backward(outcome.total * scale, **self._backward_options())
            total += outcome.total.detach()
            self.computed(len(row), len(inputs.rows))
        stop = torch.tensor(float(self.stop()), device=self.args.device)
        total, stop = self.accelerator.reduce(torch.stack([total / inputs.weight, stop]), reduction="sum")
        self.stopped = bool(stop > 0)
        self._check(total.item())
        self.losses.append(total.item())
        return total

    def _backward_options(self) -> dict[str, bool]:
        is_deepspeed = self.accelerator.distributed_type == DistributedType.DEEPSPEED
        return {"scale_wrt_gas": False} if is_deepspeed else {}

    @contextlib.contextmanager
    def _last_synchronises(self, model: torch.nn.Module, is_last: bool) -> Iterator[None]:
        """Ranks exchange their gradients after their last row only; DeepSpeed is told so by accelerate's flag."""
        self.accelerator.gradient_state._set_sync_gradients(is_last)
        with contextlib.nullcontext() if is_last else self.accelerator.no_sync(model):
            yield

    def _check(self, value: float) -> None:
        if not math.isfinite(value):
            raise ValueError(
                f"the loss is {value} at step {self.state.global_step + 1}; lower train.learning_rate (now "
                f"{self.args.learning_rate}), or train in float32 (model.dtype=float32)"
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "train_runtime" in logs:  # the run's own summary says more
            return
        if "loss" in logs:
            # Trainer's mean starts anew with a resume; this one goes on.
            logs = logs | {"loss": float(np.mean(self.losses))}
            self.losses = []
        self.state.epoch = round(self.state.global_step / self.steps_per_epoch, 4)
        super().log(logs)

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> Any:
        """Loss, token accuracy and sentence accuracy over all test rows, each token counted once; also per source."""
        self.model.eval()
        clock = Clock()
        sums = torch.zeros(len(self.sources), 6, dtype=torch.float64)
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        # Each rank takes its own rows; a distributed sampler would repeat some of them to even the ranks out. Those
        # that have none left compute an empty one, since under ZeRO-3 they must gather the weights together.
        for start in progress(range(0, len(self.eval_dataset), ranks), "evaluating"):
            row = self.eval_dataset[start + rank] if start + rank < len(self.eval_dataset) else packing.PADDING
            with torch.no_grad():
                outcome = loss.of_row(self.model, row)
            sums += _sums(row, outcome.nll.cpu().numpy(), outcome.right.cpu().numpy(), len(self.sources))
        sums = self.accelerator.reduce(sums.to(self.args.device, torch.float32), reduction="sum").cpu().double()
        metrics = _metrics(sums, self.sources, metric_key_prefix)
        if self.args.metric_for_best_model not in metrics:
            raise ValueError(f"train.best_by is {self.args.metric_for_best_model}; choose from {', '.join(metrics)}")
        logger.info(
            "step %d: eval loss %.4f, tokens right %.3f, replies right %.3f",
            self.state.global_step,
            *(metrics[f"{metric_key_prefix}_{key}"] for key in ("loss", "token_acc", "sentence_acc")),
        )
        metrics[f"{metric_key_prefix}_seconds"] = round(clock.seconds(), 1)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any = None) -> None:
        """Writes checkpoint-N aside and renames it, so that what has the name is whole; keeps the best and the last.

        Raises OSError naming the folder if it cannot be written.
        """
        folder = Path(self.args.output_dir)
        final = folder / f"{CHECKPOINT}{self.state.global_step}"
        aside = final.with_name(f".{final.name}.part")
        if self.args.should_save:
            shutil.rmtree(aside, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            self.save_model(str(aside), _internal_call=True)
            self._save_optimizer_and_scheduler(str(aside))
            self._save_rng_state(str(aside))
        except Exception as error:  # torch, safetensors and DeepSpeed each have their own for a full disk
            shutil.rmtree(aside, ignore_errors=True)
            raise OSError(
                f"{final} cannot be written ({error}); free some of the disk and go on with resume=true"
            ) from error
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            best = folder / f"{CHECKPOINT}{self.state.best_global_step}"
            self.state.best_model_checkpoint = str(best) if self.state.best_global_step else None
            self.state.stateful_callbacks[_PENDING] = self.losses
            self.state.save_to_json(str(aside / TRAINER_STATE_NAME))
            self.state.stateful_callbacks.pop(_PENDING)
            _force_to_disk(aside)
            shutil.rmtree(final, ignore_errors=True)
            aside.replace(final)
            _keep_only(folder, {final, best})
        self.accelerator.wait_for_everyone()


class _Ahead(Dataset[Share]):
    """The batches, of which a thread lays out the next one for this rank while one is computed (some 10 ms a step).

    A worker process of torch's would outlive a rank that is killed: it waits for ever to hand on what it has made.
    """

    def __init__(self, batches: Batches, steps: int) -> None:
        self.batches = batches
        self.steps = steps  # Trainer takes one more after a resume at the last if there is one
        self.pool = ThreadPoolExecutor(1)
        self.waiting: dict[int, Future[Share]] = {}

    def __len__(self) -> int:
        return self.steps * self.batches.ranks

    def __getitem__(self, item: int) -> Share:
        share = self.waiting.pop(item, None) or self._begin(item)
        following = item + self.batches.ranks
        self.waiting = {following: self._begin(following)} if following < len(self) else {}
        return share.result()

    def _begin(self, item: int) -> Future[Share]:
        return self.pool.submit(self.batches.__getitem__, item)


class _Ends(TrainerCallback):
    """The last step is evaluated and saved even where it is no multiple of eval_steps; one asked to stop is saved."""

    def __init__(self, trainer: RowTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True
        elif self.trainer.stopped:
            control.should_save = control.should_training_stop = True
        return control


def newest_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint in the folder; one that was being saved when a run was killed does not have the name yet."""
    found = sorted(folder.glob(f"{CHECKPOINT}*"), key=lambda path: int(path.name.removeprefix(CHECKPOINT)))
    return found[-1] if found else None


def _only(shares: Sequence[Share]) -> Share:
    (share,) = shares
    return share


def _keep_only(folder: Path, kept: set[Path]) -> None:
    for path in folder.glob(f"{CHECKPOINT}*"):
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)


def _force_to_disk(folder: Path) -> None:
    for path in folder.rglob("*"):
        with path.open("rb") if path.is_file() else contextlib.nullcontext() as file:
            if file:
                os.fsync(file.fileno())


def _sums(row: Row, nll: np.ndarray, right: np.ndarray, sources: int) -> torch.Tensor:
    """(sources, 6): weighted NLL, weights, tokens right, tokens, replies all right, replies."""
    sums = np.zeros((sources, 6))
    for column, values in enumerate((nll * row.weights, row.weights, right, np.ones(len(right)))):
        sums[:, column] = np.bincount(row.term_sources, values, sources)
    if len(right):
        replies, first, which = np.unique(row.term_sequences, return_index=True, return_inverse=True)
        whole = np.bincount(which, ~right, len(replies)) == 0
        sums[:, 4] = np.bincount(row.term_sources[first], whole, sources)
        sums[:, 5] = np.bincount(row.term_sources[first], minlength=sources)
    return torch.from_numpy(sums)


def _metrics(sums: torch.Tensor, sources: Sequence[str], prefix: str) -> dict[str, float]:
    """The metrics of all rows, and of each source where there are several, as `eval_loss/SOURCE`."""
    parts = {"": sums.sum(0)}
    if len(sources) > 1:
        parts |= {f"/{name}": own for name, own in zip(sources, sums, strict=True) if own[3] > 0}
    metrics = {}
    for suffix, part in parts.items():
        weighted, weight, right, tokens, whole, replies = part.tolist()
        metrics[f"{prefix}_loss{suffix}"] = weighted / weight
        metrics[f"{prefix}_token_acc{suffix}"] = right / tokens
        metrics[f"{prefix}_sentence_acc{suffix}"] = whole / replies
    return metrics
