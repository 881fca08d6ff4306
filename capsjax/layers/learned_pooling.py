"""Pooling that is learned: mixed, gated and tree pooling.

All take windows as `max_pool` does, keep the channels apart, and learn one set of
weights for a layer or one for each channel.

References:
    Lee, Gallagher and Tu 2016, "Generalizing Pooling Functions in Convolutional Neural
    Networks: Mixed, Gated, and Tree", sections 3.1 and 3.2.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from capsjax.layers.pooling import average_pool, max_pool, pooled_size
from capsjax.layers.recording import Window
from kernels.dtypes import at_least_float32


class MixedPool(nnx.Module):
    """``a * max + (1 - a) * mean`` of each window, with a learned ``a``.

    Attributes:
        share: ``a``, float32 [1] or [C]; 0.5 at first. Nothing keeps it in [0, 1].
        window: pixels of a window along both axes.
        stride: pixels between windows.
    """

    def __init__(
        self, channels: int, window: int, stride: int, *, per_channel: bool = False
    ):
        count = channels if per_channel else 1
        self.share = nnx.Param(jnp.full((count,), 0.5, jnp.float32))
        self.window, self.stride = window, stride

    @property
    def receptive_window(self) -> Window:
        """The pixels that one pixel of the result sees."""
        return Window(self.window, self.stride)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
        """Pooled features; raises SettingsError if the window does not fit."""
        share = self.share[...][None, None, None]
        return _mixture(share, *_largest_and_mean(x, self.window, self.stride))


class GatedPool(nnx.Module):
    """``a * max + (1 - a) * mean`` of each window, where ``a`` depends on the window.

    ``a = sigmoid(w . x)`` of the window's pixels x.

    Attributes:
        mask: ``w``, float32 [1, window ** 2, 1] or [1, window ** 2, C]; zero at first,
            which is an ``a`` of a half.
        window: pixels of a window along both axes.
        stride: pixels between windows.
    """

    def __init__(
        self, channels: int, window: int, stride: int, *, per_channel: bool = False
    ):
        shape = (1, window**2, channels if per_channel else 1)
        self.mask = nnx.Param(jnp.zeros(shape, jnp.float32))
        self.window, self.stride = window, stride

    @property
    def receptive_window(self) -> Window:
        """The pixels that one pixel of the result sees."""
        return Window(self.window, self.stride)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
        """Pooled features; raises SettingsError if the window does not fit."""
        (response,) = _responses(x, self.mask[...], self.window, self.stride)
        share = jax.nn.sigmoid(response).astype(x.dtype)
        return _mixture(share, *_largest_and_mean(x, self.window, self.stride))


class TreePool(nnx.Module):
    """A binary tree of learned filters, whose leaves are mixed by learned gates.

    A leaf is ``v . x`` of the window's pixels x; an inner node, of its left and right
    parts, ``s * left + (1 - s) * right`` with ``s = sigmoid(w . x)``.

    Attributes:
        leaves: all ``v``, float32 [leaves, window ** 2, 1 or C]; at first the mean of
            the window with noise, so that leaves differ.
        gates: all ``w``, float32 [leaves - 1, window ** 2, 1 or C], the root last; zero
            at first.
        window: pixels of a window along both axes.
        stride: pixels between windows.
    """

    def __init__(
        self,
        channels: int,
        window: int,
        stride: int,
        *,
        levels: int = 2,
        per_channel: bool = False,
        rngs: nnx.Rngs,
    ):
        count = 2 ** (levels - 1)
        shape = (window**2, channels if per_channel else 1)
        noise = jax.random.normal(rngs.params(), (count, *shape), jnp.float32)
        self.leaves = nnx.Param((1 + noise / 2) / window**2)
        self.gates = nnx.Param(jnp.zeros((count - 1, *shape), jnp.float32))
        self.window, self.stride = window, stride

    @property
    def receptive_window(self) -> Window:
        """The pixels that one pixel of the result sees."""
        return Window(self.window, self.stride)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
        """Pooled features; raises SettingsError if the window does not fit."""
        nodes = _responses(x, self.leaves[...], self.window, self.stride)
        gates = iter(_responses(x, self.gates[...], self.window, self.stride))
        while len(nodes) > 1:
            pairs = zip(nodes[::2], nodes[1::2], strict=True)
            nodes = [
                _mixture(jax.nn.sigmoid(next(gates)), left, right)
                for left, right in pairs
            ]
        return nodes[0].astype(x.dtype)


def _mixture(share: Array, first: Array, second: Array) -> Array:
    return second + share * (first - second)


def _largest_and_mean(x: Array, window: int, stride: int) -> tuple[Array, Array]:
    return max_pool(x, window, stride), average_pool(x, window, stride)


def _responses(
    x: Float[Array, "B H W C"],
    filters: Float[Array, "n K_K D"],
    window: int,
    stride: int,
) -> list[Float[Array, "B h w C"]]:
    """Products of each window with some filters, in float32 at least.

    Sums of shifted images, which XLA makes in one pass and without patches.
    """
    h, w = (
        (pooled_size(size, window, stride) - 1) * stride + 1 for size in x.shape[1:3]
    )
    x = at_least_float32(x)
    places = [
        x[:, i : i + h : stride, j : j + w : stride]
        for i in range(window)
        for j in range(window)
    ]
    filters = at_least_float32(filters)[:, :, None, None, None]
    return [
        functools.reduce(jnp.add, map(jnp.multiply, places, one)) for one in filters
    ]
