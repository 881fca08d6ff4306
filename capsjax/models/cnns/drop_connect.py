"""A small CNN with DropConnect, as its paper trains it on MNIST.

    two convolutions with 32 and 64 channels, each halved by pooling -> dense 150, whose
    connections are dropped -> classes

524,156 parameters on 28x28x1 images. The paper reports 0.21 % test error of five such
networks that vote, trained on random crops, rotated and scaled. The channels and units
are the paper's; the size of the kernels and their padding are ours.

With ``dropped`` the same network is trained with dropout of the hidden units, or with
neither, which the paper compares.

References:
    Wan, Zeiler, Zhang, LeCun and Fergus 2013, "Regularization of Neural Networks using
    DropConnect", section 6.1.
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
from capsjax.layers import ConvBlock, DropConnect, Dropout, max_pool, relu
from capsjax.models import base
from capsjax.models.base import ImageShape, ModelOutput, Published

_HE_NORMAL = jax.nn.initializers.he_normal()


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(base.Config):
    """Config of `DropConnectCNN`; the defaults are the paper's network for MNIST."""

    name: ClassVar[str] = "drop_connect"
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # 524,156 parameters on 28x28x1 images, 669,756 on 32x32x3 ones.
        "connections": {},
        "units": {"dropped": "units"},
        "none": {"dropped": "none"},
    }
    PUBLISHED: ClassVar[Sequence[Published]] = (
        Published("connections", "mnist", 0.21, "five networks that vote"),
    )

    conv_channels: tuple[int, ...] = field(
        (32, 64),
        "Channels of each convolution; each halves height and width.",
        at_least=1,
    )
    kernel_size: int = field(5, "Size of the kernels in pixels.", at_least=1)
    dense_units: int = field(150, "Units of the hidden dense layer.", at_least=1)
    dropped: str = field(
        "connections",
        "What is dropped in training, in the hidden dense layer.",
        choices=("connections", "units", "none"),
    )
    drop_rate: float = field(0.5, "Share that is dropped.", at_least=0, at_most=1)

    def build(
        self, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ) -> "DropConnectCNN":
        """The network."""
        return DropConnectCNN(self, image_shape, num_classes, rngs)

    def smaller(self, size: Literal["quick", "cpu"]) -> Self:
        """A quarter or half of the channels and units."""
        return self.divided(4 if size == "quick" else 2, "conv_channels", "dense_units")


class DropConnectCNN(base.Model):
    """Convolutions with pooling, and a hidden dense layer that drops."""

    def __init__(
        self, config: Config, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ):
        """Builds the network; see `base.Config.build`.

        Raises:
            SettingsError: the image is too small to be halved that often.
        """
        H, W, C = image_shape
        channels = [C, *config.conv_channels]
        halvings = len(config.conv_channels)
        H, W = H >> halvings, W >> halvings
        if min(H, W) < 1:
            raise SettingsError(
                f"images of {image_shape[0]}x{image_shape[1]} pixels cannot be halved "
                f"{halvings} times; use fewer conv_channels"
            )
        self.convs = nnx.List(
            ConvBlock(*sizes, config.kernel_size, rngs=rngs)
            for sizes in itertools.pairwise(channels)
        )
        n_in, units = H * W * channels[-1], config.dense_units
        self.dense: DropConnect | nnx.Linear
        if config.dropped == "connections":
            self.dense = DropConnect(
                n_in, units, config.drop_rate, 0, kernel_init=_HE_NORMAL, rngs=rngs
            )
        else:
            self.dense = nnx.Linear(n_in, units, kernel_init=_HE_NORMAL, rngs=rngs)
        self.dropout = Dropout(config.drop_rate if config.dropped == "units" else 0.0)
        self.logits = nnx.Linear(units, num_classes, rngs=rngs)

    def __call__(
        self,
        images: Float[Array, "B H W C"],
        labels: Int[Array, "B *K"] | None = None,
        *,
        train: bool = False,
        step: Int[Array, ""] | int = 0,
        keys: Key[Array, " B"] | None = None,
    ) -> ModelOutput:
        """Classifies a batch; drops where keys are given."""
        x = images
        for conv in self.convs:
            x = max_pool(conv(x, train=train), 2)
        x = x.reshape(x.shape[0], -1)
        if isinstance(self.dense, DropConnect):
            x = self.dense(x, keys)
        else:
            x = self.dropout(relu(self.dense(x)), keys)
        return ModelOutput(self.logits(x))
