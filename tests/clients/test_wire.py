"""What each client puts on the wire, against a scripted server: the same as what we train on.

The server gives the very replies that we want of a model, so that every request of the turn is asked.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from asgi_server import Scripted, running, saying
from clients import ROLE_PLAYS, TOOLS_CLIENTS, dialogues, play
from endpoint import Endpoint, completion, serving
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from fabrictune import protocol
from fabrictune.dialogue import Dialogue, Exchange, Step
from fabrictune.formats import agentfabric, ms_agent
from fabrictune.model.encoding import prompt
from fabrictune.serve.react_requests import Retold
from fabrictune.serve.template import chat_template

EN_ONE, EN_TWO, EN_LATER = (("en", 1, 1), ("en", 2, 1), ("en", 1, 2))
ZH_ONE, ZH_TWO = (("zh", 1, 1), ("zh", 2, 1))
PLAYED = [EN_ONE, EN_TWO, EN_LATER, ZH_ONE, ZH_TWO]
IDS = ["en, a call", "en, two calls", "en, second turn", "zh, a call", "zh, two calls"]
USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}  # RolePlay takes a reply without it for none
STREAM = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_model)


def scripted(replies: Sequence[dict[str, Any]]):
    """A server's model that says these messages one after the other, streamed to who asks for it."""
    waiting = iter(replies)

    def model(body: dict[str, Any]) -> tuple[int, Any]:
        message = next(waiting)
        if not body.get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
            return 200, completion(None, usage=USAGE) | {"choices": [choice]}
        chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas(message)]
        chunks += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}]
        if body.get("stream_options"):  # as a server does: the client of April 2024 fails at a chunk without choices
            chunks += [{"choices": [], "usage": USAGE}]
        frame = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        lines = [f"data: {json.dumps(frame | chunk)}\n\n" for chunk in chunks]
        return 200, "".join([*lines, "data: [DONE]\n\n"])

    return model


def deltas(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The message in pieces of seven characters, a call's name before its arguments."""
    yield {"role": "assistant", "content": ""}
    for piece in re.findall(r"(?s).{1,7}", message["content"] or ""):
        yield {"content": piece}
    for index, call in enumerate(message.get("tool_calls", [])):
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        yield {"tool_calls": [{**call, "index": index, "function": {"name": name, "arguments": ""}}]}
        for piece in re.findall(r"(?s).{1,7}", arguments):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def as_message(step: Step, number: int) -> dict[str, Any]:
    """The call as a server's tool parser reports it."""
    arguments = json.dumps(step.call.arguments, ensure_ascii=False)
    function = {"name": step.call.name, "arguments": arguments}
    return {
        "content": step.thought or None,
        "tool_calls": [{"id": f"c{number}", "type": "function", "function": function}],
    }


def messages(exchange: Exchange) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in exchange.messages]


def ask(client: str, folder: Path, dialogue: Dialogue, replies: Sequence[dict[str, Any]], stream: bool) -> Endpoint:
    with serving(scripted(replies)) as server:
        heard = play(client, folder, f"http://127.0.0.1:{server.server_port}/v1", "m-qwen", dialogue, stream=stream)
    assert heard.calls == [
        {"name": call.name, "arguments": call.arguments} for turn in dialogue.turns for call in turn.calls
    ]
    assert [answer.strip() for answer in heard.answers] == [turn.answer.strip() for turn in dialogue.turns]
    assert not stream or heard.pieces > len(replies)
    return server


@STREAM
@pytest.mark.parametrize("kind", PLAYED, ids=IDS)
@pytest.mark.parametrize(("client", "dialect"), ROLE_PLAYS.items(), ids=ROLE_PLAYS)
def test_role_play_sends_the_messages_that_we_train_on(tmp_path, client, dialect, kind, stream):
    dialogue = next(dialogues(*kind))
    exchanges = list(agentfabric.render(dialogue, "test", dialect=dialect))
    replies = [{"content": exchange.reply_text.split("Observation:")[0]} for exchange in exchanges]
    bodies = ask(client, tmp_path, dialogue, replies, stream).bodies
    assert [body["messages"] for body in bodies] == [messages(exchange) for exchange in exchanges]
    assert all(body["stop"] == list(protocol.STOP) and "tools" not in body for body in bodies)


@STREAM
@pytest.mark.parametrize("client", TOOLS_CLIENTS)
@pytest.mark.parametrize("kind", PLAYED, ids=IDS)
def test_what_a_client_of_the_tools_interface_sends_becomes_the_prompt_that_we_train_on(
    tmp_path, tokenizer, client, kind, stream
):
    dialogue = next(dialogues(*kind))
    replies, number = [], itertools.count()
    for turn in dialogue.turns:
        replies += [as_message(step, next(number)) for step in turn.steps] + [{"content": turn.answer}]
    bodies = ask(client, tmp_path, dialogue, replies, stream).bodies
    exchanges = list(agentfabric.render(dialogue, "test", dialect=protocol.APRIL))
    template = chat_template(tokenizer.chat_template, protocol.APRIL)
    made = [
        tokenizer.apply_chat_template(
            read(body["messages"]),
            tools=body["tools"],
            chat_template=template,
            tokenize=False,
            add_generation_prompt=True,
        )
        for body in bodies
    ]
    assert made == [prompt(exchange, tokenizer) for exchange in exchanges]


def read(sent: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages as vLLM hands them to a template: a call's arguments are an object there."""
    for message in sent:
        for call in message.get("tool_calls") or []:
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return sent


@pytest.mark.parametrize("dialect", protocol.DIALECTS.values(), ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("kind", PLAYED, ids=IDS)
def test_what_react_chat_sends_becomes_the_messages_that_we_train_on(tmp_path, kind, dialect):
    dialogue = next(dialogues(*kind))
    exchanges = list(agentfabric.render(dialogue, "test", dialect=dialect))
    said = (exchange.reply_text.partition("Observation:")[0] for exchange in exchanges)
    server = Scripted(lambda body: saying(next(said))(body))
    with running(Retold(server, dialect.name)) as port:
        heard = play("react_chat", tmp_path, f"http://127.0.0.1:{port}/v1", "m-qwen", dialogue, stream=True)
    bodies = [json.loads(body) for _, body in server.asked]
    assert [body["messages"] for body in bodies] == [messages(exchange) for exchange in exchanges]
    assert all(body["stop"] == list(protocol.STOP) and body["stream"] for body in bodies)
    assert heard.calls == [{"name": call.name, "arguments": call.arguments} for call in dialogue.calls]
    assert [answer.strip() for answer in heard.answers] == [turn.answer for turn in dialogue.turns]


@pytest.mark.parametrize("kind", [EN_ONE, EN_TWO, ZH_ONE], ids=["en, a call", "en, two calls", "zh, a call"])
def test_convert_reads_the_offer_that_react_chat_sends(tmp_path, kind):
    """Without serve.react its prompt comes as it is: none that we train on, but one that the format ms_agent reads."""
    dialogue = next(dialogues(*kind))
    (turn,) = dialogue.turns
    said = [
        f"I need a tool.\nAction: {call.name}\nAction Input: {json.dumps(call.arguments, ensure_ascii=False)}\n"
        for call in turn.calls
    ]
    replies = [{"content": text} for text in [*said, f"I now know the final answer\nFinal Answer: {turn.answer}"]]
    bodies = ask("react_chat", tmp_path, dialogue, replies, True).bodies
    system, last = bodies[-1]["messages"]
    assert system == {"role": "system", "content": dialogue.instruction}
    assert last["role"] == "user"
    offer, _, asked = last["content"].partition("\nBegin!\n\nQuestion: ")
    query, _, trace = asked.partition("\nThought:")
    assert query == turn.query
    row = {
        "conversations": [
            {"from": "system", "value": f"{offer}\nBegin!"},
            {"from": "user", "value": query},
            {"from": "assistant", "value": f"Thought:{trace}{replies[-1]['content']}"},
        ]
    }
    learnt = ms_agent.parse(row)
    assert learnt.tools == dialogue.tools
    assert learnt.calls == dialogue.calls
    assert [step.observation for step in learnt.turns[0].steps] == [step.observation for step in turn.steps]
    assert learnt.turns[0].answer == turn.answer
