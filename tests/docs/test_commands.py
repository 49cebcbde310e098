"""What README, CONTRIBUTING and docs tell a reader to type can be typed: each command is run, or composed as the script
would, or stands in a list with the reason why it is not; the settings, files and examples they name are there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from checks import (
    EXAMPLES,
    OTHER_SETTINGS,
    PROGRAMS,
    PYTHONS,
    ROOT,
    SCRIPTS,
    check,
    check_name,
    check_setting,
    check_yaml,
    composed,
    missing,
)
from commands import Code, Command, codes, commands, links, settings
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

# docs/log.md is a record: its commands must work, but it may name what has gone since.
TEXTS = sorted([*ROOT.glob("README*.md"), *ROOT.glob("CONTRIBUTING*.md"), *ROOT.glob("docs/*.md")])
PRESENT = [path for path in TEXTS if path.name != "log.md"]


def read(path: Path) -> tuple[str, list[Code]]:
    text = path.read_text(encoding="utf-8")
    return text, codes(text, path.relative_to(ROOT).as_posix())


CODES = [code for path in TEXTS for code in read(path)[1]]
COMMANDS = [command for code in CODES for command in commands(code, PROGRAMS)]
SETTINGS = [(code.place, key, value) for code in CODES if not commands(code, PROGRAMS) for key, value in settings(code)]


def test_the_texts_have_commands_to_check() -> None:
    programs = {command.words[1] if command.program in PYTHONS else command.program for command in COMMANDS}
    assert {*SCRIPTS, "make", "curl"} <= programs
    assert len(COMMANDS) > 100 and len(SETTINGS) > 80


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.place} {' '.join(command.words)[:60]}")
def test_a_command_can_be_typed_as_it_stands(command: Command) -> None:
    check(command)


@pytest.mark.skipif(not (ROOT / "README.zh.md").is_file(), reason="no README.zh.md")
def test_the_chinese_readme_has_the_commands_of_the_english_one() -> None:
    english, chinese = (
        [command.words for code in read(ROOT / name)[1] if not code.is_inline for command in commands(code, PROGRAMS)]
        for name in ("README.md", "README.zh.md")
    )
    assert [words for words in chinese if words[0] != "curl"] == [words for words in english if words[0] != "curl"]


def test_every_target_of_make_help_can_be_made() -> None:
    told = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = re.findall(r"^  make (\S+)", told, re.MULTILINE)
    assert {"install", "demo", "test", "lint"} <= set(targets)
    for target in targets:
        check(Command("Makefile", f"make {target}", ("make", target)))


@pytest.mark.parametrize("path", PRESENT, ids=lambda path: path.name)
def test_every_setting_that_a_text_names_is_one_of_the_config(path: Path) -> None:
    wrong = []
    for place, key, value in SETTINGS:
        if place.partition(":")[0] == path.relative_to(ROOT).as_posix() and key not in OTHER_SETTINGS:
            wrong += _complaint(place, partial(check_setting, key, value))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", PRESENT, ids=lambda path: path.name)
def test_every_file_key_and_module_that_a_text_names_is_there(path: Path) -> None:
    text, found = read(path)
    wrong = [f"{path.name}: no {name}" for name in missing(text)]
    for code in found:
        if code.is_inline:
            wrong += _complaint(code.place, partial(check_name, code.text))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_every_link_leads_to_a_file(path: Path) -> None:
    text, _ = read(path)
    near = [(place, target.partition("#")[0]) for place, target in links(text, path.name) if ":" not in target]
    assert [f"{place}: {target}" for place, target in near if target and not (path.parent / target).exists()] == []


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_examples_in_json_python_and_yaml_can_be_read(path: Path) -> None:
    wrong = []
    for code in read(path)[1]:
        if not code.is_inline:
            wrong += _complaint(code.place, code.check)
            wrong += _complaint(code.place, partial(check_yaml, code.text)) if code.kind == "yaml" else []
    assert not wrong, "\n".join(wrong)


def _complaint(place: str, checked: Callable[[], None]) -> list[str]:
    try:
        checked()
    except Exception as error:
        return [f"{place}: {type(error).__name__}: {error}"]
    return []


def script_commands(sign: str) -> list[Command]:
    return [one for one in COMMANDS if one.words[1:2] and one.words[1] in SCRIPTS and sign in one.line]


@pytest.mark.e2e
@pytest.mark.parametrize("sign", ["data/mix=files", "+experiment=", "serve=capture"])
def test_what_is_composed_here_is_what_the_script_composes(sign: str) -> None:
    command = script_commands(sign)[0]
    words = [EXAMPLES.get(word, word) for word in command.words[1:]]
    asked = [sys.executable, *words, "--cfg", "job"]
    told = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    whole = composed(tuple(words[1:]))
    assert OmegaConf.create(told) == OmegaConf.masked_copy(whole, [str(key) for key in whole if key != "hydra"])


TURNS = [("Is it raining in Oslo?", "It is dry."), ("And in Bergen?", "It rains there.")]
ROWS: dict[str, dict[str, Any]] = {
    "sharegpt": {
        "conversations": [
            {"from": who, "value": text} for turn in TURNS for who, text in zip(("human", "gpt"), turn, strict=True)
        ],
        "tools": "[]",
    },
    "openai": {
        "messages": [
            {"role": who, "content": text}
            for turn in TURNS
            for who, text in zip(("user", "assistant"), turn, strict=True)
        ],
    },
}


@pytest.mark.e2e
def test_the_readmes_command_for_data_of_ones_own_converts_a_file(tmp_path: Path) -> None:
    command = next(one for one in script_commands("data.mix.file.path=") if one.place.startswith("README"))
    given = dict(word.split("=", 1) for word in command.words[2:])
    row = ROWS[given["data.mix.file.source"]]
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(f"{json.dumps(row).replace('Oslo', f'Oslo {i}')}\n" for i in range(20)), encoding="utf-8")
    given |= {"data.mix.file.path": str(file), "outputs": str(tmp_path / "outputs")}
    words = [sys.executable, command.words[1], *(f"{key}={value}" for key, value in given.items())]
    subprocess.run(words, cwd=ROOT, capture_output=True, check=True)
    rows = (tmp_path / "outputs" / given["name"] / "main" / "convert" / "train.jsonl").read_text(encoding="utf-8")
    assert "Oslo" in rows and "It rains there." in rows


SAMPLE = """# A page

    $ python train.py lora.rank=8   # the run's rank
    rank 8
    $ make train ARGS="name=mine \\
        lora.rank=8" && cd ../elsewhere && A=1 sh run.sh

Say `serve.strict=true +sweep=mix`, then `make
demo`; `make` alone and `train.py was killed` are none.

```sh
python - <<'END'
import sys
END
curl -d '{"model":
  "m"}' http://127.0.0.1:8000/v1/models; git log
```

| a `data.mix.x.ratio=1` | b |
|---|---|
| [there](commands.py) | `c` |

    "mine": {"type": "openai"}

A tree:

    outputs/
      a/

A program:

    from x import y
    y(1)

```text
anything at all
```
"""


def test_commands_are_found_where_a_reader_finds_them() -> None:
    found = [command for code in codes(SAMPLE, "a.md") for command in commands(code, PROGRAMS)]
    assert [(command.place, command.words) for command in found] == [
        ("a.md:3", ("python", "train.py", "lora.rank=8")),
        ("a.md:5", ("make", "train", "ARGS=name=mine     lora.rank=8")),
        ("a.md:5", ("cd", "../elsewhere")),
        ("a.md:5", ("sh", "run.sh")),
        ("a.md:8", ("make", "demo")),
        ("a.md:12", ("python", "-", "<<END")),
        ("a.md:15", ("curl", "-d", '{"model":\n  "m"}', "http://127.0.0.1:8000/v1/models")),
        ("a.md:15", ("git", "log")),
    ]
    assert found[3].folder == "../elsewhere" and found[3].environment == ("A=1",)
    assert found[5].stdin == "import sys"


def test_settings_links_and_examples_are_found_with_their_place() -> None:
    found = codes(SAMPLE, "a.md")
    assert [(code.place, *one) for code in found for one in settings(code)] == [
        ("a.md:8", "serve.strict", "true"),
        ("a.md:8", "sweep", "mix"),
        ("a.md:19", "data.mix.x.ratio", "1"),
    ]
    assert [code.kind for code in found if not code.is_inline] == ["bash", "bash", "json", "text", "python", "text"]
    assert [target for _, target in links(SAMPLE, "a.md")] == ["commands.py"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("python train.py lora.rnak=8", "rnak"),
        ("python train.py +lora.rnak=8", "rnak"),
        ("python train.py lora.rank=eight", "lora.rank"),
        ("python train.py lora.rank=8,16", "multirun"),
        ("python train.py -m lora.rank=8,0", "lora.rank is 0"),
        ("python train.py name=mine -m lora.rank=8", "2"),
        ("python train.py +sweep=lr train.learning_rate=fast", "train.learning_rate"),
        ("python train.py +experiment=demon", "demon"),
        ("train.py data/mix=files", "data.mix.file.path"),
        ("python trian.py", "trian.py"),
        ("python -m pytset", "pytset"),
        ("python -m pytest tests/test_nothing.py", "tests/test_nothing.py"),
        ("python benchmarks/train.py --peer-s", "2"),
        ("make trian", "trian"),
        ("make docs", "docs"),
        ("make train ARG=name=mine", "ARG"),
        ('make train ARGS="lora.rnak=8"', "rnak"),
        ("curl http://127.0.0.1:8000/v2/chat", "/v2/chat"),
        ("curl http://127.0.0.1:8000/v1/chat/completions -d '{model: m}'", "returned non-zero|Expecting"),
        ("export FABRIC_TUNE_KEY=x", "FABRIC_TUNE_KEY"),
        ("frobnicate --all", r"README\.md:3: frobnicate"),
        ("python train.py name=<mine>", "bash cannot read it"),
        ("python train.py 'name=mine", "bash cannot read it"),
    ],
)
def test_a_command_that_does_not_work_is_told(line: str, said: str) -> None:
    (code,) = codes(f"A\n\n    {line}\n", "README.md")
    with pytest.raises((Exception, SystemExit), match=said):
        for command in commands(code, PROGRAMS):
            check(command)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lora.rnak", "8"),
        ("lora.rank", "eight"),
        ("lora.rank", "choice(8, many)"),
        ("eval", "bfcll"),
        ("data.format", "agentfabrik"),
        ("data.mix.file.pat", "a.jsonl"),
        ("data.mix.file", "{sourc: openai}"),
        ("hydra.sweeper.n_trails", "9"),
        ("TRIES", "3"),
        ("tempo", "3"),
    ],
)
def test_a_setting_that_the_config_has_not_is_told(key: str, value: str) -> None:
    with pytest.raises(Exception, match=r".+"):
        check_setting(key, value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lora.rank", "choice(8, 16)"),
        ("lora.rank", "8,16"),
        ("data.mix.file.path", "数据 (1).jsonl"),
        ("train.learning_rate", "tag(log, interval(1e-5, 1e-4))"),
        ("train.learning_rate", "NUMBER"),
        ("data.mix.NAME.count", "null"),
        ("data.mix.file", "{source: openai, path: a.jsonl}"),
        ("eval", "bfcl,general"),
        ("data/mix", "files"),
        ("ARGS", "..."),
        ("serve.adapters.tuned", "FOLDER"),
    ],
)
def test_a_setting_of_the_config_is_taken(key: str, value: str) -> None:
    check_setting(key, value)


def test_names_of_what_is_not_there_are_told() -> None:
    text = "conf/train/sft.yaml, tests/test_<module>.py, docs/*.md; conf/nothing.yaml and fabrictune/serving.py."
    assert missing(text) == ["conf/nothing.yaml", "fabrictune/serving.py"]
    assert missing("见docs/data.md。还有docs/date.md里") == ["docs/date.md"]
    assert missing("conf/experiment/mine.yaml") == [] and missing("conf/experimint/mine.yaml") != []
    for name in ("serving_.py", "lora.rnak", "fabrictune.serving", "config.Sauce"):
        with pytest.raises((AssertionError, KeyError)):
            check_name(name)
    for name in ("serving.py", "lora.rank", "fabrictune.serve.serving", "config.Source", "train.jsonl", "any.thing"):
        check_name(name)


def test_examples_that_cannot_be_read_are_told() -> None:
    for language, text in (("json", '{"a": }'), ("python", "def f(:"), ("yaml", "a: [b"), ("jsonl", '{"a": 1}\n{')):
        with pytest.raises((ValueError, SyntaxError, yaml.YAMLError)):
            Code("a.md", 1, text, language).check()
    for text in ("lora: {rnak: 8}", "agent: {sourc: openai}", "on: push"):
        with pytest.raises((AssertionError, OmegaConfBaseException)):
            check_yaml(text)
    for text in ("defaults: [model]\nlora: {rank: 8}", "agent: {source: openai, path: a}", "rank: 8\nalpha: 16"):
        check_yaml(text)
