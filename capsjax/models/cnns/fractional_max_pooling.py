"""The CNNs of fractional max pooling: many pooling layers that each shrink little.

    2x2 convolutions with K, 2K, 3K, ... channels, each followed by fractional pooling
    -> one more 2x2 convolution -> one 1x1 -> classes

Sizes follow from the end, where one pixel is left: with 6 poolings by 2^(1/2) images
have 36x36 pixels, with 12 poolings by 2^(1/3) 94x94; smaller images lie in the middle
of zeros. Regions are drawn anew in training, and fixed in evaluation; with random keys
a pass draws them in evaluation, too.

The network for MNIST has 519,946 parameters; the paper reports 0.44 % test error for
one pass, and 0.34 % for the mean of 12. Its largest for CIFAR-10, with K = 160 and
dropout, has 79 million parameters and 4.50 % error, 3.67 % for the mean of 12 passes.

References:
    Graham 2014, "Fractional Max-Pooling"; its released code, SparseConvNet, for the
    slope of the rectifiers and the rates of dropout.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from capsjax.errors import SettingsError
from capsjax.fields import field
from capsjax.layers import ConvBlock, Dropout, fractional_max_pool
from capsjax.layers.fractional_max_pooling import Sequences
from capsjax.models import base
from capsjax.models.base import ImageShape, ModelOutput, Published

_SLOPE = 1 / 3
_INIT = jax.nn.initializers.variance_scaling(2 / (1 + _SLOPE**2), "fan_in", "normal")


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(base.Config):
    """Config of `FractionalMaxPoolingCNN`; the defaults are the network for MNIST."""

    name: ClassVar[str] = "fractional_max_pooling"
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "mnist": {},
        # The released code's smaller network for CIFAR-10: 3,176,490 parameters.
        "cifar10": {"pools": 12, "ratio": 2 ** (1 / 3), "dropout_rate": 0.1},
        # The paper's largest.
        "cifar10_large": {
            "pools": 12,
            "ratio": 2 ** (1 / 3),
            "channels": 160,
            "dropout_rate": 0.5,
        },
    }
    PUBLISHED: ClassVar[Sequence[Published]] = (
        Published("mnist", "mnist", 0.44, "one pass of random regions"),
        Published("cifar10_large", "cifar10", 4.5, "one pass"),
    )

    channels: int = field(
        32, "Channels K of the first convolution; the n-th one has n K.", at_least=1
    )
    pools: int = field(6, "Number of pooling layers.", at_least=1)
    ratio: float = field(
        2**0.5, "Factor by which each divides height and width.", above=1, at_most=2
    )
    overlapping: bool = field(
        True, "Regions share their last row and column with the next ones."
    )
    sequence: str = field(
        "pseudorandom",
        "How regions are drawn: of equal sizes as far as can be, or in any order.",
        choices=("pseudorandom", "random"),
    )
    dropout_rate: float = field(
        0.0,
        "Dropout rate before the 1x1 convolution; it rises from 0 by equal steps.",
        at_least=0,
        at_most=1,
    )

    def build(
        self, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ) -> "FractionalMaxPoolingCNN":
        """The network."""
        return FractionalMaxPoolingCNN(self, image_shape, num_classes, rngs)

    def smaller(self, size: Literal["quick", "cpu"]) -> Self:
        """A quarter or half of the channels."""
        return self.divided(4 if size == "quick" else 2, "channels")


def sizes(pools: int, ratio: float) -> list[tuple[int, int]]:
    """Pixels along an axis before and after each pooling layer, in order.

    The last 2x2 convolution leaves one pixel; every other one takes one pixel away.
    """
    pairs, after = [], 2
    for _ in range(pools):
        before = round(after * ratio)
        pairs.append((before, after))
        after = before + 1
    return pairs[::-1]


class FractionalMaxPoolingCNN(base.Model):
    """2x2 convolutions, each but the last with fractional max pooling."""

    def __init__(
        self, config: Config, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ):
        """Builds the network; see `base.Config.build`.

        Raises:
            SettingsError: the image is too large for the poolings, or the ratio so
                small that they change nothing.
        """
        pairs = sizes(config.pools, config.ratio)
        self.side = pairs[0][0] + 1
        if max(image_shape[:2]) > self.side:
            raise SettingsError(
                f"images of {image_shape[0]}x{image_shape[1]} pixels are larger than "
                f"the {self.side}x{self.side} that {config.pools} pools by "
                f"{config.ratio:g} end with one pixel of; use more pools"
            )
        if any(before - config.overlapping < after for before, after in pairs):
            raise SettingsError(
                f"a ratio of {config.ratio:g} is too small to shrink 2 pixels; take a "
                "larger one, or overlapping=false"
            )
        self.pooled = tuple(after for _, after in pairs)
        self.overlapping = config.overlapping
        self.sequence = cast(Sequences, config.sequence)
        count = config.pools + 2
        channels = [image_shape[2], *(config.channels * (n + 1) for n in range(count))]
        self.blocks = nnx.List(
            ConvBlock(
                channels[n],
                channels[n + 1],
                1 if n == count - 1 else 2,
                padding="VALID",
                activation=_leaky_relu,
                kernel_init=_INIT,
                rngs=rngs,
            )
            for n in range(count)
        )
        self.dropouts = nnx.List(
            Dropout(config.dropout_rate * n / (count - 1), n) for n in range(count)
        )
        self.logits = nnx.Linear(channels[-1], num_classes, rngs=rngs)

    def __call__(
        self,
        images: Float[Array, "B H W C"],
        labels: Int[Array, "B *K"] | None = None,
        *,
        train: bool = False,
        step: Int[Array, ""] | int = 0,
        keys: Key[Array, " B"] | None = None,
    ) -> ModelOutput:
        """Classifies a batch; regions are random where keys are given.

        Dropout is for training alone.
        """
        x = jnp.pad(images, [(0, 0), *map(self._margins, images.shape[1:3]), (0, 0)])
        for n, block in enumerate(self.blocks):
            x = block(self.dropouts[n](x, keys if train else None), train=train)
            if n < len(self.pooled):
                x = fractional_max_pool(
                    x,
                    (self.pooled[n], self.pooled[n]),
                    # Dropout folds smaller numbers in.
                    None if keys is None else _folded(keys, len(self.blocks) + n),
                    overlapping=self.overlapping,
                    sequence=self.sequence,
                )
        return ModelOutput(self.logits(x[:, 0, 0]))

    def _margins(self, size: int) -> tuple[int, int]:
        """Zeros before and after that make an axis of ``side`` pixels."""
        missing = self.side - size
        return missing // 2, missing - missing // 2


def _leaky_relu(x: Array) -> Array:
    return jax.nn.leaky_relu(x, _SLOPE)


def _folded(keys: Key[Array, " B"], number: int) -> Key[Array, " B"]:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)
