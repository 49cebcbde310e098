"""The benchmarks: the conversion's counts every row on both sides, the training's counts work and losses rightly, the
evaluation's sides ask the same and are compared where they part."""

import asyncio
import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis.strategies import integers, lists

from benchmarks import (
    capture,
    convert,
    convert_plain,
    evaluate,
    evaluate_plain,
    measure,
    merge,
    nll,
    ties,
    train,
    train_plain,
    work,
)
from fabrictune.dialogue import Reply, Tool
from fabrictune.evaluate.tasks import Task
from fabrictune.formats import ms_agent
from fabrictune.score import client

ROOT = Path(__file__).resolve().parent.parent
LISTED = "Answer the following questions as best you can. You have access to the following APIs:\n"


def test_a_small_run_prints_sane_numbers_for_both_sides(tmp_path) -> None:
    words = ["--sizes", "40", "--repeats", "1", "--only", "uncounted", "plain", "--scratch", str(tmp_path)]
    target = tmp_path / "table.md"
    command = [sys.executable, str(ROOT / "benchmarks" / "convert.py"), *words, "--markdown", str(target)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    head, *lines = (line for line in target.read_text(encoding="utf-8").splitlines() if line.startswith("|"))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]
    assert [cell.strip() for cell in head.strip("|").split("|")] == list(convert.COLUMNS)
    assert [row[:2] for row in cells] == [["40", "ours, tokens not counted"], ["40", "plain loop"]]
    for rows, _, runs, seconds, least, processors, rate, peak, *_ in cells:
        assert runs == "1" and 0 < float(least) == float(seconds) < 60 and 0 <= float(processors) < 60
        assert float(rate.replace(",", "")) == pytest.approx(int(rows) / float(seconds), rel=0.2)
        assert 1 < int(peak) < 1000
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_a_side_that_loses_a_row_is_no_result(tmp_path) -> None:
    source = tmp_path / "two.jsonl"
    convert.write_records(source, 2, unique=0.5, seed=1)
    with pytest.raises(RuntimeError, match="converted 2 rows of 3"):
        convert.run(convert.SIDES["plain"], source, 3, tmp_path / "out")
    source.write_text("{no JSON\n", encoding="utf-8")
    with pytest.raises(RuntimeError, match="failed with code 1"):
        convert.run(convert.SIDES["plain"], source, 1, tmp_path / "again")


@pytest.mark.parametrize("unique", [0.0, 0.5, 1.0])
def test_the_share_of_tool_lines_that_occur_once_is_told_and_near_the_one_asked_for(tmp_path, unique) -> None:
    path = tmp_path / "records.jsonl"
    share = convert.write_records(path, 1500, unique, seed=1)
    seen: Counter[str] = Counter()
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        assert ms_agent.parse(record).is_complete
        system = record["conversations"][0]["value"]
        seen.update(re.sub(r"^\d+\. ", "", item) for item in system.split("\n") if re.match(r"\d+\. ", item))
    assert share == sum(count == 1 for count in seen.values()) / seen.total()
    assert (
        unique - 0.03 < share < unique + 0.2 * (1 - unique) + 0.01
    )  # the catalogue's rare tools beside those asked for


def test_memory_shared_by_two_processes_counts_once() -> None:
    code = "import os, time; held = b'x' * (64 << 20); child = os.fork(); time.sleep(0.5); child and os.wait()"
    process = subprocess.Popen([sys.executable, "-c", code])
    with ThreadPoolExecutor(1) as watching:
        highest = watching.submit(measure.peak_memory, process.pid)
        process.wait()
    assert 64 < highest.result(timeout=10) / measure.MIB < 100


def test_the_plain_loop_keeps_one_parameter_and_leaves_out_a_tool_that_it_cannot_match() -> None:
    text = '[{"name": "city", "description": "Where", "required": "True"}, {"name": "day", "description": "When", '
    good = f'Call this tool to interact with the sky API. What is it useful for? Forecasts. Parameters: {text}"required'
    bad = '2. fire: This API rings. Parameters: [{"name": "bell", "description": "Which", "required": "True"}]'
    system = f'{LISTED}1. sky: {good}": "True"}}]\n\n{bad}\n\nUse the following format:\n'
    shown = convert_plain.rewrite(system)
    assert '\nsky: sky API。Forecasts输入参数: {"type": "object", "properties": {"city": {' in shown
    assert "When" not in shown and "fire" not in shown and '必须是["sky"]之一' in shown


def test_the_work_of_training_is_what_torch_counts_where_only_inputs_have_gradients(tiny_model) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, attn_implementation="eager").requires_grad_(False)
    inputs = model.get_input_embeddings()(torch.arange(24)[None]).requires_grad_()
    with FlopCounterMode(display=False) as counter:
        model(inputs_embeds=inputs).logits.sum().backward()
    needed = work.Work(tokens=24, pairs=24 * 24)  # eager attention computes the masked pairs too
    assert counter.get_total_flops() == work.flops(work.Shape.of(tiny_model), needed, supervised=24)


@given(lists(lists(lists(integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=5), max_size=4))
def test_shared_work_is_one_token_for_each_distinct_prefix_of_a_group(groups) -> None:
    prefixes = [{tuple(one[: i + 1]) for one in group for i in range(len(one))} for group in groups]
    expected = work.Work(sum(map(len, prefixes)), sum(len(prefix) for group in prefixes for prefix in group))
    assert work.shared(groups) == expected
    single = [one for group in groups for one in group]
    assert work.apart(single) == work.shared([one] for one in single)


def test_micro_batches_make_the_steps_asked_for_or_are_refused() -> None:
    size, count = train.micro_batch(153, 6)
    assert -(-153 // (size * count)) == 6
    size, count = train.micro_batch(153, 6, ranks=2)
    assert -(-153 // (2 * size * count)) == 6
    with pytest.raises(ValueError, match="10 rows cannot be divided into 7 steps"):
        train.micro_batch(10, 7)


def test_packing_puts_each_sequence_where_it_leaves_least() -> None:
    assert work.packed_rows([6, 5, 4, 3, 2], 10) == 2  # 6 and 4, 5 and 3 and 2
    assert work.packed_rows([10, 9, 9], 10) == 3
    assert work.packed_rows([], 10) == 0


def measured(name: str, seconds: float, tokens: int, loss: float) -> train.Measured:
    trained = train.Trained(seconds, 6, tokens, Path("adapter"))
    return train.Measured(train.SIDES[name], (train.Run(seconds + 20, 2 * seconds, 3 << 30, trained, loss),))


def test_a_line_of_the_training_table_has_rates_ratios_and_shares() -> None:
    shape = work.Shape(layers=2, hidden=10, intermediate=20, queries=10, keys=5, vocabulary=50)
    task = train.Task(
        **{"model": Path(), "outputs": Path(), "dialogues": 10, "batch": 5, "lengths": (30,) * 30, "supervised": 400},
        **{"apart": work.Work(1000, 9000), "shared": work.Work(500, 7000), "distinct": work.Work(400, 6500)},
    )
    failed = train.Measured(train.SIDES["swift_packed"], (), "ValueError: needs flash attention")
    sides = [measured("ours", 10, 550, 0.5), measured("plain", 40, 1300, 0.51), measured("trl", 30, 1200, 0.52), failed]
    made = train.lines(sides, task, shape, rate=1e6)
    ours, plain, trl, absent = [dict(zip(train.COLUMNS, line, strict=True)) for line in made]
    assert shape.parameters == 2 * (300 + 600)
    assert [line["dialogues/hour, training"] for line in (ours, plain, trl)] == ["3,600", "900", "1,200"]
    assert (ours["÷ plain"], ours["÷ best peer"], ours["÷ plain "]) == ("4.00", "3.00", "2.00")
    assert (ours["dialogues/hour, all of it"], ours["epochs/hour"]) == ("1,200", "360.0")
    assert (ours["supervised tokens/s"], ours["start-up s"], ours["peak MiB"]) == ("40.0", "20", "3,072")
    head = 4 * 10 * 50 * 400
    assert ours["% of matmul rate"] == f"{(4 * 1800 * 550 + 12 * 2 * 10 * 7250 + head) / 10 / 1e6:.1%}"
    assert plain["% of matmul rate"] == f"{(4 * 1800 * 1300 + 12 * 2 * 10 * 11700 + head) / 40 / 1e6:.1%}"
    assert plain["useful %"] == f"{(4 * 1800 * 400 + 12 * 2 * 10 * 6500 + head) / 40 / 1e6:.1%}"
    assert absent["dialogues/hour, training"] == "did not run"


def test_the_reason_of_a_failure_is_the_last_exception_of_its_log() -> None:
    log = "Traceback\n  raise KeyError\nKeyError: 1\nTraceback\n  File x\nValueError: no flash attention here\nrc 1\n"
    assert train.last_error(log) == "ValueError: no flash attention here"
    assert train.last_error("killed\n") == "killed"


@pytest.mark.parametrize(("script", "option"), [("train.py", "--peers"), ("evaluate.py", "--model")])
def test_a_benchmark_tells_its_options_without_torch(script, option) -> None:
    words = [sys.executable, "-X", "importtime", str(ROOT / "benchmarks" / script), "--help"]
    told = subprocess.run(words, check=True, capture_output=True, text=True, timeout=60)
    assert option in told.stdout and not re.search(r"\| +torch$", told.stderr, re.MULTILINE)


def exchange_lines(path: Path, count: int) -> list[str]:
    rows = [
        {
            "messages": [{"role": "system", "content": "Tools"}, {"role": "user", "content": "Which? " * number}],
            "reply": [{"text": "Action: "}, {"text": f"find {number}"}],
        }
        for number in range(1, count + 1)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path.read_text(encoding="utf-8").splitlines()


def test_the_plain_loop_learns_the_replies_and_counts_the_padding(tmp_path, tiny_model) -> None:
    from transformers import AutoTokenizer

    rows = tmp_path / "rows.jsonl"
    lines = exchange_lines(rows, 4)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    lengths = [len(train_plain.encoded(line, tokenizer)[0]) for line in lines]
    trainer = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": "none",
        "include_num_input_tokens_seen": "all",
    }
    settings = {
        **{"model": str(tiny_model), "data": str(rows), "out": str(tmp_path), "max_length": 2048, "rank": 4},
        **{"alpha": 8, "seed": 1, "sampling": "random", "trainer": trainer},
    }
    trained = train_plain.train(settings)
    assert trained["steps"] == 2 and trained["tokens"] == 2 * 4 * max(lengths) > 2 * sum(lengths)
    before = nll.mean_nll(str(tiny_model), "none", rows)
    after = nll.mean_nll(str(tiny_model), str(tmp_path / "adapter"), rows)
    assert after["nll"] < before["nll"] - 0.05
    assert after["tokens"] == before["tokens"] == sum(len("Action: find 1") + 1 for _ in lines)


def test_the_loss_of_the_base_is_the_one_that_transformers_computes_from_labels(tmp_path, tiny_model) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    lines = exchange_lines(tmp_path / "rows.jsonl", 1)
    made = train_plain.example(lines[0], AutoTokenizer.from_pretrained(tiny_model), 2048)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    expected = model(**{key: torch.tensor([value]) for key, value in made.items()}).loss.item()
    assert nll.mean_nll(str(tiny_model), "none", tmp_path / "rows.jsonl")["nll"] == pytest.approx(expected, rel=1e-3)


CALL = "Action: find\nAction Input: {}\n"


def row(key: str, *texts: str, query: str = "Which?", stopped: bool = True, success: int = 1) -> dict:
    """A row as the client makes it of a model that answers with the texts; `find` finds nothing."""
    replies = iter(texts)
    bodies = []

    async def ask(body: dict) -> Reply:
        bodies.append(body["messages"])
        return Reply(next(replies), stopped)

    tools = (Tool("find", "Finds", {"type": "object", "properties": {}}),)
    played = asyncio.run(client.play_turn(ask, "m", tools, "", "", [], query, lambda name, text: "nothing"))
    calls = [{"name": call.name, "arguments": call.text, "observation": call.observation} for call in played.attempts]
    return {
        **{"key": key, "dialogue": key.split("/")[0], "prompt": bodies[0], "bodies": bodies, "calls": calls},
        "replies": [{"text": reply.text, "stopped": reply.stopped} for reply in played.replies],
        "measures": {"success": [success, 1]},
    }


def test_requests_are_compared_with_the_messages_that_the_client_sent_up_to_the_reply_that_differs() -> None:
    one = row("1/0", CALL, CALL, "Nothing is there.")
    other = row("1/0", CALL, CALL + " ", "Not a thing.")
    assert list(ties.requests(one)) == one["bodies"]
    compared = list(ties.pairs(one, other))
    assert [pair.messages for pair in compared] == one["bodies"][:2] == other["bodies"][:2]
    assert [pair.same for pair in compared] == [True, False]
    assert len(list(ties.pairs(one, one))) == 3 and all(pair.same for pair in ties.pairs(one, one))
    cut_off = row("1/0", CALL, CALL, "Nothing is there.", stopped=False)
    assert [pair.same for pair in ties.pairs(one, cut_off)] == [False]


def test_sides_that_began_a_turn_with_other_messages_are_no_result() -> None:
    evaluate.require_same_prompts([row("1/0", "a"), row("1/1", "b")], [row("1/0", "c"), row("1/1", "d")])
    with pytest.raises(RuntimeError, match="turn 1/1 began with other messages"):
        evaluate.require_same_prompts([row("1/0", "a"), row("1/1", "b")], [row("1/0", "c"), row("1/1", "d", query="?")])
    with pytest.raises(RuntimeError, match="other turns: 1 and 2"):
        evaluate.require_same_prompts([row("1/0", "a")], [row("1/0", "c"), row("1/1", "d")])


def test_the_distance_at_the_first_token_that_differs_is_that_of_the_model_s_logits(tiny_model) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    messages = [{"role": "user", "content": "Which?"}]

    def logits(written: str) -> torch.Tensor:
        text = f"<|im_start|>user\nWhich?<|im_end|>\n<|im_start|>assistant\n{written}"
        return model(**tokenizer(text, return_tensors="pt")).logits[0, -1].detach()

    def pair(left: str, right: str, stopped: bool = True) -> ties.Pair:
        return ties.Pair(messages, ({"text": left, "stopped": stopped}, {"text": right, "stopped": True}))

    def distance(after: str, left: str, right: str) -> float:
        one, other = tokenizer.convert_tokens_to_ids([left, right])
        return abs(logits(after)[one] - logits(after)[other]).item()

    ended = min(distance("It is ", "<|endoftext|>", "b"), distance("It is ", "O", "b"))
    cases = [pair("It is a", "It is bc"), pair("It is ", "It is b"), pair("It is ", "It is b", stopped=False)]
    found = ties.gaps(str(tiny_model), cases)
    assert found == [pytest.approx(distance("It is ", "a", "b"), abs=1e-4), pytest.approx(ended, abs=1e-4), None]


def test_the_agreement_counts_replies_to_the_same_messages_and_names_ties() -> None:
    ours = measured_rows("ours", row("1/0", CALL, "a"), row("1/1", "b"), row("2/0", "c"), row("2/1", "d"))
    plain = measured_rows("plain", row("1/0", CALL, "x"), row("1/1", "y"), row("2/0", "z"), row("2/1", "d"))
    told = evaluate.agreement(ours, plain, lambda parted: [0.01, 0.5, None][: len(parted)])
    assert "all 4 turns begin with the same messages. Of 5 requests with the same messages 2 (40.0%)" in told
    assert "Of the 3 others 1 part at a tie" in told and "the greatest 0.500; of 1 it is not known" in told
    assert evaluate.agreement(ours, ours, lambda parted: 1 / 0).endswith("5 (100.0%) have the same reply.")


def measured_rows(name: str, *rows: dict, playing: float = 10) -> evaluate.Measured:
    return evaluate.Measured(evaluate.SIDES[name], (evaluate.Run(playing + 20, 40, 3 << 30, playing, rows),))


def test_a_line_of_the_evaluation_s_table_has_rates_ratios_and_what_was_written() -> None:
    rows = (row("1/0", CALL, "abc"), row("1/1", "b"), row("2/0", "c", success=0), row("2/1", "d"))
    sides = [measured_rows("ours", *rows), measured_rows("plain", *rows, playing=40)]
    sides.append(measured_rows("batches", *rows, playing=20))
    made = evaluate.lines(sides, lambda row: sum(len(reply["text"]) for reply in row["replies"]))
    ours, plain, batches = [dict(zip(evaluate.COLUMNS, line, strict=True)) for line in made]
    assert [line["dialogues/minute, playing"] for line in (ours, plain, batches)] == ["12.0", "3.0", "6.0"]
    assert [line["dialogues/minute, all of it"] for line in (ours, plain, batches)] == ["4.0", "2.0", "3.0"]
    assert (ours["÷ plain"], ours["÷ in batches"], ours["÷ plain "]) == ("4.00", "2.00", "2.00")
    assert (ours["turns/minute"], ours["requests"], ours["start-up s"], ours["peak MiB"]) == (
        "24.0",
        "5",
        "20",
        "3,072",
    )
    written = len(CALL) + len("abcbcd")
    assert (ours["tokens written"], ours["tokens/s"]) == (str(written), f"{written / 10:.1f}")
    assert ours["turns right"] == "75.0%"


def test_the_start_of_playing_is_when_the_log_first_says_that_the_server_is_up(tmp_path) -> None:
    log, ended = tmp_path / "log", threading.Event()
    with ThreadPoolExecutor(1) as watching:
        found = watching.submit(evaluate._first_seen, log, evaluate.SERVING, ended)
        log.write_text("starting vLLM for base: 4 s\n", encoding="utf-8")
        time.sleep(0.2)
        before = time.time()
        log.write_text("starting vLLM for base: 4 s\nvLLM serves base after 8 s\n", encoding="utf-8")
        assert before <= found.result(timeout=10) < before + 5
        never = watching.submit(evaluate._first_seen, tmp_path / "other", evaluate.SERVING, ended)
        ended.set()
        assert never.result(timeout=10) is None
    assert f'"{evaluate.SERVING} ' in (ROOT / "fabrictune" / "serve" / "server.py").read_text(encoding="utf-8")


def asking(key: str, texts: list[str]) -> Task:
    """A task that asks the texts one after the other."""

    async def play(asked) -> dict:
        replies = [await asked.ask({"messages": [{"role": "user", "content": text}]}) for text in texts]
        return {"replies": [reply.text for reply in replies]}

    return Task(key, key, {}, play)


@pytest.mark.parametrize(
    ("at_once", "batches"), [(1, [1] * 8), (2, [2, 2, 2, 1, 1]), (3, [3, 3, 1, 1]), (9, [4, 2, 1, 1])]
)
def test_the_plain_loop_generates_when_all_turns_that_are_played_wait(at_once, batches) -> None:
    sizes = []

    def generate(requests: list) -> list[Reply]:
        sizes.append(len(requests))
        return [Reply(messages[0]["content"].upper(), stopped=True) for messages in requests]

    texts = [["a", "b"], ["c"], ["d", "e", "f", "g"], ["h"]]
    rows = asyncio.run(evaluate_plain.play([asking(str(n), asked) for n, asked in enumerate(texts)], generate, at_once))
    assert {row["key"]: row["replies"] for row in rows} == {
        str(n): [text.upper() for text in asked] for n, asked in enumerate(texts)
    }
    assert sizes == batches


def test_the_plain_loop_s_replies_are_greedy_cut_at_the_stop_string_and_the_same_in_a_batch(
    tmp_path, tiny_model
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loud = AutoModelForCausalLM.from_pretrained(tiny_model)
    for weight in loud.model.layers.parameters():
        weight.data *= 10  # as it comes from its seed it only repeats the last token
    loud.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path)
    tiny_model = tmp_path
    short, long = ([{"role": "user", "content": text}] for text in ("Hi", "Which of them? " * 9))
    generate = evaluate_plain.generator(str(tiny_model), max_new_tokens=12)
    (one,), (other,) = generate([short]), generate([long])
    assert generate([short, long]) == [one, other] and one != other
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    ids = tokenizer.apply_chat_template(long, add_generation_prompt=True, return_tensors="pt", return_dict=False)
    first = model(input_ids=ids).logits[0, -1].argmax()
    assert other.text.startswith(tokenizer.decode(first))
    middle = other.text[3:5]
    (cut,) = evaluate_plain.generator(str(tiny_model), 12, ["never", middle])([long])
    assert cut == Reply(other.text[:3], stopped=True)
    (none,) = evaluate_plain.generator(str(tiny_model), 4090)([long])
    assert none == Reply("", stopped=False)


def table(path: Path) -> tuple[list[str], list[list[str]]]:
    """The head and the lines of the one table in a file of markdown."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return head, rows


def test_a_small_merge_is_peft_s_and_its_figures_are_told(tmp_path, monkeypatch) -> None:
    tiny = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "vocab_size": 512}
    monkeypatch.setattr(merge, "SHAPE", merge.SHAPE | tiny)
    monkeypatch.setattr(merge, "SHARD", 100_000)
    target = tmp_path / "table.md"
    merge.main(["--layers", "2", "--compare", "--scratch", str(tmp_path), "--markdown", str(target)])
    head, rows = table(target)
    assert head == list(merge.COLUMNS) and [row[0] for row in rows] == [label for label, _ in merge.SIDES.values()]
    assert all(int(row[5].replace(",", "")) > 1 for row in rows)
    found = re.search(r"Of ([\d,]+) numbers ([\d,]+) differ", target.read_text(encoding="utf-8"))
    total, other = (int(number.replace(",", "")) for number in found.groups())
    assert total > 100_000 and other == 0
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_a_small_run_through_the_proxy_records_every_reply(tmp_path) -> None:
    target = tmp_path / "table.md"
    words = ["--repeats", "1", "--requests", "1", "--streams", "2", "--scratch", str(tmp_path)]
    capture.main([*words, "--markdown", str(target)])
    head, rows = table(target)
    assert head == list(capture.COLUMNS)
    assert [row[:3] for row in rows] == [[side, "1", "2"] for side in ("straight", "through the proxy", "and redacted")]
