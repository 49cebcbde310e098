import json
import math
from pathlib import Path

import pytest
from matplotlib import image
from matplotlib.colors import to_rgb

from fabrictune.train import curves


def write(path: Path, lines: list[dict], rest: str = "") -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + rest)
    return path


def dark_pixels(path: Path) -> int:
    """Pixels of the colour in which the curve of all sources is drawn."""
    pixels = image.imread(path)[..., :3]
    wanted = [0x1F / 255, 0x4E / 255, 0x8C / 255]
    return int((abs(pixels - wanted).max(axis=2) < 0.05).sum())


LINES = [
    {"step": 10, "loss": 2.0, "learning_rate": 1e-4, "epoch": 0.1},
    {"step": 20, "loss": 1.0, "learning_rate": 5e-5, "epoch": 0.2},
    {"step": 20, "eval_loss": 1.5, "eval_loss/weather": 1.0, "eval_loss/shop/zh": 2.0, "epoch": 0.2},
]


def test_every_metric_is_one_image_of_8_by_5_inches(tmp_path) -> None:
    paths = curves.draw(write(tmp_path / "metrics.jsonl", LINES), tmp_path / "images")
    assert sorted(path.name for path in paths) == ["eval_loss.png", "train_learning_rate.png", "train_loss.png"]
    assert sorted((tmp_path / "images").iterdir()) == sorted(paths), "nothing half-written is left"
    for path in paths:
        assert image.imread(path).shape[:2] == (500, 800)
        assert dark_pixels(path) > 20


def test_accuracies_over_the_steps_stand_in_one_image_too(tmp_path) -> None:
    one = [{"step": 5, "eval_token_acc": 0.5, "eval_call_exact/shop": 0.5}]
    assert len(curves.draw(write(tmp_path / "one.jsonl", one), tmp_path)) == 2, "nothing to compare with"
    accuracies = [{"step": step, "eval_token_acc": 0.9, "eval_call_exact": step / 10} for step in (1, 5, 9)]
    paths = curves.draw(write(tmp_path / "m.jsonl", accuracies), tmp_path)
    (path,) = (path for path in paths if path.name == "eval_accuracy.png")
    pixels = image.imread(path)[..., :3]
    for colour in ("C0", "C1"):
        assert (abs(pixels - to_rgb(colour)).max(axis=2) < 0.05).sum() > 200, "a curve each"


def test_drawing_again_replaces_the_images(tmp_path) -> None:
    metrics = write(tmp_path / "metrics.jsonl", LINES[:1])
    (path,) = (p for p in curves.draw(metrics, tmp_path) if p.name == "train_loss.png")
    first = path.read_bytes()
    curves.draw(write(metrics, LINES), tmp_path)
    assert path.read_bytes() != first


def test_the_curves_of_one_metric_and_its_sources_belong_together() -> None:
    found = curves.collect(LINES)
    assert found["eval/loss"] == {"": ([20], [1.5]), "weather": ([20], [1.0]), "shop/zh": ([20], [2.0])}
    assert found["train/loss"] == {"": ([10, 20], [2.0, 1.0])}
    assert set(found) == {"eval/loss", "train/loss", "train/learning_rate"}, "an epoch is no curve"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("loss", "train/loss"),
        ("eval_loss", "eval/loss"),
        ("eval_loss/weather", "eval/loss/weather"),
        ("eval/loss/weather", "eval/loss/weather"),
        ("tokens_per_second", "train/tokens_per_second"),
    ],
)
def test_a_curve_has_the_name_under_which_wandb_groups_it(key, name) -> None:
    assert curves.name(key) == name


def test_one_point_that_is_not_a_number_still_makes_an_image(tmp_path) -> None:
    (path,) = curves.draw(write(tmp_path / "metrics.jsonl", [{"step": 1, "loss": math.nan}]), tmp_path)
    assert path.exists()


def test_the_torn_last_line_of_a_killed_run_is_left_out(tmp_path) -> None:
    assert curves.read(write(tmp_path / "m", LINES, rest='{"step": 30, "los')) == LINES


def test_a_last_line_that_only_lacks_its_line_break_counts(tmp_path) -> None:
    assert curves.read(write(tmp_path / "m", LINES[:1], rest='{"step": 30}'))[-1] == {"step": 30}


def test_any_other_broken_line_is_named(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"m:2: no JSON .*; delete the line"):
        curves.read(write(tmp_path / "m", LINES[:1], rest="{broken\n{}\n"))


def test_without_metrics_there_are_no_images(tmp_path) -> None:
    assert curves.draw(tmp_path / "metrics.jsonl", tmp_path / "images") == []


def test_the_smoothed_curve_starts_at_the_first_value_and_is_the_weighted_mean_of_all_so_far() -> None:
    values = [4.0, 2.0, 1.0]
    weights = [0.9**2, 0.9, 1.0]
    expected = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    first, *_, last = curves.smoothed(values)
    assert first == pytest.approx(4.0) and last == pytest.approx(expected)


def test_a_value_that_is_no_number_does_not_spoil_the_smoothed_curve() -> None:
    assert curves.smoothed([1.0, math.inf, 1.0]) == pytest.approx([1.0, 1.0, 1.0])
