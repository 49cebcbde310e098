"""make audit: real pip-audit against a vulnerability service that plays OSV, and what is said of its answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from requirements import audit

# As OSV answers; the two of diskcache are one, which PyPI's own database and GitHub's both have.
KNOWN: dict[tuple[str, str], list[tuple[str, list[str], list[str]]]] = {
    ("torch", "2.13.0"): [("GHSA-aaaa-bbbb-cccc", ["CVE-2026-1"], ["2.13.1"])],
    ("diskcache", "5.6.3"): [
        ("GHSA-w8v5-vhqr-4h9v", ["CVE-2025-69872", "PYSEC-2026-2447"], []),
        ("PYSEC-2026-2447", ["CVE-2025-69872", "GHSA-w8v5-vhqr-4h9v"], []),
    ],
}
LOCK = "".join(
    f"{pin} \\\n    --hash=sha256:{'0' * 64}\n" for pin in ("diskcache==5.6.3", "torch==2.13.0+cpu", "yarl==1.25.1")
)
PAGE = """
| id | package | why it does not concern us |
|----|---------|----------------------------|
| CVE-2025-69872 | diskcache | its folder is written by us alone |
| GHSA-old1-old2-old3 | yarl | nothing is parsed |
"""


def vulnerability(package: str, name: str, aliases: list[str], fixed: list[str]) -> dict[str, Any]:
    events = [{"introduced": "0"}, *({"fixed": version} for version in fixed)]
    ranges = [{"type": "ECOSYSTEM", "events": events}]
    affected = [{"package": {"name": package, "ecosystem": "PyPI"}, "ranges": ranges}]
    return {"id": name, "aliases": aliases, "summary": "bad", "affected": affected}


class Osv(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        package = asked["package"]["name"]
        known = KNOWN.get((package, asked["version"]), [])
        answer = json.dumps({"vulns": [vulnerability(package, *one) for one in known]} if known else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""


@pytest.fixture
def service() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Osv) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "cpu.txt"
    path.write_text(LOCK, encoding="utf-8")
    return path


@pytest.mark.e2e
def test_findings_are_explained_or_reported_and_so_are_rows_without_a_finding(service: str, lock: Path) -> None:
    packages = audit.ask([lock], ["-s", "osv", "--osv-url", service])
    known, wrong = audit.report(packages, audit.explained(PAGE))
    assert sorted(package["name"] for package in packages) == ["diskcache", "torch", "yarl"]
    (explanation,) = known
    assert explanation.startswith("diskcache 5.6.3: ") and explanation.endswith("its folder is written by us alone")
    new, stale = wrong
    assert new.startswith("torch 2.13.0: ") and "GHSA-aaaa-bbbb-cccc" in new and "CVE-2026-1" in new
    assert "fixed in 2.13.1; upgrade (make lock), or explain it" in new
    assert "explains GHSA-old1-old2-old3, which no locked version has" in stale


@pytest.mark.e2e
def test_a_service_that_does_not_answer_is_an_error_and_not_a_clean_bill(lock: Path) -> None:
    with pytest.raises(RuntimeError, match="pip-audit gave no answer"):
        audit.ask([lock], ["-s", "osv", "--osv-url", "http://127.0.0.1:1/v1/query"])


def test_a_version_that_could_not_be_looked_up_is_not_in_order() -> None:
    skipped = {"name": "yarl", "skip_reason": "Dependency not found on PyPI and could not be audited: yarl (1.25.1)"}
    fine = {"name": "torch", "version": "2.13.0", "vulns": []}
    assert audit.report([fine], {}) == ([], [])
    (line,) = audit.report([fine, skipped], {})[1]
    assert line.startswith("1 of 2 packages could not be looked up, such as yarl: ")


def test_the_page_has_a_reason_in_every_row() -> None:
    page = audit.PAGE.read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| id ")]
    assert len(audit.explained(page)) == len(rows)
