"""ToolBench's answers and its converted rows become one turn of the chain that led to an answer."""

import json

import pytest

from fabrictune.dialogue import Call, Dialogue, Role, Step, Tool, Turn
from fabrictune.formats import toolbench

TRAM = {
    "name": "departures_for_tram",
    "description": 'This is the subfunction for tool "tram", you can use this tool.',
    "parameters": {
        "type": "object",
        "properties": {
            "stop": {"type": "string", "description": "the stop's name", "example_value": "Zoo"},
            "count": {"type": "integer", "description": ""},
        },
        "required": ["stop"],
        "optional": ["count"],
    },
}
CLOCK = {
    "name": "now_for_clock",
    "description": "Tells the time",
    "parameters": {"type": "object", "properties": {}, "required": [], "optional": []},
}
FINISH = {
    "name": "Finish",
    "description": "End.",
    "parameters": {"type": "object", "properties": {"return_type": {"type": "string"}}, "required": ["return_type"]},
}
TOOLS = tuple(
    Tool(one["name"], one["description"], {key: one["parameters"][key] for key in ("type", "properties", "required")})
    for one in (TRAM, CLOCK)
)
QUERY = "When does the next tram leave the zoo?"
GIVEN = json.dumps({"return_type": "give_answer", "final_answer": "At 12:04."}, indent=2)
GIVEN_UP = json.dumps({"return_type": "give_up_and_restart"})
RETRY = (
    "This is not the first time you try this task, all previous trails failed.\n"
    "Before you generate my thought for this state, I will first show you your previous actions for this state"
)
OPENING = [
    {"role": "system", "content": "You are AutoGPT, you can use many tools."},
    {"role": "user", "content": f"\n{QUERY}\nBegin!\n"},
]


def calling(name: str, arguments: str, thought: str | None = None) -> dict:
    return {"role": "assistant", "content": thought, "function_call": {"name": name, "arguments": arguments}}


def result(name: str, content: str) -> dict:
    return {"role": "function", "name": name, "content": content}


CHAIN = [
    calling("now_for_clock", "{}"),
    result("now_for_clock", '{"error": "", "response": "12:00"}'),
    {"role": "user", "content": RETRY, "valid": False},
    {"role": "assistant", "content": "The clock runs."},
    calling("departures_for_tram", '{\n  "stop": "Zoo",\n  "count": 1\n}', "So ask the tram."),
    result("departures_for_tram", '{"error": "", "response": "12:04"}'),
    {"role": "assistant", "content": "Now I know."},
    calling("Finish", GIVEN),
]
STEPS = (
    Step(Call("now_for_clock", {}), '{"error": "", "response": "12:00"}'),
    Step(
        Call("departures_for_tram", {"stop": "Zoo", "count": 1}),
        '{"error": "", "response": "12:04"}',
        "The clock runs.\nSo ask the tram.",
    ),
)


def answer(*chain: dict, **rest) -> dict:
    """An answer file whose search made `chain` of messages after the opening."""
    messages = [*OPENING, *chain]
    prefixes = [messages[:end] for end in range(3, len(messages) + 1) if messages[end - 1]["role"] == "assistant"]
    generation = {
        "valid_data": True,
        "query": QUERY,
        "function": [TRAM, CLOCK, FINISH],
        "train_messages": prefixes,
        "chain": [],
        "finish_type": "give_answer",
    }
    return {"win": True, "tree": {}, "answer_generation": generation | rest}


def converted(*said: tuple[str, str], functions: str | None = None) -> dict:
    """A training row as ToolBench's preprocessing writes it."""
    listed = str([TRAM, CLOCK, FINISH]) if functions is None else functions
    system = (
        "You are AutoGPT.\nYou have access of the following tools:\n1.tram: Trams\n2.clock: Clocks\n\n"
        f"Specifically, you have access to the following APIs: {listed}"
    )
    opening = [("system", system), ("user", f"\n{QUERY}\nBegin!\n")]
    return {
        "id": f"Step 8: {QUERY}",
        "conversations": [{"from": role, "value": value} for role, value in (*opening, *said)],
    }


SAID = [
    ("assistant", "\nThought: \nAction: now_for_clock\nAction Input: {}"),
    ("function", '{"error": "", "response": "12:00"}'),
    ("user", RETRY),
    (
        "assistant",
        "\nThought: The clock runs.\nThought: So ask the tram.\nAction: departures_for_tram\n"
        'Action Input: {\n  "stop": "Zoo",\n  "count": 1\n}',
    ),
    ("function", '{"error": "", "response": "12:04"}'),
    ("assistant", f"\nThought: Now I know.\nAction: Finish\nAction Input: {GIVEN}"),
]


def test_an_answer_file_becomes_a_turn_of_the_chain_that_led_to_the_answer() -> None:
    assert toolbench.parse(answer(*CHAIN)) == Dialogue("", TOOLS, (Turn(QUERY, STEPS, "At 12:04."),), Role())


def test_a_converted_row_that_finishes_becomes_the_same_turn() -> None:
    turn = Turn(QUERY, STEPS, "At 12:04.")
    assert toolbench.parse(converted(*SAID)) == Dialogue(f"Step 8: {QUERY}", TOOLS, (turn,), Role())


def test_a_converted_row_that_ends_in_a_call_leaves_it_waiting() -> None:
    (turn,) = toolbench.parse(converted(*SAID[:4])).turns
    waiting = Step(STEPS[1].call, "", STEPS[1].thought)
    assert turn == Turn(QUERY, STEPS[:1], "", pending=(waiting,))


def test_a_thought_may_quote_a_call_and_arguments_may_be_in_chinese() -> None:
    text = (
        'Thought: Not\nAction: x\nAction Input: {}\nbut\nAction: departures_for_tram\nAction Input: {"stop": "动物园"}'
    )
    (turn,) = toolbench.parse(converted(("assistant", text))).turns
    assert turn.pending == (
        Step(Call("departures_for_tram", {"stop": "动物园"}), "", "Not\nAction: x\nAction Input: {}\nbut"),
    )


def test_an_answer_may_need_no_function_but_finish() -> None:
    assert toolbench.parse(answer(calling("Finish", GIVEN))).turns == (Turn(QUERY, (), "At 12:04."),)


def without_chain(**rest) -> dict:
    row = answer(valid_data=False, **rest)
    del row["answer_generation"]["train_messages"]
    return row


CLOCKED = CHAIN[:2]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"query": QUERY}, r"neither a ToolBench answer nor a converted row: the keys are \['query'\]"),
        (without_chain(), "the answer is not valid: ToolBench's search found none to 'When does"),
        (answer(*CHAIN, query=None), "the answer holds no query"),
        (answer(*CHAIN, train_messages=[]), "the answer holds no chain of messages"),
        (answer(*CHAIN, function=None), "the functions are no list: None"),
        (answer(*CHAIN, function=[{"name": "x", "description": ["d"], "parameters": {}}]), "a tool's name or"),
        (answer(*CHAIN, function=[{"name": "x"}]), "a function cannot be read: KeyError 'parameters'"),
        (answer(*CLOCKED, calling("Finish", GIVEN_UP)), "the answer gives up: to 'When does"),
        (answer(*CLOCKED, calling("Finish", '{"return_type": "give_answer"}')), "Finish gives no answer: {'return"),
        (answer(*CLOCKED, calling("Finish", "{}")), "Finish gives no answer: {}"),
        (answer(*CLOCKED, calling("Finish", GIVEN[:-1])), "arguments are no JSON: of 'Finish'"),
        (answer(*CLOCKED, calling("departures_for_tram", "{'stop': 'Zoo'}")), "arguments are no JSON: of 'depart"),
        (answer(*CLOCKED, calling("departures_for_tram", '["Zoo"]')), "arguments are no JSON object: of 'depart"),
        (answer(*CLOCKED, calling("now_for_clock", "{}")), "the chain does not end in Finish"),
        (answer(calling("invalid_hallucination_function_name", "{}")), "is not on offer: 'invalid_hallucination"),
        (answer(calling("Finish", GIVEN), *CHAIN), "the chain goes on after Finish"),
        (answer(*CHAIN[:1], *CHAIN), "a message stands where none of its kind is due: from 'assistant'"),
        (answer(*CHAIN[1:]), "a message stands where none of its kind is due: from 'function'"),
        (answer(*CLOCKED, {"role": "user", "content": "Well?"}, *CHAIN), "none of its kind is due: from 'user', 'Well"),
        (answer(CHAIN[0], result("departures_for_tram", "12:04"), *CHAIN), "from another function: 'departures_for"),
        (answer({"role": "assistant", "content": "Hm."}), "the chain ends without a call"),
        (answer({"role": "assistant"}), "a message cannot be read: {'role': 'assistant'}"),
        (answer(CHAIN[0], result("now_for_clock", {"a": 12}), *CHAIN[2:]), "a message cannot be read: {'role': 'func"),
        (answer(calling("now_for_clock", {})), "a message cannot be read: {'role': 'assistant', 'content': None"),
        (answer(*CLOCKED, calling("departures_for_tram", '{"stop": NaN}')), "arguments are no JSON: of 'depart"),
        (answer(calling("now_for_clock", "[" * 9999)), "arguments are no JSON: of 'now_for_clock'"),
        (answer(*CHAIN, train_messages=[CHAIN]), "the messages do not begin with system and user: but with"),
        ({"conversations": converted(*SAID)["conversations"][1:]}, "the system message lists no APIs: ''"),
        (converted(*SAID, functions="[{'name'"), "neither JSON nor a Python literal"),
        (converted(*SAID, functions="{'name': 'x'}"), "the functions are no list: {'name': 'x'}"),
        (converted(("assistant", "\nThought: Hm.")), "a reply holds no call: 'Thought: Hm.'"),
        (converted(*SAID[:5]), "the chain ends without a call"),
        (converted(*SAID[:1], ("assistant", f"\nAction: Finish\nAction Input: {GIVEN_UP}")), "none of its kind is due"),
        (converted(("assistant", f"\nAction: Finish\nAction Input: {GIVEN_UP}")), "the answer gives up"),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_refused_with_a_reason_that_names_it(row: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        toolbench.parse(row)
