"""Personal data becomes placeholders, the same data the same one; what only looks like it stays."""

import ast
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabrictune.dialogue import Json
from fabrictune.serve.capture.redaction import Redactor, without

ID = "11010519491231002X"  # the example of GB 11643-1999
CARD = "4111 1111 1111 1111"  # Visa's test number
KEY = "sk-proj-Ab12Cd34Ef56Gh78Ij90"


def redacted(value: Json) -> Json:
    return Redactor()(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mail alice.b+x@mail.example.com, please", "mail <email-1>, please"),
        ("邮箱alice@example.com。", "邮箱<email-1>。"),
        ("手机号13812345678", "手机号<phone-1>"),
        ("138-1234-5678或138 1234 5679", "<phone-1>或<phone-2>"),
        ("call +44 20 7946 0958 or +1 (415) 555-2671!", "call <phone-1> or <phone-2>!"),
        ("座机 010-62345678，热线 400-800-8888", "座机 <phone-1>，热线 <phone-2>"),
        (f"身份证{ID}，", "身份证<identity-1>，"),
        (f"card {CARD} and 6222021234567890128", "card <card-1> and <card-2>"),
        (f"my key: {KEY}.", "my key: <key-1>."),
        ("AKIAIOSFODNN7EXAMPLE", "<key-1>"),
        ("Authorization: Bearer abcdefgh12345678", "Authorization: Bearer <key-1>"),
        ("Authorization: Bearer " + KEY, "Authorization: Bearer <key-1>"),
    ],
)
def test_personal_data_is_replaced_and_the_words_around_it_stay(text: str, expected: str) -> None:
    assert redacted(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("2024-01-15", "2024/01/15 12:30:00", "20240115123000", "2026-11-23T03:14:02.123Z", "12:30-14:45"),
        *("订单号 202401150012345", "order 10023456789", "order 2062345678", "SN13812345678", "#2024-13812345678"),
        *("v1.2.3.4", "3.11.7", "10.0.19041.1", "transformers>=5.16.1,<5.20", "192.168.1.10"),
        *("1299.00", "$12,345,678.90", "￥1,380,012,345", "0.13812345678", "13812345.678", "39.904200, 116.407400"),
        *("1700000000", "1700000000000", "1234567890123456", "4111 1111 1111 1112", "110105194912310021"),
        *("icon@2x.png", "@types/node@18.0.1", "a @ b.com", "sk-learn", "skeleton-key", "Bearer of news"),
        *("550e8400-e29b-41d4-a716-446655440000", "第3章第12节", "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11", "90210-1234"),
    ],
)
def test_dates_orders_versions_prices_and_time_stamps_stay(text: str) -> None:
    assert redacted(text) == text


def test_the_same_data_has_the_same_placeholder_in_a_record_however_it_is_spelled() -> None:
    record = {
        "request": [
            {"content": "Call +86 138-1234-5678, or write to Bob@Example.com and 13912345678."},
            {"content": 'Action Input: {"to": "bob@example.com", "phone": "13812345678"}'},
        ],
        "message": {"tool_calls": [{"function": {"arguments": '{"phone": 13812345678, "others": [1, 13912345678]}'}}]},
        "reply": "bob@example.com was told.",
    }
    found = redacted(record)
    assert found["request"][0]["content"] == "Call <phone-1>, or write to <email-1> and <phone-2>."
    assert found["request"][1]["content"] == 'Action Input: {"to": "<email-1>", "phone": "<phone-1>"}'
    arguments = found["message"]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(arguments) == {"phone": "<phone-1>", "others": [1, "<phone-2>"]}
    assert found["reply"] == "<email-1> was told."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"phones":[13812345678,13912345678]}', '{"phones":["<phone-1>","<phone-2>"]}'),
        ('["Bob", [], {"a": [1]}, 13812345678]', '["Bob", [], {"a": [1]}, "<phone-1>"]'),
        ("Action Input: {'phone': 13812345678}", "Action Input: {'phone': '<phone-1>'}"),
        ("Action Input: {city: 'a', phone: 13812345678}", "Action Input: {city: 'a', phone: \"<phone-1>\"}"),
        ('{"a": -13812345678}', '{"a": "-<phone-1>"}'),
        ('{"a": "{\\"b\\": 13812345678}"}', '{"a": "{\\"b\\": \\"<phone-1>\\"}"}'),
        ('{"a": "[\\n  13812345678\\n]"}', '{"a": "[\\n  \\"<phone-1>\\"\\n]"}'),
        ('{"a": "{\'b\': 13812345678}"}', "{\"a\": \"{'b': '<phone-1>'}\"}"),
        ("call (13812345678) now", "call (<phone-1>) now"),
        ("dial [13812345678], or (010) 62345678", 'dial ["<phone-1>"], or <phone-2>'),
        ("Name: Bob, phone: 13812345678, and 13912345678, too", "Name: Bob, phone: <phone-1>, and <phone-2>, too"),
        ('{"a": 13812345678.0, "b": 4111111111111111.0}', '{"a": 13812345678.0, "b": 4111111111111111.0}'),
    ],
)
def test_a_number_that_is_a_value_of_json_text_becomes_a_string_and_no_other(text: str, expected: str) -> None:
    assert redacted(text) == expected


def test_data_behind_an_escape_of_json_text_is_found() -> None:
    for ensure_ascii in (True, False):
        arguments = json.dumps({"text": "电话\n13812345678\ta@b.cn"}, ensure_ascii=ensure_ascii)
        assert json.loads(redacted(arguments)) == {"text": "电话\n<phone-1>\t<email-1>"}


def test_numbers_and_keys_of_objects_are_redacted_and_other_values_keep_their_kind() -> None:
    record = {"a@b.cn": 13812345678, "n": 3, "x": 1.5, "t": True, "z": None, "seed": 1700000000}
    assert redacted(record) == {"<email-1>": "<phone-1>", "n": 3, "x": 1.5, "t": True, "z": None, "seed": 1700000000}


def values(text: st.SearchStrategy[str]) -> st.SearchStrategy[Json]:
    personal = st.sampled_from([KEY, ID, CARD, "13812345678", "[13812345678, 4111111111111111]", "a@b.cn"])
    numbers = st.sampled_from([13812345678, -13912345678, 4111111111111111, 110105194912310029, 1.5])
    return st.recursive(
        st.none() | st.booleans() | st.integers() | numbers | text | personal,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
        max_leaves=12,
    )


@given(values(st.text(max_size=5) | st.sampled_from('"[]{},:')))
def test_what_has_been_redacted_has_nothing_left_to_redact_and_text_that_was_json_still_is(value: Json) -> None:
    once = redacted(value)
    assert redacted(once) == once
    text = json.dumps([value])
    for written in (text, json.dumps(text), json.dumps([value], indent=2), json.dumps({"arguments": text})):
        json.loads(redacted(written))
    json.loads(json.loads(redacted(json.dumps(json.dumps({"numbers": [13812345678], "more": 13912345678})))))


@given(values(st.text("abc电 -_.", max_size=5)))
def test_text_that_is_read_with_single_quotes_still_is(value: Json) -> None:
    ast.literal_eval(redacted(repr([value])))


def test_values_that_come_one_after_another_share_their_placeholders() -> None:
    redactor = Redactor()
    assert redactor("13812345678 a@b.cn") == "<phone-1> <email-1>"
    assert redactor(["139 1234 5678", "A@b.cn"]) == ["<phone-2>", "<email-1>"]


def test_a_secret_is_hidden_wherever_it_stands_and_short_words_are_none() -> None:
    value = {"error": "Incorrect key: topsecret-1!", "raw": ["topsecret-1", "EMPTY"]}
    assert without(value, ["topsecret-1", "topsecret", "EMPTY", ""]) == {
        "error": "Incorrect key: ***!",
        "raw": ["***", "EMPTY"],
    }
