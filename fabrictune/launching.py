"""Several ranks of one training run, under torchrun or DeepSpeed's launcher, on this machine."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fabrictune import processes

# Set in the ranks: where rank 0 leaves its results.
RESULT = "FABRICTUNE_RESULT"
RANK = "RANK"


def is_rank() -> bool:
    """Whether this process is a rank that `launch` started."""
    return RESULT in os.environ


def launch(kind: str, ranks: int, script: Path, arguments: Sequence[str], result: Path) -> dict[str, Any]:
    """Runs the script once a rank and returns what rank 0 left at `result`.

    Raises RuntimeError if a rank fails; its own message stands above on stderr then. An exit code of 0 is not taken
    for success: DeepSpeed's runner gives it also where its child was killed.
    """
    result.unlink(missing_ok=True)
    threads = max(1, processes.cpus() // ranks)
    environment = {"OMP_NUM_THREADS": str(threads)} | dict(os.environ) | {RESULT: str(result)}
    with processes.program([*_launcher(kind, ranks), str(script), *arguments], environment) as process:
        code = process.wait()
    if code or not result.exists():
        raise RuntimeError(f"a rank of {ranks} under {kind} failed (exit code {code}); its message stands above")
    results: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    result.unlink()
    return results


def leave() -> None:
    """Ends a rank that has done its work, without the teardown in which torch with gloo now and then aborts."""
    import torch.distributed as distributed

    if distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def use_no_compiler() -> None:
    """Keeps DeepSpeed on a CPU from building an extension at start, which takes a minute and a C++ compiler."""
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _launcher(kind: str, ranks: int) -> list[str]:
    # A port of our own: on the default one a second run joins the first and ends it.
    port = str(processes.free_port())
    if kind == "deepspeed":
        words = ["deepspeed.launcher.runner", "--num_gpus", str(ranks), "--master_port", port, "--no_local_rank"]
    else:
        words = ["torch.distributed.run", "--nproc_per_node", str(ranks), "--master_port", port]
    return [sys.executable, "-m", *words]
