"""Efficient-CapsNet: few parameters, and routing by self-attention.

References:
    Mazzia, Salvetti and Chiaberge 2021, "Efficient-CapsNet: capsule network with
    self-attention routing".
"""

import dataclasses
from collections.abc import Mapping, Sequence
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
    DepthwisePrimaryCapsules,
    Initializers,
    InstanceNorm,
    MaskedDecoder,
    RoutedCapsules,
    relu,
)
from capsjax.losses.base import Scores
from capsjax.models import base
from capsjax.models.base import ImageShape, ModelOutput, Published
from capsjax.routings import ROUTINGS, Capsules, Sizes
from capsjax.routings.base import lengths
from capsjax.routings.self_attention import Config as SelfAttention
from kernels.convolution import output_size
from kernels.routing import Diagnosis

_HE_NORMAL = jax.nn.initializers.he_normal()
_INIT = Initializers(
    conv1=_HE_NORMAL,
    primary=_HE_NORMAL,
    # Of the released code, whose library counts [J, I, P] as inputs.
    routed=jax.nn.initializers.variance_scaling(
        2.0, "fan_in", "truncated_normal", in_axis=(0, 1, 3), out_axis=2
    ),
    dense=_HE_NORMAL,
    bias=jax.nn.initializers.zeros,
)


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(base.Config):
    """Config of `EfficientCapsNet`; the defaults are the paper's network for MNIST."""

    name: ClassVar[str] = "efficient_capsnet"
    has_capsules: ClassVar[bool] = True
    decoder_off: ClassVar[Mapping[str, Any]] = {"decoder_units": ()}
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # 161,824 parameters without the decoder on 28x28x1 images with 10 classes.
        "mnist": {},
        # 154,656 on 36x36x1 images with 10 classes.
        "multimnist": {
            "strides": (1, 1, 2, 2),
            "primary_kernel": 5,
            "primary_stride": 2,
        },
        # 151,664 on 48x48x2 images with 5 classes. The released decoder enlarges a
        # small image by convolutions; this preset has none.
        "smallnorb": {
            "kernels": (7, 3, 3, 3),
            "strides": (2, 1, 1, 2),
            "primary_kernel": 8,
            "normalization": "instance",
            "leak": 0.3,
            "decoder_units": (),
        },
        # Ours, for 8x8 images.
        "digits": {
            "channels": (16, 32, 32),
            "kernels": (3, 3, 3),
            "strides": (1, 1, 1),
            "primary_kernel": 2,
            "primary_dim": 4,
            "decoder_units": (64,),
        },
    }
    PUBLISHED: ClassVar[Sequence[Published]] = (
        Published("mnist", "mnist", 0.26, "mean of single networks"),
    )

    channels: tuple[int, ...] = field(
        (32, 64, 64, 128), "Channels of each convolution.", at_least=1
    )
    kernels: tuple[int, ...] = field(
        (5, 3, 3, 3), "Size of each convolution's kernel in pixels.", at_least=1
    )
    strides: tuple[int, ...] = field(
        (1, 1, 1, 2), "Stride of each convolution.", at_least=1
    )
    leak: float = field(
        0.0, "Slope of the convolutions' ReLU for negative numbers.", at_least=0
    )
    normalization: str = field(
        "batch", "Normalisation after each ReLU.", choices=("batch", "instance")
    )
    batch_norm_momentum: float = field(
        0.99, "Weight of the old in the running averages.", at_least=0, at_most=1
    )
    primary_kernel: int = field(
        9, "Size of the primary capsules' kernel, which should cover the map."
    )
    primary_stride: int = field(1, "Stride of the primary capsules.", at_least=1)
    primary_dim: int = field(8, "Dimensions P of the primary capsules.", at_least=1)
    class_dim: int = field(16, "Dimensions Q of the class capsules.", at_least=1)
    decoder_units: tuple[int, ...] = field(
        (512, 1024),
        "Units of the decoder's hidden layers; () for no decoder.",
        at_least=1,
    )
    routing: routings.Config = field(
        SelfAttention, "Routing to the class capsules.", registry=ROUTINGS
    )

    @property
    def scores(self) -> Scores:
        """Kind of the class capsules' activations, which the routing determines."""
        return self.routing.activations or "logits"

    @property
    def has_decoder(self) -> bool:
        """True unless the decoder has no units."""
        return bool(self.decoder_units)

    def build(
        self, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ) -> "EfficientCapsNet":
        """The network."""
        return EfficientCapsNet(self, image_shape, num_classes, rngs)

    def smaller(self, size: Literal["quick", "cpu"]) -> Self:
        """A quarter or half of the channels."""
        share = 4 if size == "quick" else 2
        return self.replace(
            channels=tuple(n // share for n in self.channels),
            decoder_units=self.decoder_units and (64,),
        )


class EfficientCapsNet(base.Model):
    """Convolutions -> depthwise primary capsules -> class capsules -> decoder."""

    def __init__(
        self, config: Config, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ):
        """Builds the network; see `base.Config.build`.

        Raises:
            SettingsError: settings that do not fit together or with the images.
        """
        base.check_counts(config, "channels", "kernels", "strides", of="convolution")
        sizes = list(zip(config.channels, config.kernels, config.strides, strict=True))
        n_in = image_shape[2]
        grid: tuple[int, ...] = image_shape[:2]
        convs, norms = [], []
        for n_out, kernel, stride in sizes:
            convs.append(
                Conv(
                    n_in,
                    n_out,
                    kernel,
                    stride=stride,
                    kernel_init=_INIT.conv1,
                    bias_init=_INIT.bias,
                    rngs=rngs,
                )
            )
            norms.append(_norm(config, n_out, rngs))
            n_in = n_out
            grid = tuple(output_size(size, kernel, stride, "VALID") for size in grid)
        grid = tuple(
            output_size(size, config.primary_kernel, config.primary_stride, "VALID")
            for size in grid
        )
        if min(grid) < 1:
            raise SettingsError(
                f"images of {image_shape[0]}x{image_shape[1]} pixels are too small for "
                f"kernels {config.kernels} and primary_kernel {config.primary_kernel}; "
                "use smaller kernels or larger images"
            )
        self.convs, self.norms = nnx.List(convs), nnx.List(norms)
        self.leak = config.leak
        self.primary_capsules = DepthwisePrimaryCapsules(
            n_in,
            config.primary_kernel,
            config.primary_dim,
            stride=config.primary_stride,
            rngs=rngs,
        )
        self.needs_activations = config.routing.needs_activations
        self.class_capsules = RoutedCapsules(
            Sizes(
                grid[0] * grid[1] * (n_in // config.primary_dim),
                config.primary_dim,
                num_classes,
                config.class_dim,
            ),
            routing=config.routing,
            weights_init=_INIT.routed,
            rngs=rngs,
        )
        decoder = None
        if units := config.decoder_units:
            decoder = MaskedDecoder(
                num_classes, config.class_dim, units, image_shape, init=_INIT, rngs=rngs
            )
        self.decoder = decoder

    def __call__(
        self,
        images: Float[Array, "B H W C"],
        labels: Int[Array, "B *K"] | None = None,
        *,
        train: bool = False,
        step: Int[Array, ""] | int = 0,
        keys: Key[Array, " B"] | None = None,
    ) -> ModelOutput:
        """Classifies and reconstructs a batch; training updates running averages."""
        primary = self._primary(images, train)
        poses, scores = self.class_capsules(primary, step=step, train=train)
        assert scores is not None
        if self.decoder is None:
            return ModelOutput(scores, poses)
        if labels is None:
            labels = jnp.argmax(scores, axis=1)
        return ModelOutput(scores, poses, self.decode(poses, labels))

    def diagnose_routing(self, images: Float[Array, "B H W C"]) -> Diagnosis:
        """Diagnoses each routing iteration on a few dozen images."""
        return self.class_capsules.diagnose(self._primary(images, False))

    def _primary(self, images: Float[Array, "B H W C"], train: bool) -> Capsules:
        x = images
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(self._activated(conv(x)), train=train)
        poses = self.primary_capsules(x)
        return Capsules(poses, lengths(poses) if self.needs_activations else None)

    def _activated(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        return jax.nn.leaky_relu(x, self.leak) if self.leak else relu(x)


def _norm(config: Config, channels: int, rngs: nnx.Rngs) -> BatchNorm | InstanceNorm:
    if config.normalization == "instance":
        return InstanceNorm(channels, epsilon=1e-3, rngs=rngs)
    return BatchNorm(
        channels, momentum=config.batch_norm_momentum, epsilon=1e-3, rngs=rngs
    )
