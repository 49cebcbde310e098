"""The card shows every number and text it was given, escaped, on a page that needs nothing from elsewhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from fabrictune.convert.card import Card, RejectKind, Sample, SourceCard, render
from fabrictune.convert.histogram import Histogram, Lengths
from fabrictune.dialogue import Call, Dialogue, Exchange, Message, Role, Span, Step, Tool, Turn

VOID = {"meta", "br", "link", "img", "input", "hr"}
SCRIPT = "<script>alert('x')</script>"


@dataclass
class Node:
    tag: str
    attributes: dict[str, str | None] = field(default_factory=dict)
    children: list[Node | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    @property
    def all(self) -> list[Node]:
        below = [node for child in self.children if isinstance(child, Node) for node in child.all]
        return [self, *below]

    def find(self, name: str) -> list[Node]:
        """The elements below with this tag, or with this class if `name` starts with a dot."""
        if name.startswith("."):
            return [node for node in self.all if name[1:] in (node.attributes.get("class") or "").split()]
        return [node for node in self.all if node.tag == name]


class Tree(HTMLParser):
    """Builds the tree of a page; fails where an element is closed that is not open."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Node("page")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        node = Node(tag, dict(attrs))
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Node(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parsed(page: str) -> Node:
    tree = Tree()
    tree.feed(page)
    tree.close()
    assert [node.tag for node in tree.open] == ["page"]
    return tree.open[0]


def counted(values: list[int]) -> Lengths:
    lengths = Lengths()
    for value in values:
        lengths.add(value)
    return lengths


def a_source(name: str = "mine", lengths: Histogram | None = None, **values: object) -> SourceCard:
    given: dict = {
        "kind": "ms_agent",
        "place": "data/mine.jsonl",
        "role": "train and test",
        "rows_read": 30488,
        "dialogues": 30183,
        "exchanges": 91234,
        "rejected": 305,
        "not_drawn": 1207,
        "not_used": 411,
        "held_back": 97,
        "long": 412,
        "train": 29881,
        "test": 302,
    }
    return SourceCard(name=name, lengths=lengths or counted([3, 700, 700, 2500]).histogram("tokens"), **given | values)


def a_dialogue(**values: object) -> Dialogue:
    weather = Tool(
        "weather",
        "Tells the weather.",
        {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Name of the city"},
                "days": {"type": "integer", "enum": [1, 3]},
            },
            "required": ["city"],
        },
    )
    step = Step(Call("weather", {"city": "Oslo", "days": 3}), '{"sky": "clear"}', "I look it up.")
    turns = (Turn("Weather in Oslo?", (step,), "Clear sky."), Turn("Thanks!", (), "You're welcome."))
    return Dialogue(**{"id": "mine/7", "tools": (weather,), "turns": turns, "family": "weather"} | values)


def an_exchange(messages: list[tuple[str, str]], reply: list[Span], turn: int = 0) -> Exchange:
    return Exchange("mine/7", turn, 0, "mine", tuple(Message(*one) for one in messages), tuple(reply))


def a_sample(dialogue: Dialogue | None = None, *exchanges: Exchange) -> Sample:
    some = (an_exchange([("system", "\nBe brief."), ("user", "Weather in Oslo?")], [Span("Clear.", "answer")]),)
    return Sample(dialogue or a_dialogue(), "mine", exchanges or some)


def a_card(**values: object) -> Card:
    given: dict = {
        "title": "glaive/main",
        "written": "2025-11-22 17:30",
        "format": "agentfabric",
        "max_length": 2048,
        "long": "drop",
        "sources": (a_source(),),
        "languages": {"zh": 8123, "en": 1877},
        "tools_per_dialogue": {1: 6011, 3: 3989},
        "calls_per_turn": {0: 4321, 1: 8642, 2: 77},
        "rejects": (RejectKind("mine", "no JSON", 305, "data/mine.jsonl", 17),),
        "samples": (a_sample(),),
        "totals": {"train dialogues": 29881, "test dialogues": 302},
    }
    return Card(**given | values)


# The page


def test_every_number_given_appears() -> None:
    card = a_card(sources=(a_source(), a_source("second", rows_read=77001, rejected=3001)))
    body = parsed(render(card)).find("body")[0]
    text = body.text
    pieces = [child for node in body.all for child in node.children if isinstance(child, str)]
    shown = {number for piece in pieces for number in re.findall(r"[\d,.]*\d", piece)}
    for source in card.sources:
        lengths = source.lengths
        for number in (*list(vars(source).values())[4:-1], *lengths.counts, lengths.p50, lengths.p95, lengths.max):
            assert f"{number:,}" in shown
        assert f"{lengths.mean:,.1f}" in shown
    for counts in (card.languages, card.tools_per_dialogue, card.calls_per_turn, card.totals):
        for label, number in counts.items():
            assert f"{number:,}" in shown and str(label) in text
    for word in (card.title, card.written, card.format, card.long, "2,048", "no JSON", "data/mine.jsonl:17"):
        assert word in text
    assert f"{30488 + 77001:,}" in shown  # the sum over the sources


def test_nothing_on_the_page_comes_from_elsewhere_or_runs() -> None:
    link = "![image](http://elsewhere.example/x.png)"
    dialogue = a_dialogue(turns=(Turn(link, (), link),), instruction=link, knowledge=link)
    page = render(a_card(samples=(a_sample(dialogue),)))
    tree = parsed(page)
    for node in tree.all:
        assert node.tag not in {"script", "link", "img", "iframe", "object", "base", "form"}
        for name, value in node.attributes.items():
            assert not name.startswith("on")
            if name in {"src", "href", "xlink:href", "action", "data", "srcset", "poster"}:
                assert (value or "").startswith("#")
            elif not name.startswith("xmlns"):
                assert "://" not in (value or "")
    styles = "".join(node.text for node in tree.find("style")) + "".join(
        str(node.attributes.get("style")) for node in tree.all
    )
    assert "@import" not in styles and set(re.findall(r"url\((.)", styles)) <= {"#"}
    policy = [node.attributes["content"] for node in tree.find("meta") if "http-equiv" in node.attributes]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_markup_in_any_text_is_shown_and_never_obeyed() -> None:
    schema = {SCRIPT: {"type": SCRIPT, "description": SCRIPT, "enum": [SCRIPT]}}
    tool = Tool(SCRIPT, SCRIPT, {"type": "object", "properties": schema, "required": [SCRIPT]})
    step = Step(Call(SCRIPT, {SCRIPT: SCRIPT}), SCRIPT, SCRIPT)
    turns = (
        Turn(SCRIPT, (step, replace(step, observation=SCRIPT * 40)), SCRIPT, files=(SCRIPT,)),
        Turn(SCRIPT, (), "", pending=(replace(step, observation=""),)),
    )
    dialogue = Dialogue(SCRIPT, (tool,), turns, Role(SCRIPT, SCRIPT, (SCRIPT,)), SCRIPT, SCRIPT)
    exchange = an_exchange([(SCRIPT, SCRIPT)], [Span(SCRIPT)])
    card = a_card(
        title=SCRIPT,
        written=SCRIPT,
        format=SCRIPT,
        long=SCRIPT,
        sources=(a_source(SCRIPT, kind=SCRIPT, place=SCRIPT, role=SCRIPT),),
        languages={SCRIPT: 1},
        rejects=(RejectKind(SCRIPT, SCRIPT, 1, SCRIPT, 1),),
        samples=(Sample(dialogue, SCRIPT, (exchange,)),),
        totals={SCRIPT: 1},
    )
    page = render(card)
    tree = parsed(page)
    assert not tree.find("script") and "<script" not in page
    assert {node.tag for node in tree.all} == {node.tag for node in parsed(render(replace(card, title="plain"))).all}
    # Of a sample: query twice, file, name of call thrice, arguments thrice with two each, and so on; none is missing.
    assert tree.find("article")[0].text.count(SCRIPT) > 40 + 20
    assert tree.find(".result")[0].find(".code")[0].text == SCRIPT


def test_svgs_are_well_formed_and_their_ids_unique_on_the_page() -> None:
    sources = (a_source(), a_source("手工数据"), a_source("a<b>&\"c'"))
    page = render(a_card(sources=sources))
    svgs = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(svgs) == 5
    assert all(ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg" for svg in svgs)
    ids = Counter(re.findall(r' id="([^"]*)"', page))
    assert max(ids.values()) == 1
    assert set(re.findall(r'xlink:href="#([^"]*)"|url\(#([^)]*)\)', page)) <= {(one, "") for one in ids} | {
        ("", one) for one in ids
    }


def test_a_chart_has_a_bar_for_each_interval_and_names_max_length_only_for_tokens() -> None:
    lengths = counted([10, 20, 30, 40]).histogram("tokens")
    page = render(a_card(sources=(a_source(lengths=lengths),), max_length=35))
    chart = re.findall(r"<svg.*?</svg>", page, re.DOTALL)[0]
    assert "max_length 35" in chart
    bars = re.findall(r"fill: (#4f86d9|#e0763a)", chart)
    assert len(bars) == len(lengths.counts)
    assert bars.count("#e0763a") == sum(edge >= 35 for edge in lengths.edges[:-1]) > 0
    page = render(a_card(sources=(a_source(lengths=replace(lengths, unit="characters")),), max_length=35))
    chart = re.findall(r"<svg.*?</svg>", page, re.DOTALL)[0]
    assert "max_length" not in chart and "#e0763a" not in chart


def test_the_same_card_gives_the_same_page() -> None:
    assert render(a_card()) == render(a_card())


@pytest.mark.parametrize("sources", [(), (a_source(lengths=Histogram("tokens"), rows_read=0),)])
def test_a_card_of_nothing_says_so(sources: tuple[SourceCard, ...]) -> None:
    card = a_card(
        sources=sources, languages={}, tools_per_dialogue={}, calls_per_turn={}, rejects=(), samples=(), totals={}
    )
    page = render(card)
    text = parsed(page).text
    assert "<svg" not in page
    for words in ("None: every row read could be converted.", "no turns", "no dialogues", "There is none to show."):
        assert words in text
    assert text.count("no exchange to measure") == len(sources)


def test_a_name_that_is_no_utf8_does_not_stop_the_page() -> None:
    page = render(a_card(sources=(a_source(place="data/\udcff.jsonl"),)))
    assert r"data/\udcff.jsonl" in page
    page.encode("utf-8")


# Samples


def test_a_sample_is_shown_as_a_reader_would_want_to_see_it() -> None:
    ping = Tool("ping", "Answers.", {"type": "object", "properties": {}, "required": []})
    pending = Turn("Again", (), "", pending=(Step(Call("ping", {}), "", "One moment."),))
    turns = a_dialogue().turns
    long_result = replace(turns[0].steps[0], observation="cloudy\n" * 60)
    dialogue = a_dialogue(
        tools=(*a_dialogue().tools, ping),
        turns=(replace(turns[0], steps=(*turns[0].steps, long_result), files=("plan.xlsx",)), *turns[1:], pending),
        instruction=Role("Wetterfrosch", "Knows the weather.", ("forecasts", "warnings")),
        knowledge="Chapter one",
    )
    article = parsed(render(a_card(samples=(a_sample(dialogue),)))).find("article")[0]
    assert [node.find(".words")[0].text for node in article.find(".user")] == ["Weather in Oslo?", "Thanks!", "Again"]
    assert article.find(".file")[0].text == "plan.xlsx"
    answers = [node.find(".words")[-1].text for node in article.find(".agent")[:2]]
    assert answers == ["Clear sky.", "You're welcome."]
    assert [node.text for node in article.find(".thought")] == ["I look it up.", "I look it up.", "One moment."]
    first, second, third = article.find(".call")
    assert json.loads(first.find(".code")[0].text) == {"city": "Oslo", "days": 3}
    assert (
        first.find(".result")[0].tag == "div" and first.find(".result")[0].find(".code")[0].text == '{"sky": "clear"}'
    )
    assert second.find(".result")[0].tag == "details" and "open" not in second.find(".result")[0].attributes
    assert second.find(".result")[0].find(".code")[0].text == "cloudy\n" * 60
    assert "result not recorded" in third.text and not third.find(".result")
    rows = [[cell.text.strip() for cell in row.find("td")] for row in article.find(".tool")[0].find("tr")[1:]]
    assert rows == [
        ["city", "string", "yes", "Name of the city", ""],
        ["days", "integer", "no", "", '{"enum": [1, 3]}'],
    ]
    folds = article.find(".folds")[0].find("details")
    assert ["open" in fold.attributes for fold in folds] == [False] * 3
    assert "Wetterfrosch" in folds[1].text and "warnings" in folds[1].text and "Chapter one" in folds[2].text


def test_a_plain_dialogue_offers_no_tools_and_an_empty_role_is_said_to_be_empty() -> None:
    dialogue = a_dialogue(tools=(), turns=(Turn("Hello", (), "Hi"),), instruction=Role())
    folds = parsed(render(a_card(samples=(a_sample(dialogue),)))).find(".folds")[0]
    assert not folds.find("details")
    assert [node.text for node in folds.find(".none")] == ["no tools offered", "an empty role"]


def test_the_exact_view_holds_the_very_text_and_marks_its_parts() -> None:
    first = [("system", "\n  Be brief.\n\n"), ("user", 'Say "a" & <b>')]
    second = [("system", "\n  Be brief.\n\n"), ("user", 'Say "a" & <b>, then c\n')]
    reply = [Span("Action:"), Span(" ping", "tool"), Span("\n\n", weight=0.0), Span("{}\n", "arguments", 0.5)]
    sample = a_sample(None, an_exchange(first, reply), an_exchange(second, [Span("Done.", "answer")]))
    article = parsed(render(a_card(samples=(sample,)))).find("article")[0]
    one, two = article.find(".exchange")
    assert [node.text for node in one.find(".bytes")] == [*(text for _, text in first), "Action: ping\n\n{}\n"]
    assert [(node.text, node.attributes["title"]) for node in one.find(".span")] == [
        ("Action:", "said"),
        (" ping", "tool"),
        ("\n\n", "said, loss weight 0.0"),
        ("{}\n", "arguments, loss weight 0.5"),
    ]
    assert [node.text for node in one.find(".zero")] == ["\n\n"]
    assert [len(node.find(".end")) for node in one.find(".span")] == [0, 0, 2, 1]
    strengths = [float(str(node.attributes["style"]).removeprefix("--w:")) for node in one.find(".span")]
    assert strengths[3] > strengths[1] > strengths[0] == strengths[2]
    # What both exchanges share is said once, or dimmed.
    assert [node.text for node in two.find(".bytes")] == [second[1][1], "Done."]
    assert [node.text for node in two.find(".dim")] == [first[1][1]]
    assert "the first message is that of the exchange above" in two.text


def test_characters_that_cannot_be_seen_are_named() -> None:
    exchange = an_exchange([("user", "a\x00b\rc\u200bd\u202ee\ttab\nend")], [Span("ok")])
    article = parsed(render(a_card(samples=(a_sample(None, exchange),)))).find("article")[0]
    shown = article.find(".bytes")[0]
    assert shown.text == "aU+0000bU+000DcU+200BdU+202Ee\ttab\nend"
    assert [node.text for node in shown.find(".hidden")] == ["U+0000", "U+000D", "U+200B", "U+202E"]


@pytest.mark.parametrize("filling", ['"<&天\x00', "word ", "天气"])
def test_ten_huge_samples_stay_below_one_and_a_half_megabytes_and_say_what_is_missing(filling: str) -> None:
    huge = filling * 20_000
    parameters = {"type": "object", "properties": {f"p{i}": {"description": filling} for i in range(900)}}
    tools = tuple(Tool(f"tool{i}", huge, parameters) for i in range(40))
    steps = tuple(Step(Call("tool0", {"x": huge}), huge, huge) for _ in range(150))
    dialogue = a_dialogue(tools=tools, turns=(Turn(huge, steps, huge),) * 120, instruction=huge, knowledge=huge)
    exchanges = [an_exchange([("user", str(i) + huge)] * 200, [Span(huge)] * 50, turn=i) for i in range(20)]
    page = render(a_card(samples=(a_sample(dialogue, *exchanges),) * 10))
    assert len(page.encode()) < 1_500_000
    text = parsed(page).find("article")[0].text
    for words in (
        "characters not shown]",
        "more turns not shown]",
        "more tools not shown]",
        "more exchanges not shown",
    ):
        assert words in text


def test_what_is_cut_is_counted() -> None:
    dialogue = a_dialogue(turns=(Turn("Why?", (), "x" * 10_000),))
    article = parsed(render(a_card(samples=(a_sample(dialogue),)))).find("article")[0]
    answer = article.find(".agent")[0].text
    found = re.search(r"\[the last ([\d,]+) of 10,000 characters not shown\]", answer)
    assert found and answer.count("x") == 10_000 - int(found[1].replace(",", "")) > 5_000


def test_the_card_needs_no_torch() -> None:
    heavy = {"torch", "transformers", "matplotlib.pyplot"}
    code = f"import sys, fabrictune.convert.card; print(sorted({heavy} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
