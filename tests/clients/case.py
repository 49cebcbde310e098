"""What every client here is given and what it gives back; no package beside Python's own is needed.

A case is a JSON file: `url`, `key`, `model`, `tools` (name, description, parameters as a JSON schema), `instruction`,
`queries` (asked one after the other in one conversation), `results` (name, arguments, observation) and
`stream`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

MAX_REQUESTS = 10  # for one query, as AgentFabric's client has it
NO_DATA = '{"error": "no data for these arguments"}'


class Case:
    """The case named on the command line, and what the client did: its calls, and pieces of a reply as they came."""

    def __init__(self) -> None:
        self.given: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
        self.calls: list[dict[str, Any]] = []
        self.pieces = 0

    def __getitem__(self, key: str) -> Any:
        return self.given[key]

    def observe(self, name: str, arguments: str) -> str:
        """What the tool returns: the record's result for these arguments (JSON), or that there is none."""
        call = {"name": name, "arguments": json.loads(arguments)}
        self.calls.append(call)
        found = (one["observation"] for one in self["results"] if call.items() <= one.items())
        return next(found, NO_DATA)

    def finish(self, answers: list[str]) -> None:
        """Writes what came out to the second file named on the command line."""
        said = {"answers": answers, "calls": self.calls, "pieces": self.pieces}
        Path(sys.argv[2]).write_text(json.dumps(said, ensure_ascii=False), encoding="utf-8")
