"""The CNNs that the paper compares CapsNet with."""

import itertools
from collections.abc import Sequence

import jax
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from capsjax.layers import Conv, relu
from capsjax.models.base import ModelOutput


class BaselineCNN(nnx.Module):
    """Convolutions and dense layers: the CNNs that the paper compares CapsNet with.

    By default the MNIST baseline: 256, 256 and 128 channels of 5x5 kernels with stride
    1 ("SAME" padding gives the paper's 35.4M parameters: 35,445,522 on 28x28x1 with 10
    classes), then 328 and 192 units. The convolutions' padding and the dropout rate are
    not in the paper. The MultiMNIST baseline has 512 and 256 channels of 9x9 and 5x5
    kernels, each followed by pooling, and 1024 units: 24,563,978 on 36x36x1.

    References:
        Sabour, Frosst and Hinton 2017, sections 5 and 6.1.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        conv_channels: Sequence[int] = (256, 256, 128),
        kernel_sizes: Sequence[int] = (5, 5, 5),
        pool: bool = False,
        dense_units: Sequence[int] = (328, 192),
        dropout_rate: float = 0.5,
        rngs: nnx.Rngs,
    ):
        """Builds the network.

        Args:
            image_shape: (H, W, C) in pixels and channels.
            num_classes: J.
            conv_channels: of each convolution.
            kernel_sizes: in pixels, as many.
            pool: halves height and width after each convolution, to the largest of 2x2.
            dense_units: of the hidden dense layers.
            dropout_rate: before the last layer.
            rngs: its ``params`` stream starts the parameters.

        Raises:
            ValueError: not as many kernel sizes as convolutions, or an image that is
                too small for the pooling.
        """
        if len(kernel_sizes) != len(conv_channels):
            raise ValueError(
                f"{len(conv_channels)} conv_channels but {len(kernel_sizes)} "
                "kernel_sizes; give each convolution one"
            )
        H, W, C = image_shape
        he_normal = jax.nn.initializers.he_normal()
        channels = [C, *conv_channels]
        self.convs = nnx.List(
            Conv(
                n_in,
                n_out,
                size,
                padding="SAME",
                kernel_init=he_normal,
                bias_init=jax.nn.initializers.zeros,
                rngs=rngs,
            )
            for (n_in, n_out), size in zip(
                itertools.pairwise(channels), kernel_sizes, strict=True
            )
        )
        self.pool = pool
        halvings = len(conv_channels) if pool else 0
        H, W = H >> halvings, W >> halvings
        if min(H, W) < 1:
            raise ValueError(
                f"images of {image_shape[0]}x{image_shape[1]} pixels cannot be halved "
                f"{halvings} times; use fewer conv_channels or no pool"
            )
        units = [H * W * channels[-1], *dense_units]
        self.dense = nnx.List(
            nnx.Linear(n_in, n_out, kernel_init=he_normal, rngs=rngs)
            for n_in, n_out in itertools.pairwise(units)
        )
        self.dropout = nnx.Dropout(dropout_rate)
        self.logits = nnx.Linear(units[-1], num_classes, rngs=rngs)

    def __call__(
        self,
        images: Float[Array, "B H W C"],
        labels: Int[Array, "B *K"] | None = None,
        *,
        dropout_keys: Key[Array, " B"] | None = None,
    ) -> ModelOutput:
        """Classifies a batch; with dropout where its keys are given, one an example."""
        del labels
        x = images
        for conv in self.convs:
            x = relu(conv(x))
            if self.pool:
                x = nnx.max_pool(x, (2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)
        for dense in self.dense:
            x = relu(dense(x))
        if dropout_keys is not None:
            x = jax.vmap(lambda x, key: self.dropout(x, rngs=key))(x, dropout_keys)
        return ModelOutput(self.logits(x))
