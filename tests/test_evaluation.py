"""Evaluation end to end over HTTP: only the model is replaced, by one that answers as a test says."""

import csv
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import msgspec
import pytest
from endpoint import PASSWORD, Endpoint, Model, serving
from hydra import compose, initialize_config_dir

from fabrictune.config import Config, typed
from fabrictune.dialogue import Call, Dialogue, Role, Step, Tool, Turn, from_json
from fabrictune.evaluate import evaluation
from fabrictune.formats import agentfabric
from fabrictune.score import testset

ROOT = Path(__file__).resolve().parent.parent
WEATHER = Tool(
    "get_weather",
    "Look up the weather",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
BANK = Tool(
    "查询余额",
    "查询账户余额",
    {"type": "object", "properties": {"account": {"type": "string"}}, "required": ["account"]},
)


def weather(number: int) -> Dialogue:
    city = f"Town{number}"
    first = Turn(
        f"How is the\u2028weather in {city}?",
        (Step(Call("get_weather", {"city": city}), f'{{"sky": "cloudy", "high": {number + 20}}}', "Let me see."),),
        f"It is cloudy in {city}, up to {number + 20} degrees.",
    )
    return Dialogue(
        f"weather-{number}", (WEATHER,), (first, Turn("Thank you!", (), "You are welcome.")), family="weather"
    )


def bank(number: int) -> Dialogue:
    call = Call("查询余额", {"account": f"A{number}"})
    turn = Turn(f"A{number}账户还有多少钱？", (Step(call, f"余额{number * 100}元"),), f"余额是{number * 100}元。")
    return Dialogue(f"bank-{number}", (BANK, WEATHER), (turn,), Role("小助手", "帮忙查账", ("查询",)), family="bank")


DIALOGUES = [*(weather(number) for number in range(4)), *(bank(number) for number in range(1, 4))]
TURNS, DUE = 4 * 2 + 3, 4 + 3
ANSWERS = {
    json.dumps([asdict(message) for message in exchange.messages]): exchange.reply_text
    for dialogue in DIALOGUES
    for exchange in agentfabric.render(dialogue, "test")
}
Captured = pytest.CaptureFixture[str]


def oracle(body: dict) -> str:
    """The expected reply; a request that training would not have shown is a KeyError, so an error of the test."""
    return ANSWERS[json.dumps(body["messages"])]


@pytest.fixture
def serve() -> Iterator[Callable[[Model], Endpoint]]:
    with ExitStack() as servers:
        yield lambda model: servers.enter_context(serving(model))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    convert = tmp_path / "default" / "main" / "convert"
    convert.mkdir(parents=True)
    (convert / "run.json").write_text(
        '{"finished": "today", "command": ["convert.py"], "settings": {"format": "agentfabric"}}', encoding="utf-8"
    )
    rows = [{"dialogue": msgspec.to_builtins(d), "source": "test", "seen": d.family == "weather"} for d in DIALOGUES]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (convert / "test_dialogues.jsonl").write_text(text, encoding="utf-8")
    return tmp_path / "default" / "main"


def config_for(run: Path, url: str, *overrides: str) -> Config:
    fixed = [f"outputs={run.parent.parent}", f"eval.url='{url}'", "eval.concurrency=4"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return typed(compose("config", [*fixed, *overrides]))


def predictions(run: Path, suite: str = "agentfabric") -> list[dict]:
    lines = (run / "evaluate" / suite / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def scores(run: Path, suite: str = "agentfabric") -> dict:
    """Of the endpoint: "all", and the cells of seen and unseen tools."""
    found = json.loads((run / "evaluate" / suite / "scores.json").read_text(encoding="utf-8"))
    assert found["suite"] == suite
    model = found["models"]["endpoint"]
    return {"all": model["all"]} | model["by"].get("tools", {})


def value(cell: dict, measure: str) -> float:
    return cell["measures"][measure]["value"]


def test_a_model_that_answers_as_trained_gets_full_marks(run: Path, serve: Callable, capsys: Captured) -> None:
    endpoint = serve(oracle)
    evaluation.evaluate(config_for(run, endpoint.url))
    for split, turns, due in (("seen", 8, 4), ("unseen", 3, 3)):
        cell = scores(run)[split]
        assert (cell["rows"], cell["measures"]["first_call"]["count"]) == (turns, due)
        assert value(cell, "first_call") == value(cell, "success") == value(cell, "argument_f1") == 1
        assert not any(cell["kinds"].values())
    assert len(endpoint.bodies) == TURNS + DUE
    assert {body["model"] for body in endpoint.bodies} == {"the-model"}
    assert all((body["temperature"], body["max_tokens"]) == (0, 192) for body in endpoint.bodies)
    printed = capsys.readouterr().out
    assert "unseen" in printed and "first call exact" in printed and "no call made" in printed
    assert "get_weather" in (run / "evaluate" / "agentfabric" / "report.html").read_text(encoding="utf-8")


def test_no_password_is_kept_anywhere(run: Path, serve: Callable, capsys: Captured, monkeypatch) -> None:
    endpoint = serve(oracle)
    monkeypatch.setattr(sys, "argv", ["evaluate.py", f"eval.url={endpoint.url}?token=secret-token"])
    monkeypatch.setenv("MY_KEY", "sk-secret-key")
    evaluation.evaluate(config_for(run, endpoint.url, "eval.api_key_env=MY_KEY", "eval.dialogues=1"))
    kept = [path for path in (run / "evaluate" / "agentfabric").iterdir() if path.name != ".lock"]
    assert {path.name for path in kept} >= {"predictions.jsonl", "scores.json", "report.html", "run.json"}
    for path in kept:
        text = path.read_text(encoding="utf-8")
        if path.name == "run.json":
            text = str(json.loads(text) | {"patch": None})  # where this file stands while it is changed
        assert not any(secret in text for secret in (PASSWORD, "secret-token", "sk-secret-key")), path
    said = capsys.readouterr()
    assert PASSWORD not in said.out + said.err


def test_a_key_that_is_not_in_the_environment_is_named_before_anything_is_sent(run: Path, serve: Callable) -> None:
    endpoint = serve(oracle)
    with pytest.raises(ValueError, match="TEACHER_KEY, which is to hold the key of 'endpoint', is not set"):
        evaluation.evaluate(config_for(run, endpoint.url, "eval.api_key_env=TEACHER_KEY"))
    assert not endpoint.bodies


def test_the_record_says_which_model_answered(run: Path, serve: Callable) -> None:
    evaluation.evaluate(config_for(run, serve(oracle).url, "eval.dialogues=1"))
    known = json.loads((run / "evaluate" / "agentfabric" / "run.json").read_text(encoding="utf-8"))
    assert known["settings"]["models"]["endpoint"]["model_name"] == "the-model"


def test_another_model_is_asked_beside_and_compared(run: Path, serve: Callable) -> None:
    overrides = ["eval.url=null", "eval.models=[good,bad]", "eval.dialogues=2"]
    overrides += [f"+eval.endpoints.good.url='{serve(oracle).url}'"]
    overrides += [f"+eval.endpoints.bad={{url: '{serve(lambda body: '').url}', model_name: other}}"]
    evaluation.evaluate(config_for(run, "http://x/v1", *overrides))
    rows = predictions(run)
    assert [row["model"] for row in rows] == ["good"] * 4 + ["bad"] * 4
    found = json.loads((run / "evaluate" / "agentfabric" / "scores.json").read_text(encoding="utf-8"))["models"]
    assert value(found["good"]["all"], "success") == 1 and value(found["bad"]["all"], "success") == 0


def test_the_rows_say_what_was_asked_expected_and_said(run: Path, serve: Callable) -> None:
    evaluation.evaluate(config_for(run, serve(oracle).url))
    first = next(row for row in predictions(run) if row["key"] == "1/0")
    assert first["prompt"][0]["role"] == "system" and first["prompt"][-1]["content"].endswith(
        DIALOGUES[0].turns[0].query
    )
    assert first["expected"]["calls"] == [{"name": "get_weather", "arguments": {"city": "Town0"}}]
    assert [call["name"] for call in first["calls"]] == ["get_weather"] and "cloudy" in first["calls"][0]["observation"]
    assert first["answer"].strip() == DIALOGUES[0].turns[0].answer and len(first["replies"]) == 2
    assert first["labels"] == {
        "tools": "seen",
        "source": "test",
        "family": "weather",
        "language": "en",
        "offered": "1",
    }
    chinese = next(row for row in predictions(run) if row["dialogue"] == "5")
    assert (chinese["labels"]["language"], chinese["labels"]["offered"]) == ("zh", "2-3")


def test_a_silent_model_makes_no_call(run: Path, serve: Callable) -> None:
    evaluation.evaluate(config_for(run, serve(lambda body: "").url))
    seen, unseen = scores(run)["seen"], scores(run)["unseen"]
    assert (seen["kinds"]["no_call"], unseen["kinds"]["no_call"]) == (4, 3)
    assert value(seen, "no_call") == 1, "of the turns that need a call"
    assert seen["kinds"]["no_answer"] >= 4
    assert value(seen, "first_call") == value(seen, "success") == value(unseen, "success") == 0


def test_a_model_that_repeats_its_call_is_stopped_after_ten_requests(run: Path, serve: Callable) -> None:
    def loop(body: dict) -> str:
        town = "Town1" if "Town1" in body["messages"][-1]["content"] else "Town0"
        return f'Action: get_weather\nAction Input: {{"city": "{town}"}}\nObservation:'

    endpoint = serve(loop)
    evaluation.evaluate(config_for(run, endpoint.url))
    assert len(endpoint.bodies) == 10 * TURNS
    assert scores(run)["seen"]["kinds"]["repeated_call"] == scores(run)["seen"]["kinds"]["not_stopped"] == 8
    assert value(scores(run)["seen"], "first_call") == 0.5  # Town0 and Town1 of the four
    assert scores(run)["unseen"]["kinds"]["wrong_tool"] == 3
    assert all(row["answer"] is None and len(row["replies"]) == 10 for row in predictions(run))


def test_after_a_crash_only_the_missing_turns_are_asked_again(run: Path, serve: Callable) -> None:
    asked = []

    def dying(body: dict) -> str:
        asked.append(body)
        if len(asked) > 6:
            raise RuntimeError("the connection is cut without an answer")
        return oracle(body)

    with pytest.raises(
        ConnectionError, match=r"cannot be reached .*\n.*predictions.jsonl; go on with resume=true"
    ) as raised:
        evaluation.evaluate(config_for(run, serve(dying).url, "eval.concurrency=1", "eval.retries=0"))
    assert PASSWORD not in str(raised.value)
    kept = predictions(run)
    assert 0 < len(kept) < TURNS
    with (run / "evaluate" / "agentfabric" / "predictions.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"model": "endpo')  # a write that the crash cut short
    endpoint = serve(oracle)
    port = endpoint.server_port
    config = config_for(run, endpoint.url, "resume=true", "eval.concurrency=2")
    settings = run / "evaluate" / "agentfabric" / "run.json"
    known = json.loads(settings.read_text(encoding="utf-8"))
    known["settings"]["models"]["endpoint"]["url"] = f"http://127.0.0.1:{port}/v1"  # it came back on another port
    settings.write_text(json.dumps(known), encoding="utf-8")
    evaluation.evaluate(config)
    requests = sum(len(row["replies"]) for row in predictions(run)[len(kept) :])
    assert len(endpoint.bodies) == requests
    assert predictions(run)[: len(kept)] == kept
    assert len({row["key"] for row in predictions(run)}) == len(predictions(run)) == TURNS
    assert value(scores(run)["seen"], "success") == 1


def test_a_finished_evaluation_is_shown_again_or_refused(
    run: Path, serve: Callable, capsys: pytest.CaptureFixture
) -> None:
    endpoint = serve(oracle)
    evaluation.evaluate(config_for(run, endpoint.url))
    asked, table = len(endpoint.bodies), capsys.readouterr().out
    evaluation.evaluate(config_for(run, endpoint.url, "resume=true"))
    assert len(endpoint.bodies) == asked
    assert capsys.readouterr().out == table
    with pytest.raises(FileExistsError, match="overwrite=true"):
        evaluation.evaluate(config_for(run, endpoint.url))


def test_odd_replies_are_verdicts(run: Path, serve: Callable) -> None:
    odd = iter(
        [
            'Action: get_weather\nAction Input: {"city": "\ud800"}\nObservation:',
            "\ud800",
            "Action: get_weather\nAction Input: " + "[" * 5000,
            "Action:Action Input:Observation:",
            (400, {"error": {"message": "This model's maximum context length is 10 tokens.", "code": 400}}),
            (200, {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": []}),
        ]
    )
    evaluation.evaluate(config_for(run, serve(lambda body: next(odd, "")).url, "eval.concurrency=1"))
    assert len(predictions(run)) == TURNS
    assert predictions(run)[0]["replies"][0]["text"].count("\ud800") == 1
    assert value(scores(run)["seen"], "success") < 1


def test_an_endpoint_that_is_not_there_ends_in_one_sentence(run: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        with pytest.raises(ConnectionError, match="cannot be reached"):
            evaluation.evaluate(config_for(run, url, "eval.retries=0"))


def test_an_endpoint_that_never_answers_ends_in_one_sentence(run: Path, serve: Callable) -> None:
    def sleeping(body: dict) -> str:
        time.sleep(2)
        return ""

    with pytest.raises(ConnectionError, match=r"no answer within 0.1 seconds"):
        evaluation.evaluate(
            config_for(run, serve(sleeping).url, "eval.timeout=0.1", "eval.model_name=m", "eval.retries=0")
        )


def test_a_refused_request_ends_in_one_sentence(run: Path, serve: Callable) -> None:
    unknown = serve(lambda body: (404, {"error": {"message": "The model `m` does not exist."}}))
    with pytest.raises(RuntimeError, match="refused a request: .*does not exist"):
        evaluation.evaluate(config_for(run, unknown.url, "eval.model_name=m"))


def test_what_is_missing_is_named_with_the_command_that_makes_it(run: Path) -> None:
    config = config_for(run, "http://127.0.0.1:9/v1")
    (run / "convert" / "test_dialogues.jsonl").write_text('{"dialogue": {}}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"test_dialogues.jsonl:1: not a test dialogue"):
        evaluation.evaluate(config)
    (run / "convert" / "test_dialogues.jsonl").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"dialogues.jsonl is missing; make it with: python convert.py name=default over"
    ):
        evaluation.evaluate(config)
    own = config_for(run, "http://127.0.0.1:9/v1", "variant=less")
    shutil.copytree(run / "convert", run.parent / "less" / "convert")
    with pytest.raises(FileNotFoundError, match="make it with: python convert.py name=default variant=less overwrite"):
        evaluation.evaluate(own)
    file = config_for(run, "http://127.0.0.1:9/v1", f"eval.file={run / 'none.jsonl'}")
    with pytest.raises(FileNotFoundError, match=r"none.jsonl is missing; give eval.file=FILE as "):
        evaluation.evaluate(file)


def test_a_bound_takes_dialogues_from_the_whole_file(run: Path) -> None:
    tests = testset.read(run / "convert" / "test_dialogues.jsonl", 3)
    assert [test.dialogue.id for test in tests] == ["weather-0", "weather-2", "bank-1"]
    assert [test.line for test in tests] == [1, 3, 5]
    assert from_json(msgspec.to_builtins(tests[0].dialogue)) == DIALOGUES[0]


def test_toolbench_asks_each_request_with_the_expected_past(run: Path, serve: Callable, capsys: Captured) -> None:
    def half(body: dict) -> str:
        """Right, but for calls it always makes the first tool up and answers every second question."""
        said = oracle(body)
        return said.replace("get_weather", "get_wether") if said.startswith("Let me see") else said

    endpoint = serve(half)
    evaluation.evaluate(config_for(run, endpoint.url, "eval=toolbench"))
    assert len(endpoint.bodies) == TURNS + DUE
    cell = scores(run, "toolbench")["all"]
    assert value(cell, "plan_em") == 1
    assert value(cell, "act_em") == value(cell, "argument_f1") == pytest.approx(3 / 7)
    assert value(cell, "hallucination") == pytest.approx(4 / 18), "of all requests"
    assert value(cell, "rouge_l") == 1 and cell["measures"]["rouge_l"]["count"] == TURNS
    assert "Plan.EM" in capsys.readouterr().out


def test_a_converted_file_of_ones_own_needs_no_run(run: Path, serve: Callable, tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    (run / "convert" / "test_dialogues.jsonl").rename(own)
    (run / "convert" / "run.json").unlink()
    evaluation.evaluate(config_for(run, serve(oracle).url, f"eval.file={own}", "eval=smoke"))
    assert scores(run, "smoke")["all"]["dialogues"] == 4
    assert "tools" not in predictions(run, "smoke")[0]["labels"], "who knows whether training saw them"
    with pytest.raises(FileNotFoundError, match="eval.file="):
        evaluation.evaluate(config_for(run, "http://127.0.0.1:9/v1", "eval.file=nowhere.jsonl", "overwrite=true"))


def test_two_runs_are_compared_row_by_row(run: Path, serve: Callable, capsys: Captured) -> None:
    def forgetful(body: dict) -> str:
        return "" if "Town2" in body["messages"][-1]["content"] else oracle(body)

    evaluation.evaluate(config_for(run, serve(oracle).url))
    shutil.copytree(run / "convert", run.parent / "worse" / "convert")
    evaluation.evaluate(config_for(run, serve(forgetful).url, "variant=worse"))
    capsys.readouterr()
    evaluation.evaluate(config_for(run, "http://x/v1", "compare=[default/main,default/worse]"))
    assert "turn right" in capsys.readouterr().out
    (path,) = run.parent.parent.glob("compare-*.json")
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["measures"]["success"]["difference"] == pytest.approx(-1 / TURNS)
    assert [(row["key"], row["a"], "no_call" in row["b"]) for row in found["changed"]] == [("3/0", [], True)]
    with pytest.raises(ValueError, match="compare.*no run"):
        evaluation.evaluate(config_for(run, "http://x/v1", "compare=[default,default/worse]"))
    with pytest.raises(FileNotFoundError, match=f"variant=other eval=agentfabric outputs={run.parent.parent}$"):
        evaluation.evaluate(config_for(run, "http://x/v1", "compare=[default/main,default/other]"))


def test_runs_that_were_asked_otherwise_are_not_compared(run: Path, serve: Callable) -> None:
    evaluation.evaluate(config_for(run, serve(oracle).url))
    shutil.copytree(run / "convert", run.parent / "less" / "convert")
    evaluation.evaluate(config_for(run, serve(oracle).url, "variant=less", "eval.dialogues=2"))
    with pytest.raises(ValueError, match="not asked the same .*dialogues: None -> 2"):
        evaluation.evaluate(config_for(run, "http://x/v1", "compare=[default/main,default/less]"))


def test_the_points_of_a_sweep_become_one_table(run: Path, serve: Callable, capsys: Captured) -> None:
    for variant, model in (("rank-4", oracle), ("rank-8", lambda body: "")):
        evaluation.evaluate(config_for(run, serve(model).url, f"variant={variant}"))
    capsys.readouterr()
    evaluation.evaluate(config_for(run, "http://x/v1", "collect=rank-*"))
    assert "rank-4" in (printed := capsys.readouterr().out) and "rank-8" in printed
    with (run.parent / "evaluate-agentfabric.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["point"] for line in lines] == ["rank-4", "rank-8"]
    assert {"1.0", "0.0"} <= {line["success"] for line in lines} or {"1", "0"} <= {line["success"] for line in lines}
    with pytest.raises(FileNotFoundError, match="is evaluated by the suite agentfabric"):
        evaluation.evaluate(config_for(run, "http://x/v1", "collect=seed-*"))


def test_several_suites_are_asked_of_one_run(run: Path) -> None:
    words = [
        "-m",
        "eval=smoke,toolbench",
        f"outputs={run.parent.parent}",
        "eval.url=http://127.0.0.1:9/v1",
        "name=none",
    ]
    done = subprocess.run([sys.executable, "evaluate.py", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    made_by = (
        f"python convert.py outputs={run.parent.parent} name=none\n"  # of the words none that evaluate.py alone reads
    )
    assert done.stderr.count(f"there is no run 'none', but default; make it with: {made_by}") >= 2, done.stderr
