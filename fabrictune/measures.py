"""What an evaluation measures: the name of each measure in its files, and how it is shown.

A row of predictions.jsonl holds a measure as [sum, count]: a yes is [1, 1], a no [0, 1], and a row that a measure does
not apply to has none. A score is the sum over rows divided by the count over rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Measure:
    """`unit`: percent of a share, or perplexity, which is exp(sum / count). `better` says which way is good.

    `by_step`: it judges one call that was due (in a row's "steps"), not the whole row.
    """

    title: str
    better: Literal["higher", "lower"] = "higher"
    unit: Literal["percent", "perplexity"] = "percent"
    by_step: bool = False

    def value(self, score: float) -> str:
        """The score as people read it."""
        return f"{score:.2f}" if self.unit == "perplexity" else f"{100 * score:.1f}"


MEASURES = {
    # The agentfabric and smoke suites, a turn each.
    "success": Measure("turn right"),
    "first_call": Measure("first call exact"),
    "tool_em": Measure("right tool", by_step=True),
    "argument_em": Measure("arguments exact", by_step=True),
    "argument_f1": Measure("argument F1", by_step=True),
    "exact_call": Measure("call exact", by_step=True),
    "no_call": Measure("no call made", "lower"),
    "wrong_arguments": Measure("wrong arguments", "lower"),
    "bad_summary": Measure("answer contradicts or ignores", "lower"),
    "not_stopped": Measure("did not stop", "lower"),
    "repeated_call": Measure("repeated a call", "lower"),
    "malformed": Measure("malformed call", "lower"),
    "wrong_tool": Measure("another tool", "lower"),
    "unknown_tool": Measure("a tool not on offer", "lower"),
    "needless_call": Measure("needless call", "lower"),
    "no_answer": Measure("no answer", "lower"),
    "made_up": Measure("answer makes something up", "lower"),
    "grounded": Measure("answer grounded"),
    "contradiction": Measure("answer contradicts the result", "lower"),
    "rouge_l": Measure("ROUGE-L of answers"),
    # toolbench, under the benchmark's own names.
    "plan_em": Measure("Plan.EM"),
    "act_em": Measure("Act.EM"),
    "hallucination": Measure("HalluRate", "lower"),
    # bfcl
    "correct": Measure("correct"),
    # general
    "perplexity": Measure("perplexity", "lower", "perplexity"),
}

# The failures of a turn, the four that the tutorial names first.
TUTORIAL_KINDS = ("no_call", "wrong_arguments", "bad_summary", "not_stopped")
KINDS = (
    *TUTORIAL_KINDS,
    "repeated_call",
    "malformed",
    "wrong_tool",
    "unknown_tool",
    "needless_call",
    "no_answer",
    "made_up",
)

# How a call can be malformed.
MALFORMED = {
    "no_name": "Action Input: without Action:, or the arguments where the name belongs",
    "no_arguments": "Action: without Action Input:",
    "bad_json": "arguments are no JSON, nor JSON5",
    "no_object": "arguments are JSON but no object",
    "many_lines": "arguments over several lines, of which the client reads the first",
    "cut_off": "arguments that the bound on tokens cut off",
    "foreign": "a call in another format",
}

# What a suite's first table shows.
HEADLINES = {
    "agentfabric": ("first_call", "success", *TUTORIAL_KINDS),
    "smoke": ("first_call", "success", *TUTORIAL_KINDS),
    "toolbench": ("plan_em", "act_em", "hallucination", "argument_f1", "rouge_l"),
    "bfcl": ("correct",),
    "general": ("perplexity", "needless_call"),
}

# The labels of rows that scores are broken down by, and their titles.
LABELS = {
    "tools": "tools",  # seen or unseen
    "category": "category",
    "language": "language",
    "offered": "tools on offer",  # 0, 1, 2-3, 4-7, 8+
    "family": "family",
    "source": "source",
}


def offered_label(count: int) -> str:
    """The label of a number of tools on offer."""
    return next(name for most, name in ((0, "0"), (1, "1"), (3, "2-3"), (7, "4-7"), (count, "8+")) if count <= most)
