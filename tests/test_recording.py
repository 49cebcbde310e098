"""What a server sent, whole or in chunks, whatever it sent, becomes one row."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from capture_log import USER, calling, of_openai, read
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessage

from fabrictune.serve.capture.recording import LONGEST_ERROR, Heard, Hiding, row, spelled

REQUEST = {"model": "m", "messages": [{"role": "user", "content": "天气\u2028?"}], "stop": ["Observation:"]}
SSE = "text/event-stream; charset=utf-8"


def heard(body: bytes | str, kind: str = "application/json", status: int = 200, **more: Any) -> Heard:
    content = body.encode() if isinstance(body, str) else body
    request = more.pop("request", json.dumps(REQUEST).encode())
    return Heard("/v1/chat/completions", request, status=status, kind=kind, body=bytearray(content), **more)


def stream(*chunks: Any, done: bool = True) -> str:
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + ("data: [DONE]\n\n" if done else "")


def chunk(delta: dict[str, Any], reason: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": delta, "finish_reason": reason}], **more}


def call(index: int | None = None, id: str | None = None, name: str | None = None, arguments: str = "") -> Any:
    part: dict[str, Any] = {"function": {"arguments": arguments} | ({"name": name} if name else {})}
    part |= {"index": index} if index is not None else {}
    return part | ({"id": id, "type": "function"} if id is not None else {})


def test_a_whole_reply_is_told_as_it_came() -> None:
    message = {"role": "assistant", "content": "晴", "reasoning_content": "hm", "tool_calls": [call(name="a"), call()]}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": {"total_tokens": 3}}
    found = row(heard(json.dumps(body), seconds=1.23456, began=1764000000.5))
    assert found.pop("id")
    assert found == {
        "time": "2025-11-24T16:00:00.500+00:00",
        "seconds": 1.235,
        "path": "/v1/chat/completions",
        "status": 200,
        "streamed": False,
        "request": REQUEST,
        "reply": "晴",
        "message": message,
        "finish_reason": "stop",
        "usage": {"total_tokens": 3},
        "error": None,
    }


def test_chunks_become_the_text_and_the_calls_that_they_are_parts_of() -> None:
    usage = {"prompt_tokens": 1}
    chunks = [
        chunk({"role": "assistant", "content": "", "reasoning_content": "th"}),
        chunk({"content": "Let me ", "reasoning_content": "ink"}),
        chunk({"role": "assistant", "content": "look.", "tool_calls": None}),
        chunk({"tool_calls": [call(0, "c1", "weather", '{"ci')]}),
        chunk({"tool_calls": [call(1, "c2", "time"), call(0, "", arguments='ty": "北京"}')]}),
        chunk({"tool_calls": [call(1, arguments="{}")]}),
        chunk({}, "tool_calls"),
        {"choices": [], "usage": usage},
    ]
    found = row(heard(stream(*chunks), SSE))
    assert found["reply"] == "Let me look." and found["finish_reason"] == "tool_calls" and found["error"] is None
    assert found["usage"] == usage and found["streamed"]
    message = ChatCompletionMessage.model_validate(found["message"], strict=True)  # as the SDK has a whole one
    assert [(one.id, one.function.name, json.loads(one.function.arguments)) for one in message.tool_calls or []] == [
        ("c1", "weather", {"city": "北京"}),
        ("c2", "time", {}),
    ]
    assert found["message"]["reasoning_content"] == "think"


def test_calls_without_an_index_begin_with_an_id() -> None:
    parts = [call(id="a", name="f", arguments="{"), call(arguments="}"), call(id="b", name="g", arguments="{}")]
    found = row(heard(stream(*(chunk({"tool_calls": [part]}) for part in parts), chunk({}, "tool_calls")), SSE))
    told = [
        (one["id"], one["function"]["name"], one["function"]["arguments"]) for one in found["message"]["tool_calls"]
    ]
    assert told == [("a", "f", "{}"), ("b", "g", "{}")]


def test_several_replies_to_one_request_are_kept_apart() -> None:
    chunks = [chunk({"content": "B"}, index=1), chunk({"content": "A"}), chunk({}, "stop"), chunk({}, "length", 1)]
    found = row(heard(stream(*chunks), SSE))
    assert (found["reply"], found["finish_reason"]) == ("A", "stop")
    assert found["others"] == [{"reply": "B", "message": {"content": "B"}, "finish_reason": "length"}]


def test_a_plain_completion_has_a_text_and_no_message() -> None:
    parts = [
        {"choices": [{"index": 0, "text": text, "finish_reason": reason}]}
        for text, reason in (("a", None), ("b", "stop"))
    ]
    found = row(heard(stream(*parts), SSE))
    assert (found["reply"], found["message"], found["error"]) == ("ab", None, None)


def test_a_stream_that_broke_off_keeps_what_came_and_why() -> None:
    body = stream(chunk({"content": "half "}), done=False)
    found = row(heard(body + 'data: {"choi', SSE, fault="upstream broke off"))
    assert found["reply"] == "half " and "raw" not in found
    assert found["error"].startswith("the reply cannot be read")
    assert row(heard(body, SSE, fault="the client hung up"))["error"] == "the client hung up"
    assert row(heard(body, SSE))["error"] == "the stream ended without a finish_reason"
    # Nothing is missing of a reply whose end has come before the client hung up.
    assert row(heard(stream(chunk({"content": "a"}, "stop"), done=False), SSE, fault="x"))["error"] is None


def test_errors_are_told_in_the_server_s_words() -> None:
    refused = row(heard('{"error": {"message": "no such model"}}', status=404))
    assert (
        refused["error"] == "status 404: no such model" and refused["raw"] == '{"error": {"message": "no such model"}}'
    )
    assert row(heard("<html>Bad gateway</html>", "text/html", 502))["error"].startswith("status 502: ")
    late = row(heard(stream(chunk({"content": "a"}), {"error": {"message": "out of memory"}}), SSE))
    assert (late["error"], late["reply"]) == ("out of memory", "a")
    assert row(heard("", status=0, fault="cannot be reached"))["error"] == "cannot be reached"


def test_what_a_stream_said_that_nothing_could_be_read_of_is_told_by_one_event() -> None:
    assert row(heard(stream({"output": "a"}, {"output": "ab"}), SSE))["raw"] == '{"output": "ab"}'
    assert row(heard("data: {\n\n" + stream({"output": "ab"}), SSE))["raw"] == "{"
    assert row(heard("<html>no stream</html>", SSE))["raw"].strip() == "<html>no stream</html>"


def test_nothing_that_is_hidden_shows_in_the_pieces_that_it_came_in_or_was_cut_into() -> None:
    hiding = Hiding(("hush-4711-key",), redact=True)
    pieces = ["Call 1381", "2345678 with hush-", "4711-key"]
    line = spelled(heard(stream(*(chunk({"content": one}) for one in pieces), done=False), SSE, hiding=hiding))
    assert json.loads(line)["reply"] == "Call <phone-1> with ***" and json.loads(line)["error"]
    assert not any(piece in line for piece in ("1381", "hush", "4711"))
    for at in range(LONGEST_ERROR - 40, LONGEST_ERROR):  # wherever the cut is
        for secret in ("hush-4711-key", "13812345678"):
            hiding = Hiding(("hush-4711-key",), redact=True)
            told = row(heard(json.dumps({"detail": "x" * at + f" {secret} "}), status=500, hiding=hiding))
            assert "hush" not in told["error"] and "138" not in told["error"] and len(told["error"]) <= LONGEST_ERROR


def test_packed_replies_are_unpacked_and_broken_ones_told() -> None:
    packed = gzip.compress(stream(chunk({"content": "a"}, "stop")).encode())
    assert row(heard(packed, SSE, packing="gzip"))["reply"] == "a"
    assert "cannot be unpacked" in row(heard(b"not packed", packing="gzip"))["error"]


def test_requests_that_are_no_json_are_kept_as_text_and_half_surrogates_survive() -> None:
    assert row(heard("{}", request=b"\xff{"))["request"] == "\ufffd{"
    assert row(heard("{}", request=b'{"a": NaN}'))["request"] == '{"a": NaN}'
    line = spelled(heard("{}", request=rb'{"a": "\ud83d", "b": "\u5317"}'))
    line.encode("utf-8")
    assert json.loads(line)["request"] == {"a": "\ud83d", "b": "北"}


def test_secrets_are_hidden_and_personal_data_only_on_request() -> None:
    message = {"role": "assistant", "content": "I call 13812345678 with hush-4711-key"}
    body = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
    asked = json.dumps({"messages": [{"role": "user", "content": "Call 138 1234 5678 (hush-4711-key)"}]}).encode()
    secrets = ("hush-4711-key", "")
    line = spelled(heard(body, request=asked, hiding=Hiding(secrets)))
    assert "hush" not in line and "13812345678" in line
    told = json.loads(spelled(heard(body, request=asked, hiding=Hiding(secrets, redact=True))))
    assert told["request"]["messages"][0]["content"] == "Call <phone-1> (***)"
    assert told["reply"] == told["message"]["content"] == "I call <phone-1> with ***"


def test_what_a_later_message_says_changes_no_number_in_the_tools() -> None:
    result = {"role": "tool", "tool_call_id": "call_1_0", "content": "sunny, says 13812345678"}
    answer = {"role": "assistant", "content": "It is sunny, says 13812345678."}
    lines = of_openai(USER, calling(1, "Oslo"), result, answer)
    lines[0]["request"]["tools"][0]["function"]["description"] += ", or call 13912345678"  # of both, which share them
    rows = []
    for one in lines:
        choice = {"index": 0, "message": one["message"], "finish_reason": one["finish_reason"]}
        request = json.dumps(one["request"]).encode()
        rows.append(row(heard(json.dumps({"choices": [choice]}), request=request, hiding=Hiding(redact=True))))
    assert [[*one["request"]] for one in rows] == [["model", "messages", "tools"]] * 2
    assert rows[1]["request"]["tools"][0]["function"]["description"].endswith(", or call <phone-1>")
    found = read(*rows)
    assert (found.turns, found.faults, found.dialogue.turns[0].answer) == (1, {}, "It is sunny, says <phone-2>.")


@pytest.mark.parametrize("depth", [300, 600, 900, 5000])
def test_what_is_nested_deeply_is_kept_as_text_with_nothing_personal_in_it(depth: int) -> None:
    deep = "[" * depth + '"13812345678", "hush-4711-key"' + "]" * depth
    hiding = Hiding(("hush-4711-key",), redact=True)
    choice = f'{{"index": 0, "delta": {{"content": "a"}}, "message": {{"content": "a", "deep": {deep}}}}}'
    body = f'{{"choices": [{choice}]}}'
    for sent, kind in ((body, "application/json"), (f"data: {body}\n\n", SSE)):
        line = spelled(heard(sent, kind, request=f'{{"a": {deep}}}'.encode(), hiding=hiding))
        assert "<phone-1>" in line and "***" in line and "13812345678" not in line and "hush" not in line
        told = json.loads(line)
        assert isinstance(told["request"], dict if depth == 300 else str)
        assert depth == 300 or (told["message"] is None and "cannot be read" in told["error"])


LEAF = st.none() | st.booleans() | st.integers(-1, 3) | st.text(max_size=3) | st.floats()
KEYS = ("choices", "delta", "message", "tool_calls", "function", "index", "error", "content", "text", "usage")


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)


ANY = st.recursive(LEAF, objects, max_leaves=15)
CHOICE = st.fixed_dictionaries(
    {}, optional={key: ANY for key in ("index", "delta", "message", "text", "finish_reason")}
)
REPLIES = ANY | st.fixed_dictionaries({"choices": st.lists(CHOICE, max_size=3)}, optional={"usage": ANY, "error": ANY})


@given(
    st.binary(max_size=40)
    | st.lists(REPLIES, max_size=3).map(lambda chunks: stream(*chunks).encode())
    | REPLIES.map(lambda reply: json.dumps(reply).encode())
)
def test_whatever_is_sent_there_is_one_line_of_json(body: bytes) -> None:
    for kind in ("application/json", SSE, ""):
        for packing in ("identity", "gzip", "br", "zzz"):
            line = spelled(heard(body, kind, request=body, packing=packing, hiding=Hiding((), redact=True)))
            assert "\n" not in line and "\r" not in line
            assert isinstance(json.loads(line)["reply"], str)
