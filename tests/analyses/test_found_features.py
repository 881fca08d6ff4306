"""Features that hidden units find by themselves."""

import jax
import numpy as np
import pytest

from capsjax.analyses import found_features
from tests.launching import assert_one_line, run


def test_features_are_means_over_the_squares():
    image = np.random.default_rng(0).normal(size=found_features.SHAPE)
    found = image.reshape(-1) @ found_features.features()
    expected = image[4:6, 14:16].mean(), image[14:16, 14:16].mean()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found_features.chance_share() == pytest.approx(24 / 1800)


def test_both_classes_are_equally_frequent_and_need_both_features():
    x, y = map(np.asarray, found_features.images(jax.random.key(0), 4000))
    f = x @ found_features.features()
    assert np.mean(y) == pytest.approx(0.5, abs=0.03)
    # One feature alone, or any line, errs more often than both.
    for boundary in (f[:, 0] > -0.21, f[:, 1] > -1.15):
        assert np.mean(boundary != y) > 0.07
    both = (f[:, 0] > -0.2 * (13 / 12) ** 0.5) & (f[:, 1] > -1.1 * (13 / 12) ** 0.5)
    np.testing.assert_array_equal(both, y)


def test_angles_do_not_depend_on_the_mixture():
    features = found_features.features()
    mixed = features @ np.array([[2.0, 1.0], [-3.0, 0.5]])
    np.testing.assert_allclose(found_features.angles(mixed), 0, atol=1e-3)
    other = np.zeros_like(features)
    other[:, 0] = features[:, 0]
    other[0, 1] = 1  # A pixel outside of both squares.
    np.testing.assert_allclose(found_features.angles(other), (0, 90), atol=1e-3)


def test_more_images_find_more():
    few, many = found_features.find([50, 6000], [10.0], 1, steps=500)
    assert many.angles[0] < 55 < 65 < few.angles[0]
    assert many.share > 2 * few.share
    assert many.error < few.error - 10
    assert many.handmade_error < 5


def test_bad_flags_are_one_clear_line(tmp_path):
    output = f"--output={tmp_path}"
    assert_one_line(run("find_features", output, "--images=5"), "numbers from 20")
    assert_one_line(
        run("find_features", output, "--weight_decays=x"), "--weight_decays=x"
    )
