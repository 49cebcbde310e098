"""What the grammars let through: random models that know only the grammar write calls, which are read and validated."""

from __future__ import annotations

import json
import logging
import random
from typing import Any

import jsonschema
import pytest
import xgrammar

from fabrictune.serve import grammars
from fabrictune.serve.tool_calls import read

ORDER = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "unit": {"type": "string", "enum": ["celsius", 'the "other"', "华氏\n度"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "grid": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}, "maxItems": 3},
        "code": {"type": "string", "pattern": "^[^x]{2}.\\s$"},
        "note": {"type": ["string", "null"], "maxLength": 5},
        "inner": {"$ref": "#/$defs/node"},
        "mail": {"type": "string", "format": "email"},
        "free": {},
    },
    "required": ["city", "days"],
    "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}, "ok": {"type": "boolean"}}}},
}
CALL = 'Action: order\nAction Input: {"city": "Rome", "days": 2}\n'
EMPTY = "Action: ping\nAction Input: {}\n"

# A vocabulary of single characters and of what would do harm, as a tokenizer might hold it in one token.
VOCABULARY = [
    *map(chr, range(0x20, 0x7F)),
    *[
        "\n",
        "\t",
        "\r",
        "\x00",
        "é",
        "度",
        "Action:",
        "Observation:",
        "Observ",
        "\n}",
        '": "',
        '", "',
        "\\n",
        "}\n",
        "\n\n",
    ],
    "<end>",
]
END = len(VOCABULARY) - 1
CLOSING = ('"', "}", "]", "\n", "<end>", "}\n", ":", "@")


def compiled(tag) -> xgrammar.CompiledGrammar:
    vocabulary = xgrammar.TokenizerInfo(VOCABULARY, stop_token_ids=[END])
    return xgrammar.GrammarCompiler(vocabulary, max_threads=1).compile_structural_tag(tag)


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"x": schema}, "required": ["x"]}
    return schema


def accepts(tag, text: str) -> bool:
    matcher = xgrammar.GrammarMatcher(compiled(tag), terminate_without_stop_token=True)
    return matcher.accept_string(text) and matcher.is_completed()


def write(grammar: xgrammar.CompiledGrammar, seed: int, longest: int = 600) -> str:
    """What a model without any sense writes: a token at random of those allowed, and more and more such as close."""
    generator = random.Random(seed)
    matcher = xgrammar.GrammarMatcher(grammar)
    mask = xgrammar.allocate_token_bitmask(1, len(VOCABULARY))
    text = ""
    while not matcher.is_terminated():
        matcher.fill_next_token_bitmask(mask, 0)
        allowed = [i for i in range(len(VOCABULARY)) if mask[0, i // 32].item() >> (i % 32) & 1]
        closing = [i for i in allowed if VOCABULARY[i] in CLOSING]
        token = generator.choice(closing if closing and generator.random() < len(text) / longest + 0.3 else allowed)
        assert matcher.accept_token(token)
        text += VOCABULARY[token] if token != END else ""
        assert len(text) < 100_000
    return text


@pytest.mark.parametrize("must_call", [True, False])
def test_every_call_of_a_senseless_model_is_one_line_and_valid_under_its_schema(must_call) -> None:
    schemas = {"order": ORDER, "ping": None, "order_all": ORDER, "é度.v-2 \"'\\": {"type": "dict"}}
    grammar = compiled(grammars.structural_tag(list(schemas.items()), must_call=must_call))
    called = set()
    for seed in range(60):
        text = write(grammar, seed)
        told = read(text)
        assert told.calls or not must_call
        written = [line for line in text.split("\n") if line.startswith("Action Input: ")]
        assert [json.loads(line.removeprefix("Action Input: ")) for line in written] == [
            json.loads(call.arguments) for call in told.calls
        ]
        for call in told.calls:
            called.add(call.name)
            schema = schemas[call.name] if call.name in ("order", "order_all") else {"type": "object"}
            jsonschema.validate(json.loads(call.arguments), schema)
            assert call.name != "ping" or call.arguments == "{}"
    assert called == set(schemas)


@pytest.mark.parametrize(
    ("text", "required", "auto", "once"),
    [
        (CALL, True, True, True),
        (CALL + "Observation:", True, True, True),
        (CALL + EMPTY + CALL, True, True, False),
        ("我来查询。\n\n" + CALL, False, True, True),
        ("Sunny, and no action: none.", False, True, True),
        ("", False, True, True),
        (CALL + "And so on.", False, False, False),
        (CALL.rstrip(), False, False, False),
        ("Action: ord\nAction Input: {}\n", False, False, False),
        ("Let me see. Action: think\n", False, False, False),
        (CALL.replace("2", '"2"'), False, False, False),
        (CALL.replace("2", "15"), False, False, False),
        (CALL.replace(', "days": 2', ""), False, False, False),
        (CALL.replace('{"city"', '{\n"city"'), False, False, False),
        (CALL.replace("Rome", "Ro\nme"), False, False, False),
        (CALL.replace("Rome", "Observation: rain"), False, False, False),
        (CALL.replace("Rome", r"\u004fbservation: Observation, Observ"), True, True, True),
        (CALL.replace("Rome", r"a \"quoted\" name\n"), True, True, True),
    ],
)
def test_what_may_be_written_depends_on_the_choice_of_tool(text, required, auto, once) -> None:
    tools = [("order", ORDER), ("ping", None)]
    assert accepts(grammars.structural_tag(tools, must_call=True), text) == required
    assert accepts(grammars.structural_tag(tools), text) == auto
    assert accepts(grammars.structural_tag(tools, may_repeat=False), text) == once


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "object", "properties": {"x": {"type": "float"}}}, "Unsupported type"),
        ({"type": "object", "properties": {"x": {"type": "string", "pattern": "("}}}, "parenthesis"),
        ({"type": "object", "properties": {"x": {"type": "string", "pattern": "a\nb"}}}, "line break"),
        ({"type": "object", "patternProperties": {"a\nb": {"type": "string"}}}, "line break"),
        ({"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(3000)}}, "characters"),
        (nested(2000), "nested too deeply"),
        ({"$ref": "#"}, "arguments are an object"),
        ({"type": "string"}, "arguments are an object"),
        ({"anyOf": [{"type": "object"}, {"type": "string"}]}, "arguments are an object"),
        ([], "arguments are an object"),
    ],
)
def test_a_schema_that_no_grammar_can_hold_leaves_any_object_and_says_why(schema, reason, caplog) -> None:
    with pytest.raises(ValueError, match=reason):
        grammars.grammar(schema)
    name = f"tool_{abs(hash((reason, id(schema))))}"
    with caplog.at_level(logging.WARNING, "fabrictune"):
        tag = grammars.structural_tag([(name, schema)], must_call=True)
    assert name in caplog.text
    assert reason in caplog.text
    assert accepts(tag, f'Action: {name}\nAction Input: {{"any": [1, {{"thing": null}}]}}\n')
    assert not accepts(tag, f'Action: {name}\nAction Input: "text"\n')


def test_schemas_may_be_nested_as_deeply_as_people_nest_them() -> None:
    tag = grammars.structural_tag([("deep", nested(20))])
    arguments = '{"x": ' * 20 + "{}" + "}" * 20
    assert accepts(tag, f"Action: deep\nAction Input: {arguments}\n")
    assert not accepts(tag, f"Action: deep\nAction Input: {arguments.replace('x', 'y')}\n")


def test_a_name_that_is_required_but_not_described_can_have_any_value() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["b", "a"]}
    tag = grammars.structural_tag([("f", schema)])
    assert accepts(tag, 'Action: f\nAction Input: {"a": 1, "b": [null]}\n')
    assert not accepts(tag, 'Action: f\nAction Input: {"a": 1}\n')
    assert not accepts(tag, 'Action: f\nAction Input: {"a": "1", "b": 2}\n')


def test_of_tools_whose_grammars_are_too_long_together_the_longest_take_any_object(caplog) -> None:
    tools = [
        (f"tool_{size}", {"type": "object", "properties": {f"p{i}_{size}": {"type": "string"} for i in range(size)}})
        for size in (590, 5, 580, 570, 500)
    ]
    with caplog.at_level(logging.WARNING, "fabrictune"):
        tag = grammars.structural_tag(tools)
    assert "of 3 of 5 tools can be any JSON object" in caplog.text
    assert len(json.dumps(tag.model_dump())) < 3 * grammars.GRAMMAR_CHARACTERS, "a call stands twice in it"
    assert accepts(tag, 'Action: tool_590\nAction Input: {"any": 1}\n')
    assert not accepts(tag, 'Action: tool_5\nAction Input: {"any": 1}\n')
    assert not accepts(tag, 'Action: tool_500\nAction Input: {"any": 1}\n')


def test_many_tools_share_the_rules_that_are_alike() -> None:
    tools = [(f"tool_{i}", {"type": "object", "properties": {f"p{i}": {"type": "string"}}}) for i in range(100)]
    tag = grammars.structural_tag(tools)
    assert len(json.dumps(tag.model_dump())) < 100_000, "a grammar of its own for each makes 900,000"
    assert accepts(tag, 'Action: tool_42\nAction Input: {"p42": "x"}\n')
    assert not accepts(tag, 'Action: tool_42\nAction Input: {"p43": "x"}\n')


def test_what_looks_like_a_rule_in_a_name_or_a_value_is_text() -> None:
    key = 'root ::= "'
    said = ["root", 'a "root_1" b', "[root]", "\\", "a\u2028b\x85c", "éa 度a", r"\\xe9a \xe9"]
    schema = {"type": "object", "properties": {key: {"enum": said}}}
    tag = grammars.structural_tag([("root", schema), ("basic_string", None), ('say "root"', schema), ("天气😀", None)])
    for name in ("root", 'say "root"'):
        for value in said:
            assert accepts(tag, f"Action: {name}\nAction Input: {json.dumps({key: value}, ensure_ascii=False)}\n")
        assert not accepts(tag, f"Action: {name}\nAction Input: {json.dumps({key: 'tool_0_root'})}\n")
    assert accepts(tag, "Action: 天气😀\nAction Input: {}\n")


def test_a_keyword_that_grammars_pass_over_is_named_once(caplog) -> None:
    schema = {
        "type": "object",
        "properties": {"multipleOf": {"type": "integer", "multipleOf": 5}, "not": {"enum": ["if"]}},
    }
    with caplog.at_level(logging.WARNING, "fabrictune"):
        for _ in range(3):
            grammars.structural_tag([("five", schema)])
    assert [record.getMessage() for record in caplog.records] == [
        "tool 'five': its arguments may break its schema's multipleOf, which no grammar holds"
    ]


def test_tools_of_which_none_has_a_name_that_can_be_written_are_refused() -> None:
    with pytest.raises(ValueError, match="no tool can be called"):
        grammars.structural_tag([("two\nlines", ORDER), (" ", ORDER)])
