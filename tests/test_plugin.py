"""The tool parsers among vLLM's own classes, without a server: what a request becomes, and what a reply does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabrictune import protocol
from fabrictune.serve.tool_calls import read

pytest.importorskip("vllm")
pytestmark = pytest.mark.e2e  # importing vLLM takes 10 s and more

PLUGIN = Path(__file__).resolve().parent.parent / "fabrictune" / "serve" / "plugin.py"
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = "Action: weather\nAction Input: {'city': '朝阳区',}\n"
REPLIES = st.lists(
    st.sampled_from(
        ["Act", "ion:", " weather\n", "Action Input: {", "}", CALL, "Sunny.", " ", "\n", "Observation:", "度"]
    ),
    max_size=8,
)


@pytest.fixture(scope="module", params=protocol.DIALECTS)
def parser_class(request: pytest.FixtureRequest) -> Any:
    """What vLLM makes of its command line's --tool-parser-plugin, --tool-call-parser and --tool-strict-level."""
    from vllm.parser.parser_manager import ParserManager
    from vllm.tool_parsers import ToolParserManager

    ToolParserManager.import_tool_parser(str(PLUGIN))
    return ParserManager.get_parser(request.param, enable_auto_tools=True, tool_strict_level="parameter")


def chat(**wanted: Any) -> Any:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    body = {"model": "m", "messages": [{"role": "user", "content": "?"}], "tools": [TOOL]} | wanted
    return ChatCompletionRequest.model_validate({key: value for key, value in body.items() if value is not None})


def streamed(parser: Any, pieces: list[str], request: Any) -> tuple[str, list[tuple[str, str]]]:
    content, calls = "", []
    for number, piece in enumerate([*pieces, ""]):
        delta = parser.parse_delta(piece, [number], request, [0], finished=number == len(pieces))
        content += (delta and delta.content) or ""
        for call in delta.tool_calls if delta else []:
            assert call.index == len(calls)
            assert call.id
            calls.append((call.function.name, call.function.arguments))
    return content, calls


@given(pieces=REPLIES)
@settings(max_examples=60, deadline=None)
def test_a_reply_is_told_alike_whole_and_streamed_up_to_its_last_letter(parser_class, pieces) -> None:
    expected = read("".join(pieces))
    calls = [(call.name, call.arguments) for call in expected.calls]
    request = chat()
    assert streamed(parser_class(None, request.tools), pieces, request) == (expected.content, calls)
    _, content, found = parser_class(None, request.tools).parse("".join(pieces), request, enable_auto_tools=True)
    assert (content or "").strip() == expected.content.strip()
    assert [(call.name, call.arguments) for call in found or []] == calls


@pytest.mark.parametrize(
    ("wanted", "stop"),
    [
        ({"tools": None}, []),
        ({"tool_choice": "none"}, ["Action:", "Observation:"]),
        ({"tool_choice": "none", "stop": ["END", "Action:"]}, ["END", "Action:", "Observation:"]),
    ],
)
def test_a_reply_to_a_request_that_wants_no_calls_ends_before_one_and_passes_untouched(
    parser_class, wanted, stop
) -> None:
    text = CALL + "Observation: Act"
    request = parser_class(None, None).adjust_request(chat(**wanted))
    assert (request.stop or []) == stop
    assert request.structured_outputs is None
    assert streamed(parser_class(None, request.tools), [text[:20], text[20:]], request) == (text, [])
    assert parser_class(None, request.tools).parse(text, request, enable_auto_tools=True)[1:] == (text, [])


@pytest.mark.parametrize(
    ("given_stop", "stop"),
    [
        (None, ["Observation:"]),
        ("END", ["END", "Observation:"]),
        (["Observation:", "END"], ["Observation:", "END"]),
        ([], ["Observation:"]),
    ],
)
def test_a_request_with_tools_stops_where_the_result_would_begin(parser_class, given_stop, stop) -> None:
    assert parser_class(None, None).adjust_request(chat(stop=given_stop)).stop == stop


def accepts(request: Any, text: str) -> bool:
    import xgrammar

    compiler = xgrammar.GrammarCompiler(xgrammar.TokenizerInfo(["<end>"], stop_token_ids=[0]), max_threads=1)
    matcher = xgrammar.GrammarMatcher(
        compiler.compile_structural_tag(request.structured_outputs.structural_tag), terminate_without_stop_token=True
    )
    return matcher.accept_string(text) and matcher.is_completed()


@pytest.mark.parametrize(
    ("wanted", "prose", "twice"),
    [
        ({}, True, True),
        ({"parallel_tool_calls": False}, True, False),
        ({"tool_choice": "required"}, False, True),
        ({"tool_choice": "required", "parallel_tool_calls": False}, False, False),
        ({"tool_choice": {"type": "function", "function": {"name": "weather"}}}, False, False),
    ],
)
def test_what_a_model_may_write_follows_the_request(parser_class, wanted, prose, twice) -> None:
    call = 'Action: weather\nAction Input: {"city": "Oslo"}\n'
    request = parser_class(None, None).adjust_request(chat(**wanted))
    assert accepts(request, call + "Observation:")
    assert accepts(request, "Sunny.") == prose
    assert accepts(request, call + call) == twice
    assert not accepts(request, call.replace("city", "town"))


def test_without_strict_only_what_is_asked_for_is_constrained() -> None:
    from vllm.parser.parser_manager import ParserManager

    loose = ParserManager.get_parser("agentfabric", enable_auto_tools=True)
    assert loose(None, None).adjust_request(chat()).structured_outputs is None
    assert not accepts(loose(None, None).adjust_request(chat(tool_choice="required")), "Sunny.")


def test_a_schema_that_grammars_cannot_hold_is_no_error(parser_class) -> None:
    tool = json.loads(json.dumps(TOOL).replace('"string"', '"dict"'))
    request = parser_class(None, None).adjust_request(chat(tools=[tool], tool_choice="required"))
    assert accepts(request, 'Action: weather\nAction Input: {"anything": 1}\n')
