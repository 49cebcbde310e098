"""The suite bfcl, with the package's own possible answers as the oracle of what is right."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from fabrictune import measures, protocol
from fabrictune.dialogue import JSON_TYPES, Call, Dialogue, Reply, Step, Tool, Turn
from fabrictune.evaluate.suites import bfcl, bfcl_package
from fabrictune.evaluate.tasks import Asked, Task
from fabrictune.score.testset import TestDialogue

pytest.importorskip("bfcl_eval")

AST = [name for name in bfcl_package.CATEGORIES if not name.startswith("multi_turn") and not name.endswith("relevance")]
# Possible answers that the checker itself refuses: an argument that the function does not have, one that it needs, and
# lists whose possible answers are texts.
REFUSED = {
    "live_simple_106-63-0",
    "live_simple_112-68-0",
    "live_multiple_862-181-3",
    "live_multiple_964-207-0",
}
# How a number is written in Java and JavaScript.
SUFFIXES = {"simple_java": {"long": "L", "float": "f"}, "simple_javascript": {"Bigint": "n"}}
ALL_RIGHT = {"correct": 1.0, "malformed": 0.0, "not_stopped": 0.0, "unknown_tool": 0.0}


def asked(replies: Iterable[str | Reply], bodies: list[dict] | None = None) -> Asked:
    """A model that answers one reply after another, and then always with the same word."""
    script = iter(replies)

    async def ask(body: dict) -> Reply:
        if bodies is not None:
            bodies.append(body)
        reply = next(script, "Done.")
        return reply if isinstance(reply, Reply) else Reply(reply, stopped=True)

    async def likelihood(messages: object) -> None:
        return None

    return Asked("model", ask, likelihood)


def play(task: Task, replies: Iterable[str | Reply]) -> dict:
    row = asyncio.run(task.play(asked(replies)))
    json.dumps(row)
    assert set(row["kinds"]) <= set(measures.KINDS) and set(row["measures"]) <= set(measures.MEASURES)
    return row


def is_right(row: dict) -> bool:
    return row["measures"]["correct"] == [1.0, 1]


def tasks(category: str, count: int | None = None, dialect: protocol.Dialect = protocol.APRIL) -> list[Task]:
    return bfcl.tasks([category], count, dialect)


def gold(entry: bfcl_package.Entry) -> list[Call]:
    """The calls of the possible answer: of each argument the first value accepted, none where none is needed."""
    calls = []
    for answer in entry.truth or []:
        ((name, accepted),) = answer.items()
        parameters = next(function for function in entry.functions if function["name"] == name)["parameters"]
        written = {
            key: unpacked(values)
            for key, values in accepted.items()
            if "" not in values or key in parameters.get("required", [])
        }
        if entry.category in SUFFIXES:
            suffixes, properties = SUFFIXES[entry.category], parameters["properties"]
            written = {
                key: value if isinstance(value, str) else json.dumps(value) + suffixes.get(properties[key]["type"], "")
                for key, value in written.items()
            }
        calls.append(Call(name, written))
    return calls


def unpacked(values: object) -> object:
    """The first value of a list of accepted ones; an object has such a list for each of its keys."""
    if not isinstance(values, list):
        return values
    value = next((value for value in values if value != ""), "")
    if isinstance(value, dict):
        return plain(value)
    return [plain(item) if isinstance(item, dict) else item for item in value] if isinstance(value, list) else value


def plain(value: dict) -> dict:
    return {key: unpacked(inner) for key, inner in value.items() if inner != [""]}


def written(calls: Iterable[Call]) -> list[str]:
    return [protocol.call_text(call) for call in calls]


def script(entry: bfcl_package.Entry, task: Task) -> list[str]:
    """The replies that do what the possible answer of a dialogue does."""
    tools = task.play.turns[-1][1]
    turns = [written(bfcl.read_call(text, tools) for text in turn) for turn in entry.truth or []]
    return [reply for turn in turns for reply in [*turn, "Done."]]


@pytest.mark.parametrize("category", AST)
def test_the_possible_answers_are_right(category: str) -> None:
    entries = {entry.id: entry for entry in bfcl_package.read(category)}
    for task in tasks(category, 100):
        calls = gold(entries[task.key])
        if category == "simple_java" and any(str(value)[:1] in "[{" for value in calls[0].arguments.values()):
            continue  # Java's own notation for collections is not JSON's, and the checker reads only some of it
        row = play(task, written(calls))
        assert is_right(row) == (task.key not in REFUSED), (task.key, row["error"])
        assert len(row["calls"]) == len(calls)
        assert {call["name"] for call in row["expected"]["calls"]} == {call.name for call in calls}


@pytest.mark.parametrize("dialect", [protocol.APRIL, protocol.V072])
def test_a_right_reply_has_no_failure(dialect: protocol.Dialect) -> None:
    entry, task = bfcl_package.read("simple_python")[0], tasks("simple_python", 1, dialect)[0]
    row = play(task, written(gold(entry)))
    assert {name: value for name, (value, _) in row["measures"].items() if name in ALL_RIGHT} == ALL_RIGHT
    assert (row["kinds"], row["malformed"], row["error"], row["steps"]) == ([], [], None, [])
    assert row["query"] in row["prompt"][-1]["content"]


def changed(calls: list[Call]) -> list[Call]:
    first = calls[0]
    key = next(iter(first.arguments))
    return [Call(first.name, first.arguments | {key: "something else entirely"}), *calls[1:]]


def without_arguments(calls: list[Call]) -> list[Call]:
    return [Call(calls[0].name, {}), *calls[1:]]


def with_an_argument_more(calls: list[Call]) -> list[Call]:
    return [Call(calls[0].name, calls[0].arguments | {"no_such_parameter": 1}), *calls[1:]]


WRONG: list[tuple[Callable[[list[Call]], list[Call]], str]] = [
    (changed, "wrong_arguments"),
    (without_arguments, "wrong_arguments"),
    (with_an_argument_more, "wrong_arguments"),
    (lambda calls: [Call("no_such_tool", {}), *calls[1:]], "unknown_tool"),
    (lambda calls: [], "no_call"),
]


@pytest.mark.parametrize(("spoil", "kind"), WRONG)
@pytest.mark.parametrize("category", ["simple_python", "multiple", "parallel", "parallel_multiple"])
def test_spoilt_answers_are_wrong_and_say_how(
    category: str, spoil: Callable[[list[Call]], list[Call]], kind: str
) -> None:
    entries = {entry.id: entry for entry in bfcl_package.read(category)}
    for task in tasks(category, 10):
        row = play(task, written(spoil(gold(entries[task.key]))))
        assert not is_right(row) and row["error"], task.key
        assert row["kinds"] == [kind] and row["measures"][kind] == [1.0, 1], task.key


def test_another_tool_on_offer_is_a_wrong_tool() -> None:
    entry, task = bfcl_package.read("multiple")[0], tasks("multiple", 1)[0]
    other = next(function["name"] for function in entry.functions if function["name"] != gold(entry)[0].name)
    assert play(task, written([Call(other, gold(entry)[0].arguments)]))["kinds"] == ["wrong_tool"]


def test_of_several_calls_the_order_is_free_but_none_may_be_missing_or_made_twice() -> None:
    entry, task = bfcl_package.read("parallel")[0], tasks("parallel", 1)[0]
    calls = gold(entry)
    assert is_right(play(task, written(reversed(calls))))
    assert play(task, written(calls[:-1]))["kinds"] == ["no_call"]
    assert play(task, written([*calls, calls[0]]))["kinds"] == ["repeated_call"]
    endless = play(task, written(calls * 20))
    assert set(endless["kinds"]) == {"repeated_call", "not_stopped"} and len(endless["replies"]) == protocol.MAX_CALLS


def test_of_one_call_only_the_first_reply_is_asked_for() -> None:
    entry, task, bodies = bfcl_package.read("simple_python")[0], tasks("simple_python", 1)[0], []
    asyncio.run(task.play(asked(written(gold(entry) * 5), bodies)))
    assert len(bodies) == 1


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Action: {name}\nAction Input: {oops", "bad_json"),
        ("Action: {name}\nAction Input: [1]", "no_object"),
        ("Action: {name}", "no_arguments"),
    ],
)
@pytest.mark.parametrize("category", ["simple_python", "parallel", "multi_turn_base"])
def test_a_malformed_call_is_wrong_and_says_how(category: str, text: str, kind: str) -> None:
    name = bfcl_package.read(category)[0].functions[0]["name"]
    row = play(tasks(category, 1)[0], [text.replace("{name}", name)])
    assert (row["kinds"], row["malformed"], is_right(row)) == (["malformed"], [kind], False)


def test_a_reply_that_was_cut_is_said_to_not_have_stopped() -> None:
    row = play(tasks("simple_python", 1)[0], [Reply("and so on and so on", stopped=False)])
    assert set(row["kinds"]) == {"no_call", "not_stopped"} and row["answer"] == "and so on and so on"


@pytest.mark.parametrize("category", ["irrelevance", "live_irrelevance"])
def test_where_no_tool_fits_a_call_is_needless(category: str) -> None:
    for task in tasks(category, 20):
        assert is_right(play(task, ["None of these tools can do that."]))
        row = play(task, [protocol.call_text(Call("anything", {}))])
        assert not is_right(row) and "needless_call" in row["kinds"]


def test_where_some_tool_fits_any_call_is_right() -> None:
    for task in tasks("live_relevance"):
        assert is_right(play(task, [protocol.call_text(Call("anything", {}))]))
        assert play(task, ["I cannot."])["kinds"] == ["no_call"]


@pytest.mark.parametrize("category", [name for name in bfcl_package.CATEGORIES if name.startswith("multi_turn")])
def test_dialogues_played_as_the_possible_answer_says_are_right(category: str) -> None:
    entries = {entry.id: entry for entry in bfcl_package.read(category)}
    for task in tasks(category, 15):
        row = play(task, script(entries[task.key], task))
        assert is_right(row), (task.key, row["error"])
        assert row["answer"] == "Done." and row["kinds"] == []


def test_a_dialogue_with_one_call_less_or_spoilt_is_wrong() -> None:
    entry, task = bfcl_package.read("multi_turn_base")[0], tasks("multi_turn_base", 1)[0]
    replies = script(entry, task)
    assert is_right(play(task, replies))
    for number, reply in enumerate(replies):
        if reply != "Done.":
            assert not is_right(play(task, [*replies[:number], "Done.", *replies[number + 1 :]])), reply
    assert play(task, [])["kinds"] == ["no_call"]


def test_a_dialogue_whose_turn_does_not_end_is_not_played_further() -> None:
    row = play(tasks("multi_turn_base", 1)[0], written([Call("ls", {})] * 100))
    assert len(row["replies"]) == protocol.MAX_CALLS and row["kinds"] == ["not_stopped"] and not is_right(row)
    assert row["error"] == "multi_turn:force_terminated"


def test_a_tool_held_back_is_offered_from_its_turn_on() -> None:
    entry, task, bodies = bfcl_package.read("multi_turn_miss_func")[0], tasks("multi_turn_miss_func", 1)[0], []
    asyncio.run(task.play(asked([], bodies)))
    offered = ["sort: sort API" in body["messages"][0]["content"] for body in bodies]
    assert [*entry.later] == [3] and offered == [turn >= 3 for turn in range(len(entry.turns))]
    assert bodies[3]["messages"][-1]["content"].endswith(bfcl_package.LATER)


def test_dialogues_at_the_same_time_do_not_see_each_other_and_leave_nothing_behind() -> None:
    entry, task = bfcl_package.read("multi_turn_base")[0], tasks("multi_turn_base", 1)[0]
    kept = vars(bfcl_package._module(".eval_checker.multi_turn_eval.multi_turn_utils"))
    before = set(kept)

    def slowly(replies: list[str]) -> Asked:
        fast = asked(replies)

        async def ask(body: dict) -> Reply:
            await asyncio.sleep(0)
            return await fast.ask(body)

        return Asked("model", ask, fast.likelihood)

    async def both() -> list[dict]:
        right, silent = script(entry, task), ["Done."] * 10
        return await asyncio.gather(*(task.play(slowly(replies)) for replies in (right, silent, right)))

    rows = asyncio.run(both())
    assert [is_right(row) for row in rows] == [True, False, True]
    assert rows[0]["calls"] == rows[2]["calls"] == play(task, script(entry, task))["calls"]
    assert set(kept) == before


def test_nothing_that_a_model_writes_is_evaluated(tmp_path: Path) -> None:
    mark = tmp_path / "evaluated"
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    calls = [
        Call(code, {}),
        Call("ls", {code: 1}),
        Call("ls", {f"a={code}, b": 1}),
        Call("ls", {"a": code}),
        Call("echo", {"content": f"' + {code} + '", "file_name": f'" + {code} + "'}),
        Call("echo", {"content": {code: [code]}, "file_name": "\\' + " + code}),
        Call("eval", {"source": code}),
        Call("_load_scenario", {"scenario": {}}),
    ]
    row = play(tasks("multi_turn_base", 1)[0], written(calls))
    assert not mark.exists()
    refused = [call["observation"].startswith("Tool api ") for call in row["calls"]]
    assert refused == [True, True, True, False, False, False, True, True]


def test_words_of_a_call_inside_an_argument_stay_as_they_are() -> None:
    text = "sort(ls(a=True)) \\( (1, 2) cd(\n'\""
    with bfcl_package.simulated(bfcl_package.read("multi_turn_base")[0]) as apis:
        apis.begin_turn()
        assert json.loads(apis.run(Call("echo", {"content": text}))) == {"terminal_output": text}


@pytest.mark.parametrize(
    "call",
    [
        Call("power", {"base": 9, "exponent": 10**9}),
        Call("logarithm", {"value": 2, "base": 3, "precision": 10**9}),
        Call("logarithm", {"value": 2, "base": 3, "precision": "1000000000"}),
        Call("square_root", {"number": 2, "precision": 10**9}),
        Call("round_number", {"number": 5, "decimal_places": -(10**9)}),
        Call("add", {"a": float("inf"), "b": 1}),
        Call("add", {"a": json.loads("[" * 900 + "]" * 900), "b": float("nan")}),
        Call("add", {"class": 1}),
    ],
)
def test_calls_that_would_take_for_ever_or_are_no_python_are_refused(call: Call) -> None:
    with pytest.raises(ValueError):
        bfcl_package.call_text(call)


MONSTERS = [
    "",
    "\ud800",
    "Action:",
    "Action: \nAction Input: ",
    "Action: x\nAction Input: {",
    "Action: x\nAction Input: [1]",
    "Action: {name}\nAction Input: null",
    "Action: {name}\nAction Input: {arguments}",
    'Action: {name}\nAction Input: {"\ud800": "\udfff"}',
    "Action: {name}\nAction Input: " + "[" * 5000,
    "Action: {name}\nAction Input: " + '{"a":' * 800 + "1" + "}" * 800,
    "x" * 20_000,
]
VALUES = [
    "1e999",
    "-" + "9" * 4000,
    "[[[{}]]]",
    '[1, "a", {"b": null}]',
    '{"a": [1]}',
    "null",
    "NaN",
    '"\\ud800"',
    "[]",
]


@pytest.mark.parametrize("category", [*AST, "irrelevance", "live_relevance", "multi_turn_base", "multi_turn_miss_func"])
def test_whatever_a_model_writes_becomes_a_verdict(category: str) -> None:
    for task, entry in zip(tasks(category, 2), bfcl.spaced(bfcl_package.read(category), 2), strict=True):
        function = entry.functions[0]
        arguments = [
            "{" + ", ".join(f"{json.dumps(name)}: {value}" for name in function["parameters"]["properties"]) + "}"
            for value in VALUES
        ]
        calls = [f"Action: {function['name']}\nAction Input: {text}" for text in arguments]
        for text in [*(monster.replace("{name}", function["name"]) for monster in MONSTERS), *calls]:
            row = play(task, [text] * 3)
            assert not is_right(row) or not row["calls"] or category.startswith("live_relevance"), text[:80]


def test_directories_copied_into_themselves_end() -> None:
    calls = [Call("cp", {"source": "document", "destination": "document"}), Call("du", {}), Call("find", {})]
    row = play(tasks("multi_turn_base", 1)[0], written([*calls, *calls]))
    assert len(row["calls"]) == 6 and not is_right(row)


def test_every_question_of_every_category_can_be_asked_with_schemas_of_json() -> None:
    entries = {name: bfcl_package.read(name) for name in bfcl_package.CATEGORIES}
    counts = {name: len(entries[name]) for name in entries}
    assert sum(counts.values()) == 4441 and counts["live_multiple"] == 1053 and counts["live_relevance"] == 16
    for name in entries:
        for entry in entries[name]:
            for function in entry.functions:
                tool = bfcl_package.tool(function, name)
                assert types_of(tool.parameters) <= set(JSON_TYPES), entry.id


def types_of(schema: dict) -> set[str]:
    inner = [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]
    return {schema["type"]}.union(*map(types_of, inner))


def test_a_system_message_becomes_the_instruction_and_earlier_messages_the_history() -> None:
    entry = next(entry for entry in bfcl_package.read("live_irrelevance") if len(entry.turns[0]) == 4)
    task = next(task for task in tasks("live_irrelevance") if task.key == entry.id)
    prompt = play(task, [])["prompt"]
    system, user, assistant, query = entry.turns[0]
    assert [message["role"] for message in prompt] == ["system", "user", "assistant", "user"]
    assert system["content"] in prompt[0]["content"] and query["content"] in prompt[-1]["content"]
    assert [message["content"] for message in prompt[1:3]] == [user["content"], assistant["content"]]


def test_categories_are_drawn_evenly_and_labelled() -> None:
    found = bfcl.tasks(["multiple", "simple_python", "multiple"], 4, protocol.APRIL)
    assert [task.key for task in found] == [f"{name}_{n * 50}" for name in ("multiple",) for n in range(4)] + [
        f"simple_python_{n * 100}" for n in range(4)
    ]
    assert {task.labels["category"] for task in found} == {"multiple", "simple_python"}
    assert found[4].labels == {"category": "simple_python", "language": "en", "offered": "1"}


def test_an_unknown_category_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="no category 'simple'.*simple_python.*multi_turn_base"):
        bfcl.tasks(["simple"], None, protocol.APRIL)


def test_without_the_package_the_way_to_install_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bfcl_eval", None)
    with pytest.raises(RuntimeError, match="not installed: make install"):
        bfcl.tasks(["simple_python"], None, protocol.APRIL)


def test_the_checkers_load_no_vendor_and_leave_no_stub() -> None:
    bfcl_package._ast_checker.cache_clear()
    before = set(sys.modules)
    play(tasks("simple_python", 1)[0], [protocol.call_text(Call("x", {}))])
    loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
    assert "bfcl_eval.constants.model_config" not in sys.modules and "bfcl_eval.utils" not in sys.modules
    assert not loaded & {"anthropic", "cohere", "mistralai", "google", "boto3", "qwen_agent"}


ROUTE = Tool(
    "route",
    "Plans a route.",
    {
        "type": "object",
        "properties": {
            "to": {"type": "string"},
            "km": {"type": "number"},
            "stops": {"type": "array"},
            "by": {"type": "object", "properties": {}},
        },
        "required": ["to", "km"],
    },
)
WEATHER = Tool(
    "weather", "The weather.", {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
)


def own(*calls: Call, tools: tuple[Tool, ...] = (WEATHER, ROUTE)) -> Task:
    turn = Turn("And now?", tuple(Step(call, "22 degrees") for call in calls), "It is done.")
    dialogue = Dialogue("d", tools, (Turn("Hello", (), "Hello!"), turn), family="travel")
    found = bfcl.of_dialogues([TestDialogue(7, dialogue, "mine", seen=False)], protocol.APRIL)
    assert [task.key for task in found] == ["7/0", "7/1"]
    return found[1]


TRIP = Call("route", {"to": "Rome", "km": 12, "stops": [1, 2.5], "by": {"bus": [1, "a"], "n": {"x": None}}})


def test_own_turns_are_judged_against_their_own_calls() -> None:
    rome = Call("weather", {"city": "Rome"})
    cases = {
        "user_simple": own(rome, tools=(WEATHER,)),
        "user_multiple": own(TRIP),
        "user_parallel_multiple": own(rome, TRIP, Call("weather", {"city": "Oslo"})),
        "user_irrelevance": own(),
    }
    for category, task in cases.items():
        expected = [Call(**call) for call in play(task, [])["expected"]["calls"]]
        assert task.labels == {
            "tools": "unseen",
            "source": "mine",
            "family": "travel",
            "category": category,
            "language": "en",
            "offered": measures.offered_label(1 if category == "user_simple" else 2),
        }
        assert is_right(play(task, written(expected))), category
        assert not is_right(play(task, written([Call("weather", {"city": "Lima"})]))), category
    row = play(cases["user_multiple"], written([Call("route", TRIP.arguments | {"km": 12.0})]))
    assert is_right(row) and [message["content"] for message in row["prompt"][1:3]] == ["Hello", "Hello!"]
    for other in (
        {"km": 13},
        {"km": 10**400},
        {"stops": [1]},
        {"by": {"bus": [1, "b"], "n": {"x": None}}},
        {"to": "Oslo"},
    ):
        assert not is_right(play(cases["user_multiple"], written([Call("route", TRIP.arguments | other)])))


def test_own_turns_that_the_checker_cannot_judge_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    mixed = Turn("?", (Step(Call("route", {"stops": ["a", 1]}), "ok"),), "Done.")
    dialogue = Dialogue("d", (ROUTE,), (Turn("Hi", (), "Hi!"), mixed))
    found = bfcl.of_dialogues([TestDialogue(3, dialogue, "mine", seen=True)], protocol.APRIL)
    assert [task.key for task in found] == ["3/0"]
    assert "1 of 2 turns are left out" in caplog.text and "3/1: type_error:nested" in caplog.text
