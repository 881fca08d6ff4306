"""Means over windows, held against float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.errors import SettingsError
from capsjax.layers import average_pool


@pytest.mark.parametrize(
    ("window", "ceil", "dtype"),
    [(2, False, "float32"), (3, False, "float32"), (3, True, "bfloat16")],
)
def test_means_and_their_gradient(window, ceil, dtype):
    """Where a window lies partly outside, the pixels inside count alone."""
    stride = 2
    x = np.random.default_rng(0).integers(0, 9, (2, 6, 7, 3)).astype(float)
    h, w = (
        len(
            range(0, size - (1 if ceil and (size - window) % stride else window) + 1, 2)
        )
        for size in (6, 7)
    )
    expected = np.zeros((2, h, w, 3))
    slopes = np.zeros_like(x)
    for i, j in np.ndindex(h, w):
        rows = slice(i * stride, min(i * stride + window, 6))
        columns = slice(j * stride, min(j * stride + window, 7))
        expected[:, i, j] = x[:, rows, columns].mean(axis=(1, 2))
        slopes[:, rows, columns] += 1 / x[0, rows, columns, 0].size

    @jax.jit
    def mean_and_gradient(x):
        y, vjp = jax.vjp(lambda x: average_pool(x, window, stride, ceil=ceil), x)
        return y, vjp(jnp.ones_like(y))[0]

    found, gradient = mean_and_gradient(jnp.asarray(x, dtype))
    assert found.dtype == dtype
    tolerance = 1e-6 if dtype == "float32" else 1e-2
    np.testing.assert_allclose(np.float64(found), expected, rtol=tolerance)
    np.testing.assert_allclose(np.float64(gradient), slopes, rtol=tolerance)


def test_a_window_that_does_not_fit():
    with pytest.raises(SettingsError, match="3 pixels does not fit into 2"):
        average_pool(jnp.ones((1, 5, 2, 1)), 3)
