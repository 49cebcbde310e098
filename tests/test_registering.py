"""make agentfabric DIR=...: the entry is put in once, what was there before lies beside it."""

from __future__ import annotations

import json
import logging
import stat
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from fabrictune.config import Config, typed
from fabrictune.serve.registering import register

ROOT = Path(__file__).resolve().parent.parent
FILE = '{\r\n  "qwen-max": {\r\n    "type": "dashscope"\r\n  }\r\n}'


def composed(*overrides: str) -> Config:
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        return typed(compose("config", ["serve=register", *overrides]))


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """AgentFabric's own folder within its repository, as far as it matters here."""
    folder = tmp_path / "modelscope-agent" / "apps" / "agentfabric"
    (folder / "config").mkdir(parents=True)
    (folder / "config" / "model_config.json").write_bytes(FILE.encode())
    return folder


@pytest.mark.parametrize("place", [".", "../..", "config", "config/model_config.json"])
def test_the_served_name_and_address_are_registered_wherever_one_points(app: Path, place: str) -> None:
    file = app / "config" / "model_config.json"
    register(composed(f"serve.agentfabric={app / place}", "name=demo", "serve.port=8123"))
    models = json.loads(file.read_text())
    assert models["qwen-max"] == {"type": "dashscope"}
    assert models["demo"]["model"] == "demo" and models["demo"]["api_base"] == "http://127.0.0.1:8123/v1"
    assert models["demo"]["is_chat"] is True and models["demo"]["is_function_call"] is False
    (kept,) = file.parent.glob("model_config.json.*.bak")
    assert kept.read_bytes() == FILE.encode()
    assert file.read_bytes().startswith(FILE.encode()[:-3] + b",") and b"\r\n    " in file.read_bytes()


def test_registering_again_changes_nothing(
    app: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = app / "config" / "model_config.json"
    register(composed(f"serve.agentfabric={app}"))
    before, written = file.read_bytes(), file.stat().st_mtime_ns
    with caplog.at_level(logging.INFO, "fabrictune"):
        monkeypatch.setattr(logging.getLogger("fabrictune"), "propagate", True)
        register(composed(f"serve.agentfabric={app}"))
    assert file.read_bytes() == before and file.stat().st_mtime_ns == written
    assert len(list(file.parent.iterdir())) == 2, "the file and one copy"
    assert "already" in caplog.text


def test_another_entry_of_the_name_is_replaced_only_with_overwrite(app: Path) -> None:
    file = app / "config" / "model_config.json"
    register(composed(f"serve.agentfabric={app}"))
    moved = (f"serve.agentfabric={app}", "serve.upstream=http://gpu-box:8010/v1")
    with pytest.raises(ValueError, match="model_config.json: .*overwrite=true"):
        register(composed(*moved))
    register(composed(*moved, "overwrite=true"))
    assert json.loads(file.read_text())[composed().name]["api_base"] == "http://gpu-box:8010/v1"
    assert len(list(file.parent.glob("*.bak"))) == 2, "each change keeps what was before"


@pytest.mark.parametrize("upstream", ["gpu-box:8000/v1", "ftp://gpu-box/v1", "http:///v1", "http://gpu-box:99999/v1"])
def test_what_no_client_can_reach_is_not_registered(app: Path, upstream: str) -> None:
    with pytest.raises(ValueError, match=f"serve.upstream={upstream} is no address"):
        register(composed(f"serve.agentfabric={app}", f"serve.upstream={upstream}"))
    assert (app / "config" / "model_config.json").read_bytes() == FILE.encode()


@pytest.mark.parametrize(
    ("path", "warned"), [("", True), ("/v1/chat/completions", True), ("/v1", False), ("/v1/", False)]
)
def test_an_address_with_an_unusual_path_is_warned_of(
    app: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, path: str, warned: bool
) -> None:
    monkeypatch.setattr(logging.getLogger("fabrictune"), "propagate", True)
    register(composed(f"serve.agentfabric={app}", f"serve.upstream=http://me:hush@gpu-box{path}"))
    assert ("does not end in /v1" in caplog.text) == warned
    assert "hush" not in caplog.text


def test_adapters_are_registered_beside_their_base(app: Path) -> None:
    register(composed(f"serve.agentfabric={app}", "+serve.adapters.tuned=outputs/demo/main/train/best"))
    models = json.loads((app / "config" / "model_config.json").read_text())
    assert list(models) == ["qwen-max", "base", "tuned"]


def test_a_link_and_a_files_rights_stay(app: Path, tmp_path: Path) -> None:
    file = app / "config" / "model_config.json"
    file.chmod(0o640)
    (tmp_path / "linked").mkdir()
    link = tmp_path / "linked" / "model_config.json"
    link.symlink_to(file)
    register(composed(f"serve.agentfabric={link.parent}"))
    assert link.is_symlink() and stat.S_IMODE(file.stat().st_mode) == 0o640
    assert len(json.loads(file.read_text())) == 2


def test_a_folder_without_agentfabric_is_refused_and_so_is_a_broken_file(app: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="serve.agentfabric is empty; give serve.agentfabric=FOLDER"):
        register(composed())
    with pytest.raises(FileNotFoundError, match=r"serve.agentfabric=.*apps/agentfabric/config/model_config.json"):
        register(composed(f"serve.agentfabric={tmp_path}"))
    file = app / "config" / "model_config.json"
    for broken in (b'{"a": 1,}', b"[]", b'{"a": "\xff"}'):
        file.write_bytes(broken)
        with pytest.raises(ValueError, match="model_config.json: "):
            register(composed(f"serve.agentfabric={app}"))
        assert file.read_bytes() == broken and not list(file.parent.glob("*.bak"))
