"""Pooling of features over windows of pixels, by their maximum or their mean."""

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from capsjax.errors import SettingsError
from capsjax.layers.recording import Window, layer_function
from kernels.convolution import output_size
from kernels.dtypes import accumulation_dtype

_Sizes = tuple[int, ...]
"""One number for each axis of space."""


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


def _window_of(arguments: Mapping[str, Any]) -> Window:
    """The window along the axis on which it is longest."""
    window, stride = arguments["window"], arguments["stride"] or arguments["window"]
    window, stride = (
        size if isinstance(size, int) else max(size) for size in (window, stride)
    )
    return Window(window, stride)


@layer_function(_window_of)
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
    windows, strides = _of_each_axis(window, x), _of_each_axis(stride or window, x)
    x, sizes = _padded(x, windows, strides, padding, ceil, -jnp.inf)
    return _max_of_windows(x, windows, strides, sizes)


@layer_function(_window_of)
def average_pool(
    x: Float[Array, "B *sizes C"],
    window: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    *,
    ceil: bool = False,
) -> Float[Array, "B *outputs C"]:
    """The mean of each window's pixels, of those alone that lie in the image.

    See `max_pool`.
    """
    windows, strides = _of_each_axis(window, x), _of_each_axis(stride or window, x)
    wide = x.astype(accumulation_dtype(x.dtype))
    wide, sizes = _padded(wide, windows, strides, 0, ceil, 0.0)
    total = functools.reduce(jnp.add, _places(wide, windows, strides, sizes))
    inside = [
        np.minimum(own * np.arange(n) + window, size) - own * np.arange(n)
        for own, n, window, size in zip(
            strides, sizes, windows, x.shape[1:-1], strict=True
        )
    ]
    counts = functools.reduce(np.multiply.outer, inside)[None, ..., None]
    return (total / jnp.asarray(counts, total.dtype)).astype(x.dtype)


def _padded(
    x: Array,
    windows: _Sizes,
    strides: _Sizes,
    padding: int,
    ceil: bool,
    value: float,
) -> tuple[Array, _Sizes]:
    """Features with all pixels of all windows, and the size of the result."""
    sizes, pads = [], []
    for size, window, stride in zip(x.shape[1:-1], windows, strides, strict=True):
        n = pooled_size(size, window, stride, padding=padding, ceil=ceil)
        sizes.append(n)
        beyond = (n - 1) * stride + window - size - padding
        pads.append((padding, max(padding, beyond)))
    if any(pad != (0, 0) for pad in pads):
        x = jnp.pad(x, [(0, 0), *pads, (0, 0)], constant_values=value)
    return x, tuple(sizes)


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
