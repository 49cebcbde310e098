"""Likeness is ROUGE-L's, over words and single characters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabrictune.score.likeness import rouge_l


@pytest.mark.parametrize(
    ("expected", "answer", "score"),
    [
        ("the cat sat", "the cat sat", 1),
        ("The cat, sat!", "the CAT sat", 1),
        ("the cat sat", "the dog sat", 2 / 3),
        ("a b c d", "d c b a", 1 / 4),
        ("海淀区多云，23度", "海淀区多云，23度", 1),
        ("海淀区晴", "海淀区雨", 3 / 4),
        ("晴", "rain", 0),
        ("!?", "!?", 1),
        ("!?", "", 0),
        ("", "a", 0),
    ],
)
def test_rouge_l_is_over_words_and_chinese_characters(expected: str, answer: str, score: float) -> None:
    assert rouge_l(expected, answer) == pytest.approx(score)


@given(st.text("ab天 ", max_size=12), st.text("ab天 ", max_size=12))
def test_rouge_l_is_that_of_the_table_of_subsequences(expected: str, answer: str) -> None:
    left, right = (text.replace("天", " 天 ").split() for text in (expected, answer))
    table = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, one in enumerate(left):
        for j, other in enumerate(right):
            table[i + 1][j + 1] = table[i][j] + 1 if one == other else max(table[i][j + 1], table[i + 1][j])
    if left and right:
        assert rouge_l(expected, answer) == pytest.approx(2 * table[-1][-1] / (len(left) + len(right)))
