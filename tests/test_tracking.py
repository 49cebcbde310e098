import json
import math
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import wandb_offline
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, TrainerControl, TrainerState

from fabrictune.train import curves, tracking, wandb_run

pytestmark = pytest.mark.usefixtures("no_wandb_key")

STEPS, SAVED, KILLED = 8, 4, 6
TIMINGS = re.compile(r".*(_seconds|tokens_per_second)")


class Line(torch.nn.Module):
    """y = a x with dropout, so that a run that resumes wrongly has other losses."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(4, 1)

    def forward(self, x, labels):
        made = torch.nn.functional.dropout(self.layer(x), 0.3, self.training)[:, 0]
        return {"loss": ((made - labels) ** 2).mean()}


class TrackedTrainer(Trainer):
    """Logs and evaluates as training does: a loss of all and of each source, then samples of what the model says."""

    tracker: tracking.Tracker

    def log(self, logs, start_time=None):
        if "train_runtime" not in logs:
            super().log(logs, start_time)

    def training_step(self, *arguments, **keywords):
        self.tracker.progress.row(100, 1)
        return super().training_step(*arguments, **keywords)

    def evaluate(self, *_, **__):
        loss = self.model.layer.weight.sum().item()
        metrics = {"eval_loss": loss, "eval_loss/weather": loss / 3, "eval_seconds": 0.5}
        self.log(metrics)
        self.tracker.write_samples(self.state.global_step, [{"prompt": "天气?", "reply": f"loss {loss}"}])
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class Kill(TrainerCallback):
    def on_log(self, args, state, control, logs=None, **_):
        if state.global_step == KILLED:
            threading.Event().wait(5 * wandb_run.FLUSH_SECONDS)
            with (Path(args.output_dir) / "metrics.jsonl").open("a") as file:
                file.write('{"step": 7, "lo')  # as a kill within a write would leave it
            os.kill(os.getpid(), 9)


def train(folder: Path, mode: str = "offline", killed: bool = False, resume: bool = False, artifact=None) -> None:
    """STEPS steps with a checkpoint and an evaluation every SAVED ones."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=SAVED,
        save_steps=SAVED,
        per_device_train_batch_size=2,
        learning_rate=0.05,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    x = torch.linspace(-1, 1, 64).reshape(16, 4)
    data = [{"x": row, "labels": row.sum()} for row in x]
    with tracking.Tracker(folder, wandb_offline.new_run(folder, mode)) as tracker:
        callbacks = [tracker, *([Kill()] if killed else [])]
        trainer = TrackedTrainer(
            model=Line(), args=arguments, train_dataset=data, eval_dataset=data, callbacks=callbacks
        )
        trainer.remove_callback(PrinterCallback)
        trainer.tracker = tracker
        trainer.train(resume_from_checkpoint=str(folder / f"checkpoint-{SAVED}") if resume else None)
        tracker.finish(best_step=SAVED, adapter=artifact)


def lines(folder: Path, file: str = "metrics.jsonl") -> list[dict]:
    """The file's lines without what a clock says."""
    read = [json.loads(line) for line in (folder / file).read_text().splitlines()]
    return [{key: value for key, value in line.items() if not TIMINGS.fullmatch(key)} for line in read]


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The curves of metrics.jsonl, read by this test's own means, under the names that W&B gives them."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        for key, value in line.items():
            if key != "step":
                name = key.replace("eval_", "eval/", 1) if key.startswith("eval_") else f"train/{key}"
                found.setdefault(name, []).append((line["step"], value))
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of a run that nothing interrupted, with its adapter handed over."""
    folder = tmp_path_factory.mktemp("whole") / "train"
    adapter = tmp_path_factory.mktemp("adapter")
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    (adapter / "adapter_config.json").write_text("{}")
    train(folder, artifact=adapter)
    return folder


@pytest.fixture(scope="module")
def resumed(tmp_path_factory) -> Path:
    """The folder of a run that was killed at step KILLED and went on from its checkpoint at SAVED."""
    folder = tmp_path_factory.mktemp("resumed") / "train"
    script = "import sys; from pathlib import Path; import test_tracking as t; t.train(Path(sys.argv[1]), killed=True)"
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("WANDB_")
    }  # its service too
    environment["PYTHONPATH"] = f"{Path(__file__).parent.parent}:{Path(__file__).parent}"
    ended = subprocess.run([sys.executable, "-c", script, str(folder)], env=environment, capture_output=True, text=True)
    assert ended.returncode == -9, ended.stderr
    assert [line["step"] for line in lines_of_a_killed_run(folder)] == [1, 2, 3, 4, 4, 5, 6]
    train(folder, resume=True)
    return folder


def lines_of_a_killed_run(folder: Path) -> list[dict]:
    *complete, torn = (folder / "metrics.jsonl").read_text().splitlines()
    assert torn == '{"step": 7, "lo'
    return [json.loads(line) for line in complete]


def test_the_curve_of_a_run_that_was_killed_and_resumed_equals_an_uninterrupted_one(whole, resumed) -> None:
    assert lines(resumed) == lines(whole)
    assert lines(resumed, "samples.jsonl") == lines(whole, "samples.jsonl")
    assert [line["step"] for line in lines(whole)] == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8]


def test_wandb_holds_the_curves_of_metrics_jsonl(whole) -> None:
    (run,) = wandb_offline.runs(whole)
    assert run.curves() == points(whole)
    assert {"train/loss", "train/tokens_per_second", "eval/loss", "eval/loss/weather"} <= set(run.curves())


def test_over_a_resume_wandb_keeps_one_run_and_every_point(resumed) -> None:
    first, second = wandb_offline.runs(resumed)
    assert first.id == second.id == json.loads((resumed / "wandb.json").read_text())["id"]
    for key, expected in points(resumed).items():
        before, after = first.curves()[key], second.curves()[key]
        assert [step for step, _ in after] == [step for step, _ in expected if step > SAVED]
        assert [point for point in before if point[0] <= SAVED] + after == expected, key
        if not TIMINGS.fullmatch(key):
            assert set(before) <= set(expected), "steps that were computed twice have the same values"


def test_wandb_knows_what_was_run(whole) -> None:
    (run,) = wandb_offline.runs(whole)
    assert (run.project, run.entity, run.name, run.group, run.tags) == ("a-project", "us", "demo/r8", "demo", ["t"])
    assert run.config["lora"] == {"rank": 8} and run.config["name"] == "demo"
    assert run.exit_code == 0


def test_wandb_has_a_table_of_samples_for_each_evaluation(whole) -> None:
    (run,) = wandb_offline.runs(whole)
    written = [json.loads(line) for line in (whole / "samples.jsonl").read_text().splitlines()]
    tables = run.tables("samples")
    assert [step for step, _ in tables] == [4, 8]
    for (step, table), row in zip(tables, written, strict=True):
        assert table["columns"] == ["prompt", "reply"]
        assert {"step": step} | dict(zip(table["columns"], table["data"][0], strict=True)) == row


def test_wandbs_table_of_samples_is_short_and_evenly_drawn_while_the_file_has_all(tmp_path) -> None:
    held = wandb_offline.new_run(tmp_path)
    held.start()
    tracker = tracking.Tracker(tmp_path, held)
    tracker.write_samples(2, [{"reply": str(number)} for number in range(40)])
    held.finish({})
    (run,) = wandb_offline.runs(tmp_path)
    ((_, table),) = run.tables("samples")
    assert [int(row[0]) for row in table["data"]] == [place * 40 // 16 for place in range(16)]
    assert [line["reply"] for line in lines(tmp_path, "samples.jsonl")] == [str(number) for number in range(40)]


def test_wandb_names_the_best_and_the_last_step_and_keeps_the_adapter(whole) -> None:
    (run,) = wandb_offline.runs(whole)
    losses = {line["step"]: line["eval_loss"] for line in lines(whole) if "eval_loss" in line}
    assert (run.summary["best/step"], run.summary["best/eval_loss"]) == (4, losses[4])
    assert (run.summary["last/step"], run.summary["last/eval_loss"]) == (8, losses[8])
    assert run.artifacts["demo-r8-adapter"] == ["adapter_config.json", "adapter_model.safetensors"]


def test_a_run_that_fails_is_a_failed_run_at_wandb(tmp_path) -> None:
    held = wandb_offline.new_run(tmp_path)
    with pytest.raises(ZeroDivisionError), tracking.Tracker(tmp_path, held):
        held.start()
        held.log(1, {"loss": 2.0})
        raise ZeroDivisionError
    (run,) = wandb_offline.runs(tmp_path)
    assert run.exit_code == 1 and run.curves() == {"train/loss": [(1, 2.0)]}


def test_disabled_wandb_leaves_nothing_behind(tmp_path) -> None:
    train(tmp_path / "train", mode="disabled")
    left = {path.name for path in (tmp_path / "train").iterdir()}
    assert left == {"metrics.jsonl", "samples.jsonl", "images", "checkpoint-4", "checkpoint-8"}


def test_the_bar_moves_within_a_step_and_shows_loss_speed_and_time_left(capsys) -> None:
    progress = tracking.StepProgress()
    progress.row(100, 4)  # an evaluation before the training
    progress.start(total=4, done=1, ranks=2)
    progress.begin_step()
    progress.row(100, 4)
    assert progress.bar.n == 1.25
    progress.show(1.2345)
    threading.Event().wait(0.2)
    progress.end_step(2)
    assert progress.bar.n == 2
    assert 0.2 <= progress.seconds < 2
    speed = progress.tokens_per_second()
    assert 100 * 2 / 2 < speed <= 100 * 2 / 0.2
    assert progress.tokens_per_second() is None, "nothing was computed since"
    progress.close()
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"training:  50%.* 2\.0/4 \[00:0\d<00:0\d, loss 1\.234, \d+ tokens/s\]", last), last


def test_the_closing_lines_name_best_and_last_checkpoint_and_what_lies_beside_them(whole) -> None:
    (whole / "best").mkdir(exist_ok=True)
    losses = {line["step"]: line["eval_loss"] for line in lines(whole) if "eval_loss" in line}
    told = tracking.summary(whole, 4)
    run_id = json.loads((whole / "wandb.json").read_text())["id"]
    assert told == [
        f"best: {whole}/checkpoint-4, eval loss {losses[4]:.4f}",
        f"last: {whole}/checkpoint-8, eval loss {losses[8]:.4f}",
        f"adapter: {whole}/best",
        f"curves: {whole}/metrics.jsonl, {whole}/images/*.png",
        f"samples: {whole}/samples.jsonl",
        f"W&B: offline; to upload it: wandb sync {whole}/wandb/*run-*-{run_id}",
    ]
    assert list((whole / "wandb").glob(f"*run-*-{run_id}")), "the pattern matches what is there"


def test_images_are_drawn_while_training(whole) -> None:
    drawn = {path.stem for path in (whole / "images").iterdir()}
    assert {"train_loss", "train_learning_rate", "eval_loss"} <= drawn
    assert drawn == {name.replace("/", "_") for name in curves.collect(curves.read(whole / "metrics.jsonl"))}


def test_images_are_not_drawn_at_each_evaluation_where_that_would_take_the_time_but_always_at_the_end(tmp_path) -> None:
    tracker = tracking.Tracker(tmp_path, wandb_offline.new_run(tmp_path, "disabled"))
    tracker.metrics.write(1, {"loss": 2.0})
    state, control = TrainerState(is_world_process_zero=True), TrainerControl()

    def images() -> list[str]:
        return [path.name for path in tmp_path.glob("images/*")]

    began = time.monotonic()
    tracker.on_evaluate(None, state, control)
    took = time.monotonic() - began
    assert images() == ["train_loss.png"]
    assert began < tracker.next_drawing <= began + (1 + tracking.DRAWING) * took
    (tmp_path / "images" / "train_loss.png").unlink()
    tracker.next_drawing = math.inf
    tracker.on_evaluate(None, state, control)
    assert images() == []
    tracker.on_train_end(None, state, control)
    assert images() == ["train_loss.png"]
