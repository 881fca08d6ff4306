"""CapsNet of one-dimensional convolutions, for recorded sounds.

    convolution 9x64 with stride 4 -> primary capsules: convolution 9 with stride 4
    -> routed class capsules

The CapsNet of Sabour, Frosst and Hinton with time in place of the plane of an image;
our own sizes, and no published error. A primary capsule of this form sees 41 samples, 5
ms at 8 kHz. The preset ``pooled`` puts the first two convolutions of `audio_cnn`, with
their pooling, in front of primary capsules that see 38 ms.

References:
    Sabour, Frosst and Hinton 2017, "Dynamic Routing Between Capsules", section 4.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import jax
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from capsjax import routings
from capsjax.errors import SettingsError
from capsjax.fields import field
from capsjax.layers import (
    INITIALIZERS,
    PrimaryCapsules,
    RoutedCapsules,
    SignalBlock,
    SignalFeatures,
)
from capsjax.losses.base import Scores
from capsjax.models import base
from capsjax.models.base import ImageShape, ModelOutput, Published, check_counts
from capsjax.routings import ROUTINGS, Capsules, Sizes
from capsjax.routings.base import lengths
from capsjax.routings.dynamic import Config as Dynamic
from kernels.convolution import output_size
from kernels.routing import Diagnosis


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(base.Config):
    """Config of `AudioCapsNet`; the defaults are for a second of sound at 8 kHz."""

    name: ClassVar[str] = "audio_capsnet"
    has_capsules: ClassVar[bool] = True
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "audio": {},
        "pooled": {
            "channels": (32, 64),
            "kernel_sizes": (80, 3),
            "strides": (4, 1),
            "pools": (4, 4),
            "batch_norm": True,
            "primary_kernel": 3,
            "primary_stride": 2,
        },
        # Signals of 40 samples: 72 primary capsules.
        "mnist1d": {
            "channels": (25,),
            "kernel_sizes": (5,),
            "strides": (2,),
            "primary_kernel": 3,
            "primary_stride": 2,
        },
        # The pixels of images, one after the other.
        "pixels": {"pools": (2,)},
    }
    PUBLISHED: ClassVar[Sequence[Published]] = (
        Published("mnist1d", "mnist1d", None),
        Published("audio", "spoken_digits", None),
        Published("pooled", "spoken_digits", None),
    )

    channels: tuple[int, ...] = field(
        (64,), "Channels of each convolution below the primary capsules.", at_least=1
    )
    kernel_sizes: tuple[int, ...] = field(
        (9,), "Size of each convolution's kernel, in samples or places.", at_least=1
    )
    strides: tuple[int, ...] = field((4,), "Stride of each convolution.", at_least=1)
    pools: tuple[int, ...] = field(
        (1,), "Size of the maximum pooling after each; 1: none.", at_least=1
    )
    batch_norm: bool = field(
        False, "Batch normalisation after each convolution, in place of biases."
    )
    primary_types: int = field(
        8, "Types of primary capsules at each position.", at_least=1
    )
    primary_dim: int = field(8, "Dimensions P of the primary capsules.", at_least=1)
    primary_kernel: int = field(
        9, "Size of the primary capsules' kernel, in places.", at_least=1
    )
    primary_stride: int = field(4, "Stride of the primary capsules.", at_least=1)
    class_dim: int = field(16, "Dimensions Q of the class capsules.", at_least=1)
    routing: routings.Config = field(
        Dynamic, "Routing to the class capsules.", registry=ROUTINGS
    )

    @property
    def scores(self) -> Scores:
        """Kind of the class capsules' activations, which the routing determines."""
        return self.routing.activations or "logits"

    def build(
        self, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ) -> "AudioCapsNet":
        """The network."""
        return AudioCapsNet(self, image_shape, num_classes, rngs)

    def smaller(self, size: Literal["quick", "cpu"]) -> Self:
        """A quarter or half of the channels, and an eighth or half of the types."""
        quick = size == "quick"
        return self.replace(
            channels=tuple(max(n // (4 if quick else 2), 1) for n in self.channels),
            primary_types=max(self.primary_types // (8 if quick else 2), 1),
        )


class AudioCapsNet(base.Model):
    """Convolutions along a signal -> primary capsules -> routed class capsules."""

    def __init__(
        self, config: Config, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ):
        """Builds the network; see `base.Config.build`.

        Raises:
            SettingsError: the signal is too short, or the fields have different
                lengths.
        """
        names = ("channels", "kernel_sizes", "strides", "pools")
        check_counts(config, *names, of="convolution", least=0)
        blocks = map(SignalBlock, *(getattr(config, name) for name in names))
        self.features = SignalFeatures(
            image_shape, list(blocks), norm=config.batch_norm, rngs=rngs
        )
        length, channels = self.features.shape
        places = output_size(length, config.primary_kernel, config.primary_stride)
        if places < 1:
            raise SettingsError(
                f"{length} places after the convolutions are too few for primary "
                f"capsules with a kernel of {config.primary_kernel}; use smaller "
                "kernels, strides and pools"
            )
        init = INITIALIZERS["standard"]
        self.primary_capsules = PrimaryCapsules(
            channels,
            config.primary_types,
            config.primary_dim,
            config.primary_kernel,
            stride=config.primary_stride,
            padding="VALID",
            route=False,
            leaky=False,
            dimensions=1,
            init=init,
            rngs=rngs,
        )
        self.needs_activations = config.routing.needs_activations
        self.class_capsules = RoutedCapsules(
            Sizes(
                places * config.primary_types,
                config.primary_dim,
                num_classes,
                config.class_dim,
            ),
            routing=config.routing,
            weights_init=init.routed,
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
        """Classifies a batch; training updates running averages, if there are any."""
        capsules = self._primary(images, train)
        with jax.named_scope("class_capsules"):
            poses, scores = self.class_capsules(capsules, step=step, train=train)
        assert scores is not None
        return ModelOutput(scores, poses)

    def diagnose_routing(self, images: Float[Array, "B H W C"]) -> Diagnosis:
        """Diagnoses each routing iteration on a few dozen images."""
        return self.class_capsules.diagnose(self._primary(images, train=False))

    def _primary(self, images: Float[Array, "B H W C"], train: bool) -> Capsules:
        features = self.features(images, train=train)
        with jax.named_scope("primary_capsules"):
            poses = self.primary_capsules(features)
        return Capsules(poses, lengths(poses) if self.needs_activations else None)
