"""HF's Trainer around packed rows: one loss for any number of ranks, whole checkpoints, exact resumes.

Trainer keeps the optimiser, the schedule, ranks, DeepSpeed and what a checkpoint holds. Here is what it cannot know:
that a batch is a set of dialogues which each rank computes in rows of its own, and that a step's loss is
sum(weight * NLL) / sum(weight) over all of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import DistributedType, gather_object
from safetensors import SafetensorError
from torch.utils.data import Dataset, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from fabrictune.log import Clock, logger, progress
from fabrictune.train import loss, packing, samples
from fabrictune.train.batches import Batches, Share
from fabrictune.train.packing import Row

CHECKPOINT = "checkpoint-"
HIGHER_IS_BETTER = ("eval_token_acc", "eval_sentence_acc", "eval_call_exact", "eval_rouge_l")  # of the others lower is
_OURS = "fabrictune"  # in trainer_state.json: what Trainer does not keep
# Of an evaluation, what the log says and how.
_SHOWN = {
    "eval loss": "loss",
    "tokens right": "token_acc",
    "replies right": "sentence_acc",
    "calls exact": "call_exact",
}


class RowTrainer(Trainer):
    """Trainer whose batches are `Share`s of rows. After `train()`, `stopped` says whether a stop was asked for.

    `stop` is asked once a step on every rank; `computed` is told the tokens of each row, and how many rows its step
    has. `test_sources` names what the test rows' `term_sources` count. At every `every`-th evaluation, and at the end,
    replies to the sample are generated and judged; rank 0 hands their rows to `show`, with the step.
    """

    control: TrainerControl

    def __init__(
        self,
        model: torch.nn.Module,
        args: TrainingArguments,
        batches: Batches,
        test_rows: Sequence[Row],
        test_sources: Sequence[str],
        stop: Callable[[], bool],
        computed: Callable[[int, int], None],
        callbacks: Sequence[TrainerCallback],
        sample: samples.Sample | None = None,
        every: int = 1,
        show: Callable[[int, Sequence[Mapping[str, Any]]], None] = lambda step, rows: None,
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
        self.add_callback(_MemoryRelease())
        self.add_callback(_Ends(self))
        self.sources, self.test_sources = list(batches.tokens.source_names), list(test_sources)
        self.steps_per_epoch = batches.steps_per_epoch
        self.stop = stop
        self.computed = computed
        self.sample, self.every, self.show = sample, every, show
        self.stopped = False
        self.evaluation_due = False  # one that was given up to stop, and is made up for after the resume
        self.best_loss: float | None = None  # eval_loss of the best checkpoint
        # Of each step since the curve's last line: its loss, then what `_weighted_by_source` has, flat.
        self.pending: list[list[float]] = []
        self.tokens = self.unshared = 0  # computed since the last resume, and what they would be exchange by exchange

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        # The batches are in order already, and the ranks take turns.
        return SequentialSampler(self.train_dataset)

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # counted by estimates, which knows what is shared

    def _get_num_items_in_batch(self, batch_samples: Any, device: torch.device) -> None:
        return None  # a Share knows the weight of its step

    def _init_training_state(self, *args: Any) -> tuple[int, int]:
        found: tuple[int, int] = super()._init_training_state(*args)
        kept = self.state.stateful_callbacks.pop(_OURS, {})
        self.pending, self.evaluation_due = kept.get("pending", []), kept.get("evaluation_due", False)
        self.best_loss = kept.get("best_loss")
        return found

    def training_step(self, model: torch.nn.Module, inputs: Share, num_items_in_batch: Any = None) -> torch.Tensor:
        """The step's loss over all ranks, a scalar. Raises ValueError where it is not finite."""
        model.train()
        total = torch.zeros((), device=self.args.device)
        by_source = torch.zeros(2, len(self.sources), dtype=torch.float64)
        for number, row in enumerate(inputs.rows):
            with self._last_synchronises(model, number == len(inputs.rows) - 1):
                outcome = loss.of_row(model, row)
                # Ranks average their gradients, so each one's share counts as often as there are ranks.
                scale = self.accelerator.num_processes / inputs.weight
                self.accelerator.backward(outcome.total * scale, **self._backward_options())
            total += outcome.total.detach()
            by_source += _weighted_by_source(row, outcome.nll.cpu().numpy(), len(self.sources))
            self.computed(len(row), len(inputs.rows))
        self.tokens, self.unshared = self.tokens + inputs.tokens, self.unshared + inputs.unshared
        mean = self._step_loss(total / inputs.weight, by_source)
        self._require_finite("loss", mean.item(), self.state.global_step + 1)
        return mean

    def _step_loss(self, share: torch.Tensor, by_source: torch.Tensor) -> torch.Tensor:
        """The step's loss, of which each rank has a share. Notes it, and whether a rank was asked to stop."""
        mine = torch.cat([share[None], torch.tensor([float(self.stop())]).to(share), by_source.flatten().to(share)])
        whole: torch.Tensor = self.accelerator.reduce(mine, reduction="sum")
        self.stopped = bool(whole[1] > 0)
        self.pending.append([whole[0].item(), *whole[2:].tolist()])
        return whole[0]

    def _backward_options(self) -> dict[str, bool]:
        is_deepspeed = self.accelerator.distributed_type == DistributedType.DEEPSPEED
        return {"scale_wrt_gas": False} if is_deepspeed else {}

    @contextlib.contextmanager
    def _last_synchronises(self, model: torch.nn.Module, is_last: bool) -> Iterator[None]:
        """Ranks exchange their gradients after their last row only; DeepSpeed is told so by accelerate's flag."""
        self.accelerator.gradient_state._set_sync_gradients(is_last)
        with contextlib.nullcontext() if is_last else self.accelerator.no_sync(model):
            yield

    def _require_finite(self, name: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            raise ValueError(
                f"the {name} is {value} at step {step}; lower train.learning_rate (now {self.args.learning_rate}), or "
                f"train in float32 (model.dtype=float32), with overwrite=true or another variant="
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "train_runtime" in logs:  # the run's own summary says more
            return
        if "loss" in logs:
            # Trainer's mean starts anew with a resume; this one goes on.
            logs = logs | _pending_means(self.pending, self.sources)
            self.pending = []
        self.state.epoch = round(self.state.global_step / self.steps_per_epoch, 4)
        super().log(logs)

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> Any:
        """Loss, token accuracy and sentence accuracy over all test rows, each token counted once; also per source.

        With them what `samples.metrics` has, where replies are generated.
        """
        self.model.eval()
        clock = Clock()
        sums = torch.zeros(len(self.test_sources), 6, dtype=torch.float64)
        rank, count = self.accelerator.process_index, self.accelerator.num_processes
        # Each rank takes its own rows; a distributed sampler would repeat some of them to even the ranks out. Those
        # that have none left compute an empty one, since under ZeRO-3 they must gather the weights together.
        for start in progress(range(0, len(self.eval_dataset), count), "evaluating"):
            self._end_if_asked()
            row = self.eval_dataset[start + rank] if start + rank < len(self.eval_dataset) else packing.PADDING
            with torch.no_grad():
                outcome = loss.of_row(self.model, row)
            sums += _sums(row, outcome.nll.cpu().numpy(), outcome.right.cpu().numpy(), len(self.test_sources))
        sums = self.accelerator.reduce(sums.to(self.args.device, torch.float32), reduction="sum").cpu().double()
        metrics = _metrics(sums, self.test_sources, metric_key_prefix)
        self._require_finite("eval loss", metrics[f"{metric_key_prefix}_loss"], self.state.global_step)
        if self.sample and self._is_generation_due():
            metrics |= self._generated(self.sample, metric_key_prefix)
        if self.args.metric_for_best_model not in metrics:
            raise ValueError(f"train.best_by is {self.args.metric_for_best_model}; choose from {', '.join(metrics)}")
        shown = [(words, metrics.get(f"{metric_key_prefix}_{key}")) for words, key in _SHOWN.items()]
        said = ", ".join(f"{words} {value:.4g}" for words, value in shown if value is not None)
        logger.info("step %d: %s", self.state.global_step, said)
        metrics[f"{metric_key_prefix}_seconds"] = round(clock.seconds(), 1)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Whether the step is the best so far: of steps that are as good, the one with the lowest eval loss.

        A measure of a few replies is often the same at several steps, and the first of them is the least trained.
        """
        known = self.best_loss
        is_best: bool = super()._determine_best_metric(metrics, trial)
        if not is_best and known is not None and metrics["eval_loss"] < known:
            is_best = metrics[self.args.metric_for_best_model] == self.state.best_metric
        if is_best:
            self.state.best_global_step = self.state.global_step
            self.best_loss = metrics["eval_loss"]
        return is_best

    def _end_if_asked(self) -> None:
        """Raises _EvaluationStopped on all ranks if one was asked to stop; they must call it equally often."""
        stop = torch.tensor(float(self.stop()), device=self.args.device)
        if self.accelerator.reduce(stop, reduction="sum") > 0:
            raise _EvaluationStopped

    def _is_generation_due(self) -> bool:
        """By the step alone, so that a resumed run generates when one that was left alone does."""
        step, last = int(self.state.global_step), int(self.state.max_steps)
        return step >= last or math.ceil(step / self.args.eval_steps) % self.every == 0

    def _generated(self, sample: samples.Sample, prefix: str) -> dict[str, float]:
        """The measures of replies that the ranks share out among them; every rank judges all and has the same."""
        rank, count = self.accelerator.process_index, self.accelerator.num_processes
        mine = sample.generate(self.model, rank, count, self._end_if_asked)
        replies = dict(gather_object(list(mine.items())))
        verdicts = sample.verdicts(replies)
        if self.is_world_process_zero():
            self.show(self.state.global_step, sample.rows(replies, verdicts))
        return samples.metrics(sample.exchanges, verdicts, prefix)

    def _maybe_log_save_evaluate(self, *given: Any, **more: Any) -> None:
        try:
            super()._maybe_log_save_evaluate(*given, **more)
        except _EvaluationStopped:
            self.stopped = self.evaluation_due = True
            self._save_checkpoint(self.model_wrapped)
            self.control.should_evaluate = self.control.should_save = False
            self.control.should_training_stop = True

    def train(self, *given: Any, **more: Any) -> Any:
        """Trainer's result; None if it was asked to stop before its first step, in an evaluation that was due."""
        try:
            return super().train(*given, **more)
        except _EvaluationStopped:
            self.stopped = True  # the checkpoint that it came from stands as it is
            return None

    def make_up_evaluation(self) -> None:
        """The evaluation that was given up to stop the run; of its checkpoint the state alone changes."""
        self._determine_best_metric(self.evaluate(), None)
        self.evaluation_due = False
        if self.args.should_save:
            folder = Path(self.args.output_dir)
            final, best = (
                folder / f"{CHECKPOINT}{step}" for step in (self.state.global_step, self.state.best_global_step)
            )
            aside = final / f".{TRAINER_STATE_NAME}.part"
            self._write_state(aside, best)
            _force_to_disk(final)
            aside.replace(final / TRAINER_STATE_NAME)
            _keep_only(folder, {final, best})
        self.accelerator.wait_for_everyone()

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
        best = folder / f"{CHECKPOINT}{self.state.best_global_step}"
        try:
            self.save_model(str(aside), _internal_call=True)
            self._save_optimizer_and_scheduler(str(aside))
            self._save_rng_state(str(aside))
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self._write_state(aside / TRAINER_STATE_NAME, best)
                _force_to_disk(aside)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(aside, ignore_errors=True)
            if not _is_of_the_disk(error):
                raise
            raise OSError(
                f"{final} cannot be written ({error}); free some of the disk and go on with resume=true"
            ) from error
        if self.args.should_save:
            shutil.rmtree(final, ignore_errors=True)
            aside.replace(final)
            _keep_only(folder, {final, best})
        self.accelerator.wait_for_everyone()

    def _write_state(self, path: Path, best: Path) -> None:
        self.state.best_model_checkpoint = str(best) if self.state.best_global_step else None
        names = ("pending", "evaluation_due", "best_loss")
        self.state.stateful_callbacks[_OURS] = {name: getattr(self, name) for name in names}
        self.state.save_to_json(str(path))
        self.state.stateful_callbacks.pop(_OURS)


class _EvaluationStopped(Exception):
    """A stop was asked for while the test rows were computed."""


class _MemoryRelease(TrainerCallback):
    """Gives freed memory back to the system after every step.

    Rows differ in length, and glibc keeps the holes between their tensors: two ranks of the demo grew from 7 to 12 GB
    within 60 steps without it (docs/log.md).
    """

    def __init__(self) -> None:
        self.trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)  # glibc only

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.trim(0)

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        self.trim(0)


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

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        if self.trainer.evaluation_due:
            self.trainer.make_up_evaluation()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        if state.global_step >= state.max_steps:
            control.should_log = control.should_evaluate = control.should_save = True
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


def _is_of_the_disk(error: Exception) -> bool:
    """Whether writing failed: torch and safetensors have kinds of errors of their own for it."""
    signs = ("PytorchStreamWriter", "inline_container", "file in archive", "No space left")
    return isinstance(error, (OSError, SafetensorError)) or any(sign in str(error) for sign in signs)


def _force_to_disk(folder: Path) -> None:
    for path in folder.rglob("*"):
        with path.open("rb") if path.is_file() else contextlib.nullcontext() as file:
            if file:
                os.fsync(file.fileno())


def _weighted_by_source(row: Row, nll: np.ndarray, sources: int) -> torch.Tensor:
    """(2, sources): sums of weight * NLL and of weights."""
    weighted = [np.bincount(row.term_sources, values, sources) for values in (nll * row.weights, row.weights)]
    return torch.from_numpy(np.stack(weighted))


def _pending_means(pending: Sequence[Sequence[float]], sources: Sequence[str]) -> dict[str, float]:
    """The mean loss of some steps, and where there are several sources that of each one's terms."""
    means = {"loss": float(np.mean([step[0] for step in pending]))}
    if len(sources) > 1:
        weighted, weights = np.sum([step[1:] for step in pending], axis=0).reshape(2, -1)
        means |= {f"loss/{name}": float(weighted[i] / weights[i]) for i, name in enumerate(sources) if weights[i]}
    return means


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
