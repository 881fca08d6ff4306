"""Capsules with inverted dot-product attention, on a residual network.

References:
    Tsai, Srivastava, Goh and Salakhutdinov 2020, "Capsules with Inverted Dot-Product
    Attention Routing"; the authors' code (apple/ml-capsules-inverted-attention-routing)
    for what the paper leaves open.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import jax
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from capsjax import routings
from capsjax.errors import SettingsError
from capsjax.fields import field
from capsjax.layers import (
    BatchNorm,
    ConvCapsules,
    GridPrimaryCapsules,
    LayerNorm,
    RoutedCapsules,
    conv3x3,
    relu,
    residual_blocks,
)
from capsjax.layers.initializers import Initializer
from capsjax.losses.base import Scores
from capsjax.models import base
from capsjax.models.base import ImageShape, ModelOutput, Published
from capsjax.routings import ROUTINGS, Capsules, Sizes, inverted_attention
from kernels.convolution import output_size
from kernels.routing import Diagnosis
from kernels.routing.votes import Windows


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(base.Config):
    """Config of `InvertedAttentionCapsNet`; the defaults are those for CIFAR-10."""

    name: ClassVar[str] = "inverted_attention_capsnet"
    has_capsules: ClassVar[bool] = True
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # 1,828,817 parameters on 32x32x3 images with 10 classes.
        "cifar10": {},
        # 2,799,629 with 100 classes.
        "cifar100": {"pose_size": 6, "hidden_capsules": (20,)},
    }
    PUBLISHED: ClassVar[Sequence[Published]] = (
        Published("cifar10", "cifar10", 5.15, "mean of several"),
    )

    channels: tuple[int, ...] = field(
        (64, 128),
        "Channels of each group of residual blocks; each group after the first halves "
        "height and width.",
        at_least=1,
    )
    blocks: tuple[int, ...] = field(
        (3, 4), "Blocks of two convolutions in each group.", at_least=1
    )
    batch_norm_momentum: float = field(
        0.9, "Weight of the old in the running averages.", at_least=0, at_most=1
    )
    primary_types: int = field(
        32, "Types of primary capsules at each place.", at_least=1
    )
    capsule_types: tuple[int, ...] = field(
        (32, 32),
        "Types of capsules in each convolutional layer of capsules.",
        at_least=1,
    )
    capsule_kernels: tuple[int, ...] = field(
        (3, 3), "Size of the windows of each of these layers.", at_least=1
    )
    capsule_strides: tuple[int, ...] = field(
        (2, 1), "Stride of the windows of each of these layers.", at_least=1
    )
    hidden_capsules: tuple[int, ...] = field(
        (),
        "Capsules in each fully connected layer below the class capsules.",
        at_least=1,
    )
    pose_size: int = field(4, "Rows and columns d of a pose.", at_least=1)
    schedule: str = field(
        "concurrent",
        "Whether all layers make each pass of the routing together, as in the paper, "
        "or each layer makes all of its passes before the next.",
        choices=("concurrent", "sequential"),
    )
    routing: routings.Config = field(
        inverted_attention.Config,
        "Routing between all layers of capsules.",
        registry=ROUTINGS,
    )

    @property
    def scores(self) -> Scores:
        """Logits, unless the routing gives activations."""
        return self.routing.activations or "logits"

    def build(
        self, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ) -> "InvertedAttentionCapsNet":
        """The network."""
        return InvertedAttentionCapsNet(self, image_shape, num_classes, rngs)

    def smaller(self, size: Literal["quick", "cpu"]) -> Self:
        """One block in each group; a quarter or half of channels and types."""
        share = 4 if size == "quick" else 2
        return self.replace(
            channels=tuple(max(n // share, 1) for n in self.channels),
            blocks=(1,) * len(self.blocks),
            primary_types=max(self.primary_types // share, 2),
            capsule_types=tuple(max(n // share, 2) for n in self.capsule_types),
        )


class InvertedAttentionCapsNet(base.Model):
    """Residual blocks -> primary capsules -> layers of capsules -> one linear map.

    Poses are normalised, not squashed, and capsules have no activations. A linear map,
    the same for all class capsules, makes logits of their poses.
    """

    def __init__(
        self, config: Config, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ):
        """Builds the network; see `base.Config.build`.

        Raises:
            SettingsError: settings that do not fit together or with the images.
        """
        _check(config)
        grid: tuple[int, ...] = image_shape[:2]
        for _ in config.channels[1:]:
            grid = tuple(output_size(size, 3, 2, "SAME") for size in grid)
        first, last = config.channels[0], config.channels[-1]
        self.conv = conv3x3(image_shape[2], first, rngs=rngs)
        self.norm = BatchNorm(first, momentum=config.batch_norm_momentum, rngs=rngs)
        self.blocks = nnx.List(
            residual_blocks(
                first,
                list(zip(config.channels, config.blocks, strict=True)),
                shortcut="project",
                momentum=config.batch_norm_momentum,
                rngs=rngs,
            )
        )
        d = config.pose_size
        dim = d * d
        self.primary_capsules = GridPrimaryCapsules(
            last,
            config.primary_types,
            (d, d),
            has_activations=False,
            use_bias=False,
            kernel_init=jax.nn.initializers.he_normal(),
            rngs=rngs,
        )
        self.primary_norm = LayerNorm(dim, rngs=rngs)
        layers: list[ConvCapsules | RoutedCapsules] = []
        types = [config.primary_types, *config.capsule_types]
        for (n_in, n_out), kernel, stride in zip(
            itertools.pairwise(types),
            config.capsule_kernels,
            config.capsule_strides,
            strict=True,
        ):
            windows = Windows(kernel, stride)
            if min(map(windows.size, grid)) < 1:
                raise SettingsError(
                    f"images of {image_shape[0]}x{image_shape[1]} pixels are too small "
                    f"for capsule_kernels {config.capsule_kernels}: a grid of "
                    f"{grid[0]}x{grid[1]} capsules has no {kernel}x{kernel} window; "
                    "use smaller kernels"
                )
            grid = tuple(map(windows.size, grid))
            layers.append(
                ConvCapsules(
                    Sizes(n_in, dim, n_out, dim),
                    windows,
                    routing=config.routing,
                    weights_init=_initial(kernel**2 * n_in, n_out, d),
                    matrices=True,
                    rngs=rngs,
                )
            )
        n_in = math.prod(grid) * types[-1]

        def fully_connected(n_in: int, n_out: int, readout: bool) -> RoutedCapsules:
            return RoutedCapsules(
                Sizes(n_in, dim, n_out, dim),
                routing=config.routing,
                weights_init=_initial(n_in, n_out, d),
                matrices=True,
                readout=readout,
                rngs=rngs,
            )

        for n_out in config.hidden_capsules:
            layers.append(fully_connected(n_in, n_out, False))
            n_in = n_out
        self.hidden_capsules = nnx.List(layers)
        self.class_capsules = fully_connected(n_in, num_classes, True)
        self.passes = None
        if config.schedule == "concurrent":
            self.passes = config.routing.iterations or 1

    def __call__(
        self,
        images: Float[Array, "B H W C"],
        labels: Int[Array, "B *K"] | None = None,
        *,
        train: bool = False,
        step: Int[Array, ""] | int = 0,
        keys: Key[Array, " B"] | None = None,
    ) -> ModelOutput:
        """Classifies a batch; the poses of the class capsules are rows first."""
        primary = self.primary(self._features(images, train))
        poses, scores = self.route(primary, step=step, train=train)[-1]
        assert scores is not None
        return ModelOutput(scores, poses.reshape(*poses.shape[:2], -1))

    def primary(self, features: Float[Array, "B H W C"]) -> Capsules:
        """The primary capsules."""
        poses = self.primary_capsules(features, train=False).poses
        normalized = self.primary_norm(poses.reshape(*poses.shape[:4], -1))
        return Capsules(normalized.reshape(poses.shape))

    def route(
        self,
        primary: Capsules,
        *,
        step: Int[Array, ""] | int = 0,
        train: bool = False,
    ) -> list[Capsules]:
        """The capsules of every layer, from the primary to the class capsules."""
        layers = [*self.hidden_capsules, self.class_capsules]
        found = [primary]
        if self.passes is None:
            for layer in layers:
                found.append(layer(found[-1], step=step, train=train))
            return found
        for layer in layers:
            found.append(layer.make_pass(found[-1]))
        for _ in range(self.passes - 1):
            # From what the previous pass has left in the layer below and in its own.
            found[1:] = [
                layer.make_pass(below, own)
                for layer, below, own in zip(layers, found[:-1], found[1:], strict=True)
            ]
        return found

    def diagnose_routing(self, images: Float[Array, "B H W C"]) -> Diagnosis:
        """Diagnoses the routing to the class capsules on a few dozen images."""
        below = self.route(self.primary(self._features(images, False)))[-2]
        return self.class_capsules.diagnose(below)

    def _features(self, images: Float[Array, "B H W C"], train: bool) -> Array:
        x = relu(self.norm(self.conv(images), train=train))
        for block in self.blocks:
            x = block(x, train=train)
        return x


def _check(config: Config) -> None:
    """Refuses settings that do not fit together, with the fields to change."""
    base.check_counts(config, "channels", "blocks", of="group of residual blocks")
    base.check_counts(
        config,
        "capsule_types",
        "capsule_kernels",
        "capsule_strides",
        of="layer of capsules",
        least=0,
    )
    # A routing that needs activations is refused by the layers, with either schedule.
    can_be = config.routing.concurrent or config.routing.needs_activations
    if config.schedule == "concurrent" and not can_be:
        suitable = [x.name for x in ROUTINGS.values() if x.concurrent]
        raise SettingsError(
            f"{config.routing.name} routing has no passes that layers could make "
            "together; set schedule to sequential, or routing.name to "
            f"{' or '.join(suitable)}"
        )


def _initial(children: int, parents: int, d: int) -> Initializer:
    """Transformation matrices at first, as in the released code.

    With poses of unit variance and coupling coefficients 1/J, the sum of the votes has
    the variance 1/J, however many children there are.
    """
    return jax.nn.initializers.normal(math.sqrt(parents / (d * children)))
