import os

import pytest

from fabrictune import tracking


@pytest.fixture(autouse=True)
def no_key(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # no ~/.netrc
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "WANDB_PROJECT", "WANDB_SILENT"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "")
    monkeypatch.delenv("WANDB_API_KEY")


def test_without_a_key_wandb_stays_offline_and_asks_nothing(tmp_path) -> None:
    assert tracking.set_up("auto", "p", tmp_path) == "offline" == os.environ["WANDB_MODE"]


def test_with_a_key_wandb_is_online(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert tracking.set_up("auto", "p", tmp_path) == "online"


def test_a_key_from_wandb_login_counts_too(tmp_path) -> None:
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password " + "x" * 40)
    (tmp_path / ".netrc").chmod(0o600)
    assert tracking.set_up("auto", "p", tmp_path) == "online"


def test_online_without_a_key_is_refused_with_the_ways_out(tmp_path) -> None:
    with pytest.raises(ValueError, match="WANDB_API_KEY.*wandb.mode=offline"):
        tracking.set_up("online", "p", tmp_path)
