"""A training run at Weights & Biases, which goes on offline where no server takes it."""

from __future__ import annotations

import json
import netrc
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import wandb

from fabrictune import record
from fabrictune.log import logger
from fabrictune.train import curves

SERVER = "https://api.wandb.ai"
STEP = "train/global_step"  # the axis that HF's own callback gives its curves, so that runs can be compared
STATE = "wandb.json"
CONNECT_SECONDS = 30  # W&B's own bound is 90, and with retries 105 s pass in silence before it fails
# At the end, where W&B would wait without a bound for a server that has gone. A run that is asked to stop has saved by
# then, and all of that has to be over within launching.GRACE, 300 s.
UPLOAD_SECONDS = 120
FLUSH_SECONDS = 1  # W&B writes its file every 15 s, so that a killed run would lose as much of its curves


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
        path = self.folder / STATE
        state = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"id": secrets.token_hex(4)}
        record.write_json(path, state)  # before the run is known to anyone, so that a kill leaves no second one
        self.run = self._online(state["id"]) if self.mode == "online" else self._init(state["id"], "offline")
        record.write_json(path, {"id": state["id"], "url": None if self.run.offline else self.run.url})
        self.run.define_metric(STEP)
        self.run.define_metric("*", step_metric=STEP)

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

    def _init(self, run_id: str, mode: Literal["online", "offline"]) -> wandb.Run:
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
            self.run.log({STEP: step} | {curves.name(key): value for key, value in metrics.items()})

    def table(self, step: int, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Shows the rows, which have the same keys, as a table."""
        if self.run and rows:
            columns: list[Any] = list(rows[0])
            data = [[row[column] for column in columns] for row in rows]
            self.run.log({STEP: step, name: wandb.Table(columns=columns, data=data)})

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


def place(folder: Path) -> str | None:
    """Where the run of a train folder is to be seen, or how to upload it; None if W&B was disabled."""
    if not (folder / STATE).exists():
        return None
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    return state.get("url") or f"offline; to upload it: {_sync_command(folder, state['id'])}"


def _sync_command(folder: Path, run_id: str) -> str:
    return f"wandb sync {folder / 'wandb'}/*run-*-{run_id}"


def _server() -> str:
    return os.environ.get("WANDB_BASE_URL") or SERVER


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        found = netrc.netrc(os.environ.get("NETRC")).authenticators(urlsplit(_server()).hostname or "")
    except (OSError, netrc.NetrcParseError):
        return False
    return found is not None
