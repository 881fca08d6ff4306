"""Matrix capsules: convolutional layers of capsules with 4x4 poses and EM routing.

References:
    Hinton, Sabour and Frosst 2018, "Matrix capsules with EM routing", section 4.
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
    Conv,
    ConvCapsules,
    GridPrimaryCapsules,
    RoutedCapsules,
    relu,
)
from capsjax.losses.base import Scores
from capsjax.models import base
from capsjax.models.base import ImageShape, ModelOutput, Published
from capsjax.normalization import POSE_NORMALIZATIONS
from capsjax.routings import ROUTINGS, Capsules, Sizes, em
from kernels.convolution import output_size
from kernels.routing import Diagnosis
from kernels.routing.votes import Windows


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(base.Config):
    """Config of `MatrixCapsules`; the defaults are the paper's network for smallNORB.

    The paper calls the channels and the types of capsules A, B, C and D.
    """

    name: ClassVar[str] = "matrix_capsules"
    has_capsules: ClassVar[bool] = True
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # 317,194 parameters on 32x32x2 patches with 5 classes; the paper says 310K.
        "large": {},
        # 68,754 parameters; the paper says 68K.
        "small": {
            "conv_channels": 64,
            "primary_types": 8,
            "capsule_types": (16, 16),
        },
        # Ours, for 8x8 images.
        "digits": {
            "conv_channels": 16,
            "conv_kernel": 3,
            "conv_stride": 1,
            "primary_types": 4,
            "capsule_types": (4, 4),
            "capsule_strides": (1, 1),
            "routing": em.Config.preset("few_children"),
        },
    }
    PUBLISHED: ClassVar[Sequence[Published]] = (
        Published("large", "smallnorb", 1.8, side=32),
    )

    conv_channels: int = field(32, "Channels A of the convolution.", at_least=1)
    conv_kernel: int = field(5, "Size of its kernel in pixels.", at_least=1)
    conv_stride: int = field(2, "Stride of the convolution.", at_least=1)
    primary_types: int = field(
        32, "Types B of primary capsules at each place.", at_least=1
    )
    capsule_types: tuple[int, ...] = field(
        (32, 32),
        "Types C, D, ... of capsules in each convolutional layer of capsules.",
        at_least=1,
    )
    capsule_kernels: tuple[int, ...] = field(
        (3, 3), "Size of the windows of each of these layers.", at_least=1
    )
    capsule_strides: tuple[int, ...] = field(
        (2, 1), "Stride of the windows of each of these layers.", at_least=1
    )
    pose_size: int = field(4, "Rows and columns d of a pose.", at_least=2)
    normalization: str | None = field(
        None,
        "Batch normalisation of the convolution and of the primary capsules: types, "
        "elements of the poses, or none.",
        choices=(None, *POSE_NORMALIZATIONS),
    )
    routing: routings.Config = field(
        em.Config, "Routing between all layers of capsules.", registry=ROUTINGS
    )

    @property
    def scores(self) -> Scores:
        """Kind of the class capsules' activations, which the routing determines."""
        return self.routing.activations or "logits"

    def build(
        self, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ) -> "MatrixCapsules":
        """The network."""
        return MatrixCapsules(self, image_shape, num_classes, rngs)

    def smaller(self, size: Literal["quick", "cpu"]) -> Self:
        """A quarter or half of the types of capsules, at least 2."""
        share = 4 if size == "quick" else 2
        return self.replace(
            conv_channels=max(self.conv_channels // share, 8),
            primary_types=max(self.primary_types // share, 2),
            capsule_types=tuple(max(n // share, 2) for n in self.capsule_types),
        )


class MatrixCapsules(base.Model):
    """Convolution -> primary capsules -> layers of capsules -> class capsules.

    The class capsules share their transformation matrices over all places, whose
    coordinates are added to the votes.
    """

    def __init__(
        self, config: Config, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ):
        """Builds the network; see `base.Config.build`.

        Raises:
            SettingsError: settings that do not fit together or with the images.
        """
        base.check_counts(
            config,
            "capsule_types",
            "capsule_kernels",
            "capsule_strides",
            of="layer of capsules",
            least=0,
        )
        grid = tuple(
            output_size(size, config.conv_kernel, config.conv_stride, "VALID")
            for size in image_shape[:2]
        )
        layers = list(map(Windows, config.capsule_kernels, config.capsule_strides))
        grids = [grid]
        for windows in layers:
            grids.append(tuple(map(windows.size, grids[-1])))
        if min(min(grid) for grid in grids) < 1:
            raise SettingsError(
                f"images of {image_shape[0]}x{image_shape[1]} pixels are too small for "
                f"conv_kernel {config.conv_kernel} and capsule_kernels "
                f"{config.capsule_kernels}: the grids would be "
                f"{', '.join(f'{h}x{w}' for h, w in grids)}; use smaller kernels"
            )
        normalized = config.normalization is not None
        pose = (config.pose_size, config.pose_size)
        dim = math.prod(pose)
        # Votes are as large as the poses.
        votes = jax.nn.initializers.normal(config.pose_size**-0.5)
        self.conv = Conv(
            image_shape[2],
            config.conv_channels,
            config.conv_kernel,
            stride=config.conv_stride,
            kernel_init=jax.nn.initializers.he_normal(),
            bias_init=None if normalized else jax.nn.initializers.zeros,
            rngs=rngs,
        )
        self.norm = BatchNorm(config.conv_channels, rngs=rngs) if normalized else None
        self.primary_capsules = GridPrimaryCapsules(
            config.conv_channels,
            config.primary_types,
            pose,
            use_bias=not normalized,
            normalization=config.normalization,
            kernel_init=jax.nn.initializers.lecun_normal(),
            rngs=rngs,
        )
        types = [config.primary_types, *config.capsule_types]
        self.conv_capsules = nnx.List(
            ConvCapsules(
                Sizes(n_in, dim, n_out, dim),
                windows,
                routing=config.routing,
                weights_init=votes,
                matrices=True,
                rngs=rngs,
            )
            for (n_in, n_out), windows in zip(
                itertools.pairwise(types), layers, strict=True
            )
        )
        rows, columns = grids[-1]
        self.class_capsules = RoutedCapsules(
            Sizes(rows * columns * types[-1], dim, num_classes, dim),
            routing=config.routing,
            weights_init=votes,
            matrices=True,
            shared_over=(rows, columns),
            rngs=rngs,
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
        """Classifies a batch; the poses of the class capsules are rows first."""
        below = self._below(images, step=step, train=train)
        poses, scores = self.class_capsules(below, step=step, train=train)
        assert scores is not None
        return ModelOutput(scores, poses.reshape(*poses.shape[:2], -1))

    def diagnose_routing(self, images: Float[Array, "B H W C"]) -> Diagnosis:
        """Diagnoses the routing to the class capsules on a few dozen images."""
        return self.class_capsules.diagnose(self._below(images, step=0, train=False))

    def _below(
        self,
        images: Float[Array, "B H W C"],
        *,
        step: Int[Array, ""] | int,
        train: bool,
    ) -> Capsules:
        """The capsules below the class capsules."""
        x = self.conv(images)
        if self.norm is not None:
            x = self.norm(x, train=train)
        capsules = self.primary_capsules(relu(x), train=train)
        for layer in self.conv_capsules:
            capsules = layer(capsules, step=step, train=train)
        return capsules
