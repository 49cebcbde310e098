"""The locks: every package has a hash, and what the Makefile installs is refused when its content is another."""

from __future__ import annotations

import hashlib
import re
import subprocess
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
NAMES = ("cpu", "gpu", "uv", "build")
LOCKS = [*(ROOT / f"requirements/{name}.txt" for name in NAMES), *sorted((ROOT / "tests/clients").glob("*.txt"))]
UV = ROOT / ".venv/bin/uv"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_package_of_a_lock_has_one_version_and_a_hash(lock: Path) -> None:
    entries = re.split(r"\n(?! )", lock.read_text(encoding="utf-8").strip())
    wrong = [
        entry
        for entry in entries
        if not re.fullmatch(r"[\w.-]+==\S+(?: ; .+?)?(?: \\\n    --hash=sha256:\w{64})+", entry)
    ]
    assert not wrong
    assert len({entry.split("==")[0] for entry in entries}) == len(entries)


def test_the_cpu_lock_holds_torch_without_cuda() -> None:
    lock = (ROOT / "requirements/cpu.txt").read_text(encoding="utf-8")
    assert re.search(r"^torch==\S+\+cpu \\$", lock, re.MULTILINE)
    assert not re.search(r"^(nvidia-|torchvision==)", lock, re.MULTILINE)


def test_every_installation_of_the_makefile_verifies_hashes() -> None:
    installs = [line for line in MAKEFILE.splitlines() if re.search(r"\binstall\b.* -r ", line)]
    assert len(installs) == 3
    assert all("--require-hashes" in line or "$(VERIFIED)" in line for line in installs)


def wheel(path: Path, says: str) -> str:
    """A package of one module; back comes its sha256."""
    info = f"{path.name.removesuffix('-py3-none-any.whl')}.dist-info"
    files = {
        "tiny.py": says,
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_package_with_another_content_is_refused(tmp_path: Path) -> None:
    shown = ["make", "-s", "--eval=shown:;@echo '$(VERIFIED)'", "shown"]
    flags = subprocess.run(shown, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    lock, target = tmp_path / "lock.txt", tmp_path / "target"
    hashed = wheel(tmp_path / "tiny-1.0-py3-none-any.whl", "says = 'what was tested'")
    lock.write_text(f"tiny==1.0 --hash=sha256:{hashed}\n", encoding="utf-8")
    command = [str(UV), "pip", "install", "--no-cache", "--no-index", "--find-links", str(tmp_path)]
    command += ["--target", str(target), *flags, "-r", str(lock)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert "what was tested" in (target / "tiny.py").read_text(encoding="utf-8")

    wheel(tmp_path / "tiny-1.0-py3-none-any.whl", "says = 'something else'")
    refused = subprocess.run([*command, "--reinstall"], cwd=ROOT, check=False, capture_output=True, text=True)
    assert refused.returncode != 0
    assert "Hash mismatch" in refused.stderr and hashed in refused.stderr
    assert "what was tested" in (target / "tiny.py").read_text(encoding="utf-8")
