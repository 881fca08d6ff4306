"""The convolution layer of all models."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from kernels.convolution import convolve


class Conv(nnx.Module):
    """2-D convolution with a square kernel, one stride and a bias.

    Attributes:
        kernel: [K, K, C_in, C_out] float32.
        bias: [C_out] float32, or None.
        stride: number of pixels, along both axes.
        padding: ``"VALID"`` or ``"SAME"``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: str = "VALID",
        kernel_init: jax.nn.initializers.Initializer,
        bias_init: jax.nn.initializers.Initializer | None,
        rngs: nnx.Rngs,
    ):
        shape = (kernel_size, kernel_size, in_channels, out_channels)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, jnp.float32))
        bias = bias_init and bias_init(rngs.params(), (out_channels,), jnp.float32)
        self.bias = None if bias is None else nnx.Param(bias)
        self.stride = stride
        self.padding = padding

    def __call__(self, x: Float[Array, "B H W C_in"]) -> Float[Array, "B h w C_out"]:
        """Convolves a batch of images; sizes ``h, w`` are `output_size` of H and W."""
        y = convolve(x, self.kernel[...], self.stride, self.padding)
        return y if self.bias is None else y + self.bias[...][None, None, None]
