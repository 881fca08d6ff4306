"""The CNNs that the paper on dynamic routing compares CapsNet with.

References:
    Sabour, Frosst and Hinton 2017, "Dynamic Routing Between Capsules", sections 5, 5.2
    and 6.1.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import jax
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from capsjax.errors import SettingsError
from capsjax.fields import field
from capsjax.layers import Conv, Dropout, max_pool, relu
from capsjax.models import base
from capsjax.models.base import ImageShape, ModelOutput, Published

_POOLING = {"conv_channels": (512, 256), "kernel_sizes": (9, 5), "pool": True}


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(base.Config):
    """Config of `BaselineCNN`; the defaults are the baseline for MNIST.

    The padding of the convolutions and the dropout rate are not in the paper; "SAME"
    padding gives its 35.4M parameters.
    """

    name: ClassVar[str] = "baseline_cnn"
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # Section 5: 35,445,522 parameters on 28x28x1 images.
        "paper": {},
        # Section 6.1: 24,563,978 parameters on 36x36x1 images.
        "multimnist": {**_POOLING, "dense_units": (1024,), "dropout_rate": 0.0},
        # Section 5.2 says "pooling and dropout" and as many parameters as CapsNet; the
        # sizes are ours: 13,461,006 on 40x40x1 images.
        "expanded": {**_POOLING, "dense_units": (396,), "dropout_rate": 0.5},
    }
    PUBLISHED: ClassVar[Sequence[Published]] = (Published("paper", "mnist", 0.39),)

    conv_channels: tuple[int, ...] = field(
        (256, 256, 128), "Channels of each convolution, stride 1.", at_least=1
    )
    kernel_sizes: tuple[int, ...] = field(
        (5, 5, 5), "Size of each convolution's kernel in pixels.", at_least=1
    )
    pool: bool = field(
        False, "Halves height and width after each convolution, by the largest of 2x2."
    )
    dense_units: tuple[int, ...] = field(
        (328, 192), "Units of the hidden dense layers.", at_least=1
    )
    dropout_rate: float = field(
        0.5, "Dropout rate before the last layer.", at_least=0, at_most=1
    )

    def build(
        self, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ) -> "BaselineCNN":
        """The network."""
        return BaselineCNN(self, image_shape, num_classes, rngs)

    def smaller(self, size: Literal["quick", "cpu"]) -> Self:
        """An eighth or a sixteenth of the channels, and twice that of the units."""
        share = 16 if size == "quick" else 8
        return self.divided(share, "conv_channels").divided(share // 2, "dense_units")


class BaselineCNN(base.Model):
    """Convolutions, perhaps with pooling, and dense layers."""

    def __init__(
        self, config: Config, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ):
        """Builds the network; see `base.Config.build`.

        Raises:
            SettingsError: the numbers of kernel sizes and convolutions differ, or the
                image is too small for the pooling.
        """
        base.check_counts(
            config, "conv_channels", "kernel_sizes", of="convolution", least=0
        )
        H, W, C = image_shape
        he_normal = jax.nn.initializers.he_normal()
        channels = [C, *config.conv_channels]
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
                itertools.pairwise(channels), config.kernel_sizes, strict=True
            )
        )
        self.pool = config.pool
        halvings = len(config.conv_channels) if config.pool else 0
        H, W = H >> halvings, W >> halvings
        if min(H, W) < 1:
            raise SettingsError(
                f"images of {image_shape[0]}x{image_shape[1]} pixels cannot be halved "
                f"{halvings} times; use fewer conv_channels or no pool"
            )
        units = [H * W * channels[-1], *config.dense_units]
        self.dense = nnx.List(
            nnx.Linear(n_in, n_out, kernel_init=he_normal, rngs=rngs)
            for n_in, n_out in itertools.pairwise(units)
        )
        self.dropout = Dropout(config.dropout_rate)
        self.logits = nnx.Linear(units[-1], num_classes, rngs=rngs)

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
        for conv in self.convs:
            x = relu(conv(x))
            if self.pool:
                x = max_pool(x, 2)
        x = x.reshape(x.shape[0], -1)
        for dense in self.dense:
            x = relu(dense(x))
        return ModelOutput(self.logits(self.dropout(x, keys)))
