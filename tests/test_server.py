import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from fabrictune import server

SETTINGS = server.Settings(max_length=2048, temperature=0.0, max_new_tokens=64, memory_gib=1)


def test_the_command_runs_the_module_with_what_the_client_never_sends(tmp_path) -> None:
    words = server.command(tmp_path, "my-agent", "127.0.0.1", 8000, SETTINGS)
    assert words[1:3] == ["-m", "vllm.entrypoints.openai.api_server"]
    given = dict(zip(words[3::], words[4::], strict=False))
    assert given["--model"] == str(tmp_path) and given["--served-model-name"] == "my-agent"
    assert (given["--host"], given["--port"], given["--max-model-len"]) == ("127.0.0.1", "8000", "2048")
    assert json.loads(given["--override-generation-config"]) == {"temperature": 0.0, "max_new_tokens": 64}
    assert "--trust-remote-code" not in words


def test_what_the_user_has_set_in_the_environment_stays() -> None:
    found = server.environment(SETTINGS, {"OMP_NUM_THREADS": "7", "PATH": "/bin"})
    assert found["OMP_NUM_THREADS"] == "7" and found["PATH"] == "/bin" and found["HF_HUB_OFFLINE"] == "1"


def test_a_port_in_use_is_named_with_the_way_out() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"{port}.*serve.port="):
            server.check_port("127.0.0.1", port)
    server.check_port("127.0.0.1", port)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """As much of a model as an adapter is compared with."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    layer = np.zeros((128, 64), np.float32)
    save_file({"model.layers.0.self_attn.q_proj.weight": layer}, tmp_path / "base" / "model.safetensors")
    return tmp_path / "base"


def write_adapter(folder: Path, layer: str = "model.layers.0.self_attn.q_proj", size: int = 64, **more: Any) -> Path:
    """A LoRA adapter of rank 12 on one layer that takes so many numbers in and gives 128."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 12, "lora_alpha": 24, **more}))
    shapes = {
        f"base_model.model.{layer}.lora_A.weight": (12, size),
        f"base_model.model.{layer}.lora_B.weight": (128, 12),
    }
    save_file({key: np.zeros(shape, np.float32) for key, shape in shapes.items()}, folder / "adapter_model.safetensors")
    return folder


def test_adapters_are_served_under_their_own_names_at_a_rank_that_vllm_allows(tmp_path: Path, base: Path) -> None:
    adapters = {"one": write_adapter(tmp_path / "a=1,b"), "two": write_adapter(tmp_path / "b", rank_pattern={"q": 33})}
    words = server.command(base, "base", "127.0.0.1", 8000, replace(SETTINGS, adapters=adapters))
    assert words[words.index("--served-model-name") + 1] == "base"
    at = words.index("--enable-lora")
    assert words[at + 1 : at + 4] == ["--max-lora-rank", "64", "--lora-modules"]
    modules = [json.loads(word) for word in words[at + 4 : at + 6]]
    assert modules == [{"name": name, "path": str(folder)} for name, folder in adapters.items()]
    assert "--enable-lora" not in server.command(base, "base", "127.0.0.1", 8000, SETTINGS)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"layer": "model.layers.7.self_attn.q_proj"}, "the model has no model.layers.7.self_attn.q_proj.weight"),
        ({"size": 96}, r"lora_A.weight is \(12, 96\), the model's .*q_proj.weight \(128, 64\)"),
        ({"r": 1000}, r"ranks of \[1000\]"),
        ({"r": None}, r"ranks of \[None\]"),
        ({"use_dora": True}, "use_dora=True"),
        ({"bias": "all"}, "bias=all"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"peft_type": "IA3"}, "IA3"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, base: Path, more: dict[str, Any], words: str
) -> None:
    settings = replace(SETTINGS, adapters={"mine": write_adapter(tmp_path / "adapter", **more)})
    with pytest.raises(ValueError, match=f"adapter 'mine': .*adapter cannot be served on .*{words}"):
        server.command(base, "base", "127.0.0.1", 8000, settings)


def test_a_folder_without_an_adapter_is_refused_before_vllm_starts(tmp_path: Path, base: Path) -> None:
    settings = replace(SETTINGS, adapters={"mine": tmp_path})
    with (
        pytest.raises(FileNotFoundError, match="'mine': .*adapter_config.json is missing"),
        server.running(base, "base", settings, tmp_path / "vllm.log"),
    ):
        raise AssertionError("it came up")
    broken = write_adapter(tmp_path / "broken")
    (broken / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="'mine': .*broken cannot be served"):
        server.adapter_rank("mine", broken, base)


STAND_IN = """
import http.server, os, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

print("key:", os.environ.get("VLLM_API_KEY"), "other:", os.environ.get("VLLM_OTHER"), flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


def test_our_own_server_asks_for_no_key_that_servers_of_the_user_ask_for(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "packages" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    (package / "api_server.py").write_text(STAND_IN)
    (tmp_path / "packages" / "vllm" / "__init__.py").touch()
    for name, value in (("PYTHONPATH", str(tmp_path / "packages")), ("VLLM_API_KEY", "x"), ("VLLM_OTHER", "y")):
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    with server.running(base, "base", SETTINGS, tmp_path / "vllm.log"):
        assert "key: None other: y" in (tmp_path / "vllm.log").read_text()
    assert server.environment(SETTINGS)["VLLM_API_KEY"] == "x", "serve.py's server is the user's own"


@pytest.mark.e2e
def test_a_server_that_does_not_come_up_ends_with_its_last_words(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    with (
        pytest.raises(RuntimeError, match="vLLM ended with exit code 1.*the last lines of"),
        server.running(broken, "broken", SETTINGS, tmp_path / "vllm.log"),
    ):
        raise AssertionError("it came up")
