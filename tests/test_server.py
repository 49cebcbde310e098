import json
import socket
from pathlib import Path

import pytest

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
