"""The suite general: held-out chat is read in the messages of training, and a call where none is due is counted."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict

import pytest

from fabrictune import protocol
from fabrictune.dialogue import Call, Dialogue, Json, Message, Reply, Role, Step, Tool, Turn
from fabrictune.evaluate.suites import general
from fabrictune.evaluate.tasks import Asked, Task
from fabrictune.formats import agentfabric, messages
from fabrictune.measures import KINDS, LABELS, MALFORMED, MEASURES
from fabrictune.protocol import APRIL, DIALECTS, Dialect
from fabrictune.score.testset import TestDialogue


def tool(name: str) -> Tool:
    return Tool(name, f"Does {name}.", {"type": "object", "properties": {"x": {"type": "string"}}, "required": []})


def chat(number: int, *turns: Turn, instruction: str = "") -> TestDialogue:
    said = turns or (Turn(f"What is {number}?", (), f"{number} is a number."), Turn("Thanks!", (), "You're welcome."))
    return TestDialogue(number, Dialogue(f"chat/{number}", (), said, instruction), "chat", True)


def agent(number: int, family: str, names: Sequence[str], query: str = "Do it!", thanks: bool = True) -> TestDialogue:
    tools = tuple(map(tool, names))
    turns = [Turn(f"{query} {number}", (Step(Call(names[0], {"x": "1"}), "done"),), "It is done.")]
    if thanks:
        turns.append(Turn("Thank you!", (), "You are welcome."))
    dialogue = Dialogue(f"agent/{number}", tools, tuple(turns), Role("Ada", "helps", "Be brief."), family=family)
    return TestDialogue(number, dialogue, "agent", True)


CHATS = [
    chat(1),
    chat(2, Turn("法国的首都是哪里？", (), "巴黎。")),
    chat(3, Turn("Who are you?", (), "A model."), instruction="Be kind."),
]
AGENTS = [agent(1, "lamps", ["lamp", "lights"]), agent(2, "radio", ["radio"]), agent(3, "lamps", ["灯"], query="开灯")]


class Model:
    """Answers every request with `text`; keeps what it was asked."""

    def __init__(
        self, text: str = "Gladly.", stopped: bool = True, likely: tuple[float, int] | None = (3.5, 7)
    ) -> None:
        self.reply, self.likely = Reply(text, stopped), likely
        self.bodies: list[dict[str, Json]] = []
        self.read: list[list[Message]] = []

    async def ask(self, body: dict[str, Json]) -> Reply:
        self.bodies.append(body)
        return self.reply

    async def likelihood(self, said: Sequence[Message]) -> tuple[float, int] | None:
        self.read.append(list(said))
        return self.likely


def played(task: Task, model: Model) -> dict[str, Json]:
    """The task's row, which a line of predictions.jsonl can hold."""
    row = asyncio.run(task.play(Asked("the-model", model.ask, model.likelihood)))  # type: ignore[arg-type]
    assert set(row["measures"]) <= set(MEASURES)
    assert set(row["kinds"]) <= set(KINDS) and set(row["malformed"]) <= set(MALFORMED)
    assert set(task.labels) <= set(LABELS)
    assert {"prompt", "query", "expected", "replies", "calls", "answer", "measures", "steps", "kinds", "malformed"} <= {
        *row
    }
    return json.loads(json.dumps(row))


def of(tasks: list[Task], category: str) -> list[Task]:
    return [task for task in tasks if task.labels["category"] == category]


def queries(dialect: Dialect = APRIL, **keys: int) -> list[Task]:
    return of(general.tasks(CHATS, AGENTS, dialect, keys.get("seed", 1)), general.NO_TOOL)


def test_each_answer_of_held_out_chat_is_read_in_the_messages_that_training_writes() -> None:
    model = Model()
    asked = of(general.tasks(CHATS, AGENTS, APRIL, seed=1), general.CHAT)
    rows = [played(task, model) for task in asked]
    trained = [one for test in CHATS for one in messages.exchanges(test.dialogue, test.source)]
    assert model.read == [[*one.messages, Message("assistant", one.reply_text)] for one in trained]
    assert model.read[-1][0] == Message("system", "Be kind.")
    assert [row["prompt"] for row in rows] == [[asdict(message) for message in one.messages] for one in trained]
    assert all(row["measures"] == {"perplexity": [3.5, 7]} and row["likelihood"] == [3.5, 7] for row in rows)
    assert [row["expected"]["answer"] for row in rows] == [one.reply_text for one in trained]
    assert [task.labels["language"] for task in asked] == ["en", "en", "zh", "en"]
    assert {task.labels["source"] for task in asked} == {"chat"}
    assert model.bodies == []


@pytest.mark.parametrize("likely", [None, (0.0, 0), (float("inf"), 4), (float("nan"), 4)])
def test_an_endpoint_that_cannot_say_gives_a_row_without_a_perplexity(likely: tuple[float, int] | None) -> None:
    row = played(of(general.tasks(CHATS, AGENTS, APRIL, seed=1), general.CHAT)[0], Model(likely=likely))
    assert row["likelihood"] is None and row["measures"] == {}


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_the_first_query_of_each_chat_is_asked_once_of_an_agent_with_tools(dialect: Dialect) -> None:
    openings = {}
    for test in CHATS:
        for one in AGENTS:
            query, own = test.dialogue.turns[0].query, one.dialogue
            said = protocol.opening(own.tools, own.instruction, own.knowledge, [], query, dialect=dialect)
            openings[json.dumps([asdict(message) for message in said])] = len(own.tools)
    asked = queries(dialect)
    assert [task.dialogue for task in asked] == ["chat/1", "chat/2", "chat/3"]
    for task, test in zip(asked, CHATS, strict=True):
        model = Model("Action: lamp\nAction Input: {}\n")
        row = played(task, model)
        (body,) = model.bodies
        assert body["messages"] == row["prompt"] and body["model"] == "the-model" and body["stop"]
        offered = openings[json.dumps(row["prompt"])]
        assert task.labels["offered"] == {1: "1", 2: "2-3"}[offered]
        assert row["query"] == test.dialogue.turns[0].query
        assert row["expected"] == {"calls": [], "answer": test.dialogue.turns[0].answer}


def test_an_agent_that_speaks_the_querys_language_is_chosen_if_there_is_one() -> None:
    for seed in range(5):
        prompts = [played(task, Model())["prompt"] for task in queries(seed=seed)]
        assert ["灯" in prompt[0]["content"] for prompt in prompts] == [False, True, False]
    (alone,) = of(general.tasks(CHATS[1:2], AGENTS[:1], APRIL, seed=1), general.NO_TOOL)
    assert "lamp" in played(alone, Model())["prompt"][0]["content"]


def test_agents_are_drawn_by_the_seed_and_by_the_dialogue_alone() -> None:
    many = [chat(number) for number in range(20)]
    pair = AGENTS[:2]

    def drawn(chats: list[TestDialogue], seed: int) -> dict[str, str]:
        tasks = of(general.tasks(chats, pair, APRIL, seed), general.NO_TOOL)
        return {task.key: played(task, Model())["prompt"][0]["content"] for task in tasks}

    first = drawn(many, 1)
    assert len(set(first.values())) == 2 and first == drawn(many, 1) != drawn(many, 2)
    assert drawn(many[5:], 1).items() <= first.items()


LAMP = "Action: lamp\nAction Input: {}\n"


@pytest.mark.parametrize(
    ("text", "stopped", "needless", "malformed", "kinds"),
    [
        ("Gladly.", True, 0, 0, []),
        (LAMP, True, 1, 0, ["needless_call"]),
        (LAMP.replace("lamp", "rocket"), True, 1, 0, ["unknown_tool", "needless_call"]),
        (LAMP.replace("{}", "{'x: "), True, 1, 1, ["malformed", "needless_call"]),
        ("Action: lamp\n", True, 1, 1, ["malformed", "needless_call"]),
        ("Well, well, well", False, 0, 0, ["not_stopped"]),
        (" \n", True, 0, 0, ["no_answer"]),
        ("\ud83d", True, 0, 0, []),
    ],
)
def test_any_call_is_needless(text: str, stopped: bool, needless: int, malformed: int, kinds: list[str]) -> None:
    (task,) = of(general.tasks(CHATS[:1], AGENTS[:1], APRIL, seed=1), general.NO_TOOL)
    row = played(task, Model(text, stopped))
    assert row["measures"] == {
        "needless_call": [needless, 1],
        "malformed": [malformed, 1],
        "not_stopped": [int(not stopped), 1],
    }
    assert row["kinds"] == kinds
    assert (row["answer"] is None) is bool(row["calls"]) and row["replies"] == [{"text": text, "stopped": stopped}]
    assert [call["name"] for call in row["calls"]] == [
        name for name in ("lamp", "rocket") if f"Action: {name}\nAction Input" in text
    ]


def test_keys_are_unique_and_name_the_dialogue_whatever_else_is_asked() -> None:
    tasks = general.tasks(CHATS, AGENTS, APRIL, seed=1)
    keys = [task.key for task in tasks]
    assert len(set(keys)) == len(keys) == 4 + 3
    other = [TestDialogue(test.line + 10, test.dialogue, test.source, test.seen) for test in CHATS[1:]]
    assert {task.key for task in general.tasks(other, AGENTS, APRIL, seed=1)} < set(keys)
    twice = general.of_dialogues([CHATS[0], TestDialogue(9, CHATS[0].dialogue, "chat", True)], APRIL)
    assert len({task.key for task in twice}) == 4 and len({task.dialogue for task in twice}) == 2


def test_without_held_out_chat_turns_without_a_call_and_foreign_queries_are_asked() -> None:
    tests = [*AGENTS[:2], agent(4, "", ["clock"], thanks=False), chat(7)]
    tasks = general.tasks([], tests, APRIL, seed=1)
    assert {task.labels["category"] for task in tasks} == {general.NO_TOOL, general.OTHER_FAMILY}
    thanks = of(tasks, general.NO_TOOL)
    rendered = {test.dialogue.id: list(agentfabric.render(test.dialogue, "agent"))[-1] for test in AGENTS[:2]}
    assert [task.dialogue for task in thanks] == list(rendered)
    for task in thanks:
        row = played(task, Model())
        assert row["query"] == "Thank you!"
        assert row["prompt"] == [asdict(message) for message in rendered[task.dialogue].messages]
    foreign = of(tasks, general.OTHER_FAMILY)
    assert [task.dialogue for task in foreign] == ["agent/1", "agent/2"], "of no family nothing is known"
    for task, own, other in zip(foreign, ("lamp:", "radio:"), ("radio:", "lamp:"), strict=True):
        prompt = played(task, Model())["prompt"]
        assert other in prompt[0]["content"] and own not in prompt[0]["content"]
        assert "Do it! " in prompt[-1]["content"]


def test_a_dialogue_of_another_family_that_offers_one_of_the_tools_is_not_asked() -> None:
    tests = [agent(1, "lamps", ["lamp", "shared"]), agent(2, "radio", ["radio", "shared"])]
    assert not of(general.tasks([], tests, APRIL, seed=1), general.OTHER_FAMILY)


def test_a_bound_holds_for_either_kind() -> None:
    many = [chat(number) for number in range(20)]
    tasks = general.tasks(many, AGENTS, APRIL, 1, limit=5)
    assert len(of(tasks, general.NO_TOOL)) == len({task.dialogue for task in of(tasks, general.CHAT)}) == 5
    assert len(general.tasks([], AGENTS, APRIL, 1, limit=2)) == 2


def test_a_file_of_ones_own_gives_answers_of_its_chat_and_turns_without_a_call() -> None:
    tasks = general.of_dialogues([*CHATS, *AGENTS], APRIL)
    assert [len(of(tasks, category)) for category in (general.CHAT, general.NO_TOOL, general.OTHER_FAMILY)] == [4, 3, 0]


def test_chat_with_uploaded_files_is_left_out_and_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("fabrictune"), "propagate", True)  # `log.set_up` may have taken it off
    uploaded = chat(8, Turn("Read it.", (), "Read.", files=("a.txt",)))
    assert {task.dialogue for task in general.of_dialogues([CHATS[0], uploaded], APRIL)} == {"chat/1"}
    assert "1 dialogues are left out: plain messages cannot hold uploaded files" in caplog.text


@pytest.mark.parametrize("tests", [[], [agent(1, "", ["lamp"], thanks=False)]])
def test_nothing_to_ask_is_an_error_that_says_what_to_do(tests: list[TestDialogue]) -> None:
    for ask in (lambda: general.tasks([], tests, APRIL, seed=1), lambda: general.of_dialogues(tests, APRIL)):
        with pytest.raises(ValueError, match="nothing to ask.*data.general_test.*eval.file=FILE"):
            ask()
