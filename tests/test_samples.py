import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fabrictune import protocol
from fabrictune.dialogue import Exchange, Message, Reply, Span
from fabrictune.model import models
from fabrictune.train import attention, samples

PROMPTS = ["Hi", "What is the weather in Paris tomorrow, please?", "Book a table", "", "x" * 90, *map(str, range(6))]
CALL = 'Action: weather\nAction Input: {"city": "Paris"}\n'


def exchange(dialogue: str, source: str, reply: str = "an answer") -> Exchange:
    return Exchange(dialogue, 0, 1, source, (Message("user", f"question {dialogue}"),), (Span(reply),))


def load(folder, kind="sdpa") -> torch.nn.Module:
    return models.load(folder, "float32", kind)


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def prompts(tokenizer) -> list[str]:
    messages = [[{"role": "user", "content": text}] for text in PROMPTS]
    return [tokenizer.apply_chat_template(m, tokenize=False, add_generation_prompt=True) for m in messages]


@pytest.fixture(scope="module")
def alone(tiny_model, tokenizer, prompts) -> list[list[int]]:
    """The 24 tokens that transformers itself generates after each prompt alone, without a stop."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    found = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        made = model.generate(**ids, do_sample=False, max_new_tokens=24, min_new_tokens=24)
        found.append(made[0, ids["input_ids"].shape[1] :].tolist())
    return found


def text(tokenizer, tokens: list[int]) -> str:
    return tokenizer.decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize("kind", ["sdpa", attention.NAME])
def test_replies_in_batches_equal_those_of_each_prompt_alone(tiny_model, tokenizer, prompts, alone, kind) -> None:
    # A stop that some replies reach and others do not.
    reached = {token: sum(token in reply for reply in alone) for reply in alone for token in reply}
    stop = next(token for token, count in reached.items() if 0 < count < len(prompts) and token not in (0,))
    expected = {
        place: Reply(text(tokenizer, reply[: reply.index(stop)] if stop in reply else reply), stop in reply)
        for place, reply in enumerate(alone)
    }
    assert samples.generate(load(tiny_model, kind), tokenizer, prompts, 24, [stop]) == expected


@pytest.fixture(scope="module")
def stop_string(tokenizer, alone) -> str:
    """Three plain characters, a token each, that stand in some reply."""
    found = (
        said[at : at + 3] for said in (text(tokenizer, reply) for reply in alone) for at in range(2, len(said) - 4)
    )
    return next(piece for piece in found if piece.isascii() and piece.isprintable())


def test_a_reply_ends_before_the_first_stop_string_as_a_server_cuts_it(
    tiny_model, tokenizer, prompts, alone, stop_string
) -> None:
    expected = {}
    for place, reply in enumerate(alone):
        said, found, _ = text(tokenizer, reply).partition(stop_string)
        expected[place] = Reply(said, stopped=bool(found))
    assert any(reply.stopped for reply in expected.values())
    made = samples.generate(load(tiny_model), tokenizer, prompts, 24, [2], [stop_string])
    assert made == expected


def test_nothing_is_computed_after_a_stop_string(tiny_model, tokenizer, prompts, alone, stop_string) -> None:
    place = next(place for place, reply in enumerate(alone) if stop_string in text(tokenizer, reply))
    needed = next(n for n in range(1, 25) if stop_string in text(tokenizer, alone[place][:n]))
    model, passes = load(tiny_model), []
    model.register_forward_hook(lambda *_: passes.append(1))
    (reply,) = samples.generate(model, tokenizer, [prompts[place]], 24, [2], [stop_string]).values()
    assert reply.stopped and len(passes) == needed < 24


def test_a_stop_string_in_the_prompt_stops_nothing(tiny_model, tokenizer, prompts) -> None:
    plain = samples.generate(load(tiny_model), tokenizer, prompts, 12, [2])
    assert samples.generate(load(tiny_model), tokenizer, prompts, 12, [2], ["assistant\n"]) == plain


@pytest.mark.parametrize(("count", "ranks"), [(11, 2), (11, 3), (1, 2)])
def test_ranks_share_the_prompts_and_compute_equally_often(tiny_model, tokenizer, prompts, count, ranks) -> None:
    whole = samples.generate(load(tiny_model), tokenizer, prompts[:count], 6, [2])
    shares, passes = [], []
    for rank in range(ranks):
        asked: list[int] = []
        batches: list[int] = []
        model = load(tiny_model)
        model.register_forward_hook(lambda *_, batches=batches: batches.append(1))
        share = samples.generate(
            model, tokenizer, prompts[:count], 6, [2], (), rank, ranks, lambda asked=asked: asked.append(1)
        )
        shares.append(share)
        passes.append((len(asked), len(batches) > 0))
    assert len(set(passes)) == 1, "under ZeRO-3 they would wait for each other for ever"
    assert sum(map(len, shares)) == count and {k: v for share in shares for k, v in share.items()} == whole


def test_a_stop_that_is_asked_for_ends_it_between_two_batches(tiny_model, tokenizer, prompts) -> None:
    asked: list[int] = []

    def stop() -> None:
        asked.append(1)
        if len(asked) == 2:
            raise InterruptedError

    model = load(tiny_model).train()
    with pytest.raises(InterruptedError):
        samples.generate(model, tokenizer, prompts, 4, [2], before_batch=stop)
    assert model.training and len(prompts) > samples.BATCH


def test_a_models_own_penalty_and_sampling_do_not_count(tiny_model, tokenizer, prompts) -> None:
    model = load(tiny_model)
    plain = samples.generate(model, tokenizer, prompts, 12, [2])
    model.generation_config.update(repetition_penalty=5.0, do_sample=True, temperature=9.0, top_k=3)
    assert samples.generate(model, tokenizer, prompts, 12, [2]) == plain


def test_a_reply_ends_at_the_templates_end_the_tokenizers_and_the_models_own(tiny_model, tokenizer) -> None:
    model = load(tiny_model)
    assert samples.end_tokens(model, tokenizer) == [2, 0], "<|im_end|>, <|endoftext|>"
    model.generation_config.eos_token_id = [0, 7]
    assert samples.end_tokens(models.attach(model, 4, 8, 0.0, seed=1), tokenizer) == [2, 0, 7]


def test_training_after_samples_is_equal_to_the_last_bit(tiny_model, tokenizer, prompts) -> None:
    def trained(sampling: bool) -> list[torch.Tensor]:
        model = models.attach(load(tiny_model), 4, 8, 0.3, seed=1)
        model.train()
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        ids = torch.arange(3, 40)[None]
        for _ in range(2):
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if sampling:
                samples.generate(model, tokenizer, prompts[:2], 4, [2], ["Observation:"])
                assert model.training
        return [p.detach().clone() for p in model.parameters() if p.requires_grad]

    torch.manual_seed(0)
    state = torch.get_rng_state()
    without = trained(False)
    torch.set_rng_state(state)
    for one, other in zip(without, trained(True), strict=True):
        assert torch.equal(one, other)


def test_samples_come_from_every_source_and_evenly_from_all_of_it() -> None:
    many = [exchange(f"a{i}", "a") for i in range(100)] + [exchange(f"b{i}", "b") for i in range(1)]
    assert [e.dialogue for e in samples.choose(many, 5)] == ["a0", "a25", "a50", "a75", "b0"]
    assert [e.dialogue for e in samples.choose(many, 1)] == ["a0"]
    assert samples.choose(many, 0) == [] == samples.choose([], 4)
    assert len(samples.choose(many, 500)) == 101


# source, expected, reply, stopped
JUDGED = [
    ("shop", CALL, CALL, True),
    ("shop", CALL, "It rains.", True),
    ("shop", CALL, CALL.replace("Paris", "Rome"), True),
    ("shop", CALL, CALL.replace("weather", "news"), False),
    ("chat", "It rains in Paris.", "It rains in Paris.", True),
    ("chat", "It rains in Paris.", CALL, True),
    ("chat", "It rains in Paris.", "Action Input: {", False),
    ("chat", CALL, 'Action: weather\nAction Input: {"city" Paris\n', True),
]


@pytest.fixture(scope="module")
def judged() -> tuple[list[Exchange], list]:
    exchanges = [exchange(str(number), source, wanted) for number, (source, wanted, *_) in enumerate(JUDGED)]
    return exchanges, samples.judge(exchanges, [Reply(said, ended) for *_, said, ended in JUDGED], protocol.APRIL)


def test_each_measure_is_the_mean_over_the_exchanges_that_it_applies_to(judged) -> None:
    found = samples.metrics(*judged, "eval")
    whole = {name: value for name, value in found.items() if "/" not in name}
    assert whole == {
        "eval_call_exact": 1 / 5,
        "eval_no_call": 1 / 5,
        "eval_wrong_tool": 1 / 5,
        "eval_wrong_args": 1 / 5,
        "eval_malformed": 2 / 7,  # of 5 due and 2 tried
        "eval_needless_call": pytest.approx(2 / 3),  # a try counts
        "eval_rouge_l": pytest.approx(1 / 3),
        "eval_not_stopped": 2 / 8,
    }
    assert (found["eval_call_exact/shop"], found["eval_call_exact/chat"]) == (1 / 4, 0)
    assert (found["eval_not_stopped/shop"], found["eval_not_stopped/chat"]) == (1 / 4, 1 / 4)
    assert "eval_rouge_l/shop" not in found, "no answer was due there"


def test_the_measures_of_a_single_source_are_said_once(judged) -> None:
    exchanges, verdicts = judged
    assert not any("/" in name for name in samples.metrics(exchanges[:4], verdicts[:4], "eval"))


def test_what_can_be_measured_is_known_before_anything_is_generated(judged) -> None:
    exchanges, _ = judged
    names = {"call_exact", "no_call", "wrong_tool", "wrong_args", "malformed"}
    calls, answers = exchanges[:4], exchanges[4:7]
    assert samples.measurable(calls, protocol.APRIL, "eval") == {f"eval_{n}" for n in (*names, "not_stopped")}
    assert samples.measurable(answers, protocol.APRIL, "eval") == {
        f"eval_{name}" for name in ("needless_call", "rouge_l", "not_stopped")
    }
    assert samples.measurable([], protocol.APRIL, "eval") == set()


def test_a_row_shows_the_prompts_end_beside_what_was_wanted_and_what_came(tokenizer) -> None:
    asked = Exchange("d", 0, 1, "shop", (Message("user", "x" * 1000 + "the question"),), (Span(CALL),))
    sample = samples.Sample([asked, asked], tokenizer, protocol.APRIL, 4)
    replies = {1: Reply(CALL, True), 0: Reply("a reply", False)}
    wrong, right = sample.rows(replies, sample.verdicts(replies))
    assert "the question" in wrong["prompt_end"] and len(wrong["prompt_end"]) == samples.PROMPT_SHOWN
    assert (wrong["source"], wrong["expected"], wrong["reply"], wrong["stopped"]) == ("shop", CALL, "a reply", False)
    assert (wrong["verdict"], right["verdict"]) == ("no_call, not_stopped", "right")
