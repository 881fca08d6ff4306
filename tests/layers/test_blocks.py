"""Layers that CNNs share: grouped convolutions, blocks, response normalisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from capsjax.layers import Conv, ConvBlock, Dropout, local_response_normalization


def images(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def conv(*sizes, **options):
    return Conv(
        *sizes,
        kernel_init=jax.nn.initializers.normal(1.0),
        bias_init=jax.nn.initializers.normal(1.0),
        rngs=nnx.Rngs(params=0),
        **options,
    )


@pytest.mark.parametrize(("stride", "padding"), [(1, "SAME"), (2, 2), (4, "VALID")])
def test_groups_see_their_part_of_the_channels(stride, padding):
    """Against XLA's own grouped convolution."""
    layer, x = (
        conv(6, 8, 3, stride=stride, padding=padding, groups=2),
        images(2, 9, 7, 6),
    )
    pads = [(padding, padding)] * 2 if isinstance(padding, int) else padding
    expected = jax.lax.conv_general_dilated(
        x,
        layer.kernel[...],
        (stride, stride),
        pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=2,
    )
    assert layer.kernel.shape == (3, 3, 3, 8)
    assert layer.bias is not None
    expected = expected + layer.bias[...][None, None, None]
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)


def test_channels_that_cannot_be_divided():
    with pytest.raises(ValueError, match=r"3 and 8 channels .* into 2 groups"):
        conv(3, 8, 3, groups=2)


@pytest.mark.parametrize("norm", [False, True])
def test_a_block_convolves_normalises_and_activates(norm):
    block = ConvBlock(2, 3, 3, norm=norm, activation=jnp.tanh, rngs=nnx.Rngs(params=0))
    x = images(2, 5, 5, 2)
    features = block.conv(x)
    assert (block.conv.bias is None) == norm
    # Before any training the averages are those of a standard normal distribution.
    scale = 1 / np.sqrt(1 + 1e-5) if norm else 1.0
    np.testing.assert_allclose(
        block(x, train=False), np.tanh(features * scale), atol=1e-6
    )


@pytest.mark.parametrize("channels", [1, 4, 5])
def test_response_normalisation_against_a_loop(channels):
    """The paper's: half of the neighbours, rounded down, come before the channel."""
    x = np.random.default_rng(0).normal(size=(2, 3, 2, 7)) * 10
    expected = np.zeros(x.shape)
    before = (channels - 1) // 2
    for c in range(7):
        near = range(max(0, c - before), min(7, c - before + channels))
        total = sum(x[..., other] ** 2 for other in near)
        expected[..., c] = x[..., c] / (2 + 1e-2 * total) ** 0.75
    found = local_response_normalization(
        jnp.asarray(x, jnp.float32), channels=channels, alpha=1e-2
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_dropout_is_an_examples_own_and_differs_by_place():
    x, keys = jnp.ones((3, 200)), jax.random.split(jax.random.key(0), 3)
    first, second = Dropout(0.25, 0)(x, keys), Dropout(0.25, 1)(x, keys)
    assert Dropout(0.25)(x, None) is x
    np.testing.assert_allclose(np.unique(first), [0, 1 / 0.75], rtol=1e-6)
    assert np.any(first != second)
    assert np.any(first[0] != first[1])
    np.testing.assert_array_equal(Dropout(0.25, 0)(x[1:], keys[1:]), first[1:])
    assert np.mean(first == 0) == pytest.approx(0.25, abs=0.08)
