"""The benchmark of the conversion: it runs, counts every row on both sides, and measures what it says it measures."""

import json
import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks import convert, convert_plain
from fabrictune.formats import ms_agent

ROOT = Path(__file__).resolve().parent.parent
LISTED = "Answer the following questions as best you can. You have access to the following APIs:\n"


def test_a_small_run_prints_sane_numbers_for_both_sides(tmp_path) -> None:
    words = ["--sizes", "40", "--repeats", "1", "--only", "uncounted", "plain", "--scratch", str(tmp_path)]
    target = tmp_path / "table.md"
    command = [sys.executable, str(ROOT / "benchmarks" / "convert.py"), *words, "--markdown", str(target)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    head, *lines = (line for line in target.read_text(encoding="utf-8").splitlines() if line.startswith("|"))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]
    assert [cell.strip() for cell in head.strip("|").split("|")] == list(convert.COLUMNS)
    assert [row[:2] for row in cells] == [["40", "ours, tokens not counted"], ["40", "plain loop"]]
    for rows, _, runs, seconds, least, processors, rate, peak, *_ in cells:
        assert runs == "1" and 0 < float(least) == float(seconds) < 60 and 0 <= float(processors) < 60
        assert float(rate.replace(",", "")) == pytest.approx(int(rows) / float(seconds), rel=0.2)
        assert 1 < int(peak) < 1000
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_a_side_that_loses_a_row_is_no_result(tmp_path) -> None:
    source = tmp_path / "two.jsonl"
    convert.write_records(source, 2, unique=0.5, seed=1)
    with pytest.raises(RuntimeError, match="converted 2 rows of 3"):
        convert.run(convert.SIDES["plain"], source, 3, tmp_path / "out")
    source.write_text("{no JSON\n", encoding="utf-8")
    with pytest.raises(RuntimeError, match="failed with code 1"):
        convert.run(convert.SIDES["plain"], source, 1, tmp_path / "again")


@pytest.mark.parametrize("unique", [0.0, 0.5, 1.0])
def test_the_share_of_tool_lines_that_occur_once_is_told_and_near_the_one_asked_for(tmp_path, unique) -> None:
    path = tmp_path / "records.jsonl"
    share = convert.write_records(path, 1500, unique, seed=1)
    seen: Counter[str] = Counter()
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        assert ms_agent.parse(record).is_complete
        system = record["conversations"][0]["value"]
        seen.update(re.sub(r"^\d+\. ", "", item) for item in system.split("\n") if re.match(r"\d+\. ", item))
    assert share == sum(count == 1 for count in seen.values()) / seen.total()
    assert (
        unique - 0.03 < share < unique + 0.2 * (1 - unique) + 0.01
    )  # the catalogue's rare tools beside those asked for


def test_memory_shared_by_two_processes_counts_once() -> None:
    code = "import os, time; held = b'x' * (64 << 20); child = os.fork(); time.sleep(0.5); child and os.wait()"
    process = subprocess.Popen([sys.executable, "-c", code])
    with ThreadPoolExecutor(1) as watching:
        highest = watching.submit(convert.peak_memory, process.pid)
        process.wait()
    assert 64 < highest.result(timeout=10) / convert.MIB < 100


def test_the_plain_loop_keeps_one_parameter_and_leaves_out_a_tool_that_it_cannot_match() -> None:
    text = '[{"name": "city", "description": "Where", "required": "True"}, {"name": "day", "description": "When", '
    good = f'Call this tool to interact with the sky API. What is it useful for? Forecasts. Parameters: {text}"required'
    bad = '2. fire: This API rings. Parameters: [{"name": "bell", "description": "Which", "required": "True"}]'
    system = f'{LISTED}1. sky: {good}": "True"}}]\n\n{bad}\n\nUse the following format:\n'
    shown = convert_plain.rewrite(system)
    assert '\nsky: sky API。Forecasts输入参数: {"type": "object", "properties": {"city": {' in shown
    assert "When" not in shown and "fire" not in shown and '必须是["sky"]之一' in shown
