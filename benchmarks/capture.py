"""Times streamed replies straight from a local server and through `serve.py serve=capture`, 32 at a time.

    python benchmarks/capture.py                               straight, through the proxy, and with serve.redact=true
    python benchmarks/capture.py --streams 8 --repeats 2

docs/benchmarks.md says what each side does and how it is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil
import uvicorn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measure
from benchmarks.measure import MIB, say
from fabrictune import processes, protocol, record
from fabrictune.dialogue import Json
from fabrictune.formats import agentfabric
from fabrictune.sources import synthetic

CHUNKS, GAP = 30, 0.02  # of a reply: a hosted model's 50 tokens a second
STREAMS, REQUESTS = 32, 10  # at a time, and of each of them one after the other
START_SECONDS = 60.0
PACKAGES = ("aiohttp", "starlette", "uvicorn", "uvloop", "httptools")
MEASURES = ("to the first chunk", "a chunk's way", "the end's way", "the whole reply")
COLUMNS = (
    *("side", "runs", "replies"),
    *(f"{name}, {what}" for name in MEASURES for what in ("median ms", "p90 ms", "median more")),
    *("processor ms a reply", "peak MiB"),
)


@dataclass(frozen=True)
class Reply:
    """Seconds from the request to the first chunk, of the median chunk's and the last bytes' way, and of all of it.

    A way leads from where the server hands bytes to its socket to where the client has them.
    """

    first: float
    way: float
    end: float
    whole: float

    @property
    def measures(self) -> tuple[float, ...]:
        return self.first, self.way, self.end, self.whole


@dataclass(frozen=True)
class Side:
    """Where requests go. `process` is the proxy's, None where there is none; `folder` is its log's."""

    label: str
    port: int
    process: int | None = None
    folder: Path | None = None


@dataclass
class Measured:
    replies: list[Reply]
    cpu_seconds: float = 0.0
    memory: int = 0
    runs: int = 0


def request_body() -> bytes:
    """What AgentFabric's client sends last in a dialogue of several turns with tools."""
    dialogue = max(synthetic.generate(7, 20), key=lambda one: len(one.turns))
    exchange = list(agentfabric.render(dialogue, "benchmark"))[-1]
    messages = [{"role": one.role, "content": one.content} for one in exchange.messages]
    return json.dumps({"model": "stub", "messages": messages, "stream": True, "stop": list(protocol.STOP)}).encode()


def serve_stub(port: int) -> None:
    """The server behind: chunks at a steady pace, whatever is asked; each says when it was sent."""

    async def answer(scope: Json, receive: Json, send: Json) -> None:
        while (await receive()).get("more_body"):
            pass
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number in range(CHUNKS):
            await asyncio.sleep(GAP)
            delta, reason = ({"content": f"word{number} "}, None) if number < CHUNKS - 1 else ({}, "stop")
            await send({"type": "http.response.body", "body": event(delta, reason), "more_body": True})
        await send({"type": "http.response.body", "body": b": %r\n\ndata: [DONE]\n\n" % time.monotonic()})

    uvicorn.run(answer, port=port, lifespan="off", log_level="critical", timeout_keep_alive=75)


def event(delta: dict[str, str], reason: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    body = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "stub", "choices": [choice]}
    return b": %r\ndata: %s\n\n" % (time.monotonic(), json.dumps(body).encode())


SENT = re.compile(rb"^: ([\d.]+)$", re.MULTILINE)  # a comment, which clients pass over


async def ask(session: aiohttp.ClientSession, port: int, body: bytes) -> Reply:
    """One streamed reply. Raises RuntimeError if it is not whole."""
    start, heard = time.monotonic(), []
    address = f"http://127.0.0.1:{port}/v1/chat/completions"
    async with session.post(address, data=body, headers={"Content-Type": "application/json"}) as reply:
        async for chunk in reply.content.iter_any():
            heard.append((time.monotonic(), chunk))
    end = time.monotonic()
    ways = [moment - float(sent) for moment, chunk in heard for sent in SENT.findall(chunk)]
    if reply.status != 200 or len(ways) != CHUNKS + 1 or not heard[-1][1].endswith(b"data: [DONE]\n\n"):
        raise RuntimeError(f"port {port}: a reply is not whole (status {reply.status}): {heard[-1:]}")
    return Reply(heard[0][0] - start, statistics.median(ways[:-1]), ways[-1], end - start)


async def ask_many(port: int, body: bytes, streams: int, requests: int) -> list[Reply]:
    """Replies of so many streams at a time, which begin evenly over the time that one reply takes."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def stream(number: int) -> list[Reply]:
            await asyncio.sleep(number / streams * CHUNKS * GAP)
            return [await ask(session, port, body) for _ in range(requests)]

        await ask(session, port, body)  # warms up
        return [reply for replies in await asyncio.gather(*map(stream, range(streams))) for reply in replies]


@contextmanager
def listening(words: Sequence[str], port: int, log: Path) -> Iterator[int]:
    """The command, which listens on the port, while the block runs; yields its process id."""
    with log.open("w+", encoding="utf-8") as output, processes.program(words, os.environ, output) as process:
        deadline = time.monotonic() + START_SECONDS
        while not _is_listening(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"nothing listens on port {port}:\n{log.read_text(encoding='utf-8')[-2000:]}")
            time.sleep(0.1)
        yield process.pid


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def proxy(stub: int, scratch: Path, name: str, label: str, *settings: str) -> Iterator[Side]:
    """Our proxy before the stub, started as its users start it."""
    port = processes.free_port()
    words = [sys.executable, str(record.ROOT / "serve.py"), "serve=capture", f"serve.port={port}"]
    words += [f"serve.upstream=http://127.0.0.1:{stub}/v1", f"outputs={scratch}", f"name={name}", *settings]
    with listening(words, port, scratch / f"{name}.log") as process:
        yield Side(label, port, process, scratch / name / "main/capture")


def take_turns(sides: Sequence[Side], body: bytes, streams: int, requests: int, repeats: int) -> list[Measured]:
    """All sides in turn, again and again, so that a slow moment of the machine hits none of them alone."""
    measured = [Measured([]) for _ in sides]
    for number in range(repeats):
        for side, one in zip(sides, measured, strict=True):
            before = _processor_seconds(side)
            one.replies += asyncio.run(ask_many(side.port, body, streams, requests))
            one.cpu_seconds += _processor_seconds(side) - before
            one.runs += 1
            say(f"{side.label}, run {number + 1} of {repeats}: {_median(one, 1):.2f} ms a chunk's way")
    for side, one in zip(sides, measured, strict=True):
        one.memory = _memory(side)
    return measured


def _processor_seconds(side: Side) -> float:
    if side.process is None:
        return 0.0
    times = psutil.Process(side.process).cpu_times()
    return float(times.user + times.system)


def _memory(side: Side) -> int:
    return 0 if side.process is None else int(psutil.Process(side.process).memory_info().rss)


def _median(measured: Measured, place: int) -> float:
    """In milliseconds."""
    return statistics.median(reply.measures[place] for reply in measured.replies) * 1e3


def require_all_recorded(side: Side, asked: int) -> None:
    """Raises RuntimeError if the log does not hold every reply, whole."""
    if side.folder is None:
        return
    rows = [json.loads(line) for path in side.folder.glob("*.jsonl") for line in path.read_text("utf-8").splitlines()]
    whole = sum(row["error"] is None and row["reply"].split()[-1] == f"word{CHUNKS - 2}" for row in rows)
    if not len(rows) == whole == asked:
        raise RuntimeError(f"{side.label}: {asked} replies were asked for, {len(rows)} recorded, {whole} of them whole")


def lines(sides: Sequence[Side], measured: Sequence[Measured]) -> Iterator[list[str]]:
    for side, one in zip(sides, measured, strict=True):
        cells = [side.label, str(one.runs), str(len(one.replies))]
        for place in range(len(MEASURES)):
            p90 = statistics.quantiles([reply.measures[place] for reply in one.replies], n=10)[-1] * 1e3
            more = _median(one, place) - _median(measured[0], place)
            cells += [f"{_median(one, place):.2f}", f"{p90:.2f}", f"{more:+.2f}" if one is not measured[0] else ""]
        if side.process is None:
            cells += ["", ""]
        else:
            cells += [f"{one.cpu_seconds / len(one.replies) * 1e3:.1f}", f"{one.memory / MIB:.0f}"]
        yield cells


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = measure.parser(__doc__)
    parser.add_argument("--streams", type=int, default=STREAMS, help="replies at a time")
    parser.add_argument("--requests", type=int, default=REQUESTS, help="of each stream, one after the other")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each side")
    parser.add_argument("--stub", type=int, metavar="PORT", help=argparse.SUPPRESS)  # be the server behind
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    options = _options(words)
    if options.stub:
        serve_stub(options.stub)
        return
    facts = measure.begin()
    body = request_body()
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder, ExitStack() as running:
        scratch, stub = Path(folder), processes.free_port()
        me = [sys.executable, str(Path(__file__).resolve()), "--stub", str(stub)]
        running.enter_context(listening(me, stub, scratch / "stub.log"))
        sides = [
            Side("straight", stub),
            running.enter_context(proxy(stub, scratch, "plain", "through the proxy")),
            running.enter_context(proxy(stub, scratch, "redacted", "and redacted", "serve.redact=true")),
        ]
        measured = take_turns(sides, body, options.streams, options.requests, options.repeats)
        asked = options.repeats * (options.streams * options.requests + 1)
        for side in sides:
            require_all_recorded(side, asked)
    versions = ", ".join(f"{name} {version}" for name, version in record.versions(PACKAGES).items())
    data = (
        f"{options.streams} streams at a time, each with {options.requests} requests of {len(body):,} bytes in a run; "
        f"a reply is {CHUNKS} chunks, one every {GAP * 1e3:.0f} ms; an exchange is on the disk before its reply ends."
    )
    parts = (facts, data, f"Versions: {versions}.", measure.table(COLUMNS, lines(sides, measured)))
    measure.report("benchmarks/capture.py", sys.argv[1:] if words is None else words, parts, options.markdown)


if __name__ == "__main__":
    main()
