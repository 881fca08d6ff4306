"""Pooling against float64 loops over windows."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.errors import SettingsError
from capsjax.layers import average_pool, max_pool, pooled_size

# Window, stride, padding, ceil; on 7x9 pixels.
WINDOWS = [
    (2, 2, 0, False),
    (2, 2, 0, True),
    (3, 2, 0, False),
    (3, 2, 0, True),
    (3, 1, 1, False),
    (3, 2, 1, False),
    (2, 3, 0, True),
]


def windows(x, window, stride, padding, ceil) -> dict[tuple[int, int], list]:
    """The pixels of each window that lie inside of the image, by its place."""
    H, W = x.shape[1:3]
    # As PyTorch: a last window begins inside, within a stride of where it would fit.
    tops, lefts = (
        [
            start
            for start in range(-padding, size, stride)
            if start < size + padding - window + (stride if ceil else 1)
        ]
        for size in (H, W)
    )
    places = {}
    for i, top in enumerate(tops):
        for j, left in enumerate(lefts):
            places[i, j] = [
                (row, column)
                for row in range(top, top + window)
                for column in range(left, left + window)
                if 0 <= row < H and 0 <= column < W
            ]
    return places


@pytest.mark.parametrize(("window", "stride", "padding", "ceil"), WINDOWS)
def test_the_largest_of_each_window_and_its_gradient(window, stride, padding, ceil):
    """Small whole numbers, so that many are equal: the first one gets the gradient."""
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 1, (2, 7, 9, 3)).astype(np.float32)
    inside = windows(x, window, stride, padding, ceil)
    h, w = (1 + max(place[axis] for place in inside) for axis in (0, 1))
    expected, dx = np.zeros((2, h, w, 3)), np.zeros(x.shape)
    cotangent = rng.normal(size=expected.shape)
    for b, (i, j), c in itertools.product(range(2), inside, range(3)):
        pixels = inside[i, j]
        values = [x[b, row, column, c] for row, column in pixels]
        expected[b, i, j, c] = max(values)
        row, column = pixels[int(np.argmax(values))]
        dx[b, row, column, c] += cotangent[b, i, j, c]
    found, vjp = jax.vjp(
        lambda x: max_pool(x, window, stride, padding=padding, ceil=ceil),
        jnp.asarray(x),
    )
    np.testing.assert_array_equal(found, expected)
    (gradient,) = vjp(jnp.asarray(cotangent, jnp.float32))
    np.testing.assert_allclose(gradient, dx, atol=1e-6)


@pytest.mark.parametrize(("stride", "ceil"), [(None, False), (2, False), (2, True)])
def test_the_mean_of_each_window_and_its_gradient(stride, ceil):
    """Where a window lies partly outside, the pixels inside count alone."""
    x = np.random.default_rng(0).normal(size=(2, 8, 9, 3))
    inside = windows(x, 3, stride or 3, 0, ceil)
    found, vjp = jax.vjp(
        lambda x: average_pool(x, 3, stride, ceil=ceil), jnp.asarray(x, jnp.float32)
    )
    dx = np.zeros(x.shape)
    for (i, j), pixels in inside.items():
        mean = np.mean([x[:, row, column] for row, column in pixels], axis=0)
        np.testing.assert_allclose(found[:, i, j], mean, atol=1e-6)
        for row, column in pixels:
            dx[:, row, column] += 1 / len(pixels)
    assert found.shape[1:3] == tuple(np.add(max(inside), 1))
    np.testing.assert_allclose(vjp(jnp.ones_like(found))[0], dx, atol=1e-6)


def test_half_precision_and_the_usual_stride():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 4, 2)), jnp.bfloat16)
    found = max_pool(x, 2)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, max_pool(x, 2, 2))
    assert found.shape == (1, 2, 2, 2)


@pytest.mark.parametrize("pool", [max_pool, average_pool])
def test_a_window_larger_than_the_image(pool):
    with pytest.raises(SettingsError, match="3 pixels does not fit into 2"):
        pool(jnp.zeros((1, 4, 2, 1)), 3)


def test_sizes_of_the_networks_that_pool_most():
    """AlexNet's 55, 27, 13; GoogLeNet's 112, 56, 28, 14, with windows cut off."""
    assert [pooled_size(size, 3, 2) for size in (55, 27, 13)] == [27, 13, 6]
    found = [pooled_size(size, 3, 2, ceil=True) for size in (112, 56, 28, 14)]
    assert found == [56, 28, 14, 7]
