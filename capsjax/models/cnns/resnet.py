"""Residual networks, for small images and for ImageNet's.

For small images, section 4.2 of the paper: a 3x3 convolution, groups of blocks of two
convolutions, and shortcuts without parameters. The paper reports 8.75 % test error on
CIFAR-10 with 20 layers, and 7.51, 7.17, 6.97 and 6.43 % with 32, 44, 56 and 110.

For ImageNet, section 4.1: a 7x7 convolution and pooling, groups of blocks of two
convolutions or bottlenecks of three, and shortcuts that project where the shape
changes. The authors report, by the mean of ten crops, 22.9 % error (6.7 % top-5) with
50 layers, 21.8 (6.1) with 101 and 21.4 (5.7) with 152.

References:
    He, Zhang, Ren and Sun 2016, "Deep Residual Learning for Image Recognition"; the
    authors' README (KaimingHe/deep-residual-networks) for the errors of ten crops.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from capsjax.errors import SettingsError
from capsjax.fields import field
from capsjax.layers import (
    BatchNorm,
    BottleneckBlock,
    Conv,
    ResidualBlock,
    conv3x3,
    max_pool,
    relu,
    residual_blocks,
)
from capsjax.models import base
from capsjax.models.base import ImageShape, ModelOutput, Published, ReferenceLayer

_IMAGENET = {
    "channels": (64, 128, 256, 512),
    "wide_stem": True,
    "projections": True,
}


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(base.Config):
    """Config of `ResNet`; the defaults are ResNet-20."""

    name: ClassVar[str] = "resnet"
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # On 32x32x3 images with 10 classes: 269,722 parameters, and 269,434 with one
        # channel.
        "resnet20": {},
        "resnet20_padded_at_end": {"symmetric_padding": False},
        "resnet32": {"blocks": 5},  # 464,154.
        "resnet44": {"blocks": 7},  # 658,586.
        "resnet56": {"blocks": 9},  # 853,018.
        "resnet110": {"blocks": 18},  # 1,727,962.
        # On 224x224x3 images with 1000 classes: 11,689,512.
        "resnet18": {**_IMAGENET, "blocks": (2, 2, 2, 2)},
        # 21,797,672.
        "resnet34": {**_IMAGENET, "blocks": (3, 4, 6, 3)},
        # 25,557,032.
        "resnet50": {**_IMAGENET, "blocks": (3, 4, 6, 3), "bottleneck": True},
        # 44,549,160.
        "resnet101": {**_IMAGENET, "blocks": (3, 4, 23, 3), "bottleneck": True},
        # 60,192,808.
        "resnet152": {**_IMAGENET, "blocks": (3, 8, 36, 3), "bottleneck": True},
    }
    PUBLISHED: ClassVar[Sequence[Published]] = (
        Published("resnet20", "cifar10", 8.75),
        Published("resnet32", "cifar10", 7.51),
        Published("resnet44", "cifar10", 7.17),
        Published("resnet56", "cifar10", 6.97),
        Published("resnet110", "cifar10", 6.43),
        Published("resnet18", "imagenet", None),
        Published("resnet34", "imagenet", None),
        Published("resnet50", "imagenet", 6.7, "ten crops"),
        Published("resnet101", "imagenet", 6.1, "ten crops"),
        Published("resnet152", "imagenet", 5.7, "ten crops"),
    )

    channels: tuple[int, ...] = field(
        (16, 32, 64),
        "Channels of each group of blocks, of bottlenecks the inner ones; each group "
        "after the first halves height and width.",
        at_least=1,
    )
    blocks: int | tuple[int, ...] = field(
        3,
        "Blocks in each group: one number n, which makes 6n + 2 layers with three "
        "groups, or a number for each group.",
        at_least=1,
    )
    bottleneck: bool = field(
        False,
        "Whether blocks are 1x1, 3x3 and 1x1 convolutions, the last with four times "
        "the channels, in place of two 3x3 convolutions.",
    )
    stride_in_3x3: bool = field(
        False,
        "Whether a bottleneck's 3x3 convolution has the stride, as in torchvision and "
        "timm, in place of its first 1x1 convolution, as in the paper.",
    )
    wide_stem: bool = field(
        False,
        "Begins with a 7x7 convolution and 3x3 max pooling, each with stride 2, as for "
        "ImageNet, in place of a 3x3 convolution.",
    )
    projections: bool = field(
        False,
        "Whether shortcuts multiply by a matrix where the shape changes (option B of "
        "the paper), in place of filling new channels with zeros (option A).",
    )
    symmetric_padding: bool = field(
        True,
        "Pads convolutions with stride 2 on both sides, as the paper's code; else at "
        "the end only, as TensorFlow does with even sizes.",
        before=False,
    )
    batch_norm_momentum: float = field(
        0.9, "Weight of the old in the running averages.", at_least=0, at_most=1
    )

    def blocks_of_groups(self) -> tuple[int, ...]:
        """Number of blocks of each group."""
        if isinstance(self.blocks, int):
            return (self.blocks,) * len(self.channels)
        return self.blocks

    def reference_layers(self, model: Any) -> Sequence[ReferenceLayer]:
        """As in torchvision and timm; and in the usual code for CIFAR-10.

        That code is akamaster/pytorch_resnet_cifar10.

        Raises:
            SettingsError: the reference pads symmetrically, and strides in a
                bottleneck's 3x3 convolution.
        """
        base.check_reference(
            self,
            symmetric_padding=True,
            stride_in_3x3=self.bottleneck or self.stride_in_3x3,
        )
        layers = [
            ReferenceLayer(model.conv, "conv1"),
            ReferenceLayer(model.norm, "bn1"),
        ]
        blocks = iter(model.blocks)
        for group, count in enumerate(self.blocks_of_groups(), 1):
            for index in range(count):
                block, name = next(blocks), f"layer{group}.{index}"
                for number in range(1, 4 if self.bottleneck else 3):
                    layers += [
                        ReferenceLayer(
                            getattr(block, f"conv{number}"), f"{name}.conv{number}"
                        ),
                        ReferenceLayer(
                            getattr(block, f"norm{number}"), f"{name}.bn{number}"
                        ),
                    ]
                if block.projection is not None:
                    layers += [
                        ReferenceLayer(layer, f"{name}.{part}", f"{name}.{other}")
                        for layer, part, other in (
                            (block.projection, "downsample.0", "shortcut.0"),
                            (block.projection_norm, "downsample.1", "shortcut.1"),
                        )
                    ]
        return [
            *layers,
            ReferenceLayer(model.logits, "fc", "linear", is_classifier=True),
        ]

    def build(
        self, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ) -> "ResNet":
        """The network."""
        return ResNet(self, image_shape, num_classes, rngs)

    def smaller(self, size: Literal["quick", "cpu"]) -> Self:
        """One block in each group; half of the channels to try things out."""
        share = 2 if size == "quick" else 1
        return self.divided(share, "channels").replace(blocks=1)


class ResNet(base.Model):
    """Convolution, groups of residual blocks, global mean, one dense layer."""

    def __init__(
        self, config: Config, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ):
        """Builds the network; see `base.Config.build`.

        Raises:
            SettingsError: there are no channels, or not one number of blocks for each
                group.
        """
        if not config.channels:
            raise SettingsError("a residual network needs channels; got none")
        counts = config.blocks_of_groups()
        if len(counts) != len(config.channels):
            raise SettingsError(
                f"{len(counts)} blocks and {len(config.channels)} channels; give each "
                "group one of each, or one number of blocks for all"
            )
        first = config.channels[0]
        padding = 1 if config.symmetric_padding else "SAME"
        self.wide_stem = config.wide_stem
        if config.wide_stem:
            self.conv = Conv(
                image_shape[2],
                first,
                7,
                stride=2,
                padding=3 if config.symmetric_padding else "SAME",
                kernel_init=jax.nn.initializers.he_normal(),
                bias_init=None,
                rngs=rngs,
            )
        else:
            self.conv = conv3x3(image_shape[2], first, padding=padding, rngs=rngs)
        self.norm = BatchNorm(first, momentum=config.batch_norm_momentum, rngs=rngs)
        make: Callable[..., ResidualBlock | BottleneckBlock] = ResidualBlock
        if config.bottleneck:
            make = functools.partial(
                BottleneckBlock, stride_in_3x3=config.stride_in_3x3
            )
        self.blocks = nnx.List(
            residual_blocks(
                first,
                list(zip(config.channels, counts, strict=True)),
                make=make,
                shortcut="project" if config.projections else "pad",
                momentum=config.batch_norm_momentum,
                padding=padding,
                rngs=rngs,
            )
        )
        last = config.channels[-1] * self.blocks[-1].EXPANSION
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
        if self.wide_stem:
            x = max_pool(x, 3, 2, padding=1)
        for block in self.blocks:
            x = block(x, train=train)
        return ModelOutput(self.logits(jnp.mean(x, axis=(1, 2))))
