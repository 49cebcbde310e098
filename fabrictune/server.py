"""vLLM's OpenAI-compatible server as a process: its command line, its environment, and its life."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from fabrictune import processes
from fabrictune.log import Clock, logger

START_DEADLINE = 600.0  # seconds until /health must answer
REPORT_EVERY = 4.0

# Tries again of a request to a server of our own: an idle connection that is closed while a request sets out is worth
# one, a process that has died is not worth the minutes that a server elsewhere is given.
RETRIES = 2
DEATH_SECONDS = 5.0  # between the last connection that a dying vLLM cuts and its end

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM 0.32 can be started for (vllm.config.lora)
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
class Settings:
    """How a model is served. `max_length` None is the model's own; `memory_gib` is the key-value cache on a CPU.

    `adapters` are the folders of LoRA adapters, as peft saves them, that are served under names of their own beside it.
    """

    max_length: int | None
    temperature: float
    max_new_tokens: int
    memory_gib: int
    adapters: Mapping[str, Path] = field(default_factory=dict)


def command(model: Path, name: str, host: str, port: int, settings: Settings) -> list[str]:
    """The command line that serves the model's folder under the name.

    The server's own defaults bound a reply, because AgentFabric's client sends neither a temperature nor a bound: a
    model that does not stop would write until its context is full. The module is run, not the `vllm` script, which
    does not start with the CPU build (its distribution is called vllm-cpu). Raises FileNotFoundError or ValueError for
    an adapter that vLLM could not serve on this model.
    """
    defaults = {"temperature": settings.temperature, "max_new_tokens": settings.max_new_tokens}
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model.resolve())]
    words += ["--served-model-name", name, "--host", host, "--port", str(port)]
    words += ["--override-generation-config", json.dumps(defaults)]
    if settings.max_length is not None:
        words += ["--max-model-len", str(settings.max_length)]
    if settings.adapters:
        ranks = [adapter_rank(name, folder, model) for name, folder in settings.adapters.items()]
        allowed = min(rank for rank in LORA_RANKS if rank >= max(ranks))
        modules = [json.dumps({"name": n, "path": str(path.resolve())}) for n, path in settings.adapters.items()]
        words += ["--enable-lora", "--max-lora-rank", str(allowed), "--lora-modules", *modules]
    if _on_cpu():
        # Compiling takes over a minute on 2 cores and gains nothing on so short a run. Shared prompts are cached in
        # whole blocks: of 594 tokens with 450 shared, blocks of 32 spared 66 %, the default 128 spared 56 %.
        words += ["--enforce-eager", "--block-size", "32"]
    return words


def adapter_rank(name: str, folder: Path, model: Path) -> int:
    """The adapter's largest rank. Raises FileNotFoundError or ValueError if it cannot be served on the model."""
    path, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    for needed in (path, weights):
        if not needed.exists():
            raise FileNotFoundError(f"adapter '{name}': {folder} is no LoRA adapter ({needed.name} is missing)")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        ranks = [settings["r"], *(settings.get("rank_pattern") or {}).values()]
        rank = max(ranks)
        if not all(type(rank) is int and 0 < rank <= LORA_RANKS[-1] for rank in ranks):
            raise ValueError(f"ranks of {ranks}, but vLLM serves 1 to {LORA_RANKS[-1]}")
        _check_kind(settings)
        _check_fit(_shapes(weights), model)
    except (KeyError, TypeError, ValueError, AttributeError, SafetensorError) as error:
        words = f"{type(error).__name__} {error}" if isinstance(error, KeyError) else error
        raise ValueError(
            f"adapter '{name}': {folder} cannot be served on {model} ({words}); merge it and serve the merged model"
        ) from error
    return int(rank)


def _check_kind(settings: dict[str, Any]) -> None:
    """Raises ValueError naming what the adapter has that vLLM 0.32 does not serve."""
    if settings.get("peft_type", "LORA") != "LORA":
        raise ValueError(f"peft_type {settings['peft_type']}")
    plain = {"use_dora": False, "lora_bias": False, "bias": "none", "modules_to_save": None, "layer_replication": None}
    for key, value in plain.items():
        if (settings.get(key) or value) != value:
            raise ValueError(f"{key}={settings[key]}")


def _check_fit(adapter: dict[str, tuple[int, ...]], model: Path) -> None:
    """Raises ValueError naming a layer of the adapter that the model does not have, or has in another shape."""
    layers: dict[str, tuple[int, ...]] = {}
    for file in model.glob("*.safetensors"):
        layers |= _shapes(file)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    if not layers or "quantization_config" in config:
        return  # weights of another kind or shape, which vLLM may know how to read
    if config.get("tie_word_embeddings"):
        layers.setdefault("lm_head.weight", layers.get("model.embed_tokens.weight", ()))
    for key, shape in adapter.items():
        layer, _, side = key.removeprefix("base_model.model.").partition(".lora_")
        if side not in ("A.weight", "B.weight"):
            continue  # not of a linear layer
        known = layers.get(f"{layer}.weight")
        if not known:
            raise ValueError(f"the model has no {layer}.weight")
        if shape[1] != known[1] if side == "A.weight" else shape[0] != known[0]:
            raise ValueError(f"{key} is {shape}, the model's {layer}.weight {known}")


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor, of which the file's head tells."""
    with safe_open(str(file), framework="numpy") as tensors:
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118


def environment(settings: Settings, known: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment to start it in; what the user has set stays."""
    wanted = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}  # the model is a folder
    if _on_cpu():
        wanted |= {"VLLM_CPU_KVCACHE_SPACE": str(settings.memory_gib)}
        cores = processes.cpus()
        if cores <= FEW_CORES:
            wanted |= FEW_CORES_ENVIRONMENT | {"OMP_NUM_THREADS": str(cores)}
    return wanted | dict(known)


def require_vllm() -> None:
    """Raises RuntimeError naming the way out if vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise RuntimeError("the package vllm is not installed, and serving needs it; install it with: make install")


def check_port(host: str, port: int) -> None:
    """Raises OSError if nothing can listen there."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise OSError(f"cannot listen on {host}:{port} ({error.strerror}); choose another serve.port=") from error


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


def _on_cpu() -> bool:
    """Whether the vLLM installed is the CPU build."""
    try:
        metadata.version("vllm-cpu")
    except metadata.PackageNotFoundError:
        return False
    return True
