"""An OpenAI-compatible endpoint: requests with bounded, polite retries, and a reply's likelihood."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from email.utils import parsedate_to_datetime
from os.path import commonprefix
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import httpx2
import openai
import tenacity
from openai.types.chat import ChatCompletion, ChatCompletionMessage
from openai.types.chat.chat_completion import Choice

from fabrictune import addresses
from fabrictune.dialogue import Json, Message, Reply
from fabrictune.evaluate.tasks import Asked
from fabrictune.log import logger

Answer = TypeVar("Answer")

GATEWAY_FAULTS = (502, 503, 504)  # the gateway stands, the server behind it does not answer (yet)
TOO_MANY = 429
FIRST_WAIT = 1.0  # seconds before the second try, doubled with each further one, and up to as much again by chance
LONGEST_WAIT = 60.0
LONGEST_ASKED = 120.0  # seconds that a server may ask us to wait; one that asks for more is not waited for
UNREACHED = "; is the server up and the address right? eval.retries=0 asks once"
CONNECT_SECONDS = 10.0  # a server may take minutes to answer, but not to take up a connection

# Why a reply ended, other than at the bound on tokens. A model that calls by its API's own means has stopped, too.
STOPPED = ("stop", "tool_calls", "function_call", "content_filter")

# What every model and every chat template takes: an endpoint that does not weigh this one weighs none.
PLAIN = (Message("user", "Hello"), Message("assistant", "Hello"))


class Rejected(RuntimeError):
    """The endpoint read a request and does not take it (400 or 422)."""


class _Fault(Exception):
    """An error that came with status 200. `status_code` is the status that it names itself, None if it names none."""

    def __init__(self, words: str, code: object = None) -> None:
        super().__init__(words)
        self.code = code
        self.status_code = int(str(code)) if str(code).isdecimal() else None


class _Unreadable(_Fault):
    """A body that ends too early, or was damaged on its way: with status 200, but no JSON."""


@asynccontextmanager
async def connect(
    url: str,
    *,
    model: str | None,
    api_key: str | None,
    timeout: float | None,
    retries: int,
    max_new_tokens: int | None,
    temperature: float | None,
) -> AsyncIterator[Asked]:
    """The model at the address (None: the first that it lists), to be asked while the block runs.

    Connection faults, gateways' faults and 429 are tried again `retries` times, `timeout` seconds each. What is asked
    raises ConnectionError where the endpoint cannot be reached and RuntimeError where it refuses, ValueError where
    the address is none. No key is sent but the one given, whatever the environment holds; a header can carry it.

    A timeout bounds the time in the server's queue, too. None, for a server of our own, waits as long as the server
    lives: a process that ends closes its connections. One that lives and answers no more is waited for without end.

    The client itself sends neither bound nor temperature. An evaluation gives them, so that a model that never stops
    costs a bounded time and two runs can be compared.
    """
    key = api_key or "EMPTY"  # without one the client itself would take OPENAI_API_KEY, which is for another host
    on_loopback = addresses.parts(url, "the endpoint's url").hostname in ("127.0.0.1", "localhost", "::1")
    sdk = openai.AsyncOpenAI(
        base_url=url,
        api_key=key,
        timeout=openai.Timeout(timeout, connect=min(timeout or math.inf, CONNECT_SECONDS)),
        max_retries=0,  # its own rule also tries 408, 409 and every 5xx again, and says nothing while it waits
        http_client=openai.DefaultAsyncHttpxClient(trust_env=not on_loopback),  # no proxy between us and this machine
    )
    async with sdk:
        endpoint = _Endpoint(sdk, timeout, retries, _secrets(url, key))
        name = model or await endpoint.first_model()
        bounds: dict[str, Any] = {}
        if max_new_tokens is not None:
            bounds["max_tokens"] = max_new_tokens
        if temperature is not None:
            bounds["temperature"] = temperature

        async def ask(body: dict[str, Json]) -> Reply:
            return await endpoint.ask(body | bounds)

        async def likelihood(messages: Sequence[Message]) -> tuple[float, int] | None:
            return await endpoint.likelihood(name, messages)

        yield Asked(name, ask, likelihood)


def _secrets(url: str, key: str) -> tuple[str, ...]:
    """What an error message must not show."""
    parts = urlsplit(url)
    words = (key if key != "EMPTY" else "", parts.password, unquote(parts.password or ""), parts.query)
    return tuple(sorted({word for word in words if word}, key=len, reverse=True))


@dataclass
class _Endpoint:
    sdk: openai.AsyncOpenAI
    timeout: float | None
    retries: int
    secrets: tuple[str, ...]
    quiet_until: float = 0.0  # of concurrent requests that wait, one says so
    paused_until: float = 0.0  # the server asked one request to wait, and means all
    weighs: bool | None = None  # whether it gives likelihoods, once that is known
    said: set[str] = field(default_factory=set)

    async def first_model(self) -> str:
        """The name of the first model that the endpoint lists."""
        page = await self.send(self.sdk.models.list)
        listed = getattr(page, "data", None)
        if not isinstance(listed, list) or not listed or not getattr(listed[0], "id", None):
            raise RuntimeError(f"{self.address} lists no model; name one with eval.model_name=")
        return str(listed[0].id)

    async def ask(self, body: dict[str, Json]) -> Reply:
        """The reply; an empty one that did not stop where the request outgrows the model's context."""
        try:
            completion = self.checked(await self.send(lambda: self.sdk.chat.completions.create(**_encodable(body))))
        except Rejected as error:
            if _is_too_long(error):
                return Reply("", stopped=False)  # the trace of a model that calls and calls outgrows its context
            raise
        choices = completion.choices
        if not choices or choices[0].message is None:
            return Reply("", stopped=False)
        text, reason = choices[0].message.content or "", choices[0].finish_reason
        if not isinstance(text, str):
            raise RuntimeError(f"{self.address} answered with a content that is no text: {text!r}"[:300])
        if not text and reason in ("tool_calls", "content_filter"):
            self.say_once(
                f"{self.address} gave a reply without text (finish_reason {reason}), which is judged as empty"
            )
        return Reply(text, stopped=reason in STOPPED)

    async def likelihood(self, model: str, messages: Sequence[Message]) -> tuple[float, int] | None:
        """See `tasks.Likelihood`; by vLLM's prompt_logprobs, which other servers do not know."""
        if len(messages) < 2 or messages[-1].role != "assistant":
            raise ValueError(f"a reply can be weighed that stands last, behind others: {[m.role for m in messages]}")
        if self.weighs is False:
            return None
        try:
            found = await self.weigh(model, messages)
        except Rejected as error:
            if _is_too_long(error):
                self.say_once(f"{self.address}: a reply that outgrows the model's context is not weighed ({error})")
            elif self.weighs or await self.weighs_plain(model):
                self.say_once(f"{self.address}: a conversation that it does not take is not weighed ({error})")
            else:
                self.say_once(f"{self.address} gives no likelihoods, so there is no perplexity ({error})")
            return None
        self.weighs = True
        return found

    async def weighs_plain(self, model: str) -> bool:
        """Whether it weighs any reply at all, which a conversation that it refused does not tell."""
        try:
            await self.weigh(model, PLAIN)
        except Rejected:
            self.weighs = bool(self.weighs)  # requests beside this one may have been weighed meanwhile
        else:
            self.weighs = True
        return self.weighs

    async def weigh(self, model: str, messages: Sequence[Message]) -> tuple[float, int]:
        """The last message's negative log-likelihood and tokens. Raises Rejected where it does not answer with them."""
        asked = {"add_generation_prompt": False, "continue_final_message": True, "prompt_logprobs": 0}
        tokens, logprobs = await self.prompt(model, messages, asked)
        if not tokens or not logprobs:
            raise Rejected("it does not answer with prompt_token_ids and prompt_logprobs")
        before, _ = await self.prompt(model, messages[:-1], {})
        if not before:
            raise self.odd("no prompt_token_ids")
        try:
            # A template may write another opening for a reply to come than before a given one; a token may span both.
            weighed = range(max(1, len(commonprefix([tokens, before]))), len(tokens))
            total = math.fsum(logprobs[at][str(tokens[at])]["logprob"] for at in weighed)
        except (IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise self.odd(f"prompt_logprobs of another kind: {type(error).__name__} {error}") from error
        if not math.isfinite(total):
            raise self.odd(f"log-probabilities whose sum is {total}")
        return -total + 0.0, len(weighed)

    async def prompt(
        self, model: str, messages: Sequence[Message], asked: dict[str, Json]
    ) -> tuple[list[int], list[Any]]:
        """The token ids of the prompt that the server makes of the messages, and its log-probabilities if asked."""
        body = _encodable({"model": model, "messages": [asdict(message) for message in messages], "max_tokens": 1})
        extra = {"return_token_ids": True, **asked}
        completion = await self.send(lambda: self.sdk.chat.completions.create(**body, extra_body=extra))
        known = self.checked(completion).model_extra or {}
        return known.get("prompt_token_ids") or [], known.get("prompt_logprobs") or []

    def checked(self, completion: object) -> ChatCompletion:
        """The completion. Raises RuntimeError if its fields are not of the kinds that its type says: nobody checked."""
        choices = getattr(completion, "choices", None)
        if not isinstance(completion, ChatCompletion) or not isinstance(choices, list):
            raise self.odd("no list of choices")
        for choice in choices:
            if not isinstance(choice, Choice) or not isinstance(choice.message, ChatCompletionMessage | None):
                raise self.odd(f"a choice without a message: {choice!r}")
        return completion

    def odd(self, words: str) -> RuntimeError:
        return RuntimeError(f"{self.address} did not answer as an OpenAI-compatible endpoint does ({words[:200]})")

    async def send(self, request: Callable[[], Awaitable[Answer]]) -> Answer:
        """What the request brings. Raises ConnectionError, Rejected or RuntimeError once it is given up."""
        attempts = 0

        async def attempt() -> Answer:
            nonlocal attempts
            while (left := self.paused_until - time.monotonic()) > 0:
                await asyncio.sleep(left)
            attempts += 1
            try:
                answer = await request()
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise _Unreadable(str(error)) from error
            _check_for_error(answer)
            return answer

        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(_may_pass),
            stop=tenacity.stop_after_attempt(self.retries + 1),
            wait=self.wait,
            before_sleep=self.report,
            reraise=True,
        )
        try:
            return await retrying(attempt)
        except (openai.OpenAIError, _Fault) as error:
            raise self.refusal(error, attempts) from error

    def wait(self, state: tenacity.RetryCallState) -> float:
        """Seconds until the next try. The chance in it, which spreads requests, decides nothing of the outcome."""
        backoff = tenacity.wait_exponential_jitter(multiplier=FIRST_WAIT, jitter=FIRST_WAIT, max=LONGEST_WAIT)(state)
        asked = _retry_after(_error_of(state))
        if asked is None:
            return backoff
        self.paused_until = max(self.paused_until, time.monotonic() + asked)
        return max(asked, backoff)

    def report(self, state: tenacity.RetryCallState) -> None:
        seconds, now = state.upcoming_sleep, time.monotonic()
        if now >= self.quiet_until:
            self.quiet_until = now + seconds
            words = self.refusal(_error_of(state))
            logger.warning("%s; next try in %.0f s (%d of %d)", words, seconds, state.attempt_number, self.retries)

    def refusal(self, error: BaseException, attempts: int = 0) -> Exception:
        """The error in one sentence: a ConnectionError where the endpoint was not reached, else a RuntimeError.

        After the last of `attempts` it says how many there were, and the way out.
        """
        times = f", {attempts} times in a row" if attempts > 1 else ""
        end = times + UNREACHED if attempts and self.timeout is not None else times  # None: a server of our own
        if isinstance(error.__cause__, httpx2.ConnectTimeout):
            return ConnectionError(f"{self.address} cannot be reached (it takes up no connection){end}")
        if isinstance(error, openai.APITimeoutError):
            return ConnectionError(f"{self.address} gave no answer within {self.timeout} seconds{times}")
        if isinstance(error, openai.APIConnectionError):
            cause = error.__cause__ or error
            return ConnectionError(f"{self.address} cannot be reached ({self.shown(cause)}){end}")
        if isinstance(error, _Unreadable):
            return ConnectionError(f"{self.address} gave an answer that is no JSON ({self.shown(error)}){times}")
        status = getattr(error, "status_code", None)
        if status in GATEWAY_FAULTS:
            return ConnectionError(f"{self.address} cannot be reached (its gateway says {self.shown(error)}){end}")
        kind = Rejected if status in (400, 422) else RuntimeError
        return kind(f"{self.address} refused a request{times}: {self.shown(error)}")

    def shown(self, error: BaseException) -> str:
        """The error's words in one line, without what is secret."""
        words = " ".join(str(error).split()) or type(error).__name__
        for secret in self.secrets:
            words = words.replace(secret, "***")
        return words[:300]

    @property
    def address(self) -> str:
        return str(self.sdk.base_url.copy_with(userinfo=b"", query=None))  # no place for a password

    def say_once(self, text: str) -> None:
        kind = text.partition("(")[0]
        if kind not in self.said:
            self.said.add(kind)
            logger.warning("%s", text)


def _check_for_error(answer: object) -> None:
    """Raises _Fault if the answer holds an error: the status is sent before what stands behind a proxy has failed."""
    if isinstance(answer, str) and not answer.strip():
        raise _Unreadable("it is empty")
    choices = getattr(answer, "choices", None)
    first = choices[0] if isinstance(choices, list) and choices else None
    for part in (answer, first):
        if error := (getattr(part, "model_extra", None) or {}).get("error"):
            raise _Fault(f"status 200, but an error: {error}", error.get("code") if isinstance(error, dict) else None)
    if getattr(first, "finish_reason", None) == "error":
        raise _Fault("status 200, but finish_reason error")


def _may_pass(error: BaseException) -> bool:
    """Whether the same request may be answered a little later."""
    if isinstance(error, openai.APIConnectionError | _Unreadable):  # timeouts, too
        return True
    if not isinstance(error, openai.APIStatusError | _Fault):
        return False
    if error.status_code == TOO_MANY and error.code == "insufficient_quota":
        return False  # that is no lack of patience but of money
    return error.status_code in (TOO_MANY, *GATEWAY_FAULTS) and (_retry_after(error) or 0) <= LONGEST_ASKED


def _retry_after(error: BaseException) -> float | None:
    """Seconds that the server asks us to wait: RFC 9110, 10.2.3, a number or a date."""
    if not isinstance(error, openai.APIStatusError):
        return None
    text = error.response.headers.get("retry-after", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def _error_of(state: tenacity.RetryCallState) -> BaseException:
    assert state.outcome is not None
    error = state.outcome.exception()
    assert error is not None
    return error


def _is_too_long(error: Rejected) -> bool:
    code = getattr(error.__cause__, "code", None)  # as OpenAI has it; vLLM says it in words
    return "context length" in str(error) or code == "context_length_exceeded"


def _encodable(body: dict[str, Json]) -> dict[str, Json]:
    """The body with a question mark for each lone surrogate, which a model may write but UTF-8 cannot hold."""
    messages = [
        message | {"content": message["content"].encode("utf-8", "replace").decode("utf-8")}
        for message in body["messages"]
    ]
    return body | {"messages": messages}
