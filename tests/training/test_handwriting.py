"""The augmentation of handwritten digits: what each part may change, and how much."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax import config as config_lib
from capsjax.config import Config
from capsjax.errors import UserError
from capsjax.training import augment, handwriting

COUNT = 4_000


@pytest.fixture(scope="module")
def digit(digits_data):
    """A digit in the middle of 28x28 pixels."""
    image = np.zeros((28, 28, 1), np.float32)
    image[10:18, 8:16, 0] = digits_data.train.images[0, :, :, 0] / 255
    rows, columns = np.nonzero(image[:, :, 0])
    return image, (rows.min(), rows.max()), (columns.min(), columns.max())


def many(function, image):
    keys = jax.random.split(jax.random.key(0), COUNT)
    return np.asarray(jax.jit(jax.vmap(function, (None, 0)))(jnp.asarray(image), keys))


def test_images_stay_images(digit):
    found = many(handwriting.augment, digit[0])
    assert found.shape == (COUNT, 28, 28, 1)
    assert 0 <= found.min() <= found.max() <= 1
    assert np.unique(found.reshape(COUNT, -1), axis=0).shape[0] > 0.75 * COUNT


def test_half_of_the_images_turn(digit):
    """By whole degrees, up to 30 either way, half-normal."""
    image, _, _ = digit
    found = many(handwriting._rotate, image)
    unchanged = np.mean([np.array_equal(x, image) for x in found])
    # Half, and those that turn by less than a degree: P(|N(0, 1/3)| < 1/30) = 0.08.
    assert unchanged == pytest.approx(0.54, abs=0.03)


def test_shifts_keep_all_that_is_written(digit):
    """Uniform neither in amount nor, up to the margins' sizes, biased in direction."""
    image, rows, columns = digit
    found = many(handwriting._shift_within_margins, image)
    # Each moved image holds the same pixels, in the same order.
    written = image[image > 0]
    assert all(np.array_equal(np.sort(x[x > 0]), np.sort(written)) for x in found[:200])
    tops = np.array([np.nonzero(x.any(axis=(1, 2)))[0][0] for x in found])
    lefts = np.array([np.nonzero(x.any(axis=(0, 2)))[0][0] for x in found])
    assert tops.min() >= 0
    assert tops.max() == 27 - (rows[1] - rows[0])
    assert lefts.max() == 27 - (columns[1] - columns[0])
    for starts, (first, _) in ((tops, rows), (lefts, columns)):
        assert np.mean(starts < first) == pytest.approx(0.5, abs=0.06)
        assert np.abs(starts - first).mean() < 0.5 * first


def test_squished_images_are_narrower_and_keep_their_ink_by_width(digit):
    image, _, (left, right) = digit
    found = many(handwriting._squish, image)
    widths = np.array(
        [np.ptp(np.nonzero(x.max(axis=(0, 2)) > 0.2)[0]) + 1 for x in found]
    )
    full = right - left + 1
    assert widths.max() <= full + 1
    assert widths.min() >= np.floor(0.75 * full) - 2
    assert widths.mean() < full
    ink = found.sum(axis=(1, 2, 3)) / image.sum()
    assert 0.7 < ink.min() < ink.mean() < 0.97
    assert ink.max() < 1.05  # The filter overshoots a little.


def test_erased_squares(digit):
    image = np.ones((28, 28, 1), np.float32)
    found = many(handwriting._erase, image)
    assert np.all(found.sum(axis=(1, 2, 3)) == 28 * 28 - 16)
    corners = {tuple(np.argwhere(x[:, :, 0] == 0)[0]) for x in found}
    assert corners == {(i, j) for i in range(4, 23) for j in range(4, 23)}


def test_a_run_asks_for_it_by_a_field():
    config = Config()
    config.augment.shift, config.augment.handwriting = 0, True
    images = np.full((3, 28, 28, 1), 255, np.uint8)
    keys = jax.random.split(jax.random.key(1), 3)
    plain, augmented = (
        augment.for_training(jnp.asarray(images), keys, one)
        for one in (config.replace(augment=type(config.augment)(shift=0)), config)
    )
    assert np.all(np.asarray(plain) == 1)
    assert np.any(np.asarray(augmented) == 0)
    config.data.name = "multimnist"
    with pytest.raises(UserError, match=r"config.augment.handwriting and multimnist"):
        config_lib.check(config)
