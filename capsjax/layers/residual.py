"""Residual blocks of two 3x3 convolutions.

References:
    He, Zhang, Ren and Sun 2016, "Deep Residual Learning for Image Recognition".
"""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from capsjax.layers.activations import relu
from capsjax.layers.convolution import Conv
from capsjax.normalization import BatchNorm

Shortcut = Literal["pad", "project"]


class ResidualBlock(nnx.Module):
    """Two convolutions, and a shortcut around them.

    Where the block has more channels or fewer pixels than its input, the shortcut takes
    every second pixel, and fills the new channels with zeros (``"pad"``, the paper's
    option A, which has no parameters) or multiplies by a matrix and normalises
    (``"project"``, option B).
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        stride: int,
        *,
        shortcut: Shortcut,
        momentum: float,
        rngs: nnx.Rngs,
    ):
        self.conv1 = conv3x3(n_in, n_out, stride, rngs=rngs)
        self.norm1 = BatchNorm(n_out, momentum=momentum, rngs=rngs)
        self.conv2 = conv3x3(n_out, n_out, rngs=rngs)
        self.norm2 = BatchNorm(n_out, momentum=momentum, rngs=rngs)
        self.stride = stride
        projection = projection_norm = None
        if shortcut == "project" and (stride, n_in) != (1, n_out):
            projection = Conv(
                n_in,
                n_out,
                1,
                stride=stride,
                kernel_init=jax.nn.initializers.he_normal(),
                bias_init=None,
                rngs=rngs,
            )
            projection_norm = BatchNorm(n_out, momentum=momentum, rngs=rngs)
        # Flax takes an attribute that was None once for static.
        self.projection, self.projection_norm = projection, projection_norm

    def __call__(
        self, x: Float[Array, "B H W C_in"], *, train: bool
    ) -> Float[Array, "B h w C_out"]:
        """Features of the block."""
        y = relu(self.norm1(self.conv1(x), train=train))
        y = self.norm2(self.conv2(y), train=train)
        return relu(y + self._shortcut(x, y.shape[3], train))

    def _shortcut(self, x: Array, channels: int, train: bool) -> Array:
        if self.projection is not None and self.projection_norm is not None:
            return self.projection_norm(self.projection(x), train=train)
        shortcut = x[:, :: self.stride, :: self.stride]
        new = channels - shortcut.shape[3]
        return jnp.pad(shortcut, [(0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)])


def residual_blocks(
    n_in: int,
    groups: Sequence[tuple[int, int]],
    *,
    shortcut: Shortcut,
    momentum: float,
    rngs: nnx.Rngs,
) -> list[ResidualBlock]:
    """Groups of blocks, each of which after the first halves height and width.

    Args:
        n_in: channels of the first block's input.
        groups: channels and number of blocks of each group.
        shortcut: see `ResidualBlock`.
        momentum: weight of the old in the running averages.
        rngs: generator whose ``params`` stream initialises the parameters.
    """
    blocks = []
    for group, (n_out, count) in enumerate(groups):
        for index in range(count):
            stride = 2 if group and not index else 1
            blocks.append(
                ResidualBlock(
                    n_in, n_out, stride, shortcut=shortcut, momentum=momentum, rngs=rngs
                )
            )
            n_in = n_out
    return blocks


def conv3x3(n_in: int, n_out: int, stride: int = 1, *, rngs: nnx.Rngs) -> Conv:
    """A 3x3 convolution without bias that keeps the size, divided by the stride."""
    return Conv(
        n_in,
        n_out,
        3,
        stride=stride,
        padding="SAME",
        kernel_init=jax.nn.initializers.he_normal(),
        bias_init=None,
        rngs=rngs,
    )
