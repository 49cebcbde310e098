"""The card of a merged model says what it was made of and what it scored, as hubs read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from fabrictune import record
from fabrictune.merge import model_card

BASE = {"source": "hub", "id": "Qwen/Qwen2.5-7B-Instruct", "file": None, "dtype": "bfloat16", "revision": "abc123"}
MERGE: dict[str, Any] = {"model": BASE, "adapter": "a1" * 32, "from": None}
FIRST_CALL = {"value": 0.5128, "low": 0.431, "high": 0.596, "count": 156}


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The records of a run that was trained, as its steps leave them."""
    run = tmp_path / "outputs" / "agent" / "rank-8"
    entry = {"source": "sharegpt", "files": {"/data/a|b.jsonl": "f0" * 32}}
    convert = {
        "commit": "c0ffee" * 6,
        "patch": "diff",
        "settings": {"mix": {"mine": entry}},
        "results": {"hashes": {"train.jsonl": "d1" * 32}},
    }
    write(run / "convert" / "run.json", convert)
    counts = {"place": "/data", "train": {"dialogues": 90}, "test": {"dialogues": 10}}
    write(run / "convert" / "stats.json", {"languages": {"zh": 3, "en": 5}, "sources": {"mine": counts}})
    settings = {
        "data": {"train.jsonl": "d1" * 32},
        "seed": 7,
        "max_length": 2048,
        "lora": {"rank": 8},
        "train": {"epochs": 2.0},
        "launcher": {"ranks": 8},
    }
    results = {"steps": 67, "best_step": 60, "best": 0.46, "seconds": 12.5, "base": "/secret/home"}
    write(run / "train" / "run.json", {"commit": "beef" * 9, "patch": None, "settings": settings, "results": results})
    return run


def evaluated(run: Path, suite: str, measures: dict[str, Any]) -> None:
    cell = {"rows": 171, "measures": measures}
    merged = run / "merge" / "run.json"
    write(merged, {"settings": MERGE})
    write(run / "evaluate" / suite / "run.json", {"settings": {"models": {"tuned": record.file_hash(merged)}}})
    write(run / "evaluate" / suite / "scores.json", {"suite": suite, "models": {"tuned": {"all": cell, "by": {}}}})


def card(run: Path, merge: dict[str, Any] = MERGE) -> ModelCard:
    """The card as it is when the model is merged."""
    return ModelCard(model_card.render(model_card.read(run, run / "convert", merge)))


def scored(run: Path) -> ModelCard:
    """The card as it is when the model that is merged now has been evaluated."""
    model_card.keep(run / "merge", model_card.read(run, run / "convert", MERGE))
    facts = model_card.scored(run)
    assert facts
    return ModelCard(model_card.render(facts))


def test_the_card_names_the_base_the_data_with_hashes_and_the_recipe(run: Path) -> None:
    found = card(run)
    assert found.data.base_model == "Qwen/Qwen2.5-7B-Instruct" and found.data.language == ["en", "zh"]
    lines = found.text.splitlines()
    assert "| revision | abc123 |" in lines and f"| SHA-256 of the adapter | {'a1' * 32} |" in lines
    assert rf"| mine | sharegpt | /data | 90 | 10 | a\|b.jsonl {'f0' * 32}  |" in lines
    assert f"SHA-256 of what was converted: train.jsonl {'d1' * 32}." in lines
    for line in ("| lora.rank | 8 |", "| launcher.ranks | 8 |", "| data.max_length | 2048 |", "| best step | 60 |"):
        assert line in lines
    assert "convert.py of fabrictune c0ffeec0ffee with changes, train.py of fabrictune beefbeefbeef." in lines
    assert "Not evaluated yet" in found.text and "/secret/home" not in found.text


def test_scores_stand_in_the_text_and_where_hubs_look_for_them(run: Path) -> None:
    evaluated(run, "agentfabric", {"first_call": FIRST_CALL, "success": {"value": None, "low": None, "high": None}})
    evaluated(run, "general", {"perplexity": {"value": 7.25, "low": None, "high": None, "count": 9}})
    found = scored(run)
    assert "| first call exact, percent | 51.3 [43.1, 59.6] |" in found.text.splitlines()
    assert "| turn right, percent | - |" in found.text.splitlines()
    assert "| perplexity (lower is better) | 7.25 |" in found.text.splitlines()
    head = yaml.safe_load(found.content.split("---")[1])
    (model,) = head["model-index"]
    assert model["name"] == "agent/rank-8"
    values = {(one["dataset"]["name"], m["type"]): m["value"] for one in model["results"] for m in one["metrics"]}
    assert values == {("agentfabric", "first_call"): 51.28, ("general", "perplexity"): 7.25}


def test_scores_of_a_model_that_was_merged_before_are_left_out(run: Path) -> None:
    evaluated(run, "agentfabric", {"first_call": FIRST_CALL})
    assert "51.3" in scored(run).text
    write(run / "merge" / "run.json", {"settings": MERGE | {"adapter": "b2" * 32}})
    assert "Not evaluated yet" in scored(run).text and "model-index" not in scored(run).content


def test_of_an_adapter_from_elsewhere_no_data_or_recipe_is_claimed(run: Path) -> None:
    found = card(run, MERGE | {"from": "/other/adapter"})
    assert "not of this run's training: /other/adapter" in found.text
    assert found.text.count("Not known: the adapter comes from elsewhere") == 2 and "lora.rank" not in found.text


def test_data_converted_anew_since_the_training_is_not_claimed(run: Path) -> None:
    path = run / "convert" / "run.json"
    write(path, json.loads(path.read_text()) | {"results": {"hashes": {"train.jsonl": "e2" * 32}}})
    assert "converted anew since" in card(run).text and "e2e2" not in card(run).text and "lora.rank" in card(run).text


def test_a_training_after_the_merge_does_not_change_the_card(run: Path) -> None:
    evaluated(run, "agentfabric", {"first_call": FIRST_CALL})
    model_card.keep(run / "merge", model_card.read(run, run / "convert", MERGE))
    path = run / "train" / "run.json"
    write(path, json.loads(path.read_text().replace('"rank": 8', '"rank": 64')))
    facts = model_card.scored(run)
    assert facts and "| lora.rank | 8 |" in model_card.render(facts) and "51.3" in model_card.render(facts)


def test_tables_are_whole_markdown(run: Path) -> None:
    evaluated(run, "agentfabric", {"first_call": FIRST_CALL})
    lines = scored(run).text.splitlines()
    for place, line in enumerate(lines):
        if line.startswith("|---"):
            assert lines[place - 1].count("|") == line.count("|") == lines[place + 1].replace(r"\|", "").count("|")


def test_the_card_replaces_the_one_that_was_written_before(run: Path, tmp_path: Path) -> None:
    for _ in range(2):
        model_card.write(tmp_path, model_card.read(run, run / "convert", MERGE))
    assert [path.name for path in tmp_path.glob("*.md")] == ["README.md"]
