"""The choice of the best checkpoint: of those that are as good the one of the lowest loss, also over a resume."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainingArguments

from fabrictune.train.trainer import RowTrainer

# (eval_call_exact, eval_loss) of the evaluations at steps 2, 4, ...
EVALUATIONS = [(0.5, 1.0), (0.5, 0.8), (0.5, 0.9), (0.75, 2.0), (0.75, 2.0), (0.75, 1.5), (0.5, 0.1), (0.75, 1.7)]
BEST = [2, 4, 4, 8, 8, 12, 12, 12]


def trainer(folder: Path, checkpoint: Path | None = None, best_by: str = "eval_call_exact") -> RowTrainer:
    """One that has just begun, or has just gone on from a checkpoint."""
    args = TrainingArguments(
        output_dir=str(folder),
        max_steps=20,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        metric_for_best_model=best_by,
        greater_is_better=best_by == "eval_call_exact",
        report_to=[],
        use_cpu=True,
    )
    batches = SimpleNamespace(tokens=SimpleNamespace(source_names=["chat"]), steps_per_epoch=20, ranks=1)
    made = RowTrainer(torch.nn.Linear(1, 1), args, batches, [], ["chat"], lambda: False, lambda *_: None, [])
    made._init_training_state(20, 20, 1, str(checkpoint) if checkpoint else None, None)
    return made


def best_after(made: RowTrainer, step: int, value: float, loss: float) -> int:
    """The best step once the evaluation of this one is known."""
    made.state.global_step = step
    name = made.args.metric_for_best_model
    is_best = made._determine_best_metric({name: value, "eval_loss": loss}, None)
    assert is_best is (made.state.best_global_step == step)
    return made.state.best_global_step


def test_of_checkpoints_that_are_as_good_the_one_of_the_lowest_loss_is_best(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    found = [best_after(one, 2 * number, *given) for number, given in enumerate(EVALUATIONS, 1)]
    assert found == BEST
    assert one.state.best_metric == 0.75


def test_where_less_is_better_a_tie_at_the_least_is_broken_too(tmp_path: Path) -> None:
    one = trainer(tmp_path, best_by="eval_not_stopped")
    given = [(0.0, 1.0), (0.0, 0.9), (0.1, 0.2), (0.0, 0.95)]
    assert [best_after(one, step, *values) for step, values in enumerate(given, 1)] == [1, 2, 2, 2]


@pytest.mark.parametrize("done", range(len(EVALUATIONS)))
def test_a_resumed_run_chooses_as_one_that_was_left_alone(tmp_path: Path, done: int) -> None:
    one, checkpoint = trainer(tmp_path), tmp_path / "checkpoint"
    checkpoint.mkdir()
    found = [best_after(one, 2 * number, *given) for number, given in enumerate(EVALUATIONS[:done], 1)]
    one._write_state(checkpoint / "trainer_state.json", tmp_path)
    other = trainer(tmp_path, checkpoint)
    found += [best_after(other, 2 * number, *given) for number, given in enumerate(EVALUATIONS[done:], done + 1)]
    assert found == BEST
