"""A sweep ends with its points side by side: what was swept, and what came of it, the best first."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from fabrictune import record
from fabrictune.train import points


def trained(home: Path, variant: str, rank: int, best: float, test: str = "t", seed: int = 1) -> None:
    settings: dict[str, Any] = {"seed": seed, "lora": {"rank": rank, "alpha": 32.0}, "train": {"best_by": "eval_loss"}}
    settings["data"] = {"train.jsonl": "x", "test.jsonl": test}
    stage = record.open_stage(home / variant / "train", settings, overwrite=False, resume=False)
    stage.finish(best=best, best_step=2, steps=4, seconds=61.5)


def shown(home: Path, higher_is_better: bool = False) -> tuple[list[dict[str, str]], str]:
    printed = io.StringIO()
    points.show(home, higher_is_better=higher_is_better, console=Console(file=printed, width=120))
    return list(csv.DictReader((home / "train.csv").read_text().splitlines())), printed.getvalue()


def test_the_points_stand_with_what_they_differ_in_the_best_first(tmp_path) -> None:
    for variant, rank, best in (("rank-8", 8, 0.75), ("rank-16", 16, 0.5), ("rank-32", 32, 0.625)):
        trained(tmp_path, variant, rank, best)
    record.open_stage(tmp_path / "rank-64" / "train", {}, overwrite=False, resume=False)  # begun only
    lines, printed = shown(tmp_path)
    assert [(line["variant"], line["lora.rank"], line["best"]) for line in lines] == [
        ("rank-16", "16", "0.5"),
        ("rank-32", "32", "0.625"),
        ("rank-8", "8", "0.75"),
    ]
    assert list(lines[0]) == ["variant", "lora.rank", "best_by", "best", "best_step", "steps", "seconds"]
    assert printed.index("rank-16") < printed.index("rank-32") < printed.index("rank-8")
    assert [line["variant"] for line in shown(tmp_path, higher_is_better=True)[0]] == ["rank-8", "rank-32", "rank-16"]


def test_variants_of_other_test_data_are_said_not_to_compare(tmp_path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(points.logger, "propagate", True)
    trained(tmp_path, "a", 8, 0.5)
    trained(tmp_path, "b", 8, 0.25, seed=2)
    assert shown(tmp_path)[0][0]["seed"] == "2" and "cannot be compared" not in caplog.text
    trained(tmp_path, "c", 8, 0.25, test="other")
    shown(tmp_path)
    assert "cannot be compared" in caplog.text


def test_neighbours_that_cannot_be_read_are_left_out_with_a_warning(tmp_path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(points.logger, "propagate", True)
    trained(tmp_path, "a", 8, 0.5)
    for variant, text in (
        ("old", json.dumps({"finished": "2025-01-01", "settings": {}, "results": {"best": 0.25}})),
        ("lossless", json.dumps(json.loads((tmp_path / "a/train/run.json").read_text()) | {"results": {}})),
        ("half", "{"),
        ("list", "[]"),
    ):
        (tmp_path / variant / "train").mkdir(parents=True)
        (tmp_path / variant / "train" / "run.json").write_text(text)
    lines, printed = shown(tmp_path)
    assert [line["variant"] for line in lines] == ["a"] and "old" not in printed
    warned = {one.getMessage() for one in caplog.records if "is not in the table of the points: " in one.getMessage()}
    assert len(warned) == 4, warned
    assert f"{tmp_path}/old/train/run.json is not in the table of the points: KeyError: 'data'" in warned


def test_a_table_that_cannot_be_made_is_no_error_of_the_training_that_asks_for_it(
    tmp_path, caplog, monkeypatch
) -> None:
    monkeypatch.setattr(points.logger, "propagate", True)
    trained(tmp_path, "a", 8, 0.5)
    (tmp_path / "train.csv").mkdir()
    points.show(tmp_path, higher_is_better=False)
    assert "the table of the points could not be made: IsADirectoryError: " in caplog.text


def test_without_a_training_that_can_be_read_there_is_no_table(tmp_path) -> None:
    points.show(tmp_path, higher_is_better=False)
    assert list(tmp_path.iterdir()) == []
