"""How each kind of command, setting and name of a text is checked; what is not, and why."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import json
import re
import shutil
import subprocess
import types
import typing
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from commands import Code, Command, commands
from endpoint import Endpoint, serving
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from fabrictune import config
from fabrictune.command_line import quoted

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ("convert.py", "train.py", "merge.py", "serve.py", "evaluate.py")
PYTHONS = ("python", "python3.11", ".venv/bin/python")

# What is not run, and why. A program that stands neither here nor in CHECKS fails the test.
OTHERS = {
    "apt": "changes the machine",
    "apt-get": "changes the machine",
    "cd": "the commands behind it are looked at from there",
    "git": "needs a network, or changes the repository",
    "issues": "the project's own list, not on every machine",
    "nohup": "only shows where a command goes",
    "pip": "needs a network; its files must be there, as all that are named",
    "pre-commit": "changes the repository's hooks",
    "scontrol": "SLURM's",
    "sed": "edits another project's file",
}
OTHER_SCRIPTS = {"convert_hf_to_gguf.py": "llama.cpp's"}
# Names of the other side, which look like settings of ours.
OTHER_SETTINGS = {
    "base_url": "of the openai SDK",
    "loss_scale": "ms-swift's",
    "nproc_per_node": "torchrun's",
    "slots": "of a hostfile",
    "stop_strings": "transformers'",
    "tools": "of the OpenAI interface",
    **dict.fromkeys(("alora_invocation_tokens", "bias", "init_lora_weights", "layer_replication"), "peft's"),
    **dict.fromkeys(("lora_bias", "modules_to_save", "use_bdlora", "use_dora", "use_qalora"), "peft's"),
}
# Variables that other programs read.
OTHER_VARIABLES = {"UV_DEFAULT_INDEX": "uv's index", "HF_ENDPOINT": "huggingface_hub's server"}
OTHER_FILES = {"app.py": "AgentFabric's", "chat_template.jinja": "a model's"}
# What a name in capital letters stands for where any word will not do.
EXAMPLES = {"+experiment=NAME": "+experiment=demo"}
# Of a server of ours, on the loopback address.
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/tokenize")


@cache
def composed(overrides: tuple[str, ...]) -> DictConfig:
    """The config of these overrides, Hydra's own part too. Raises HydraException, or SystemExit if it does not fit."""
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        whole = compose("config", list(overrides), return_hydra_config=True)
    own = OmegaConf.masked_copy(whole, [str(key) for key in whole if key != "hydra"])
    config.typed(own)
    return whole


def check_script(words: tuple[str, ...]) -> None:
    """Composes every run that a script makes of its words: one, or each point of what is swept."""
    options = get_args_parser().parse_args(quoted(words))
    parser = OverridesParser.create()
    given = [EXAMPLES.get(word, word) for word in options.overrides]
    parsed = parser.parse_overrides(given)
    plain = tuple(one.input_line for one in parsed if not one.is_sweep_override())
    swept = [one for one in parsed if one.is_sweep_override()]
    whole = composed(plain)
    if not options.multirun and whole.hydra.mode is not RunMode.MULTIRUN:
        composed(tuple(given))  # Hydra refuses what is swept without -m
        return
    overlay = whole.hydra.sweeper.get("params") or {}
    typed = {one.get_key_element() for one in parsed}
    swept += parser.parse_overrides([f"{key}={values}" for key, values in overlay.items() if key not in typed])
    for point in BasicSweeper.split_arguments([_choices(one, parser) for one in swept], None)[0]:
        composed((*plain, *point))


def _choices(swept: Override, parser: OverridesParser) -> Override:
    """What is swept, an interval by its ends."""
    value = swept.value()
    if not isinstance(value, IntervalSweep):
        return swept
    return parser.parse_override(f"{swept.get_key_element()}={value.start},{value.end}")


def check_python(command: Command) -> None:
    match command.words[1:]:
        case (script, *words) if script in SCRIPTS:
            check_script(tuple(words))
        case (script, *words) if script.startswith("benchmarks/"):
            importlib.import_module(f"benchmarks.{Path(script).stem}")._options(words)
        case ("-m", "pytest", *words):
            check_pytest(words)
        case ("-m", module, *_):
            assert importlib.util.find_spec(module), f"{command.place}: no module {module}"
        case ("-c", code, *_):
            ast.parse(code)
        case ("-", *_) | ():
            assert command.stdin, f"{command.place}: python without a program"
            ast.parse(command.stdin)
        case (script, *_):
            assert script in OTHER_SCRIPTS or (ROOT / script).is_file(), f"{command.place}: no script {script}"


def check_pytest(words: list[str]) -> None:
    for word in words:
        path = word.partition("::")[0]
        assert not re.search(r"/|\.py$", path) or (ROOT / path).exists(), f"no tests {path}"


@cache
def dry_make(words: tuple[str, ...]) -> str:
    """What `make -n` would run. Raises AssertionError with make's own words if it would not."""
    told = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr + told.stdout
    return told.stdout


def check_make(command: Command) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in command.words[1:]:
        name, is_given, _ = word.partition("=")
        # A folder's name needs no rule: make finds nothing to be done for it.
        rule = rf"^[\w -]*(?<![\w-]){re.escape(word)}(?![\w-])[\w -]*:"
        known = (
            f"$({name})" in makefile if is_given else word.startswith("-") or re.search(rule, makefile, re.MULTILINE)
        )
        assert known, f"{command.place}: the Makefile has no {name}"
    for inner in commands(Code(f"{command.place}, by make", 1, dry_make(command.words[1:]), "sh"), frozenset()):
        if inner.program == PYTHONS[-1] and inner.words[1:2] and inner.words[1] in SCRIPTS:
            check_script(inner.words[2:])


def check_curl(command: Command) -> None:
    """Asks a scripted endpoint in the server's place; a body must come there as the JSON that is shown."""
    address = next(word for word in command.words if re.match(r"https?://", word))
    assert urlsplit(address).path in PATHS, f"{command.place}: no server of ours answers {urlsplit(address).path}"
    if not shutil.which("curl"):
        pytest.skip("NO CURL: no command with it was run")
    with serving(lambda body: "Hello!") as server:
        asked = tuple(_redirected(word, address, server) for word in command.words)
        told = subprocess.run([*asked, "-sS", "-m", "10"], capture_output=True, text=True, check=True)
    json.loads(told.stdout)
    bodies = [json.loads(body) for flag, body in zip(asked, asked[1:], strict=False) if flag in ("-d", "--data")]
    assert server.bodies == bodies, f"{command.place}: another body came to the server"
    if address.endswith("/chat/completions"):
        has_all = bool(bodies) and all({"model", "messages"} <= body.keys() for body in bodies)
        assert has_all, f"{command.place}: the body lacks model or messages"


def _redirected(word: str, address: str, server: Endpoint) -> str:
    return f"http://127.0.0.1:{server.server_port}{urlsplit(address).path}" if word == address else word


def check_export(command: Command) -> None:
    """A variable is one that is read by the code, a config, the Makefile or a program of others, or handed on below."""
    name = command.words[1].partition("=")[0]  # the words behind it are the value's: $(openssl rand -hex 16)
    text = (ROOT / command.place.partition(":")[0]).read_text(encoding="utf-8")
    make = f"$(filter yes no,$({name}))" in (ROOT / "Makefile").read_text(encoding="utf-8")
    known = is_read(name) or make or name in OTHER_VARIABLES or f"_env={name}" in text
    assert known, f"{command.place}: nothing reads {name}"


def is_read(variable: str) -> bool:
    """Whether the code or a config names this variable of the environment."""
    files = [path for path in ours(".py") if path.is_relative_to(ROOT / "fabrictune")]
    name = re.compile(rf"\b{variable}\b")
    return any(name.search(path.read_text(encoding="utf-8")) for path in [*files, *ours(".yaml")])


def check_activation(command: Command) -> None:
    assert command.words[1:] == (".venv/bin/activate",), f"{command.place}: make install makes .venv"


CHECKS: dict[str, Callable[[Command], None]] = {
    **dict.fromkeys(PYTHONS, check_python),
    **dict.fromkeys(SCRIPTS, lambda command: check_script(command.words[1:])),
    "make": check_make,
    "curl": check_curl,
    "export": check_export,
    ".": check_activation,
    "source": check_activation,
    "pytest": lambda command: check_pytest(list(command.words[1:])),
}
PROGRAMS = frozenset(CHECKS) | frozenset(OTHERS)


def check(command: Command) -> None:
    """Raises what is wrong with a command: AssertionError, SystemExit, HydraException, JSONDecodeError."""
    told = subprocess.run(["bash", "-n", "-c", command.line], capture_output=True, text=True, check=False)
    assert told.returncode == 0 and not told.stderr, f"{command.place}: bash cannot read it: {told.stderr}"
    if _is_elsewhere(command.folder):
        return
    known = command.program in PROGRAMS
    assert known, f"{command.place}: {command.program} is checked by nothing here; say in checks.py how, or why not"
    if command.program in CHECKS:
        CHECKS[command.program](command)


def _is_elsewhere(folder: str) -> bool:
    """Whether a `cd` led into another project; `cd fabrictune` follows `git clone`."""
    return bool(folder) and Path(folder).name != "fabrictune" and not (ROOT / folder).is_dir()


def check_setting(key: str, value: str) -> None:
    """Raises if the config has no such key, or refuses the value; one that only stands for a value is not looked at."""
    is_example = not value or bool(re.fullmatch(r"\.\.\.|…|[A-Z][A-Z_]*", value))
    if key.isupper():
        known = is_read(key) or f"$({key})" in (ROOT / "Makefile").read_text(encoding="utf-8")
        assert known, f"neither the Makefile nor the code has {key}"
    elif (ROOT / "conf" / key).is_dir():
        names = [] if is_example else value.split(",")
        assert all((ROOT / "conf" / key / f"{name}.yaml").is_file() for name in names), f"no {key}={value}"
    elif key.startswith("hydra."):
        place, _, last = key.rpartition(".")
        assert last in OmegaConf.select(composed(("+sweep=lr_search", "+cluster=slurm")), place), f"no {key}"
    else:
        # Of a mix's entry a key may be named alone, as messages do: source=openai.
        is_of_entry = key in typing.get_type_hints(config.MixEntry)
        owner, name = (config.MixEntry, key) if is_of_entry else field_of(key)
        if not is_example:
            _assign(owner, name, value)


def _assign(owner: type, name: str, value: str) -> None:
    override = OverridesParser.create().parse_override(quoted([f"{name or 'entry'}={value}"])[0])
    swept = override.value()
    ends = [swept.start, swept.end] if isinstance(swept, IntervalSweep) else [swept]
    for one in override.sweep_iterator() if override.is_choice_sweep() else ends:
        if name:
            OmegaConf.update(OmegaConf.structured(owner), name, one)
        elif dataclasses.is_dataclass(owner):
            OmegaConf.merge(OmegaConf.structured(owner), one)


def field_of(key: str) -> tuple[type, str]:
    """The dataclass of config.py and its field that a key names; of a dict's entry its type, and "".

    Raises KeyError with the choices.
    """
    owner: Any = config.Config
    kind, name = owner, ""
    for part in key.split("."):
        if typing.get_origin(kind) is dict:
            owner = kind = typing.get_args(kind)[1]
            name = ""
            continue
        hints = typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
        if part not in hints:
            choices = ", ".join(hints)
            raise KeyError(f"{key}: no {part} among {choices}; of another program? Then into OTHER_SETTINGS with it")
        owner, kind, name = kind, hints[part], part
        if typing.get_origin(kind) is types.UnionType and type(None) in typing.get_args(kind):
            kind = typing.get_args(kind)[0]
    return owner, name


def check_yaml(text: str) -> None:
    """An example in YAML is a config's: of the whole, or of one section, or entries of a mix."""
    body = yaml.safe_load(text)
    body = {key: value for key, value in body.items() if key not in ("defaults", "hydra")}
    kinds = [kind for kind in vars(config).values() if isinstance(kind, type) and dataclasses.is_dataclass(kind)]
    kind = next((kind for kind in kinds if body.keys() <= typing.get_type_hints(kind).keys()), None)
    entries = [body] if kind else [one for one in body.values() if isinstance(one, dict)]
    assert len(entries) == (1 if kind else len(body)), f"no section of the config has {sorted(body)}; is it ```text?"
    for entry in entries:
        OmegaConf.merge(OmegaConf.structured(kind or config.MixEntry), entry)


@cache
def ours(suffix: str) -> list[Path]:
    """Our files with this suffix, those of this folder left out: what they say is no proof of anything."""
    folders = ("conf", "fabrictune", "tests", "benchmarks", "requirements", "docs")
    found = [*ROOT.glob(f"*{suffix}"), *(path for folder in folders for path in (ROOT / folder).rglob(f"*{suffix}"))]
    return [path for path in found if path.parent != Path(__file__).parent]


FOLDERS = r"(?:conf|fabrictune|tests|docs|benchmarks|requirements|\.github)"
NAMED = re.compile(rf"(?<![\w./~<>-]){FOLDERS}/[\w./*<>-]*", re.ASCII)  # Chinese may stand right beside a path


def missing(text: str) -> list[str]:
    """The files and folders of ours that a text names and that are not there, as file or as pattern."""
    named = {re.sub(r"<[\w-]+>|\b[A-Z]{2,}\b", "*", path.rstrip(".-<>")) for path in NAMED.findall(text)}
    own = re.compile(r"(mine|my\w*)\.\w+$")  # what the reader will write: its folder must be there
    return sorted(path for path in named if not any(ROOT.glob(own.sub("", path).rstrip("/"))))


def check_module(dotted: str) -> None:
    """The module of `fabrictune.room.module`, the same with a `.name`, or `module.name`, is there and has the name."""
    parts = dotted.split(".")
    if parts[0] != "fabrictune":
        files = [path for path in ours(".py") if path.stem == parts[0] and ROOT / "fabrictune" in path.parents]
        assert any(re.search(rf"\b{parts[1]}\b", path.read_text(encoding="utf-8")) for path in files), dotted
        return
    while parts and not (ROOT.joinpath(*parts).is_dir() or ROOT.joinpath(*parts).with_suffix(".py").is_file()):
        parts.pop()
    rest = dotted.split(".")[len(parts) :]
    file = ROOT.joinpath(*parts).with_suffix(".py")
    assert not rest or (file.is_file() and re.search(rf"\b{rest[0]}\b", file.read_text(encoding="utf-8"))), dotted


def check_name(text: str) -> None:
    """Inline code that is a key, a file or a module's name of ours, and nothing else, names one that is there."""
    sections = "|".join(field.name for field in dataclasses.fields(config.Config) if "." not in field.name)
    if re.fullmatch(r"[\w-]+\.(py|yaml|jinja|in)", text):
        assert text in OTHER_FILES or any(path.name == text for path in ours(Path(text).suffix)), f"no file {text}"
    elif re.fullmatch(rf"({sections})(\.[\w*]+)+", text) and not re.search(r"\.(jsonl?|md|html|txt|log)$", text):
        field_of(text)
    elif re.fullmatch(r"fabrictune(\.\w+)+|[a-z_]+\.\w+", text) and text.partition(".")[0] in {"fabrictune", *MODULES}:
        check_module(text)


MODULES = frozenset(path.stem for path in ours(".py") if ROOT / "fabrictune" in path.parents)
