"""Binarized networks: gradients by hand, and weights without clipping."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from capsjax import models
from capsjax.errors import UserError
from capsjax.models.cnns import binarized_net
from capsjax.models.cnns.binarized_net import Config


def build(config, image_shape):
    return models.build(config, image_shape, 10, nnx.Rngs(params=0))


def test_the_number_of_parameters():
    """14,025,866 weights and biases in the authors' network, here without biases."""
    model = nnx.eval_shape(lambda: build(Config(), (32, 32, 3)))
    weights = sum(models.num_parameters(each) for each in model.weights)
    units = 2 * (128 + 256 + 512 + 1024) + 10
    assert weights + units == 14_025_866
    assert models.num_parameters(model) == weights + 2 * units
    mlp = nnx.eval_shape(lambda: build(Config.preset("mnist"), (28, 28, 1)))
    weights = sum(models.num_parameters(each) for each in mlp.weights)
    assert weights == 4096 * (784 + 4096 + 4096 + 10)


def test_gradients_of_activations_by_hand():
    x = jnp.array([-1.5, -0.5, 0.0, 1.0, 1.5])
    y, vjp = jax.vjp(binarized_net.binary_tanh, x)
    np.testing.assert_array_equal(y, [-1, -1, 1, 1, 1])
    gradient = vjp(jnp.array([1.0, 2.0, 3.0, 4.0, 5.0]))[0]
    np.testing.assert_array_equal(gradient, [0, 2, 3, 4, 0])


@pytest.mark.parametrize(
    ("gradient", "expected"),
    [
        # A step against it makes weights larger, or smaller.
        ([-1, -2, -3, -4, -5], [-1, -2, -3, -4, 0]),
        ([1, 2, 3, 4, 5], [0, 2, 3, 4, 5]),
    ],
)
def test_gradients_of_weights_by_hand(gradient, expected):
    w = jnp.array([-0.3, -0.1, 0.0, 0.2, 0.3])
    y, vjp = jax.vjp(lambda w: binarized_net.binary_weights(w, 0.2, False), w)
    np.testing.assert_array_equal(y, [-1, -1, 1, 1, 1])
    np.testing.assert_array_equal(vjp(jnp.float32(gradient))[0], expected)


def test_without_clipping_weights_stay_near_the_clipped_ones():
    """At most a step apart, for plain steps with the same gradients."""
    rng = np.random.default_rng(0)
    limit, step = 0.2, 0.15
    # Weights that drift to either end, and later to the other.
    drift = np.repeat(rng.choice([-0.6, 0.6], (10, 40)), 30, axis=0)
    gradients = np.clip(drift + rng.uniform(-1, 1, (300, 40)), -1, 1)
    start = rng.uniform(-limit, limit, 40)

    @jax.jit
    def follow(start, gradients):
        def move(w, gradient):
            _, vjp = jax.vjp(lambda w: binarized_net.binary_weights(w, limit, False), w)
            w = w - step * vjp(gradient)[0]
            return w, w

        return jax.lax.scan(move, start, gradients)[1]

    found = np.asarray(follow(jnp.float32(start), jnp.float32(gradients)))
    clipped = [start]
    for gradient in gradients:
        clipped.append(np.clip(clipped[-1] - step * gradient, -limit, limit))
    expected = np.stack(clipped[1:])
    assert np.abs(expected).max() == limit
    assert limit < np.abs(found).max() <= limit + step
    assert 0 < np.abs(found - expected).max() <= step + 1e-5
    # All of them come back.
    assert np.all(found.max(axis=0) > limit)
    assert np.all(found.min(axis=0) < -limit)


@pytest.mark.parametrize("binary", [True, False])
def test_only_the_signs_of_binary_weights_count(binary):
    config = Config(
        conv_channels=(2,),
        dense_units=(4,),
        binary_weights=binary,
        binary_activations=False,
    )

    @jax.jit
    def run(images):
        model = config.build(images.shape[1:], 3, nnx.Rngs(params=0))
        scores = [model(images).scores]
        for weights in model.weights:
            weights.kernel[...] *= jnp.linspace(0.1, 2, weights.kernel.size).reshape(
                weights.kernel.shape
            )
        return scores[0], model(images).scores

    images = np.random.default_rng(0).uniform(size=(5, 4, 4, 1))
    before, after = run(jnp.float32(images))
    if binary:
        np.testing.assert_array_equal(before, after)
    else:
        assert np.abs(before - after).max() > 1e-3


def test_binary_activations_are_of_three_dense_layers_by_hand():
    """In float64: sums of signs, divided by the square root of 1 + 1e-4."""
    config = Config(conv_channels=(), dense_units=(7, 5))

    @jax.jit
    def run(images):
        model = config.build(images.shape[1:], 3, nnx.Rngs(params=0))
        scores = model(images).scores
        return [weights.kernel[...] for weights in model.weights], scores

    images = np.random.default_rng(1).uniform(size=(6, 2, 3, 1))
    kernels, scores = run(jnp.float32(images))
    x = (2 * images - 1).reshape(6, -1)
    for kernel in kernels[:-1]:
        x = np.where(x @ np.where(np.asarray(kernel) >= 0, 1, -1) >= 0, 1, -1)
    x = x @ np.where(np.asarray(kernels[-1]) >= 0, 1, -1)
    np.testing.assert_allclose(scores, x / np.sqrt(1 + 1e-4), rtol=1e-5)


def test_images_that_are_too_small():
    with pytest.raises(UserError, match="4x4 pixels cannot be halved 3 times"):
        build(Config(), (4, 4, 1))
