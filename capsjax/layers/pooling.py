"""Pooling of features over windows of pixels, by their maximum or their mean."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from capsjax.errors import SettingsError
from kernels.convolution import output_size
from kernels.dtypes import accumulation_dtype


def pooled_size(
    size: int, window: int, stride: int, *, padding: int = 0, ceil: bool = False
) -> int:
    """Returns the pixels along one axis after pooling.

    Args:
        size: pixels before it.
        window: pixels of a window along the axis.
        stride: pixels between two windows.
        padding: pixels on both sides that windows may cover.
        ceil: whether a last window may lie partly beyond them.

    Raises:
        SettingsError: not even one window fits.
    """
    whole = output_size(size, window, stride, padding)
    if whole < 1:
        raise SettingsError(
            f"a window of {window} pixels does not fit into {size}; images are too "
            "small for so much pooling"
        )
    rest = (size + 2 * padding - window) % stride
    return whole + (ceil and rest > 0 and whole * stride < size + padding)


def max_pool(
    x: Float[Array, "B H W C"],
    window: int,
    stride: int | None = None,
    *,
    padding: int = 0,
    ceil: bool = False,
) -> Float[Array, "B h w C"]:
    """The largest of each window; the gradient goes to the first of equal ones.

    Args:
        x: features.
        window: pixels of a window along both axes.
        stride: pixels between windows, by default the window's.
        padding: pixels around the image that are never the largest.
        ceil: whether last windows may lie partly outside of the image.

    Raises:
        SettingsError: the window does not fit.
    """
    stride = stride or window
    x, size = _padded(x, window, stride, padding, ceil, -jnp.inf)
    return _max_of_windows(x, window, stride, size)


def average_pool(
    x: Float[Array, "B H W C"],
    window: int,
    stride: int | None = None,
    *,
    ceil: bool = False,
) -> Float[Array, "B h w C"]:
    """The mean of each window's pixels, of those alone that lie in the image.

    See `max_pool`.
    """
    stride = stride or window
    inside = [
        np.minimum(np.arange(0, size, stride) + window, size)
        - np.arange(0, size, stride)
        for size in x.shape[1:3]
    ]
    wide = x.astype(accumulation_dtype(x.dtype))
    wide, (h, w) = _padded(wide, window, stride, 0, ceil, 0.0)
    total = functools.reduce(jnp.add, _places(wide, window, stride, (h, w)))
    counts = np.multiply.outer(inside[0][:h], inside[1][:w])[None, :, :, None]
    return (total / jnp.asarray(counts, total.dtype)).astype(x.dtype)


def _padded(
    x: Array, window: int, stride: int, padding: int, ceil: bool, value: float
) -> tuple[Array, tuple[int, int]]:
    """Features with all pixels of all windows, and the size of the result."""
    h, w = (
        pooled_size(size, window, stride, padding=padding, ceil=ceil)
        for size in x.shape[1:3]
    )
    pads = [
        (padding, max(padding, (n - 1) * stride + window - size - padding))
        for n, size in zip((h, w), x.shape[1:3], strict=True)
    ]
    if any(pad != (0, 0) for pad in pads):
        x = jnp.pad(x, [(0, 0), *pads, (0, 0)], constant_values=value)
    return x, (h, w)


# XLA's gradient of a maximum over windows takes six times as long on a CPU.
@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_of_windows(x: Array, window: int, stride: int, size: tuple[int, int]) -> Array:
    return functools.reduce(jnp.maximum, _places(x, window, stride, size))


def _max_of_windows_fwd(x: Array, window: int, stride: int, size: tuple[int, int]):
    y = _max_of_windows(x, window, stride, size)
    return y, (x, y)


def _max_of_windows_bwd(
    window: int, stride: int, size: tuple[int, int], residuals, gradient: Array
):
    x, y = residuals
    places, to_pixels = jax.vjp(lambda x: tuple(_places(x, window, stride, size)), x)
    found = jnp.zeros(y.shape, bool)
    parts = []
    for place in places:
        largest = (place == y) & ~found
        found |= largest
        parts.append(jnp.where(largest, gradient, jnp.zeros((), gradient.dtype)))
    return to_pixels(tuple(parts))


_max_of_windows.defvjp(_max_of_windows_fwd, _max_of_windows_bwd)


def _places(x: Array, window: int, stride: int, size: tuple[int, int]) -> list[Array]:
    """The pixels at each place of all windows, [B, h, w, C] each."""
    h, w = ((n - 1) * stride + 1 for n in size)
    return [
        x[:, i : i + h : stride, j : j + w : stride]
        for i in range(window)
        for j in range(window)
    ]
