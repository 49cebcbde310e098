"""A ReAct client gets its turn from a server that knows AgentFabric's format only; all else passes byte for byte."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import openai
import pytest
import react_chat
from asgi_server import JSON, STREAM, USAGE, Scripted, Served, chunks, completion, running, saying
from starlette.types import Message

from fabrictune import protocol
from fabrictune.dialogue import Call, Dialogue, Step, Tool, Turn
from fabrictune.formats import agentfabric
from fabrictune.serve import asgi, react_requests

SCHEMA = {"type": "object", "properties": {"q": {"type": "string", "description": "what"}}, "required": ["q"]}
TOOLS = (Tool("search", "Searches the web.", SCHEMA), Tool("mail", "发送邮件", SCHEMA))
STEPS = (Step(Call("search", {"q": "it"}), "A duck.", "I look."), Step(Call("mail", {"q": "火"}), "sent"))
ENGLISH = Dialogue("en", TOOLS, (Turn("Who is it?", STEPS, "It is a duck.\nSent."),), "You help.")
CHINESE = Dialogue("zh", TOOLS, (Turn("它是谁？", STEPS, "是鸭子。"),), "你来帮忙。")
BOTH = pytest.mark.parametrize("dialect", protocol.DIALECTS.values(), ids=str)


def answer(*given: Any, **more: Any) -> Served:
    return asyncio.run(answered(*given, **more))


async def answered(server: Scripted, body: bytes, dialect: str = "agentfabric", path: str = asgi.ROUTE) -> Served:
    """What the client gets of the server behind the middleware, asked in two pieces."""
    waiting = [
        {"type": "http.request", "body": body[:5], "more_body": True},
        {"type": "http.request", "body": body[5:], "more_body": False},
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return waiting.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-length", str(len(body)).encode()), (b"x-mine", b"1")]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
    await react_requests.Retold(server, dialect)(scope, receive, send)
    start, *pieces = sent
    assert [piece.get("more_body", False) for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    return start["status"], start["headers"], [piece["body"] for piece in pieces]


def request(messages: Sequence[dict[str, Any]] = (), **more: Any) -> bytes:
    asked = messages or [{"role": "user", "content": react_chat.prompt(ENGLISH, "Who is it?")}]
    return json.dumps({"model": "m", "messages": list(asked), **more}, ensure_ascii=False).encode()


@pytest.mark.parametrize("size", [1, 3, 10**6])
@BOTH
@pytest.mark.parametrize("dialogue", [ENGLISH, CHINESE], ids=["en", "zh"])
def test_a_turn_is_asked_as_we_train_on_it_whole_and_streamed(
    dialogue: Dialogue, dialect: protocol.Dialect, size: int
) -> None:
    exchanges = list(agentfabric.render(dialogue, "test", dialect=dialect))
    said = iter([exchange.reply_text.partition("Observation:")[0] for exchange in exchanges])

    def reply(body: dict[str, Any]) -> Served:
        text = next(said)
        return (200, STREAM, [chunks(text, size)]) if body["stream"] else (200, JSON, [completion(text)])

    for stream in (True, False):
        said, server = (
            iter([exchange.reply_text.partition("Observation:")[0] for exchange in exchanges]),
            Scripted(reply),
        )
        results = iter(step.observation for step in STEPS)
        calls = []

        def ask(messages: list[dict[str, Any]], server: Scripted = server, stream: bool = stream) -> str:
            return text_of(answer(server, request(messages, stream=stream, seed=5), dialect.name))

        def run(name: str, arguments: str, calls: list[Any] = calls, results: Iterator[str] = results) -> str:
            calls.append(Call(name, json.loads(arguments)))
            return next(results)

        ((_, last),) = react_chat.play(dialogue, ask, run)
        assert calls == dialogue.calls
        assert last.partition("Final Answer: ")[2] == dialogue.turns[0].answer
        for (headers, body), exchange in zip(server.asked, exchanges, strict=True):
            wanted = protocol.request("m", exchange.messages)
            assert json.loads(body) == wanted | {"stream": stream, "seed": 5}
            assert dict(headers) == {b"content-length": str(len(body)).encode(), b"x-mine": b"1"}


def text_of(served: Served) -> str:
    """The reply's text, as a client reads it."""
    status, headers, pieces = served
    assert status == 200
    body = b"".join(pieces).decode()
    if headers[0] == STREAM[0]:
        *events, done, end = body.split("\n\n")
        assert (done, end) == ("data: [DONE]", "")
        read = [json.loads(event.removeprefix("data: ")) for event in events]
        assert {event["id"] for event in read} == {"c1"}
        assert read[-1]["choices"] == [] and read[-1]["usage"] == USAGE
        choices = [event["choices"][0] for event in read[:-1]]
        assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["stop"]
        assert choices[0]["delta"]["role"] == "assistant"
        return "".join(choice["delta"]["content"] for choice in choices)
    assert dict(headers)[b"content-length"] == str(len("".join(body).encode())).encode()
    reply = json.loads(body)
    assert (reply["id"], reply["usage"]) == ("c1", USAGE)
    assert (reply["choices"][0]["finish_reason"], reply["choices"][0]["stop_reason"]) == ("stop", "x")
    return str(reply["choices"][0]["message"]["content"])


def test_a_stream_may_be_cut_anywhere() -> None:
    stream = chunks("我看。 I look.\nAction: mail\nAction Input: {'q': '火'}\n", 21)

    async def cut() -> list[Served]:
        servers = [
            Scripted(lambda _, at=at: (200, STREAM, [stream[:at], stream[at:]])) for at in range(len(stream) + 1)
        ]
        return [await answered(server, request(stream=True)) for server in servers]

    for served in asyncio.run(cut()):
        assert text_of(served) == '我看。 I look.\nAction: mail\nAction Input: {"q": "火"}\n'


def test_what_streams_is_not_kept_to_the_end() -> None:
    stream = chunks("Ducks swim. " * 60, 12)
    events = [f"{event}\n\n".encode() for event in stream.decode().split("\n\n")[:-1]]
    _, _, pieces = answer(Scripted(lambda _: (200, STREAM, events)), request(stream=True))
    assert len(pieces) == len(events) + 1
    assert b"swim" in pieces[len(pieces) * 2 // 3]


def test_a_reply_that_ran_into_its_bound_says_so() -> None:
    served = answer(Scripted(lambda _: (200, STREAM, [chunks("Ducks", 2, "length")])), request(stream=True))
    assert b'"finish_reason": "length"' in served[2][0]
    assert b"Ducks" in served[2][0]


def test_several_replies_are_told_each_by_itself() -> None:
    _, _, (body,) = answer(
        Scripted(lambda _: (200, JSON, [completion("Hi.", "Action: mail\nAction Input: {}", None)])), request(n=3)
    )
    contents = [choice["message"]["content"] for choice in json.loads(body)["choices"]]
    assert contents == ["I now know the final answer\nFinal Answer: Hi.", "\nAction: mail\nAction Input: {}\n", None]


@pytest.mark.parametrize(
    ("own", "sent"),
    [
        ({}, [*protocol.STOP]),
        ({"stop": ["Observation:", "Observation:\n"]}, [*protocol.STOP]),
        ({"stop": "\nObservation"}, [*protocol.STOP, "\nObservation"]),
        ({"stop": ["###", "Observation:"]}, [*protocol.STOP, "###"]),
    ],
)
def test_the_models_own_stop_strings_are_always_sent(own: dict[str, Any], sent: list[str]) -> None:
    server = Scripted(lambda _: (200, JSON, [completion("Hi.")]))
    answer(server, request(**own))
    assert json.loads(server.asked[0][1])["stop"] == sent


@pytest.mark.parametrize(
    "served",
    [
        (400, JSON, [b'{"error": {"message": "too ', b'long"}}']),
        (500, [(b"content-type", b"text/plain")], [b"oops"]),
        (200, JSON, [b'{"choices": "none"}']),
        (200, JSON, [b"{"]),
        (200, STREAM, [b'data: {"error": {"message": "engine died"}}\n\n', b"data: [DONE]\n\n"]),
    ],
    ids=["400", "500", "no choices", "no json", "an error in the stream"],
)
def test_the_servers_errors_pass_as_they_are(served: Served) -> None:
    status, headers, pieces = answer(Scripted(lambda _: served), request(stream=True))
    assert status == served[0] and headers[: len(served[1])] == served[1]
    got, sent = b"".join(pieces), b"".join(served[2])
    assert got == sent


PROMPT = react_chat.prompt(ENGLISH, "Who is it?")
OTHERS = [
    b"",
    b"no json",
    b"[1]",
    b'{"messages": []}',
    b'{"messages": 7}',
    b'{"messages": ["x"]}',
    request([{"role": "user", "content": "Hi"}]),
    request([{"role": "user", "content": PROMPT}, {"role": "assistant", "content": "Thought:"}]),
    request(tools=[{"type": "function", "function": {"name": "x"}}]),
    request([{"role": "user", "content": PROMPT.replace("Parameters:", "Input:")}]),
    request([{"role": "tool", "content": PROMPT}]),
    b'{"messages": ' + b"[" * 100_000,
]


@pytest.mark.parametrize("body", OTHERS, ids=range(len(OTHERS)))
def test_every_other_request_passes_byte_for_byte(body: bytes) -> None:
    said = completion("Action: x\nAction Input: {}")
    server = Scripted(lambda _: (200, JSON, [said]))
    assert answer(server, body) == (200, JSON, [said, b""])
    assert server.asked == [([(b"content-length", str(len(body)).encode()), (b"x-mine", b"1")], body)]


@pytest.mark.parametrize("path", ["/v1/completions", "/tokenize"])
def test_another_route_is_not_looked_at(path: str) -> None:
    server = Scripted(lambda _: (200, JSON, [completion("Hi.")]))
    answer(server, request(), path=path)
    assert server.asked[0][1] == request()


def test_a_prompt_that_cannot_be_read_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    server = Scripted(lambda _: (200, JSON, [completion("Hi.")]))
    body = request([{"role": "user", "content": PROMPT.replace("mail", "search")}])
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            answer(server, body)
    assert [record.message.count("offers a tool twice") for record in caplog.records] == [1]


def test_the_dialect_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(react_requests.DIALECT, "agentfabric_v072")
    assert react_requests.Retold(Scripted(lambda _: (200, [], []))).dialect is protocol.V072


@pytest.mark.parametrize("stream", [True, False])
def test_the_openai_sdk_reads_what_a_real_server_sends(stream: bool) -> None:
    reply = "I look.\nAction: search\nAction Input: {'q': '火'}"
    server = Scripted(saying(reply))
    with running(react_requests.Retold(server, "agentfabric")) as port:
        url = f"http://127.0.0.1:{port}/v1"
        chat = openai.OpenAI(base_url=url, api_key="x", max_retries=0).chat.completions
        messages: Any = [{"role": "user", "content": PROMPT}]
        if stream:
            pieces = chat.create(model="m", messages=messages, stream=True)
            said = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
        else:
            said = chat.create(model="m", messages=messages).choices[0].message.content or ""
    assert said == 'I look.\nAction: search\nAction Input: {"q": "火"}\n'


@pytest.mark.parametrize("end", [b"", b'data: {"error": {"message": "engine died"}}\n\ndata: [DONE]\n\n'])
def test_what_was_said_of_a_reply_that_breaks_off_is_told(end: bytes) -> None:
    said = chunks("Ducks swim", 2).decode().split("\n\n")[:-4]  # without why it ended, the usage and [DONE]
    stream = "".join(f"{event}\n\n" for event in said).encode() + end
    assert b'finish_reason": "' not in stream and b"im" in stream
    _, _, pieces = answer(Scripted(lambda _: (200, STREAM, [stream])), request(stream=True))
    told = b"".join(pieces).decode()
    assert "Final Answer: Ducks swim" in told and ("engine died" in told) == bool(end)


@pytest.mark.parametrize("stop", [5, True, {"a": 1}])
def test_stop_strings_that_are_none_are_for_the_server_to_refuse(stop: object) -> None:
    assert react_requests.retold(request(stop=stop), protocol.APRIL) is None
    assert react_requests.retold(request(stop=None), protocol.APRIL)
