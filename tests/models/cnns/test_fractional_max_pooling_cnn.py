"""The CNNs of fractional max pooling: sizes and counts of the paper."""

import itertools

import jax
import numpy as np
import pytest
from flax import nnx

from capsjax import models
from capsjax.errors import UserError
from capsjax.models.cnns import fractional_max_pooling


def build(image_shape=(28, 28, 1), **changes):
    config = fractional_max_pooling.Config(**changes)
    return models.build(config, image_shape, 10, nnx.Rngs(params=0))


def test_sizes():
    """The paper's inputs have 36x36 pixels for MNIST and 94x94 for CIFAR."""
    sizes = fractional_max_pooling.sizes(6, 2**0.5)
    assert sizes == [(35, 25), (24, 17), (16, 11), (10, 7), (6, 4), (3, 2)]
    for (_, after), (before, _) in itertools.pairwise(sizes):
        assert before == after - 1  # A 2x2 convolution comes in between.
    assert fractional_max_pooling.sizes(12, 2 ** (1 / 3))[0] == (93, 74)


def test_the_number_of_parameters():
    """2x2 kernels from n to n + 1 times K channels, a 1x1 one, and a dense layer."""
    model = nnx.eval_shape(build)
    K = 32
    kernels = 4 * (K + sum(n * (n + 1) for n in range(1, 7)) * K**2) + 7 * 8 * K**2
    biases = sum(range(1, 9)) * K
    assert models.num_parameters(model) == kernels + biases + (8 * K + 1) * 10
    assert models.num_parameters(model) == 519_946


def test_regions_are_random_with_keys_and_dropout_needs_training():
    """A pass with keys differs from the next; fixed regions are the same again."""
    model = build((5, 5, 1), channels=4, pools=2, dropout_rate=0.9)
    image = np.random.default_rng(0).uniform(size=(1, 5, 5, 1)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 64)

    @nnx.jit
    def scores(model, images):
        return [
            model(images, keys=keys, train=False).scores,
            model(images, keys=keys, train=True).scores,
            model(images[:2]).scores,
        ]

    passes, training, fixed = scores(model, np.repeat(image, 64, axis=0))
    np.testing.assert_array_equal(fixed[0], fixed[1])
    assert len(np.unique(passes, axis=0)) > 8
    # With most units dropped, training varies more.
    assert np.std(training, axis=0).mean() > 2 * np.std(passes, axis=0).mean()


def test_ratios_that_shrink_nothing():
    with pytest.raises(UserError, match=r"ratio of 1\.2 is too small"):
        build((5, 5, 1), pools=2, ratio=1.2)


def test_images_that_are_too_large():
    with pytest.raises(UserError, match="28x28 pixels are larger than the 25x25"):
        build(pools=5)
