"""The block of most CNNs: a convolution, perhaps normalisation, and an activation."""

from collections.abc import Callable

import jax
from flax import nnx
from jaxtyping import Array, Float

from capsjax.layers.activations import relu
from capsjax.layers.convolution import Conv
from capsjax.normalization import BatchNorm
from kernels.convolution import Padding

_HE_NORMAL = jax.nn.initializers.he_normal()


class ConvBlock(nnx.Module):
    """A convolution, perhaps batch normalisation, and an activation.

    Attributes:
        conv: the convolution; without a bias if there is a normalisation.
        norm: the normalisation, or None.
        activation: function of the features.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: Padding = "SAME",
        groups: int = 1,
        dimensions: int = 2,
        norm: bool = False,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        activation: Callable[[Array], Array] = relu,
        kernel_init: jax.nn.initializers.Initializer = _HE_NORMAL,
        bias_init: jax.nn.initializers.Initializer = jax.nn.initializers.zeros,
        rngs: nnx.Rngs,
    ):
        self.conv = Conv(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            groups=groups,
            dimensions=dimensions,
            kernel_init=kernel_init,
            bias_init=None if norm else bias_init,
            rngs=rngs,
        )
        self.norm = (
            BatchNorm(out_channels, momentum=momentum, epsilon=epsilon, rngs=rngs)
            if norm
            else None
        )
        self.activation = activation

    def __call__(
        self, x: Float[Array, "B *sizes C_in"], *, train: bool
    ) -> Float[Array, "B *outputs C_out"]:
        """Features; training updates the running averages of the normalisation."""
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x, train=train)
        return self.activation(x)
