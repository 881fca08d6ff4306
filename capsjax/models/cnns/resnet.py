"""Residual networks for small images, such as ResNet-20.

References:
    He, Zhang, Ren and Sun 2016, "Deep Residual Learning for Image Recognition",
    section 4.2.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from capsjax.errors import SettingsError
from capsjax.fields import field
from capsjax.layers import BatchNorm, conv3x3, relu, residual_blocks
from capsjax.models import base
from capsjax.models.base import ImageShape, ModelOutput, Published


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(base.Config):
    """Config of `ResNet`; the defaults are ResNet-20."""

    name: ClassVar[str] = "resnet"
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # 269,722 parameters on 32x32x3 images with 10 classes.
        "resnet20": {},
        "resnet32": {"blocks": 5},
        "resnet44": {"blocks": 7},
        "resnet56": {"blocks": 9},
        "resnet110": {"blocks": 18},
    }
    PUBLISHED: ClassVar[Sequence[Published]] = (
        Published("resnet20", "cifar10", 8.75),
        Published("resnet32", "cifar10", 7.51),
        Published("resnet44", "cifar10", 7.17),
        Published("resnet56", "cifar10", 6.97),
        Published("resnet110", "cifar10", 6.43),
    )

    channels: tuple[int, ...] = field(
        (16, 32, 64),
        "Channels of each group of blocks; each group after the first halves height "
        "and width.",
        at_least=1,
    )
    blocks: int = field(
        3, "Blocks n of two convolutions in each group; 6n + 2 layers.", at_least=1
    )
    batch_norm_momentum: float = field(
        0.9, "Weight of the old in the running averages.", at_least=0, at_most=1
    )

    def build(
        self, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ) -> "ResNet":
        """The network."""
        return ResNet(self, image_shape, num_classes, rngs)

    def smaller(self, size: Literal["quick", "cpu"]) -> Self:
        """One block in each group; half of the channels to try things out."""
        share = 2 if size == "quick" else 1
        return self.replace(
            blocks=1, channels=tuple(max(n // share, 1) for n in self.channels)
        )


class ResNet(base.Model):
    """3x3 convolution, groups of residual blocks, global mean, one dense layer."""

    def __init__(
        self, config: Config, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ):
        """Builds the network; see `base.Config.build`.

        Raises:
            ValueError: there are no channels.
        """
        if not config.channels:
            raise SettingsError("a residual network needs channels; got none")
        first, last = config.channels[0], config.channels[-1]
        self.conv = conv3x3(image_shape[2], first, rngs=rngs)
        self.norm = BatchNorm(first, momentum=config.batch_norm_momentum, rngs=rngs)
        self.blocks = nnx.List(
            residual_blocks(
                first,
                [(channels, config.blocks) for channels in config.channels],
                shortcut="pad",
                momentum=config.batch_norm_momentum,
                rngs=rngs,
            )
        )
        self.logits = nnx.Linear(
            last, num_classes, kernel_init=jax.nn.initializers.he_normal(), rngs=rngs
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
        """Classifies a batch; training updates the running averages."""
        x = relu(self.norm(self.conv(images), train=train))
        for block in self.blocks:
            x = block(x, train=train)
        return ModelOutput(self.logits(jnp.mean(x, axis=(1, 2))))
