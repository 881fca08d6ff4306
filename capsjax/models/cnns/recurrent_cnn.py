"""Recurrent CNN: convolutional layers whose units see their neighbours' last states.

    convolution 5x5 -> pooling -> two recurrent layers -> pooling -> two recurrent
    layers -> maximum over the image -> classes

A recurrent layer with input u has states ``x(0) = g(W * u + b)`` and ``x(t) = g(W * u
+ V * x(t - 1) + b)`` up to x(3), its result, where g rectifies and then normalises over
neighbouring channels.

With 96 and 160 channels on 32x32x3 images 672,202 and 1,857,610 parameters (0.67 and
1.86 million in the paper); on 28x28x1 images with 32 channels 75,018. The paper reports
7.09 % test error on CIFAR-10 with 160 channels and augmentation, 8.69 % without, and
0.31 % on MNIST with 96 channels.

References:
    Liang and Hu 2015, "Recurrent Convolutional Neural Network for Object Recognition".
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from capsjax.fields import field
from capsjax.layers import (
    BatchNorm,
    Conv,
    ConvBlock,
    Dropout,
    local_response_normalization,
    max_pool,
    pooled_size,
    relu,
)
from capsjax.models import base
from capsjax.models.base import ImageShape, ModelOutput, Published

_LAYERS = 4
_POOLED_AFTER = 2
_WINDOW, _STRIDE = 3, 2
# The variance that suits a rectifier, shared by the input and the neighbours.
_HALF_HE = jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal")

_SHORT = {"batch_norm": True, "dropout_rate": 0.0}


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(base.Config):
    """Config of `RecurrentCNN`; the defaults are the network for MNIST."""

    name: ClassVar[str] = "recurrent_cnn"
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "mnist": {},
        "cifar10": {"channels": 96},
        "cifar10_large": {"channels": 160},
        # Not the paper's: for a few epochs.
        "mnist_short": _SHORT,
        "cifar10_short": {"channels": 96, **_SHORT},
    }
    PUBLISHED: ClassVar[Sequence[Published]] = (
        Published("mnist", "mnist", 0.31, "with 96 channels"),
        Published("mnist_short", "mnist", None),
        Published("cifar10_large", "cifar10", 7.09, "with augmentation"),
    )

    channels: int = field(32, "Channels K of all layers.", at_least=1)
    recurrent_steps: int = field(
        3, "Times T that the neighbours' states come in; 0: a plain CNN.", at_least=0
    )
    dropout_rate: float = field(
        0.5,
        "Dropout rate after each recurrent layer but the last.",
        at_least=0,
        at_most=1,
    )
    batch_norm: bool = field(
        False,
        "Batch normalisation before the rectifiers instead of the normalisation over "
        "channels, of each layer and iteration by itself.",
    )
    batch_norm_momentum: float = field(
        0.9, "Weight of the old in the running averages.", at_least=0, at_most=1
    )

    def build(
        self, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ) -> "RecurrentCNN":
        """The network."""
        return RecurrentCNN(self, image_shape, num_classes, rngs)

    def smaller(self, size: Literal["quick", "cpu"]) -> Self:
        """A quarter or half of the channels."""
        return self.divided(4 if size == "quick" else 2, "channels")


class RecurrentConv(nnx.Module):
    """A convolutional layer with recurrent connections, unfolded in time.

    Attributes:
        forward: 3x3 convolution of the input; without a bias if there are ``norms``.
        recurrent: 3x3 convolution of the state, without a bias.
        norms: batch normalisation at each time; empty for local response normalisation.
        steps: number T of times after the first.
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        K = config.channels

        def conv(bias_init: jax.nn.initializers.Initializer | None) -> Conv:
            return Conv(
                K,
                K,
                3,
                padding="SAME",
                kernel_init=_HALF_HE,
                bias_init=bias_init,
                rngs=rngs,
            )

        self.forward = conv(None if config.batch_norm else jax.nn.initializers.zeros)
        self.recurrent = conv(None)
        self.norms = nnx.List(
            BatchNorm(K, momentum=config.batch_norm_momentum, rngs=rngs)
            for _ in range(config.batch_norm * (config.recurrent_steps + 1))
        )
        self.steps = config.recurrent_steps

    def __call__(
        self, u: Float[Array, "B H W K"], *, train: bool
    ) -> Float[Array, "B H W K"]:
        """The last state."""
        of_input = self.forward(u)
        x = self._activation(of_input, 0, train)
        for time in range(1, self.steps + 1):
            x = self._activation(of_input + self.recurrent(x), time, train)
        return x

    def _activation(self, z: Array, time: int, train: bool) -> Array:
        if self.norms:
            return relu(self.norms[time](z, train=train))
        x = relu(z)
        neighbours = x.shape[3] // 8 + 1
        return local_response_normalization(
            x, channels=neighbours, k=1.0, alpha=1e-3 / neighbours, beta=0.75
        )


class RecurrentCNN(base.Model):
    """A convolution, four recurrent layers, global maximum, one dense layer."""

    def __init__(
        self, config: Config, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ):
        """Builds the network; see `base.Config.build`.

        Raises:
            SettingsError: the image is too small for the two poolings.
        """
        for size in image_shape[:2]:
            once = pooled_size(size, _WINDOW, _STRIDE, ceil=True)
            pooled_size(once, _WINDOW, _STRIDE, ceil=True)
        self.conv = ConvBlock(
            image_shape[2],
            config.channels,
            5,
            norm=config.batch_norm,
            momentum=config.batch_norm_momentum,
            rngs=rngs,
        )
        self.layers = nnx.List(RecurrentConv(config, rngs=rngs) for _ in range(_LAYERS))
        self.dropouts = nnx.List(
            Dropout(config.dropout_rate, place) for place in range(_LAYERS - 1)
        )
        self.logits = nnx.Linear(
            config.channels,
            num_classes,
            kernel_init=jax.nn.initializers.lecun_normal(),
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
        """Classifies a batch; with dropout where keys are given."""
        x = _pool(self.conv(images, train=train))
        for place, layer in enumerate(self.layers):
            x = layer(x, train=train)
            if place + 1 == _POOLED_AFTER:
                x = _pool(x)
            if place < len(self.dropouts):
                x = self.dropouts[place](x, keys)
        return ModelOutput(self.logits(jnp.max(x, axis=(1, 2))))


def _pool(x: Array) -> Array:
    return max_pool(x, _WINDOW, _STRIDE, ceil=True)
