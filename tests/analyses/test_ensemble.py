"""Several models together."""

import numpy as np
import pytest

from capsjax import data
from capsjax.analyses import ensemble
from capsjax.analyses.figures import ensemble as plots_ensemble
from capsjax.runs import results
from capsjax.runs.folder import RunFolder
from capsjax.training.train import train


def test_scores_are_summed():
    """Each model errs on one image of three; together they err on none."""
    right = np.eye(3, dtype=np.float32)
    scores = [
        np.where(right[wrong][:, None], 0.4 * np.roll(right, 1, axis=1), 0.9 * right)
        for wrong in range(3)
    ]
    found = ensemble.together(scores, np.arange(3))
    np.testing.assert_allclose(found.single, [100 / 3] * 3)
    # The first is as sure of its error as the second is of the right class not.
    np.testing.assert_allclose(found.first, [100 / 3, 0, 0])
    assert found.low == pytest.approx(0)
    assert found.high > 30  # Three images say little.


def test_a_tie_goes_to_no_one_by_rounding():
    scores = [np.array([[0.1, 0.3]], np.float32), np.array([[0.3, 0.1]], np.float32)]
    assert ensemble.together(scores, np.array([0])).first[1] == 0


def test_many_models_have_a_table_and_a_figure_of_bounded_size():
    images = data.load("digits", validation_examples=100)
    errors = [float(n) for n in range(100)]
    text = ensemble.table(ensemble.Ensemble(errors, errors, 0.0, 1.0), images)
    assert "8.00, 9.00 and 90 more, in ensemble.csv. On 360" in text
    (axes,) = plots_ensemble.errors(errors, errors, "digits").axes
    assert len(axes.get_xticks()) < 15
    assert all(float(tick).is_integer() for tick in axes.get_xticks())


def test_a_trained_ensemble(tmp_path, tiny_config):
    images = data.load("digits", validation_examples=100)
    folders = []
    for seed in range(2):
        tiny_config.seed = seed
        folders.append(RunFolder(tmp_path / f"seed{seed}"))
        train(tiny_config, images, folders[-1])
    text = ensemble.write(tmp_path, folders, images)
    rows = results.read(tmp_path / "ensemble.csv")
    assert [row["seed"] for row in rows] == ["0", "1"]
    assert [row["members"] for row in rows] == ["1", "2"]
    # One model together is that model, as training itself found it.
    assert float(rows[0]["ensemble_error_percent"]) == pytest.approx(
        float(rows[0]["test_error_percent"]), abs=1e-3
    )
    assert "2 models together" in text
    assert (tmp_path / "ensemble.png").stat().st_size > 5_000
