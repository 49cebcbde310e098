"""An endpoint over HTTP, with a model that answers as the test says; and vLLM's likelihoods beside transformers'."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import write_tiny_model
from endpoint import PASSWORD, completion, serving

from fabrictune import protocol
from fabrictune.dialogue import Message, Reply
from fabrictune.evaluate import endpoints
from fabrictune.evaluate.tasks import Asked
from fabrictune.log import logger
from fabrictune.serve import server

KEY = "sk-verysecret"
HELLO = (Message("user", "hello \ud800"),)
BODY = protocol.request("m", HELLO)
SAID = [Message("user", "Name a town."), Message("assistant", "Paris, of course.")]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "FIRST_WAIT", 0.02)


@pytest.fixture
def said() -> Iterator[list[str]]:
    """The warnings as they come."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda entry: messages.append(entry.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


def using(url: str, use: Callable[[Asked], Awaitable[Any]], **settings: Any) -> Any:
    """What `use` returns, given the endpoint."""
    known = {"model": "m", "api_key": KEY, "timeout": 5.0, "retries": 3, "max_new_tokens": 9, "temperature": 0}

    async def run() -> Any:
        async with endpoints.connect(url, **(known | settings)) as asked:
            return await use(asked)

    return asyncio.run(run())


def ask(url: str, **settings: Any) -> Reply:
    reply: Reply = using(url, lambda asked: asked.ask(BODY), **settings)
    return reply


def error_body(words: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": words, **more}}


def test_a_request_carries_the_bounds_and_its_own_fields_and_no_half_surrogate_pair() -> None:
    with serving(lambda body: "hi") as endpoint:
        assert ask(endpoint.url) == Reply("hi", stopped=True)
        ask(endpoint.url, max_new_tokens=None, temperature=None)
    bounded, free = endpoint.bodies
    assert bounded == free | {"max_tokens": 9, "temperature": 0}
    assert free == BODY | {"messages": [{"role": "user", "content": "hello ?"}]}


def test_the_first_model_listed_is_taken_where_none_is_named() -> None:
    async def name(asked: Asked) -> str:
        return asked.model

    with serving(lambda body: "") as endpoint:
        assert using(endpoint.url, name, model=None) == "the-model"
        assert using(endpoint.url, name) == "m"


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (completion("x", "length"), Reply("x", stopped=False)),
        (completion(None), Reply("", stopped=True)),
        (completion(None, "tool_calls"), Reply("", stopped=True)),
        (completion("x", "content_filter"), Reply("x", stopped=True)),
        (completion("\ud800"), Reply("\ud800", stopped=True)),
        (completion("") | {"choices": []}, Reply("", stopped=False)),
        (completion("") | {"choices": [{"index": 0, "message": None, "finish_reason": None}]}, Reply("", False)),
    ],
)
def test_whatever_an_endpoint_answers_is_a_reply(answer: dict[str, Any], reply: Reply) -> None:
    with serving(lambda body: (200, answer)) as endpoint:
        assert ask(endpoint.url) == reply


@pytest.mark.parametrize(
    "answer",
    [
        "<html>welcome</html>",
        completion([{"type": "text"}]),  # type: ignore[arg-type]
        completion("") | {"choices": None},
        completion("") | {"choices": {"message": "x"}},
        {},
        [],
        None,
        7,
        {"choices": ["x"]},
        {"choices": [{"message": "x"}]},
        {"choices": [{"message": ["x"]}]},
    ],
)
def test_an_answer_that_is_none_ends_in_one_sentence(answer: Any) -> None:
    with serving(lambda body: (200, answer)) as endpoint, pytest.raises(RuntimeError, match="answered with|not answer"):
        ask(endpoint.url)
    assert len(endpoint.bodies) == 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (error_body("Provider returned error", code=500), "refused a request: .*Provider returned error"),
        (error_body("No credit.", code="insufficient_quota"), "refused a request: .*No credit"),
        ({"error": "no model loaded"}, "refused a request: .*no model loaded"),
        (completion("half a", "error"), "refused a request: .*finish_reason error"),
        ({"choices": [{"finish_reason": "error", **error_body(KEY, code=400)}]}, r"refused a request: .*\*\*\*"),
    ],
)
def test_an_error_behind_a_status_of_success_is_no_empty_reply(answer: dict[str, Any], words: str) -> None:
    with serving(lambda body: (200, answer)) as endpoint, pytest.raises(RuntimeError, match=words):
        ask(endpoint.url)
    assert len(endpoint.bodies) == 1


@pytest.mark.parametrize(
    "body",
    [
        error_body("This model's maximum context length is 10 tokens."),
        error_body("Too much.", code="context_length_exceeded"),
        error_body("This model's maximum context length is 10 tokens.", code=400),
    ],
)
def test_a_request_that_outgrows_the_context_is_a_reply_that_did_not_stop(body: dict[str, Any]) -> None:
    with serving(lambda _: (200 if body["error"].get("code") == 400 else 400, body)) as endpoint:
        assert ask(endpoint.url) == Reply("", stopped=False)
        assert len(endpoint.bodies) == 1


@pytest.mark.parametrize("status", [400, 401, 404, 422, 500])
def test_a_refusal_is_not_asked_again_and_shows_no_secret(status: int) -> None:
    words = f"Incorrect key {KEY} of user:{PASSWORD}"
    with (
        serving(lambda body: (status, error_body(words))) as endpoint,
        pytest.raises(RuntimeError, match=r"127.0.0.1:\d+/v1/ refused a request: .*Incorrect key \*\*\*") as raised,
    ):
        ask(endpoint.url)
    assert len(endpoint.bodies) == 1
    assert KEY not in str(raised.value) and PASSWORD not in str(raised.value)


@pytest.mark.parametrize(
    "fault",
    [
        RuntimeError("cut"),
        (502, "<html>"),
        (503, {}),
        (504, {}),
        (429, {}),
        (200, b""),
        (200, ""),
        (200, b'{"choices": [{"mess'),
        (200, b'{"choices": "\xff"}'),
        (200, error_body("later", code=429)),
        (200, error_body("upstream", code="502")),
        (200, {"choices": [{"finish_reason": "error", **error_body("upstream", code=503)}]}),
    ],
)
def test_a_passing_fault_is_asked_again(fault: Any, said: list[str]) -> None:
    faults = iter([fault, fault])

    def model(body: dict[str, Any]) -> Any:
        if isinstance(now := next(faults, "well"), Exception):
            raise now
        return now

    with serving(model) as endpoint:
        assert ask(endpoint.url).text == "well"
    assert len(endpoint.bodies) == 3
    assert len(said) == 2 and "(1 of 3)" in said[0] and "(2 of 3)" in said[1]
    assert not any("is the server up" in words for words in said), "that is asked when it is given up"
    assert not any(PASSWORD in words or KEY in words for words in said)


def test_tries_are_bounded_and_then_end_in_one_sentence() -> None:
    with (
        serving(lambda body: (503, {})) as endpoint,
        pytest.raises(ConnectionError, match=r"cannot be reached \(its gateway says .*503\), 3 times in a row"),
    ):
        ask(endpoint.url, retries=2)
    assert len(endpoint.bodies) == 3


def test_an_answer_that_is_never_whole_ends_in_one_sentence() -> None:
    with (
        serving(lambda body: (200, b'{"choices": [')) as endpoint,
        pytest.raises(ConnectionError, match=r"gave an answer that is no JSON \(.*\), 2 times in a row"),
    ):
        ask(endpoint.url, retries=1)


def test_no_key_is_sent_but_the_one_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "for another host")
    with serving(lambda body: "") as endpoint:
        address = f"http://127.0.0.1:{endpoint.server_port}/v1"
        ask(address)
        ask(address, api_key=None)
        ask(address, api_key="")
    assert endpoint.keys == [f"Bearer {KEY}", "Bearer EMPTY", "Bearer EMPTY"]


def test_without_a_timeout_a_server_is_waited_for_until_it_is_gone() -> None:
    over = threading.Event()

    def model(body: dict[str, Any]) -> str:
        over.wait(0.5)
        if len(endpoint.bodies) > 1:
            raise RuntimeError("cut")
        return "well"

    with serving(model) as endpoint:
        assert ask(endpoint.url, timeout=None).text == "well"
        with pytest.raises(ConnectionError, match="cannot be reached") as raised:
            ask(endpoint.url, timeout=None, retries=0)
        assert "is the server up" not in str(raised.value), "its user started none"


def test_an_endpoint_that_is_not_there_ends_in_one_sentence() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        with pytest.raises(
            ConnectionError, match=rf"{address}/ cannot be reached \(.+\), 2 times in a row; is the server"
        ):
            ask(address, retries=1)
        with pytest.raises(ConnectionError, match=r"reached \(.+\); is the server up .* eval.retries=0 asks once$"):
            ask(address, retries=0, model=None)


def test_an_endpoint_that_never_answers_ends_in_one_sentence() -> None:
    over = threading.Event()
    with serving(lambda body: str(over.wait(5))) as endpoint:
        with pytest.raises(ConnectionError, match=r"no answer within 0.1 seconds, 2 times"):
            ask(endpoint.url, timeout=0.1, retries=1)
        over.set()


def test_the_server_says_how_long_to_wait_and_all_requests_wait(said: list[str]) -> None:
    begun: list[float] = []

    def model(body: dict[str, Any]) -> Any:
        begun.append(time.monotonic())
        return (429, {}, {"Retry-After": "1"}) if len(begun) <= 2 else "well"

    async def three(asked: Asked) -> list[Reply]:
        first = [asyncio.create_task(asked.ask(BODY)) for _ in range(2)]
        await asyncio.sleep(0.4)  # both are told to wait by now
        return await asyncio.gather(*first, asked.ask(BODY))

    with serving(model) as endpoint:
        assert [reply.text for reply in using(endpoint.url, three)] == ["well"] * 3
    assert len(begun) == 5
    assert min(begun[2:]) - begun[0] >= 1
    assert len(said) == 1, "two requests wait for the same reason, and one says so"


@pytest.mark.parametrize(
    "answer",
    [
        (429, {}, {"Retry-After": "3600"}),
        (429, {}, {"Retry-After": formatdate(time.time() + 3600)}),
        (429, error_body("No credit.", code="insufficient_quota")),
    ],
)
def test_a_wait_that_is_too_long_is_not_begun(answer: tuple[Any, ...]) -> None:
    with serving(lambda body: answer) as endpoint, pytest.raises(RuntimeError, match="refused a request"):
        ask(endpoint.url)
    assert len(endpoint.bodies) == 1


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://host/v1", "http:///v1", f"http://u:{PASSWORD}@host:x/v1"])
def test_what_is_no_address_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="no address") as raised:
        ask(url)
    assert PASSWORD not in str(raised.value)


def test_a_likelihood_counts_the_reply_alone() -> None:
    """Tokens are characters; the last one of the opening, a blank, is one token with the reply's first."""

    def model(body: dict[str, Any]) -> Any:
        if body.get("prompt_logprobs") is None:
            return 200, completion("", prompt_token_ids=[1, 2, 3, 4])
        tokens = [1, 2, 3, 45, 6]
        chances: list[Any] = [None, *({str(token): {"logprob": -token / 10}} for token in tokens[1:])]
        return 200, completion("", prompt_token_ids=tokens, prompt_logprobs=chances)

    with serving(model) as endpoint:
        total, count = using(endpoint.url, lambda asked: asked.likelihood(SAID))
    assert (total, count) == (pytest.approx(4.5 + 0.6), 2)
    whole, before = endpoint.bodies
    assert [message["role"] for message in whole["messages"]] == ["user", "assistant"]
    assert (whole["add_generation_prompt"], whole["continue_final_message"]) == (False, True)
    assert before["messages"] == whole["messages"][:1] and before["max_tokens"] == 1


@pytest.mark.parametrize("answer", [(400, error_body("Unknown field")), (422, {"detail": "extra"}), "plain"])
def test_an_endpoint_that_gives_no_likelihoods_is_asked_no_more(answer: Any, said: list[str]) -> None:
    async def twice(asked: Asked) -> list[Any]:
        return [await asked.likelihood(SAID), await asked.likelihood(SAID)]

    with serving(lambda body: answer) as endpoint:
        assert using(endpoint.url, twice) == [None, None]
    first, plain = [body["messages"] for body in endpoint.bodies]
    assert len(first) == len(plain) == 2 and first != plain, "it might have been the conversation"
    assert len(said) == 1 and "no likelihoods" in said[0]


def weighing(body: dict[str, Any]) -> Any:
    """A server that weighs, but takes no message that begins with the word odd."""
    if body["messages"][0]["content"].startswith("odd"):
        return 400, error_body(f"the template does not take {body['messages'][0]['content']}")
    if body.get("prompt_logprobs") is None:
        return 200, completion("", prompt_token_ids=[1])
    return 200, completion("", prompt_token_ids=[1, 2], prompt_logprobs=[None, {"2": {"logprob": -0.5}}])


@pytest.mark.parametrize("order", ["odd even odd2 even", "even odd odd2 even"])
def test_a_conversation_that_is_refused_does_not_stand_for_all(order: str, said: list[str]) -> None:
    async def all_of_them(asked: Asked) -> list[Any]:
        return [await asked.likelihood([Message("user", word), SAID[1]]) for word in order.split()]

    with serving(weighing) as endpoint:
        assert using(endpoint.url, all_of_them) == [(0.5, 1) if word == "even" else None for word in order.split()]
    assert len(said) == 1 and "is not weighed" in said[0]


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt_logprobs": [None]},
        {"prompt_logprobs": {"2": -0.5}},
        {"prompt_logprobs": [None, {"3": {"logprob": -0.5}}]},
        {"prompt_logprobs": [None, {"2": -0.5}]},
        {"prompt_logprobs": [None, {"2": {"logprob": "-0.5"}}]},
        {"prompt_logprobs": [None, {"2": {"logprob": float("nan")}}]},
        {"prompt_logprobs": [None, {"2": {"logprob": -0.5}}], "prompt_token_ids": 12},
    ],
)
def test_likelihoods_of_another_kind_end_in_one_sentence(fields: dict[str, Any]) -> None:
    def model(body: dict[str, Any]) -> Any:
        known = {"prompt_token_ids": [1, 2]} if "prompt_logprobs" in body else {"prompt_token_ids": [1]}
        return 200, completion("", **(known | fields))

    with serving(model) as endpoint, pytest.raises(RuntimeError, match="did not answer as an OpenAI-compatible"):
        using(endpoint.url, lambda asked: asked.likelihood(SAID))


def test_a_reply_that_outgrows_the_context_is_not_weighed_and_the_next_is_tried() -> None:
    async def twice(asked: Asked) -> list[Any]:
        return [await asked.likelihood(SAID), await asked.likelihood(SAID)]

    with serving(lambda body: (400, error_body("This model's maximum context length is 10"))) as endpoint:
        assert using(endpoint.url, twice) == [None, None]
    assert len(endpoint.bodies) == 2


@pytest.mark.e2e
def test_vllm_gives_the_likelihoods_that_transformers_does_and_serves_an_adapter(tmp_path: Path) -> None:
    base, adapter = write_sharp_model(tmp_path / "base"), tmp_path / "adapter"
    expected = {"base": weighed(base), "tuned": weighed(base, write_adapter(base, adapter))}
    settings = server.Settings(512, 0.0, 8, memory_gib=1, adapters={"tuned": adapter})
    log = tmp_path / "vllm.log"

    async def weigh(asked: Asked) -> tuple[float, int] | None:
        return await asked.likelihood(SAID)

    begun = 0.0
    with (
        pytest.raises(RuntimeError, match=r"(?s)vLLM ended with exit code -9; the last lines of .*vllm.log"),
        server.running(base, "base", settings, log) as url,
    ):
        for name, (total, count) in expected.items():
            found = using(url, weigh, model=name, timeout=60.0)
            assert found == (pytest.approx(total, rel=0.003), count), name  # bfloat16 beside float32: 0.0005
        for child in psutil.Process().children():
            if "vllm.entrypoints.openai.api_server" in child.cmdline():
                child.kill()
        begun = time.monotonic()
        using(url, weigh, model="base", retries=server.RETRIES)
    assert time.monotonic() - begun < 20


def write_sharp_model(folder: Path) -> Path:
    """A random model of such contrast that a likelihood one token off is another one, by 0.8 %."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(write_tiny_model(folder), dtype="float32")
    model.get_input_embeddings().weight.data.mul_(20)
    model.save_pretrained(folder)
    return folder


def write_adapter(base: Path, folder: Path) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype="float32")
    tuned = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False))
    tuned.save_pretrained(folder)
    return folder


def weighed(base: Path, adapter: Path | None = None) -> tuple[float, int]:
    """The reply's negative log-likelihood and tokens, of transformers' own loss over the reply's tokens."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype="float32")
    model = PeftModel.from_pretrained(model, adapter) if adapter else model
    chat = [{"role": message.role, "content": message.content} for message in SAID[:1]]
    before = tokenizer.encode(
        tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False), add_special_tokens=False
    )
    reply = tokenizer.encode(SAID[1].content, add_special_tokens=False)
    labels = torch.tensor([[-100] * len(before) + reply])
    loss = model(input_ids=torch.tensor([before + reply]), labels=labels).loss
    return loss.item() * len(reply), len(reply)
