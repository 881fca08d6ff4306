"""DropConnect: its masks, and its mean over them held against Monte Carlo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from capsjax.layers.drop_connect import DropConnect, mean_relu_of_gaussian


def make(kernel, bias, rate):
    kernel = jnp.float32(kernel)
    layer = DropConnect(
        kernel.shape[0],
        kernel.shape[1],
        rate,
        place=3,
        kernel_init=lambda *_: kernel,
        rngs=nnx.Rngs(0),
    )
    layer.bias[...] = jnp.float32(bias)
    return layer


def test_masks_are_independent():
    """Weights are powers of two, so that a sum tells which of them are kept."""
    n_in, n_out, B = 5, 3, 4_000
    powers = 2.0 ** np.arange(n_in + 1)
    layer = make(np.tile(powers[:n_in, None], n_out), np.full(n_out, powers[-1]), 0.25)
    keys = jax.random.split(jax.random.key(0), B)
    x = jnp.ones((B, n_in))
    call = jax.jit(lambda x, keys: layer(x, keys))
    sums = np.asarray(call(x, keys))
    kept = (sums[..., None] // powers) % 2
    np.testing.assert_allclose(kept.mean(axis=0), 0.75, atol=0.035)
    # Of different connections, and of different examples.
    flat = kept.reshape(B, -1)
    correlations = np.corrcoef(flat.T) - np.eye(flat.shape[1])
    assert np.abs(correlations).max() < 0.08
    assert np.abs(np.corrcoef(flat[:-1, 0], flat[1:, 0])[0, 1]) < 0.08
    # An example's mask is that of its key, whatever its place in the batch.
    np.testing.assert_array_equal(call(x, keys[::-1])[::-1], sums)


@pytest.mark.parametrize("mean", [-1.0, 0.3, 2.0])
def test_the_mean_relu_of_a_gaussian(mean):
    """By Simpson's rule over ten standard deviations on each side."""
    u = mean + 1.5 * np.linspace(-10, 10, 20_001)
    density = np.exp(-(((u - mean) / 1.5) ** 2) / 2) / (1.5 * np.sqrt(2 * np.pi))
    values = np.maximum(u, 0) * density
    step = u[1] - u[0]
    simpson = step / 3 * (values[0] + values[-1] + 4 * values[1::2].sum())
    simpson += step / 3 * 2 * values[2:-1:2].sum()
    found = jax.jit(mean_relu_of_gaussian)(jnp.float32(mean), jnp.float32(1.5**2))
    np.testing.assert_allclose(found, simpson, rtol=1e-5)


def test_without_keys_it_is_the_mean_over_masks():
    """Of many masks in NumPy; a sum of 300 connections is nearly Gaussian."""
    rng = np.random.default_rng(0)
    n_in, n_out, rate, samples = 300, 3, 0.4, 20_000
    kernel, bias = rng.normal(size=(n_in, n_out)), rng.normal(size=n_out)
    x = rng.uniform(size=n_in)
    products = np.concatenate([x[:, None] * kernel, bias[None]])
    # Sums near zero, where the mean of the ReLU is far from the ReLU of the mean.
    products[:n_in] -= products.sum(axis=0) / n_in
    kernel = products[:n_in] / x[:, None]
    sums = np.stack(
        [(rng.random((samples, n_in + 1)) >= rate) @ products[:, o] for o in range(3)]
    )
    expected = np.maximum(sums, 0).mean(axis=1)
    error = np.maximum(sums, 0).std(axis=1) / np.sqrt(samples)
    layer = make(kernel, bias, rate)
    found = jax.jit(lambda x: layer(x, None))(jnp.float32(x[None]))[0]
    assert np.all(np.abs(found - expected) < 4 * error + 0.005 * expected)
    naive = np.maximum((1 - rate) * products.sum(axis=0), 0)
    assert np.all(np.abs(naive - expected) > 10 * error)


def test_a_black_image_has_a_gradient():
    """Where nothing varies, the layer is a plain one."""
    layer = make(np.ones((2, 1)), np.zeros(1), 0.5)

    def total(x):
        return jnp.sum(layer(x, None))

    value, gradient = jax.jit(jax.value_and_grad(total))(jnp.zeros((1, 2)))
    np.testing.assert_allclose(value, 0, atol=1e-6)
    np.testing.assert_allclose(gradient, 0.25, atol=1e-6)
