"""Votes of input capsules for output capsules, and the windows of convolutions.

Every algorithm that works on votes takes them in one form, [B, *N, C, J, Q]: each of N
positions of the output, none or (h, w), has C children, each of which votes for J types
of capsules. A 4x4 pose is a vote of Q = 16 dimensions, rows first.

In a fully connected layer, all I capsules below are the children of the only position.
In a convolutional layer, the children of a position are the K x K x I capsules in its
window, in the order (kernel row, kernel column, capsule).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from kernels.dtypes import accumulation_dtype


class Windows(NamedTuple):
    """The windows of a convolutional layer of capsules.

    Attributes:
        kernel: K, size of a window along both axes.
        stride: S, distance of neighbouring windows.
        padding: rows and columns of zeros on all four sides.
    """

    kernel: int
    stride: int = 1
    padding: int = 0

    def size(self, size: int) -> int:
        """The number of windows along an axis of ``size`` places; 0 if none fits."""
        return max((size + 2 * self.padding - self.kernel) // self.stride + 1, 0)

    def gather(self, x: Float[Array, "B H W *r"]) -> Float[Array, "B h w K K *r"]:
        """What each window contains.

        Raises:
            ValueError: no window fits.
        """
        h, w = map(self.size, x.shape[1:3])
        if min(h, w) < 1:
            raise ValueError(
                f"a grid of {x.shape[1]}x{x.shape[2]} capsules is too small for "
                f"{self.kernel}x{self.kernel} windows with padding {self.padding}"
            )
        pad = (self.padding, self.padding)
        x = jnp.pad(x, [(0, 0), pad, pad, *[(0, 0)] * (x.ndim - 3)])
        for axis, count in ((1, h), (3, w)):
            # `_over_windows` backwards: a copy of the axis for each window, in rows
            # that are too short by the stride, so that each begins at its window.
            length = self.stride * (count - 1) + self.kernel
            before, after = x.shape[:axis], x.shape[axis + 1 :]
            x = jax.lax.slice_in_dim(x, 0, length, axis=axis)
            x = jnp.expand_dims(x, axis)
            x = jnp.broadcast_to(x, (*before, count, length, *after))
            x = x.reshape(*before, -1, *after)
            ends = [(0, count * self.stride if i == axis else 0) for i in range(x.ndim)]
            x = jnp.pad(x, ends).reshape(*before, count, -1, *after)
            x = jax.lax.slice_in_dim(x, 0, self.kernel, axis=axis + 1)
        return jnp.swapaxes(x, 2, 3)

    def children(self, x: Float[Array, "B H W I *r"]) -> Float[Array, "B h w C *r"]:
        """The children of each window, C = K * K * I."""
        x = self.gather(x)
        return x.reshape(*x.shape[:3], -1, *x.shape[6:])

    def total(
        self, x: Float[Array, "B h w C *r"], size: tuple[int, int]
    ) -> Float[Array, "B H W I *r"]:
        """The sum over all windows that contain a capsule.

        Args:
            x: a number for each child of each window.
            size: H and W of the grid below.
        """
        return self._over_windows(x, size, 0.0, jnp.sum)

    def largest(
        self, x: Float[Array, "B h w C *r"], size: tuple[int, int]
    ) -> Float[Array, "B H W I *r"]:
        """The largest value of all windows that contain a capsule; -inf in none."""
        return self._over_windows(x, size, -jnp.inf, jnp.max)

    def counts(self, size: tuple[int, int]) -> Int[np.ndarray, "h w KK"]:
        """How many windows contain what is at a place of a window; 0 in the padding.

        Args:
            size: H and W of the grid below.
        """
        rows, columns = map(self._counts_along, size)
        found = rows[:, None, :, None] * columns[:, None, :]
        return found.reshape(len(rows), len(columns), -1)

    def _counts_along(self, size: int) -> Int[np.ndarray, "h K"]:
        first = self.stride * np.arange(self.size(size))
        places = first[:, None] + np.arange(self.kernel)
        found = np.bincount(places.ravel())
        found[: self.padding] = 0
        found[self.padding + size :] = 0
        return found[places]

    def _over_windows(
        self,
        x: Array,
        size: tuple[int, int],
        neutral: float,
        join: Callable[..., Array],
    ) -> Array:
        B, h, w, C, *rest = x.shape
        K, S = self.kernel, self.stride
        x = x.reshape(B, h, w, K, K, C // K**2, *rest)
        x = jnp.swapaxes(x, 2, 3)
        zero = jnp.asarray(neutral, x.dtype)
        for axis, count, n in ((1, h, size[0]), (2, w, size[1])):
            # Each window is filled up to the length of the axis and S more. In rows of
            # that length without S, the n-th window is then shifted by n * S, and lies
            # where it is on the grid. This compiles faster, with its gradient,
            # than K * K slices.
            length = max(S * (count - 1) + K, n + self.padding)
            before, after = x.shape[:axis], x.shape[axis + 2 :]
            edges = [(0, 0, 0)] * x.ndim
            edges[axis + 1] = (0, length + S - K, 0)
            x = jax.lax.pad(x, zero, edges).reshape(*before, -1, *after)
            x = jax.lax.slice_in_dim(x, 0, count * length, axis=axis)
            x = join(x.reshape(*before, count, length, *after), axis=axis)
            first = self.padding
            x = jax.lax.slice_in_dim(x, first, first + n, axis=axis)
        return x


def vector_votes(
    poses: Float[Array, "B *N C P"], weights: Float[Array, "C J Q P"]
) -> Float[Array, "B *N C J Q"]:
    """Votes ``W_ij u_i`` of poses that are vectors.

    Args:
        poses: poses u of the children, any floating dtype.
        weights: transformation matrices W, shared by all positions; the same dtype.

    Returns:
        Votes of the same dtype; half precision is accumulated in float32.
    """
    return _einsum("...cp,cjqp->...cjq", poses, weights)


def matrix_votes(
    poses: Float[Array, "B *N C d d"], weights: Float[Array, "C J d d"]
) -> Float[Array, "B *N C J Q"]:
    """Votes ``M_i W_ij`` of poses that are matrices, Q = d * d, rows first.

    Args:
        poses: poses M of the children, any floating dtype.
        weights: transformation matrices W, shared by all positions; the same dtype.

    Returns:
        Votes of the same dtype; half precision is accumulated in float32.

    References:
        Hinton, Sabour and Frosst 2018, "Matrix capsules with EM routing", section 2.
    """
    votes = _einsum("...cde,cjef->...cjdf", poses, weights)
    return votes.reshape(*votes.shape[:-2], -1)


def coordinates(size: tuple[int, int], dim: int) -> Float[Array, "H W Q"]:
    """What coordinate addition adds to the votes of capsules that share their weights.

    The row and the column of a capsule's centre, from 0 to 1 over the grid, stand in
    the first two elements of a d x d pose's right-hand column; all others are 0.

    Args:
        size: H and W of the grid of capsules.
        dim: Q = d * d.

    Returns:
        float32.

    Raises:
        ValueError: Q is not the square of a number above 1.

    References:
        Hinton, Sabour and Frosst 2018, section 4; the scale is that of A. Gritzman's
        implementation.
    """
    d = round(dim**0.5)
    if d < 2 or d * d != dim:
        raise ValueError(
            f"coordinate addition needs poses of d x d elements with d above 1; "
            f"got {dim} elements"
        )
    H, W = size
    rows = (jnp.arange(H, dtype=jnp.float32) + 0.5) / H
    columns = (jnp.arange(W, dtype=jnp.float32) + 0.5) / W
    added = jnp.zeros((H, W, d, d), jnp.float32)
    added = added.at[:, :, 0, -1].set(rows[:, None])
    added = added.at[:, :, 1, -1].set(columns[None])
    return added.reshape(H, W, dim)


def _einsum(formula: str, poses: Array, weights: Array) -> Array:
    wide = accumulation_dtype(poses.dtype)
    votes = jnp.einsum(formula, poses, weights, preferred_element_type=wide)
    return votes.astype(poses.dtype)
