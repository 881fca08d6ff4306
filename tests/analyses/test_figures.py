"""Figures: what they show, read back from matplotlib."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from capsjax import data, figures
from capsjax.analyses.figures import run as plots
from capsjax.models.capsules import capsnet
from capsjax.runs.folder import RunFolder


def test_confusion_matrix_counts_labels_in_rows():
    labels = np.array([0, 0, 0, 1, 2])
    predictions = np.array([0, 0, 2, 1, 0])
    figure = plots.confusion_matrix(labels, predictions, ("a", "b", "c"))
    axes = figure.axes[0]
    shares = np.array([[2 / 3, 0, 1 / 3], [0, 1, 0], [1, 0, 0]])
    np.testing.assert_allclose(np.asarray(axes.images[0].get_array()), shares)
    counts = {text.get_position(): text.get_text() for text in axes.texts}
    # Positions are (x, y): prediction, label.
    assert counts == {(0, 0): "2", (2, 0): "1", (1, 1): "1", (0, 2): "1"}
    assert axes.get_xlabel() == "prediction"


def test_learning_curves_show_every_split():
    rows = [
        {"step": 10, "split": "train", "loss": 2.0, "accuracy": 0.5},
        {"step": 20, "split": "train", "loss": 1.0, "accuracy": 0.75},
        {"step": 20, "split": "validation", "loss": 1.5, "accuracy": 0.6},
    ]
    loss, error = plots.learning_curves(rows).axes
    assert [line.get_label() for line in loss.lines] == ["train", "validation"]
    np.testing.assert_allclose(np.asarray(loss.lines[0].get_ydata()), [2, 1])
    np.testing.assert_allclose(np.asarray(error.lines[0].get_ydata()), [50, 25])
    np.testing.assert_allclose(np.asarray(error.lines[1].get_xydata()), [[20, 40]])


@pytest.mark.parametrize("count", [0, 1, 12, 13, 48])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_gallery_titles_every_image(count, channels):
    rng = np.random.default_rng(0)
    images = rng.random((count, 6, 6, channels))
    labels = np.arange(count) % 3
    predictions = np.zeros(count, int)
    figure = plots.gallery(
        "title", {"input": images}, labels, predictions, ("a", "b", "c")
    )
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == [f"{'abc'[label]} → a" for label in labels]


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (data.load("digits"), "images of scikit-learn's digits"),
        (
            data.load("multimnist", base="digits", canvas=12, shift=2),
            "Overlapping digits (pairs of scikit-learn's digits)",
        ),
    ],
    ids=["digits", "pairs"],
)
def test_a_runs_figures_name_the_data_in_words(images, words, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "save", lambda figure, path: drawn.append(figure))
    config = SimpleNamespace(model=capsnet.Config().without_decoder())
    trained: Any = SimpleNamespace(
        test=SimpleNamespace(predictions=images.test.labels),
        model=SimpleNamespace(
            config=config, reconstruct=lambda seen, classes: (seen / 255, None)
        ),
    )
    folder = RunFolder(tmp_path)
    folder.metrics.touch()
    plots.write_all(folder, images, trained)
    titles = [title for figure in drawn if (title := figure.get_suptitle())]
    assert titles
    assert all(words in " ".join(title.split()) for title in titles)
