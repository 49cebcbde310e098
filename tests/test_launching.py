"""Where ranks are started is checked before anything starts. tests/e2e/test_launchers.py has how their runs end."""

import os
import sys
from pathlib import Path

import pytest
import torch

from fabrictune import processes
from fabrictune.train import launching, nodes, ranks

WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")


def hostfile(folder: Path, text: str) -> Path:
    path = folder / "hosts"
    path.write_text(text, encoding="utf-8")
    return path


def test_ranks_are_placed_on_every_gpu_or_as_many_as_asked_for(tmp_path: Path) -> None:
    assert nodes.place(3) == {"localhost": 3}
    assert nodes.place(None) == {"localhost": torch.cuda.device_count() or 2}
    hosts = hostfile(tmp_path, "# two nodes\n\nalpha slots=8\n  beta   slots=4 # the old one\n")
    assert nodes.place(None, hosts) == {"alpha": 8, "beta": 4}
    assert nodes.place(4, hosts) == {"alpha": 4, "beta": 4}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("alpha slots=8\nbeta\n", "hosts:2: 'beta'"),
        ("alpha slots=0\n", "hosts:1: 'alpha slots=0'"),
        ("alpha slots=8\nalpha slots=8\n", "hosts:2: alpha is named twice"),
        ("alpha slots=8 gpus=2\n", "hosts:1"),
        ("# none\n", "names no host"),
    ],
)
def test_a_hostfile_that_deepspeed_would_misread_is_refused_with_the_line(
    tmp_path: Path, text: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        nodes.place(None, hostfile(tmp_path, text))


def test_a_hostfile_that_is_missing_or_too_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"launcher\.hostfile=.*nowhere.*No such file"):
        nodes.place(None, tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"beta has 4 slots, but launcher\.gpus is 8"):
        nodes.place(8, hostfile(tmp_path, "alpha slots=8\nbeta slots=4\n"))


def test_torchrun_with_a_hostfile_says_what_to_choose_instead(tmp_path: Path) -> None:
    hosts = hostfile(tmp_path, "alpha slots=8\n")
    with pytest.raises(ValueError, match=r"launcher=deepspeed.*launcher\.hostfile=null"):
        launching.launch("torchrun", None, Path("train.py"), [], tmp_path / "train", hosts)
    assert not (tmp_path / "train").exists()


def test_programs_that_reach_other_nodes_are_looked_for_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="pdsh and ssh: not installed"):
        launching.launch(
            "deepspeed", None, Path("train.py"), [], tmp_path / "train", hostfile(tmp_path, "alpha slots=8\n")
        )


def words(tmp_path: Path, kind: str, placed: dict[str, int], hosts: Path | None = None) -> str:
    return " ".join(nodes.launcher(kind, placed, 4711, hosts, tmp_path))


def test_every_launcher_is_this_environments_and_has_a_port_of_its_own(tmp_path: Path) -> None:
    for kind in ("torchrun", "deepspeed"):
        said = words(tmp_path, kind, {"localhost": 3})
        assert said.startswith(f"{sys.executable} -m ") and "4711" in said and "3" in said.split()


def test_a_launcher_that_starts_no_ranks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="launcher=single cannot start ranks; choose torchrun or deepspeed"):
        words(tmp_path, "single", {"localhost": 1})


def test_torchruns_files_lie_among_the_notes_and_not_below_tmp(tmp_path: Path) -> None:
    assert f"--log-dir {tmp_path}/" in words(tmp_path, "torchrun", {"localhost": 3})


def test_a_single_remote_host_is_not_taken_for_this_machine(tmp_path: Path) -> None:
    assert "--force_multi" in words(tmp_path, "deepspeed", {"alpha": 8}, hostfile(tmp_path, "alpha slots=8\n"))


def test_nodes_that_differ_keep_their_own_numbers(tmp_path: Path) -> None:
    hosts = hostfile(tmp_path, "alpha slots=8\nbeta slots=4\n")
    assert "--num_gpus" not in words(tmp_path, "deepspeed", nodes.place(None, hosts), hosts)
    assert "--num_gpus 4" in words(tmp_path, "deepspeed", nodes.place(4, hosts), hosts)


def test_threads_are_shared_out_unless_their_number_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert nodes.environment("torchrun", {"localhost": 1}, tmp_path, None)["OMP_NUM_THREADS"] == str(processes.cpus())
    assert nodes.environment("torchrun", {"localhost": 999}, tmp_path, None)["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert nodes.environment("torchrun", {"localhost": 2}, tmp_path, None)["OMP_NUM_THREADS"] == "5"


def test_other_nodes_are_told_the_settings_but_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".deepspeed_env").write_text("NCCL_SOCKET_IFNAME=eth7\n")
    monkeypatch.setenv("HF_HOME", "/big/disk")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("WANDB_API_KEY", "wandb_secret")
    hosts = hostfile(tmp_path, "alpha slots=8\n")
    settings = nodes.environment("deepspeed", {"alpha": 8}, tmp_path, hosts)
    assert "FABRICTUNE_STARTER" not in settings, "ranks started by ssh are not below us"
    told = Path(settings["DS_ENV_FILE"]).read_text()
    assert (
        "HF_HOME=/big/disk\n" in told and "NCCL_SOCKET_IFNAME=eth7\n" in told and f"FABRICTUNE_RANKS={tmp_path}" in told
    )
    assert "secret" not in told


@WITHOUT_GPU
def test_without_a_gpu_the_devices_named_in_the_environment_are_no_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert "--num_gpus 2" in words(tmp_path, "deepspeed", nodes.place(None))
    assert "CUDA_VISIBLE_DEVICES" not in nodes.environment("deepspeed", {"localhost": 2}, tmp_path, None)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"


def test_ranks_that_left_no_result_are_told_with_where_their_logs_lie(tmp_path: Path) -> None:
    ended = ranks.Note(0, "here", os.getpid(), 0.0, code=0)
    failed = launching._unclear("torchrun", 1, 3, [ended], tmp_path)
    assert str(failed).endswith(f"(exit code 3); what they said stands above and in {tmp_path}/rank-*.log")
