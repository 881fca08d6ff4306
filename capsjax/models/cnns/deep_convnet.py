"""The deep CNN for MNIST of a textbook: six 3x3 convolutions in pairs.

    pairs of convolutions with 16, 32 and 64 channels, each halved by pooling
    -> dense 50 -> classes

123,552 parameters on 28x28x1 images with 10 classes. The book reports 0.62 % test
error; its published parameters make 62 errors of 10,000, and 65 where the factor of
dropout stays in front of the last layer, as in the book's own code.

References:
    Saitoh 2016, "Deep Learning from Scratch", section 8.1, and its code,
    ch08/deep_convnet.py.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from capsjax.errors import SettingsError
from capsjax.fields import field
from capsjax.layers import Conv, Dropout, max_pool, relu
from capsjax.models import base
from capsjax.models.base import ImageShape, ModelOutput, Published

# The book's: without the truncation that `he_normal` has.
_INIT = jax.nn.initializers.variance_scaling(2.0, "fan_in", "normal")


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(base.Config):
    """Config of `DeepConvNet`; the defaults are the book's network."""

    name: ClassVar[str] = "deep_convnet"
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"textbook": {}}
    PUBLISHED: ClassVar[Sequence[Published]] = (Published("textbook", "mnist", 0.62),)

    channels: tuple[int, ...] = field(
        (16, 32, 64),
        "Channels of each pair of convolutions; each pair halves height and width.",
        at_least=1,
    )
    dense_units: int = field(50, "Units of the hidden dense layer.", at_least=1)
    dropout_rate: float = field(
        0.5, "Dropout rate after both dense layers.", at_least=0, at_most=1
    )
    wide_padding: bool = field(
        True,
        "Pads the second convolution of the second pair by 2 pixels instead of 1, as "
        "the book does, so that 14x14 pixels become 8x8 and not 7x7.",
    )
    drop_logits: bool = field(
        True, "Drops logits in training, too, as the book does; else hidden units only."
    )

    def build(
        self, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ) -> "DeepConvNet":
        """The network."""
        return DeepConvNet(self, image_shape, num_classes, rngs)

    def smaller(self, size: Literal["quick", "cpu"]) -> Self:
        """A quarter or half of the channels."""
        return self.divided(4 if size == "quick" else 2, "channels")


class DeepConvNet(base.Model):
    """Pairs of 3x3 convolutions with pooling, and two dense layers."""

    def __init__(
        self, config: Config, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ):
        """Builds the network; see `base.Config.build`.

        Raises:
            SettingsError: the image is too small to be halved that often.
        """
        H, W, n_in = image_shape
        self.widened = 1 if config.wide_padding else None
        pairs = []
        for place, n_out in enumerate(config.channels):
            pairs.append(
                nnx.List(
                    Conv(
                        *sizes,
                        3,
                        padding="SAME",
                        kernel_init=_INIT,
                        bias_init=jax.nn.initializers.zeros,
                        rngs=rngs,
                    )
                    for sizes in itertools.pairwise((n_in, n_out, n_out))
                )
            )
            n_in = n_out
            wider = 2 * (place == self.widened)
            H, W = (H + wider) // 2, (W + wider) // 2
        if min(H, W) < 1:
            raise SettingsError(
                f"images of {image_shape[0]}x{image_shape[1]} pixels cannot be halved "
                f"{len(config.channels)} times; use fewer channels"
            )
        self.pairs = nnx.List(pairs)
        self.dense = nnx.Linear(
            H * W * n_in, config.dense_units, kernel_init=_INIT, rngs=rngs
        )
        self.logits = nnx.Linear(
            config.dense_units, num_classes, kernel_init=_INIT, rngs=rngs
        )
        self.dropout = Dropout(config.dropout_rate, 0)
        self.logits_dropout = Dropout(
            config.dropout_rate if config.drop_logits else 0.0, 1
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
        for place, (first, second) in enumerate(self.pairs):
            x = relu(first(x))
            if place == self.widened:
                x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            x = max_pool(relu(second(x)), 2)
        x = self.dropout(relu(self.dense(x.reshape(x.shape[0], -1))), keys)
        return ModelOutput(self.logits_dropout(self.logits(x), keys))
