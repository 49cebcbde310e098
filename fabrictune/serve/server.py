"""vLLM's OpenAI-compatible server as a process: its command line, its environment, and its life."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from fabrictune import processes
from fabrictune.log import Clock, logger
from fabrictune.serve import servable

# A model's generation_config.json may penalise what the text has already (Qwen2.5's has 1.05 or 1.1 for repetitions),
# also at temperature 0, where what it says of sampling plays no part; under a penalty a model does not copy a URL.
NO_PENALTIES = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}

START_DEADLINE = 600.0  # seconds until /health must answer
REPORT_EVERY = 4.0

# Tries again of a request to a server of our own: an idle connection that is closed while a request sets out is worth
# one, a process that has died is not worth the minutes that a server elsewhere is given.
RETRIES = 2
DEATH_SECONDS = 5.0  # between the last connection that a dying vLLM cuts and its end

# vLLM keeps one core for its scheduler, which polls a worker process without a pause. Where cores are few that is too
# dear: with the worker inside the scheduler, and threads that sleep rather than spin while they wait, a request costs
# 0.76 s of processor time instead of 1.29 s, and another process on the machine no longer brings decoding to a halt
# (11 tokens a second instead of 80).
FEW_CORES = 4
FEW_CORES_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_WAIT_POLICY": "passive",
}


@dataclass(frozen=True)
class Tools:
    """How requests with `tools=` are answered.

    The chat template writes the tools into the prompt, the plugin has the parser of that name, which finds the calls
    in a reply. `strict` bounds a call to the tools on offer and to their schemas.
    """

    template: Path
    plugin: Path
    parser: str
    strict: bool = False


@dataclass(frozen=True)
class Settings:
    """How a model is served. `max_length` None is the model's own; `memory_gib` is the key-value cache on a CPU.

    `adapters` are the folders of LoRA adapters, as peft saves them, that are served under names of their own beside it.
    `middleware` are classes around the server's app, by their dotted names. `generation_config` is the folder with the
    generation_config.json whose ids end a reply, None for the model's own. `gpu_share`, of each GPU's memory, None for
    vLLM's own, and `gpus`, which share the model, say nothing to the CPU build.
    """

    max_length: int | None
    temperature: float
    max_new_tokens: int
    memory_gib: int
    adapters: Mapping[str, Path] = field(default_factory=dict)
    dtype: str = "auto"
    gpus: int = 1
    gpu_share: float | None = None
    trust_remote_code: bool = False
    tools: Tools | None = None
    middleware: Sequence[str] = ()
    generation_config: Path | None = None


def command(model: Path, name: str, host: str, port: int, settings: Settings) -> list[str]:
    """The command line that serves the model's folder under the name.

    The server's own defaults bound a reply, because AgentFabric's client sends neither a temperature nor a bound: a
    model that does not stop would write until its context is full. The module is run, not the `vllm` script, which
    does not start with the CPU build (its distribution is called vllm-cpu). Raises FileNotFoundError or ValueError for
    an adapter that vLLM could not serve on this model.
    """
    defaults = {"temperature": settings.temperature, "max_new_tokens": settings.max_new_tokens, **NO_PENALTIES}
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model.resolve())]
    words += ["--served-model-name", name, "--host", host, "--port", str(port)]
    # Weights in pickles can run code when they are read.
    words += ["--override-generation-config", json.dumps(defaults), "--load-format", "safetensors"]
    if settings.generation_config:
        words += ["--generation-config", str(settings.generation_config.resolve())]
    if settings.max_length is not None:
        words += ["--max-model-len", str(settings.max_length)]
    if settings.dtype != "auto":
        words += ["--dtype", settings.dtype]
    if settings.trust_remote_code:
        words += ["--trust-remote-code"]
    if settings.adapters:
        words += _adapter_words(settings.adapters, model)
    if settings.tools:
        words += _tool_words(settings.tools)
    for name in settings.middleware:
        words += ["--middleware", name]
    if on_cpu():
        # Compiling takes over a minute on 2 cores and gains nothing on so short a run. Shared prompts are cached in
        # whole blocks: of 594 tokens with 450 shared, blocks of 32 spared 66 %, the default 128 spared 56 %.
        return [*words, "--enforce-eager", "--block-size", "32"]
    if settings.gpu_share is not None:
        words += ["--gpu-memory-utilization", str(settings.gpu_share)]
    return [*words, "--tensor-parallel-size", str(settings.gpus)]


def _adapter_words(adapters: Mapping[str, Path], model: Path) -> list[str]:
    ranks = [servable.adapter_rank(name, folder, model) for name, folder in adapters.items()]
    allowed = min(rank for rank in servable.LORA_RANKS if rank >= max(ranks))
    modules = [json.dumps({"name": name, "path": str(folder.resolve())}) for name, folder in adapters.items()]
    # A place for each, and an empty one behind them: to requests without an adapter that share a batch with others, the
    # CPU build of vLLM 0.32 applies what lies in the last place.
    places = len(adapters) + on_cpu()
    return ["--enable-lora", "--max-lora-rank", str(allowed), "--max-loras", str(places), "--lora-modules", *modules]


def _tool_words(tools: Tools) -> list[str]:
    words = ["--chat-template", str(tools.template.resolve()), "--enable-auto-tool-choice"]
    words += ["--tool-parser-plugin", str(tools.plugin.resolve()), "--tool-call-parser", tools.parser]
    return [*words, "--tool-strict-level", "parameter"] if tools.strict else words


def environment(settings: Settings, known: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment to start it in; what the user has set stays.

    Our own modules can be imported there, for the plugin and the middleware.
    """
    wanted = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}  # the model is a folder
    if settings.tools or settings.middleware:
        ours = str(Path(__file__).resolve().parents[2])
        known = {**known, "PYTHONPATH": os.pathsep.join(filter(None, (known.get("PYTHONPATH"), ours)))}
    if on_cpu():
        wanted |= {"VLLM_CPU_KVCACHE_SPACE": str(settings.memory_gib)}
        cores = processes.cpus()
        if cores <= FEW_CORES:
            wanted |= FEW_CORES_ENVIRONMENT | {"OMP_NUM_THREADS": str(cores)}
    return wanted | dict(known)


def require_vllm() -> None:
    """Raises RuntimeError naming the way out if vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise RuntimeError("the package vllm is not installed, and serving needs it; install it with: make install")


@contextmanager
def running(model: Path, name: str, settings: Settings, log: Path) -> Iterator[str]:
    """The model served on a free loopback port while the block runs; yields the address that ends in /v1.

    What vLLM prints goes to the file `log`. It ends with the block, and on Linux also with us if we are killed. Raises
    RuntimeError with its last lines if it does not come up or dies.
    """
    require_vllm()
    port = processes.free_port()
    words = command(model, name, "127.0.0.1", port, settings)
    # A key that servers of the user's own ask for would be asked of us, too.
    known = {key: value for key, value in os.environ.items() if key != "VLLM_API_KEY"}
    with (
        log.open("w", encoding="utf-8") as output,
        processes.program(words, environment(settings, known), output, dies_with_us=True) as process,
    ):
        _wait_until_healthy(process, port, name, log)
        try:
            yield f"http://127.0.0.1:{port}/v1"
        except (ConnectionError, RuntimeError) as error:  # a dying server may still answer that its engine is dead
            with suppress(subprocess.TimeoutExpired):
                process.wait(DEATH_SECONDS)
                raise RuntimeError(_death(process, log)) from error
            raise


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int, name: str, log: Path) -> None:
    clock, reported = Clock(), 0.0
    while not _is_healthy(port):
        if process.poll() is not None:
            raise RuntimeError(_death(process, log))
        if clock.seconds() > START_DEADLINE:
            raise RuntimeError(f"vLLM did not come up within {START_DEADLINE:.0f} seconds; {_last_lines(log)}")
        if clock.seconds() - reported >= REPORT_EVERY:
            reported = clock.seconds()
            logger.info("starting vLLM for %s: %.0f s", name, reported)
        time.sleep(0.2)
    logger.info("vLLM serves %s after %.0f s", name, clock.seconds())


def _is_healthy(port: int) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy must not answer for loopback
    try:
        with opener.open(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _death(process: subprocess.Popen[bytes], log: Path) -> str:
    return f"vLLM ended with exit code {process.returncode}; {_last_lines(log)}"


def _last_lines(log: Path, count: int = 12) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-count:]
    return "\n  ".join([f"the last lines of {log}:", *lines])


def on_cpu() -> bool:
    """Whether the vLLM installed is the CPU build."""
    try:
        metadata.version("vllm-cpu")
    except metadata.PackageNotFoundError:
        return False
    return True
