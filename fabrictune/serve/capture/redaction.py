"""Personal data in a JSON value -> placeholders such as <phone-1>; the same data, the same placeholder.

Found are e-mail addresses, phone numbers (of China as they are dialled there, of other countries with their `+`),
Chinese identity numbers, payment cards, and keys to services. Not found are names, addresses, IP addresses (four
numbers may as well be a version), and whatever else no pattern tells.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from phonenumbers import Leniency, PhoneNumberFormat, PhoneNumberMatcher, PhoneNumberType, format_number, number_type
from stdnum import luhn
from stdnum.cn import ric

from fabrictune.dialogue import Json

REGION = "CN"  # of numbers that are written without a country's
SHORTEST_SECRET = 8  # what clients send as a key where none is needed ("EMPTY", "x") may stand in any text
HIDDEN = "***"

Found = tuple[int, int, str]  # start, end, and what of it two spellings share

_EMAIL = re.compile(r"(?<![\w.%+-])[A-Za-z0-9_][\w.%+-]*@(?!\d+x\.)(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}(?![\w-])", re.ASCII)
_KEY = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"sk-[A-Za-z0-9_-]{16,}|(?:AKIA|ASIA)[0-9A-Z]{16}|LTAI[0-9A-Za-z]{12,26}|AIza[0-9A-Za-z_-]{35}"
    r"|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}|hf_[A-Za-z0-9]{30,}|xox[abposr]-[A-Za-z0-9-]{10,}"
    r"|eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----"
    r")(?![A-Za-z0-9])",
    re.DOTALL,
)
_BEARER = re.compile(r"(?<![A-Za-z])[Bb]earer +([A-Za-z0-9._~+/-]{8,}=*)")
_IDENTITY = re.compile(r"(?<![A-Za-z0-9_.])\d{17}[\dXx](?!\.\d|[A-Za-z0-9_])", re.ASCII)
_CARD = re.compile(r"(?<![A-Za-z0-9_.])(?<!\d[ -])\d(?:[ -]?\d){12,18}(?!\.?\d|[ -]\d|[A-Za-z_])", re.ASCII)
# Visa, Mastercard, American Express, JCB, UnionPay and Discover, by first digits and length (ISO/IEC 7812).
_ISSUED = re.compile(
    r"4\d{12}(?:\d{3})?(?:\d{3})?|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|35\d{14}|6[025]\d{14,17}", re.ASCII
)
_DIGITS = re.compile(r"\d(?:[^\dA-Za-z]{0,4}\d){6}", re.ASCII)
_DECIMAL = re.compile(r"\d+\.\d+", re.ASCII)
_FRACTION = re.compile(r"\.\d", re.ASCII)
_BRACKETS = dict(zip("([（［", ")]）］", strict=True))
_LANDLINE = re.compile(r"\(?0\d{2,3}\)?[ -]\d|[48]00[ -]\d", re.ASCII)

# An escape within JSON text is no part of the word that follows it: \n, or 电 as \u7535.
_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{4}|[nrtbf\"/\\])")
# A number as a value of JSON or JSON5 text, whose placeholder needs quotes: behind a key, or in a list.
_GAP = r"(?:\s|\\[nrt])*"  # within a string, JSON text's line breaks are escapes
_BEFORE_VALUE = re.compile(
    rf"(?:(?P<quote>\\*[\"']){_GAP}:{_GAP}|(?P<key>[{{,]{_GAP}[^\W\d][\w$]*{_GAP}:{_GAP})|[\[,]{_GAP})\Z"
)
_AFTER_VALUE = re.compile(_GAP + r"[,}\]]")
_LOOK_BACK = 200  # characters, from a number to its key's end
_MARK = re.compile(r'\\.|["\[\]{}\n]', re.DOTALL)


class Redactor:
    """Redacts values one after another; the same data has the same placeholder in all of them.

    The numbers follow the order of appearance, which in an object's keys counts, too. A text that is a JSON
    object or list stays one, and a whole number that is a phone number becomes a string.
    """

    def __init__(self) -> None:
        self._names: dict[tuple[str, str], str] = {}

    def __call__(self, value: Json) -> Json:
        return _mapped(value, lambda text: _with_names(text, self._name))

    def _name(self, kind: str, told: str) -> str:
        count = sum(known == kind for known, _ in self._names) + 1
        return self._names.setdefault((kind, told), f"<{kind}-{count}>")


def without(value: Json, secrets: Iterable[str]) -> Json:
    """The value with *** for each of the secrets of at least 8 characters."""
    # A secret may hold another.
    worth = sorted((secret for secret in secrets if len(secret) >= SHORTEST_SECRET), key=len, reverse=True)
    if not worth:
        return value
    pattern = re.compile("|".join(map(re.escape, worth)))
    return _mapped(value, lambda text: pattern.sub(HIDDEN, text))


def _mapped(value: Json, change: Callable[[str], str]) -> Json:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_mapped(one, change) for one in value]
    if isinstance(value, dict):
        return {change(key): _mapped(one, change) for key, one in value.items()}
    if type(value) is int and (text := change(str(value))) != str(value):
        return text
    return value


def _with_names(text: str, name: Callable[[str, str], str]) -> str:
    found = sorted(_found(text))
    parts, at = [], 0
    for (start, end, kind, told), (is_string, bracket) in zip(found, _surroundings(text, found), strict=True):
        placeholder = name(kind, told)
        begin = start - (text[max(0, start - 1)] == "-")  # a minus, where the number is a value
        if quote := _quote(text, begin, end, is_string, bracket):
            placeholder, start = f"{quote}{text[begin:start]}{placeholder}{quote}", begin
        parts += [text[at:start], placeholder]
        at = end
    return "".join([*parts, text[at:]])


def _surroundings(text: str, found: Sequence[tuple[int, int, str, str]]) -> Iterator[tuple[bool, str]]:
    """For each find, were the text JSON: whether it is within a string, and the bracket that is open around it."""
    marks = _MARK.finditer(text) if found else iter(())
    mark = next(marks, None)
    is_string, outside, inside = False, [""], [""]
    for start, *_ in found:
        while mark and mark.start() < start:
            brackets = inside if is_string else outside
            if mark[0] in "[{":
                brackets.append(mark[0])
            elif mark[0] in "]}" and len(brackets) > 1:
                brackets.pop()
            elif mark[0] in '"\n':  # no string has a line's end in it
                is_string, inside = mark[0] == '"' and not is_string, [""]
            mark = next(marks, None)
        yield is_string, (inside if is_string else outside)[-1]


def _quote(text: str, start: int, end: int, is_string: bool, bracket: str) -> str:
    """What quotes a placeholder in the place of the number: "" where that is no value of JSON or JSON5 text."""
    before = _BEFORE_VALUE.search(text, max(0, start - _LOOK_BACK), start)
    if not before or text[start] not in "+-0123456789" or not _AFTER_VALUE.match(text, end):
        return ""
    if not before["quote"] and bracket != ("{" if before["key"] else "["):
        return ""
    quote = before["quote"] or '"'
    # Of the backslashes before it, one that a string within n strings ends in makes 2^(n+1), the quote's own are 2^n-1.
    slashes = len(quote) - 1
    quote = "\\" * (slashes & ~(slashes + 1)) + quote[-1]
    return '\\"' if is_string and quote == '"' else quote


def _found(text: str) -> Iterator[tuple[int, int, str, str]]:
    """(start, end, kind, what two spellings share) of all that is personal; no two overlap."""
    scanned = _ESCAPE.sub(lambda escape: " " * len(escape[0]), text)
    for kind, find in _FINDERS.items():
        for start, end, told in list(find(scanned)):
            scanned = scanned[:start] + " " * (end - start) + scanned[end:]
            yield start, end, kind, told


def _keys(text: str) -> Iterator[Found]:
    for match in _KEY.finditer(text):
        yield *match.span(), match[0]
    for match in _BEARER.finditer(text):
        if not _KEY.search(match[1]):
            yield *match.span(1), match[1]


def _emails(text: str) -> Iterator[Found]:
    for match in _EMAIL.finditer(text) if "@" in text else ():
        yield *match.span(), match[0].casefold()


def _identities(text: str) -> Iterator[Found]:
    for match in _IDENTITY.finditer(text):
        if ric.is_valid(match[0]):
            yield *match.span(), match[0].upper()


def _cards(text: str) -> Iterator[Found]:
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        if _ISSUED.fullmatch(digits) and luhn.is_valid(digits):
            yield *match.span(), digits


def _phones(text: str) -> Iterator[Found]:
    if not _DIGITS.search(text):  # most texts, which the library would take its time for
        return
    for match in PhoneNumberMatcher(text, REGION, leniency=Leniency.VALID, max_tries=len(text)):
        start, written = match.start, match.raw_string
        while written[0].isspace() or _BRACKETS.get(written[0], written[0]) not in written:  # it is around the number
            start, written = start + 1, written[1:]
        if _DECIMAL.fullmatch(written) or _FRACTION.match(text, match.end):
            continue
        # Ten digits in a row would be a landline without its 0, but are an order's number far more often.
        if written.startswith("+") or number_type(match.number) == PhoneNumberType.MOBILE or _LANDLINE.match(written):
            yield start, match.end, format_number(match.number, PhoneNumberFormat.E164)


_FINDERS: dict[str, Callable[[str], Iterator[Found]]] = {
    "key": _keys,
    "email": _emails,
    "identity": _identities,
    "card": _cards,
    "phone": _phones,
}
