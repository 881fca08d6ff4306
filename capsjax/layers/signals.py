"""One-dimensional convolutions of signals."""

import dataclasses

import jax
from flax import nnx
from jaxtyping import Array, Float

from capsjax.errors import SettingsError
from capsjax.layers.blocks import ConvBlock
from capsjax.layers.pooling import max_pool
from kernels.convolution import output_size


@dataclasses.dataclass(frozen=True)
class SignalBlock:
    """Sizes of one block of `SignalFeatures`, in places along the signal.

    Attributes:
        channels: channels of the convolution.
        kernel_size: size of its kernel.
        stride: its stride; its padding is "SAME".
        pool: size of the windows of which the largest is kept; 1 for no pooling.
    """

    channels: int
    kernel_size: int
    stride: int
    pool: int


class SignalFeatures(nnx.Module):
    """Convolutions along a signal, each with ReLU and perhaps pooling.

    A signal is an image whose pixels are read row by row, as a text is: recordings are
    images of one row (`capsjax.data.sources.spoken_digits`).

    Attributes:
        blocks: the convolutions.
        pools: sizes of the windows of pooling.
        shape: length and channels of the result.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        blocks: list[SignalBlock],
        *,
        norm: bool,
        rngs: nnx.Rngs,
    ):
        """Builds the layers.

        Args:
            image_shape: height, width and channels of the images.
            blocks: sizes of the blocks, in their order; may be empty.
            norm: whether there is batch normalisation before each ReLU.
            rngs: generator whose ``params`` stream initialises the parameters.

        Raises:
            SettingsError: the signal is too short for so much pooling.
        """
        H, W, channels = image_shape
        length, layers = H * W, []
        for place, block in enumerate(blocks, 1):
            layers.append(
                ConvBlock(
                    channels,
                    block.channels,
                    block.kernel_size,
                    stride=block.stride,
                    dimensions=1,
                    norm=norm,
                    rngs=rngs,
                )
            )
            channels = block.channels
            length = output_size(length, block.kernel_size, block.stride, "SAME")
            if length < block.pool:
                raise SettingsError(
                    f"signals of {H * W} samples have {length} places after "
                    f"convolution {place}, too few for a pool of {block.pool}; use "
                    "smaller strides and pools"
                )
            length = length // block.pool
        self.blocks = nnx.List(layers)
        self.pools = tuple(block.pool for block in blocks)
        self.shape = (length, channels)

    def __call__(
        self, images: Float[Array, "B H W C"], *, train: bool
    ) -> Float[Array, "B L F"]:
        """Features along the signal; training updates running averages."""
        B, H, W, C = images.shape
        x = images.reshape(B, H * W, C)
        for place, (block, pool) in enumerate(
            zip(self.blocks, self.pools, strict=True)
        ):
            with jax.named_scope(f"conv{place + 1}"):
                x = block(x, train=train)
                x = max_pool(x, pool) if pool > 1 else x
        return x
