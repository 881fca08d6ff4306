"""A column of a multi-column network, and the width of its digits."""

import jax
import numpy as np
import pytest
from flax import nnx

from capsjax import models
from capsjax.errors import UserError
from capsjax.models.cnns import multi_column_dnn
from capsjax.models.cnns.multi_column_dnn import with_digit_width


def build(config, image_shape):
    return models.build(config, image_shape, 10, nnx.Rngs(params=0))


def test_the_number_of_parameters():
    """29 - 3 = 26, 13, 13 - 4 = 9, 3 pixels; and 30, 15, 14, 7, 5, 3, 2, 1."""
    config = multi_column_dnn.Config()
    model = nnx.eval_shape(lambda: build(config, (28, 28, 1)))
    layers = [16 * 20 + 20, 25 * 20 * 40 + 40, 9 * 40 * 150 + 150, 151 * 10]
    assert models.num_parameters(model) == sum(layers) == 76_040
    config = multi_column_dnn.Config.preset("cifar10")
    model = nnx.eval_shape(lambda: build(config, (32, 32, 3)))
    convolutions = 300 * (9 * 3 + 2 * 4 * 300 + 9 * 300 + 4)
    dense = 301 * 300 + 301 * 100 + 101 * 10
    assert models.num_parameters(model) == convolutions + dense


@pytest.mark.parametrize("width", [10, 14, 20])
def test_every_digit_becomes_as_wide(width):
    """Bars of several widths and places, and an empty image."""
    images = np.zeros((4, 6, 28, 1), np.float32)
    images[0, 1:5, 4:24] = 1
    images[1, 1:5, 20:27] = 0.8
    images[2, 2, 3] = 0.15  # Too faint to count.
    images[2, 1:5, 10:22] = 1
    found = np.asarray(
        jax.jit(with_digit_width, static_argnums=(1, 2))(images, width, 29)
    )
    assert found.shape == (4, 6, 29, 1)
    assert not np.any(found[3])
    middle = (29 - width) // 2
    for image, height in zip(found[:3, :, :, 0], (1, 0.8, 1), strict=True):
        row = image[3] / height
        # A bar's ink stays, and its edges lie where a digit should end.
        np.testing.assert_allclose(row.sum(), width, atol=0.6)
        np.testing.assert_allclose(row[middle + 2 : middle + width - 2], 1, atol=1e-5)
        np.testing.assert_allclose(row[: middle - 2], 0, atol=1e-5)
        np.testing.assert_allclose(row[middle + width + 2 :], 0, atol=1e-5)


def test_a_width_that_is_the_digits_own_moves_it_only():
    images = np.zeros((1, 3, 28, 1), np.float32)
    images[0, :, 2:12, 0] = np.random.default_rng(0).uniform(0.3, 1, (3, 10))
    found = jax.jit(with_digit_width, static_argnums=(1, 2))(images, 10, 29)
    np.testing.assert_allclose(found[0, :, 9:19], images[0, :, 2:12], atol=1e-6)


def test_columns_see_digits_of_their_width():
    """A column with a width is the plain one on digits that were made that wide."""
    images = np.zeros((2, 8, 8, 1), np.float32)
    images[:, 1:7, 2:5] = np.random.default_rng(0).uniform(size=(2, 6, 3, 1))
    config = multi_column_dnn.Config(
        padded_size=9,
        conv_channels=(4,),
        kernel_sizes=(4,),
        pool_sizes=(2,),
        dense_units=(8,),
    )
    model = build(config, (8, 8, 1))
    call = nnx.jit(lambda model, images: model(images).scores)
    scores = call(model, images)
    padded = np.pad(images, [(0, 0), (0, 1), (0, 1), (0, 0)])
    np.testing.assert_allclose(call(model, padded), scores, atol=1e-6)
    wide = jax.jit(with_digit_width, static_argnums=(1, 2))(images, 6, 9)
    expected = call(model, np.pad(wide, [(0, 0), (0, 1), (0, 0), (0, 0)]))
    model.digit_width = 6
    found = call(model, images)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found - scores).max() > 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"padded_size": 20}, "28x28 pixels .* do not fit into padded_size 20"),
        ({"digit_width": 30}, "width 30 do not fit into padded_size 29"),
        ({"pool_sizes": (2,)}, "1 pool_sizes"),
        ({"kernel_sizes": (4, 14)}, "window of 3 pixels does not fit into 0"),
    ],
)
def test_settings_that_do_not_fit(changes, message):
    with pytest.raises(UserError, match=message):
        build(multi_column_dnn.Config(**changes), (28, 28, 1))
