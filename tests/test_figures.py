"""Figures are written with whatever names and however many classes."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from capsjax import figures
from capsjax.analyses.figures import ensemble as plots_ensemble
from capsjax.analyses.figures import run as plots


def written(figure):
    buffer = io.BytesIO()
    figures.save(figure, buffer)
    return np.asarray(Image.open(buffer).convert("L"))


NAMES = [r"$\alpha$", r"\frac", "$1", "$a$ $b$", "{x}", "a_b^c", "%d", "", "\n", "<b>"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_text_and_not_formulas(name):
    rng = np.random.default_rng(0)
    labels, names = np.arange(3), (name, "b", "c")
    images = rng.random((3, 6, 6, 1))
    written(plots.confusion_matrix(labels, labels[::-1], names))
    written(plots.gallery(f"data {name}", {"input": images}, labels, labels, names))


def test_dollars_and_backslashes_are_shown():
    def drawn(text):
        figure, axes = figures.subplots(figsize=(3, 1))
        axes.set_axis_off()
        axes.text(0, 0.5, text)
        return written(figure)

    assert np.any(drawn(r"$\alpha$") != drawn("\N{GREEK SMALL LETTER ALPHA}"))
    ink = [(drawn(text) < 128).sum() for text in ("$ab$", "ab")]
    assert ink[0] > 1.5 * ink[1]


def test_numbers_at_axes_stay_powers_of_ten():
    figure, axes = figures.subplots(figsize=(4, 3))
    axes.plot([1, 2], [1e-5, 1e5])
    axes.set_yscale("log")
    axes.set_title("$x$")
    written(figure)
    assert axes.title.get_parse_math() is False
    assert all(label.get_parse_math() for label in axes.get_yticklabels())


def test_letters_that_no_font_has_are_said_once(capsys, monkeypatch):
    monkeypatch.setattr(figures, "_letters", lambda font: frozenset("ab.0123456789"))
    figures._fonts_for.cache_clear()
    for _ in range(2):
        figure, axes = figures.subplots(figsize=(3, 3))
        axes.set_title("猫ab")
        axes.set_axis_off()
        written(figure)
    figures._fonts_for.cache_clear()
    assert capsys.readouterr().err.count("no installed font has the letters 猫") == 1


def test_a_font_that_has_the_letters_is_taken(monkeypatch):
    monkeypatch.setattr(
        figures, "_letters", lambda font: frozenset("ab猫" if "Serif" in font else "ab")
    )
    figures._fonts_for.cache_clear()
    assert figures._fonts_for(frozenset("猫")) == ["DejaVu Serif"]
    figures._fonts_for.cache_clear()


@pytest.mark.parametrize("J", [41, 200, 1600])
def test_the_confusion_matrix_has_a_bounded_size(J):
    rng = np.random.default_rng(0)
    labels = np.arange(J).repeat(3)
    predictions = labels.copy()
    predictions[:9] = 7  # The classes 0, 1, 2 and 7 are confused.
    predictions[-6:] = rng.integers(0, J, 6)
    figure = plots.confusion_matrix(
        labels, predictions, [f"class {i}" for i in range(J)]
    )
    axes = figure.axes[0]
    shown = [label.get_text() for label in axes.get_xticklabels()]
    assert len(shown) == 40
    assert {"class 0", "class 1", "class 2", "class 7"} <= set(shown)
    assert shown[-1] == f"{J - 39} others"
    assert f"39 most often confused of {J} classes" in axes.get_title()
    shares = np.asarray(axes.images[0].get_array())
    row = {name: shares[i] for i, name in enumerate(shown)}
    assert row["class 0"][shown.index("class 7")] == 1
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert max(written(figure).shape) < 2_500


@pytest.mark.parametrize("scale", ["linear", "symlog"])
@pytest.mark.parametrize("values", [[0.0, 0.0], [30.0, 0.0], [13.9, 13.1], [1e-6], []])
def test_from_zero_leaves_room_around_all_values(scale, values):
    _, axes = figures.subplots(figsize=(4, 3))
    axes.plot(values)
    axes.set_yscale(scale)
    figures.from_zero(axes)
    low, high = axes.yaxis.get_transform().transform(axes.get_ylim())
    drawn = axes.yaxis.get_transform().transform(np.array([0, *values]))
    room = 0.04 * (high - low)
    assert low < drawn.min() - room
    assert high > drawn.max() + room
    assert high < drawn.max() + 2 * room or not any(values)


def test_no_marker_of_an_error_is_cut_off():
    rows = [
        {"step": 10 * n, "split": split, "loss": 1.0, "accuracy": 1 - error / 100}
        for split in ("train", "validation", "test")
        for n, error in enumerate((88.0, 20.0, 0.0))
    ]
    _, of_run = plots.learning_curves(rows).axes
    (of_ensemble,) = plots_ensemble.errors([13.9, 13.9], [13.9, 13.06], "MNIST").axes
    for axes in (of_run, of_ensemble):
        values = np.concatenate([line.get_ydata() for line in axes.lines])
        assert axes.get_ylim()[0] < 0
        assert axes.get_ylim()[1] > 1.03 * values.max()


def test_no_errors_take_no_room():
    none = np.zeros((0, 6, 6, 1))
    rows = {"input": none, "from prediction": none, "from label": none}
    figure = plots.gallery("0 of 9", rows, np.arange(0), np.arange(0), ("a", "b"))
    assert figure.get_size_inches()[1] < 2
    assert "none" in [text.get_text() for text in figure.texts]


def test_few_errors_fill_their_figure():
    images = np.zeros((2, 6, 6, 1))
    names = ("a", "b")
    figure = plots.gallery(
        "2 of 360 test images of digits misclassified",
        {"input": images, "from prediction": images, "from label": images},
        np.array([0, 1]),
        np.array([1, 0]),
        names,
    )
    assert figure.get_size_inches()[0] <= 6
    assert len([axes for axes in figure.axes if axes.images]) == 6


def test_long_names_are_shortened():
    assert figures.shortened("cat") == "cat"
    short = figures.shortened("a" * 50 + "z" * 50)
    assert len(short) == 24
    assert short.startswith("aaa")
    assert short.endswith("zzz")


def test_the_users_backend_is_left_alone():
    code = (
        "import matplotlib, sys; matplotlib.use('svg');"
        "import capsjax; from capsjax import figures;"
        "from capsjax.analyses.figures import run;"
        "assert 'matplotlib.pyplot' not in sys.modules;"
        "print(matplotlib.get_backend())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "svg"
