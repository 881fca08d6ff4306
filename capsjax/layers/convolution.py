"""The convolution layer of all models."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from capsjax.layers.recording import Window
from kernels.convolution import Padding, convolve


class Conv(nnx.Module):
    """Convolution with a square kernel, one stride and a bias.

    Attributes:
        kernel: [K, K, C_in / groups, C_out] float32, with as many axes K as dimensions.
        bias: [C_out] float32, or None.
        stride: number of pixels, along all axes.
        padding: ``"VALID"``, ``"SAME"``, or the number of zeros on each side.
        groups: number of parts of equal size into which the channels are divided; each
            part of the result sees one part of the input.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: Padding = "VALID",
        groups: int = 1,
        dimensions: int = 2,
        kernel_init: jax.nn.initializers.Initializer,
        bias_init: jax.nn.initializers.Initializer | None,
        rngs: nnx.Rngs,
    ):
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{in_channels} and {out_channels} channels cannot be divided into "
                f"{groups} groups"
            )
        size = (kernel_size,) * dimensions
        shape = (*size, in_channels // groups, out_channels)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, jnp.float32))
        bias = bias_init and bias_init(rngs.params(), (out_channels,), jnp.float32)
        self.bias = None if bias is None else nnx.Param(bias)
        self.stride = stride
        self.padding = padding
        self.groups = groups

    @property
    def receptive_window(self) -> Window:
        """The pixels that one pixel of the result sees."""
        return Window(self.kernel.shape[0], self.stride)

    def __call__(
        self, x: Float[Array, "B *sizes C_in"]
    ) -> Float[Array, "B *outputs C_out"]:
        """Convolves images, signals or volumes; `output_size` gives each new size."""
        parts = [
            convolve(x_part, kernel_part, self.stride, self.padding)
            for x_part, kernel_part in zip(
                jnp.split(x, self.groups, axis=-1),
                jnp.split(self.kernel[...], self.groups, axis=-1),
                strict=True,
            )
        ]
        y = parts[0] if self.groups == 1 else jnp.concatenate(parts, axis=-1)
        if self.bias is None:
            return y
        return y + jnp.expand_dims(self.bias[...], range(y.ndim - 1))
