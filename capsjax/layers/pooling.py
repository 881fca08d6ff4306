"""Pooling of features over windows of pixels, by their maximum or their mean."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from capsjax.errors import SettingsError
from capsjax.layers.recording import Window, layer_function
from kernels.convolution import output_size


def pooled_size(size: int, window: int, stride: int, *, ceil: bool = False) -> int:
    """Returns the pixels along one axis after pooling without padding.

    Args:
        size: pixels before it.
        window: pixels of a window along the axis.
        stride: pixels between two windows.
        ceil: whether a last window may lie partly outside of the image.

    Raises:
        SettingsError: not even one window fits.
    """
    whole = output_size(size, window, stride)
    if whole < 1:
        raise SettingsError(
            f"a window of {window} pixels does not fit into {size}; images are too "
            "small for so much pooling"
        )
    return whole + (ceil and (size - window) % stride > 0)


def _window_of(arguments: Mapping[str, Any]) -> Window:
    return Window(arguments["window"], arguments["stride"] or arguments["window"])


@layer_function(_window_of)
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
    pads = [(padding, padding)] * 2
    sizes = [size + 2 * padding for size in x.shape[1:3]]
    h, w = (pooled_size(size, window, stride, ceil=ceil) for size in sizes)
    pads = [
        (padding, padding + max(0, (n - 1) * stride + window - size))
        for n, size in zip((h, w), sizes, strict=True)
    ]
    if any(pad != (0, 0) for pad in pads):
        x = jnp.pad(x, [(0, 0), *pads, (0, 0)], constant_values=-jnp.inf)
    return _max_of_windows(x, window, stride, (h, w))


@layer_function(_window_of)
def average_pool(
    x: Float[Array, "B H W C"], window: int, stride: int | None = None
) -> Float[Array, "B h w C"]:
    """The mean of each window; see `max_pool`."""
    stride = stride or window
    for size in x.shape[1:3]:
        pooled_size(size, window, stride)
    return nnx.avg_pool(x, (window, window), strides=(stride, stride))


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
