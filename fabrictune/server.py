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
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from fabrictune import processes
from fabrictune.log import Clock, logger

START_DEADLINE = 600.0  # seconds until /health must answer
REPORT_EVERY = 4.0

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
    """How a model is served. `max_length` None is the model's own; `memory_gib` is the key-value cache on a CPU."""

    max_length: int | None
    temperature: float
    max_new_tokens: int
    memory_gib: int


def command(model: Path, name: str, host: str, port: int, settings: Settings) -> list[str]:
    """The command line that serves the model's folder under the name.

    The server's own defaults bound a reply, because AgentFabric's client sends neither a temperature nor a bound: a
    model that does not stop would write until its context is full. The module is run, not the `vllm` script, which
    does not start with the CPU build (its distribution is called vllm-cpu).
    """
    defaults = {"temperature": settings.temperature, "max_new_tokens": settings.max_new_tokens}
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model.resolve())]
    words += ["--served-model-name", name, "--host", host, "--port", str(port)]
    words += ["--override-generation-config", json.dumps(defaults)]
    if settings.max_length is not None:
        words += ["--max-model-len", str(settings.max_length)]
    if _on_cpu():
        # Compiling takes over a minute on 2 cores and gains nothing on so short a run. Shared prompts are cached in
        # whole blocks: of 594 tokens with 450 shared, blocks of 32 spared 66 %, the default 128 spared 56 %.
        words += ["--enforce-eager", "--block-size", "32"]
    return words


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

    What vLLM prints goes to the file `log`. Raises RuntimeError with its last lines if it does not come up or dies.
    """
    require_vllm()
    port = processes.free_port()
    words = command(model, name, "127.0.0.1", port, settings)
    with (
        log.open("w", encoding="utf-8") as output,
        processes.program(words, environment(settings), output) as process,
    ):
        try:
            _wait_until_healthy(process, port, name, log)
            yield f"http://127.0.0.1:{port}/v1"
        except ConnectionError as error:
            if process.poll() is None:
                raise
            raise RuntimeError(_death(process, log)) from error


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
