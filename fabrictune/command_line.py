"""What is typed behind a script's name, made such that Hydra reads paths and names as they are.

Hydra's grammar of overrides knows no characters but ASCII's outside of quotes, and of those it refuses blanks before
brackets, ~, #, &, ' and others. Quotes of the shell do not help, since it takes them off. So a value that cannot be
read gets quotes of Hydra's own here.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

# Hydra's options that take the next word as their value.
_WITH_VALUE = frozenset(
    ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd")
    + ("--info", "-i", "--experimental-rerun")
)
MAIN = "main"  # the variant of a run that is no point of a sweep; a sweep's points share its converted data
# What says how a command is run and not what it makes, and words of one point of a sweep: left out where its other
# words are told to be typed again.
MANNER = ("resume=", "overwrite=", "dry_run=", "variant=", "hydra", "+sweep=", "+cluster=", "compare=", "collect=")
_KEY = re.compile(r"[+~]{0,2}[\w./@:-]+", re.ASCII)
# What forgets its mix most often: the entry of a source of one's own, and the mixes that have it.
_OF_MIXES = {"file": ("files",), "hub": ("huggingface", "modelscope")}
# Words after which a mix may have such an entry although none is chosen.
_MAY_BRING_A_MIX = ("data/mix=", "+experiment=", "+sweep=", "--config-", "-c")
# A list, a mapping, and a function of Hydra's grammar. A name that only begins as they do is one value.
_SEVERAL = re.compile(
    r"\[[^\[\]]*\]|\[\[.*\]\]|\{.*\}|(bool|choice|extend_list|float|glob|int|interval|json_str|range|shuffle|sort|str|tag)\(.*\)",
    re.DOTALL,
)


def quote_plain_words() -> None:
    """Puts quotes of Hydra's around values in `sys.argv` that it could not read, such as paths with blanks or Chinese.

    What Hydra reads stays as it is. Ends the program in one sentence where it is not clear what was meant.
    """
    require_mix(sys.argv[1:])
    sys.argv[1:] = quoted(sys.argv[1:])


def require_mix(words: Sequence[str]) -> None:
    """Raises SystemExit if a source of one's own is described, but no mix chosen that has it.

    Hydra would say that the key is not in its struct.
    """
    if any(word.startswith(_MAY_BRING_A_MIX) for word in words):
        return
    added = {word.partition("=")[0].lstrip("+") for word in words if word.startswith("+data.mix.")}
    for name, mixes in _OF_MIXES.items():
        entry = f"data.mix.{name}"
        given = [word for word in words if word.startswith(f"{entry}.")]
        if given and entry not in added:
            choices = " or ".join(f"data/mix={mix}" for mix in mixes)
            raise SystemExit(
                f"{Path(sys.argv[0]).name}: {given[0]} is given, but no mix that has {entry}; give {choices} as well"
            )


def quoted(words: Sequence[str]) -> list[str]:
    """The words of a command line, overrides that Hydra could not read with quotes around their values.

    Raises SystemExit naming the word, and how to write it, where it is a list or mapping, or no KEY=VALUE.
    """
    parser = OverridesParser.create()
    return [
        word if word.startswith("-") or before in _WITH_VALUE else _quoted(parser, word)
        for before, word in zip(("", *words), words, strict=False)
    ]


def override(key: str, value: str) -> str:
    """KEY=VALUE such that Hydra reads this one text, with quotes of its own where it would read anything else."""
    word = f"{key}={value}"
    parser = OverridesParser.create()
    if _is_read(parser, word):
        read = parser.parse_override(word)
        if not read.is_sweep_override() and read.value() == value:
            return word
    return f"{key}={QuotedString(text=value, quote=Quote.double).with_quotes()}"


def _quoted(parser: OverridesParser, word: str) -> str:
    typed = word
    key, sign, value = word.partition("=")
    if sign and value.startswith("~"):  # which a shell expands at the start of a word only
        value = os.path.expanduser(value)
        word = key + sign + value
    if _is_read(parser, word):
        return word
    if not sign:
        raise SystemExit(_refused(word, "an override is KEY=VALUE, without blanks around the ="))
    if not _KEY.fullmatch(key):
        raise SystemExit(_refused(word, f"the key '{key}' may hold letters a-z, digits and _ . / @ - only"))
    if _SEVERAL.fullmatch(value.strip()):
        raise SystemExit(
            _refused(
                word,
                "inside a list, a mapping or choice(...), texts in Chinese or with blanks, brackets and such signs "
                "need double quotes of their own, and the whole word single ones, as in '+data.mix.me={source: "
                'self_cognition, count: 500, names: {zh: "小织"}, authors: {zh: "陶白白"}}\'',
            )
        )
    if "," in value:
        raise SystemExit(
            _refused(
                typed,
                f"one value with a comma needs quotes inside of the shell's, '{key}=\"A,B\"', "
                f'and so does each value of a sweep, \'{key}="A","B"\'; write $HOME for ~',
            )
        )
    # Double ones, since commands that are printed to be typed again get the shell's single ones around them.
    quote = Quote.single if '"' in value else Quote.double
    made = f"{key}={QuotedString(text=value, quote=quote).with_quotes()}"
    if not _is_read(parser, made):
        raise SystemExit(_refused(word, f"give the value quotes inside of the shell's: '{key}=\"VALUE\"'"))
    return made


def _is_read(parser: OverridesParser, word: str) -> bool:
    try:
        parser.parse_override(word)
    except HydraException:
        return False
    return True


def _refused(word: str, way_out: str) -> str:
    return f"{Path(sys.argv[0]).name}: cannot read the override {word}: {way_out}"
