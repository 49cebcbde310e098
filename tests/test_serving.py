"""serve.py up to the moment when it becomes vLLM: what it refuses, what it says, and what vLLM is then told."""

from __future__ import annotations

import json
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import pytest
from conftest import write_tiny_model
from hydra import compose, initialize_config_dir

from fabrictune import processes
from fabrictune.config import Config, typed
from fabrictune.serve import serving

ROOT = Path(__file__).resolve().parent.parent
# Stands in for vLLM: says how it was started.
STAND_IN = "import json, os, sys\nprint(json.dumps([os.getpid(), sys.argv, dict(os.environ)]))\n"


def composed(*overrides: str) -> Config:
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        return typed(compose("config", list(overrides)))


@pytest.fixture
def own(tmp_path: Path) -> list[str]:
    return [f"outputs={tmp_path / 'outputs'}", f"serve.port={processes.free_port()}"]


class Became(Exception):
    """The process would be another one now: its command line, its environment, and what was printed before."""


@pytest.fixture
def started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[list[str], dict[str, str], str]]:
    """Calls serve() up to the moment when it becomes vLLM, with these overrides and environment variables."""

    def execve(program: str, words: list[str], environment: dict[str, str]) -> NoReturn:
        assert program == words[0] == sys.executable
        raise Became(words, environment)

    def start(*overrides: str, **more: str) -> tuple[list[str], dict[str, str], str]:
        for name, value in more.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(Became) as became:
            serving.serve(composed(*overrides))
        words, environment = became.value.args
        return words, environment, capsys.readouterr().out

    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    return start


def test_serve_py_is_replaced_by_vllm_so_that_signals_reach_it(
    tmp_path: Path, tiny_model: Path, own: list[str]
) -> None:
    folder = tmp_path / "packages" / "vllm" / "entrypoints" / "openai"
    folder.mkdir(parents=True)
    (folder / "api_server.py").write_text(STAND_IN)
    (folder.parent.parent / "__init__.py").touch()
    words = [sys.executable, str(ROOT / "serve.py"), *own, f"serve.model={tiny_model}", "serve.tools=false"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "packages"), "VLLM_API_KEY": "s3cret"}
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    *printed, last = output.splitlines()
    pid, arguments, known = json.loads(last)
    assert pid == process.pid and known["VLLM_API_KEY"] == "s3cret"
    assert arguments[arguments.index("--model") + 1] == str(tiny_model)
    assert any(line.startswith("curl ") for line in printed), "what was printed is not lost with the process"


def test_the_key_is_given_where_only_the_user_sees_it(started: Callable, tiny_model: Path, own: list[str]) -> None:
    settings = ("serve.host=0.0.0.0", "serve.api_key_env=MY_KEY", f"serve.model={tiny_model}", "serve.tools=false")
    words, environment, printed = started(*own, *settings, MY_KEY="s3cret", VLLM_API_KEY="other")
    assert environment["VLLM_API_KEY"] == "s3cret"
    assert "s3cret" not in " ".join(words) + printed
    assert middleware(words) == ["fabrictune.serve.guard.Guard"]
    (curl,) = [line for line in printed.splitlines() if line.startswith("curl ")]
    assert '-H "Authorization: Bearer $MY_KEY"' in curl and "http://127.0.0.1:" in curl


def test_without_a_key_nothing_asks_for_one(started: Callable, tiny_model: Path, own: list[str]) -> None:
    settings = (f"serve.model={tiny_model}", "serve.tools=false", "serve.api_key_env=MY_KEY")
    words, environment, printed = started(*own, *settings, VLLM_API_KEY="of another server")
    assert "VLLM_API_KEY" not in environment and middleware(words) == []
    assert "Authorization" not in printed


def test_tools_are_answered_in_the_format_of_the_data(started: Callable, tiny_model: Path, own: list[str]) -> None:
    settings = (f"serve.model={tiny_model}", "data.format=agentfabric_v072", "serve.strict=true", "name=mine")
    words, _, _ = started(*own, *settings)
    template = Path(words[words.index("--chat-template") + 1])
    assert template == Path(own[0].removeprefix("outputs=")) / "mine" / "main" / "serve" / "chat_template.jinja"
    assert "<|im_start|>" in template.read_text(), "the model's own template is in it"
    assert words[words.index("--tool-call-parser") + 1] == "agentfabric_v072"
    assert words[words.index("--tool-parser-plugin") + 1] == str(ROOT / "fabrictune" / "serve" / "plugin.py")
    assert words[words.index("--tool-strict-level") + 1] == "parameter"
    assert middleware(words) == ["fabrictune.serve.raw_requests.Bounded"], "requests without tools= are bounded, too"
    assert "--generation-config" not in words, "merge.py has written what ends a reply"


def test_a_request_shows_its_key_before_anything_reads_it(started: Callable, tiny_model: Path, own: list[str]) -> None:
    words, _, _ = started(*own, f"serve.model={tiny_model}", "serve.strict=true", VLLM_API_KEY="s3cret")
    # vLLM puts each one around those before it.
    assert middleware(words) == ["fabrictune.serve.raw_requests.Bounded", "fabrictune.serve.guard.Guard"]


def middleware(words: list[str]) -> list[str]:
    return [after for word, after in pairwise(words) if word == "--middleware"]


def test_the_format_is_the_one_that_the_runs_data_has(own: list[str], tmp_path: Path, tiny_model: Path) -> None:
    converted = tmp_path / "outputs" / "mine" / "main" / "convert"
    converted.mkdir(parents=True)
    (converted / "run.json").write_text(json.dumps({"finished": "today", "settings": {"format": "openai"}}))
    settings = (*own, "name=mine", "serve.strict=true", "model=folder", f"model.id={tiny_model}")
    assert "data.format=openai" in refusal(*settings, f"+serve.adapters.tuned={tmp_path}")
    assert "data.format=openai" in refusal(*settings, "serve.model=base")


def test_adapters_are_served_on_the_runs_base(started: Callable, tmp_path: Path, own: list[str]) -> None:
    base = write_tiny_model(tmp_path / "tiny")
    adapter = write_adapter(base, tmp_path / "adapter")
    settings = ("model=folder", f"model.id={base}", f"+serve.adapters.tuned={adapter}", "serve.tools=false")
    words, _, printed = started(*own, *settings, "name=mine")
    assert words[words.index("--model") + 1] == str(base)
    assert words[words.index("--served-model-name") + 1] == "base"
    assert json.loads(words[words.index("--lora-modules") + 1]) == {"name": "tuned", "path": str(adapter)}
    assert '"model": "tuned"' in printed and "'base', with the adapters 'tuned'" in printed

    ends = Path(words[words.index("--generation-config") + 1])
    assert ends == tmp_path / "outputs" / "mine" / "main" / "serve"
    ids = {token: id for id, token in enumerate(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])}
    assert json.loads((base / "generation_config.json").read_text())["eos_token_id"] == ids["<|endoftext|>"]
    found = json.loads((ends / "generation_config.json").read_text())["eos_token_id"]
    assert set(found) == {ids["<|im_end|>"], ids["<|endoftext|>"]}, "the template's, with which the adapter ends"


def test_the_runs_base_is_served_by_name(started: Callable, tiny_model: Path, own: list[str]) -> None:
    settings = ("model=folder", f"model.id={tiny_model}", "serve.model=base", "serve.tools=false", "name=mine")
    words, _, printed = started(*own, *settings)
    assert words[words.index("--model") + 1] == str(tiny_model)
    assert words[words.index("--served-model-name") + 1] == "base" and '"model": "base"' in printed
    assert "--enable-lora" not in words


def write_adapter(base: Path, folder: Path) -> Path:
    from fabrictune.model import models

    models.attach(models.load(base, "float32", "sdpa"), rank=4, alpha=8, dropout=0.0, seed=0).save_pretrained(folder)
    return folder


def refusal(*overrides: str) -> str:
    """What serve.py says instead of starting; a start of vLLM would end the tests."""
    with pytest.raises((ValueError, OSError, RuntimeError)) as raised:
        serving.serve(composed(*overrides))
    return str(raised.value)


def test_other_machines_are_let_in_only_with_a_key(own: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    said = refusal(*own, "serve.host=0.0.0.0")
    assert "serve.host=0.0.0.0" in said and "VLLM_API_KEY" in said and "serve.api_key_env" in said


def test_without_a_merged_model_both_ways_out_are_named(own: list[str], tmp_path: Path) -> None:
    said = refusal(*own, "name=mine")
    assert "python merge.py" in said and "name=mine" in said and "adapters" not in said and "no run" not in said
    other = tmp_path / "outputs" / "demo" / "main" / "convert"
    other.mkdir(parents=True)
    (other / "run.json").write_text("{}")
    assert "no merged model; there is no run 'mine', but demo; make it with: python merge.py" in refusal(
        *own, "name=mine"
    )
    best = tmp_path / "outputs" / "mine" / "main" / "train" / "best"
    best.mkdir(parents=True)
    (best / "adapter_config.json").write_text("{}")
    said = refusal(*own, "name=mine")
    assert "python merge.py" in said and f"+serve.adapters.tuned={best}" in said


def test_what_vllm_cannot_do_here_is_refused_before_it_starts(own: list[str], tiny_model: Path, tmp_path: Path) -> None:
    model = f"serve.model={tiny_model}"
    assert "config.json is missing" in refusal(*own, f"serve.model={tmp_path}")
    assert "serve.max_length=9000" in refusal(*own, model, "serve.max_length=9000")
    assert "serve.tensor_parallel_size=64" in refusal(*own, model, "serve.tensor_parallel_size=64")
    assert "serve.model_name=" in refusal(*own, model, "serve.model_name=a", f"+serve.adapters.a={tmp_path}")
    assert "adapter 'a'" in refusal(*own, model, f"+serve.adapters.a={tmp_path}")


@pytest.mark.parametrize("setting", ["serve.tools=false", "data.format=openai"])
def test_strict_calls_need_the_tools_interface(own: list[str], tiny_model: Path, setting: str) -> None:
    said = refusal(*own, f"serve.model={tiny_model}", "serve.strict=true", setting)
    assert "serve.strict=true" in said and setting in said


def test_a_name_that_agentfabric_fails_for_is_warned_of(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("fabrictune"), "propagate", True)
    assert serving.served_names(composed("serve.model_name=llama3-8b")) == ["llama3-8b"]
    assert "llama3-8b" in caplog.text and "serve.model_name=" in caplog.text
    caplog.clear()
    assert serving.served_names(composed("serve.model_name=qwen-7b-chat")) == ["qwen-7b-chat"]
    assert not caplog.text


def test_a_model_is_called_as_its_run_and_a_base_beside_adapters_is_not() -> None:
    assert serving.served_names(composed("name=mine")) == ["mine"]
    assert serving.served_names(composed("name=mine", "+serve.adapters.tuned=x")) == ["base", "tuned"]
    assert serving.served_names(composed("name=mine", "serve.model=base")) == ["base"]
    assert serving.served_names(composed("name=mine", "serve.model=y", "+serve.adapters.tuned=x")) == ["mine", "tuned"]


def test_the_page_s_command_reaches_the_server_that_is_started_here() -> None:
    words = ["serve.host=0.0.0.0", "serve.port=8123", "name=mine"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        served = typed(compose("config", words))
        page = shlex.split(serving.page_command(served, with_key=True))
        assert page[:2] == ["python", "serve.py"]
        shown = typed(compose("config", page[2:]))
    assert (shown.name, shown.serve.kind.value, shown.serve.host) == ("mine", "chat", "127.0.0.1")
    assert shown.serve.upstream == "http://127.0.0.1:8123/v1" and shown.serve.port != 8123
    assert shown.serve.upstream_key_env == served.serve.api_key_env
