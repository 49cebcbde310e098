"""Loss falls on replies and their end, never on a request; ids are what a server would see and write."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fabrictune import models
from fabrictune.dialogue import Exchange, Message, Span
from fabrictune.encoding import encode
from fabrictune.formats import agentfabric
from fabrictune.sources import synthetic


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return models.load_tokenizer(tiny_model)


@pytest.fixture(scope="module")
def end(tokenizer):
    return models.reply_end(tokenizer)


def test_the_end_of_a_reply_is_the_token_that_closes_an_assistant_message(tokenizer, end) -> None:
    assert tokenizer.convert_ids_to_tokens(end) == "<|im_end|>"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_observations_are_never_supervised_and_reply_ends_always_are(tokenizer, end, language: str) -> None:
    for dialogue in synthetic.generate(3, 40, (language,)):
        for exchange in agentfabric.render(dialogue, "test"):
            encoded = encode(exchange, tokenizer, end)
            supervised = encoded.ids[encoded.weights > 0]
            assert tokenizer.decode(supervised[:-1]) == exchange.reply_text
            assert supervised[-1] == end
            assert (encoded.weights[: -len(supervised)] == 0).all(), "a request is supervised"
            for turn in dialogue.turns:
                for step in turn.steps:
                    assert f"<result>{step.observation}" not in tokenizer.decode(supervised)


def test_ids_are_those_of_the_chat_template_over_the_whole_conversation(tokenizer, end) -> None:
    for dialogue in synthetic.generate(5, 10):
        for exchange in agentfabric.render(dialogue, "test"):
            conversation = [{"role": m.role, "content": m.content} for m in exchange.messages]
            conversation.append({"role": "assistant", "content": exchange.reply_text})
            whole = tokenizer(tokenizer.apply_chat_template(conversation, tokenize=False))["input_ids"]
            ids = encode(exchange, tokenizer, end).ids.tolist()
            assert whole[: len(ids)] == ids


@pytest.mark.parametrize(
    "begun", ["Action: a\nAnswer:", "\nSure.\nAnswer:", " 朝阳区\n\nAnswer:", "Answer: ", "\n", "Answer:\n\n"]
)
def test_a_reply_goes_on_in_an_open_message_of_the_assistant(tokenizer, end, begun: str) -> None:
    asked = (Message("system", "s"), Message("user", "q"), Message("assistant", "a"), Message("user", "Answer:"))
    exchange = Exchange("d", 0, 1, "s", (*asked, Message("assistant", begun)), (Span(" 晴。"),))
    encoded = encode(exchange, tokenizer, end)
    assert tokenizer.decode(encoded.ids) == (
        "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"
        f"<|im_start|>user\nAnswer:<|im_end|>\n<|im_start|>assistant\n{begun} 晴。<|im_end|>"
    )
    assert tokenizer.decode(encoded.ids[encoded.weights > 0]) == " 晴。<|im_end|>"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_ids_of_raw_exchanges_are_those_of_transformers_that_continues_a_message(tokenizer, end, language: str) -> None:
    opened = 0
    for dialogue in synthetic.generate(5, 10, (language,)):
        for exchange in agentfabric.render(dialogue, "test", shape="raw"):
            messages = [{"role": m.role, "content": m.content} for m in exchange.messages]
            is_open = messages[-1]["role"] == "assistant"
            opened += is_open
            request = tokenizer.apply_chat_template(
                messages, add_generation_prompt=not is_open, continue_final_message=is_open, return_dict=False
            )
            encoded = encode(exchange, tokenizer, end)
            assert encoded.ids[: len(request)].tolist() == request
            assert tokenizer.decode(encoded.ids[len(request) :]) == exchange.reply_text + "<|im_end|>"
            assert not encoded.weights[: len(request)].any() and encoded.weights[len(request) :].all()
    assert opened > 5


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.text(st.characters(codec="utf-8"), max_size=5), st.sampled_from([0.0, 0.5, 2.0]))))
def test_each_span_gives_its_own_weight_to_its_own_tokens(tokenizer, end, spans) -> None:
    reply = tuple(Span(text, weight) for text, weight in [*spans, ("last", 1.0)])
    exchange = Exchange("d", 0, 0, "s", (Message("user", "q"),), reply)
    encoded = encode(exchange, tokenizer, end)
    expected = [span.weight for span in reply for _ in span.text.encode()]
    np.testing.assert_array_equal(encoded.weights[-len(expected) - 1 :], [*expected, 1.0])


def test_a_tokenizer_without_a_chat_template_is_refused(tiny_model, tmp_path) -> None:
    tokenizer = models.load_tokenizer(tiny_model)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no chat template"):
        models.load_tokenizer(tmp_path)
