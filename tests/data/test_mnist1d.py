"""MNIST-1D: the numbers are those of the released package."""

import numpy as np
import pytest

from capsjax import data
from capsjax.data.sources import mnist1d
from capsjax.errors import UserError


def test_the_signals_are_those_of_the_package():
    """mnist1d 0.0.2.post1, make_dataset(): its first and last numbers, and sums."""
    signals, labels = mnist1d._made(np.random.RandomState(42))
    assert signals.shape == (5_000, 40)
    np.testing.assert_allclose(
        signals[0, :4], [-0.33200567, -0.47191037, -0.77869708, -1.00974083], rtol=1e-7
    )
    np.testing.assert_allclose(
        signals[-1, -4:], [0.44723289, 0.65987565, 0.87773435, 1.19315184], rtol=1e-7
    )
    assert np.abs(signals).sum() == pytest.approx(148316.17264806535)
    assert (signals * np.arange(40)).sum() == pytest.approx(26954.090994414175)
    assert labels[:10].tolist() == [2, 6, 4, 5, 6, 6, 6, 0, 3, 1]


def test_pixels_are_the_halves_of_the_signals():
    loaded = data.load("mnist1d")
    signals, labels = mnist1d._made(np.random.RandomState(42))
    images = np.concatenate([loaded.train.images, loaded.test.images])
    assert images.shape == (5_000, 1, 40, 2)
    assert (len(loaded.train), len(loaded.test)) == (4_000, 1_000)
    assert not np.any(images.min(axis=-1))
    signed = images[:, 0, :, 0].astype(int) - images[:, 0, :, 1]
    assert np.abs(signed).max() == 255
    found = signed * np.abs(signals).max() / 255
    np.testing.assert_allclose(found, signals, atol=np.abs(signals).max() / 510 + 1e-9)
    both = np.concatenate([loaded.train.labels, loaded.test.labels])
    np.testing.assert_array_equal(both, labels)


def test_signals_are_not_resized():
    with pytest.raises(UserError, match="no image_size"):
        data.load("mnist1d", image_size=20)
