"""Where the ranks of a training run are started: on this machine's GPUs, or on the nodes of a hostfile."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from fabrictune import processes
from fabrictune.train import ranks

SLOTS = re.compile(r"(\S+)\s+slots=(\d+)\s*(#.*)?")  # a line of DeepSpeed's hostfile

# What ranks on other nodes are told of the environment, besides what DeepSpeed hands on itself; never a secret.
HANDED_ON = ("FABRICTUNE_", "OMP_", "HF_", "TRANSFORMERS_", "TOKENIZERS_", "MODELSCOPE_", "WANDB_")
SECRET = ("_KEY", "_TOKEN", "_SECRET", "_PASSWORD")


def place(gpus: int | None, hostfile: Path | None = None) -> dict[str, int]:
    """How many ranks run on each node. Without `gpus` one on every GPU, and 2 on a machine that has none.

    Raises ValueError if the hostfile cannot be read, or a node has fewer slots.
    """
    if hostfile is None:
        return {"localhost": gpus or visible_gpus() or 2}
    slots = _read_hostfile(hostfile)
    for host, count in slots.items():
        if gpus and gpus > count:
            raise ValueError(f"{hostfile}: {host} has {count} slots, but launcher.gpus is {gpus}")
    return {host: gpus or count for host, count in slots.items()}


def visible_gpus() -> int:
    """How many GPUs of this machine CUDA_VISIBLE_DEVICES leaves; asked without starting CUDA."""
    import torch

    return torch.cuda.device_count()


def _read_hostfile(path: Path) -> dict[str, int]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"launcher.hostfile={path} cannot be read: {error.strerror}") from None
    slots: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = SLOTS.fullmatch(line.strip())
        if match is None or int(match[2]) == 0:
            raise ValueError(f"{path}:{number}: '{line.strip()}' is not of the form `host slots=8`")
        if match[1] in slots:
            raise ValueError(f"{path}:{number}: {match[1]} is named twice; give it one line with all its slots")
        slots[match[1]] = int(match[2])
    if not slots:
        raise ValueError(f"{path} names no host; give one line for each, as `host slots=8`")
    return slots


def problems(kind: str, placed: Mapping[str, int], hostfile: Path | None) -> list[str]:
    """Why these ranks cannot be started here."""
    found = []
    if hostfile is None:
        here, there = placed["localhost"], visible_gpus()
        if 0 < there < here:
            found.append(f"launcher.gpus is {here}, but torch sees {there} on this machine")
        devices = _visible_devices()
        if there and kind == "deepspeed" and not all(device.isdigit() for device in devices):
            found.append(
                f"DeepSpeed's launcher reads numbers only in CUDA_VISIBLE_DEVICES={','.join(devices)}; "
                "give it numbers, or choose launcher=torchrun"
            )
        return found
    if kind != "deepspeed":
        found.append(
            f"launcher.hostfile is for launcher=deepspeed, but this is {kind}, which starts the ranks of one machine; "
            "choose launcher=deepspeed, or launcher.hostfile=null"
        )
    missing = [name for name in ("pdsh", "ssh") if shutil.which(name) is None]
    if missing:
        found.append(f"several nodes are reached through {' and '.join(missing)}: not installed on this machine")
    return found


def _visible_devices() -> list[str]:
    return [device.strip() for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device.strip()]


def launcher(kind: str, placed: Mapping[str, int], port: int, hostfile: Path | None, notes: Path) -> list[str]:
    """The launcher's command line up to the script; `port` is where the ranks meet."""
    count = max(placed.values())
    if kind == "torchrun":
        words = ["fabrictune.train.launching", str(notes), "--nproc-per-node", str(count)]
        words += ["--master-addr", "127.0.0.1", "--master-port", str(port)]
        words += ["--log-dir", str(notes / "torchrun")]  # its own is a new folder below /tmp, which it never removes
        return [sys.executable, "-m", *words]
    if kind != "deepspeed":
        raise ValueError(f"launcher={kind} cannot start ranks; choose torchrun or deepspeed")
    words = ["deepspeed.launcher.runner", "--no_local_rank", "--log_level", "critical", "--master_port", str(port)]
    if hostfile:
        # Forced, since a hostfile of one host would otherwise be started here, whatever host it names.
        words += ["--hostfile", str(hostfile.resolve()), "--force_multi", "--num_gpus", str(count)]
        if len(set(placed.values())) > 1:  # the option sets the same number everywhere
            del words[-2:]
    elif visible_gpus() and _visible_devices():
        # With --num_gpus the launcher would take GPUs 0 to N - 1, whichever CUDA_VISIBLE_DEVICES names.
        words += ["--hostfile=", "--include", "localhost:" + ",".join(_visible_devices()[:count])]
    else:
        words += ["--hostfile=", "--num_gpus", str(count)]
    return [sys.executable, "-m", *words]


def environment(kind: str, placed: Mapping[str, int], notes: Path, hostfile: Path | None) -> dict[str, str]:
    """The ranks' environment: ours, threads, and where `ranks` finds its notes; `notes` gets a file for other nodes."""
    here = next(iter(placed.values()))
    root = str(Path(__file__).resolve().parents[2])
    settings = {"OMP_NUM_THREADS": str(max(1, processes.cpus() // here))} | dict(os.environ)
    settings |= {
        ranks.NOTES: str(notes),
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
    }
    if kind == "deepspeed":
        settings.pop("CUDA_VISIBLE_DEVICES", None)  # told by --include; the launcher would print a line about it
        if hostfile is None and not visible_gpus():
            settings.setdefault("DS_ACCELERATOR", "cpu")  # detecting that prints a warning on every rank
    if hostfile is None:
        settings[ranks.STARTER] = str(os.getpid())
    else:
        settings["DS_ENV_FILE"] = str(_write_environment(notes, settings))
    return settings


def _write_environment(notes: Path, settings: Mapping[str, str]) -> Path:
    """The file from which DeepSpeed's launcher sets the environment on other nodes: the user's own, and ours."""
    own = os.environ.get("DS_ENV_FILE", ".deepspeed_env")
    lines = []
    for place in (Path.home(), Path()):
        with suppress(FileNotFoundError):
            lines += (place / own).read_text(encoding="utf-8").split("\n")
    for name, value in settings.items():
        if name.startswith(HANDED_ON) and not name.endswith(SECRET):
            lines.append(f"{name}={value}")
    path = notes / "environment"
    path.write_text("".join(f"{line}\n" for line in lines if line.strip()), encoding="utf-8")
    return path


def quoted(words: Sequence[str], hostfile: Path | None) -> list[str]:
    """The words as the launcher wants them: over ssh a shell reads them, and only those with a space are quoted."""
    return [word if hostfile is None or " " in word else shlex.quote(word) for word in words]
