"""A row becomes the lines its recipe asks for, by chance where shares are given, or a reject that says why not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from fabrictune import dialogue as dialogues
from fabrictune import protocol
from fabrictune.config import Format, Source
from fabrictune.convert import mixture
from fabrictune.convert.conversion import FROM_FILES
from fabrictune.convert.rows import (
    WRITERS,
    Converted,
    Converter,
    Recipe,
    Reject,
    Row,
    convert,
    likely_source,
    reader,
)
from fabrictune.dialogue import Call, Dialogue, Exchange, Step, Tool, Turn
from fabrictune.formats import messages, ms_agent, openai, sharegpt
from fabrictune.model import models
from fabrictune.model.encoding import encode, reply_end
from fabrictune.sources import synthetic

RECIPE = Recipe(
    name="mine",
    source="openai",
    format="agentfabric",
    plain=False,
    language=None,
    raw_share=0.0,
    other_break=0.0,
    tokenizer=None,
    max_length=2048,
    long="keep",
    measured_share=1.0,
    seed=42,
)
LAMP = Tool("lamp", "Switches a lamp", {"type": "object", "properties": {"room": {"type": "string"}}, "required": []})
LIT = Dialogue(
    "lit", (LAMP,), (Turn("Light!", (Step(Call("lamp", {"room": "hall"}), "on"),), "It is on."),), "Be brief."
)
CHAT = Dialogue("chat", (), (Turn("Hi", (), "Hello."), Turn("q" * 500, (), "Yes.")), "Be brief.")
SYNTHETIC = list(synthetic.generate(7, 20, ("en", "zh")))


def row(text: str, number: int = 0) -> Row:
    return Row(number, "rows.jsonl", 2 * number + 1, text)


def rows_of(*made: Dialogue) -> list[Row]:
    return [row(json.dumps(openai.render(one)), number) for number, one in enumerate(made)]


def kept(recipe: Recipe, given: Row) -> Converted:
    converted, reject = Converter(recipe).convert(given)
    assert converted and reject is None, reject
    return converted


def rejected(recipe: Recipe, given: Row) -> Reject:
    converted, reject = Converter(recipe).convert(given)
    assert reject and converted is None
    return reject


def pieces(converted: Converted) -> Iterator[tuple[dict, Dialogue, list[bytes]]]:
    """(facts, dialogue, lines) of each dialogue in the row's bytes."""
    assert converted.blob.endswith(b"\n")
    lines = iter(converted.blob.splitlines())
    for line in lines:
        facts = json.loads(line)
        yield facts, dialogues.from_json(json.loads(next(lines))), [next(lines) for _ in range(facts["lines"])]


def piece(converted: Converted) -> tuple[dict, Dialogue, list[Exchange]]:
    ((facts, dialogue, lines),) = pieces(converted)
    return facts, dialogue, list(map(Exchange.from_line, lines))


def written(given: Row, **changes) -> list[Exchange]:
    return piece(kept(replace(RECIPE, **changes), given))[2]


def test_every_source_has_its_reader() -> None:
    modules = {source: reader(source.value).__module__ for source in Source}
    assert modules.pop(Source.self_cognition) == "fabrictune.dialogue"
    assert modules.pop(Source.agentfabric) == "fabrictune.formats.captured"
    assert modules.pop(Source.synthetic) == "fabrictune.formats.ms_agent"
    assert modules == {source: f"fabrictune.formats.{source.value}" for source in modules}


def test_every_format_has_its_writer() -> None:
    assert not WRITERS.keys() & protocol.DIALECTS.keys()
    assert WRITERS.keys() | protocol.DIALECTS.keys() == {format.value for format in Format}


def test_a_row_is_its_facts_its_dialogue_and_its_exchanges() -> None:
    pending = replace(LIT.turns[0], answer="", pending=(Step(Call("lamp", {}), ""),))
    made = replace(LIT, turns=(LIT.turns[0], Turn("谢谢", (), "Bye."), pending), family="home")
    converted = kept(RECIPE, rows_of(LIT, made)[1])
    facts, dialogue, exchanges = piece(converted)
    assert dialogue == replace(made, id="mine/2:lit")
    assert [(one.dialogue, one.turn, one.step, one.source) for one in exchanges] == [
        ("mine/2:lit", turn, step, "mine") for turn, step in [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1)]
    ]
    lengths = [sum(len(message.content) for message in one.messages) + len(one.reply_text) for one in exchanges]
    assert facts == {
        "lines": 5,
        "too_long": 0,
        "results_cut": 0,
        "lengths": lengths,
        "tools": ["lamp"],
        "called": ["lamp"],
        "calls": [1, 0, 2],
        "languages": ["en", "zh", "en"],
        "family": "home",
    }
    assert (converted.number, converted.family, converted.is_complete) == (1, "home", False)
    assert converted.keys == mixture.keys(made)
    assert kept(RECIPE, rows_of(LIT)[0]).is_complete


def test_calls_that_the_client_would_not_ask_for_yet_are_named_and_the_row_is_kept_in_part() -> None:
    made = replace(LIT, turns=(replace(LIT.turns[0], steps=(), answer="", pending=(Step(Call("lamp", {}), ""),) * 3),))
    (row,) = rows_of(made)
    converted, reject = Converter(RECIPE).convert(row)
    assert converted is not None and reject is not None
    assert piece(converted)[0]["calls"] == [1]
    assert reject.in_part and reject.row == row.text
    assert reject.reason.startswith("calls after one whose result is not known: 2 of 3")
    assert Converter(replace(RECIPE, format="openai")).convert(row)[1] is None


def test_a_row_that_another_format_would_read_otherwise_is_left_out() -> None:
    traced = "on\nAction: lamp\nAction Input: {}\nObservation: off"
    made = replace(LIT, turns=(replace(LIT.turns[0], steps=(Step(Call("lamp", {}), traced),)),))
    (row,) = rows_of(made)
    converted, reject = Converter(replace(RECIPE, format="ms_agent")).convert(row)
    assert converted is None and reject is not None
    assert reject.reason.startswith("ms_agent cannot hold the dialogue: ")
    assert Converter(replace(RECIPE, format="openai")).convert(row)[1] is None


def test_a_number_that_json_does_not_have_is_no_row() -> None:
    (row,) = rows_of(LIT)
    _, reject = Converter(RECIPE).convert(replace(row, text=row.text[:-1] + ', "score": NaN}'))
    assert reject is not None and reject.reason.startswith("no JSON: ")


def test_rows_of_the_same_id_or_of_none_become_dialogues_of_their_own() -> None:
    made = rows_of(LIT, LIT, replace(LIT, id=""), replace(LIT, id=""), replace(LIT, id="2:lit"))
    ids = [piece(kept(RECIPE, one))[1].id for one in made]
    assert ids == ["mine/1:lit", "mine/2:lit", "mine/3", "mine/4", "mine/5:2:lit"]


def is_raw(exchanges: list[Exchange]) -> bool:
    return exchanges[-1].messages[-1].role == "assistant"


def has_blank_line(exchanges: list[Exchange]) -> bool:
    before, _, _ = exchanges[-1].messages[-1].content.rpartition("\nObservation:")
    assert before.rstrip("\n").endswith('{"room": "hall"}')
    return before.endswith("\n")


@pytest.mark.parametrize("share", [0, 1])
@pytest.mark.parametrize("other", [0, 1])
@pytest.mark.parametrize("format", protocol.DIALECTS)
def test_all_or_none_take_the_other_shape_and_the_other_line_break(share: int, other: int, format: str) -> None:
    for given in rows_of(*[LIT] * 20):
        exchanges = written(given, raw_share=share, other_break=other, format=format)
        assert is_raw(exchanges) == bool(share)
        assert has_blank_line(exchanges) == (format == "agentfabric_v072") ^ bool(other)


def test_shares_are_drawn_by_the_id_and_the_seed_alone() -> None:
    recipe = replace(RECIPE, raw_share=0.5, other_break=0.25)
    converter, given = Converter(recipe), rows_of(*[LIT] * 600)
    first = {one.number: converter.convert(one)[0] for one in given}
    again = {one.number: kept(recipe, one) for one in reversed(given)}
    assert first == again
    found = Counter((is_raw(piece(one)[2]), has_blank_line(piece(one)[2])) for one in again.values())
    for combination, share in {(True, True): 1 / 8, (False, True): 1 / 8, (True, False): 3 / 8}.items():
        assert abs(found[combination] / 600 - share) < 0.06
    other = Converter(replace(recipe, seed=43))
    assert sum(is_raw(piece(other.convert(one)[0])[2]) != is_raw(piece(first[one.number])[2]) for one in given) > 200


@pytest.mark.parametrize(("language", "words"), [("zh", "你拥有如下工具"), ("en", "You have the following tools")])
def test_a_language_may_be_forced(language: str, words: str) -> None:
    chinese = replace(LIT, turns=(replace(LIT.turns[0], query="开灯！"),))
    for given in rows_of(LIT, chinese):
        assert all(words in one.messages[0].content for one in written(given, language=language))
    free = [written(given)[0].messages[0].content for given in rows_of(LIT, chinese)]
    assert "You have" in free[0] and "你拥有" in free[1]


def test_the_pieces_of_a_reply_say_what_they_are() -> None:
    call, answer = written(rows_of(LIT)[0])
    named = {span.part: span.text for span in call.reply if span.part != "said"}
    assert named == {"tool": " lamp", "arguments": ' {"room": "hall"}\n'}
    assert [(span.text, span.part) for span in answer.reply] == [(" It is on.", "answer")]


def test_plain_rows_are_written_as_a_chat_client_sends_them() -> None:
    text = json.dumps({"instruction": "Add 1 and 2.", "input": "", "output": "3"})
    recipe = replace(RECIPE, source="alpaca", plain=True, raw_share=1.0)
    (exchange,) = piece(kept(recipe, row(text)))[2]
    assert [(message.role, message.content) for message in exchange.messages] == [("user", "Add 1 and 2.")]
    assert [(span.text, span.part) for span in exchange.reply] == [("3", "answer")]
    assert "plain messages cannot hold tools" in rejected(replace(RECIPE, plain=True), rows_of(LIT)[0]).reason


BAD = {
    "{no JSON": "no JSON: Expecting",
    "": "no JSON: Expecting",
    "[1, 2]": "no JSON object but list",
    '"text"': "no JSON object but str",
    "[" * 100_000: "no JSON: ",
    "{}": "none of messages",
    json.dumps({"messages": [{"role": "user", "content": "Hi"}]}): "no reply: ",
    json.dumps(openai.render(replace(CHAT, turns=(Turn("Hi", (), "Observation: x"),)))): "would take the answer for",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_row_is_kept_whole_with_its_place_and_a_reason(text: str) -> None:
    reject = rejected(RECIPE, row(text, 3))
    assert BAD[text] in reject.reason
    assert reject == Reject("mine", "rows.jsonl", 7, reject.reason, False, 0, text)


LONE = "\ud800"


@pytest.mark.parametrize(
    "made",
    [
        replace(LIT, id=LONE),
        replace(LIT, family=LONE),
        replace(LIT, instruction=LONE),
        replace(LIT, tools=(replace(LAMP, description=LONE),)),
        replace(LIT, turns=(replace(LIT.turns[0], query=LONE),)),
        replace(LIT, turns=(replace(LIT.turns[0], answer=LONE),)),
        replace(LIT, turns=(replace(LIT.turns[0], steps=(Step(Call("lamp", {}), "x" * 4000 + LONE),)),)),
        replace(LIT, turns=(replace(LIT.turns[0], steps=(Step(Call("lamp", {"room": LONE}), ""),)),)),
    ],
    ids=["id", "family", "instruction", "tool", "query", "answer", "observation", "argument"],
)
@pytest.mark.parametrize("format", ["agentfabric", "openai"])
def test_text_that_no_file_can_hold_is_refused_wherever_it_stands(
    made: Dialogue, format: str, tiny_model: Path
) -> None:
    (given,) = rows_of(made)
    assert given.text.isascii()
    for recipe in (replace(RECIPE, format=format), replace(RECIPE, format=format, tokenizer=tiny_model)):
        reject = rejected(recipe, given)
        assert reject.reason == "text that is no valid Unicode"
        json.dumps(vars(reject)).encode()


def test_bytes_that_are_no_text_are_refused() -> None:
    text = json.dumps(openai.render(LIT)).replace("Light!", "\udcff")
    assert rejected(RECIPE, row(text)).reason.startswith("bytes that are no UTF-8: ")


@pytest.mark.parametrize("format", WRITERS)
def test_the_lines_for_other_trainers_read_back_as_the_dialogue(format: str) -> None:
    made = [replace(one, tools=(), turns=(Turn(one.turns[0].query, (), "是。"),)) for one in SYNTHETIC]
    if format != "messages":
        made += SYNTHETIC
    for number, one in enumerate(made):
        given = row(json.dumps(openai.render(one)), number)
        ((facts, dialogue, (line,)),) = pieces(kept(replace(RECIPE, format=format), given))
        assert reader(format)(json.loads(line)) == dialogue == replace(one, id=f"mine/{number + 1}:{one.id}")
        assert facts["lengths"] == [len(line.decode())]


def test_a_dialogue_that_the_format_cannot_hold_is_rejected() -> None:
    reject = rejected(replace(RECIPE, format="messages"), rows_of(LIT)[0])
    assert reject.reason.startswith("plain messages cannot hold tools: ")


def test_generated_rows_are_read_by_their_source() -> None:
    text = json.dumps(ms_agent.render(SYNTHETIC[0]))
    assert piece(kept(replace(RECIPE, source="synthetic"), row(text)))[1].turns == SYNTHETIC[0].turns
    text = json.dumps(msgspec.to_builtins(CHAT))
    assert piece(kept(replace(RECIPE, source="self_cognition", plain=True), row(text)))[1].turns == CHAT.turns


def in_tokens(folder: Path, **changes) -> Recipe:
    return replace(RECIPE, tokenizer=folder, **changes)


def test_lengths_are_those_of_the_model_s_tokens(tiny_model: Path) -> None:
    tokenizer = models.load_tokenizer(tiny_model)
    facts, _, exchanges = piece(kept(in_tokens(tiny_model), rows_of(LIT)[0]))
    assert facts["lengths"] == [len(encode(one, tokenizer, reply_end(tokenizer))) for one in exchanges]


def test_a_split_row_is_one_row_of_several_dialogues(tiny_model: Path) -> None:
    (given,) = rows_of(CHAT)
    short, long = piece(kept(in_tokens(tiny_model), given))[0]["lengths"]
    converted = kept(in_tokens(tiny_model, max_length=long - 1, long="split_history"), given)
    first, second = pieces(converted)
    assert [one.id for _, one, _ in (first, second)] == ["mine/1:chat#1", "mine/1:chat#2"]
    assert first[1].turns + second[1].turns == CHAT.turns
    assert [facts["too_long"] for facts, _, _ in (first, second)] == [1, 0]
    assert converted.keys == mixture.keys(CHAT)
    for facts, dialogue, lines in (first, second):
        assert [Exchange.from_line(line).dialogue for line in lines] == [dialogue.id]
        assert facts["lengths"][0] < long
    assert first[0]["lengths"] == [short]


def test_a_split_row_has_the_keys_of_all_its_dialogues(tiny_model: Path) -> None:
    made = replace(LIT, turns=(LIT.turns[0], replace(LIT.turns[0], query="Light, please!")))
    (given,) = rows_of(made)
    longest = max(piece(kept(in_tokens(tiny_model), given))[0]["lengths"])
    converted = kept(in_tokens(tiny_model, max_length=longest - 1, long="split_history"), given)
    assert len(list(pieces(converted))) == 2
    assert set(converted.keys) == set(mixture.keys(made)) and len(converted.keys) == 2


def test_a_row_of_which_a_part_is_too_long_is_kept_in_part(tiny_model: Path) -> None:
    (given,) = rows_of(CHAT)
    short, long = piece(kept(in_tokens(tiny_model), given))[0]["lengths"]
    recipe = in_tokens(tiny_model, max_length=long - 1, long="drop")
    converted, reject = Converter(recipe).convert(given)
    facts, _, exchanges = piece(converted)
    assert ([one.turn for one in exchanges], facts["too_long"]) == ([0], 1)
    reason = f"too long: 1 of 2 exchanges have more than data.max_length={long - 1} tokens, the longest {long}"
    assert reject == Reject("mine", "rows.jsonl", 1, reason, True, 1, given.text)
    reject = rejected(replace(recipe, max_length=short - 1), given)
    assert reject.reason.startswith("too long: 2 of 2 exchanges")
    assert (reject.in_part, reject.too_long) == (False, 2)


def test_kept_rows_may_be_too_long_and_are_counted(tiny_model: Path) -> None:
    (given,) = rows_of(CHAT)
    short, long = piece(kept(in_tokens(tiny_model), given))[0]["lengths"]
    recipe = in_tokens(tiny_model, max_length=long - 1, long="keep", measured_share=0.0)
    facts, _, exchanges = piece(kept(recipe, given))
    assert (facts["too_long"], len(exchanges)) == (1, 2)


@pytest.mark.parametrize("long", ["keep", "drop", "truncate_observation", "split_history"])
def test_what_is_written_does_not_depend_on_whose_lengths_are_told(tiny_model: Path, long: str) -> None:
    all_told, none_told, some_told = (
        Converter(in_tokens(tiny_model, max_length=2000, long=long, measured_share=share)) for share in (1, 0, 0.5)
    )
    told, too_long = [], 0
    for given in rows_of(*SYNTHETIC * 3):
        (first, why), (second, why_too), (third, _) = (
            one.convert(given) for one in (all_told, none_told, some_told)
        )  # fmt: skip
        assert why == why_too and (first is None) == (second is None)
        if first and second and third:
            counts, others = ([facts["too_long"] for facts, _, _ in pieces(one)] for one in (first, second))
            assert counts == others
            too_long += sum(counts)
            assert [one[1:] for one in pieces(first)] == [one[1:] for one in pieces(second)]
            assert all(facts["lengths"] for facts, _, _ in pieces(first))
            assert not any(facts["lengths"] for facts, _, _ in pieces(second))
            told.append(bool(next(pieces(third))[0]["lengths"]))
    assert 0.25 < sum(told) / len(told) < 0.75
    assert too_long > 0


def test_a_job_gives_what_is_kept_and_what_is_not_in_the_order_of_its_rows() -> None:
    job = [row("{}", 0), *rows_of(LIT, LIT)[1:], row("[]", 2), row(rows_of(LIT)[0].text, 3)]
    converted, rejects = convert((RECIPE, job))
    assert [one.number for one in converted] == [1, 3]
    assert [one.line for one in rejects] == [1, 5]
    assert convert((RECIPE, [])) == ([], [])


# Which source rows are meant for


def rendered(render: Callable[[Dialogue], object], *made: Dialogue) -> list[Row]:
    return [row(json.dumps(render(one)), number) for number, one in enumerate(made)]


@pytest.mark.parametrize(
    ("render", "made", "meant"),
    [
        (openai.render, SYNTHETIC, "openai"),
        (sharegpt.render, SYNTHETIC, "sharegpt"),
        (ms_agent.render, SYNTHETIC, "ms_agent"),
        (messages.render, [CHAT], "messages"),
    ],
)
def test_rows_of_another_source_tell_which(
    render: Callable[[Dialogue], object], made: list[Dialogue], meant: str
) -> None:
    given = rendered(render, *made)
    for source in ("openai", "alpaca", "toolbench"):
        assert likely_source([*given, row("no JSON")], replace(RECIPE, source=source), FROM_FILES) == (
            meant,
            len(given),
        )


def test_rows_of_no_known_kind_are_not_guessed_at() -> None:
    given = [row("no JSON"), row('{"text": "Hi"}'), *rendered(openai.render, LIT)]
    assert likely_source(given, replace(RECIPE, source="sharegpt"), FROM_FILES) is None, "two of three are of none"
    assert likely_source([], RECIPE, FROM_FILES) is None
