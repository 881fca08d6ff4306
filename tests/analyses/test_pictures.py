"""How images, signals and volumes are shown."""

import numpy as np

from capsjax.analyses.figures import pictures


def test_images_are_shown_by_their_channels():
    image = np.random.default_rng(0).uniform(size=(5, 6, 4))
    for channels in (1, 2):
        found = pictures.shown(image[:, :, :channels])
        np.testing.assert_array_equal(found, image[:, :, 0])
    for channels in (3, 4):
        found = pictures.shown(image[:, :, :channels])
        np.testing.assert_array_equal(found, image[:, :, :channels])


def test_a_volume_is_shown_along_its_depth():
    volume = np.zeros((5, 6, 16))
    volume[1, 2, 9], volume[1, 2, 3], volume[4, 5, 0] = 0.7, 0.4, 0.2
    expected = np.zeros((5, 6))
    expected[1, 2], expected[4, 5] = 0.7, 0.2
    np.testing.assert_array_equal(pictures.shown(volume), expected)


def test_the_bars_of_a_signal_are_as_high_as_it_is_loud():
    """Silence, then half as loud in one channel, then as loud as can be in another."""
    signal = np.zeros((1, 960, 2))
    signal[0, 325, 0], signal[0, 645, 1] = 0.5, 1.0
    found = pictures.shown(signal)
    assert found.shape == (96, 96)
    heights = found.sum(axis=0)
    assert np.flatnonzero(heights).tolist() == [32, 64]
    assert heights[[32, 64]].tolist() == [48, 96]
    np.testing.assert_array_equal(found, found[::-1])
