"""AlexNet, which won the ILSVRC of 2012, with two groups or in one tower.

    five convolutions, the first two with local response normalisation, pooling of 3x3
    windows with stride 2 after the first, second and fifth
    -> dense 4096 -> dense 4096 -> classes

60,965,224 parameters on 227x227x3 images with 1000 classes: the second, fourth and
fifth convolution are in two groups, one for each GPU of its time. The paper reports
37.5 % error (17.0 % top-5) on ILSVRC-2010, and of a smaller network of four layers 11 %
on CIFAR-10, and 13 % without the normalisation.

References:
    Krizhevsky, Sutskever and Hinton 2012, "ImageNet Classification with Deep
    Convolutional Neural Networks", sections 3 to 6; Caffe's bvlc_alexnet for the
    padding. In one tower: Krizhevsky 2014, "One weird trick for parallelizing
    convolutional neural networks", in the form of torchvision.
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
from capsjax.layers import (
    ConvBlock,
    Dropout,
    local_response_normalization,
    max_pool,
    pooled_size,
    relu,
)
from capsjax.models import base
from capsjax.models.base import ImageShape, ModelOutput, Published, ReferenceLayer
from kernels.convolution import output_size

_WINDOW, _POOL_STRIDE = 3, 2
_ZEROS = jax.nn.initializers.zeros
_SMALL = {
    "kernel_sizes": (5, 5, 3, 3, 3),
    "first_stride": 1,
    "first_padding": 2,
    "paper_initializers": False,
}


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(base.Config):
    """Config of `AlexNet`; the defaults are the paper's network."""

    name: ClassVar[str] = "alexnet"
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # On 227x227x3 images.
        "imagenet": {},
        # torchvision's, on 224x224x3 images: 61,100,840 parameters with 1000 classes.
        # It reports 43.48 % error (20.93 % top-5).
        "one_tower": {
            "channels": (64, 192, 384, 256, 256),
            "conv_groups": (1, 1, 1, 1, 1),
            "first_padding": 2,
            "response_normalization": False,
            "paper_initializers": False,
        },
        # The sizes are ours: 427,466 parameters on 32x32x3 images with 10 classes.
        "cifar10": {
            **_SMALL,
            "channels": (64, 64, 64, 64, 64),
            "dense_units": (384, 192),
        },
        # 85,322 on 28x28x1 images.
        "mnist": {
            **_SMALL,
            "channels": (32, 32, 64, 64, 32),
            "dense_units": (128, 64),
        },
    }
    PUBLISHED: ClassVar[Sequence[Published]] = (
        Published(
            "imagenet", "imagenet", 17.0, "ten crops, ILSVRC-2010's test", side=227
        ),
        Published("one_tower", "imagenet", 20.93, "one crop, by torchvision"),
        Published("cifar10", "cifar10", 11.0, "of a smaller network"),
        Published("mnist", "mnist", None),
    )

    channels: tuple[int, ...] = field(
        (96, 256, 384, 384, 256), "Channels of each convolution.", at_least=1
    )
    kernel_sizes: tuple[int, ...] = field(
        (11, 5, 3, 3, 3), "Size of each convolution's kernel in pixels.", at_least=1
    )
    conv_groups: tuple[int, ...] = field(
        (1, 2, 1, 2, 2), "Groups of channels of each convolution.", at_least=1
    )
    first_stride: int = field(4, "Stride of the first convolution.", at_least=1)
    first_padding: int = field(
        0,
        "Zeros around the image; further convolutions keep the size.",
        at_least=0,
    )
    pooled: tuple[int, ...] = field(
        (1, 2, 5),
        "Numbers of the convolutions, from 1, that pooling follows: the largest of 3x3 "
        "with stride 2.",
        at_least=1,
    )
    response_normalization: bool = field(
        True, "Normalises the first two convolutions' features over channels."
    )
    dense_units: tuple[int, ...] = field(
        (4096, 4096), "Units of the hidden dense layers.", at_least=1
    )
    dropout_rate: float = field(
        0.5, "Dropout rate after each hidden dense layer.", at_least=0, at_most=1
    )
    paper_initializers: bool = field(
        True,
        "Starts from N(0, 0.01) and biases of 1 in the second, fourth and fifth "
        "convolution and the hidden dense layers; else from He's and zeros, which "
        "suits fewer channels.",
    )

    def reference_layers(self, model: Any) -> Sequence[ReferenceLayer]:
        """As in torchvision, which has the form in one tower.

        Raises:
            SettingsError: torchvision's has no response normalisation, or another first
                convolution.
        """
        base.check_reference(
            self, response_normalization=False, first_stride=4, first_padding=2
        )
        layers, place = [], 0
        for number, block in enumerate(model.convs, 1):
            layers.append(ReferenceLayer(block.conv, f"features.{place}"))
            place += 3 if number in self.pooled else 2
        for index, dense in enumerate(model.dense):
            grid = (1, 1) if index else model.grid
            layers.append(
                ReferenceLayer(dense, f"classifier.{3 * index + 1}", grid=grid)
            )
        last = f"classifier.{3 * len(self.dense_units)}"
        return [*layers, ReferenceLayer(model.logits, last, is_classifier=True)]

    def build(
        self, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ) -> "AlexNet":
        """The network."""
        return AlexNet(self, image_shape, num_classes, rngs)

    def smaller(self, size: Literal["quick", "cpu"]) -> Self:
        """A quarter or half of the channels and units."""
        share = 4 if size == "quick" else 2
        return self.replace(
            channels=tuple(
                # So that the groups stay of equal size.
                max(n // share // 2, 1) * 2
                for n in self.channels
            ),
            dense_units=tuple(max(n // share, 1) for n in self.dense_units),
        )


class AlexNet(base.Model):
    """Convolutions with response normalisation and pooling, and dense layers."""

    def __init__(
        self, config: Config, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ):
        """Builds the network; see `base.Config.build`.

        Raises:
            SettingsError: numbers of settings that differ, channels that the groups do
                not divide, or an image that is too small.
        """
        base.check_counts(
            config, "channels", "kernel_sizes", "conv_groups", of="convolution"
        )
        if any(number > len(config.channels) for number in config.pooled):
            raise SettingsError(
                f"pooled is {config.pooled}, and there are {len(config.channels)} "
                "convolutions"
            )
        small = nnx.initializers.normal(0.01)
        he_normal = jax.nn.initializers.he_normal()
        weights = small if config.paper_initializers else he_normal
        ones = jax.nn.initializers.ones if config.paper_initializers else _ZEROS
        grid: tuple[int, ...] = image_shape[:2]
        channels = (image_shape[2], *config.channels)
        convs = []
        for number, ((n_in, n_out), kernel, groups) in enumerate(
            zip(
                itertools.pairwise(channels),
                config.kernel_sizes,
                config.conv_groups,
                strict=True,
            ),
            1,
        ):
            if n_in % groups or n_out % groups:
                raise SettingsError(
                    f"convolution {number} has {n_in} and {n_out} channels, which "
                    f"cannot be divided into {groups} groups"
                )
            stride = config.first_stride if number == 1 else 1
            padding = config.first_padding if number == 1 else kernel // 2
            convs.append(
                ConvBlock(
                    n_in,
                    n_out,
                    kernel,
                    stride=stride,
                    padding=padding,
                    groups=groups,
                    kernel_init=weights,
                    bias_init=ones if number in (2, 4, 5) else _ZEROS,
                    rngs=rngs,
                )
            )
            grid = tuple(output_size(size, kernel, stride, padding) for size in grid)
            if min(grid) < 1:
                raise SettingsError(
                    f"images of {image_shape[0]}x{image_shape[1]} pixels are too small "
                    f"for convolution {number}"
                )
            if number in config.pooled:
                grid = tuple(pooled_size(size, _WINDOW, _POOL_STRIDE) for size in grid)
        self.convs = nnx.List(convs)
        self.grid = (grid[0], grid[1])
        self.pooled = config.pooled
        self.response_normalization = config.response_normalization
        units = (grid[0] * grid[1] * channels[-1], *config.dense_units)
        self.dense = nnx.List(
            nnx.Linear(n_in, n_out, kernel_init=weights, bias_init=ones, rngs=rngs)
            for n_in, n_out in itertools.pairwise(units)
        )
        self.dropouts = nnx.List(
            Dropout(config.dropout_rate, place)
            for place in range(len(config.dense_units))
        )
        self.logits = nnx.Linear(units[-1], num_classes, kernel_init=weights, rngs=rngs)

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
        for number, conv in enumerate(self.convs, 1):
            x = conv(x, train=train)
            if self.response_normalization and number <= 2:
                x = local_response_normalization(x)
            if number in self.pooled:
                x = max_pool(x, _WINDOW, _POOL_STRIDE)
        x = x.reshape(x.shape[0], -1)
        for dropout, dense in zip(self.dropouts, self.dense, strict=True):
            x = dropout(relu(dense(x)), keys)
        return ModelOutput(self.logits(x))
