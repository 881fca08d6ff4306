"""GoogLeNet, which won the ILSVRC of 2014: Inception modules of parallel convolutions.

    7x7, 1x1 and 3x3 convolutions with pooling and response normalisation
    -> two, five and two Inception modules with pooling between
    -> mean over all places -> classes

An Inception module joins the channels of a 1x1, a 3x3 and a 5x5 convolution and of 3x3
max pooling; 1x1 convolutions reduce the channels in front of the large kernels and
after the pooling. Two auxiliary heads classify inner features in training.

6,998,552 parameters on 224x224x3 images with 1000 classes, 13,378,280 with both heads.
The paper reports 6.67 % top-5 error, with 7 networks and 144 crops. A single crop of
Caffe's replication has 31.3 % error (11.1 % top-5). Without its reductions module 3a
would have 393,472 parameters in place of 163,696.

References:
    Szegedy, Liu, Jia, Sermanet, Reed, Anguelov, Erhan, Vanhoucke and Rabinovich 2015,
    "Going Deeper with Convolutions", table 1 and section 5; Caffe's bvlc_googlenet for
    the order of pooling and normalisation.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from capsjax.errors import SettingsError
from capsjax.fields import field
from capsjax.layers import (
    ConvBlock,
    Dropout,
    average_pool,
    local_response_normalization,
    max_pool,
    pooled_size,
    relu,
)
from capsjax.models import base
from capsjax.models.base import ImageShape, ModelOutput, Published, ReferenceLayer
from kernels.convolution import output_size

_WINDOW, _POOL_STRIDE = 3, 2
_HEAD_WINDOW, _HEAD_STRIDE, _HEAD_CHANNELS = 5, 3, 128
_HE_NORMAL = jax.nn.initializers.he_normal()
_BRANCHES = (
    "channels_1x1",
    "channels_3x3_reduce",
    "channels_3x3",
    "channels_5x5_reduce",
    "channels_5x5",
    "channels_pool",
)


def _modules_3a_3b_4a_4e(share: int) -> dict[str, tuple[int, ...]]:
    """Four of the modules with a share of their channels, for small images."""
    return {
        "stem_channels": (128 // share,),
        "modules_per_stage": (2, 2),
        "channels_1x1": tuple(n // share for n in (64, 128, 192, 256)),
        "channels_3x3_reduce": tuple(n // share for n in (96, 128, 96, 160)),
        "channels_3x3": tuple(n // share for n in (128, 192, 208, 320)),
        "channels_5x5_reduce": tuple(n // share for n in (16, 32, 16, 32)),
        "channels_5x5": tuple(n // share for n in (32, 96, 48, 128)),
        "channels_pool": tuple(n // share for n in (32, 64, 64, 128)),
        "auxiliary_after": (),
    }


_SMALL: dict[str, Any] = {"response_normalization": False, "batch_norm": True}


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(base.Config):
    """Config of `GoogLeNet`; the defaults are the paper's network with its heads."""

    name: ClassVar[str] = "googlenet"
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "imagenet": {},
        # 6,624,904 parameters with 1000 classes, 13,004,888 with both heads.
        # torchvision reports 30.22 % error (10.47 % top-5).
        "torchvision": {
            "response_normalization": False,
            "batch_norm": True,
            "batch_norm_epsilon": 1e-3,
            "large_kernel": 3,
            "last_pool": 2,
            "dropout_rate": 0.2,
            "auxiliary_after": (),
        },
        # The sizes are ours: 451,626 parameters on 32x32x3 images with 10 classes.
        "cifar10": {**_SMALL, **_modules_3a_3b_4a_4e(2)},
        # 114,506 on 28x28x1 images.
        "mnist": {**_SMALL, **_modules_3a_3b_4a_4e(4)},
    }
    PUBLISHED: ClassVar[Sequence[Published]] = (
        Published("imagenet", "imagenet", 6.67, "seven networks, 144 crops"),
        Published("cifar10", "cifar10", None),
        Published("mnist", "mnist", None),
    )

    stem_channels: tuple[int, ...] = field(
        (64, 64, 192),
        "Channels before the modules: of a 7x7 convolution with stride 2, a 1x1 and a "
        "3x3 one, with pooling; or, for small images, of a single 3x3 convolution.",
        at_least=1,
    )
    modules_per_stage: tuple[int, ...] = field(
        (2, 5, 2),
        "Number of Inception modules of each stage; pooling between stages halves "
        "height and width.",
        at_least=1,
    )
    channels_1x1: tuple[int, ...] = field(
        (64, 128, 192, 160, 128, 112, 256, 256, 384),
        "Channels of each module's 1x1 convolution.",
        at_least=1,
    )
    channels_3x3_reduce: tuple[int, ...] = field(
        (96, 128, 96, 112, 128, 144, 160, 160, 192),
        "Channels in front of each module's 3x3 convolution.",
        at_least=1,
    )
    channels_3x3: tuple[int, ...] = field(
        (128, 192, 208, 224, 256, 288, 320, 320, 384),
        "Channels of each module's 3x3 convolution.",
        at_least=1,
    )
    channels_5x5_reduce: tuple[int, ...] = field(
        (16, 32, 16, 24, 24, 32, 32, 32, 48),
        "Channels in front of each module's 5x5 convolution.",
        at_least=1,
    )
    channels_5x5: tuple[int, ...] = field(
        (32, 96, 48, 64, 64, 64, 128, 128, 128),
        "Channels of each module's 5x5 convolution.",
        at_least=1,
    )
    channels_pool: tuple[int, ...] = field(
        (32, 64, 64, 64, 64, 64, 128, 128, 128),
        "Channels after each module's pooling.",
        at_least=1,
    )
    large_kernel: int = field(
        5, "Size of the 5x5 convolutions; 3 in torchvision.", choices=(3, 5)
    )
    last_pool: int = field(
        3, "Window of the pooling before the last stage; 2 in torchvision.", at_least=1
    )
    response_normalization: bool = field(
        True, "Normalises features before the modules over channels, in the long form."
    )
    batch_norm: bool = field(
        False, "Normalises over the batch after each convolution; not in the paper."
    )
    batch_norm_momentum: float = field(
        0.9, "Weight of the old in the running averages.", at_least=0, at_most=1
    )
    batch_norm_epsilon: float = field(
        1e-5, "Added to the variances in batch normalisation.", above=0
    )
    dropout_rate: float = field(
        0.4, "Dropout rate before the last layer.", at_least=0, at_most=1
    )
    auxiliary_after: tuple[int, ...] = field(
        (3, 6),
        "Numbers of the modules, from 1, that an auxiliary head follows; () for none.",
        at_least=1,
    )
    auxiliary_units: int = field(
        1024, "Units of the auxiliary heads' hidden layers.", at_least=1
    )
    auxiliary_dropout_rate: float = field(
        0.7, "Dropout rate of the auxiliary heads.", at_least=0, at_most=1
    )
    auxiliary_loss_weight: float = field(
        0.3, "Weight of each auxiliary head's loss.", at_least=0
    )

    def reference_layers(self, model: Any) -> Sequence[ReferenceLayer]:
        """As in torchvision, whose auxiliary heads may stay behind in the file.

        torchvision's heads take the mean of other windows than the paper's.

        Raises:
            SettingsError: torchvision's has no response normalisation, or another
                window of the last pooling.
        """
        base.check_reference(
            self,
            response_normalization=False,
            last_pool=2,
            batch_norm=True,
            batch_norm_epsilon=1e-3,
            modules_per_stage=(2, 5, 2),
        )
        blocks = {f"conv{number}": block for number, block in enumerate(model.stem, 1)}
        names = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")
        for name, module in zip(names, model.inceptions, strict=True):
            blocks |= {
                f"inception{name}.{branch}": block
                for branch, block in (
                    ("branch1", module.conv1x1),
                    ("branch2.0", module.reduce3x3),
                    ("branch2.1", module.conv3x3),
                    ("branch3.0", module.reduce5x5),
                    ("branch3.1", module.conv5x5),
                    ("branch4.1", module.projection),
                )
            }
        layers = [ReferenceLayer(model.logits, "fc", is_classifier=True)]
        for number in (1, 2):
            name = f"aux{number}"
            if number > len(model.heads):
                layers += [
                    ReferenceLayer(None, f"{name}.{layer}")
                    for layer in ("conv.conv", "conv.bn", "fc1", "fc2")
                ]
                continue
            head = model.heads[number - 1]
            blocks[f"{name}.conv"] = head.conv
            layers += [
                ReferenceLayer(head.dense, f"{name}.fc1", grid=head.grid),
                ReferenceLayer(head.logits, f"{name}.fc2", is_classifier=True),
            ]
        for name, block in blocks.items():
            layers += [
                ReferenceLayer(block.conv, f"{name}.conv"),
                ReferenceLayer(block.norm, f"{name}.bn"),
            ]
        return layers

    def build(
        self, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ) -> "GoogLeNet":
        """The network."""
        return GoogLeNet(self, image_shape, num_classes, rngs)

    def smaller(self, size: Literal["quick", "cpu"]) -> Self:
        """A quarter or half of the channels."""
        share = 4 if size == "quick" else 2
        return self.divided(share, *_BRANCHES, "stem_channels")

    def conv_block(
        self, n_in: int, n_out: int, kernel: int, stride: int = 1, *, rngs: nnx.Rngs
    ) -> ConvBlock:
        """A convolution with this config's normalisation."""
        return ConvBlock(
            n_in,
            n_out,
            kernel,
            stride=stride,
            padding=kernel // 2,
            norm=self.batch_norm,
            momentum=self.batch_norm_momentum,
            epsilon=self.batch_norm_epsilon,
            rngs=rngs,
        )


class Inception(nnx.Module):
    """Four branches in parallel, whose channels are joined.

    Attributes:
        channels: number of the joined channels.
    """

    def __init__(self, config: Config, index: int, n_in: int, rngs: nnx.Rngs):
        ones, before3, threes, before5, fives, pool = (
            getattr(config, name)[index] for name in _BRANCHES
        )
        block = config.conv_block
        self.conv1x1 = block(n_in, ones, 1, rngs=rngs)
        self.reduce3x3 = block(n_in, before3, 1, rngs=rngs)
        self.conv3x3 = block(before3, threes, 3, rngs=rngs)
        self.reduce5x5 = block(n_in, before5, 1, rngs=rngs)
        self.conv5x5 = block(before5, fives, config.large_kernel, rngs=rngs)
        self.projection = block(n_in, pool, 1, rngs=rngs)
        self.channels = ones + threes + fives + pool

    def __call__(
        self, x: Float[Array, "B H W C_in"], *, train: bool
    ) -> Float[Array, "B H W C_out"]:
        """Features of all branches."""
        threes = self.conv3x3(self.reduce3x3(x, train=train), train=train)
        fives = self.conv5x5(self.reduce5x5(x, train=train), train=train)
        pooled = self.projection(max_pool(x, _WINDOW, 1, padding=1), train=train)
        branches = (self.conv1x1(x, train=train), threes, fives, pooled)
        return jnp.concatenate(branches, axis=-1)


class AuxiliaryHead(nnx.Module):
    """A classifier of inner features, for training only.

    Attributes:
        grid: height and width of the pooled features.
    """

    def __init__(
        self,
        config: Config,
        n_in: int,
        grid: tuple[int, int],
        num_classes: int,
        place: int,
        rngs: nnx.Rngs,
    ):
        H, W = (pooled_size(size, _HEAD_WINDOW, _HEAD_STRIDE) for size in grid)
        self.grid = (H, W)
        self.conv = config.conv_block(n_in, _HEAD_CHANNELS, 1, rngs=rngs)
        self.dense = nnx.Linear(
            H * W * _HEAD_CHANNELS,
            config.auxiliary_units,
            kernel_init=_HE_NORMAL,
            rngs=rngs,
        )
        self.dropout = Dropout(config.auxiliary_dropout_rate, place)
        self.logits = nnx.Linear(config.auxiliary_units, num_classes, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B H W C"],
        *,
        train: bool,
        keys: Key[Array, " B"] | None,
    ) -> Float[Array, "B J"]:
        """Logits of the classes."""
        x = self.conv(average_pool(x, _HEAD_WINDOW, _HEAD_STRIDE), train=train)
        x = relu(self.dense(x.reshape(x.shape[0], -1)))
        return self.logits(self.dropout(x, keys))


class GoogLeNet(base.Model):
    """Convolutions, stages of Inception modules, global mean, one dense layer."""

    def __init__(
        self, config: Config, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ):
        """Builds the network; see `base.Config.build`.

        Raises:
            SettingsError: numbers of settings that do not fit together, or an image
                that is too small.
        """
        base.check_counts(config, *_BRANCHES, of="module")
        count = sum(config.modules_per_stage)
        if count != len(config.channels_1x1):
            raise SettingsError(
                f"modules_per_stage makes {count} modules, and there are channels for "
                f"{len(config.channels_1x1)}"
            )
        if any(number > count for number in config.auxiliary_after):
            raise SettingsError(
                f"auxiliary_after is {config.auxiliary_after}, and there are {count} "
                "modules"
            )
        if len(config.stem_channels) not in (1, 3):
            raise SettingsError(
                f"stem_channels has {len(config.stem_channels)} numbers; give 3, or 1 "
                "for small images"
            )
        H, W, n_in = image_shape
        self.is_long = len(config.stem_channels) == 3
        self.response_normalization = config.response_normalization
        kernels, strides = ((7, 1, 3), (2, 1, 1)) if self.is_long else ((3,), (1,))
        stem = []
        for n_out, kernel, stride in zip(
            config.stem_channels, kernels, strides, strict=True
        ):
            stem.append(config.conv_block(n_in, n_out, kernel, stride, rngs=rngs))
            n_in = n_out
        self.stem = nnx.List(stem)
        grid = (H, W)
        if self.is_long:
            halved = (output_size(size, 7, 2, 3) for size in grid)
            grid = _pooled(_pooled(halved, _WINDOW), _WINDOW)
        starts = set(itertools.accumulate(config.modules_per_stage))
        # Of the pooling in front of each module; 0 for none.
        windows: list[int] = []
        inceptions: list[Inception] = []
        heads: list[AuxiliaryHead] = []
        for index in range(count):
            window = _WINDOW if index in starts else 0
            if window and index == count - config.modules_per_stage[-1]:
                window = config.last_pool
            if window:
                grid = _pooled(grid, window)
            windows.append(window)
            inceptions.append(Inception(config, index, n_in, rngs))
            n_in = inceptions[-1].channels
            if index + 1 in config.auxiliary_after:
                heads.append(
                    AuxiliaryHead(config, n_in, grid, num_classes, len(heads), rngs)
                )
        self.windows = tuple(windows)
        self.inceptions, self.heads = nnx.List(inceptions), nnx.List(heads)
        self.auxiliary_after = config.auxiliary_after
        self.auxiliary_loss_weight = config.auxiliary_loss_weight
        self.dropout = Dropout(config.dropout_rate, len(heads))
        self.logits = nnx.Linear(n_in, num_classes, rngs=rngs)

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

        Training updates the running averages, if there are any, and returns the scores
        of the auxiliary heads, too.
        """
        x, auxiliary, heads = self._before_modules(images, train), [], iter(self.heads)
        for number, (window, inception) in enumerate(
            zip(self.windows, self.inceptions, strict=True), 1
        ):
            if window:
                x = max_pool(x, window, _POOL_STRIDE, ceil=True)
            x = inception(x, train=train)
            if number in self.auxiliary_after:
                head = next(heads)
                if train:
                    auxiliary.append(head(x, train=train, keys=keys))
        return ModelOutput(
            self.logits(self.dropout(jnp.mean(x, axis=(1, 2)), keys)),
            auxiliary_scores=tuple(auxiliary),
            auxiliary_weight=self.auxiliary_loss_weight,
        )

    def _before_modules(self, x: Array, train: bool) -> Array:
        if not self.is_long:
            return self.stem[0](x, train=train)
        normalize = (
            local_response_normalization if self.response_normalization else _same
        )
        x = max_pool(self.stem[0](x, train=train), _WINDOW, _POOL_STRIDE, ceil=True)
        x = self.stem[1](normalize(x), train=train)
        x = normalize(self.stem[2](x, train=train))
        return max_pool(x, _WINDOW, _POOL_STRIDE, ceil=True)


def _pooled(grid: Iterable[int], window: int) -> tuple[int, int]:
    H, W = (pooled_size(size, window, _POOL_STRIDE, ceil=True) for size in grid)
    return H, W


def _same(x: Array) -> Array:
    return x
