"""A run's README.md: it names what really lies there, whole or not."""

from __future__ import annotations

import fcntl
import json
import logging
import re
import shlex
import shutil
import threading
import time
from pathlib import Path
from urllib.parse import unquote

from run_folders import RESULTS, SETTINGS, WHOLE, page, tried, write

from fabrictune import record


def test_every_file_named_is_there_and_every_one_there_is_named(tmp_path, monkeypatch) -> None:
    run = write(tmp_path / "demo" / "main", monkeypatch, *WHOLE)
    links = {unquote(link) for link in re.findall(r"\]\(([^)]+)\)", page(run))}
    assert all((run / link).exists() for link in links)
    folders = [run / step for step in WHOLE]
    there = {path.relative_to(run).as_posix() for folder in folders for path in folder.iterdir()}
    assert {link.rstrip("/") for link in links} == there


def set_commit(step: Path, commit: str | None) -> None:
    record.write_json(step / "run.json", json.loads((step / "run.json").read_text()) | {"commit": commit})


def test_steps_are_told_with_commands_times_and_the_commit(tmp_path, monkeypatch) -> None:
    run = write(tmp_path / "demo" / "main", monkeypatch, *WHOLE, words="+experiment=demo 'model.id=a b'")
    for step in WHOLE:
        made = json.loads((run / step / "run.json").read_text())
        assert f"**{step}**: done {made['finished']}" in page(run)
        assert shlex.join(["python", *made["command"]]) in page(run)
    set_commit(run / "train", "0123456789abcdef+changes")
    set_commit(run / "merge", None)
    record.write_run_page(run / "merge")
    assert re.search(r"\*\*train\*\*.*, with fabrictune 0123456789ab( and changes to it)?$", page(run), re.MULTILINE)
    assert re.search(r"\*\*merge\*\*.*, with fabrictune of no git checkout( and .*)?$", page(run), re.MULTILINE)
    assert r"own\|rows (openai): 1,200 dialogues to train on, 30 dialogues to test with, 2 rows left out" in page(run)


def test_scores_stand_for_base_and_tuned_on_tools_seen_and_unseen(tmp_path, monkeypatch) -> None:
    run = write(tmp_path / "demo" / "main", monkeypatch, *WHOLE)
    assert "| agentfabric | base | tuned |" in page(run)
    assert "| first call exact | 50.0 [25.0, 62.5] | 87.5 [25.0, 62.5] |" in page(run)
    assert "| first call exact, seen tools | 37.5 [25.0, 62.5] | 75.0 [25.0, 62.5] |" in page(run)
    assert "unseen tools" not in page(run), "of none there is no score"


def test_a_run_json_without_a_command_has_a_page_all_the_same(tmp_path, monkeypatch) -> None:
    run = write(tmp_path / "x" / "main", monkeypatch, "convert", "train", words="name=x")
    for step in ("convert", "train"):
        known = json.loads((run / step / "run.json").read_text())
        for key in ("command", "overrides", "commit", "patch"):
            known.pop(key, None)
        record.write_json(run / step / "run.json", known)
    (run / "README.md").unlink()
    record.write_run_page(run / "train")
    assert page(run).count("(its run.json names no command)") == 2
    assert tried(run)[0] == ["python", "merge.py", "name=x", f"outputs={tmp_path}"]


def test_a_variant_without_data_of_its_own_names_those_of_main(tmp_path, monkeypatch) -> None:
    write(tmp_path / "x" / "main", monkeypatch, "convert", words="name=x")
    run = write(tmp_path / "x" / "r8", monkeypatch, "train", words="name=x")
    assert "**convert** (of variant main, shared): done" in page(run)
    assert "1,200 dialogues to train on" in page(run)


def test_a_step_that_is_older_than_the_one_before_it_is_marked(tmp_path, monkeypatch) -> None:
    run = write(tmp_path / "x" / "main", monkeypatch, "convert", "train", "merge", words="name=x")
    assert "older than" not in page(run)
    time.sleep(1.1)  # run.json has whole seconds
    record.open_stage(run / "train", SETTINGS["train"], overwrite=True, resume=False).finish(**RESULTS["train"])
    (line,) = [line for line in page(run).splitlines() if "older than" in line]
    assert line.startswith("* **merge**") and "what train made since" in line


def test_a_page_that_cannot_be_written_is_told_and_ends_nothing(tmp_path, monkeypatch, caplog) -> None:
    run = tmp_path / "x" / "main"
    (run / "README.md").mkdir(parents=True)
    monkeypatch.setattr(logging.getLogger("fabrictune"), "propagate", True)
    write(run, monkeypatch, "convert", words="name=x")
    assert record.is_finished(run / "convert")
    assert "README.md could not be written: IsADirectoryError" in caplog.text
    assert not list(run.glob(".README*.part")), "nothing is left beside it"


def test_next_steps_that_cannot_be_told_are_not_called_a_page_that_could_not_be_written(
    tmp_path, monkeypatch, caplog
) -> None:
    run = write(tmp_path / "x" / "main", monkeypatch, "convert", words="name=x")
    (run / "convert" / "run.json").write_text("{")
    monkeypatch.setattr(logging.getLogger("fabrictune"), "propagate", True)
    assert record.closing(run) == []
    assert f"what to try next with {run} cannot be told: JSONDecodeError" in caplog.text
    assert "could not be written" not in caplog.text


def test_a_step_s_folder_that_is_only_being_deleted_is_no_step(tmp_path, monkeypatch) -> None:
    run = write(tmp_path / "x" / "main", monkeypatch, *WHOLE, words="name=x")
    shutil.copytree(run / "evaluate" / "agentfabric", run / "evaluate" / ".agentfabric.4711.old")
    record.write_run_page(run / "merge")
    assert "**evaluate/agentfabric**" in page(run) and "4711" not in page(run)


def test_who_writes_the_page_waits_for_another_and_then_tells_what_that_one_did(tmp_path, monkeypatch) -> None:
    run = write(tmp_path / "x" / "main", monkeypatch, "convert", words="name=x")
    slower = threading.Thread(target=record.write_run_page, args=(run / "convert",))
    with (run / ".README.md.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        slower.start()
        time.sleep(0.3)  # long enough to read the steps, were it not kept from it
        shutil.copytree(run / "convert", run / "merge")
    slower.join()
    assert "**merge**" in page(run)


def test_a_page_that_another_never_lets_go_of_keeps_no_step_waiting(tmp_path, monkeypatch) -> None:
    run = write(tmp_path / "x" / "main", monkeypatch, "convert", words="name=x")
    (run / "README.md").unlink()
    with (run / ".README.md.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        began = time.monotonic()
        record.write_run_page(run / "convert")
    assert 0.9 < time.monotonic() - began < 10
    assert "**convert**" in page(run)


def test_a_folder_that_is_no_step_s_gets_no_page(tmp_path) -> None:
    record.open_stage(tmp_path / "run" / "other", {}, overwrite=False, resume=False).finish()
    assert not (tmp_path / "run" / "README.md").exists()
