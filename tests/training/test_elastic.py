"""Elastic distortion against SciPy's filters and interpolation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from capsjax import config as config_lib
from capsjax.config import Augment, Config, Elastic
from capsjax.errors import UserError
from capsjax.training import augment, elastic
from experiments.configs import multimnist

KEY = jax.random.key(0)
H, W = 12, 15
NOISE = np.random.default_rng(0).uniform(-1, 1, (2, H, W))


@pytest.mark.parametrize("sigma", [0.7, 2.0, 5.0])
def test_moves_are_smoothed_by_a_gaussian(sigma):
    """Which is wider than the image for the largest of these."""
    found = elastic.displacements(jnp.float32(NOISE), sigma, 34.0)
    for field, noise in zip(found, NOISE, strict=True):
        smooth = scipy.ndimage.gaussian_filter(noise, sigma, mode="constant")
        np.testing.assert_allclose(field, 34 * smooth, atol=2e-5)


def test_each_pixel_is_taken_from_where_it_moved():
    """Rows by the first field, columns by the second."""
    image = np.random.default_rng(1).uniform(size=(H, W, 2)).astype(np.float32)
    noise = jax.random.uniform(KEY, (2, H, W), minval=-1.0)
    smooth = [
        scipy.ndimage.gaussian_filter(x, 2.0, mode="constant")
        for x in np.asarray(noise, np.float64)
    ]
    # So strong that some pixels come from outside.
    places = np.mgrid[:H, :W] + 30 * np.stack(smooth)
    assert places.min() < -1
    found = jax.jit(lambda x: elastic.distort(x, KEY, sigma=2.0, alpha=30.0))(image)
    for channel in range(2):
        expected = scipy.ndimage.map_coordinates(
            image[..., channel], places, order=1, mode="grid-constant"
        )
        np.testing.assert_allclose(found[..., channel], expected, atol=2e-5)


def test_other_augmentation_draws_the_same_with_and_without():
    """A distortion too weak to be seen; examples have their own otherwise."""
    images = np.random.default_rng(2).integers(0, 256, (4, H, W, 1), np.uint8)
    images[1] = images[0]
    keys = jax.random.split(KEY, 4)

    def train(alpha, shift):
        config = Config(augment=Augment(shift=shift, elastic=Elastic(alpha=alpha)))
        call = jax.jit(lambda images: augment.for_training(images, keys, config))
        return np.asarray(call(images))

    np.testing.assert_allclose(train(1e-5, 2), train(0.0, 2), atol=1e-4)
    strong = train(34.0, 0)
    assert np.abs(strong[0] - strong[1]).max() > 0.1


def test_pairs_of_digits_cannot_be_distorted():
    """Their parts, which the decoder should draw, would stay as they are."""
    config = multimnist.get_config()
    config.augment.elastic.alpha = 34.0
    with pytest.raises(UserError, match=r"augment\.elastic\.alpha and multimnist"):
        config_lib.check(config)
