"""Each row that docs/data.md shows can be copied into a file and is read by the source that the page says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from fabrictune.config import GENERATED, Source
from fabrictune.convert.conversion import FROM_FILES
from fabrictune.convert.rows import Converter, Recipe, Row, likely_source
from fabrictune.dialogue import Dialogue
from fabrictune.sources import files

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"
GENERAL = {"messages", "alpaca", "ms_bench"}
SECTION = re.compile(r"^### `source=(\w+)`\n(.*?)(?=^##)", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^```json\n(.*?)^```", re.MULTILINE | re.DOTALL)
SAMPLES = [
    (section[1], fence[1])
    for section in SECTION.finditer(PAGE.read_text(encoding="utf-8"))
    for fence in FENCE.finditer(section[2])
]
SHOWN = pytest.mark.parametrize(
    ("source", "sample"), SAMPLES, ids=[f"{source}-{number}" for number, (source, _) in enumerate(SAMPLES)]
)


def recipe(source: str) -> Recipe:
    return Recipe(source, source, "agentfabric", source in GENERAL, None, 0.0, 0.0, None, 2048, "keep", 1.0, 1)


def converted(source: str, text: str) -> Dialogue:
    """The dialogue of a row, which must be written as AgentFabric's request, or as plain chat if it is such."""
    kept, reject = Converter(recipe(source)).convert(Row(0, "data.md", 1, text))
    assert kept is not None and reject is None, reject
    return msgspec.json.decode(kept.blob.split(b"\n")[1], type=Dialogue)


def test_every_source_of_files_has_a_row_on_the_page() -> None:
    assert {source for source, _ in SAMPLES} == {source.value for source in set(Source) - GENERATED}


@SHOWN
def test_a_row_on_the_page_is_read_whole_by_its_source(source: str, sample: str) -> None:
    dialogue = converted(source, sample)
    calls = [(call.name, call.arguments) for turn in dialogue.turns for call in turn.calls]
    if source in GENERAL:
        assert dialogue.tools == () and calls == [] and dialogue.turns[-1].answer
        return
    assert [tool.name for tool in dialogue.tools] == ["get_weather"]
    assert dialogue.tools[0].required == ["city"]
    is_log = "finish_reason" in sample
    assert calls == ([] if is_log else [("get_weather", {"city": "Lyon"})])
    results = [json.loads(step.observation)["sky"] for turn in dialogue.turns for step in turn.steps]
    assert results == ([] if is_log or '"answers"' in sample else ["rain"])


@SHOWN
def test_a_row_on_the_page_tells_its_source(source: str, sample: str) -> None:
    assert likely_source([Row(0, "data.md", 1, sample)], recipe("sharegpt"), FROM_FILES) == (source, 1)


@SHOWN
@pytest.mark.parametrize("name", ["copied.jsonl", "copied.json"])
def test_rows_copied_from_the_page_as_they_are_spread_there_are_a_file(
    tmp_path: Path, source: str, sample: str, name: str
) -> None:
    (tmp_path / name).write_text(sample + sample, encoding="utf-8")
    assert [json.loads(text) for _, text in files.records(tmp_path / name)] == [json.loads(sample)] * 2
