import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fabrictune import attention, models, samples
from fabrictune.dialogue import Exchange, Message, Reply, Span

PROMPTS = ["Hi", "What is the weather in Paris tomorrow, please?", "Book a table", "", "x" * 90, *map(str, range(6))]


def exchange(dialogue: str, source: str) -> Exchange:
    return Exchange(dialogue, 0, 1, source, (Message("user", f"question {dialogue}"),), (Span("an answer"),))


def load(folder, kind="sdpa") -> torch.nn.Module:
    return models.load(folder, "float32", kind)


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def prompts(tokenizer) -> list[str]:
    messages = [[{"role": "user", "content": text}] for text in PROMPTS]
    return [tokenizer.apply_chat_template(m, tokenize=False, add_generation_prompt=True) for m in messages]


def common_tokens(model, tokenizer, prompts: list[str], count: int) -> list[list[int]]:
    """What transformers itself generates after each prompt alone, without a stop."""
    found = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        made = model.generate(**ids, do_sample=False, max_new_tokens=count, min_new_tokens=count)
        found.append(made[0, ids["input_ids"].shape[1] :].tolist())
    return found


@pytest.mark.parametrize("kind", ["sdpa", attention.NAME])
def test_replies_in_batches_equal_those_of_each_prompt_alone(tiny_model, tokenizer, prompts, kind) -> None:
    alone = common_tokens(AutoModelForCausalLM.from_pretrained(tiny_model), tokenizer, prompts, 24)
    # A stop that some replies reach and others do not.
    reached = {token: sum(token in reply for reply in alone) for reply in alone for token in reply}
    stop = next(token for token, count in reached.items() if 0 < count < len(prompts) and token not in (0,))
    expected = [
        Reply(tokenizer.decode(reply[: reply.index(stop)] if stop in reply else reply), stop in reply)
        for reply in alone
    ]
    assert samples.generate(load(tiny_model, kind), tokenizer, prompts, 24, [stop]) == expected


def test_a_models_own_penalty_and_sampling_do_not_count(tiny_model, tokenizer, prompts) -> None:
    model = load(tiny_model)
    plain = samples.generate(model, tokenizer, prompts, 12, [2])
    model.generation_config.update(repetition_penalty=5.0, do_sample=True, temperature=9.0, top_k=3)
    assert samples.generate(model, tokenizer, prompts, 12, [2]) == plain


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
                samples.generate(model, tokenizer, prompts[:2], 4, [2])
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


def test_a_row_shows_the_prompts_end_beside_what_was_wanted_and_what_came() -> None:
    (row,) = samples.rows([exchange("d", "shop")], ["x" * 1000 + "the question"], [Reply("a reply", False)])
    assert row["prompt_end"].endswith("the question") and len(row["prompt_end"]) == samples.PROMPT_SHOWN
    assert (row["source"], row["expected"], row["reply"], row["stopped"]) == ("shop", "an answer", "a reply", False)
