"""`serve.py`: hands the process over to vLLM's OpenAI server with the merged model."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import NoReturn

from fabrictune import record, server
from fabrictune.config import Config


def serve(config: Config) -> NoReturn:
    """Replaces this process with vLLM. Raises FileNotFoundError, OSError or RuntimeError if that cannot work."""
    server.require_vllm()
    model = _model_folder(config)
    host, port = config.serve.host, config.serve.port
    server.check_port(host, port)
    name = config.serve.model_name or config.name
    settings = server.Settings(
        config.serve.max_length, config.serve.temperature, config.serve.max_new_tokens, config.serve.cpu_memory_gib
    )
    print(f"vLLM serves {model} as '{name}'. When it is up, test it with:\n\n{curl(config)}\n", flush=True)
    words = server.command(model, name, host, port, settings)
    os.execve(words[0], words, server.environment(settings))


def curl(config: Config) -> str:
    """The command that tests the chat route."""
    host = "127.0.0.1" if config.serve.host in ("0.0.0.0", "::") else config.serve.host
    body = {
        "model": config.serve.model_name or config.name,
        "messages": [{"role": "user", "content": "Hello!"}],
        "max_tokens": 32,
    }
    address = f"http://{host}:{config.serve.port}/v1/chat/completions"
    return f"curl {address} -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}"


def _model_folder(config: Config) -> Path:
    if config.serve.model:
        folder = Path(config.serve.model).expanduser()
        if not (folder / "config.json").exists():
            raise FileNotFoundError(f"serve.model={config.serve.model}: no model folder (config.json is missing)")
        return folder
    folder = config.run_folder / "merge"
    record.require_finished(folder, f"python merge.py name={config.name} variant={config.variant}")
    return folder / "model"
