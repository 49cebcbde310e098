"""The self-cognition source: its templates read one by one, and what is drawn from them."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from fabrictune import protocol
from fabrictune.dialogue import Dialogue
from fabrictune.sources.self_cognition import DENIED, TEMPLATES, generate

NAMES = {"zh": "云雀", "en": "Skylark"}
AUTHORS = {"zh": "陶白白", "en": "Tao Baibai"}
LANGUAGES = ("zh", "en")
TOTAL = sum(len(templates) for templates in TEMPLATES.values())
PAIRS = {
    language: [pair for template in templates for pair in zip(template[::2], template[1::2], strict=True)]
    for language, templates in TEMPLATES.items()
}


def drawn(count: int, seed: int = 42, languages: tuple[str, ...] = LANGUAGES) -> list[Dialogue]:
    return list(generate(seed, count, NAMES, AUTHORS, languages))


def texts(dialogue: Dialogue) -> tuple[str, ...]:
    return tuple(text for turn in dialogue.turns for text in (turn.query, turn.answer))


def templates_of(dialogues: list[Dialogue]) -> list[tuple[str, ...]]:
    """The template of each dialogue, found by putting the placeholders back."""
    back = {NAMES["zh"]: "{NAME}", NAMES["en"]: "{NAME}", AUTHORS["zh"]: "{AUTHOR}", AUTHORS["en"]: "{AUTHOR}"}
    pattern = re.compile("|".join(map(re.escape, back)))
    return [tuple(pattern.sub(lambda found: back[found[0]], text) for text in texts(d)) for d in dialogues]


def languages_of(dialogues: list[Dialogue]) -> list[str]:
    return [next(k for k in LANGUAGES if template in TEMPLATES[k]) for template in templates_of(dialogues)]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_has_eighty_templates_or_more_and_a_few_of_two_turns(language: str) -> None:
    lengths = Counter(map(len, TEMPLATES[language]))
    assert len(TEMPLATES[language]) >= 80
    assert set(lengths) == {2, 4}
    assert 3 <= lengths[4] <= lengths[2] / 10


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_query_and_no_answer_is_written_twice(language: str) -> None:
    for part in zip(*PAIRS[language], strict=True):
        seen = Counter(re.sub(r"\W", "", text).casefold() for text in part)
        assert [text for text, times in seen.items() if times > 1] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_answer_gives_the_name_or_the_author(language: str) -> None:
    assert [answer for _, answer in PAIRS[language] if not re.search(r"\{NAME\}|\{AUTHOR\}", answer)] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_queries_and_answers_both_use_the_placeholders(language: str) -> None:
    queries, answers = ("\n".join(part) for part in zip(*PAIRS[language], strict=True))
    for placeholder in ("{NAME}", "{AUTHOR}"):
        assert placeholder in queries
        assert answers.count(placeholder) >= len(PAIRS[language]) / 3


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_answer_claims_or_grants_another_identity(language: str) -> None:
    claims = ("i'm {}", "i am {}", "developed by {}", "made by {}", "我是{}", "我叫{}", "由{}开发")
    forbidden = {claim.format(other).casefold() for claim in claims for other in DENIED}
    for query, answer in PAIRS[language]:
        assert not [claim for claim in forbidden if claim in answer.casefold()], (query, answer)


def test_everything_denied_is_brought_up_by_a_user() -> None:
    queries = "\n".join(query for pairs in PAIRS.values() for query, _ in pairs).casefold()
    assert [other for other in DENIED if other.casefold() not in queries] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_answers_open_in_many_ways(language: str) -> None:
    answers = [turn.answer for dialogue in drawn(len(TEMPLATES[language]), 1, (language,)) for turn in dialogue.turns]
    opening, times = Counter(answer[:6] for answer in answers).most_common(1)[0]
    assert times / len(answers) <= 0.12, opening
    # Six characters hardly reach past a Chinese name, so look at two as well.
    opening, times = Counter(answer[:2] for answer in answers).most_common(1)[0]
    assert times / len(answers) <= 0.2, opening


@pytest.mark.parametrize("language", LANGUAGES)
def test_answers_are_short_and_long(language: str) -> None:
    lengths = sorted(len(answer) for _, answer in PAIRS[language])
    assert lengths[len(lengths) // 10] * 2 < lengths[len(lengths) * 9 // 10]


@pytest.mark.parametrize("language", LANGUAGES)
def test_answers_promise_no_dates_or_sizes(language: str) -> None:
    claim = re.compile(r"(19|20)\d\d|\d+ ?(B\b|billion|亿|GB|万)", re.IGNORECASE)
    assert [answer for _, answer in PAIRS[language] if claim.search(answer)] == []


def test_english_reads_well_with_a_person_as_with_a_team() -> None:
    # "a team at Acme" must not begin a sentence, take an article, an 's or a present-tense verb, nor be a "he".
    begins = r"(^|[.!?] |\n)\{AUTHOR\} \w"
    awkward = re.compile(rf"{begins}|\}}'s|\b(an?|the) \{{|AUTHOR\}} (is|are|has|have)\b|\b(he|she|him|her)\b")
    assert [text for pair in PAIRS["en"] for text in pair if awkward.search(text)] == []


def test_chinese_reads_well_with_a_person_as_with_a_team() -> None:
    awkward = re.compile(r"\{AUTHOR\}(公司|团队|老师|先生|女士|本人|们)|AUTHOR.*((?<!其)他|她)", re.DOTALL)
    assert [text for pair in PAIRS["zh"] for text in pair if awkward.search(text)] == []


def test_chinese_queries_get_the_client_s_chinese_prompt_and_english_text_holds_no_chinese() -> None:
    assert [template for template in TEMPLATES["zh"] if protocol.language(template[0]) != "zh"] == []
    assert [template for template in TEMPLATES["en"] if protocol.language(*template) != "en"] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_template_holds_words_of_the_wire_protocol_or_loose_blanks(language: str) -> None:
    for text in (text for pair in PAIRS[language] for text in pair):
        assert text == text.strip() and "  " not in text
        assert not re.search(r"Action|Observation:|Answer:|<\||\|>", text), text
        assert text.replace("\n", "").isprintable()
        assert not re.search(r"[{}]", re.sub(r"\{(NAME|AUTHOR)\}", "", text)), text


@pytest.mark.parametrize("count", [0, 1, 7, TOTAL - 1, TOTAL, TOTAL + 1, 3000])
def test_as_many_dialogues_come_as_were_asked_for_and_are_numbered(count: int) -> None:
    dialogues = drawn(count)
    assert [dialogue.id for dialogue in dialogues] == [f"self-{k:04d}" for k in range(1, count + 1)]


def test_dialogues_are_plain_talk_of_the_family_self_cognition() -> None:
    for dialogue in drawn(TOTAL):
        assert (dialogue.tools, dialogue.instruction, dialogue.knowledge) == ((), "", "")
        assert dialogue.family == "self_cognition"
        assert dialogue.is_complete and dialogue.calls == []


def test_every_template_is_used_once_before_any_is_used_again() -> None:
    used = templates_of(drawn(3 * TOTAL + 50))
    everything = Counter(template for templates in TEMPLATES.values() for template in templates)
    for start in range(0, 3 * TOTAL, TOTAL):
        assert Counter(used[start : start + TOTAL]) == everything
    assert max(Counter(used[3 * TOTAL :]).values()) == 1
    assert used[:TOTAL] != used[TOTAL : 2 * TOTAL]


def test_a_part_of_a_pass_is_drawn_from_all_templates() -> None:
    used = Counter(template for seed in range(100) for template in templates_of(drawn(TOTAL // 10, seed)))
    assert len(used) == TOTAL
    # 100 draws with chance 1/10: 30 is more than 6 standard deviations away.
    assert max(used.values()) < 30


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_any_first_part_holds_the_languages_by_their_templates_to_within_one(seed: int) -> None:
    share = len(TEMPLATES["zh"]) / TOTAL
    chinese = 0
    for k, language in enumerate(languages_of(drawn(2 * TOTAL + 99, seed)), start=1):
        chinese += language == "zh"
        assert abs(chinese - k * share) <= 1, k


def test_the_languages_are_mixed_not_in_turns() -> None:
    runs = Counter(zip(languages_of(drawn(TOTAL)), languages_of(drawn(TOTAL))[1:], strict=False))
    assert len(runs) == 4 and min(runs.values()) > TOTAL / 20


def test_the_seed_decides() -> None:
    assert drawn(500) == drawn(500)
    assert templates_of(drawn(20, seed=1)) != templates_of(drawn(20, seed=2))


def test_a_second_language_does_not_reshuffle_the_first() -> None:
    both = drawn(TOTAL)
    english = [texts(d) for d, language in zip(both, languages_of(both), strict=True) if language == "en"]
    assert english == [texts(dialogue) for dialogue in drawn(len(english), languages=("en",))]
    assert drawn(50) == drawn(50, languages=("en", "zh"))


def test_names_stand_in_the_language_of_the_text() -> None:
    dialogues = drawn(TOTAL)
    for dialogue, language in zip(dialogues, languages_of(dialogues), strict=True):
        other = "en" if language == "zh" else "zh"
        for turn in dialogue.turns:
            assert NAMES[language] in turn.answer or AUTHORS[language] in turn.answer
            assert not any(word in turn.query + turn.answer for word in (NAMES[other], AUTHORS[other], "{", "}"))


@pytest.mark.parametrize("given", LANGUAGES)
def test_a_name_in_one_language_serves_both(given: str) -> None:
    other = "en" if given == "zh" else "zh"
    names, authors = {given: NAMES[given]}, {given: AUTHORS[given], other: "  "}
    for dialogue in generate(3, TOTAL, names, authors):
        for turn in dialogue.turns:
            assert NAMES[given] in turn.answer or AUTHORS[given] in turn.answer


def test_a_name_that_looks_like_a_placeholder_stays_as_it_is() -> None:
    said = [texts(dialogue) for dialogue in generate(0, TOTAL, {"en": "{AUTHOR}"}, {"en": "{NAME} \\1"}, ("en",))]
    assert ("Who are you?", "I'm {AUTHOR}, an AI assistant developed by {NAME} \\1. Ask me whatever you like.") in said


def test_a_name_that_ends_with_a_full_stop_gets_no_second_one() -> None:
    dialogues = list(generate(0, TOTAL, {"en": "Skylark"}, {"en": "Acme Inc."}, ("en",)))
    answers = [turn.answer for dialogue in dialogues for turn in dialogue.turns]
    assert "My developer is Acme Inc." in answers
    assert not any("Acme Inc.." in answer for answer in answers)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": {}}, "names is empty; give it for at least one of"),
        ({"authors": {"zh": "", "en": " "}}, "authors is empty"),
        ({"names": {"fr": "Alouette"}}, r"unknown language \['fr'\]; choose from \['zh', 'en'\]"),
        ({"languages": ("en", "de")}, r"unknown language \['de'\]"),
        ({"languages": ()}, "languages is empty"),
        ({"count": -1}, "count is -1"),
        ({"names": {"en": "chatgpt"}}, "names holds 'chatgpt', which the templates deny"),
        ({"authors": {"zh": "阿里巴巴"}}, "authors holds '阿里巴巴'"),
    ],
)
def test_what_cannot_be_drawn_is_refused_at_once(changes: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"seed": 0, "count": 5, "names": NAMES, "authors": AUTHORS, **changes}
    with pytest.raises(ValueError, match=message):
        generate(**arguments)
