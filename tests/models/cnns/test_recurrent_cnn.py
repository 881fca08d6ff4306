"""The recurrent CNN: counts of the paper, and a layer against SciPy."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from flax import nnx

from capsjax import models
from capsjax.errors import UserError
from capsjax.models.cnns import recurrent_cnn


def build(image_shape, **changes):
    config = recurrent_cnn.Config(**changes)
    return models.build(config, image_shape, 10, nnx.Rngs(params=0))


@pytest.mark.parametrize(
    ("image_shape", "channels", "expected", "papers_millions"),
    [
        ((32, 32, 3), 96, 672_202, "0.67"),
        ((32, 32, 3), 160, 1_857_610, "1.86"),
        ((28, 28, 1), 32, 75_018, "0.08"),
    ],
)
def test_the_number_of_parameters(image_shape, channels, expected, papers_millions):
    model = nnx.eval_shape(lambda: build(image_shape, channels=channels))
    assert models.num_parameters(model) == expected
    assert f"{expected / 1e6:.2f}" == papers_millions


def test_a_recurrent_layer_in_float64():
    """Equations 1 to 4: T = 2 states after the first, over 9 channels' neighbours."""
    K, T = 9, 2
    config = recurrent_cnn.Config(channels=K, recurrent_steps=T)
    layer = recurrent_cnn.RecurrentConv(config, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    # Large enough for the normalisation to matter.
    u, bias = 30 * rng.normal(size=(5, 4, K)), rng.normal(size=K)
    assert layer.forward.bias is not None
    layer.forward.bias[...] = jnp.float32(bias)
    kernels = [
        np.asarray(conv.kernel[...], np.float64)
        for conv in (layer.forward, layer.recurrent)
    ]

    def convolved(x, kernel):
        return np.stack(
            [
                sum(
                    scipy.signal.correlate2d(x[..., c], kernel[..., c, k], mode="same")
                    for c in range(K)
                )
                for k in range(K)
            ],
            axis=-1,
        )

    def activation(z):
        x, N = np.maximum(z, 0), K // 8 + 1
        y = np.empty_like(x)
        for k in range(K):
            neighbours = x[..., k : k + N]  # N = 2: the channel and the next one.
            y[..., k] = (
                x[..., k] / (1 + 1e-3 / N * (neighbours**2).sum(axis=-1)) ** 0.75
            )
        return y

    of_input = convolved(u, kernels[0]) + bias
    x = activation(of_input)
    for _ in range(T):
        x = activation(of_input + convolved(x, kernels[1]))
    found = nnx.jit(lambda layer, u: layer(u, train=False))(layer, jnp.float32(u)[None])
    np.testing.assert_allclose(found[0], x, rtol=1e-4, atol=1e-3)
    assert np.abs(x / np.maximum(of_input, 1e-9)).min() < 0.9


def test_batch_normalisation_has_statistics_for_each_time():
    model = nnx.eval_shape(lambda: build((28, 28, 1), batch_norm=True))
    assert [len(layer.norms) for layer in model.layers] == [4] * 4
    # Scale and bias for each channel, instead of one bias.
    more = 32 * (2 - 1) + 4 * 32 * (4 * 2 - 1)
    assert models.num_parameters(model) == 75_018 + more


def test_images_that_are_too_small():
    with pytest.raises(UserError, match="window of 3 pixels does not fit into 2"):
        build((4, 4, 1))
