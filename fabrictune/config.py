"""Typed configuration. `typed()` is the only door from Hydra's composed config into the code.

Imports nothing heavy, so that `--help`, `--cfg job` and every typo answer at once.
"""

from __future__ import annotations

import difflib
import enum
import math
import os
import re
import shlex
import sys
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from fabrictune.command_line import MAIN, MANNER

OWN_MODELS = ("base", "tuned", "adapter")  # that evaluate.py finds in the run itself
ENDPOINT = "endpoint"  # what it calls the model behind eval.url

# What train.py measures of its test rows at each evaluation: computed from the expected replies, and generated.
COMPUTED = frozenset({"eval_loss", "eval_token_acc", "eval_sentence_acc"})
GENERATED_MEASURES = frozenset(
    f"eval_{name}"
    for name in (
        "call_exact",
        "no_call",
        "wrong_tool",
        "wrong_args",
        "malformed",
        "needless_call",
        "not_stopped",
        "rouge_l",
    )
)


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


FOR_OTHER_TRAINERS = frozenset({Format.openai, Format.messages, Format.ms_agent})  # a dialogue a row


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


# Other names of what a source reads, as people type them.
READ_BY = {"hermes": Source.openai, "xlam": Source.openai}
GENERATED = frozenset({Source.synthetic, Source.self_cognition})
GENERAL = frozenset({Source.ms_bench, Source.alpaca, Source.messages, Source.self_cognition})


class Role(enum.Enum):
    train = "train"
    train_and_test = "train_and_test"


class LauncherKind(enum.Enum):
    single = "single"
    torchrun = "torchrun"
    deepspeed = "deepspeed"


class Offload(enum.Enum):
    """What DeepSpeed keeps in the machine's memory instead of the GPU's."""

    none = "none"
    optimizer = "optimizer"
    parameters = "parameters"  # and the optimizer


class Packing(enum.Enum):
    """How the exchanges of a batch become rows."""

    tree = "tree"  # prefix trees: what exchanges share is computed once
    flat = "flat"  # one after the other, nothing shared
    none = "none"  # an exchange a row


class Attention(enum.Enum):
    auto = "auto"  # tree on a CPU, flex on a GPU
    tree = "tree"
    flex = "flex"
    sdpa = "sdpa"
    flash = "flash"


class Optimizer(enum.Enum):
    auto = "auto"  # AdamW, fused where torch has it
    adamw = "adamw"
    adamw_fused = "adamw_fused"
    adamw_8bit = "adamw_8bit"


class Schedule(enum.Enum):
    """Of the learning rate, after the warmup."""

    linear = "linear"
    cosine = "cosine"
    constant = "constant_with_warmup"


class Quantization(enum.Enum):
    none = "none"
    nf4 = "nf4"  # QLoRA: the base in 4 bits while the adapter is trained


class Suite(enum.Enum):
    agentfabric = "agentfabric"  # the real client's loop over test dialogues
    smoke = "smoke"  # the same over a few of them
    toolbench = "toolbench"  # the next reply, given all that went before
    bfcl = "bfcl"  # the Berkeley Function-Calling Leaderboard
    general = "general"  # does plain chat survive, are tools left alone where none is needed


class ServeKind(enum.Enum):
    model = "model"  # a model, by vLLM's OpenAI-compatible server
    capture = "capture"  # a proxy that records what clients and a server elsewhere say to each other
    chat = "chat"  # a page to talk to served models
    register = "register"  # no server: the model's entry in an AgentFabric's model_config.json


_GROUPS = ("experiment", "sweep", "cluster")  # that nothing chooses by itself
_OWN_FOLDER = ("--config-", "-cd", "-cp", "-cn", "hydra.searchpath=")  # how a user brings groups of their own
# Settings that say something to these kinds of serve alone. A model is served and registered with the same words.
OF_KINDS = {
    "model": (ServeKind.model, ServeKind.register, ServeKind.chat),  # for chat it is whose format is spoken
    **dict.fromkeys(("adapters", "strict", "react", "trust_remote_code"), (ServeKind.model, ServeKind.register)),
    "upstream": (ServeKind.capture, ServeKind.chat, ServeKind.register),
    "upstream_key_env": (ServeKind.capture, ServeKind.chat),
    "redact": (ServeKind.capture,),
    "endpoints": (ServeKind.chat,),
    "tools_file": (ServeKind.chat,),
    "agentfabric": (ServeKind.register,),
}


class ServeDtype(enum.Enum):
    auto = "auto"  # the model folder's own
    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


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
    revision: str | None = None  # of a hub's model: branch, tag or commit
    # What its config.json says, for a dry run where the hub cannot be reached.
    architecture: dict[str, Any] | None = None

    def plain(self) -> dict[str, Any]:
        """The section as plain values, for the floors below and for run.json."""
        return {
            "source": self.source.value,
            "id": self.id,
            "file": self.file,
            "dtype": self.dtype.value,
            "revision": self.revision,
        }


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
    ratio: int | float | None = None
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

    def values(self) -> dict[str, Any]:
        """What the source's rows depend on besides their files, as plain values for run.json."""
        return {
            "source": self.source.value,
            "count": self.count,
            "ratio": self.ratio,
            "tested": self.is_tested,
            "plain": self.is_plain,
            "languages": self.spoken if self.source in GENERATED else None,
            "names": self.names,
            "authors": self.authors,
        }

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
class Data:
    format: Format = MISSING
    language: Language = MISSING
    shapes: Shapes = MISSING
    other_break: float = MISSING
    mix: dict[str, MixEntry] = MISSING
    test_ratio: float = MISSING
    general_test: int = MISSING
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
    targets: list[str] = MISSING


@dataclass
class LossWeights:
    """Weights in the loss of a reply's parts; words around a call and the end of a reply have 1, a request has 0."""

    tool: float = MISSING
    arguments: float = MISSING
    answer: float = MISSING


@dataclass
class Train:
    epochs: float = MISSING
    max_steps: int = MISSING
    learning_rate: float = MISSING
    lr_scheduler: Schedule = MISSING
    warmup_ratio: float = MISSING
    weight_decay: float = MISSING
    max_grad_norm: float = MISSING
    batch_size: int = MISSING
    together: int = MISSING
    row_tokens: int = MISSING
    packing: Packing = MISSING
    loss_weights: LossWeights = MISSING
    attention: Attention = MISSING
    optimizer: Optimizer = MISSING
    quantization: Quantization = MISSING
    liger: bool = MISSING
    gradient_checkpointing: bool = MISSING
    logging_steps: int = MISSING
    eval_steps: int = MISSING
    eval_dialogues: int | None = MISSING
    best_by: str = MISSING


@dataclass
class Launcher:
    kind: LauncherKind = MISSING
    gpus: int | None = None
    zero: int = 2
    offload: Offload = Offload.none
    hostfile: str | None = None


@dataclass
class Merge:
    """What is merged into the base: the folder of an adapter or of a DeepSpeed ZeRO checkpoint (null: train/best)."""

    adapter: str | None = None


@dataclass
class Endpoint:
    """A model beside this run's own: a served one (`url`), a merged `folder`, or an `adapter` on the run's base.

    `api_key_env` names the environment variable that holds the key, so that no key stands in a command or a file.
    """

    url: str | None = None
    model_name: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    folder: str | None = None
    adapter: str | None = None


@dataclass
class Eval:
    suite: Suite = MISSING
    models: list[str] = MISSING
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    url: str | None = None
    model_name: str | None = None
    api_key_env: str = MISSING
    file: str | None = None
    dialogues: int | None = None
    categories: list[str] = MISSING
    concurrency: int = MISSING
    max_new_tokens: int = MISSING
    timeout: float = MISSING
    retries: int = MISSING
    every: int = MISSING
    sample: int = MISSING
    sample_tokens: int = MISSING


@dataclass
class Serve:
    """`api_key_env` names the environment variable that holds the key which clients must give (empty: none)."""

    kind: ServeKind = MISSING
    host: str = MISSING
    port: int = MISSING
    api_key_env: str = MISSING
    # kind=model
    model: str | None = None
    model_name: str | None = None
    adapters: dict[str, str] = field(default_factory=dict)
    max_length: int | None = None
    temperature: float = MISSING
    max_new_tokens: int = MISSING
    dtype: ServeDtype = MISSING
    tensor_parallel_size: int = MISSING
    gpu_memory_utilization: float = MISSING
    cpu_memory_gib: int = MISSING
    trust_remote_code: bool = MISSING
    tools: bool = MISSING
    strict: bool = MISSING
    react: bool = MISSING
    # kind=capture, kind=chat
    upstream: str | None = None
    upstream_key_env: str | None = None
    # kind=capture
    redact: bool = MISSING
    rotate_mib: int = MISSING
    # kind=chat
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    tools_file: str | None = None
    # kind=register
    agentfabric: str | None = None


@dataclass
class Wandb:
    mode: WandbMode = MISSING
    project: str = MISSING
    entity: str | None = None
    tags: list[str] = field(default_factory=list)
    artifact: bool = MISSING


@dataclass
class Config:
    name: str = MISSING
    variant: str = MISSING
    seed: int = MISSING
    outputs: str = MISSING
    overwrite: bool = MISSING
    resume: bool = MISSING
    dry_run: bool = MISSING
    compare: list[str] = field(default_factory=list)
    collect: str | None = None
    model: Model = MISSING
    data: Data = MISSING
    lora: Lora = MISSING
    train: Train = MISSING
    launcher: Launcher = MISSING
    merge: Merge = MISSING
    eval: Eval = MISSING
    serve: Serve = MISSING
    wandb: Wandb = MISSING

    @property
    def run_folder(self) -> Path:
        """The folder that the steps of this run share, one folder a step."""
        return Path(self.outputs) / self.name / self.variant

    @property
    def convert_folder(self) -> Path:
        """The converted data: this variant's own, else those of variant `main`, which the points of a sweep share."""
        own, shared = self.run_folder / "convert", Path(self.outputs) / self.name / MAIN / "convert"
        return own if own.exists() or not shared.exists() else shared


def typed(composed: DictConfig, *, has_dry_run: bool = True) -> Config:
    """The composed config as a Config. Ends the run in one sentence that names the key if it does not fit.

    `has_dry_run` says whether the script can do what dry_run asks for.

    Needed although Hydra checks overrides: it accepts `+lora.rnak=8` in silence.
    """
    try:
        config = OmegaConf.to_object(OmegaConf.merge(Config, OmegaConf.to_container(composed)))
    except MissingMandatoryValue as error:
        key = error.full_key
        raise SystemExit(f"config: no value for {key}; give it on the command line as {key}=...") from None
    except OmegaConfBaseException as error:
        _require_known(error.full_key or "")
        if "is not a ListConfig" in str(error):
            key = error.full_key
            raise SystemExit(f"config: {key} is a list; write it as '{key}=[A,B]', with one or more in it") from None
        key = f" (key '{error.full_key}')" if error.full_key else ""
        reason = str(error).splitlines()[0]
        raise SystemExit(f"config: {reason}{key}; {_way_out(error)}") from None
    assert isinstance(config, Config)
    if config.dry_run and not has_dry_run:
        raise SystemExit("config: dry_run is true, but only train.py has a dry run; leave dry_run=true out")
    _name_point(config)
    _check(config)
    return config


def require_known_keys() -> None:
    """Raises SystemExit if an override in `sys.argv` names a key that is none of Config's.

    Hydra would propose to append it with +, and then `typed` would refuse it.
    """
    own_folder = any(word.startswith(_OWN_FOLDER) for word in sys.argv[1:])
    for word in sys.argv[1:]:
        key, sign, _ = word.partition("=")
        key = key.lstrip("+")
        if own_folder and "." not in key:
            continue  # it may be a group of that folder
        # What has other signs is a group in a folder, a package, or an option of Hydra's.
        is_groups = key in _GROUPS or not re.fullmatch(r"\w+(\.[\w-]+)*", key)
        if sign and not is_groups and not key.startswith("hydra"):
            _require_known(key)


def _require_known(key: str) -> None:
    """Raises SystemExit, with the nearest key that there is, unless this is one or may be one."""
    kind: Any = Config
    names = key.split(".") if key else []
    for place, name in enumerate(names):
        if get_origin(kind) is dict:
            kind = get_args(kind)[1]
            continue
        if not is_dataclass(kind):
            break
        fields = get_type_hints(kind)
        if name not in fields:
            overlays = [] if place else [f"+{overlay}" for overlay in _GROUPS]
            near = difflib.get_close_matches(name, [*fields, *overlays], n=1)
            if near:
                raise SystemExit(f"config: there is no key {key}; did you mean {'.'.join([*names[:place], *near])}?")
            raise SystemExit(f"config: there is no key {key}; see the keys with --cfg job")
        kind = fields[name]


def _way_out(error: OmegaConfBaseException) -> str:
    """What to do about a value or key that does not fit."""
    if (error.full_key or "").endswith(".source"):
        for name, source in READ_BY.items():
            if f"'{name}'" in str(error).lower():
                return f"source={source.value} reads {name} as well"
    return "see the keys with --cfg job"


def _name_point(config: Config) -> None:
    """Names the variant after what a multirun sweeps, unless it is named: its points must not share a folder."""
    if not is_point() or config.variant != MAIN:
        return
    words = OverridesParser.create().parse_overrides(list(HydraConfig.get().overrides.task))
    keys = swept()
    own = [word for word in words if word.get_key_element() in keys]
    # Suites and models to evaluate by are no other run.
    own = [word for word in own if word.get_key_element().partition(".")[0] != "eval"]
    # Only what needs no quotes where it is typed again, as `variant=...`.
    named = "+".join(re.sub(r"[^\w.-]", "_", (word.input_line or "").lstrip("+").replace("=", "-")) for word in own)
    config.variant = named or MAIN


def is_point() -> bool:
    """Whether this run is one point of a multirun."""
    return HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN


def swept() -> set[str]:
    """The keys that the multirun sweeps, with the + that they were given with; none where this is no point of one."""
    if not is_point():
        return set()
    words = OverridesParser.create().parse_overrides(_typed_words())
    keys = {word.get_key_element() for word in words if word.is_sweep_override()}
    return keys | set(HydraConfig.get().sweeper.get("params") or {})


def _typed_words() -> list[str]:
    """The overrides that started the multirun, with all values that they sweep."""
    if "SUBMITIT_FOLDER" not in os.environ:
        return [word for word in sys.argv[1:] if "=" in word and not word.startswith("-")]
    # A job of submitit's has a command line of its own; what was typed is in the launcher that it was sent.
    from submitit import JobEnvironment
    from submitit.core.utils import DelayedSubmission

    launcher: Any = DelayedSubmission.load(JobEnvironment().paths.submitted_pickle).function
    return list(launcher.config.hydra.overrides.task)


def command(script: str, config: Config, without: str = "") -> str:
    """What to type to run another script on this very config, of a sweep on this point; `without` names a section."""
    words = [f"name={config.name}"]
    if HydraConfig.initialized():
        words = [word for word in HydraConfig.get().overrides.task if not word.startswith(MANNER)]
    if without:
        words = [word for word in words if not word.lstrip("+~").startswith((f"{without}=", f"{without}."))]
    named = [f"variant={config.variant}"] if config.variant != MAIN else []
    return shlex.join(["python", script, *words, *named])


def _check(config: Config) -> None:
    """Ends the run in one sentence where a value has the right type but cannot be meant."""
    positive = {
        "lora.rank": config.lora.rank,
        "train.batch_size": config.train.batch_size,
        "train.together": config.train.together,
        "train.row_tokens": config.train.row_tokens,
        "train.logging_steps": config.train.logging_steps,
        "train.eval_steps": config.train.eval_steps,
        "data.max_length": config.data.max_length,
        "eval.concurrency": config.eval.concurrency,
        "eval.max_new_tokens": config.eval.max_new_tokens,
        "launcher.gpus": 1 if config.launcher.gpus is None else config.launcher.gpus,
        "eval.sample": config.eval.sample,
        "eval.sample_tokens": config.eval.sample_tokens,
        "serve.max_new_tokens": config.serve.max_new_tokens,
        "serve.max_length": 1 if config.serve.max_length is None else config.serve.max_length,
        "serve.cpu_memory_gib": config.serve.cpu_memory_gib,
        "serve.tensor_parallel_size": config.serve.tensor_parallel_size,
        "serve.rotate_mib": config.serve.rotate_mib,
    }
    problems = [f"{key} is {value}, but must be at least 1" for key, value in positive.items() if value < 1]
    problems += _serve_problems(config.serve)
    problems += _launcher_problems(config.launcher) + _train_problems(config.train, config.eval.every)
    problems += _eval_problems(config)
    if not 0 <= config.lora.dropout < 1:
        problems.append(f"lora.dropout is {config.lora.dropout}, but must be at least 0 and below 1")
    if config.overwrite and config.resume:
        problems.append("overwrite is true and resume is true; give one of them (a sweep's overlay resumes)")
    for key in ("name", "variant"):
        value = getattr(config, key)
        if not value or "/" in value or value in (".", ".."):
            problems.append(f"{key} is '{value}', which cannot name a folder")
    problems += _data_problems(config.data)
    if problems:
        raise SystemExit("config: " + "; ".join(problems))


def _launcher_problems(launcher: Launcher) -> list[str]:
    problems = []
    if launcher.kind is LauncherKind.single and (launcher.gpus or 1) > 1:
        problems.append(f"launcher.gpus is {launcher.gpus} with launcher=single; choose launcher=torchrun or deepspeed")
    if launcher.kind is not LauncherKind.deepspeed:
        for key, value, plain in (("offload", launcher.offload, Offload.none), ("hostfile", launcher.hostfile, None)):
            if value is not plain:
                problems.append(
                    f"launcher.{key} is given with launcher={launcher.kind.value}; choose launcher=deepspeed"
                )
    if launcher.zero not in (0, 1, 2, 3):
        problems.append(f"launcher.zero is {launcher.zero}, but must be 0, 1, 2 or 3")
    return problems


def _train_problems(train: Train, every: int) -> list[str]:
    weights = vars(train.loss_weights).items()
    problems = [
        f"train.loss_weights.{key} is {weight}, but must be at least 0 and finite"
        for key, weight in weights
        if key != "answer" and not 0 <= weight < math.inf
    ]
    if not 0 < train.loss_weights.answer < math.inf:  # a model that never learns to answer does not end its turns
        problems.append(f"train.loss_weights.answer is {train.loss_weights.answer}, but must be above 0 and finite")
    if train.max_steps != -1 and train.max_steps < 1:
        problems.append(f"train.max_steps is {train.max_steps}, but must be at least 1, or -1 where epochs decide")
    if train.eval_dialogues is not None and train.eval_dialogues < 1:
        problems.append(f"train.eval_dialogues is {train.eval_dialogues}, but must be at least 1, or null for all")
    if not train.epochs > 0:
        problems.append(f"train.epochs is {train.epochs}, but must be above 0")
    if not 0 <= train.warmup_ratio < 1:
        problems.append(f"train.warmup_ratio is {train.warmup_ratio}, but must be at least 0 and below 1")
    if train.attention is Attention.flash and train.packing is Packing.tree:
        problems.append("train.attention is flash, which cannot share prefixes; give train.packing=flat as well")
    measure = train.best_by.partition("/")[0]
    if measure not in COMPUTED | GENERATED_MEASURES:
        choices = ", ".join(sorted(COMPUTED | GENERATED_MEASURES))
        problems.append(f"train.best_by is {train.best_by}; choose from {choices}, or one of a source as NAME/SOURCE")
    elif measure in GENERATED_MEASURES and every != 1:
        problems.append(f"train.best_by is {train.best_by}, which needs eval.every=1, but eval.every is {every}")
    return problems


def _serve_problems(serve: Serve) -> list[str]:
    problems = []
    if not 1 <= serve.port <= 65535:
        problems.append(f"serve.port is {serve.port}, but must be between 1 and 65535")
    if not 0 <= serve.temperature < math.inf:
        problems.append(f"serve.temperature is {serve.temperature}, but must be at least 0 and finite")
    if not 0 < serve.gpu_memory_utilization <= 1:
        problems.append(
            f"serve.gpu_memory_utilization is {serve.gpu_memory_utilization}, but must be above 0 and at most 1"
        )
    for key, kinds in OF_KINDS.items():
        if getattr(serve, key) and serve.kind not in kinds:
            own, *ways = (kind.value for kind in (serve.kind, *kinds))
            problems.append(f"serve.{key} is given, but says nothing to serve={own}; choose serve={' or '.join(ways)}")
    return problems


def _eval_problems(config: Config) -> list[str]:
    settings = config.eval
    problems = []
    known = [*OWN_MODELS, *settings.endpoints]
    if unknown := sorted(set(settings.models) - set(known)):
        problems.append(f"eval.models holds {unknown}; choose from {', '.join(known)}")
    if not settings.models:
        problems.append("eval.models is empty; give eval.models=[base,tuned]")
    for name, endpoint in settings.endpoints.items():
        if name in (*OWN_MODELS, ENDPOINT) or "/" in name or name.startswith("."):
            problems.append(f"eval.endpoints.{name}: its name cannot name another model")
        given = [key for key in ("url", "folder", "adapter") if getattr(endpoint, key)]
        if len(given) != 1:
            problems.append(
                f"eval.endpoints.{name} gives {' and '.join(given) or 'no place'}; give one of url, folder, adapter"
            )
    if settings.suite is Suite.bfcl and not settings.categories and not settings.file:
        problems.append("eval.categories is empty; name some of BFCL's categories, or leave it to eval=bfcl")
    for key in ("retries", "every"):
        if getattr(settings, key) < 0:
            problems.append(f"eval.{key} is {getattr(settings, key)}, but must be at least 0")
    if not 0 < settings.timeout < math.inf:
        problems.append(f"eval.timeout is {settings.timeout}, but must be above 0 seconds")
    if settings.dialogues is not None and settings.dialogues < 1:
        problems.append(f"eval.dialogues is {settings.dialogues}, but must be at least 1, or null for all")
    if config.compare and len(config.compare) != 2:
        problems.append(f"compare holds {len(config.compare)} runs; give two, as compare=[demo/main,demo/rank-8]")
    return problems


def _data_problems(data: Data) -> list[str]:
    problems = []
    for key, weight in vars(data.shapes).items():
        if not 0 <= weight < math.inf:
            problems.append(f"data.shapes.{key} is {weight}, but must be at least 0 and finite")
    if not data.shapes.chat + data.shapes.raw > 0:
        problems.append("data.shapes gives every shape the weight 0")
    if not 0 <= data.other_break <= 1:
        problems.append(f"data.other_break is {data.other_break}, but must be between 0 and 1")
    if not 0 <= data.test_ratio < 1:
        problems.append(f"data.test_ratio is {data.test_ratio}, but must be at least 0 and below 1")
    if data.general_test < 0:
        problems.append(f"data.general_test is {data.general_test}, but must be at least 0")
    if data.heldout_max is not None and data.heldout_max < 0:
        problems.append(f"data.heldout_max is {data.heldout_max}, but must be at least 0")
    if data.long is not Long.keep and not data.count_tokens:
        problems.append(f"data.long is {data.long.value}, which needs data.count_tokens=true")
    if data.long is not Long.keep and data.format in FOR_OTHER_TRAINERS:
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
    if entry.ratio is not None and not 0 <= entry.ratio < math.inf:
        problems.append(f".ratio is {entry.ratio}, but must be at least 0 and finite")
    if entry.count is not None and entry.ratio is not None:
        problems.append(" gives count and ratio; give one of them")
    if entry.ratio is not None and entry.is_tested:
        problems.append(".ratio is of the rows of the sources that are tested on, and this is one; give count instead")
    if entry.plain and entry.is_tested:
        problems.append(".plain is true, but plain chat is not tested on; give role=train as well")
    if entry.is_general and entry.role is Role.train_and_test:
        problems.append(f".role is train_and_test, but {entry.source.value} is general chat, which is never tested on")
    return problems
