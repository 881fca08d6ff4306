"""Capsules on a residual network, routed by themselves; and the paper's controls.

References:
    Hahn, Pyeon and Kim 2019, "Self-Routing Capsule Networks", sections 3 and 5; the
    authors' code (coder3000/SR-CapsNet) for what the paper leaves open.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from capsjax import routings
from capsjax.errors import SettingsError
from capsjax.fields import field
from capsjax.layers import (
    BatchNorm,
    Conv,
    ConvCapsules,
    GridPrimaryCapsules,
    PoseNorm,
    RoutedCapsules,
    conv3x3,
    relu,
    residual_blocks,
)
from capsjax.layers.initializers import Initializer
from capsjax.losses.base import Scores
from capsjax.models import base
from capsjax.models.base import ImageShape, ModelOutput
from capsjax.routings import ROUTINGS, Capsules, Sizes, dynamic, em, self_routing
from kernels.convolution import output_size
from kernels.routing import Diagnosis, squash
from kernels.routing.votes import Windows

_HEADS = ("capsules", "average_pooling", "max_pooling", "fully_connected")


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(base.Config):
    """Config of `SelfRoutingResNet`; the defaults are the paper's for CIFAR-10."""

    name: ClassVar[str] = "self_routing_resnet"
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # Parameters on 32x32x3 images with 10 classes: 931,664.
        "one_layer": {},
        # 3,187,536.
        "two_layers": {"capsule_layers": 2},
        # 911,204.
        "em": {"matrices": True, "routing": em.Config.preset("self_routing_code")},
        # 5,807,888.
        "dynamic": {"routing": dynamic.Config()},
        # 269,722 with either pooling: ResNet-20.
        "average_pooling": {"head": "average_pooling"},
        "max_pooling": {"head": "max_pooling"},
    }

    channels: tuple[int, ...] = field(
        (16, 32, 64),
        "Channels of each group of blocks; each group after the first halves height "
        "and width.",
        at_least=1,
    )
    blocks: int = field(3, "Blocks of two convolutions in each group.", at_least=1)
    head: str = field(
        "capsules",
        "What follows the blocks: layers of capsules, or one of the controls.",
        choices=_HEADS,
    )
    capsule_types: int = field(32, "Types of capsules at each place.", at_least=1)
    capsule_dim: int = field(16, "Dimensions of a pose.", at_least=1)
    capsule_layers: int = field(
        1,
        "Layers of capsules above the primary capsules: convolutional ones, the first "
        "with stride 2, and the class capsules. The fully connected control has "
        "stride 2 if there are several.",
        at_least=1,
    )
    matrices: bool = field(
        False, "Whether poses are square matrices, as with EM routing in the paper."
    )
    batch_norm_momentum: float = field(
        0.9,
        "Weight of the old in the running averages of the residual blocks.",
        at_least=0,
        at_most=1,
    )
    routing: routings.Config = field(
        self_routing.Config, "Routing between all capsule layers.", registry=ROUTINGS
    )

    @property
    def scores(self) -> Scores:
        """The class capsules' activations are of a kind that the routing determines."""
        if self.head != "capsules":
            return "logits"
        return self.routing.activations or "logits"

    def build(
        self, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ) -> "SelfRoutingResNet":
        """The network."""
        return SelfRoutingResNet(self, image_shape, num_classes, rngs)

    def smaller(self, size: Literal["quick", "cpu"]) -> Self:
        """One block in each group; half of the types, a quarter to try things out."""
        quick = size == "quick"
        return self.replace(
            blocks=1,
            channels=tuple(max(n // (2 if quick else 1), 1) for n in self.channels),
            capsule_types=max(self.capsule_types // (4 if quick else 2), 2),
        )

    def columns(self) -> dict[str, str]:
        """Cells of this network; a control's head stands in place of the routing."""
        columns = base.Config.columns(self)
        if self.head == "capsules":
            return columns
        return columns | {
            "routing": self.head,
            "routing_iterations": "",
            "routing_implementation": "none",
        }


class CapsuleHead(nnx.Module):
    """Primary capsules -> convolutional layers of capsules -> class capsules.

    Where the lengths of poses are their activations, primary capsules are squashed and
    layers not normalised. Else there is batch normalisation before each further layer.
    """

    def __init__(
        self,
        config: Config,
        channels: int,
        grid: tuple[int, ...],
        num_classes: int,
        rngs: nnx.Rngs,
    ):
        types, dim = config.capsule_types, config.capsule_dim
        pose: tuple[int, ...] = (dim,)
        if config.matrices:
            d = math.isqrt(dim)
            if d * d != dim:
                raise SettingsError(
                    f"capsule_dim {dim} is not d x d, as matrices need; set it to "
                    f"{max(d, 2) ** 2}, or matrices to false"
                )
            pose = (d, d)
        self.squashes = config.routing.activations == "lengths"
        self.primary_capsules = GridPrimaryCapsules(
            channels,
            types,
            pose,
            3,
            padding="SAME",
            has_activations=config.routing.needs_activations,
            use_bias=False,
            normalization="elements",
            kernel_init=jax.nn.initializers.he_normal(),
            rngs=rngs,
        )
        layers, norms = [], []
        for index in range(config.capsule_layers - 1):
            windows = Windows(3, 1 if index else 2, padding=1)
            grid = tuple(map(windows.size, grid))
            layers.append(
                ConvCapsules(
                    Sizes(types, dim, types, dim),
                    windows,
                    routing=config.routing,
                    weights_init=_he_uniform(0, 1),
                    matrices=config.matrices,
                    rngs=rngs,
                )
            )
            if not self.squashes:
                norms.append(PoseNorm(types, pose, "elements", rngs=rngs))
        self.conv_capsules, self.norms = nnx.List(layers), nnx.List(norms)
        self.class_capsules = RoutedCapsules(
            Sizes(grid[0] * grid[1] * types, dim, num_classes, dim),
            routing=config.routing,
            weights_init=_he_uniform(),
            matrices=config.matrices,
            poses=False,
            rngs=rngs,
        )

    def __call__(
        self,
        features: Float[Array, "B H W C"],
        *,
        step: Int[Array, ""] | int,
        train: bool,
    ) -> Float[Array, "B J"]:
        """Activations of the class capsules."""
        below = self.below(features, step=step, train=train)
        return self.class_capsules.activations(below, step=step, train=train)

    def below(
        self,
        features: Float[Array, "B H W C"],
        *,
        step: Int[Array, ""] | int,
        train: bool,
    ) -> Capsules:
        """The capsules below the class capsules."""
        capsules = self.primary_capsules(features, train=train)
        if self.squashes:
            vectors = capsules.poses.reshape(*capsules.poses.shape[:4], -1)
            poses = squash(vectors).reshape(capsules.poses.shape)
            capsules = capsules._replace(poses=poses)
        for index, layer in enumerate(self.conv_capsules):
            capsules = layer(capsules, step=step, train=train)
            if not self.squashes:
                poses = self.norms[index](capsules.poses, train=train)
                capsules = capsules._replace(poses=poses)
        return capsules


class PooledHead(nnx.Module):
    """Mean or maximum over all places, and one dense layer."""

    def __init__(self, config: Config, channels: int, num_classes: int, rngs: nnx.Rngs):
        self.takes_mean = config.head == "average_pooling"
        self.logits = _dense(channels, num_classes, rngs)

    def __call__(
        self,
        features: Float[Array, "B H W C"],
        *,
        step: Int[Array, ""] | int,
        train: bool,
    ) -> Float[Array, "B J"]:
        """Logits of the classes."""
        pool = jnp.mean if self.takes_mean else jnp.max
        return self.logits(pool(features, axis=(1, 2)))


class FullyConnectedHead(nnx.Module):
    """Convolution to as many channels as capsules have elements, and a dense layer."""

    def __init__(
        self,
        config: Config,
        channels: int,
        grid: tuple[int, ...],
        num_classes: int,
        rngs: nnx.Rngs,
    ):
        units, stride = config.capsule_types * config.capsule_dim, 1
        if config.capsule_layers > 1:
            stride = 2
        self.conv = Conv(
            channels,
            units,
            3,
            stride=stride,
            padding="SAME",
            kernel_init=jax.nn.initializers.he_normal(),
            bias_init=jax.nn.initializers.zeros,
            rngs=rngs,
        )
        self.norm = BatchNorm(units, rngs=rngs)
        places = math.prod(output_size(size, 3, stride, "SAME") for size in grid)
        self.logits = _dense(places * units, num_classes, rngs)

    def __call__(
        self,
        features: Float[Array, "B H W C"],
        *,
        step: Int[Array, ""] | int,
        train: bool,
    ) -> Float[Array, "B J"]:
        """Logits of the classes."""
        x = relu(self.norm(self.conv(features), train=train))
        return self.logits(x.reshape(len(x), -1))


class SelfRoutingResNet(base.Model):
    """3x3 convolution, groups of residual blocks, and a head."""

    def __init__(
        self, config: Config, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ):
        """Builds the network; see `base.Config.build`.

        Raises:
            SettingsError: settings that do not fit together.
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
        grid: tuple[int, ...] = image_shape[:2]
        for _ in config.channels[1:]:
            grid = tuple(output_size(size, 3, 2, "SAME") for size in grid)
        self.head: CapsuleHead | PooledHead | FullyConnectedHead
        if config.head == "capsules":
            self.head = CapsuleHead(config, last, grid, num_classes, rngs)
        elif config.head == "fully_connected":
            self.head = FullyConnectedHead(config, last, grid, num_classes, rngs)
        else:
            self.head = PooledHead(config, last, num_classes, rngs)

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
        features = self._features(images, train)
        return ModelOutput(self.head(features, step=step, train=train))

    def diagnose_routing(self, images: Float[Array, "B H W C"]) -> Diagnosis:
        """Diagnoses the routing to the class capsules on a few dozen images."""
        if not isinstance(self.head, CapsuleHead):
            return base.Model.diagnose_routing(self, images)
        below = self.head.below(self._features(images, False), step=0, train=False)
        return self.head.class_capsules.diagnose(below)

    def _features(self, images: Float[Array, "B H W C"], train: bool) -> Array:
        x = relu(self.norm(self.conv(images), train=train))
        for block in self.blocks:
            x = block(x, train=train)
        return x


def _he_uniform(*places: int) -> Initializer:
    """As in the released code, whose library counts [J, Q, P] as inputs.

    Args:
        *places: axes of the rows and columns of a window.
    """
    return jax.nn.initializers.variance_scaling(
        2.0, "fan_in", "uniform", in_axis=(-3, -2, -1), out_axis=-4, batch_axis=places
    )


def _dense(n_in: int, n_out: int, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(
        n_in, n_out, kernel_init=jax.nn.initializers.he_normal(), rngs=rngs
    )
