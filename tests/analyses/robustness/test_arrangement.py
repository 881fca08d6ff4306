"""What is concluded from a network's scores of scrambled faces."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
from matplotlib.patches import Rectangle

from capsjax.analyses.figures import arrangement as plots
from capsjax.analyses.matched import Cell
from capsjax.analyses.robustness import arrangement, arrangement_results
from capsjax.analyses.robustness.arrangement import (
    CORRECT,
    MOVES,
    QUESTIONS,
    Answers,
    Question,
)
from capsjax.data import Dataset, ImageSet
from capsjax.data.datasets import empty_like
from capsjax.data.sources import faces, faces_scrambled
from capsjax.data.sources.faces_drawing import draw
from capsjax.runs import results
from capsjax.runs.folder import RunFolder
from tests.runs.test_results import made_run

N = 40


def made(network, seed, called_by_question, images=N) -> list[Answers]:
    """Answers in which the first images of each question are called faces."""
    rng = np.random.default_rng(seed)
    found = []
    for question in QUESTIONS:
        called = np.arange(images) < called_by_question(question)
        margin = np.where(called, 0.5, -0.5) + rng.uniform(-0.1, 0.1, images)
        found.append(
            Answers(Cell(network, seed), question, (margin + 1) / 2, margin, called)
        )
    return found


def few_faces() -> Dataset:
    drawn = faces.drawn_for_testing(2 * N)
    images = ImageSet(draw(drawn.scenes), drawn.labels)
    return Dataset("faces", images, empty_like(images), images, faces.CLASS_NAMES, "")


def test_every_kind_is_asked():
    assert {q.kind for q in QUESTIONS} == {*faces_scrambled.KINDS, "lacking"}
    assert [q.amount for q in MOVES] == list(range(1, 9))
    assert [Question("moved", 4.0).in_words(), Question("upside_down").in_words()] == [
        "moved by 4 px",
        "upside down",
    ]


def test_scores_of_lengths_and_of_logits():
    scores = np.array([[0.2, 0.7], [0.6, 0.5]], np.float32)
    score, margin, called = arrangement.answers(scores, "lengths")
    np.testing.assert_allclose(score, [0.7, 0.5], rtol=1e-6)
    np.testing.assert_allclose(margin, [0.5, -0.1], rtol=1e-6)
    assert called.tolist() == [True, False]
    score, margin, called = arrangement.answers(5 * scores, "logits")
    np.testing.assert_allclose(score, 1 / (1 + np.exp([-2.5, 0.5])), rtol=1e-6)
    np.testing.assert_allclose(margin, [2.5, -0.5], rtol=1e-6)
    assert called.tolist() == [True, False]


def test_areas_of_perfect_blind_and_misled_scores():
    low, high = np.linspace(0, 1, 50), np.linspace(2, 3, 50)
    assert arrangement.auc(high, low) == 1
    assert arrangement.auc(low, high) == 0
    assert arrangement.auc(low, low) == 0.5
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 1, 300), rng.normal(0, 1, 200)
    u = scipy.stats.mannwhitneyu(a, b).statistic
    assert arrangement.auc(a, b) == pytest.approx(u / (300 * 200))


def test_summaries_over_seeds_and_images():
    one = made("a", 0, lambda q: 30 if q == CORRECT else 10)
    alone = arrangement.summarise(one)["a", Question("swapped")]
    low, high = scipy.stats.binomtest(10, N).proportion_ci(method="wilson")
    assert alone.called == pytest.approx((0.25, low, high))
    assert np.isinf(alone.auc.low)
    two = [*one, *made("a", 1, lambda q: 30 if q == CORRECT else 14)]
    both = arrangement.summarise(two)["a", Question("swapped")]
    # Of two values: t(0.975, 1) = 12.706 times half of their distance; and the images'.
    assert both.called.value == pytest.approx(0.3)
    images = [
        scipy.stats.binomtest(n, N).proportion_ci(method="wilson").high - n / N
        for n in (10, 14)
    ]
    expected = 0.3 + np.hypot(12.706 * 0.05, np.mean(images))
    assert both.called.high == pytest.approx(expected, rel=1e-3)
    assert both.called.low == 0
    assert np.isfinite(both.auc.low)


def test_differences_are_taken_image_by_image():
    found = made("a", 0, lambda q: 30) + made("b", 0, lambda q: 20)
    (pair,) = arrangement.differences(found)
    assert pair == ("a", "b")
    gap = arrangement.differences(found)[pair][CORRECT]
    values = np.repeat([1.0, 0.0], [10, 30])
    half = scipy.stats.sem(values) * scipy.stats.t.ppf(0.975, N - 1)
    assert gap == pytest.approx((0.25, 0.25 - half, 0.25 + half))


def test_what_is_written(tmp_path):
    loaded = few_faces()
    images = arrangement.images(loaded, N)
    assert all(part.shape == (N, 28, 28, 1) for part in images.values())
    np.testing.assert_array_equal(
        images[Question("lacking")], loaded.test.images[::2][:N]
    )
    found = made("a", 0, lambda q: 30) + made("b:c", 0, lambda q: 20)
    cells = dict.fromkeys(one.cell for one in found)
    folders = {cell: made_run(tmp_path / cell.network) for cell in cells}
    text = arrangement_results.write(tmp_path, found, folders, images)
    assert text == (tmp_path / "arrangement.md").read_text()
    rows = results.read(tmp_path / "arrangement.csv")
    assert len(rows) == 2 * len(QUESTIONS)
    assert {row["network"] for row in rows} == {"a", "b:c"}
    assert rows[0].number("called_face") == 0.75
    # These scores are a function of the difference.
    assert [row["auc"] for row in rows] == [row["auc_of_score_alone"] for row in rows]
    assert rows[0].number("auc") == 0.5
    assert "| moved by 4 px" in text
    assert "a less b:c" in text
    assert "25.0 (" in text
    captions = json.loads((tmp_path / "captions.json").read_text())
    assert len(captions) == 3
    for name in captions:
        assert (tmp_path / name).stat().st_size > 10_000


def test_figures_show_the_numbers():
    found = made("a", 0, lambda q: 30) + made("b", 0, lambda q: 10)
    summaries = arrangement.summarise(found)
    shown = {
        network: {q.amount: summaries[network, q] for q in (CORRECT, *MOVES)}
        for network in ("a", "b")
    }
    axes = plots.curves(shown).axes[0]
    points = [np.asarray(line.get_xydata()) for line in axes.lines]
    assert [line[4].tolist() for line in points] == [[4, 0.75], [4, 0.25]]
    bars = plots.bars(
        {network: {"x": summaries[network, CORRECT]} for network in ("a", "b")}
    )
    heights = [one.get_height() for one in bars.axes[0].findobj(Rectangle)]
    assert heights[:2] == [0.75, 0.25]
    pictures = plots.pictures(
        {"x": np.zeros((2, 28, 28, 1), np.uint8)}, {"a": {"x": found[0]}}
    )
    texts = [text.get_text() for one in pictures.axes for text in one.texts]
    assert texts == [f"{found[0].score[0]:.2f}", "a", f"{found[0].score[1]:.2f}", "a"]


def test_each_kind_gets_its_own_answers(tmp_path, monkeypatch):
    """A network whose score is the ink of the image."""
    asked = arrangement.images(few_faces(), 7)

    def evaluate(model, images, on_batch):
        assert model.which == "best"
        ink = images.images.mean(axis=(1, 2, 3), dtype=np.float32) / 255
        return SimpleNamespace(scores=np.stack([np.full_like(ink, 0.1), ink], axis=1))

    def restore(folder, data, which):
        model = SimpleNamespace(scores="lengths")
        return SimpleNamespace(which=which, config=SimpleNamespace(model=model))

    monkeypatch.setattr(arrangement, "evaluate", evaluate)
    monkeypatch.setattr(arrangement, "restore", restore)
    cells = [Cell("a", 0), Cell("b", 0)]
    found = arrangement.ask(
        {cell: RunFolder(tmp_path) for cell in cells}, few_faces(), asked
    )
    assert [(one.cell, one.question) for one in found] == list(
        itertools.product(cells, asked)
    )
    for one in found:
        ink = asked[one.question].mean(axis=(1, 2, 3)) / 255
        np.testing.assert_allclose(one.score, ink, rtol=1e-5)
        np.testing.assert_array_equal(one.called, ink > 0.1)
