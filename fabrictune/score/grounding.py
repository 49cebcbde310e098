"""Is an answer true to what was told: what can be checked of its text without another model.

It must state no number, name or URL that nobody told it, must not deny a result that it got or claim one that it did
not get, and must take up something of the last result. Where a person could see it either way, the answer passes.
A model may write anything, of any length: time is linear in it, and what comes after CHARACTERS is not read.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from decimal import ROUND_HALF_UP, Decimal

from fabrictune import protocol
from fabrictune.dialogue import Attempt, Dialogue, Json, Turn
from fabrictune.score.likeness import CHARACTERS, words

DENIAL = re.compile(
    r"\b(?:can ?not|can't|could not|couldn't)\s{1,9}(?:\w{1,20}ly\s{1,9})?(?:access|answer|assist|book|check|complete"
    r"|determine|display|do|fetch|find|get|give|help|look|obtain|perform|process|provide|retrieve|see|show|tell)\b"
    r"|\b(?:unable|not able) to\b|\bfailed to\b|\b(?:do not|don't) have (?:access|any|the|enough|real)\b"
    r"|\bno (?:results?|information|data) (?:was|were|is|are|found|available)\b|\b(?:was|were) not found\b"
    r"|无法|不能(?:获取|查询|查到|提供|显示|展示|找到|完成|帮)|没能|未能|没有(?:找到|查到|获取|查询到|相关)|未找到|未查到"
    r"|查不到|找不到|获取不到|(?:获取|查询|调用|预订|操作)失败",
    re.IGNORECASE,
)
# Any way of saying that something went wrong; far wider than DENIAL, because it must let every honest answer pass.
TROUBLE = re.compile(
    r"\b(?:no|not|none|can ?not|unable|sorry|unfortunately|invalid|unavailable|missing|timed? ?out|unknown)\b|n't\b"
    r"|fail|error|problem|issue|wrong|down\b|again|later|失败|错误|出错|异常|无法|不能|不到|不可用|没|未|抱歉|不存在|无效|超时|稍后|问题",
    re.IGNORECASE,
)
FAILED = re.compile(
    r"error|fail|time[d-]? ?out|unavailable|invalid|not found|refused|失败|错误|出错|异常|超时|不存在|无效|不可用",
    re.IGNORECASE,
)
# An expected answer that turns the user down, and an answer that says that the thing is done. What is found in no
# result cannot be told from talk, so only plain words of completion count.
REFUSAL = re.compile(
    rf"{DENIAL.pattern}|\b(?:can ?not|can't)\b|\bno (?:tool|way|means|function)\b|\b(?:do not|don't) have\b"
    r"|不能|没有[^，。]{0,20}(?:工具|功能|办法)|没办法|办不了|做不到|不支持",
    re.IGNORECASE,
)
CLAIM = re.compile(
    r"\b(?:is|are|was|were|been|I've|I have)\s{1,9}(?:(?:all|now|already|just|successfully)\s{1,9}){0,2}"
    r"(?:added|arranged|booked|cancelled|canceled|changed|completed|confirmed|created|deleted|done|ordered|paid|placed"
    r"|removed|reserved|saved|scheduled|sent|submitted|translated|turned|updated)\b|^\s{0,9}done\b|\bsuccessfully\b"
    r"|已(?:经)?(?:成功)?(?:为您|帮您|给您|为你|帮你|给你)?(?:成功)?(?:预订|预定|预约|订好|下单|发送|添加|取消|完成|创建|支付|保存|提交)"
    r"|(?:预订|预定|预约|下单|发送|添加|取消|创建|支付|设置)成功",
    re.IGNORECASE,
)
CUT_WORD = re.compile(r"[^\s\u3400-\u9fff(\[\"'*]+\Z")
URL = re.compile(r"https?://[^\s()\[\]<>\"'`，。；、）】》“”]+")
# A dash is a sign unless it joins two things, as in 2024-05-01, A-1001, 3℃-5℃ and 3度-5度.
NUMBER = re.compile(
    r"(?<![A-Za-z0-9_.)℃°%])(?<!\d[\u3400-\u9fff])-\d[\d,]*(?:\.\d+)?"
    r"|\d+(?:,\d{3}){0,9}(?!,?\d)(?:\.\d+)?|\d+(?:\.\d+)?"
)
DIGITS = 40  # a longer number is compared by its first digits: Decimal's hash of a million digits takes seconds
CLOCK = re.compile(r"\b(1[3-9]|2[0-3]):[0-5]\d")
DATE = re.compile(
    r"\b\d{4}[-/.年]\d{1,2}[-/.月]\d{1,2}|\b\d{1,2}:\d{2}(?::\d{2})?|\d{1,2}月\d{1,2}|\b\d{1,2}[/.]\d{1,2}[/.]\d{2,4}"
)
LIST_MARKER = re.compile(r"^[ \t]*(?:[#>*-]{1,6}[ \t]{0,9})?\d{1,3}[.)、．](?:\s|\Z)", re.MULTILINE)
MINUS = re.compile(r"minus|below|negative|零下|负", re.IGNORECASE)
WORD = re.compile(r"[a-z][a-z'-]{2,}[a-z]", re.IGNORECASE)
CJK = re.compile(r"[\u3400-\u9fff]{2,}")
# A18, P-77, TK-201: capitals, then digits. What begins in lower case (mid-2024, top-10) or with a digit (5G) is none.
IDENTIFIER = re.compile(r"(?<![A-Za-z0-9-])[A-Z]{1,6}-?\d[A-Z0-9]{0,30}(?:-[A-Z0-9]{1,30}){0,4}(?![A-Za-z0-9])")
TITLE = re.compile(r"《[^《》\n]{1,60}》|「[^「」\n]{1,60}」")
# A quotation is a name unless it is something to say, to type or to press.
QUOTED = re.compile(r"(?<![说答复入击择按送诉])“[^“”\n]{2,20}”")
GAP = re.compile(r"[\s_·・,，.。!！?？:：'’\"-]+")
# A word and what comes between two of them; `end` begins a sentence, a label or a quotation, whose first word has a
# capital for that.
PIECE = re.compile(
    r"(?P<word>[^\W\d_\u3400-\u9fff](?:[^\W\u3400-\u9fff]|['’-](?=[^\W\d_]))*)"
    r"|(?P<end>[.!?:;…。！？：；()\[\]{}<>\"“”‘*_#|/=•–—`\n]|-\s)|(?P<comma>,)|(?P<other>[^\s])"
)
LOWER = re.compile(r"(?<![\w'’-])[a-z]{2}")
LABEL = re.compile(r"^[^:\n]{1,40}:", re.MULTILINE)
# Words that stand with a capital inside a sentence and name nothing that would have to be told.
_COMMON = """
account address african afternoon agent all always american amount and answer any api apis app apr april aqi arabic
are arrival asian assistant atm aug august author autumn avenue balance best bmi booking british bst but can
category cbd celsius ceo cet chinese christmas city cny code color colour company confirmation cost country cpu
currency customer daily date dates day days dear dec december delivery departure destination detail details distance
dna done duration dvd east easter eastern edt email english enjoy error est eur european evening event events
fahrenheit faq fax feb february fee flight flights for forecast french fri friday from gate gbp german gmt god good
google gps gpu great guest happy hdd height hello here high highs hotel hotels hour hours how html http https
humidity image images info information internet invoice italian item items jan january japanese jpg jpy json jul
july jun june kelvin korean ktv latin lcd led length level link links low lows madam mandarin map mar march may
meeting meetings minute minutes miss mon monday month monthly months morning mr mrs ms must name names never new
night north northern not note notes nov november now number numbers oct october only order orders origin our out
package page parcel payment pdf pdt phone photo picture platform please png price prices product products pst
quantity rain ram rate rating reference reminder reservation result results rmb road roman room rooms russian sat
saturday score seat seats second seconds sep sept september service share shares shipping sir size sky sms snow
sorry south southern spanish spring ssd status stock street success successful summary summer sun sunday support
sure symbol system task tasks tax team tel temperature terminal thank thanks that the there this thu thur thurs
thursday ticket tickets time times title today tomorrow tool tools total totals tracking train trains transfer tue
tues tuesday type url urls usb usd user utc very vip warning weather web website wed wednesday week weekly weeks
weight welcome west western what when where which who why width wifi wikipedia will wind winter with wlan year years
yes yesterday you your yours
"""
COMMON = frozenset(_COMMON.split())


def told(
    dialogue: Dialogue, number: int, attempts: Sequence[Attempt] = (), *, with_expected_answer: bool = True
) -> str:
    """All that the answer of turn `number` (from 0) may draw on: the system text, what was said and returned up to
    then, the calls made, by the record and by a model's `attempts`, and the expected answer. The length of a list in
    a result is told with it, as is the number of tools."""
    turns = dialogue.turns[: number + 1]
    lang = protocol.language(*(turn.query for turn in turns))
    texts = [protocol.system_text(dialogue.tools, dialogue.instruction, dialogue.knowledge, lang), *turns[-1].files]
    texts.append(str(len(dialogue.tools)))
    answers = [turn.answer for turn in turns]
    texts += answers if with_expected_answer else answers[:-1]
    for turn in turns:
        texts.append(turn.query)
        for step in turn.steps:
            texts += [*_readable(step.observation), json.dumps(step.call.arguments, ensure_ascii=False)]
    for attempt in attempts:
        texts += [*_readable(attempt.observation[:CHARACTERS]), _readable(attempt.text[:CHARACTERS])[0]]
    return "\n".join(texts)


def whole_words(answer: str, told: str) -> str:
    """An answer that a bound cut off, without a last word that may be the beginning of one told: DV-38 of DV-385."""
    cut = CUT_WORD.search(answer[-200:])
    return answer[: -len(cut[0])] if cut and cut[0].lower() in told.lower() else answer


def unfounded(answer: str, told: str) -> str | None:
    """The first URL, number, identifier or name of the answer that does not occur in what was told, None if all do."""
    return next(_unfounded(answer[:CHARACTERS], told), None)


def asks_for_knowledge(dialogue: Dialogue, number: int) -> bool:
    """Whether the expected answer of a turn without a call says what nobody told, so that any answer must."""
    turn = dialogue.turns[number]
    if turn.steps:
        return False
    return unfounded(turn.answer, told(dialogue, number, with_expected_answer=False)) is not None


def contradicts(turn: Turn, answer: str) -> bool:
    """Whether the answer denies a result, or claims one where the expected answer tells of a failure."""
    answer = answer[:CHARACTERS]
    failed = DENIAL.search(turn.answer) or (FAILED.search(turn.steps[-1].observation) and TROUBLE.search(turn.answer))
    return not TROUBLE.search(answer) if failed else bool(DENIAL.search(answer))


def ignores(turn: Turn, answer: str) -> bool:
    """Whether the answer takes up nothing of the last result although the expected answer does."""
    dates = set(DATE.findall(turn.query))  # their numbers are no others': the 05 of a date is no count of 5

    def marks(text: str) -> set[object]:
        return _marks(DATE.sub(lambda match: " " if match[0] in dates else match[0], text))

    news = marks(_readable(turn.steps[-1].observation)[0]) - marks(turn.query)
    return bool(news & marks(turn.answer)) and not news & marks(answer[:CHARACTERS])


def claims(turn: Turn, answer: str) -> bool:
    """Whether the answer says that something was done where the expected one says that it cannot be."""
    answer = answer[:CHARACTERS]
    return bool(REFUSAL.search(turn.answer) and CLAIM.search(answer)) and not TROUBLE.search(answer)


def repeats(answer: str, messages: Iterable[str]) -> bool:
    """Whether the answer is one of the messages, once or again and again, but for case, blanks and punctuation.

    Three words and less, such as "Good morning!", may well be said back.
    """
    said = "".join(words(answer[:CHARACTERS]))
    heard = [spoken for message in messages if len(spoken := words(message)) > 3]
    return any(said and not said.replace("".join(spoken), "") for spoken in heard)


def _unfounded(answer: str, told: str) -> Iterator[str]:
    urls = set(_urls(told))
    yield from (url for url in _urls(answer) if url not in urls)
    prose = LIST_MARKER.sub("", URL.sub(" ", answer)).replace("24/7", " ")
    yield from _strange_numbers(prose, told)
    folded = _fold(told)
    compact = GAP.sub("", folded)
    yield from (name for name in IDENTIFIER.findall(prose) if GAP.sub("", name.lower()) not in compact)
    if protocol.has_chinese(answer):
        yield from _strange_titles(prose, compact)
    elif not protocol.has_chinese(told):  # what was told in Chinese has another name in English
        yield from _strange_names(prose, folded)


# Numbers


def _strange_numbers(prose: str, told: str) -> Iterator[str]:
    """The numbers that were not told, however they are written."""
    known = set(_numbers(told)) | set(_numbers(told.replace(",", " ")))
    known |= {rewritten for number in known for rewritten in _rewritten(number)}
    known |= {Decimal(hour) - 12 for hour in CLOCK.findall(told)}
    if MINUS.search(prose):
        known |= {number.copy_negate() for number in known}
    return (text for text in NUMBER.findall(prose) if not _is_known(text, known))


def _rewritten(number: Decimal) -> Iterator[Decimal]:
    """What a decimal fraction is rounded to, and the percentage that it is."""
    places = -int(number.as_tuple().exponent)
    if 0 < places <= 12 and len(number.as_tuple().digits) < 20:
        yield from (number.quantize(Decimal(1).scaleb(-kept), ROUND_HALF_UP) for kept in range(places))
        if abs(number) < 1:
            yield number * 100


def _is_known(text: str, known: set[Decimal]) -> bool:
    """1,234 may be one number or two."""
    return _value(text) in known or ("," in text and all(_value(part) in known for part in text.split(",") if part))


def _numbers(text: str) -> list[Decimal]:
    return [_value(match) for match in NUMBER.findall(text)]


def _value(text: str) -> Decimal:
    return Decimal(text.replace(",", "")[:DIGITS])


# Names


def _strange_names(prose: str, told: str) -> Iterator[str]:
    """The capitalised words inside sentences that `told`, in lower case, does not hold.

    A name behind a comma and another name says more about that one, as in "Oslo, Norway", which is no invention.
    """
    lines = "\n".join(line for line in prose.splitlines() if LOWER.search(line))  # a heading has none
    before = "end"
    for piece in PIECE.finditer(LABEL.sub(":", lines)):
        word = piece["word"]
        if word and word[0].isupper():
            if before not in ("end", "apposition") and not _is_told(word, told):
                yield word
            before = "name"
        elif piece["comma"] and before == "name":
            before = "apposition"
        elif before != "apposition" or not word:
            before = "end" if piece["end"] else "word"


def _is_told(word: str, told: str) -> bool:
    """Whether a name or a part of it was told, in whatever case and number, or is a common word or a short one."""
    parts = [part for part in re.split(r"['’-]", _fold(word)) if len(part) > 2]
    return not parts or any(
        part in COMMON or part in told or (len(part) > 4 and part.removesuffix("s").removesuffix("e") in told)
        for part in parts
    )


def _strange_titles(prose: str, told: str) -> Iterator[str]:
    """The Chinese names in marks that `told`, without blanks and punctuation, does not hold.

    A title is allowed the words of a translator: half of its pairs of characters must have been told. A quotation may
    be anything but a name, and is strange only where it shares nothing.
    """
    for pattern, share in ((TITLE, 0.5), (QUOTED, 0.01)):
        for match in pattern.finditer(prose):
            pairs = _pairs(match[0])
            if pairs and sum(pair in told for pair in pairs) < share * len(pairs):
                yield match[0]


def _fold(text: str) -> str:
    """In lower case and without accents."""
    return "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char)).lower()


# What a text is about


def _marks(text: str) -> set[object]:
    """What a text can be recognised by: URLs, numbers, words of four letters and more, pairs of Chinese characters."""
    return {*_urls(text), *_numbers(text), *(word.lower() for word in WORD.findall(text)), *_pairs(text)}


def _pairs(text: str) -> list[str]:
    return [run[at : at + 2] for run in CJK.findall(text) for at in range(len(run) - 1)]


def _urls(text: str) -> list[str]:
    return [url.rstrip(".,;:!?*_") for url in URL.findall(text)]


def _readable(observation: str) -> tuple[str, str]:
    """The observation with JSON's escapes undone, which hide words and URLs, and the lengths of its lists."""
    try:
        value = json.loads(observation)
        return json.dumps(value, ensure_ascii=False), " ".join(map(str, _lengths([value])))
    except (ValueError, RecursionError):
        return observation, ""


def _lengths(values: Iterable[Json]) -> Iterator[int]:
    for value in values:
        if isinstance(value, list):
            yield len(value)
        if isinstance(value, list | dict):
            yield from _lengths(value.values() if isinstance(value, dict) else value)
