"""Loss falls on replies and their end, never on a request; ids are what a server would see and write."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fabrictune.dialogue import PARTS, Exchange, Message, Span
from fabrictune.formats import agentfabric
from fabrictune.model import models
from fabrictune.model.encoding import END, REQUEST, encode, encode_all, reply_end, weight_table
from fabrictune.sources import synthetic


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return models.load_tokenizer(tiny_model)


@pytest.fixture(scope="module")
def end(tokenizer):
    return reply_end(tokenizer)


def test_the_end_of_a_reply_is_the_token_that_closes_an_assistant_message(tokenizer, end) -> None:
    assert tokenizer.convert_ids_to_tokens(end) == "<|im_end|>"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_observations_are_never_supervised_and_reply_ends_always_are(tokenizer, end, language: str) -> None:
    for dialogue in synthetic.generate(3, 40, (language,)):
        for exchange in agentfabric.render(dialogue, "test"):
            encoded = encode(exchange, tokenizer, end).weighted({})
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
    exchange = Exchange("d", 0, 1, "s", (*asked, Message("assistant", begun)), (Span(" 晴。", "answer"),))
    encoded = encode(exchange, tokenizer, end).weighted({})
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
            encoded = encode(exchange, tokenizer, end).weighted({})
            assert encoded.ids[: len(request)].tolist() == request
            assert tokenizer.decode(encoded.ids[len(request) :]) == exchange.reply_text + "<|im_end|>"
            assert not encoded.weights[: len(request)].any() and encoded.weights[len(request) :].all()
    assert opened > 5


part_texts = st.tuples(
    st.text(st.characters(codec="utf-8"), max_size=5),
    st.sampled_from(PARTS),
    st.sampled_from([0.5, 1.0, 2.0]),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(part_texts), st.fixed_dictionaries({part: st.sampled_from([0.0, 1.0, 3.0]) for part in PARTS}))
def test_each_span_gives_its_part_and_its_own_weight_to_its_own_tokens(tokenizer, end, spans, asked) -> None:
    reply = tuple(Span(*span) for span in [*spans, ("last", "answer", 1.0)])
    labelled = encode(Exchange("d", 0, 0, "s", (Message("user", "q"),), reply), tokenizer, end)
    owners = [span for span in reply for _ in span.text.encode()]  # the tokens are bytes
    request = len(labelled) - len(owners) - 1
    codes = [1 + PARTS.index(span.part) for span in owners]
    assert labelled.parts.tolist() == [*[REQUEST] * request, *codes, END]
    expected = [*[0.0] * request, *(span.weight * asked[span.part] for span in owners), 1.0]
    np.testing.assert_array_equal(labelled.weighted(asked).weights, np.array(expected, np.float32))


@pytest.fixture(scope="module")
def merging(tokenizer):
    """The same tokenizer with "a:b" as one token, as real vocabularies have words across a span's edge."""
    merged = copy.deepcopy(tokenizer)
    merged.add_tokens(["a:b"])
    return merged


def test_an_answer_in_which_no_token_starts_has_the_token_that_it_ends(merging, end) -> None:
    request = (Message("user", "q"),)
    for before, answer, after in (("a:", "b", ""), ("a", ":", "b"), ("", "a:b", "")):
        spans = (Span(f"x{before}", "said"), Span(answer, "answer"), Span(f"{after}y", "said"))
        labelled = encode(Exchange("d", 0, 0, "s", request, spans), merging, end)
        assert merging.decode(labelled.ids[labelled.parts == 1 + PARTS.index("answer")]) == "a:b"


@pytest.mark.parametrize(
    ("span", "said"),
    [
        (Span("It is 5.", "answer", 0.0), "answer 'It is 5.' has the weight 0"),
        (Span("Action:", "said", -1.0), "weight -1"),
        (Span("Action:", "said", math.nan), "weight nan"),
    ],
)
def test_a_weight_that_cannot_be_meant_is_refused(tokenizer, end, span: Span, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        encode(Exchange("d", 0, 0, "s", (Message("user", "q"),), (span,)), tokenizer, end)


def test_an_answer_is_left_out_of_the_loss_only_where_that_is_asked_for(tokenizer, end) -> None:
    for dialogue in synthetic.generate(3, 20):
        for exchange in agentfabric.render(dialogue, "test"):
            labelled = encode(exchange, tokenizer, end)
            answered = sum(len(span.text.encode()) for span in exchange.reply if span.part == "answer")
            for asked, expected in (({"tool": 0, "arguments": 0}, answered), ({"answer": 0}, 0)):
                weights = labelled.weighted(asked).weights
                assert (weights[labelled.parts == 1 + PARTS.index("answer")] > 0).sum() == expected
                assert weights[-1] == 1


def test_weights_that_name_no_part_or_are_negative_are_refused() -> None:
    with pytest.raises(ValueError, match="loss_weights names \\['tools'\\].*said, tool, arguments, answer"):
        weight_table({"tools": 2})
    with pytest.raises(ValueError, match="loss_weights.tool is -1"):
        weight_table({"tool": -1})


def test_exchanges_encoded_together_are_those_encoded_one_by_one(tokenizer, end) -> None:
    exchanges = [one for made in synthetic.generate(7, 5, ("zh",)) for one in agentfabric.render(made, "test")]
    together = encode_all(exchanges, tokenizer, end)
    assert len(together) == len(exchanges) > 5 and not encode_all([], tokenizer, end)
    for one, exchange in zip(together, exchanges, strict=True):
        for ours, alone in zip(vars(one).values(), vars(encode(exchange, tokenizer, end)).values(), strict=True):
            assert ours.dtype == alone.dtype
            np.testing.assert_array_equal(ours, alone)


def test_a_tokenizer_without_a_chat_template_is_refused(tiny_model, tmp_path) -> None:
    tokenizer = models.load_tokenizer(tiny_model)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no chat template"):
        models.load_tokenizer(tmp_path)


def test_a_template_that_ends_no_message_of_the_assistants_is_refused_by_its_models_name(tiny_model) -> None:
    tokenizer = models.load_tokenizer(tiny_model)
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    said = f"^{tokenizer.name_or_path}: its chat template does not end .*; choose another model=$"
    with pytest.raises(ValueError, match=said):
        reply_end(tokenizer)
