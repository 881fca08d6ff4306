"""Pooling of features over windows of pixels, by their maximum or their mean."""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from capsjax.errors import SettingsError
from kernels.convolution import output_size

_Sizes = tuple[int, ...]
"""One number for each axis of space."""


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


def max_pool(
    x: Float[Array, "B *sizes C"],
    window: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    *,
    padding: int = 0,
    ceil: bool = False,
) -> Float[Array, "B *outputs C"]:
    """The largest of each window; the gradient goes to the first of equal ones.

    Args:
        x: features [B, H, W, C]; or of signals or volumes, with one or three axes in
            place of H and W.
        window: pixels of a window along all of these axes, or along each.
        stride: pixels between windows, by default the window's.
        padding: pixels around the image that are never the largest.
        ceil: whether last windows may lie partly outside of the image.

    Raises:
        SettingsError: the window does not fit.
    """
    windows = _of_each_axis(window, x)
    strides = _of_each_axis(stride or window, x)
    sizes = [size + 2 * padding for size in x.shape[1:-1]]
    outputs = tuple(
        pooled_size(*axis, ceil=ceil)
        for axis in zip(sizes, windows, strides, strict=True)
    )
    pads = [
        (padding, padding + max(0, (n - 1) * stride + window - size))
        for n, size, window, stride in zip(
            outputs, sizes, windows, strides, strict=True
        )
    ]
    if any(pad != (0, 0) for pad in pads):
        x = jnp.pad(x, [(0, 0), *pads, (0, 0)], constant_values=-jnp.inf)
    return _max_of_windows(x, windows, strides, outputs)


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
def _max_of_windows(x: Array, windows: _Sizes, strides: _Sizes, sizes: _Sizes) -> Array:
    return functools.reduce(jnp.maximum, _places(x, windows, strides, sizes))


def _max_of_windows_fwd(x: Array, windows: _Sizes, strides: _Sizes, sizes: _Sizes):
    y = _max_of_windows(x, windows, strides, sizes)
    return y, (x, y)


def _max_of_windows_bwd(
    windows: _Sizes, strides: _Sizes, sizes: _Sizes, residuals, gradient: Array
):
    x, y = residuals
    places, to_pixels = jax.vjp(lambda x: tuple(_places(x, windows, strides, sizes)), x)
    found = jnp.zeros(y.shape, bool)
    parts = []
    for place in places:
        largest = (place == y) & ~found
        found |= largest
        parts.append(jnp.where(largest, gradient, jnp.zeros((), gradient.dtype)))
    return to_pixels(tuple(parts))


_max_of_windows.defvjp(_max_of_windows_fwd, _max_of_windows_bwd)


def _places(x: Array, windows: _Sizes, strides: _Sizes, sizes: _Sizes) -> list[Array]:
    """The pixels at each place of all windows, [B, *sizes, C] each."""
    spans = [(n - 1) * stride + 1 for n, stride in zip(sizes, strides, strict=True)]
    return [
        x[
            :,
            *(
                slice(start, start + span, stride)
                for start, span, stride in zip(place, spans, strides, strict=True)
            ),
        ]
        for place in itertools.product(*map(range, windows))
    ]


def _of_each_axis(size: int | Sequence[int], x: Array) -> _Sizes:
    return (size,) * (x.ndim - 2) if isinstance(size, int) else tuple(size)
