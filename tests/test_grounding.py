"""Numbers, names and URLs must have been told, however they are written."""

import pytest

from fabrictune.dialogue import Attempt, Call, Dialogue, Step, Tool, Turn
from fabrictune.score import grounding

TOOL = Tool("find_hotel", "Hotels listed by Tripwise", {"type": "object", "properties": {"city": {"type": "string"}}})
FOUND = Step(Call("find_hotel", {"city": "Porto"}), '{"hotels": ["Casa Ribeira", "\\u6cb3\\u8fb9"], "id": "TK-201"}')
STAY = Turn("A hotel for Ana?", (FOUND,), "Casa Ribeira fits, says Lonely Planet.")
TALK = Dialogue("d", (TOOL,), (STAY, Turn("Thanks", (), "Bye")), "You are Clara. Hotline 0800.", "The Douro is near.")


@pytest.mark.parametrize(
    ("answer", "told", "grounded"),
    [
        ("It costs 1,234.50 euros", '{"price": 1234.5}', True),
        ("It costs 1234 euros", "1,234", True),
        ("Seats 12 and 14", "[12,14]", True),
        ("Seats 12,14 are free", '{"seats": [12, 14]}', True),
        ("At 9:30", "09:30:00", True),
        ("At 2:30 pm", "14:30", True),
        ("At 3:30 pm", "14:30", False),
        ("May 4, 2024", "2024-05-04", True),
        ("Order A-1001", "A-1001", True),
        ("Order A-1002", "A-1001", False),
        ("23 degrees", "2023", False),
        ("24 degrees", "23.6", True),
        ("23 degrees", "23.6", False),
        ("23.65 degrees", "23.6", False),
        ("35 %", "0.35", True),
        ("It is -5 degrees", "5", False),
        ("It is 5 degrees", "-5", False),
        ("5 below zero", "-5", True),
        ("零下5度", "-5", True),
        ("气温是-5度", "temperature: -5", True),
        ("今天3度-5度", "3 5", True),
        ("3℃-5℃", "3 5", True),
        ("see https://a.example/b.", "https://a.example/b", True),
        ("see https://a.example/b", "https://a.example/bc", False),
        ("看https://a.example/b。谢谢", "https://a.example/b", True),
        ("二十三度", "23", True),
        ("1. red\n2. blue", "red blue", True),
        ("## 1. red\n- 2) blue\n3.", "red blue", True),
        ("I am here 24/7", "", True),
        ("x" * 60_000 + " 5", "", True),  # beyond what is read
    ],
)
def test_numbers_and_urls_must_have_been_told(answer: str, told: str, grounded: bool) -> None:
    assert (grounding.unfounded(answer, told) is None) is grounded


@pytest.mark.parametrize(
    ("answer", "told", "strange"),
    [
        ("Parcel P-77 is here", "P-77", None),
        ("Parcel p77 or P 77", "P-77", None),
        ("Parcel Q-77 is here", "P-77", "Q-77"),
        ("取号B18。", "取号A18", "B18"),
        ("取号A18。", '{"no": "a18"}', None),
        ("in mid-2024, top-10, 5G and 4K", "2024 10 5 4", None),
        ("You fly with Norwegian from Oslo", "norwegian, oslo", None),
        ("You fly with Lufthansa", "norwegian", "Lufthansa"),
        ("Lufthansa takes you", "norwegian", None),  # how a sentence begins says nothing
        ("It is in Lyon.\n- Paris is near\n(Nice too)", "Lyon", None),
        ("It is in Lyon, France", "Lyon", None),
        ("It is in France", "Lyon", "France"),
        ("The Lyons are the Ribeiras' and Ana's", "lyon ribeira ana", None),
        ("the CASA RIBEIRA, on Monday in May", "Casa Ribeira", None),
        ("the Café Ruska", "cafe ruska", None),
        ("the share of CZVU", "CZVX", "CZVU"),
        ("Dr. Jekyll said: Nothing", "", None),
        ("# Weather In Rome\nWeather In Rome\nFlight Number: none", "", None),
        ("I think I'm OK, aren't I", "", None),
        ("you stay at Wells-Next", "wells next", None),
        ("It is in Shanghai", "它在上海", None),  # another script
        ("可以读《时间简史》", "时间 简史", None),
        ("可以读《果壳的秘密》", "时间简史", "《果壳的秘密》"),
        ("可以读《人工智能：一种现代的方法》", "人工智能：一种现代方法", None),
        ("可以读「果壳」", "时间简史", "「果壳」"),
        ("请说“再来一次”", "时间简史", None),
        ("它叫“果壳”", "时间简史", "“果壳”"),
        ("由 Lufthansa 承运", "汉莎航空", None),
    ],
)
def test_names_must_have_been_told_unless_they_may_be_none(answer: str, told: str, strange: str | None) -> None:
    assert grounding.unfounded(answer, told) == strange


@pytest.mark.parametrize(
    "word", ["Clara", "0800", "Douro", "Tripwise", "Ana", "Porto", "Casa", "Ribeira", "河边", "TK-201", "2", "Planet"]
)
def test_all_that_an_answer_may_draw_on_is_told(word: str) -> None:
    assert grounding.unfounded(f"it is {word}", grounding.told(TALK, 0)) is None
    assert grounding.unfounded(f"it is {word}", grounding.told(TALK, 1)) is None


def test_what_a_model_asked_for_and_got_is_told() -> None:
    got = '{"hotels": ["a", "b", "c"], "map": "https:\\/\\/maps.example"}'
    asked = Attempt("find_hotel", '{"city": "LX-1"}', {"city": "LX-1"}, got)
    for word in ("LX-1", "https://maps.example", "3"):
        assert grounding.unfounded(f"it is {word}", grounding.told(TALK, 1)) == word
        assert grounding.unfounded(f"it is {word}", grounding.told(TALK, 1, [asked])) is None


@pytest.mark.parametrize(
    ("expected", "asks"),
    [
        ("Bye", False),
        ("You are welcome, Ana in Porto.", False),
        ("It was built in 1886.", True),
        ("见《红楼梦》。", True),
    ],
)
def test_a_turn_asks_for_knowledge_where_the_expected_answer_says_what_nobody_told(expected: str, asks: bool) -> None:
    talk = Dialogue("d", (TOOL,), (STAY, Turn("And the bridge?", (), expected)))
    assert grounding.asks_for_knowledge(talk, 1) is asks
    assert not grounding.asks_for_knowledge(talk, 0)


@pytest.mark.parametrize(
    ("answer", "whole"),
    [
        ("Look at DV-38", "Look at "),
        ("Look at DV-39", "Look at DV-39"),
        ("Look (dv-38", "Look ("),
        ("看DV-38", "看"),
        ("Look at it ", "Look at it "),
        ("", ""),
    ],
)
def test_a_word_that_a_bound_cut_off_is_left_out_if_it_begins_one_that_was_told(answer: str, whole: str) -> None:
    assert grounding.whole_words(answer, "device dv-385") == whole


@pytest.mark.parametrize(
    ("answer", "repeats"),
    [
        ("Where is my parcel, Ann?", True),
        (" where is my PARCEL ann\n", True),
        ("(Tools: track) Where is my parcel, Ann?", True),
        ("Where is my parcel, Ann? Where is my parcel, Ann?", True),
        ("Where is my parcel, Ann? In Lyon.", False),
        ("Where is my parcel", False),
        ("Good morning!", False),
        ("我的包裹在哪里？", True),
        ("你好！", False),
        ("?", False),
        ("", False),
    ],
)
def test_an_answer_repeats_a_message_whatever_its_case_and_punctuation(answer: str, repeats: bool) -> None:
    query = "Where is my parcel, Ann?"
    assert (
        grounding.repeats(answer, [query, f"(tools: track){query}", "Good morning", "我的包裹在哪里", "你好", "?"])
        is repeats
    )


@pytest.mark.parametrize(
    ("expected", "answer", "claims"),
    [
        ("I can't book tables.", "Your table is booked.", True),
        ("I have no tool to book tables.", "I've now reserved your table.", True),
        ("抱歉，我没有订餐的工具。", "已为您预订好餐桌。", True),
        ("I can't book tables.", "No table is booked.", False),
        ("I can't book tables.", "I can find music.", False),
        ("I can't book tables.", "For when shall it be booked?", False),
        ("抱歉，我没有订餐的工具。", "您想预订几人的餐桌？", False),
        ("Your table is booked.", "The table is reserved.", False),
    ],
)
def test_a_claim_is_one_where_the_expected_answer_declines(expected: str, answer: str, claims: bool) -> None:
    assert grounding.claims(Turn("A table?", (), expected), answer) is claims


def test_what_comes_later_is_not_told_yet() -> None:
    later = Dialogue("d", (TOOL,), (Turn("Hi", (), "Hello"), STAY))
    assert grounding.unfounded("it is Ribeira", grounding.told(later, 0)) == "Ribeira"


@pytest.mark.parametrize(
    ("observation", "expected", "answer", "contradicts"),
    [
        ("sunny", "It is sunny.", "I cannot get the weather.", True),
        ("sunny", "It is sunny.", "It is not cold.", False),
        ("晴", "今天晴。", "抱歉，无法获取天气。", True),
        ('{"error": "offline"}', "Sorry, the service is offline.", "It is sunny.", True),
        ('{"error": "offline"}', "Sorry, the service is offline.", "The service has a problem.", False),
        ("nobody found", "I could not find anyone.", "Here is Ann.", True),
        ('{"errors": 0}', "All went well.", "All is well.", False),
    ],
)
def test_denying_a_result_and_claiming_a_missing_one_contradict_it(
    observation: str, expected: str, answer: str, contradicts: bool
) -> None:
    turn = Turn("?", (Step(Call("t", {}), observation),), expected)
    assert grounding.contradicts(turn, answer) is contradicts


@pytest.mark.parametrize(("answer", "ignores"), [("It has Ribeira.", False), ("Here you are!", True)])
def test_an_answer_takes_up_something_of_the_result(answer: str, ignores: bool) -> None:
    assert grounding.ignores(STAY, answer) is ignores


@pytest.mark.parametrize(
    ("query", "answer", "ignores"),
    [
        ("Events on 2025-05-07?", "On 2025-05-07 you have 5.", False),
        ("Events on 2025-05-07?", "There you are: 2025-05-07.", True),
        ("5月7日有什么活动？", "5月7日有5项。", False),
        ("Events at 05:30?", "5 of them.", False),
        ("My 5 events?", "All 5 of them.", True),  # only said back
    ],
)
def test_a_number_in_a_date_of_the_query_is_no_other_number(query: str, answer: str, ignores: bool) -> None:
    turn = Turn(query, (Step(Call("t", {}), '{"count": 5, "first": "Drill"}'),), "There are 5, first the Drill.")
    assert grounding.ignores(turn, answer) is ignores
