"""CapsNet: convolution, primary capsules, routed class capsules, masked decoder.

References:
    Sabour, Frosst and Hinton 2017, "Dynamic Routing Between Capsules".
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from capsjax import routings
from capsjax.fields import field
from capsjax.layers import (
    INITIALIZERS,
    Conv,
    MaskedDecoder,
    PrimaryCapsules,
    RoutedCapsules,
    primary_grid,
    relu,
)
from capsjax.losses.base import Scores
from capsjax.models import base
from capsjax.models.base import ImageShape, ModelOutput, Published, Stage
from capsjax.routings import ROUTINGS, Capsules, Sizes
from capsjax.routings.base import lengths
from capsjax.routings.dynamic import Config as Dynamic
from kernels.routing import Diagnosis

_AS_RELEASED = {
    "route_primary": True,
    "routing_bias": True,
    "initializers": "authors_code",
}
_DIGITS = {"conv1_kernel": 3, "primary_kernel": 3, "primary_stride": 1}


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(base.Config):
    """Config of `CapsNet`; the defaults are the paper's network for MNIST."""

    name: ClassVar[str] = "capsnet"
    has_capsules: ClassVar[bool] = True
    has_stages: ClassVar[bool] = True
    decoder_off: ClassVar[Mapping[str, Any]] = {"decoder_units": ()}
    RENAMED: ClassVar[Mapping[str, str]] = {
        "routing_iterations": "routing.iterations",
        "routing_implementation": "routing.implementation",
        "leaky": "routing.leaky",
        "stop_gradient": "routing.stop_gradient",
    }
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # Section 4: 8,215,568 parameters on 28x28x1 images with 10 classes.
        "paper": {},
        # Sarasra/models, research/capsules: 8,215,728 parameters.
        "authors_code": _AS_RELEASED,
        # Section 7: 22,476,448 parameters on 24x24x3 patches.
        "cifar10": {
            **_AS_RELEASED,
            "padding": "SAME",
            "primary_types": 64,
            "routing": Dynamic(leaky=True),
            "decoder_units": (),
        },
        # Section 7: 6,661,200 parameters on 32x32x2 patches with 5 classes.
        "smallnorb": {**_AS_RELEASED, "decoder_units": ()},
        # Section 7: 4,720,480 parameters on 32x32x3 images.
        "svhn": {
            "conv1_channels": 64,
            "primary_types": 16,
            "primary_dim": 6,
            "class_dim": 8,
        },
        # Ours, for 16x16x16 voxels, with their depth as channels: 558,272 parameters.
        "voxels": {
            "conv1_channels": 64,
            "conv1_kernel": 5,
            "primary_kernel": 5,
            "primary_types": 16,
            "decoder_units": (),
        },
        # Ours, for 8x8 images: kernels and sizes to fit.
        "digits": {
            **_DIGITS,
            "conv1_channels": 64,
            "primary_types": 16,
            "decoder_units": (128, 256),
        },
        "digits_quick": {
            **_DIGITS,
            "conv1_channels": 16,
            "primary_types": 4,
            "decoder_units": (32,),
        },
    }
    PUBLISHED: ClassVar[Sequence[Published]] = (
        Published("paper", "mnist", 0.25, "mean of three"),
        Published("authors_code", "mnist", 0.25, "mean of three"),
        Published("cifar10", "cifar10", 10.6, "seven networks together", side=24),
    )

    conv1_channels: int = field(256, "Channels of the first convolution.", at_least=1)
    conv1_kernel: int = field(9, "Size of its kernel in pixels; stride 1.", at_least=1)
    primary_types: int = field(
        32, "Types of primary capsules at each position.", at_least=1
    )
    primary_dim: int = field(8, "Dimensions P of the primary capsules.", at_least=1)
    primary_kernel: int = field(
        9, "Size of the primary capsules' kernel in pixels.", at_least=1
    )
    primary_stride: int = field(2, "Stride of the primary capsules.", at_least=1)
    padding: str = field(
        "VALID", "Padding of both convolutions.", choices=("VALID", "SAME")
    )
    hidden_capsules: tuple[int, ...] = field(
        (),
        "Capsules of each routed layer between the primary and the class capsules.",
        at_least=1,
    )
    hidden_dim: int = field(8, "Dimensions of these capsules.", at_least=1)
    class_dim: int = field(16, "Dimensions Q of the class capsules.", at_least=1)
    decoder_units: tuple[int, ...] = field(
        (512, 1024),
        "Units of the decoder's hidden layers; () for no decoder.",
        at_least=1,
    )
    routing: routings.Config = field(
        Dynamic, "Routing to the class capsules.", registry=ROUTINGS
    )
    routing_bias: bool = field(
        False, "Gives class capsules a bias, as the released code does."
    )
    route_primary: bool = field(
        False,
        "Divides the primary capsules' input by the number of types (by one more where "
        "routing is leaky), as the released code does.",
    )
    initializers: str = field(
        "standard", "Initial values of the parameters.", choices=tuple(INITIALIZERS)
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
    ) -> "CapsNet":
        """The network."""
        return CapsNet(self, image_shape, num_classes, rngs)

    def smaller(self, size: Literal["quick", "cpu"]) -> Self:
        """A quarter of the channels and types, a sixteenth of the cost; or less."""
        if size == "cpu":
            return self.replace(conv1_channels=64, primary_types=8)
        return self.replace(
            conv1_channels=32,
            primary_types=4,
            decoder_units=self.decoder_units and (64,),
        )


class CapsNet(base.Model):
    """Conv1 -> primary capsules -> routed class capsules -> masked decoder.

    References:
        Sabour, Frosst and Hinton 2017, section 4, figures 1 and 2.
    """

    def __init__(
        self, config: Config, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ):
        """Builds the network; see `base.Config.build`.

        Raises:
            ValueError: the image is too small for the kernels.
        """
        init, padding = INITIALIZERS[config.initializers], config.padding
        rows, columns = primary_grid(
            image_shape,
            conv1_kernel=config.conv1_kernel,
            primary_kernel=config.primary_kernel,
            primary_stride=config.primary_stride,
            padding=padding,
        )
        self.conv1 = Conv(
            image_shape[2],
            config.conv1_channels,
            config.conv1_kernel,
            padding=padding,
            kernel_init=init.conv1,
            bias_init=init.bias,
            rngs=rngs,
        )
        self.primary_capsules = PrimaryCapsules(
            config.conv1_channels,
            config.primary_types,
            config.primary_dim,
            config.primary_kernel,
            stride=config.primary_stride,
            padding=padding,
            route=config.route_primary,
            leaky=config.routing.leaky,
            init=init,
            rngs=rngs,
        )
        self.needs_activations = config.routing.needs_activations
        self.gives_activations = config.routing.activations is not None
        routed = functools.partial(
            RoutedCapsules,
            routing=config.routing,
            weights_init=init.routed,
            bias_init=init.bias if config.routing_bias else None,
            rngs=rngs,
        )
        below, dim = rows * columns * config.primary_types, config.primary_dim
        hidden = []
        for count in config.hidden_capsules:
            sizes = Sizes(below, dim, count, config.hidden_dim)
            hidden.append(routed(sizes, readout=False))
            below, dim = count, config.hidden_dim
        self.hidden_capsules = nnx.List(hidden)
        self.class_capsules = routed(Sizes(below, dim, num_classes, config.class_dim))
        decoder = None
        if units := config.decoder_units:
            decoder = MaskedDecoder(
                num_classes, config.class_dim, units, image_shape, init=init, rngs=rngs
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
        """Classifies and reconstructs a batch; the same in training and evaluation."""
        capsules = self._hidden(self._primary(images), step=step, train=train)
        with jax.named_scope("class_capsules"):
            poses, scores = self.class_capsules(capsules, step=step, train=train)
        assert scores is not None
        if self.decoder is None:
            return ModelOutput(scores, poses)
        if labels is None:
            labels = jnp.argmax(scores, axis=1)
        with jax.named_scope("decoder"):
            return ModelOutput(scores, poses, self.decode(poses, labels))

    def diagnose_routing(self, images: Float[Array, "B H W C"]) -> Diagnosis:
        """Diagnoses each routing iteration on a few dozen images."""
        return self.class_capsules.diagnose(self._hidden(self._primary(images)))

    def stages(self) -> list[Stage]:
        """The stages from the first convolution to the decoder."""
        below: tuple[str, ...] = ("primary",)
        hidden = []
        if self.hidden_capsules:
            below = ("hidden", "hidden_activations")[: 1 + self.gives_activations]
            hidden = [
                Stage(
                    "hidden_capsules",
                    "hidden_capsules",
                    ("primary",),
                    below,
                    lambda layers, primary: tuple(
                        x
                        for x in self._hidden(self._capsules(primary), layers)
                        if x is not None
                    ),
                )
            ]
        stages = [
            Stage(
                "conv1",
                "conv1",
                ("images",),
                ("features",),
                lambda conv1, images: (relu(conv1(images)),),
            ),
            Stage(
                "primary_capsules",
                "primary_capsules",
                ("features",),
                ("primary",),
                lambda capsules, features: (capsules(features),),
            ),
            *hidden,
            Stage(
                "routing",
                "class_capsules",
                below,
                ("poses", "scores"),
                lambda capsules, *below: tuple(capsules(self._capsules(*below))),
            ),
            Stage(
                "decoder",
                "decoder",
                ("poses", "labels"),
                ("reconstructions",),
                lambda decoder, poses, labels: (decoder(poses, labels),),
            ),
        ]
        return stages if self.decoder is not None else stages[:-1]

    def convolutions(self) -> tuple[tuple[nnx.Module, ...], Callable[..., Array]]:
        """Conv1, its ReLU, and the convolution of the primary capsules."""

        def features(convs: tuple[Conv, Conv], images: Array) -> Array:
            conv1, primary = convs
            return primary(relu(conv1(images)))

        return (self.conv1, self.primary_capsules.conv), features

    def _primary(self, images: Float[Array, "B H W C"]) -> Capsules:
        with jax.named_scope("conv1"):
            features = relu(self.conv1(images))
        with jax.named_scope("primary_capsules"):
            return self._capsules(self.primary_capsules(features))

    def _hidden(
        self,
        capsules: Capsules,
        layers: Sequence[RoutedCapsules] | None = None,
        *,
        step: Int[Array, ""] | int = 0,
        train: bool = False,
    ) -> Capsules:
        """What the hidden layers, or ``layers`` in their place, make of capsules."""
        with jax.named_scope("hidden_capsules"):
            for layer in self.hidden_capsules if layers is None else layers:
                capsules = layer(capsules, step=step, train=train)
        return capsules

    def _capsules(
        self,
        poses: Float[Array, "B I P"],
        activations: Float[Array, "B I"] | None = None,
    ) -> Capsules:
        """Capsules, whose lengths are activations where routing needs some."""
        if activations is None and self.needs_activations:
            activations = lengths(poses)
        return Capsules(poses, activations)
