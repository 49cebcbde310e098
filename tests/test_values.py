"""Values in JSON, in Python and in the mixture of both come out as JSON values, or the reason says what they are."""

import json
import warnings

import pytest
from dialogues import JSON
from hypothesis import given, settings
from hypothesis import strategies as st

from fabrictune.formats import values

READ = [
    ("{'on': True, 'dim': None, 'size': (1, 2)}", {"on": True, "dim": None, "size": [1, 2]}),
    (r"{'room': 'the cook\'s \"den\"', 'steps': -2.5}", {"room": 'the cook\'s "den"', "steps": -2.5}),
    ('{"room": "the cook\'s", "on": true, "dim": null}', {"room": "the cook's", "on": True, "dim": None}),
    ("{'room': {'floor': [{'name': '客厅'}]}}", {"room": {"floor": [{"name": "客厅"}]}}),
    ('\n {\n  "room":\n  "hall"\n}\t', {"room": "hall"}),
    ("{1: 'a'}", {"1": "a"}),
    (r"{'room': 'the cook\'s'}", {"room": "the cook's"}),
    (r"{'like': '\d+'}", {"like": r"\d+"}),
    ("{'on': true, 'off': False, 'dim': null, 'a': 'null'}", {"on": True, "off": False, "dim": None, "a": "null"}),
    ('{"on": True, "off": False, "dim": None}', {"on": True, "off": False, "dim": None}),
    (r'{"room": "\ud83d\ude00 \u5385"}', {"room": "😀 厅"}),
    (r"{'room': '\ud83d\ude00', 'a': 'b\\d'}", {"room": "😀", "a": "b\\d"}),
    ('{"code": "for x in y:\n\tprint(x)"}', {"code": "for x in y:\n\tprint(x)"}),
    ("{'a': 'b' 'c', 'd': 1_000, 'e': {'f': ('g',)},}", {"a": "bc", "d": 1000, "e": {"f": ["g"]}}),
    ("{'list': [1, -2.5, 1e3], 'text': ''}", {"list": [1, -2.5, 1000.0], "text": ""}),
    ("[{'a': 1}, {'b': 'c'}]", [{"a": 1}, {"b": "c"}]),
    ("('a', 'b')", ["a", "b"]),
    ("'a'", "a"),
    ("2", 2),
    ("None", None),
]


@pytest.mark.parametrize(("text", "value"), READ)
def test_a_text_is_read_as_json_or_as_python_without_a_warning(text: str, value: object) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = values.read(text)
    # As JSON, since True equals 1 and 2 equals 2.0.
    assert json.dumps(read) == json.dumps(value)


@given(JSON)
@settings(max_examples=100, deadline=None)
def test_what_python_and_json_write_is_read_as_it_was(value: object) -> None:
    for write in (repr, json.dumps, lambda one: json.dumps(one, ensure_ascii=False, indent=1)):
        assert json.dumps(values.read(write(value))) == json.dumps(value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "neither JSON nor a Python literal: ''"),
        ("hall", "neither JSON nor a Python literal: 'hall'"),
        ("[1, 2", r"neither JSON nor a Python literal: '\[1, 2'"),
        ("{'room': open('x')}", "neither JSON nor a Python literal: "),
        ("{[]: 1}", r"neither JSON nor a Python literal: '{\[\]: 1}'"),
        ("'\0'", "neither JSON nor a Python literal: "),
        ("{'room': {'hall'}}", "a value that JSON does not hold: .*set.*'hall'"),
        ("{'room': b'hall'}", "a value that JSON does not hold: .*bytes.*'hall'"),
        ("{'size': 1e999}", "a value that JSON does not hold: .*inf"),
        ('{"size": -1e999}', "a value that JSON does not hold: .*-inf"),
        ("{'size': NaN}", "a value that JSON does not hold: .*nan"),
        ('{"size": [-Infinity]}', "a value that JSON does not hold: .*-inf"),
        ("[" * 9999, r"values nested too deeply: '\[\[\["),
        ("{'a': " + "[" * 9999, r"values nested too deeply: \"{'a': \[\["),
        ("{'a': '\"', 'b': " + "[" * 9999, "neither JSON nor a Python literal"),
    ],
)
def test_what_is_no_json_value_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        values.read(text)


@pytest.mark.parametrize("given", [["a"], '["a"]', " ['a'] \n", "('a',)"])
def test_a_list_may_be_a_list_or_its_text(given: object) -> None:
    assert values.read_list({"names": given}, "names", "texts") == ["a"]


@pytest.mark.parametrize("given", [None, "", " \n", "[]", "None", "null", []])
def test_nothing_in_any_spelling_is_an_empty_list(given: object) -> None:
    assert values.read_list({"names": given}, "names", "texts") == values.read_list({}, "names", "texts") == []
    assert values.is_empty(given)


@pytest.mark.parametrize("given", ["Ada", ["Ada"], "[0]", "[[]]", "nothing"])
def test_what_holds_something_is_not_empty(given: object) -> None:
    assert not values.is_empty(given)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("Ada", "neither JSON nor a Python literal: 'Ada'"),
        ("[NaN]", "a value that JSON does not hold: .*nan"),
        ('{"a": 1}', "{'a': 1}"),
        ("7", "7"),
        (0, "0"),
    ],
)
def test_what_is_no_list_is_named_by_its_key(given: object, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^names is no list of texts: {reason}"):
        values.read_list({"names": given}, "names", "texts")


@pytest.mark.parametrize("given", ["", " \n", "[]", "None", "null", "''", None, [], {}, "{}"])
def test_nothing_in_any_spelling_means_no_arguments(given: object) -> None:
    assert values.read_arguments(given) == {}


@pytest.mark.parametrize("given", ["{'on': True, 1: (2,)}", {"on": True, 1: (2,)}])
def test_arguments_may_be_text_or_values(given: object) -> None:
    assert json.dumps(values.read_arguments(given)) == '{"on": true, "1": [2]}'


@pytest.mark.parametrize("given", ["['hall']", ["hall"], "'hall'", "0", 0, "False", False])
def test_arguments_that_are_no_object_are_refused(given: object) -> None:
    with pytest.raises(ValueError, match="arguments are no object by parameter name: "):
        values.read_arguments(given)


def test_arguments_that_json_does_not_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="a value that JSON does not hold: .*nan"):
        values.read_arguments({"size": float("nan")})


@given(st.floats(allow_nan=False, allow_infinity=False))
@settings(max_examples=50, deadline=None)
def test_every_finite_number_is_read_exactly(number: float) -> None:
    assert values.DECODER.decode(json.dumps(number)) == number
