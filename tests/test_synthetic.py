"""The synthetic source: what every dialogue holds to, checked on some hundreds of drawn ones."""

from __future__ import annotations

import json
import random
import re
from collections import Counter

import jsonschema
import pytest

from fabrictune.dialogue import Dialogue, Json, Turn
from fabrictune.sources import synthetic, synthetic_leisure, synthetic_office, synthetic_trade, synthetic_travel
from fabrictune.sources.synthetic_spec import LANGUAGES, Draw, Param, wordings

CJK = re.compile(r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]")
NUMBER = re.compile(r"\d+(?:\.\d+)?")
FORBIDDEN = ("Action:", "Observation:", "Answer:", "<result>", "<|", "|>", "[INST]", "</s>", "{", "}")
HELD_OUT = ("hotels", "books", "stocks")

ENGLISH = list(synthetic.generate(7, 600, ("en",), dialogues_per_agent=3))
CHINESE = list(synthetic.generate(7, 400, ("zh",), dialogues_per_agent=3))
SKILLS = [
    (family, skill)
    for module in (synthetic_travel, synthetic_office, synthetic_trade, synthetic_leisure)
    for family in module.FAMILIES
    for skill in family.skills
]


def texts(dialogue: Dialogue) -> list[str]:
    """What people and the agent say, and the descriptions of its tools; not what the tools return."""
    said = [text for turn in dialogue.turns for text in (turn.query, turn.answer, *(s.thought for s in turn.steps))]
    return [dialogue.instruction, *said, *(json.dumps(t.parameters, ensure_ascii=False) for t in dialogue.tools)]


def known_before(dialogue: Dialogue, place: int, step: int) -> str:
    """All that a model may copy from when it writes call `step` of turn `place`."""
    earlier = [text for turn in dialogue.turns[:place] for text in (turn.query, *(s.observation for s in turn.steps))]
    turn = dialogue.turns[place]
    return "\n".join([*earlier, turn.query, *(s.observation for s in turn.steps[:step])])


def scalars(value: Json) -> list[Json]:
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in scalars(part)]
    if isinstance(value, list):
        return [leaf for part in value for leaf in scalars(part)]
    return [value]


def kind_of(turn: Turn) -> str:
    if not turn.steps:
        return "chat"
    if len(turn.steps) == 2:
        return "chain"
    first = turn.steps[0].observation.lower()
    return "failure" if re.match(r'(\{"error"|error|failed|错误|失败)', first) else "call"


def test_the_same_arguments_give_the_same_dialogues_and_a_shorter_run_is_a_prefix() -> None:
    long = list(synthetic.generate(3, 50, ("en", "zh")))
    assert long == list(synthetic.generate(3, 50, ("en", "zh")))
    assert long[:11] == list(synthetic.generate(3, 11, ("en", "zh")))
    assert long != list(synthetic.generate(4, 50, ("en", "zh")))
    assert len({dialogue.id for dialogue in long}) == 50


def test_dialogues_of_one_agent_share_instruction_and_tools() -> None:
    dialogues = list(synthetic.generate(3, 40, dialogues_per_agent=8))
    for block in _blocks(dialogues, 8):
        assert len({(d.instruction, json.dumps([t.parameters for t in d.tools]), d.family) for d in block}) == 1
        assert len({d.turns[0].query for d in block}) > 4


def _blocks(items: list[Dialogue], size: int) -> list[list[Dialogue]]:
    return [items[k : k + size] for k in range(0, len(items), size)]


def test_there_are_enough_families_and_tools_in_both_languages() -> None:
    for language in ("en", "zh"):
        families = synthetic.tools(language)
        assert tuple(families) == synthetic.FAMILIES and len(families) >= 14
        assert all(len(tools) >= 4 for tools in families.values())
        assert sum(map(len, families.values())) >= 60
    english, chinese = synthetic.tools("en"), synthetic.tools("zh")
    for family in synthetic.FAMILIES:
        assert [(t.name, list(t.properties)) for t in english[family]] == [
            (t.name, list(t.properties)) for t in chinese[family]
        ]
        assert all(CJK.search(tool.description) for tool in chinese[family])


def test_every_alternative_name_belongs_to_one_tool_and_one_parameter() -> None:
    names = [name for _, skill in SKILLS for name in skill.names.split()]
    assert len(names) == len(set(names)) and all(re.fullmatch(r"[A-Za-z_]+", name) for name in names)
    for _, skill in SKILLS:
        params = [name for param in skill.params for name in param.names.split()]
        assert len(params) == len(set(params)), skill.name


def test_every_tool_has_enough_wordings_in_both_languages() -> None:
    for _, skill in SKILLS:
        for side in (0, 1):
            assert len(skill.ask[side].strip().splitlines()) >= 6, skill.name
            assert len(skill.answer[side].strip().splitlines()) >= 3, skill.name
        assert 5 <= len(skill.text[0].split()) <= 14, skill.name


def test_templates_use_exactly_the_slots_that_exist() -> None:
    for _, skill in SKILLS:
        given = {slot for param in skill.params if param.when is None for slot in slots_of(param)}
        for language in LANGUAGES:
            draw = Draw(random.Random(1), language)
            facts = set(skill.facts(draw, {param.name: param.draw(draw) for param in skill.params}))
            assert not facts & {slot for param in skill.params for slot in slots_of(param)}, skill.name
            assert all(slots_in(text) == given for text in wordings(skill.ask, language)), skill.name
            assert all(slots_in(text) <= given for text in wordings(skill.fail, language)), skill.name
            for text in wordings(skill.answer, language):
                assert slots_in(text) <= given | facts and slots_in(text) & facts, (skill.name, text)


def slots_of(param: Param) -> set[str]:
    return {f"{param.name}_{part.name}" for part in param.inner} or {param.name}


def slots_in(text: str) -> set[str]:
    return set(re.findall(r"\{(\w+)\}", text))


def test_every_family_has_a_chain_whose_second_call_needs_the_first() -> None:
    chained: dict[str, int] = Counter()
    for dialogue in ENGLISH:
        for turn in dialogue.turns:
            if len(turn.steps) == 2:
                first, second = turn.steps
                linked = [v for v in scalars(second.call.arguments) if str(v) in first.observation]
                assert any(str(value) not in turn.query for value in linked), turn
                chained[dialogue.family] += 1
    assert set(chained) == set(synthetic.FAMILIES)


@pytest.mark.parametrize("dialogues", [ENGLISH, CHINESE], ids=["en", "zh"])
def test_every_call_obeys_its_schema(dialogues: list[Dialogue]) -> None:
    for dialogue in dialogues:
        tools = {tool.name: tool for tool in dialogue.tools}
        for call in dialogue.calls:
            jsonschema.validate(call.arguments, {**tools[call.name].parameters, "additionalProperties": False})
            order = [name for name in tools[call.name].properties if name in call.arguments]
            assert list(call.arguments) == order


def test_every_english_argument_can_be_copied_from_what_came_before() -> None:
    words = dict(zip(("two", "three", "four", "five", "six", "seven", "eight", "nine"), range(2, 10), strict=True))
    for dialogue in ENGLISH:
        for place, turn in enumerate(dialogue.turns):
            for number, step in enumerate(turn.steps):
                known = known_before(dialogue, place, number)
                numbers = {*NUMBER.findall(known), *(str(words[w]) for w in re.findall(r"[a-z]+", known) if w in words)}
                for value in scalars(step.call.arguments):
                    if isinstance(value, bool):
                        assert value  # asked for by a fixed sentence, and never asked to be false
                    elif isinstance(value, str):
                        assert value in known, (value, turn)
                    else:
                        assert str(value) in numbers, (value, turn)


def test_chinese_arguments_can_be_copied_save_for_enums_which_are_english_words() -> None:
    for dialogue in CHINESE:
        tools = {tool.name: tool for tool in dialogue.tools}
        for place, turn in enumerate(dialogue.turns):
            for number, step in enumerate(turn.steps):
                known = known_before(dialogue, place, number)
                for name, value in step.call.arguments.items():
                    if "enum" not in tools[step.call.name].properties[name]:
                        missing = [v for v in scalars(value) if isinstance(v, str) and v not in known]
                        assert not missing, (missing, turn)


@pytest.mark.parametrize("dialogues", [ENGLISH, CHINESE], ids=["en", "zh"])
def test_every_number_and_link_in_an_answer_was_seen_before(dialogues: list[Dialogue]) -> None:
    for dialogue in dialogues:
        for place, turn in enumerate(dialogue.turns):
            known = known_before(dialogue, place, len(turn.steps))
            assert set(NUMBER.findall(turn.answer)) <= set(NUMBER.findall(known)), turn
            assert all(link in known for link in re.findall(r"https?://[^\s)]+", turn.answer)), turn


def test_an_answer_to_a_call_says_something_only_the_observation_knows() -> None:
    for dialogue in ENGLISH:
        for turn in dialogue.turns:
            if turn.steps:
                fresh = set(re.findall(r"[\w.]+", turn.steps[-1].observation)) - set(re.findall(r"[\w.]+", turn.query))
                assert any(token.strip(".") in turn.answer for token in fresh), turn


def test_turn_kinds_and_dialogue_lengths_come_in_the_intended_shares() -> None:
    kinds = Counter(kind_of(turn) for dialogue in ENGLISH for turn in dialogue.turns)
    share = {kind: n / kinds.total() for kind, n in kinds.items()}
    assert 0.55 <= share["call"] <= 0.75 and 0.07 <= share["chain"] <= 0.18
    assert 0.07 <= share["chat"] <= 0.18 and 0.04 <= share["failure"] <= 0.13
    lengths = Counter(len(dialogue.turns) for dialogue in ENGLISH)
    assert set(lengths) == {1, 2, 3} and lengths[1] > lengths[2] > lengths[3]
    thoughts = [bool(step.thought) for d in ENGLISH for turn in d.turns for step in turn.steps]
    assert 0.05 <= sum(thoughts) / len(thoughts) <= 0.15


def test_queries_are_varied() -> None:
    queries = [d.turns[0].query for d in synthetic.generate(11, 1200) if len(d.turns) == 1][:600]
    assert len(queries) == 600 and len(set(queries)) >= 540


def test_agents_of_seen_families_offer_no_tool_of_a_held_out_one() -> None:
    hidden_names = {name for family, skill in SKILLS if family.name in HELD_OUT for name in skill.names.split()}
    dialogues = list(synthetic.generate(5, 1200, ("en", "zh"), heldout=HELD_OUT, dialogues_per_agent=2))
    seen = [dialogue for dialogue in dialogues if dialogue.family not in HELD_OUT]
    assert all(tool.name not in hidden_names for dialogue in seen for tool in dialogue.tools)
    assert 0.10 <= 1 - len(seen) / len(dialogues) <= 0.24
    assert {dialogue.family for dialogue in dialogues} == set(synthetic.FAMILIES)


def test_agents_are_about_the_families_asked_for() -> None:
    assert {d.family for d in synthetic.generate(1, 40, families=("mail",))} == {"mail"}
    assert {d.family for d in synthetic.generate(1, 40, families=("mail",), heldout=("mail",))} == {"mail"}


def test_the_same_tool_appears_under_several_names() -> None:
    mail = next(skill for _, skill in SKILLS if skill.name == "send_mail")
    offered = {
        tool.name for d in synthetic.generate(1, 300, families=("mail",), dialogues_per_agent=1) for tool in d.tools
    }
    assert set(mail.names.split()) <= offered


def test_english_holds_no_chinese_and_chinese_queries_do() -> None:
    for dialogue in ENGLISH:
        assert not CJK.search(
            json.dumps([texts(dialogue), [t.description for t in dialogue.tools]], ensure_ascii=False)
        )
        assert not any(CJK.search(s.observation) for turn in dialogue.turns for s in turn.steps)
    for dialogue in CHINESE:
        assert CJK.search(dialogue.instruction)
        assert all(CJK.search(turn.query) and CJK.search(turn.answer) for turn in dialogue.turns)


def test_no_text_holds_a_control_word_or_stray_space() -> None:
    for dialogue in [*ENGLISH, *CHINESE]:
        turns = dialogue.turns
        spoken = [text for turn in turns for text in (turn.query, turn.answer, *(s.thought for s in turn.steps))]
        observed = [step.observation for turn in turns for step in turn.steps]
        assert all(word not in text for text in [*spoken, dialogue.instruction] for word in FORBIDDEN)
        assert all(word not in text for text in observed for word in FORBIDDEN[:-2])
        assert all(text == text.strip() and "\n" not in text and "  " not in text for text in [*spoken, *observed])
        assert all(observed)


def test_unknown_names_raise_with_the_choices() -> None:
    with pytest.raises(ValueError, match="astrology.*weather"):
        synthetic.generate(1, 1, families=("astrology",))
    with pytest.raises(ValueError, match="astrology.*weather"):
        synthetic.generate(1, 1, heldout=("astrology",))
    with pytest.raises(ValueError, match="fr.*en.*zh"):
        synthetic.generate(1, 1, languages=("fr",))
    with pytest.raises(ValueError, match="fr.*en.*zh"):
        synthetic.tools("fr")
    with pytest.raises(ValueError, match="at least"):
        synthetic.generate(1, 1, dialogues_per_agent=0)
