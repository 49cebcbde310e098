"""Paths and names reach the config as they were typed; what cannot be meant ends in one sentence."""

from __future__ import annotations

import pwd
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hypothesis import assume, given
from hypothesis import strategies as st

from fabrictune.command_line import override, quote_plain_words, quoted, require_mix

ROOT = Path(__file__).resolve().parent.parent
PATH = "data.mix.file.path"
HYDRAS_OWN = re.compile(r"\\[\\()\[\]{}:=, \t]")  # its escapes, which it reads and we leave alone


def composed_path(word: str) -> str:
    """What Hydra itself makes of the word."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return str(compose("config", overrides=["data/mix=files", *quoted([word])]).data.mix.file.path)


@pytest.mark.parametrize(
    "path",
    [
        "[a]天[b]",
        "/tmp/数据/样本.jsonl",
        "/tmp/my data (1)/a=b.jsonl",
        "data(1).jsonl",
        '/tmp/it\'s "mine" #1 & 2; 50%~.jsonl',
        "C:\\数据\\",
        "/tmp/{数据}.jsonl",
        "/tmp/plain.jsonl",
        "[1] notes.jsonl",
        "{a}.jsonl",
        "int(3).jsonl",
        "[unclosed",
        '"half a quote',
        '"a" b.jsonl',
    ],
)
def test_a_path_is_what_was_typed(path: str) -> None:
    assert composed_path(f"{PATH}={path}") == path


@given(st.text("数é (){}[]'\"\\=#&;~!%*?<>|ab/.-", min_size=1, max_size=12))
def test_any_path_below_a_folder_is_what_was_typed_or_is_refused(name: str) -> None:
    assume(not HYDRAS_OWN.search(name))
    path = f"/tmp/x{name}x"
    assert quoted(quoted([f"{PATH}={path}"])) == quoted([f"{PATH}={path}"]), "a rank that is started so reads the same"
    assert str(OverridesParser.create().parse_override(quoted([f"{PATH}={path}"])[0]).value()) == path


@pytest.mark.parametrize(
    "word",
    [
        "lora.rank=4,8",
        "lora.rank=choice(4,8)",
        "train.learning_rate=range(1,4)",
        f'{PATH}="/tmp/数据.jsonl"',
        f"{PATH}='/tmp/数据.jsonl'",
        '+data.mix.me={source: self_cognition, names: {zh: "小织"}}',
        "data.heldout_families=[a,b]",
        "~data.mix.file",
        "+experiment=demo",
        "eval.compare=null",
        "name=",
        "-m",
        "--multirun",
    ],
)
def test_what_hydra_reads_is_left_as_it_is(word: str) -> None:
    assert quoted([word]) == [word]


def test_values_of_hydras_own_options_are_no_overrides() -> None:
    words = ["--cfg", "job", "-p", "data.mix", "--config-dir", "/tmp/数据=1", "name=样本"]
    assert quoted(words) == [*words[:-1], 'name="样本"']


def test_a_home_folder_is_found_behind_the_sign_of_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert quoted([f"{PATH}=~/数据.jsonl", "outputs=~/runs"]) == [
        f'{PATH}="/home/ada/数据.jsonl"',
        "outputs=/home/ada/runs",
    ]
    assert quoted(["outputs=~"]) == ["outputs=/home/ada"]
    root = pwd.getpwuid(0)
    assert quoted([f"outputs=~{root.pw_name}/runs"]) == [f"outputs={root.pw_dir}/runs"]
    assert quoted(["outputs=~nobody-has-this-name/runs"]) == ['outputs="~nobody-has-this-name/runs"'], "as in a shell"


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("+data.mix.me={names: {zh: 小织}}", "inside a list, a mapping"),
        ("data.heldout_families=[天气]", "inside a list, a mapping"),
        ("data.heldout_families=[a,b", """'data.heldout_families="A,B"'"""),
        ("name=choice(样,本)", "inside a list, a mapping"),
        ("name=样,本", """'name="A,B"'"""),
        ("data.mix.数据.path=x", "the key 'data.mix.数据.path' may hold letters a-z"),
        ("name", "an override is KEY=VALUE, without blanks around the ="),
        ("name =x", "the key 'name ' may hold"),
    ],
)
def test_what_cannot_be_meant_ends_in_one_sentence_with_the_word(
    monkeypatch: pytest.MonkeyPatch, word: str, reason: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["convert.py", "seed=1", word])
    with pytest.raises(SystemExit) as ended:
        quote_plain_words()
    assert str(ended.value).startswith(f"convert.py: cannot read the override {word}: ")
    assert reason in str(ended.value) and "\n" not in str(ended.value)


@pytest.mark.parametrize("script", ["convert.py", "train.py", "merge.py", "serve.py", "evaluate.py"])
def test_every_script_takes_chinese_without_more_quotes_than_the_shells(script: str) -> None:
    command = [sys.executable, script, "name=样本 (1)", "--cfg", "job"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False)
    assert ended.returncode == 0, ended.stderr
    assert "name: 样本 (1)" in ended.stdout


@pytest.mark.parametrize(
    ("words", "mix"),
    [
        (["name=mine", f"{PATH}=x.jsonl"], "data/mix=files"),
        (["data.mix.hub.modelscope=a/b"], "data/mix=huggingface or data/mix=modelscope"),
    ],
)
def test_a_source_without_its_mix_is_refused_with_the_mix(words: list[str], mix: str) -> None:
    with pytest.raises(SystemExit, match=f"{words[-1]} is given, but no mix .*; give {mix} as well"):
        require_mix(words)


@pytest.mark.parametrize(
    "words",
    [
        ["data/mix=files", f"{PATH}=x.jsonl"],
        ["+experiment=mine", f"{PATH}=x.jsonl"],
        ["+sweep=mine", "data.mix.hub.modelscope=a/b"],
        ["--config-name", "mine", f"{PATH}=x.jsonl"],
        ["+data.mix.file={source: openai}", f"{PATH}=x.jsonl"],
        ["data.mix.synthetic.count=20"],
    ],
)
def test_a_source_may_come_with_its_mix_or_with_a_config_of_ones_own(words: list[str]) -> None:
    require_mix(words)


@pytest.mark.parametrize(
    "value", ["/tmp/runs", "/tmp/a,b", "[x]", "/tmp/my data (1)", "数据", "null", "true", "8", "it's"]
)
def test_an_override_that_we_print_is_read_as_that_one_text(value: str) -> None:
    read = OverridesParser.create().parse_override(override("outputs", value))
    assert not read.is_sweep_override()
    assert str(read.value()) == value and isinstance(read.value(), str | QuotedString)
