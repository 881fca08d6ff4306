"""Network in network, and its form with maxout and batch normalisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from capsjax import models
from capsjax.errors import UserError
from capsjax.models.cnns import maxout_nin, nin

CIFAR10, MNIST = (32, 32, 3), (28, 28, 1)


def build(config, image_shape=MNIST):
    return models.build(config, image_shape, 10, nnx.Rngs(params=0))


def counts(config, image_shape):
    """Parameters of each convolution and its normalisation."""
    model = nnx.eval_shape(lambda: build(config, image_shape))
    return [models.num_parameters(conv) for block in model.blocks for conv in block]


def test_the_numbers_of_parameters():
    """The paper says 0.97M on CIFAR-10. For MNIST, by the authors' settings."""
    found = counts(nin.Config(), CIFAR10)
    assert found[:3] == [192 * (75 + 1), 160 * (192 + 1), 96 * (160 + 1)]
    assert found[3:6] == [192 * (25 * 96 + 1), 192 * 193, 192 * 193]
    assert found[6:] == [192 * (9 * 192 + 1), 192 * 193, 10 * 193]
    assert sum(found) == 966_986
    found = counts(nin.Config.preset("mnist"), MNIST)
    assert found[:3] == [96 * (25 + 1), 64 * (96 + 1), 48 * (64 + 1)]
    assert found[3:6] == [128 * (25 * 48 + 1), 96 * 129, 48 * 97]
    assert found[6:] == [128 * (25 * 48 + 1), 96 * 129, 10 * 97]


def test_the_numbers_of_parameters_with_maxout():
    """Five maps for each unit, and two numbers of the normalisation for each map."""
    found = counts(maxout_nin.Config(), CIFAR10)
    assert found[:3] == [192 * (75 + 2), 5 * 160 * (192 + 2), 5 * 96 * (160 + 2)]
    assert found[6:] == [192 * (9 * 192 + 2), 5 * 192 * 194, 5 * 10 * 194]
    assert sum(found) == 1_609_508


@pytest.mark.parametrize(
    "config",
    [
        nin.Config(channels=(4, 3), kernel_sizes=(1,)),
        maxout_nin.Config(channels=(4, 3), kernel_sizes=(1,), pieces=2),
    ],
)
def test_a_block_is_a_perceptron_at_each_place(config):
    """In float64, where the first kernel is of one pixel."""

    @jax.jit
    def kernels_and_scores(images):
        model = config.build(images.shape[1:], 5, nnx.Rngs(params=0))
        scores = model(images).scores
        return [block.conv.kernel[...] for block in model.blocks[0]], scores

    x = np.random.default_rng(0).normal(size=(2, 3, 4, 2))
    kernels, scores = kernels_and_scores(jnp.float32(x))
    for place, kernel in enumerate(kernels):
        x = x @ np.asarray(kernel, np.float64)[0, 0]
        if config.name == "nin":
            x = np.maximum(x, 0)
            continue
        # The running averages are 0 and 1.
        x = x / np.sqrt(1 + 1e-5)
        if place:
            x = np.max(x.reshape(*x.shape[:3], -1, 2), axis=4)
    np.testing.assert_allclose(scores, x.mean(axis=(1, 2)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("module", [nin, maxout_nin])
def test_settings_that_do_not_fit(module):
    with pytest.raises(UserError, match="7 channels and 3 kernel_sizes"):
        build(module.Config(channels=(4,) * 7))
    with pytest.raises(UserError, match="3 pixels does not fit into 2; images are"):
        build(module.Config(), (5, 28, 1))
