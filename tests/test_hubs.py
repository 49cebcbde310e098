"""Datasets come from the hubs through their real clients, here from a small hub of our own on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabrictune.processes import free_port
from fabrictune.sources import files, hubs

ROOT = Path(__file__).parent.parent
COMMIT = "0123456789abcdef0123456789abcdef01234567"
ID = "owner/talks"
ROWS = b"".join(b'{"row": %d, "text": "%s"}\n' % (number, b"x" * 500) for number in range(1000))
FILES = {
    "README.md": b"# talks",
    "images/logo.png": b"\x89PNG",
    "train.jsonl": ROWS,
    "zh/test.jsonl.gz": b"packed",
    "zh/test.csv": b"a,b\n1,2\n",
}
BOTH = pytest.mark.parametrize("name", ["modelscope", "huggingface"])

FETCH = """
import sys
from pathlib import Path
from fabrictune.sources import hubs
hub, id, pattern, revision, local = sys.argv[1:]
try:
    print(hubs.fetch(hub, id, pattern or None, revision or None, Path(local)))
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@dataclass
class Hub:
    """What the server holds, what it was asked for, and what it is to do wrong."""

    port: int
    held: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    gives: int = 200
    cut_at: int = 0  # bytes after which the next file sent breaks off
    stalls: bool = False  # or does not go on, as long as the client waits
    withheld: str = ""  # a file that is in the list, but not given out
    sent: list[tuple[str, str]] = field(default_factory=list)  # a file's name and the Range asked of it
    revisions: set[str] = field(default_factory=set)
    asked: int = 0


class _Handler(BaseHTTPRequestHandler):
    """The requests that the two clients make to read a dataset, as modelscope.cn and huggingface.co answer them."""

    hub: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.hub.asked += 1
        url = urlsplit(self.path)
        path = unquote(url.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if path.endswith("/internalAccelerationInfo"):
            self.answer({"Data": {}})
        elif self.hub.gives != 200:
            code = {404: "RepoNotFound", 403: "GatedRepo"}[self.hub.gives]
            self.answer({"Code": 1, "Message": "no", "Success": False}, {"X-Error-Code": code}, self.hub.gives)
        elif path == f"/api/v1/datasets/{ID}/repo/tree":
            self.hub.revisions.add(query["Revision"])
            self.answer({"Code": 200, "Success": True, "Data": {"Files": [*map(self.modelscope_entry, self.hub.held)]}})
        elif path == f"/api/v1/datasets/{ID}/repo":
            self.send_file(query["FilePath"])
        elif path.startswith(f"/api/datasets/{ID}/revision/"):
            self.hub.revisions.add(path.rpartition("/")[2])
            self.answer({"id": ID, "sha": COMMIT, "siblings": [], "tags": []})
        elif path == f"/api/datasets/{ID}/tree/{COMMIT}":
            self.answer(
                [{"type": "file", "oid": _etag(held), "size": len(held), "path": name} for name, held in self.all()]
            )
        elif path.startswith(f"/datasets/{ID}/resolve/{COMMIT}/"):
            self.send_file(path.partition(f"{COMMIT}/")[2])
        else:
            self.answer({"error": path}, status=404)

    def all(self) -> list[tuple[str, bytes]]:
        return list(self.hub.held.items())

    def modelscope_entry(self, name: str) -> dict[str, object]:
        held = self.hub.held[name]
        return {"Path": name, "Type": "blob", "Size": len(held), "Sha256": hashlib.sha256(held).hexdigest()}

    def answer(self, value: object, headers: dict[str, str] | None = None, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for key, text in (headers or {}).items():
            self.send_header(key, text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_file(self, name: str) -> None:
        if name == self.hub.withheld:
            self.answer({"Code": 1, "Message": "no", "Success": False}, status=404)
            return
        held = self.hub.held[name]
        asked = self.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(held) - 1}/{len(held)}")
        self.send_header("Content-Length", str(len(held) - start))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{_etag(held)}"')
        self.end_headers()
        if self.command == "GET":
            self.hub.sent.append((name, asked))
            end, stalls = self.hub.cut_at or None, self.hub.stalls
            self.hub.cut_at, self.hub.stalls = 0, False
            self.wfile.write(held[start:end])
            if stalls:
                self.wfile.flush()
                with suppress(ConnectionResetError):
                    self.connection.recv(1)  # nothing, when the client is gone

    def log_message(self, *words: object) -> None:
        pass


def _etag(held: bytes) -> str:
    return hashlib.sha1(held).hexdigest()


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {}))
    server.RequestHandlerClass.hub = Hub(server.server_port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server.RequestHandlerClass.hub
    server.shutdown()
    server.server_close()
    thread.join()


@dataclass
class Place:
    """A machine's folders; `fetch` runs there as a program of its own, since the clients read their settings once."""

    folder: Path

    def command(self, name: str, port: int, pattern: str = "", revision: str = "") -> tuple[list[str], dict[str, str]]:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "HOME": str(self.folder),
            "HF_ENDPOINT": f"http://127.0.0.1:{port}",
            "MODELSCOPE_ENDPOINT": f"http://127.0.0.1:{port}",
            "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "2",
        }
        return [sys.executable, "-c", FETCH, name, ID, pattern, revision, str(self.folder / "data")], environment

    def fetch(self, name: str, port: int, pattern: str = "", revision: str = "") -> subprocess.CompletedProcess[str]:
        words, environment = self.command(name, port, pattern, revision)
        return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)

    def fetched(self, name: str, port: int, pattern: str = "") -> dict[str, bytes]:
        """The data files of the folder that `fetch` names, by their path in it."""
        done = self.fetch(name, port, pattern)
        assert done.returncode == 0, done.stderr
        folder = Path(done.stdout.strip())
        return {str(file.relative_to(folder)): file.read_bytes() for file in files.listed(folder)}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@BOTH
def test_all_data_files_are_fetched_and_nothing_else(hub: Hub, place: Place, name: str) -> None:
    data = {file: held for file, held in FILES.items() if file.endswith(("jsonl", "gz", "csv"))}
    assert place.fetched(name, hub.port) == data
    assert sorted(file for file, _ in hub.sent) == sorted(data)


@BOTH
@pytest.mark.parametrize(
    ("pattern", "wanted"), [("zh/*", {"zh/test.jsonl.gz", "zh/test.csv"}), ("t*", {"train.jsonl"})]
)
def test_of_the_data_files_only_those_that_match_are_fetched(
    hub: Hub, place: Place, name: str, pattern: str, wanted: set[str]
) -> None:
    hub.held |= {"zh/note.txt": b"no data", "train.py": b"neither"}
    assert set(place.fetched(name, hub.port, pattern)) == wanted == {file for file, _ in hub.sent}


@BOTH
def test_what_was_fetched_is_not_fetched_again_and_is_there_offline(hub: Hub, place: Place, name: str) -> None:
    first = place.fetched(name, hub.port, "*.jsonl")
    hub.sent.clear()
    assert place.fetched(name, hub.port, "*.jsonl") == first == {"train.jsonl": ROWS}
    assert hub.sent == []
    assert place.fetched(name, free_port(), "*.jsonl") == first
    other = place.fetch(name, free_port(), "zh/*")  # which was never fetched
    assert other.stderr.splitlines()[-1].startswith(f"ConnectionError: {ID}: put its files that match 'zh/*' into ")


def test_what_could_not_be_renewed_is_no_longer_taken_for_whole(hub: Hub, place: Place) -> None:
    place.fetched("modelscope", hub.port)
    hub.held["train.jsonl"] = ROWS * 2
    hub.withheld = "train.jsonl"
    for port in (hub.port, free_port()):
        assert (
            place.fetch("modelscope", port).stderr.splitlines()[-1].startswith(f"ConnectionError: {ID}: put its data ")
        )
    hub.withheld = ""
    assert place.fetched("modelscope", hub.port)["train.jsonl"] == ROWS * 2


@BOTH
def test_a_file_whose_transfer_breaks_off_goes_on_from_there(hub: Hub, place: Place, name: str) -> None:
    hub.held["big.jsonl"] = big = ROWS * 48  # as huggingface_hub keeps of a part only whole blocks of 10 MB
    hub.cut_at = 15_000_000
    assert place.fetched(name, hub.port, "big.jsonl") == {"big.jsonl": big}
    (_, first), (_, second) = hub.sent
    assert first == ""
    assert 10_000_000 < int(second.removeprefix("bytes=").removesuffix("-")) <= 15_000_000


@BOTH
def test_what_a_killed_run_left_broken_the_next_one_makes_whole(hub: Hub, place: Place, name: str) -> None:
    hub.held["big.jsonl"] = big = ROWS * 48
    hub.cut_at, hub.stalls = 15_000_000, True
    words, environment = place.command(name, hub.port, "big.jsonl")
    killed = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not any(part.stat().st_size > 10_000_000 for part in place.folder.rglob("*.incomplete")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    assert place.fetched(name, hub.port, "big.jsonl") == {"big.jsonl": big}
    if name == "modelscope":  # huggingface_hub 2.4 gives each process a partial file of its own
        assert 10_000_000 <= int(hub.sent[-1][1].removeprefix("bytes=").removesuffix("-")) <= 15_000_000


@BOTH
def test_the_revision_named_is_the_one_asked_for(hub: Hub, place: Place, name: str) -> None:
    assert place.fetch(name, hub.port, revision="v2").returncode == 0
    assert "v2" in hub.revisions


@BOTH
def test_what_cannot_be_fetched_is_answered_in_one_line_with_the_way_out_first(place: Place, name: str) -> None:
    done = place.fetch(name, free_port(), "*.jsonl")
    assert done.returncode == 1
    (said,) = done.stderr.splitlines()
    way_out, _, reason = said.partition("; it said: ")
    assert way_out == (
        f"ConnectionError: {ID}: put its files that match '*.jsonl' into {place.folder / 'data' / ID}/, "
        f"or run this where {name} can be reached and lets you in"
    )
    assert "refused" in reason
    assert len(reason) <= 160


def test_before_a_hub_is_waited_for_it_is_named(place: Place) -> None:
    (python, _, script, *words), environment = place.command("huggingface", free_port())
    heard = f"import logging\nlogging.basicConfig(level=logging.INFO, format='%(message)s')\n{script}"
    done = subprocess.run(
        [python, "-c", heard, *words], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr.splitlines()[0] == f"asking huggingface for {ID}"


@BOTH
@pytest.mark.parametrize("status", [404, 403])
def test_a_dataset_that_is_not_there_or_not_given_is_told_apart(hub: Hub, place: Place, name: str, status: int) -> None:
    hub.gives = status
    (said,) = place.fetch(name, hub.port).stderr.splitlines()
    way_out, _, reason = said.partition("; it said: ")
    assert way_out.startswith(f"ConnectionError: {ID}: put its data files (.jsonl, .json, .csv, .parquet) into ")
    assert f"into {place.folder / 'data' / ID}/, or run this where {name} can be reached" in way_out
    assert str(status) in reason
    assert len(reason) <= 160


@BOTH
def test_a_dataset_without_data_files_is_no_matter_of_the_network(hub: Hub, place: Place, name: str) -> None:
    last = place.fetch(name, hub.port, "*.parquet").stderr.splitlines()[-1]
    assert last.startswith(f"ValueError: {ID} on {name} has no data files that match '*.parquet'")


@BOTH
def test_a_folder_put_there_by_hand_is_taken_without_asking_the_hub(hub: Hub, place: Place, name: str) -> None:
    own = place.folder / "data" / ID
    own.mkdir(parents=True)
    (own / "mine.jsonl").write_bytes(b"{}\n")
    assert place.fetch(name, hub.port).stdout.strip() == str(own)
    assert hub.asked == 0
    assert set(place.fetched(name, hub.port, "train*")) == {"train.jsonl"}  # the hand's files do not match


@pytest.mark.parametrize("id", ["../elsewhere", "/etc", "a/b/c", "", "owner/.."])
def test_what_is_no_id_is_refused(tmp_path: Path, id: str) -> None:
    with pytest.raises(ValueError, match="is no dataset's id"):
        hubs.fetch("modelscope", id, None, None, tmp_path)


def test_an_unknown_hub_is_refused_with_the_choices(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown hub 'github'; choose from modelscope, huggingface"):
        hubs.fetch("github", ID, None, None, tmp_path)


_NAMES = st.lists(st.sampled_from([*files.SUFFIXES, *"/.jsongzcvparquetlx", "!", "[", "]", "a"])).map("".join)


@given(_NAMES)
def test_a_name_is_ignored_just_if_it_ends_in_no_suffix_of_ours(name: str) -> None:
    assert any(fnmatch(name, glob) for glob in hubs._other_names()) == (
        name != "" and not name.endswith(files.SUFFIXES)
    )
