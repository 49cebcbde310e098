"""What a user can get wrong ends in one sentence that names the way out, with exit code 1 and no traceback."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e  # each case starts a script, and the script its libraries
ROOT = Path(__file__).resolve().parent.parent
RECORD = {
    "id": "hello",
    "conversations": [{"from": "user", "value": "Hi"}, {"from": "assistant", "value": "Hello."}],
}


def complaint(script: str, *overrides: str) -> str:
    """The sentence with which the script ends, exit code 1; before it there is progress and nothing else."""
    command = [sys.executable, script, *overrides]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    *progress, line = ended.stderr.splitlines()
    assert line.startswith("error: ")
    assert not [other for other in progress if "error" in other.lower()]
    return line


@pytest.mark.parametrize(
    ("script", "overrides", "words"),
    [
        (
            "convert.py",
            ["data/mix=files", "data.mix.file.path={folder}/none.jsonl"],
            ["{folder}/none.jsonl", "no such file", "give the path of the data"],
        ),
        ("train.py", [], ["{folder}/mine/main/convert", "is missing", "python convert.py name=mine"]),
        ("merge.py", [], ["{folder}/mine/main/train", "is missing", "python train.py name=mine outputs={folder}"]),
    ],
)
def test_what_is_missing_is_named_with_what_to_do(
    tmp_path: Path, script: str, overrides: list[str], words: list[str]
) -> None:
    given = [override.format(folder=tmp_path) for override in overrides]
    line = complaint(script, "name=mine", f"outputs={tmp_path}", *given)
    assert all(word.format(folder=tmp_path) in line for word in words), line
    assert list(tmp_path.rglob("*.jsonl")) == []


def test_a_finished_conversion_is_refused_with_the_ways_out(tmp_path: Path) -> None:
    data = tmp_path / "mine.jsonl"
    data.write_text(json.dumps(RECORD), encoding="utf-8")
    overrides = ["data/mix=files", f"data.mix.file.path={data}", "name=mine", f"outputs={tmp_path / 'outputs'}"]
    first = subprocess.run([sys.executable, "convert.py", *overrides], cwd=ROOT, capture_output=True, check=False)
    assert first.returncode == 0, first.stderr
    line = complaint("convert.py", *overrides)
    for words in (f"{tmp_path}/outputs/mine/main/convert", "finished run", "variant=", "overwrite=true", "resume=true"):
        assert words in line
