"""A model's entry is put into AgentFabric's file as text: json reads it there, and all else stays byte for byte."""

from __future__ import annotations

import difflib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabrictune.serve import model_config

ENTRY = model_config.entry("demo", "http://127.0.0.1:8000/v1")
FILE = '{\n    "qwen-max": {\n        "type": "dashscope",\n        "model": "qwen-max"\n    }\n}\n'


def test_the_entry_is_what_both_generations_of_the_client_take() -> None:
    assert ENTRY == {
        "type": "openai",
        "model": "demo",
        "api_base": "http://127.0.0.1:8000/v1",
        "is_chat": True,
        "is_function_call": False,
        "support_stream": False,
    }


@pytest.mark.parametrize(
    "text",
    [
        FILE,
        FILE.replace("\n", "\r\n"),
        FILE.replace("    ", "\t"),
        FILE.replace("    ", "  ").rstrip("\n"),
        "\ufeff" + FILE,
        FILE.replace("qwen-max", "通义千问"),
        FILE.replace("qwen-max", "\\u901a"),
        FILE.replace('"qwen-max"\n', '"a}, \\"b: {"\n'),
        '{"a": 1, "b": {"c": [1,  2.50]}}',
        '{"a":1}',
        '\n { "a" : 1.0e5 , "b":"}" }  \n',
        "{}",
        "{\n}\n",
    ],
)
def test_the_entry_comes_last_and_nothing_else_changes(text: str) -> None:
    after = model_config.with_entry(text, "demo", ENTRY, overwrite=False)
    before = json.loads(text.removeprefix("\ufeff"))
    assert json.loads(after.removeprefix("\ufeff")) == before | {"demo": ENTRY}
    assert list(json.loads(after.removeprefix("\ufeff")))[-1] == "demo"
    kept = text if before else "{}"  # the blanks in an object without members may go
    pieces = difflib.SequenceMatcher(a=kept, b=after, autojunk=False).get_opcodes()
    assert {kind for kind, *_ in pieces} <= {"equal", "insert"}, "nothing is taken away"
    assert model_config.with_entry(after, "demo", ENTRY, overwrite=False) is after


def test_the_entry_is_laid_out_as_the_others_are() -> None:
    after = model_config.with_entry(FILE, "demo", ENTRY, overwrite=False)
    assert after == json.dumps(json.loads(FILE) | {"demo": ENTRY}, indent=4) + "\n"
    windows = model_config.with_entry(FILE.replace("\n", "\r\n"), "demo", ENTRY, overwrite=False)
    assert windows == after.replace("\n", "\r\n")
    assert model_config.with_entry('{"a": 1, "b": 2}', "d", {"x": True}, overwrite=False) == (
        '{"a": 1, "b": 2, "d": {"x": true}}'
    )


def test_another_entry_of_the_name_is_replaced_only_when_asked() -> None:
    text = model_config.with_entry(FILE, "demo", ENTRY, overwrite=False)
    text = text.replace("}\n}\n", '},\n    "last": 0\n}\n')
    other = model_config.entry("demo", "http://127.0.0.1:9000/v1")
    with pytest.raises(ValueError, match="another entry 'demo'.*overwrite=true.*serve.model_name="):
        model_config.with_entry(text, "demo", other, overwrite=False)
    assert model_config.with_entry(text, "demo", other, overwrite=True) == text.replace(":8000/", ":9000/")


@pytest.mark.parametrize("text", ["[]", "", '{"a": 1,}', "{'a': 1}", '{"a": 1} x', "// words\n{}"])
def test_what_agentfabric_could_not_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        model_config.with_entry(text, "demo", ENTRY, overwrite=True)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(
    st.dictionaries(st.text(), VALUES, max_size=4),
    st.text(),
    st.sampled_from([None, 0, 2, 4, "\t"]),
    st.booleans(),
)
def test_any_file_keeps_what_it_has(
    content: dict[str, object], name: str, indent: int | str | None, ascii: bool
) -> None:
    text = json.dumps(content, indent=indent, ensure_ascii=ascii)
    after = model_config.with_entry(text, name, ENTRY, overwrite=True)
    assert json.loads(after) == content | {name: ENTRY}
    assert list(json.loads(after)) == list(content | {name: ENTRY})


@pytest.mark.parametrize("name", ["qwen-7b", "llama3-8b", "qwen-1_8b", "qwen-7b_mine", "qwen-audio-chat"])
def test_names_that_client_072_cannot_speak_to_are_known(name: str) -> None:
    assert model_config.is_failing_name(name)


@pytest.mark.parametrize("name", ["demo", "qwen-7b-chat", "qwen-1_8b-chat", "my-qwen-7b", "qwen-7b-chat_demo"])
def test_other_names_are_fine(name: str) -> None:
    assert not model_config.is_failing_name(name)
