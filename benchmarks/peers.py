"""Virtual environments of the trainers that benchmarks/train.py is measured against."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import say
from fabrictune.model import model_files

TORCH = "torch==2.13.0"
# What pip is asked for; the versions that came of it stand under the table.
PEERS = {
    "trl": ("trl==1.16.0", "transformers==5.19.0", "peft==0.21.2"),
    "swift": ("ms-swift==4.6.0", "transformers==5.19.0", "peft==0.20.0"),
}
TOLD = ("torch", "transformers", "peft", "trl", "ms-swift")  # packages whose versions are told


def environment(name: str) -> Path:
    """The peer's virtual environment with a CPU build of torch, made once and kept in the cache.

    Raises subprocess.CalledProcessError where it cannot be installed; uv's own message stands above.
    """
    folder, wanted = model_files.cache("peers") / name, " ".join((TORCH, *PEERS[name]))
    stamp = folder / "installed"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return folder
    say(f"installing {wanted} into {folder} (once)")
    shutil.rmtree(folder, ignore_errors=True)
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}") or "uv"
    links = os.environ.get("PIP_FIND_LINKS")  # a folder that pip is told of has the CPU build, as in the Makefile
    cpu = "https://download.pytorch.org/whl/cpu"
    places = ["--find-links", links] if links else ["--index", cpu, "--index-strategy", "unsafe-best-match"]
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", str(folder / "bin/python"), *places, *wanted.split()], check=True
    )
    stamp.write_text(wanted, encoding="utf-8")
    return folder


def versions(python: Path) -> str:
    """The versions of the packages that matter, as the environment of that interpreter has them."""
    code = (
        "import sys; from importlib import metadata as m\n"
        "for p in sys.argv[1:]:\n  try: print(p, m.version(p))\n  except m.PackageNotFoundError: pass"
    )
    found = subprocess.run([python, "-c", code, *TOLD], check=True, capture_output=True, text=True).stdout
    return ", ".join(found.split("\n")[:-1])
