"""Comparing models that were stopped at the same accuracy."""

import dataclasses
import json

import numpy as np
import pytest
from matplotlib.legend import Legend

from capsjax import data
from capsjax.analyses import affnist as robustness
from capsjax.analyses import intervals, matched
from capsjax.analyses.affnist import CAPSNET, CNN, Outcome
from capsjax.analyses.figures import affnist as plots_robustness
from capsjax.data import ImageSet
from capsjax.data.derived.affnist import Transformed
from capsjax.errors import UserError
from capsjax.runs import results
from capsjax.runs.folder import RunFolder, write_json
from capsjax.training.train import train
from tests.runs.test_results import made_run
from tests.tables import committed_columns, unpadded


def training(tmp_path, reachable):
    """Pretends to train: each model gets to the target or as far as it can."""
    calls = []

    def train(targets):
        calls.append(dict(targets))
        folders = {}
        for name, target in targets.items():
            folders[name] = folder = made_run(tmp_path / f"{name}{target}")
            best = reachable[name] if reachable[name] < target else target + 0.001
            result = {"best_validation_accuracy": best}
            write_json(folder.result, folder.load_result() | result)
        return folders

    return train, calls


@pytest.mark.parametrize(
    ("reachable", "again"),
    [
        ({CAPSNET: 0.995, CNN: 0.999}, None),
        ({CAPSNET: 0.98, CNN: 0.999}, {CNN: 0.98}),
        ({CAPSNET: 0.999, CNN: 0.97}, {CAPSNET: 0.97}),
        ({CAPSNET: 0.98, CNN: 0.97}, {CAPSNET: 0.97}),
        ({CAPSNET: 0.97, CNN: 0.97}, None),
    ],
)
def test_the_better_model_is_trained_anew_up_to_what_both_reach(
    tmp_path, reachable, again
):
    fake, calls = training(tmp_path, reachable)
    folders = matched.train_to_same_accuracy(fake, (CAPSNET, CNN), 0.99)
    assert calls == [{CAPSNET: 0.99, CNN: 0.99}, *([again] if again else [])]
    for name, folder in folders.items():
        target = (again or {}).get(name, 0.99)
        assert folder.path.name == f"{name}{target}"


def test_a_run_without_validation_is_refused(tmp_path):
    with pytest.raises(UserError, match="no validation images"):
        matched.best_accuracy(made_run(tmp_path))


def made_outcomes(tmp_path) -> tuple[list[Outcome], Transformed]:
    rng = np.random.default_rng(0)
    images = ImageSet(
        rng.integers(0, 256, (60, 40, 40, 1), dtype=np.uint8),
        np.arange(60, dtype=np.int32) % 10,
    )
    transformed = Transformed(images, np.arange(60) % 30, "affNIST generated here")
    outcomes = []
    for name, share in ((CAPSNET, 0.75), (CNN, 0.5)):
        clean, affnist = np.arange(100) < 90, np.arange(60) < 60 * share
        outcomes.append(
            Outcome(
                name=name,
                folder=made_run(tmp_path / name, stop_at_validation_accuracy=0.9),
                validation=0.905,
                step=400,
                clean=intervals.accuracy(clean),
                affnist=intervals.accuracy(affnist, transformed.originals),
                clean_right=clean,
                affnist_right=affnist,
            )
        )
    return outcomes, transformed


def test_rows_and_table(tmp_path):
    outcomes, transformed = made_outcomes(tmp_path)
    text = robustness.write(tmp_path, outcomes, transformed)
    rows = results.read(tmp_path / "affnist.csv")
    assert rows[0].keys() >= committed_columns("affnist/affnist.csv")
    assert [row["model"] for row in rows] == [CAPSNET, CNN]
    assert [float(row["affnist_accuracy"]) for row in rows] == [0.75, 0.5]
    for row in rows:
        assert "generated here" in row["affnist"]
        assert row["target_validation_accuracy"] == "0.9"
    assert text == (tmp_path / "affnist.md").read_text()
    paper = ["99.23 / 79", "99.22 / 66"]
    for words in ("75.00 (", *paper, "is +25.00 percentage points", "generated here"):
        assert words in text


def test_the_figure_shows_both_models_and_the_papers_numbers(tmp_path):
    figure = plots_robustness.comparison(*made_outcomes(tmp_path))
    axes = figure.subfigs[0].axes[0]
    labels = axes.get_legend_handles_labels()[1]
    assert sorted(labels) == [
        *("CNN, 400 steps", "CNN, the paper (published affNIST)"),
        *("CapsNet, 400 steps", "CapsNet, the paper (published affNIST)"),
    ]
    heights = {
        round(float(y), 1) for line in axes.lines for y in np.asarray(line.get_ydata())
    }
    assert {79.0, 66.0, 75.0, 50.0, 90.0} <= heights
    figure.draw_without_rendering()
    (legend,) = (one.get_window_extent() for one in axes.findobj(Legend))
    points = [line.get_xydata() for line in axes.lines]
    assert not legend.count_contains(axes.transData.transform(np.concatenate(points)))
    assert not any(legend.overlaps(text.get_window_extent()) for text in axes.texts)
    # 15 images are recognised by the CapsNet alone, none by the CNN alone.
    shown = [bool(grid.images) for grid in figure.subfigs[1].axes]
    assert shown == [True] * 12 + [False] * 12


@pytest.mark.parametrize(
    ("base", "published", "clean", "turned"),
    [
        ("mnist", True, "expanded MNIST", "affNIST"),
        ("mnist", False, "expanded MNIST", "generated affNIST"),
        (
            "digits",
            False,
            "expanded scikit-learn's digits",
            "generated affNIST of scikit-learn's digits",
        ),
    ],
)
def test_what_is_generated_or_stands_in_is_called_so(
    tmp_path, base, published, clean, turned
):
    outcomes, transformed = made_outcomes(tmp_path)
    transformed = dataclasses.replace(transformed, published=published)
    outcomes = [
        dataclasses.replace(
            o, folder=made_run(tmp_path / o.name / base, **{"data.base": base})
        )
        for o in outcomes
    ]
    text = robustness.write(tmp_path, outcomes, transformed)
    header = unpadded(text).splitlines()[0]
    assert f"| {clean}, % (95 %)" in header
    assert f"| {turned}, % (95 %)" in header
    assert f"On {turned} the CapsNet's accuracy" in text
    assert "on the published affNIST." in text
    caption = json.loads((tmp_path / "captions.json").read_text())["affnist.png"]
    assert f"Accuracy on {clean}, as trained on, and on {turned}, of both" in caption
    figure = plots_robustness.comparison(outcomes, transformed)
    upper, lower = figure.subfigs
    ticks = [label.get_text() for label in upper.axes[0].get_xticklabels()]
    assert [tick.split("\n")[0] for tick in ticks] == [
        f"{clean}, as in training",
        turned,
    ]
    assert (
        lower.get_suptitle() == f"Images of {turned} that only one of them recognises"
    )


def test_training_stops_at_the_accuracy(tmp_path, tiny_config):
    """It stops at the first evaluation that finds it, and so does a resumed run."""
    images = data.load("digits", validation_examples=100)
    tiny_config.max_steps, tiny_config.evaluate_every_steps = 40, 5
    tiny_config.stop_at_validation_accuracy = 0.15
    folder = RunFolder(tmp_path / "run")
    trained = train(tiny_config, images, folder)
    assert trained is not None
    result = trained.record
    assert result["reached_validation_accuracy"] is True
    assert result["steps"] < 40
    assert result["steps"] % 5 == 0
    looks = [
        (row["step"], row["accuracy"])
        for row in map(json.loads, folder.metrics.read_text().splitlines())
        if row["split"] == "validation"
    ]
    *before, (last_step, last_accuracy) = looks
    assert all(accuracy < 0.15 for _, accuracy in before)
    assert last_accuracy >= 0.15
    assert last_step == result["steps"]
    folder.result.unlink()
    resumed = train(tiny_config, images, folder, resume=True)
    assert resumed is not None
    for key in ("steps", "params_sha256"):
        assert resumed.record[key] == result[key]

    outcome = robustness.test(
        CAPSNET, folder, images, Transformed(images.test, np.arange(360), "the same")
    )
    assert outcome.step == result["steps"]
    assert outcome.clean.value == pytest.approx(result["test_accuracy"])
    assert outcome.affnist.value == pytest.approx(result["test_accuracy"])


def test_stopping_needs_validation_images(tmp_path, tiny_config):
    tiny_config.stop_at_validation_accuracy = 0.9
    with pytest.raises(UserError, match=r"no validation images.*validation_examples"):
        train(tiny_config, data.load("digits"), RunFolder(tmp_path / "run"))
