"""GitHub's workflows run what .ci/run runs, by targets that exist, with actions that cannot change under us."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
ACTIONS = sorted((ROOT / ".github/actions").glob("*/action.yml"))
CI, WEEKLY = ROOT / ".github/workflows/ci.yml", ROOT / ".github/workflows/weekly.yml"


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def jobs(path: Path) -> Iterator[tuple[str, dict[str, Any], list[dict[str, Any]]]]:
    """Each job with its values of the matrix and its steps, the values filled in; an action is one job."""
    content = read(path)
    for name, job in content.get("jobs", {"action": content.get("runs")}).items():
        for values in job.get("strategy", {}).get("matrix", {}).get("include", [{}]):
            text = yaml.safe_dump(job["steps"], width=10_000)
            for key, value in values.items():
                text = text.replace(f"${{{{ matrix.{key} }}}}", str(value))
            yield name, values, yaml.safe_load(text)


def commands(path: Path) -> list[str]:
    if path.suffix != ".yml":
        return path.read_text(encoding="utf-8").splitlines()
    return [step["run"] for _, _, steps in jobs(path) for step in steps if "run" in step]


def wanted(path: Path) -> set[str]:
    """The make targets that a workflow, an action or a script asks for."""
    calls = [found for line in commands(path) for found in re.findall(r"\bmake ((?:[a-z0-9-]+ ?)+)", line)]
    return {target for call in calls for target in call.split()}


def recipe(target: str) -> str:
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert found, target
    return found[1]


@pytest.mark.parametrize("path", [*WORKFLOWS, *ACTIONS, ROOT / ".ci/run"], ids=lambda path: path.name)
def test_every_target_that_is_asked_for_is_in_the_makefile(path: Path) -> None:
    targets = {name for line in re.findall(r"^([a-z0-9 -]+):", MAKEFILE, re.MULTILINE) for name in line.split()}
    assert wanted(path), "it asks for none"
    assert wanted(path) <= targets


def test_the_jobs_of_ci_together_run_what_ci_run_runs() -> None:
    assert wanted(ROOT / ".ci/run") == {"lint", "test"}
    assert wanted(CI) == {"lint", "unit", "e2e"}


def test_unit_and_e2e_are_all_tests_but_those_for_a_gpu() -> None:
    marks = {
        target: re.findall(r'-m ("[^"]+"|\w+)$', recipe(target), re.MULTILINE) for target in ("test", "unit", "e2e")
    }
    assert marks == {"test": [], "unit": ['"not e2e and not gpu"'], "e2e": ["e2e"]}


def test_every_benchmark_runs_weekly_with_words_that_it_takes() -> None:
    ran = {}
    for _, values, steps in jobs(WEEKLY):
        if "script" in values:
            (command,) = [step["run"] for step in steps if "benchmarks/" in step.get("run", "")]
            python, script, *words = shlex.split(command)
            assert (python, script) == (".venv/bin/python", f"benchmarks/{values['script']}.py")
            ran[values["script"]] = words
    scripts = (ROOT / "benchmarks").glob("*.py")
    sides = sorted(path.stem for path in scripts if "measure.parser(" in path.read_text(encoding="utf-8"))
    assert sorted(ran) == sides != []
    for script, words in ran.items():
        options = importlib.import_module(f"benchmarks.{script}")._options(words)
        assert options.markdown is not None, script


@pytest.mark.parametrize("path", [*WORKFLOWS, *ACTIONS], ids=lambda path: path.name)
def test_an_action_is_ours_or_named_by_its_commit(path: Path) -> None:
    for name, said in re.findall(r"uses: (\S+)(.*)", path.read_text(encoding="utf-8")):
        if name.startswith("./"):
            assert (ROOT / name / "action.yml").is_file()
        else:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", name), name
            assert re.fullmatch(r" # v\d+\.\d+\.\d+", said), f"{name} does not say its version"


def test_one_action_has_one_version_everywhere() -> None:
    used = {name for path in [*WORKFLOWS, *ACTIONS] for name in re.findall(r"uses: (\w\S+)", path.read_text("utf-8"))}
    assert len(used) == len({name.split("@")[0] for name in used})


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_only_read_and_each_job_ends_in_time(path: Path) -> None:
    assert read(path)["permissions"] == {"contents": "read"}
    assert read(path)["concurrency"]["cancel-in-progress"] is True
    assert all("timeout-minutes" in job for job in read(path)["jobs"].values())


def test_the_hooks_before_a_commit_run_what_lint_runs() -> None:
    (ours,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    hooks = [hook["entry"].removesuffix(" --force-exclude") for hook in ours["hooks"]]
    lint = recipe("lint").strip().removeprefix("@").replace("$(VENV)", ".venv")
    assert hooks == [command.removesuffix(" .") for command in lint.split(" && ")]
