"""Sequences of tokens with loss weights, made by hand or as hypothesis draws them."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from fabrictune.model.encoding import Encoded


def encoded(ids: list[int], weighted: int) -> Encoded:
    """A sequence of the ids whose last `weighted` tokens have weight 1, 2, 1, 2, ..."""
    weights = np.zeros(len(ids), np.float32)
    weights[len(ids) - weighted :] = [1 + i % 2 for i in range(weighted)]
    return Encoded(np.array(ids, np.int64), weights)


# Few distinct tokens, so that sequences share prefixes of all lengths.
sequences = st.lists(
    st.lists(st.integers(0, 2), min_size=2, max_size=12).flatmap(
        lambda ids: st.integers(1, len(ids) - 1).map(lambda weighted: encoded(ids, weighted))
    ),
    min_size=1,
    max_size=8,
)
