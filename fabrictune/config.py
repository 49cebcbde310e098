"""Typed configuration. `typed()` is the only door from Hydra's composed config into the code.

Imports nothing heavy, so that `--help`, `--cfg job` and every typo answer at once.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException


class ModelSource(enum.Enum):
    hub = "hub"
    folder = "folder"
    package = "package"


class Dtype(enum.Enum):
    bfloat16 = "bfloat16"
    float32 = "float32"


class Format(enum.Enum):
    agentfabric = "agentfabric"


class Source(enum.Enum):
    ms_agent = "ms_agent"
    synthetic = "synthetic"


class LauncherKind(enum.Enum):
    single = "single"
    torchrun = "torchrun"
    deepspeed = "deepspeed"


class Suite(enum.Enum):
    agentfabric = "agentfabric"


class WandbMode(enum.Enum):
    auto = "auto"  # online if a key is at hand, else offline
    online = "online"
    offline = "offline"
    disabled = "disabled"


@dataclass
class Model:
    """The base model: `id` is a hub id, a folder, or an installed package that carries a GGUF `file`."""

    source: ModelSource = MISSING
    id: str = MISSING
    file: str | None = None
    dtype: Dtype = Dtype.bfloat16

    def plain(self) -> dict[str, str | None]:
        """The section as plain values, for the floors below and for run.json."""
        return {"source": self.source.value, "id": self.id, "file": self.file, "dtype": self.dtype.value}


@dataclass
class MixEntry:
    """One source of dialogues. `path` for file sources; `count` bounds the dialogues taken (null: all)."""

    source: Source = MISSING
    path: str | None = None
    count: int | None = None
    languages: list[str] = field(default_factory=lambda: ["en"])  # of the synthetic source


@dataclass
class SpanWeights:
    """Weights in the loss: of the name of the tool called, of its arguments, of an answer; a reply's end has 1."""

    tool: float = MISSING
    arguments: float = MISSING
    answer: float = MISSING


@dataclass
class Data:
    format: Format = MISSING
    weights: SpanWeights = MISSING
    mix: dict[str, MixEntry] = MISSING
    test_ratio: float = MISSING
    heldout_families: list[str] = MISSING
    heldout_max: int | None = None
    max_length: int = MISSING


@dataclass
class Lora:
    rank: int = MISSING
    alpha: float = MISSING
    dropout: float = MISSING


@dataclass
class Train:
    epochs: float = MISSING
    max_steps: int = MISSING
    learning_rate: float = MISSING
    lr_scheduler: str = MISSING
    warmup_ratio: float = MISSING
    weight_decay: float = MISSING
    max_grad_norm: float = MISSING
    row_tokens: int = MISSING
    rows_per_step: int = MISSING
    gradient_checkpointing: bool = MISSING
    logging_steps: int = MISSING
    eval_steps: int = MISSING
    eval_dialogues: int | None = MISSING


@dataclass
class Launcher:
    kind: LauncherKind = MISSING
    ranks: int = MISSING
    zero: int = 2  # DeepSpeed's ZeRO stage


@dataclass
class Eval:
    suite: Suite = MISSING
    models: list[str] = MISSING
    url: str | None = None
    model_name: str | None = None
    api_key: str | None = None
    dialogues: int | None = None
    concurrency: int = MISSING
    max_new_tokens: int = MISSING
    timeout: float = MISSING


@dataclass
class Serve:
    model: str | None = None
    model_name: str | None = None
    host: str = MISSING
    port: int = MISSING
    max_length: int | None = None
    temperature: float = MISSING
    max_new_tokens: int = MISSING
    cpu_memory_gib: int = MISSING


@dataclass
class Wandb:
    mode: WandbMode = MISSING
    project: str = MISSING


@dataclass
class Config:
    name: str = MISSING
    variant: str = MISSING
    seed: int = MISSING
    outputs: str = MISSING
    overwrite: bool = MISSING
    resume: bool = MISSING
    model: Model = MISSING
    data: Data = MISSING
    lora: Lora = MISSING
    train: Train = MISSING
    launcher: Launcher = MISSING
    eval: Eval = MISSING
    serve: Serve = MISSING
    wandb: Wandb = MISSING

    @property
    def run_folder(self) -> Path:
        """The folder that the steps of this run share, one folder a step."""
        return Path(self.outputs) / self.name / self.variant


def typed(composed: DictConfig) -> Config:
    """The composed config as a Config. Ends the run in one sentence that names the key if it does not fit.

    Needed although Hydra checks overrides: it accepts `+lora.rnak=8` in silence.
    """
    try:
        config = OmegaConf.to_object(OmegaConf.merge(Config, OmegaConf.to_container(composed)))
        missing = sorted(OmegaConf.missing_keys(OmegaConf.structured(config)))
    except OmegaConfBaseException as error:
        key = f" (key '{error.full_key}')" if error.full_key else ""
        reason = str(error).splitlines()[0]
        raise SystemExit(f"config: {reason}{key}; see the keys with --cfg job") from None
    if missing:
        raise SystemExit(f"config: no value for {', '.join(missing)}; give it on the command line as {missing[0]}=...")
    assert isinstance(config, Config)
    _check(config)
    return config


def _check(config: Config) -> None:
    """Ends the run in one sentence where a value has the right type but cannot be meant."""
    positive = {
        "lora.rank": config.lora.rank,
        "train.row_tokens": config.train.row_tokens,
        "train.rows_per_step": config.train.rows_per_step,
        "train.logging_steps": config.train.logging_steps,
        "train.eval_steps": config.train.eval_steps,
        "data.max_length": config.data.max_length,
        "eval.concurrency": config.eval.concurrency,
        "eval.max_new_tokens": config.eval.max_new_tokens,
        "launcher.ranks": config.launcher.ranks,
    }
    problems = [f"{key} is {value}, but must be at least 1" for key, value in positive.items() if value < 1]
    for key, weight in vars(config.data.weights).items():
        if not weight >= 0:
            problems.append(f"data.weights.{key} is {weight}, but must be at least 0")
    if not 0 <= config.data.test_ratio < 1:
        problems.append(f"data.test_ratio is {config.data.test_ratio}, but must be at least 0 and below 1")
    if config.data.heldout_max is not None and config.data.heldout_max < 0:
        problems.append(f"data.heldout_max is {config.data.heldout_max}, but must be at least 0")
    if not 1 <= config.serve.port <= 65535:
        problems.append(f"serve.port is {config.serve.port}, but must be between 1 and 65535")
    ranks, rows = config.launcher.ranks, config.train.rows_per_step
    if ranks > 1 and config.launcher.kind is LauncherKind.single:
        problems.append(f"launcher.ranks is {ranks} with launcher=single; choose launcher=torchrun or deepspeed")
    if ranks >= 1 and rows % ranks:
        problems.append(f"train.rows_per_step is {rows}, which {ranks} ranks (launcher.ranks) cannot share evenly")
    unknown = sorted(set(config.eval.models) - {"base", "tuned"})
    if unknown:
        problems.append(f"eval.models holds {unknown}; choose from base, tuned")
    for key in ("name", "variant"):
        value = getattr(config, key)
        if not value or "/" in value or value in (".", ".."):
            problems.append(f"{key} is '{value}', which cannot name a folder")
    for name, entry in config.data.mix.items():
        if entry.source is not Source.synthetic and not entry.path:
            problems.append(f"data.mix.{name}.path is empty; give the file to read")
        if entry.count is not None and entry.count < 1:
            problems.append(f"data.mix.{name}.count is {entry.count}, but must be at least 1")
        if entry.source is Source.synthetic and entry.count is None:
            problems.append(f"data.mix.{name}.count is empty; say how many dialogues to generate")
    if problems:
        raise SystemExit("config: " + "; ".join(problems))
