"""Corruptions after MNIST-C."""

import colorsys

import numpy as np
import pytest

from capsjax.data import overlays
from capsjax.data.corruptions import CORRUPTIONS, corrupted
from capsjax.errors import UserError


@pytest.fixture(scope="module")
def digits(digits_data):
    """As large as MNIST's, with a margin."""
    large = digits_data.test.images[:12].repeat(3, 1).repeat(3, 2)
    return np.pad(large, ((0, 0), (2, 2), (2, 2), (0, 0)))


def grey(value, count=1, shape=(28, 28, 1)):
    return np.full((count, *shape), value, np.uint8)


def test_there_are_mnist_cs_fifteen():
    assert len(CORRUPTIONS) == 15
    numbers = [one.number for one in CORRUPTIONS.values()]
    assert numbers == list(range(15))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_is_corrupted_alike_in_every_batch(digits, name):
    whole = corrupted(digits, name, seed=3)
    some = np.array([7, 2])
    np.testing.assert_array_equal(
        corrupted(digits[some], name, seed=3, numbers=some), whole[some]
    )
    assert whole.dtype == np.uint8
    # The class remains to be seen, but hardly an image stays as it was.
    changed = np.any(whole != digits, axis=(1, 2, 3))
    assert changed.all()
    if name not in ("stripe", "brightness", "scale", "canny_edges"):
        assert np.any(corrupted(digits, name, seed=4) != whole)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(8, 8, 1), (11, 17, 3), (40, 36, 2)])
def test_any_size_and_channels(name, shape):
    images = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    for severity in (1, len(CORRUPTIONS[name].levels)):
        found = corrupted(images, name, severity=severity)
        assert found.shape == images.shape
        assert np.any(found != images)


def test_noise_has_its_moments():
    """Poisson's mean is lambda; below 1 hardly anything is clipped at severity 1."""
    images = grey(51, 40)  # 0.2, so that Poisson(12) has variance 12 / 60^2.
    values = corrupted(images, "shot_noise", severity=1) / 255
    assert values.mean() == pytest.approx(0.2, abs=0.002)
    assert values.var() == pytest.approx(12 / 60**2, rel=0.03)
    # At severity 5 the values are thirds.
    steps = np.unique(corrupted(images, "shot_noise"))
    np.testing.assert_array_equal(steps, [0, 85, 170, 255])
    found = corrupted(grey(100, 40), "impulse_noise")
    for value in (0, 255):
        assert np.mean(found == value) == pytest.approx(0.17 / 2, abs=0.005)
    assert np.mean(found == 100) == pytest.approx(0.83, abs=0.005)


def test_brightness_is_the_value_of_hsv(digits):
    expected = np.minimum(digits.astype(float) + 127.5, 255)
    np.testing.assert_allclose(corrupted(digits, "brightness"), expected, atol=0.51)
    colours = np.random.default_rng(1).integers(0, 256, (1, 5, 4, 3), np.uint8)
    colours[0, 0, 0] = 0
    found = corrupted(colours, "brightness", severity=2) / 255
    for pixel, brighter in zip(
        colours.reshape(-1, 3), found.reshape(-1, 3), strict=True
    ):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255))
        wanted = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.2, 1))
        np.testing.assert_allclose(brighter, wanted, atol=0.0021)


def test_stripes_and_moves_are_exact(digits):
    striped = corrupted(digits, "stripe")
    np.testing.assert_array_equal(striped[:, :, 7:21], digits[:, :, 7:21])
    for columns in (slice(0, 7), slice(21, 28)):
        np.testing.assert_array_equal(
            striped[:, :, columns], 255 - digits[:, :, columns]
        )
    signs = set()
    for image, moved in zip(digits, corrupted(digits, "translate"), strict=True):
        padded = np.pad(image, ((3, 3), (3, 3), (0, 0)))
        found = [
            (down, right)
            for down in (-3, 3)
            for right in (-3, 3)
            if np.array_equal(
                padded[3 - down : 31 - down, 3 - right : 31 - right], moved
            )
        ]
        assert len(found) == 1
        signs |= set(found)
    assert len(signs) > 1


def test_moves_about_the_centre_are_in_closed_form():
    """Of a plane, bilinear sampling gives the plane's values at the mapped places."""
    row, column = np.indices((28, 28)) - 13.5
    image = np.rint(128 + 3 * row + 2 * column).astype(np.uint8)[None, :, :, None]
    inner = np.hypot(row, column) < 6

    def values(rows, columns):
        return (128 + 3 * rows + 2 * columns)[inner]

    scaled = corrupted(image, "scale", severity=5)[0, :, :, 0][inner]
    np.testing.assert_allclose(scaled, values(2 * row, 2 * column), atol=0.51)
    for name, at in {
        "rotate": lambda a: values(
            np.cos(a) * row + np.sin(a) * column, np.cos(a) * column - np.sin(a) * row
        ),
        "shear": lambda a: values(np.cos(a) * row, column - np.sin(a) * row),
    }.items():
        found = corrupted(image, name)[0, :, :, 0][inner]
        errors = [np.abs(found - at(angle)).max() for angle in (-0.4, 0.4)]
        assert min(errors) < 1 < max(errors), name


def test_blurs_keep_the_mean_and_glass_swaps_near_pixels():
    images = np.zeros((20, 28, 28, 1), np.uint8)
    images[:, 12:16, 12:16] = 255
    for name in ("glass_blur", "motion_blur"):
        found = corrupted(images, name)
        assert found.mean() == pytest.approx(images.mean(), rel=0.02), name
        assert found.max() < 255, name
    # ImageMagick's line has 21 pixels; at 45 degrees at most 15 rows further.
    rows = np.flatnonzero(corrupted(images, "motion_blur").any(axis=(0, 2, 3)))
    assert rows.min() < 10
    assert rows.max() > 17
    # Along the line the light spreads to one side, that of smaller columns.
    columns = np.flatnonzero(corrupted(images, "motion_blur").any(axis=(0, 1, 3)))
    assert columns.max() == 15


def test_fog_dims_and_does_not_exceed_the_brightest(digits):
    found = corrupted(digits, "fog")
    assert found.max() <= digits.max()
    black = corrupted(grey(0), "fog")
    np.testing.assert_array_equal(black, 0)
    map_of = overlays.plasma(200, 1.4, np.random.default_rng(0))
    assert map_of.shape == (256, 256)
    assert (map_of.min(), map_of.max()) == (0, 1)
    # Neighbours differ less than points far apart, most with a strong decay.
    smooth = overlays.plasma(200, 3.0, np.random.default_rng(0))
    near = [np.abs(np.diff(m, axis=0)).mean() for m in (map_of, smooth)]
    assert near[1] < near[0] < map_of.std()


def test_a_soft_line():
    """Its profile is log(1 - d / 2.3) + 1, cut at zero."""
    found = overlays.line((9, 20), (3, 4), (15, 4), 1.0)
    profile = np.clip(
        np.log(1 - np.abs(np.arange(9) - 4).clip(max=2.29) / 2.3) + 1, 0, 1
    )
    np.testing.assert_allclose(found[:, 8], profile)
    assert not found[:, :3].any()
    assert not found[:, 15:].any()
    dotted = overlays.dotted_line((28, 28), 1.0, np.random.default_rng(0))[..., 0]
    # It ends one pixel before the last, as in MNIST-C.
    np.testing.assert_array_equal(dotted[:, :27].any(axis=0), np.arange(27) // 2 % 2)


def test_edges_surround_a_square():
    image = np.zeros((20, 20))
    image[6:14, 6:14] = 1
    edges = overlays.canny(image, 1.0)
    # Nothing in the middle, nothing far outside; a closed ring about the border.
    assert not edges[8:12, 8:12].any()
    assert not edges[:4].any()
    assert edges[4:8, 10].sum() >= 1
    for turned in (np.rot90(edges), edges.T):
        np.testing.assert_array_equal(turned, edges)
    # Pixels of a smoothed step of height h have a gradient of about 2.7 h: at 0.05 it
    # lies between the thresholds, and counts only where it goes on from a strong one.
    step = np.zeros((20, 20))
    step[:, 10:] = 0.05
    assert not overlays.canny(step, 1.0).any()
    step[:, 10:] = np.linspace(0.2, 0.05, 20)[:, None]
    assert overlays.canny(step, 1.0)[1:-1].any(axis=1).all()


def test_wrong_arguments_are_refused(digits):
    with pytest.raises(
        UserError, match=r"no corruption 'snow'; choose from shot_noise"
    ):
        corrupted(digits, "snow")
    with pytest.raises(
        UserError, match=r"stripe has no severity 2; give one from 1 to"
    ):
        corrupted(digits, "stripe", severity=2)
    with pytest.raises(UserError, match=r"40x1; leave corruptions out"):
        corrupted(grey(0, shape=(1, 40, 1)), "shot_noise")
