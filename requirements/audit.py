"""Known vulnerabilities of the versions in cpu.txt, gpu.txt, uv.txt and build.txt, held against audit.md.

They are found by pip-audit, and audit.md has an explanation of each.

    python requirements/audit.py              # as PyPI knows them; what follows is pip-audit's: -s osv

Exit code 0 only if every version was looked up and every finding has its explanation.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LOCKS = [HERE / f"{name}.txt" for name in ("cpu", "gpu", "uv", "build")]
PAGE = HERE / "audit.md"
ROW = re.compile(r"^\| *((?:GHSA|CVE|PYSEC)-[\w-]+) *\|.*\| *(\S.*?) *\|$", re.MULTILINE)
LOCAL = re.compile(r"(?m)^(\S+==[^+\s]+)\+\S+")


@dataclass(frozen=True)
class Finding:
    """A vulnerability of a locked version; names: its id, and the others under which it is known."""

    package: str
    version: str
    names: tuple[str, ...]
    fixed: tuple[str, ...]

    def __str__(self) -> str:
        fixed = f"fixed in {', '.join(self.fixed)}" if self.fixed else "no fixed version yet"
        return f"{self.package} {self.version}: {' = '.join(self.names)}, {fixed}"


def explained(page: str) -> dict[str, str]:
    """The reason for each id that has a row in the page's table: | id | package | reason |."""
    return dict(ROW.findall(page))


def findings(packages: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """One for each vulnerability in pip-audit's answer; the same one under two ids comes once."""
    seen: set[tuple[str, frozenset[str]]] = set()
    for package in packages:
        for vulnerability in package.get("vulns", ()):
            names = (vulnerability["id"], *sorted(vulnerability["aliases"]))
            key = (f"{package['name']}=={package['version']}", frozenset(names))
            if key not in seen:
                seen.add(key)
                yield Finding(package["name"], package["version"], names, tuple(vulnerability["fix_versions"]))


def report(packages: Sequence[Mapping[str, Any]], reasons: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """What is known and explained, and what is not in order, a line each."""
    known, wrong, met = [], [], set()
    for finding in findings(packages):
        names = [name for name in finding.names if name in reasons]
        met.update(names)
        if names:
            known.append(f"{finding} - {reasons[names[0]]}")
        else:
            wrong.append(f"{finding}; upgrade (make lock), or explain it in requirements/{PAGE.name}")
    for name in sorted(set(reasons) - met):
        wrong.append(f"requirements/{PAGE.name} explains {name}, which no locked version has: remove its row")
    skipped = [package for package in packages if "skip_reason" in package]
    if skipped:
        first = skipped[0]
        wrong.append(
            f"{len(skipped)} of {len(packages)} packages could not be looked up, such as {first['name']}: "
            f"{first['skip_reason']}"
        )
    return known, wrong


def public(lock: str) -> str:
    """The lock with torch==2.13.0+cpu as torch==2.13.0: a build's vulnerabilities are its version's."""
    return LOCAL.sub(r"\1", lock)


def ask(locks: Sequence[Path], options: Sequence[str]) -> list[dict[str, Any]]:
    """pip-audit's answer: {name, version, vulns} or {name, skip_reason}. Raises RuntimeError if it has none."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip_audit", "-f", "json", "--progress-spinner", "off", "--disable-pip"]
        for lock in locks:
            copy = Path(folder, lock.name)
            copy.write_text(public(lock.read_text(encoding="utf-8")), encoding="utf-8")
            command += ["-r", str(copy)]
        ended = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    try:
        packages: list[dict[str, Any]] = json.loads(ended.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
        raise RuntimeError(f"pip-audit gave no answer ({last}); its services are -s pypi and -s osv") from None
    return packages


def main(options: Sequence[str]) -> int:
    """Prints the report; 0 if all is in order, else 1."""
    try:
        packages = ask(LOCKS, options)
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    known, wrong = report(packages, explained(PAGE.read_text(encoding="utf-8")))
    for line in known:
        print(f"explained: {line}")
    for line in wrong:
        print(f"error: {line}", file=sys.stderr)
    print(f"{len(packages)} packages, {len(known)} findings explained, {len(wrong)} things not in order")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
