"""Residual blocks: of two 3x3 convolutions, or bottlenecks of three.

References:
    He, Zhang, Ren and Sun 2016, "Deep Residual Learning for Image Recognition".
"""

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from capsjax.errors import SettingsError
from capsjax.layers.activations import relu
from capsjax.layers.convolution import Conv
from capsjax.normalization import BatchNorm
from kernels.convolution import Padding

Shortcut = Literal["pad", "project"]


class _Block(nnx.Module):
    """The shortcut of all residual blocks, and the sum with it.

    Where the block has more channels or fewer pixels than its input, the shortcut takes
    every second pixel, and fills the new channels with zeros (``"pad"``, the paper's
    option A, which has no parameters) or multiplies by a matrix and normalises
    (``"project"``, option B).
    """

    EXPANSION: ClassVar[int] = 1
    """Channels of the result for each of the inner channels."""

    def add_shortcut(
        self,
        n_in: int,
        n_out: int,
        stride: int,
        *,
        shortcut: Shortcut,
        momentum: float,
        rngs: nnx.Rngs,
    ) -> None:
        """Makes the shortcut's parameters, if it has any.

        Raises:
            SettingsError: the shortcut would have to leave channels out.
        """
        if shortcut == "pad" and n_out < n_in:
            raise SettingsError(
                f"a shortcut cannot take {n_in} channels to {n_out}; let the channels "
                "grow, or use projections"
            )
        self.stride = stride
        projection = projection_norm = None
        if shortcut == "project" and (stride, n_in) != (1, n_out):
            projection = _conv1x1(n_in, n_out, stride, rngs=rngs)
            projection_norm = BatchNorm(n_out, momentum=momentum, rngs=rngs)
        # Flax takes an attribute that was None once for static.
        self.projection, self.projection_norm = projection, projection_norm

    def sum_with_shortcut(self, x: Array, y: Array, train: bool) -> Array:
        """The block's result from its input and the features of its convolutions."""
        if self.projection is not None and self.projection_norm is not None:
            return relu(y + self.projection_norm(self.projection(x), train=train))
        shortcut = x[:, :: self.stride, :: self.stride]
        new = y.shape[3] - shortcut.shape[3]
        pads = [(0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)]
        return relu(y + jnp.pad(shortcut, pads))


class ResidualBlock(_Block):
    """Two 3x3 convolutions, the first with the stride, and a shortcut around them.

    Attributes:
        projection: the shortcut's 1x1 convolution, or None.
        projection_norm: its normalisation, or None.
    """

    def __init__(
        self,
        n_in: int,
        channels: int,
        stride: int,
        *,
        shortcut: Shortcut,
        momentum: float,
        padding: Padding = "SAME",
        rngs: nnx.Rngs,
    ):
        self.conv1 = conv3x3(n_in, channels, stride, padding=padding, rngs=rngs)
        self.norm1 = BatchNorm(channels, momentum=momentum, rngs=rngs)
        self.conv2 = conv3x3(channels, channels, padding=padding, rngs=rngs)
        self.norm2 = BatchNorm(channels, momentum=momentum, rngs=rngs)
        self.add_shortcut(
            n_in, channels, stride, shortcut=shortcut, momentum=momentum, rngs=rngs
        )

    def __call__(
        self, x: Float[Array, "B H W C_in"], *, train: bool
    ) -> Float[Array, "B h w C_out"]:
        """Features of the block."""
        y = relu(self.norm1(self.conv1(x), train=train))
        y = self.norm2(self.conv2(y), train=train)
        return self.sum_with_shortcut(x, y, train)


class BottleneckBlock(_Block):
    """1x1, 3x3 and 1x1 convolutions, and a shortcut around them.

    The last convolution has four times as many channels as the others.

    Attributes:
        projection: the shortcut's 1x1 convolution, or None.
        projection_norm: its normalisation, or None.
    """

    EXPANSION = 4

    def __init__(
        self,
        n_in: int,
        channels: int,
        stride: int,
        *,
        shortcut: Shortcut,
        momentum: float,
        padding: Padding = "SAME",
        stride_in_3x3: bool,
        rngs: nnx.Rngs,
    ):
        n_out = self.EXPANSION * channels
        first, second = (1, stride) if stride_in_3x3 else (stride, 1)
        self.conv1 = _conv1x1(n_in, channels, first, rngs=rngs)
        self.norm1 = BatchNorm(channels, momentum=momentum, rngs=rngs)
        self.conv2 = conv3x3(channels, channels, second, padding=padding, rngs=rngs)
        self.norm2 = BatchNorm(channels, momentum=momentum, rngs=rngs)
        self.conv3 = _conv1x1(channels, n_out, rngs=rngs)
        self.norm3 = BatchNorm(n_out, momentum=momentum, rngs=rngs)
        self.add_shortcut(
            n_in, n_out, stride, shortcut=shortcut, momentum=momentum, rngs=rngs
        )

    def __call__(
        self, x: Float[Array, "B H W C_in"], *, train: bool
    ) -> Float[Array, "B h w C_out"]:
        """Features of the block."""
        y = relu(self.norm1(self.conv1(x), train=train))
        y = relu(self.norm2(self.conv2(y), train=train))
        y = self.norm3(self.conv3(y), train=train)
        return self.sum_with_shortcut(x, y, train)


Block = ResidualBlock | BottleneckBlock


def residual_blocks(
    n_in: int,
    groups: Sequence[tuple[int, int]],
    *,
    make: Callable[..., Block] = ResidualBlock,
    shortcut: Shortcut,
    momentum: float,
    padding: Padding = "SAME",
    rngs: nnx.Rngs,
) -> list[Block]:
    """Groups of blocks, each of which after the first halves height and width.

    Args:
        n_in: channels of the first block's input.
        groups: inner channels and number of blocks of each group.
        make: class of the blocks, or a function like it.
        shortcut: see `ResidualBlock`.
        momentum: weight of the old in the running averages.
        padding: of the 3x3 convolutions.
        rngs: generator whose ``params`` stream initialises the parameters.
    """
    blocks: list[Block] = []
    for group, (channels, count) in enumerate(groups):
        for index in range(count):
            block = make(
                n_in,
                channels,
                2 if group and not index else 1,
                shortcut=shortcut,
                momentum=momentum,
                padding=padding,
                rngs=rngs,
            )
            blocks.append(block)
            n_in = channels * block.EXPANSION
    return blocks


def conv3x3(
    n_in: int,
    n_out: int,
    stride: int = 1,
    *,
    padding: Padding = "SAME",
    rngs: nnx.Rngs,
) -> Conv:
    """A 3x3 convolution without bias that keeps the size, divided by the stride.

    Args:
        n_in: channels of its input.
        n_out: channels of its result.
        stride: number of pixels.
        padding: ``"SAME"`` pads even sizes at the end only where the stride is 2; 1
            pads one pixel on both sides.
        rngs: generator whose ``params`` stream initialises the kernel.
    """
    return Conv(
        n_in,
        n_out,
        3,
        stride=stride,
        padding=padding,
        kernel_init=jax.nn.initializers.he_normal(),
        bias_init=None,
        rngs=rngs,
    )


def _conv1x1(n_in: int, n_out: int, stride: int = 1, *, rngs: nnx.Rngs) -> Conv:
    return Conv(
        n_in,
        n_out,
        1,
        stride=stride,
        kernel_init=jax.nn.initializers.he_normal(),
        bias_init=None,
        rngs=rngs,
    )
