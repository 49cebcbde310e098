"""What a training run shows of itself: metrics.jsonl and samples.jsonl, W&B, images, the bar, and its closing lines."""

from __future__ import annotations

import json
import netrc
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import wandb
from tqdm import tqdm
from transformers import TrainerCallback

from fabrictune import record
from fabrictune.log import Clock, logger, steps_bar
from fabrictune.score.testset import spaced
from fabrictune.train import curves

WANDB_SERVER = "https://api.wandb.ai"
WANDB_STEP = "train/global_step"  # the axis that HF's own callback gives its curves, so that runs can be compared
WANDB_STATE = "wandb.json"
CONNECT_SECONDS = 30  # W&B's own bound is 90, and with retries 105 s pass in silence before it fails
# At the end, where W&B would wait without a bound for a server that has gone. A run that is asked to stop has saved by
# then, and all of that has to be over within launching.GRACE, 300 s.
UPLOAD_SECONDS = 120
TABLE_ROWS = 16  # of samples in a table of W&B's, which is uploaded again at each evaluation; samples.jsonl has all
FLUSH_SECONDS = 1  # W&B writes its file every 15 s, so that a killed run would lose as much of its curves


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


class Wandb:
    """A run at Weights & Biases, the same one over every resume: its id is kept in the folder's wandb.json.

    `mode` is online, offline or disabled, as `chosen_mode` says. The methods do nothing until `start`, so that of
    several ranks only the one that starts it is seen.
    """

    def __init__(
        self,
        folder: Path,
        mode: str,
        project: str,
        name: str,
        config: Mapping[str, Any],
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        connect_seconds: float = CONNECT_SECONDS,
    ) -> None:
        self.folder = folder
        self.mode = mode
        self.about: dict[str, Any] = {
            "project": project,
            "entity": entity,
            "name": name,
            "group": group,
            "tags": list(tags),
        }
        self.config = dict(config)
        self.connect_seconds = connect_seconds
        self.run: wandb.Run | None = None

    def start(self) -> None:
        """Opens the run. Where the server does not answer or refuses, says so and goes on offline."""
        if self.mode == "disabled":
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / WANDB_STATE
        state = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"id": secrets.token_hex(4)}
        record.write_json(path, state)  # before the run is known to anyone, so that a kill leaves no second one
        self.run = self._online(state["id"]) if self.mode == "online" else self._init(state["id"], "offline")
        record.write_json(path, {"id": state["id"], "url": None if self.run.offline else self.run.url})
        self.run.define_metric(WANDB_STEP)
        self.run.define_metric("*", step_metric=WANDB_STEP)

    def _online(self, run_id: str) -> wandb.Run:
        logger.info("connecting to W&B at %s (for at most %d s)", _server(), self.connect_seconds)
        try:
            return self._init(run_id, "online")
        except wandb.errors.Error as error:
            wandb.teardown()  # its service still holds the run's id
            logger.warning(
                "W&B at %s does not take the run (%s); training goes on with wandb.mode=offline and loses nothing, "
                "afterwards: %s",
                _server(),
                str(error).strip().splitlines()[0],
                _sync_command(self.folder, run_id),
            )
            return self._init(run_id, "offline")

    def _init(self, run_id: str, mode: str) -> wandb.Run:
        return wandb.init(
            **self.about,
            id=run_id,
            resume="allow",
            mode=mode,
            dir=str(self.folder),
            config=self.config,
            allow_val_change=True,
            reinit="finish_previous",  # one that another point of a sweep left open
            settings=wandb.Settings(
                silent=True,
                init_timeout=self.connect_seconds,
                finish_timeout=UPLOAD_SECONDS,
                finish_timeout_raises=True,
                x_transaction_log_flush_interval=FLUSH_SECONDS,
            ),
        )

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        if self.run:
            self.run.log({WANDB_STEP: step} | {curves.name(key): value for key, value in metrics.items()})

    def table(self, step: int, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Shows the rows, which have the same keys, as a table."""
        if self.run and rows:
            columns: list[Any] = list(rows[0])
            data = [[row[column] for column in columns] for row in rows]
            self.run.log({WANDB_STEP: step, name: wandb.Table(columns=columns, data=data)})

    def keep(self, adapter: Path) -> None:
        """Hands the files of the folder over as an artifact."""
        if self.run:
            name = re.sub(r"[^A-Za-z0-9_.-]", "-", f"{self.about['name']}-adapter")  # all that W&B allows in one
            artifact = wandb.Artifact(name, type="model")
            artifact.add_dir(str(adapter), policy="immutable")  # which spares W&B's copy of them
            self.run.log_artifact(artifact)

    def finish(self, summary: Mapping[str, Any], exit_code: int = 0) -> None:
        """Ends the run, as failed if `exit_code` is not 0; what was not uploaded in time stays on the disk."""
        if not self.run:
            return
        self.run.summary.update(dict(summary))
        try:
            self.run.finish(exit_code)
        except TimeoutError:
            logger.warning("W&B took too long; what is missing there: %s", _sync_command(self.folder, self.run.id))
        wandb.teardown(exit_code)  # waits for its service, which may still be writing the file when `finish` returns
        self.run = None


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
        if state.is_world_process_zero:
            curves.draw(self.metrics.path, self.folder / "images")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.on_evaluate(args, state, control)
        self.progress.close()

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


def chosen_mode(mode: str) -> str:
    """How W&B is to run: online, offline or disabled. Never asks, never waits for a network.

    `auto` is what WANDB_MODE says, else online where a key is at hand and offline elsewhere. Raises ValueError for
    `online` without a key, which would end in a prompt.
    """
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
    if mode == "online" and not _has_key():
        raise ValueError(
            "wandb.mode=online needs a key: set WANDB_API_KEY or run `wandb login`, or use wandb.mode=offline"
        )
    if mode not in ("online", "offline", "disabled"):
        raise ValueError(f"WANDB_MODE is {mode}; choose from online, offline, disabled, or unset it")
    return mode


def eval_losses(folder: Path) -> dict[int, float]:
    """Step -> eval loss, of every evaluation in a train folder's metrics.jsonl."""
    lines = curves.read(folder / "metrics.jsonl")
    return {line[curves.STEP]: line["eval_loss"] for line in lines if "eval_loss" in line}


def summary(folder: Path, best_step: int | None, command: str) -> list[str]:
    """The closing lines of a training run: what lies where in its folder, and the command to type next."""
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
    if (folder / WANDB_STATE).exists():
        state = json.loads((folder / WANDB_STATE).read_text(encoding="utf-8"))
        lines.append(f"W&B: {state.get('url') or 'offline; to upload it: ' + _sync_command(folder, state['id'])}")
    return [*lines, f"next: {command}"]


def _sync_command(folder: Path, run_id: str) -> str:
    return f"wandb sync {folder / 'wandb'}/*run-*-{run_id}"


def _server() -> str:
    return os.environ.get("WANDB_BASE_URL") or WANDB_SERVER


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        found = netrc.netrc(os.environ.get("NETRC")).authenticators(urlsplit(_server()).hostname or "")
    except (OSError, netrc.NetrcParseError):
        return False
    return found is not None
