"""How much a model has to compute for a layout of the data, and how fast this processor could at best."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Shape:
    """The sizes of a model that its work follows from."""

    layers: int
    hidden: int
    intermediate: int
    queries: int  # the width of all query heads together
    keys: int  # of all key heads
    vocabulary: int

    @staticmethod
    def of(folder: Path) -> Shape:
        read = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        head = read.get("head_dim") or read["hidden_size"] // read["num_attention_heads"]
        return Shape(
            read["num_hidden_layers"],
            read["hidden_size"],
            read["intermediate_size"],
            head * read["num_attention_heads"],
            head * read["num_key_value_heads"],
            read["vocab_size"],
        )

    @property
    def parameters(self) -> int:
        """Weights of all linear layers but the head."""
        attention = 2 * self.hidden * (self.queries + self.keys)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)


@dataclass(frozen=True)
class Work:
    """What a layout of the data makes one compute: tokens, pairs of a token and one it attends to."""

    tokens: int
    pairs: int

    def scaled(self, tokens: int) -> Work:
        """The same layout with another number of tokens, say with its padding."""
        return Work(tokens, round(self.pairs * tokens / self.tokens))

    def towards(self, other: Work, tokens: int) -> Work:
        """The layout with so many tokens on the straight line through this one and another."""
        share = (self.tokens - tokens) / (self.tokens - other.tokens) if self.tokens != other.tokens else 0.0
        return Work(tokens, round(self.pairs + share * (other.pairs - self.pairs)))


def flops(shape: Shape, work: Work, supervised: int) -> int:
    """Floating point operations that training a LoRA adapter needs: forward, and backward to the inputs.

    4 for each weight and token (the base's weights have no gradients), 12 for each pair of tokens and unit of the query
    heads' width in each layer, 4 for each weight of the head at the supervised tokens only. The adapter's own work,
    some 5 % at rank 16, the elementwise work and the optimizer's are left out.
    """
    layers = 4 * shape.parameters * work.tokens
    attention = 12 * shape.layers * shape.queries * work.pairs
    return layers + attention + 4 * shape.hidden * shape.vocabulary * supervised


def apart(sequences: Iterable[Sequence[int]]) -> Work:
    """The work of the sequences one by one."""
    lengths = [len(sequence) for sequence in sequences]
    return Work(sum(lengths), sum(length * (length + 1) // 2 for length in lengths))


def shared(groups: Iterable[Iterable[Sequence[int]]]) -> Work:
    """The work of the sequences with what those of one group begin with in common computed once."""
    tokens = pairs = 0
    for group in groups:
        before: Sequence[int] = ()
        for sequence in sorted(group):
            common = next((i for i, (a, b) in enumerate(zip(before, sequence, strict=False)) if a != b), None)
            begun = min(len(before), len(sequence)) if common is None else common
            tokens += len(sequence) - begun
            pairs += len(sequence) * (len(sequence) + 1) // 2 - begun * (begun + 1) // 2
            before = sequence
    return Work(tokens, pairs)


def packed_rows(lengths: Iterable[int], size: int) -> int:
    """How many rows of `size` tokens whole sequences fill, the longest first, each put where it leaves least."""
    left: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [index for index, room in enumerate(left) if room >= length]
        if fitting:
            left[min(fitting, key=left.__getitem__)] -= length
        else:
            left.append(size - length)
    return len(left)


def matmul_rate(threads: int, sizes: tuple[int, int, int], seconds: float = 2.0) -> float:
    """Floating point operations a second of bfloat16 (a, b) @ (b, c) with so many threads: the best of 5 measurings."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    rows, inner, columns = sizes
    left, right = torch.randn(rows, inner).bfloat16(), torch.randn(inner, columns).bfloat16()
    torch.mm(left, right)
    best = 0.0
    for _ in range(5):
        start, count = time.monotonic(), 0
        while time.monotonic() - start < seconds / 5:
            torch.mm(left, right)
            count += 1
        best = max(best, 2 * rows * inner * columns * count / (time.monotonic() - start))
    torch.set_num_threads(before)
    return best
