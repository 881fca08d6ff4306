"""Network in network: small dense networks slide over the image.

    three blocks of a convolution and two 1x1 convolutions, pooling between the blocks
    -> mean over the image

The 1x1 convolutions make a multilayer perceptron of each place's channels. The last one
has a map for each class, and the maps' means are the scores: no dense layer follows.
966,986 parameters on 32x32x3 images, 349,674 on 28x28x1 images in the form for MNIST.
The paper reports 10.41 % test error on CIFAR-10, 8.81 % with augmentation, and 0.47 %
on MNIST.

References:
    Lin, Chen and Yan 2014, "Network In Network", and the authors' settings for
    cuda-convnet: sizes, initialisation, and the ReLU after the last convolution.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from capsjax.fields import field
from capsjax.layers import ConvBlock, Dropout, max_pool, mlpconv_channels
from capsjax.models import base
from capsjax.models.base import ImageShape, ModelOutput, Published


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(base.Config):
    """Config of `NIN`; the defaults are the paper's network for CIFAR-10."""

    name: ClassVar[str] = "nin"
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cifar10": {},
        "mnist": {
            "channels": (96, 64, 48, 128, 96, 48, 128, 96),
            "kernel_sizes": (5, 5, 5),
        },
    }
    PUBLISHED: ClassVar[Sequence[Published]] = (
        Published("cifar10", "cifar10", 10.41, "8.81 with augmentation"),
        Published("mnist", "mnist", 0.47),
    )

    channels: tuple[int, ...] = field(
        (192, 160, 96, 192, 192, 192, 192, 192),
        "Channels of the convolution and the two 1x1 convolutions of each block, but "
        "for the very last, which has one for each class.",
        at_least=1,
    )
    kernel_sizes: tuple[int, ...] = field(
        (5, 5, 3), "Size of the kernel of each block's convolution.", at_least=1
    )
    dropout_rate: float = field(
        0.5, "Dropout rate after each pooling.", at_least=0, at_most=1
    )
    initial_deviation: float | None = field(
        0.05,
        "Standard deviation of the initial kernels; none: that of He et al., for "
        "networks with fewer channels.",
        above=0,
    )

    def build(self, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs) -> "NIN":
        """The network."""
        return NIN(self, image_shape, num_classes, rngs)

    def smaller(self, size: Literal["quick", "cpu"]) -> Self:
        """An eighth or a quarter of the channels."""
        share = 8 if size == "quick" else 4
        return self.divided(share, "channels").replace(initial_deviation=None)


class NIN(base.Model):
    """Blocks of three convolutions, of which the last two are 1x1, and a mean."""

    def __init__(
        self, config: Config, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ):
        """Builds the network; see `base.Config.build`.

        Raises:
            SettingsError: the numbers of channels and kernels do not fit together, or
                the image is too small for the pooling.
        """
        triples = mlpconv_channels(
            config.channels, config.kernel_sizes, num_classes, image_shape
        )
        deviation = config.initial_deviation
        init = (
            jax.nn.initializers.normal(deviation)
            if deviation
            else jax.nn.initializers.he_normal()
        )
        blocks, n_in = [], image_shape[2]
        for triple, kernel_size in zip(triples, config.kernel_sizes, strict=True):
            convs = []
            for n_out, size in zip(triple, (kernel_size, 1, 1), strict=True):
                convs.append(ConvBlock(n_in, n_out, size, kernel_init=init, rngs=rngs))
                n_in = n_out
            blocks.append(nnx.List(convs))
        self.blocks = nnx.List(blocks)
        self.dropouts = nnx.List(
            Dropout(config.dropout_rate, place) for place in range(len(blocks) - 1)
        )

    def __call__(
        self,
        images: Float[Array, "B H W C"],
        labels: Int[Array, "B *K"] | None = None,
        *,
        train: bool = False,
        step: Int[Array, ""] | int = 0,
        keys: Key[Array, " B"] | None = None,
    ) -> ModelOutput:
        """Classifies a batch; with dropout where keys are given."""
        x = images
        for place, block in enumerate(self.blocks):
            if place:
                x = max_pool(x, 3, 2, ceil=True)
                x = self.dropouts[place - 1](x, keys)
            for conv in block:
                x = conv(x, train=train)
        return ModelOutput(jnp.mean(x, axis=(1, 2)))
