"""A run at Weights & Biases goes on offline where no server takes it, asks nothing, and is read back whole."""

import http.server
import logging
import socket
import threading
from contextlib import contextmanager

import pytest
import wandb_offline

from fabrictune.log import Clock
from fabrictune.train import launching, wandb_run

pytestmark = pytest.mark.usefixtures("no_wandb_key")


def test_wandbs_upload_at_the_end_leaves_time_for_the_checkpoint_of_a_run_that_is_stopped() -> None:
    assert wandb_run.UPLOAD_SECONDS < launching.GRACE / 2


def test_a_long_run_is_read_back_whole(tmp_path) -> None:
    """More than one block of the file, and records that lie across two."""
    held = wandb_offline.new_run(tmp_path)
    held.start()
    for step in range(400):
        held.log(step, {"loss": 1 / (step + 1), "a long name " + "x" * (step % 97): step})
    held.finish({})
    (run,) = wandb_offline.runs(tmp_path)
    (path,) = run.folder.glob("*.wandb")
    assert path.stat().st_size > 3 * wandb_offline.BLOCK
    assert run.curves()["train/loss"] == [(step, 1 / (step + 1)) for step in range(400)]


@contextmanager
def server(kind: str):
    """The port of a W&B server that is not there, says nothing, or refuses every key."""
    if kind == "refuses":

        class Refuse(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_error(401)

            def log_message(self, *_) -> None:
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as refusing:
            threading.Thread(target=refusing.serve_forever, daemon=True).start()
            yield refusing.server_port
            refusing.shutdown()
        return
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if kind == "silent":
            listening.listen()
        yield listening.getsockname()[1]


@pytest.mark.parametrize("kind", ["absent", "silent", "refuses"])
def test_where_wandb_cannot_be_reached_the_run_goes_on_offline_and_says_so(kind, tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(wandb_run.logger, "propagate", True)
    caplog.set_level(logging.INFO, "fabrictune")
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    with server(kind) as port:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        clock = Clock()
        held = wandb_offline.new_run(tmp_path, "online", connect_seconds=2)
        held.start()
        assert clock.seconds() < 60
        held.log(1, {"loss": 2.0})
        held.finish({})
    before, after = dict.fromkeys(message for message in caplog.messages if "W&B" in message)
    assert f"connecting to W&B at http://127.0.0.1:{port}" in before
    (run,) = wandb_offline.runs(tmp_path)
    assert "goes on with wandb.mode=offline" in after and f"wandb sync {tmp_path}/wandb/*run-*-{run.id}" in after
    assert run.curves() == {"train/loss": [(1, 2.0)]}


def test_without_a_key_wandb_stays_offline_and_asks_nothing() -> None:
    assert wandb_run.chosen_mode("auto") == "offline"


def test_with_a_key_wandb_is_online(monkeypatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert wandb_run.chosen_mode("auto") == "online"
    assert wandb_run.chosen_mode("disabled") == "disabled"


def test_a_key_from_wandb_login_counts_too_for_its_own_server_only(tmp_path, monkeypatch) -> None:
    (tmp_path / "home" / ".netrc").write_text("machine api.wandb.ai login user password " + "x" * 40)
    (tmp_path / "home" / ".netrc").chmod(0o600)
    assert wandb_run.chosen_mode("auto") == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.com")
    assert wandb_run.chosen_mode("auto") == "offline"


def test_auto_does_what_wandbs_own_variable_says(monkeypatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_run.chosen_mode("auto") == "disabled"
    monkeypatch.setenv("WANDB_MODE", "shared")
    with pytest.raises(ValueError, match="WANDB_MODE is shared; choose from online, offline, disabled"):
        wandb_run.chosen_mode("auto")


def test_online_without_a_key_is_refused_with_the_ways_out() -> None:
    with pytest.raises(ValueError, match="WANDB_API_KEY.*wandb.mode=offline"):
        wandb_run.chosen_mode("online")
