"""What a training run shows of itself: metrics, samples, images, the bar, and its closing lines."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

from fabrictune import record
from fabrictune.log import Clock, steps_bar
from fabrictune.score.testset import spaced
from fabrictune.train import curves, wandb_run
from fabrictune.train.wandb_run import Wandb

DRAWING = 10  # times as long as drawing took passes before images are drawn again: all take 2 s of a CPU
TABLE_ROWS = 16  # of samples in a table of W&B's, which is uploaded again at each evaluation; samples.jsonl has all


class StepFile:
    """A file of JSON objects that each belong to a training step, written a line at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def keep_until(self, step: int) -> None:
        """Removes what a killed run had written after the checkpoint of `step`, from which the run goes on."""
        known = curves.read(self.path)
        kept = [line for line in known if line[curves.STEP] <= step]
        if self.path.exists():
            record.write_lines(self.path, map(json.dumps, kept))

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({curves.STEP: step, **values}) + "\n")


class StepProgress:
    """The bar of a training run, in optimiser steps; it moves with every row, since a step may take a minute."""

    def __init__(self) -> None:
        self.bar: tqdm | None = None
        self.clock = Clock()
        self.loss = ""
        self.speed: float | None = None

    def start(self, total: int, done: int, ranks: int) -> None:
        self.bar, self.ranks = steps_bar("training", total, done), ranks
        self.tokens, self.seconds = 0, 0.0

    def begin_step(self) -> None:
        self.clock = Clock()

    def row(self, tokens: int, rows: int = 0) -> None:
        """One row of `tokens` was computed; `rows` is how many this rank has in the step, 0 where that is unknown."""
        if self.bar is None:
            return
        self.tokens += tokens
        self._move(1 / rows if rows else 0)

    def end_step(self, step: int) -> None:
        assert self.bar is not None
        self.seconds += self.clock.seconds()
        self.clock = Clock()
        self._move(step - self.bar.n)

    def tokens_per_second(self) -> float | None:
        """Over all ranks, since it was last asked; evaluations and saving do not count. None where nothing was."""
        if not (self.tokens and self.seconds):
            return None
        self.speed = round(self.tokens * self.ranks / self.seconds, 1)  # ranks have rows of about the same size
        self.tokens, self.seconds = 0, 0.0
        return self.speed

    def show(self, loss: float) -> None:
        self.loss = f"loss {loss:.3f}, "

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        self.bar = None

    def _move(self, by: float) -> None:
        assert self.bar is not None
        seconds = self.seconds + self.clock.seconds()
        speed = self.speed or (self.tokens * self.ranks / seconds if seconds else 0)
        self.bar.set_postfix_str(f"{self.loss}{speed:.0f} tokens/s", refresh=False)
        self.bar.update(by)


class Tracker(TrainerCallback):
    """Keeps a run's metrics, samples, images and bar up to date. A context: however the run ends, W&B hears of it."""

    def __init__(self, folder: Path, online: Wandb) -> None:
        self.folder = folder
        self.wandb = online
        self.progress = StepProgress()
        self.metrics = StepFile(folder / "metrics.jsonl")
        self.samples = StepFile(folder / "samples.jsonl")
        self.next_drawing = 0.0  # on the clock of time.monotonic

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.close()
        self.wandb.finish({}, exit_code=0 if kind is None else 1)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.progress.start(state.max_steps, state.global_step, args.world_size)
        if state.is_world_process_zero:
            for file in (self.metrics, self.samples):
                file.keep_until(state.global_step)
            self.wandb.start()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.progress.begin_step()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.progress.end_step(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        line = dict(logs or {})
        if "loss" in line:
            self.progress.show(line["loss"])
            if (speed := self.progress.tokens_per_second()) is not None:
                line["tokens_per_second"] = speed
        if state.is_world_process_zero and line:
            self.metrics.write(state.global_step, line)
            self.wandb.log(state.global_step, line)

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero and time.monotonic() >= self.next_drawing:
            self._draw()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self._draw()
        self.progress.close()

    def _draw(self) -> None:
        began = time.monotonic()
        curves.draw(self.metrics.path, self.folder / "images")
        self.next_drawing = time.monotonic() + DRAWING * (time.monotonic() - began)

    def write_samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """What the model answered at `step`, a row a request, all with the same keys; for rank 0 to call.

        W&B gets TABLE_ROWS of them at most, evenly from first to last.
        """
        for row in rows:
            self.samples.write(step, row)
        self.wandb.table(step, "samples", spaced(rows, TABLE_ROWS))

    def finish(self, best_step: int | None, adapter: Path | None = None) -> None:
        """Ends the W&B run with the losses of the best and of the last step; `adapter` is kept there if given."""
        losses = eval_losses(self.folder)
        marked = {"best": best_step, "last": max(losses, default=None)}
        if adapter:
            self.wandb.keep(adapter)
        self.wandb.finish(
            {
                f"{which}/{key}": value
                for which, step in marked.items()
                if step in losses
                for key, value in (("step", step), ("eval_loss", losses[step]))
            }
        )


def eval_losses(folder: Path) -> dict[int, float]:
    """Step -> eval loss, of every evaluation in a train folder's metrics.jsonl."""
    lines = curves.read(folder / "metrics.jsonl")
    return {line[curves.STEP]: line["eval_loss"] for line in lines if "eval_loss" in line}


def summary(folder: Path, best_step: int | None) -> list[str]:
    """The closing lines of a training run: what lies where in its folder."""
    losses = eval_losses(folder)
    steps = [int(path.name.rpartition("-")[2]) for path in folder.glob("checkpoint-*")]
    marked = {"best": best_step, "last": max(steps, default=None)}
    lines = [
        f"{which}: {folder / f'checkpoint-{step}'}"
        + (f", eval loss {losses[step]:.4f}" if step in losses else ", not evaluated")
        for which, step in marked.items()
        if step is not None
    ]
    if (folder / "best").exists():
        lines.append(f"adapter: {folder / 'best'}")
    lines.append(f"curves: {folder / 'metrics.jsonl'}, {folder / 'images'}/*.png")
    if (folder / "samples.jsonl").exists():
        lines.append(f"samples: {folder / 'samples.jsonl'}")
    if place := wandb_run.place(folder):
        lines.append(f"W&B: {place}")
    return lines
