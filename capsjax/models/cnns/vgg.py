"""VGG networks: many 3x3 convolutions in place of few large ones.

    stages of 3x3 convolutions, each halved by pooling
    -> dense 4096 -> dense 4096 -> classes

VGG-16 and VGG-19 are columns D and E of the paper's table 1: 138,357,544 and
143,667,240 parameters on 224x224x3 images with 1000 classes. torchvision reports 28.41
and 27.62 % error (9.62 and 9.12 % top-5) for one crop. Two 3x3 layers see 5x5 pixels
with 18 weights in place of 25, three see 7x7 with 27 in place of 49.

References:
    Simonyan and Zisserman 2015, "Very Deep Convolutional Networks for Large-Scale Image
    Recognition", sections 2 and 3.
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
from capsjax.layers import ConvBlock, Dropout, max_pool, relu
from capsjax.models import base
from capsjax.models.base import ImageShape, ModelOutput, Published, ReferenceLayer

# The paper begins with a shallower network's layers, and says that it would not need
# to; with this scale for rectifiers it does not.
_INIT = jax.nn.initializers.variance_scaling(2.0, "fan_in", "normal")


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(base.Config):
    """Config of `VGG`; the defaults are VGG-16."""

    name: ClassVar[str] = "vgg"
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # With 1000 classes on 224x224x3 images: 132,863,336 parameters.
        "vgg11": {"depths": (1, 1, 2, 2, 2)},
        # 133,047,848.
        "vgg13": {"depths": (2, 2, 2, 2, 2)},
        "vgg16": {},
        "vgg19": {"depths": (2, 2, 4, 4, 4)},
        # VGG-16 with a quarter of the channels and one dense layer: 923,130 parameters
        # on 32x32x3 images with 10 classes.
        "cifar10": {
            "channels": (16, 32, 64, 128, 128),
            "batch_norm": True,
            "dense_units": (),
        },
        # Its first three stages: 114,778 on 28x28x1 images.
        "mnist": {
            "channels": (16, 32, 64),
            "depths": (2, 2, 3),
            "batch_norm": True,
            "dense_units": (),
        },
    }
    PUBLISHED: ClassVar[Sequence[Published]] = (
        Published("vgg16", "imagenet", 9.62, "one crop, by torchvision"),
        Published("vgg19", "imagenet", 9.12, "one crop, by torchvision"),
        Published("cifar10", "cifar10", None),
        Published("mnist", "mnist", None),
    )

    channels: tuple[int, ...] = field(
        (64, 128, 256, 512, 512),
        "Channels of each stage, which pooling halves in height and width.",
        at_least=1,
    )
    depths: tuple[int, ...] = field(
        (2, 2, 3, 3, 3), "Number of 3x3 convolutions of each stage.", at_least=1
    )
    batch_norm: bool = field(
        False, "Normalises over the batch after each convolution; not in the paper."
    )
    batch_norm_momentum: float = field(
        0.9, "Weight of the old in the running averages.", at_least=0, at_most=1
    )
    dense_units: tuple[int, ...] = field(
        (4096, 4096), "Units of the hidden dense layers.", at_least=1
    )
    dropout_rate: float = field(
        0.5, "Dropout rate after each hidden dense layer.", at_least=0, at_most=1
    )

    def reference_layers(self, model: Any) -> Sequence[ReferenceLayer]:
        """As in torchvision and timm, whose dense layers have names of their own."""
        layers, place = [], 0
        for stage in model.groups:
            for block in stage:
                conv = f"features.{place}"
                layers.append(ReferenceLayer(block.conv, conv))
                if block.norm is not None:
                    layers.append(
                        ReferenceLayer(
                            block.norm, f"features.{place + 1}", absorbs=conv
                        )
                    )
                place += 2 if block.norm is None else 3
            place += 1
        for index, dense in enumerate(model.dense):
            layers.append(
                ReferenceLayer(
                    dense,
                    f"classifier.{3 * index}",
                    f"pre_logits.fc{index + 1}",
                    grid=(1, 1) if index else model.grid,
                )
            )
        count = len(self.dense_units)
        last = ReferenceLayer(
            model.logits,
            f"classifier.{3 * count}",
            "head.fc",
            grid=(1, 1) if count else model.grid,
            is_classifier=True,
        )
        return [*layers, last]

    def build(self, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs) -> "VGG":
        """The network."""
        return VGG(self, image_shape, num_classes, rngs)

    def smaller(self, size: Literal["quick", "cpu"]) -> Self:
        """A quarter or half of the channels and units."""
        return self.divided(4 if size == "quick" else 2, "channels", "dense_units")


class VGG(base.Model):
    """Stages of 3x3 convolutions with pooling, and dense layers."""

    def __init__(
        self, config: Config, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ):
        """Builds the network; see `base.Config.build`.

        Raises:
            SettingsError: not one number of convolutions for each stage, or an image
                that is too small to be halved that often.
        """
        base.check_counts(config, "channels", "depths", of="stage")
        H, W, n_in = image_shape
        count = len(config.channels)
        self.grid = (H >> count, W >> count)
        if min(self.grid) < 1:
            raise SettingsError(
                f"images of {H}x{W} pixels cannot be halved {count} times; use fewer "
                "channels and convolutions"
            )
        stages = []
        for n_out, convolutions in zip(config.channels, config.depths, strict=True):
            stages.append(
                nnx.List(
                    ConvBlock(
                        *sizes,
                        3,
                        norm=config.batch_norm,
                        momentum=config.batch_norm_momentum,
                        kernel_init=_INIT,
                        rngs=rngs,
                    )
                    for sizes in itertools.pairwise((n_in, *[n_out] * convolutions))
                )
            )
            n_in = n_out
        self.groups = nnx.List(stages)
        units = (self.grid[0] * self.grid[1] * n_in, *config.dense_units)
        self.dense = nnx.List(
            nnx.Linear(*sizes, kernel_init=_INIT, rngs=rngs)
            for sizes in itertools.pairwise(units)
        )
        self.dropouts = nnx.List(
            Dropout(config.dropout_rate, place)
            for place in range(len(config.dense_units))
        )
        self.logits = nnx.Linear(units[-1], num_classes, kernel_init=_INIT, rngs=rngs)

    def __call__(
        self,
        images: Float[Array, "B H W C"],
        labels: Int[Array, "B *K"] | None = None,
        *,
        train: bool = False,
        step: Int[Array, ""] | int = 0,
        keys: Key[Array, " B"] | None = None,
    ) -> ModelOutput:
        """Classifies a batch; with dropout where keys are given.

        Training updates the running averages, if there are any.
        """
        x = images
        for stage in self.groups:
            for block in stage:
                x = block(x, train=train)
            x = max_pool(x, 2)
        x = x.reshape(x.shape[0], -1)
        for dense, dropout in zip(self.dense, self.dropouts, strict=True):
            x = dropout(relu(dense(x)), keys)
        return ModelOutput(self.logits(x))
