"""Typed configuration. `typed()` is the only door from Hydra's composed config into the code.

Imports nothing heavy, so that `--help`, `--cfg job` and every typo answer at once.
"""

from __future__ import annotations

import enum
import math
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
    agentfabric = "agentfabric"  # ModelScope-Agent's client of April 2024
    agentfabric_v072 = "agentfabric_v072"  # its last release
    openai = "openai"  # messages, tools and tool_calls, for other trainers
    messages = "messages"  # plain chat, for other trainers
    ms_agent = "ms_agent"  # for other trainers


FOREIGN = frozenset({Format.openai, Format.messages, Format.ms_agent})  # a dialogue a row, for other trainers


class Language(enum.Enum):
    auto = "auto"  # each dialogue as the client chooses
    zh = "zh"
    en = "en"


class Long(enum.Enum):
    """What becomes of an exchange of more than `data.max_length` tokens."""

    keep = "keep"  # it is counted here, and left out by train.py
    drop = "drop"
    truncate_observation = "truncate_observation"
    split_history = "split_history"


class Source(enum.Enum):
    ms_agent = "ms_agent"
    agentfabric = "agentfabric"
    sharegpt = "sharegpt"
    openai = "openai"
    toolbench = "toolbench"
    synthetic = "synthetic"
    ms_bench = "ms_bench"
    alpaca = "alpaca"
    messages = "messages"
    self_cognition = "self_cognition"


GENERATED = frozenset({Source.synthetic, Source.self_cognition})
GENERAL = frozenset({Source.ms_bench, Source.alpaca, Source.messages, Source.self_cognition})


class Role(enum.Enum):
    train = "train"
    train_and_test = "train_and_test"


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
    """One source of dialogues.

    Its rows lie in `path` (a file or a folder) or in a dataset of a hub; `files` is a pattern for the names of the
    files read. `count` bounds the rows taken (null: all), `ratio` does so as a multiple of the training rows of the
    sources that are tested on. A general source (chat without tools) is only trained on, whatever `role`.
    """

    source: Source = MISSING
    path: str | None = None
    modelscope: str | None = None
    huggingface: str | None = None
    files: str | None = None
    revision: str | None = None
    count: int | None = None
    ratio: float | None = None
    role: Role | None = None  # null: train for general sources, else train_and_test
    plain: bool | None = None  # as plain chat instead of in data.format (null: general sources are)
    languages: list[str] | None = None  # of a generated source (null: English; self_cognition: those it has names in)
    names: dict[str, str] = field(default_factory=dict)  # self_cognition: the model's name by language
    authors: dict[str, str] = field(default_factory=dict)  # self_cognition: its author's

    @property
    def is_general(self) -> bool:
        return self.source in GENERAL

    @property
    def is_plain(self) -> bool:
        return self.is_general if self.plain is None else self.plain

    @property
    def is_tested(self) -> bool:
        return self.role is Role.train_and_test or (self.role is None and not self.is_general)

    @property
    def spoken(self) -> list[str]:
        """The languages of a generated source."""
        if self.languages is not None:
            return self.languages
        return sorted(self.names.keys() | self.authors.keys()) if self.source is Source.self_cognition else ["en"]

    @property
    def dataset(self) -> tuple[str, str] | None:
        """(hub, id) of a dataset on a hub."""
        if self.modelscope:
            return "modelscope", self.modelscope
        return ("huggingface", self.huggingface) if self.huggingface else None


@dataclass
class Shapes:
    """How often a dialogue takes each shape: results come back in the user's message, or in the open assistant's."""

    chat: float = MISSING
    raw: float = MISSING


@dataclass
class SpanWeights:
    """Weights in the loss: of the name of the tool called, of its arguments, of an answer; a reply's end has 1."""

    tool: float = MISSING
    arguments: float = MISSING
    answer: float = MISSING


@dataclass
class Data:
    format: Format = MISSING
    language: Language = MISSING
    shapes: Shapes = MISSING
    other_break: float = MISSING
    weights: SpanWeights = MISSING
    mix: dict[str, MixEntry] = MISSING
    test_ratio: float = MISSING
    heldout_families: list[str] = MISSING
    heldout_max: int | None = None
    max_length: int = MISSING
    long: Long = MISSING
    count_tokens: bool = MISSING
    folder: str = MISSING
    processes: int | None = None


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
    problems += _data_problems(config.data)
    if problems:
        raise SystemExit("config: " + "; ".join(problems))


def _data_problems(data: Data) -> list[str]:
    problems = []
    for section in ("weights", "shapes"):
        for key, weight in vars(getattr(data, section)).items():
            if not 0 <= weight < math.inf:
                problems.append(f"data.{section}.{key} is {weight}, but must be at least 0 and finite")
    if not data.shapes.chat + data.shapes.raw > 0:
        problems.append("data.shapes gives every shape the weight 0")
    if not 0 <= data.other_break <= 1:
        problems.append(f"data.other_break is {data.other_break}, but must be between 0 and 1")
    if not 0 <= data.test_ratio < 1:
        problems.append(f"data.test_ratio is {data.test_ratio}, but must be at least 0 and below 1")
    if data.heldout_max is not None and data.heldout_max < 0:
        problems.append(f"data.heldout_max is {data.heldout_max}, but must be at least 0")
    if data.long is not Long.keep and not data.count_tokens:
        problems.append(f"data.long is {data.long.value}, which needs data.count_tokens=true")
    if data.long is not Long.keep and data.format in FOREIGN:
        problems.append(
            f"data.long is {data.long.value}, but rows of data.format={data.format.value} have no max_length"
        )
    if data.processes is not None and data.processes < 1:
        problems.append(f"data.processes is {data.processes}, but must be at least 1")
    if not data.mix:
        problems.append("data.mix is empty; choose data/mix=synthetic, files or mix2")
    is_tested = any(entry.is_tested for entry in data.mix.values())
    for name, entry in data.mix.items():
        problems += [f"data.mix.{name}{problem}" for problem in _entry_problems(name, entry)]
        if entry.ratio is not None and not is_tested:
            problems.append(f"data.mix.{name}.ratio is of the rows of the sources that are tested on, but none is")
    return problems


def _entry_problems(name: str, entry: MixEntry) -> list[str]:
    problems = []
    places = [key for key in ("path", "modelscope", "huggingface") if getattr(entry, key)]
    if "/" in name or name.startswith("."):
        problems.append(": its name cannot name a file")
    if entry.source in GENERATED:
        if places:
            problems.append(f".{places[0]} is given, but {entry.source.value} rows are generated")
        if entry.count is None and entry.ratio is None:
            problems.append(".count is empty; say how many dialogues to generate")
        if entry.languages is not None and (set(entry.languages) - {"zh", "en"} or not entry.languages):
            problems.append(f".languages is {entry.languages}; choose from zh, en")
    elif len(places) != 1:
        given = " and ".join(places) or "no place"
        choices = f"data.mix.{name}.path=FILE_OR_FOLDER, .modelscope=ID, .huggingface=ID"
        problems.append(f" gives {given} to read from; give one of {choices}")
    if entry.source is Source.self_cognition and not (entry.names and entry.authors):
        problems.append(".names and .authors must name the model and its author, e.g. names={en: Ada}")
    for key in ("names", "authors"):
        unknown = sorted(set(getattr(entry, key)) - {"zh", "en"})
        if unknown:
            problems.append(f".{key} has the languages {unknown}; choose from zh, en")
    if entry.count is not None and entry.count < 1:
        problems.append(f".count is {entry.count}, but must be at least 1")
    if entry.ratio is not None and not 0 < entry.ratio < math.inf:
        problems.append(f".ratio is {entry.ratio}, but must be above 0 and finite")
    if entry.count is not None and entry.ratio is not None:
        problems.append(" gives count and ratio; give one of them")
    if entry.ratio is not None and entry.is_tested:
        problems.append(".ratio is of the rows of the sources that are tested on, and this is one; give count instead")
    if entry.plain and entry.is_tested:
        problems.append(".plain is true, but plain chat is not tested on; give role=train as well")
    if entry.is_general and entry.role is Role.train_and_test:
        problems.append(f".role is train_and_test, but {entry.source.value} is general chat, which is never tested on")
    return problems
