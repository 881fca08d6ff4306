"""Binarized networks: weights and activations of -1 and 1.

    pairs of 3x3 convolutions with 128, 256 and 512 channels, each halved by pooling
    -> dense 1024 -> dense 1024 -> classes

All are normalised over the batch, and then binarized; scores are normalised only. In
training, real numbers stand behind the binary weights, and gradients go through both
binarizations as if these were not there (straight through).

14,022,016 weights on 32x32x3 images, and 7,700 parameters of the normalisation. The
authors' code has 14,025,866 weights and biases; its biases come before the
normalisation, which subtracts them. The paper reports 11.40 % test error on CIFAR-10,
and 0.96 % on MNIST with three dense layers. With real activations, and weights that
are binarized at random in training alone, the same network's CIFAR-10 error is 8.27 %
(BinaryConnect).

Two things differ from the authors' code, in which the real weights are clipped to
[-1, 1] after every step, and the learning rate of each layer is divided by Glorot's
coefficient ``limit = sqrt(1.5 / (fan_in + fan_out))``:

- Weights lie in [-limit, limit] here, with one learning rate. The sign of a weight does
  not depend on its unit, and steps of Adam do not depend on the gradient's, so that
  this is the same up to Adam's epsilon.
- Weights are not clipped. Beyond the limit, gradients that would lead further out are
  zero, and those that lead back are not. With the same gradients, a plain step can
  leave a weight further out than the clipped one by at most a step. Adam goes on for
  some steps by its momentum, which takes it some steps more to come back.

References:
    Courbariaux, Hubara, Soudry, El-Yaniv and Bengio 2016, "Binarized Neural Networks",
    and the authors' code; Courbariaux, Bengio and David 2015, "BinaryConnect".
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from capsjax.errors import SettingsError
from capsjax.fields import field
from capsjax.layers import BATCH_AXIS, BatchNorm, Dropout, max_pool, relu
from capsjax.layers.recording import Window
from capsjax.models import base
from capsjax.models.base import ImageShape, ModelOutput, Published
from kernels.convolution import convolve


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(base.Config):
    """Config of `BinarizedNet`; the defaults are the authors' network for CIFAR-10."""

    name: ClassVar[str] = "binarized_net"
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cifar10": {},
        # 36,831,252 parameters on 28x28x1 images.
        "mnist": {
            "conv_channels": (),
            "dense_units": (4096, 4096, 4096),
            "input_dropout_rate": 0.2,
            "dropout_rate": 0.5,
        },
    }
    PUBLISHED: ClassVar[Sequence[Published]] = (
        Published("cifar10", "cifar10", 11.4),
        Published("mnist", "mnist", 0.96, "of dense layers"),
    )

    conv_channels: tuple[int, ...] = field(
        (128, 128, 256, 256, 512, 512),
        "Channels of each convolution; every second one halves height and width.",
        at_least=1,
    )
    dense_units: tuple[int, ...] = field(
        (1024, 1024), "Units of the hidden dense layers.", at_least=1
    )
    binary_weights: bool = field(True, "Binarizes weights, of all layers.")
    binary_activations: bool = field(True, "Binarizes activations; else ReLU.")
    input_dropout_rate: float = field(
        0.0, "Dropout rate of the pixels.", at_least=0, at_most=1
    )
    dropout_rate: float = field(
        0.0, "Dropout rate after each hidden dense layer.", at_least=0, at_most=1
    )
    batch_norm_momentum: float = field(
        0.9, "Weight of the old in the running averages.", at_least=0, at_most=1
    )

    def build(
        self, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ) -> "BinarizedNet":
        """The network."""
        return BinarizedNet(self, image_shape, num_classes, rngs)

    def smaller(self, size: Literal["quick", "cpu"]) -> Self:
        """A sixteenth or a quarter of the channels and units."""
        return self.divided(
            16 if size == "quick" else 4, "conv_channels", "dense_units"
        )


class BinarizedNet(base.Model):
    """Convolutions with pooling and dense layers, all normalised and binarized."""

    def __init__(
        self, config: Config, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ):
        """Builds the network; see `base.Config.build`.

        Raises:
            SettingsError: the image is too small to be halved that often.
        """
        H, W, n_in = image_shape
        shapes: list[tuple[int, ...]] = []
        for place, n_out in enumerate(config.conv_channels):
            shapes.append((3, 3, n_in, n_out))
            n_in = n_out
            if place % 2:
                H, W = H // 2, W // 2
        if min(H, W) < 1:
            raise SettingsError(
                f"images of {image_shape[0]}x{image_shape[1]} pixels cannot be halved "
                f"{len(config.conv_channels) // 2} times; use fewer conv_channels"
            )
        n_in *= H * W
        for n_out in (*config.dense_units, num_classes):
            shapes.append((n_in, n_out))
            n_in = n_out
        self.num_convs = len(config.conv_channels)
        self.weights = nnx.List(
            Weights(shape, binary=config.binary_weights, rngs=rngs) for shape in shapes
        )
        self.norms = nnx.List(
            BatchNorm(
                shape[-1],
                momentum=config.batch_norm_momentum,
                epsilon=1e-4,
                rngs=rngs,
            )
            for shape in shapes
        )
        self.activation = binary_tanh if config.binary_activations else relu
        self.input_dropout = Dropout(config.input_dropout_rate, 0)
        self.dropouts = nnx.List(
            Dropout(config.dropout_rate, 1 + place)
            for place in range(len(config.dense_units))
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
        x = self.input_dropout(2 * images - 1, keys)
        layers = list(zip(self.weights, self.norms, strict=True))
        for place, (weights, norm) in enumerate(layers[: self.num_convs]):
            x = weights(x, train=train)
            if place % 2:
                x = max_pool(x, 2)
            x = self.activation(norm(x, train=train))
        x = x.reshape(x.shape[0], -1)
        *hidden, (weights, norm) = layers[self.num_convs :]
        for (inner, inner_norm), dropout in zip(hidden, self.dropouts, strict=True):
            x = inner_norm(inner(x, train=train), train=train)
            x = dropout(self.activation(x), keys)
        return ModelOutput(norm(weights(x, train=train), train=train))


class Weights(nnx.Module):
    """A convolution or a dense layer without biases, whose weights may be binary.

    Attributes:
        kernel: [n_in, n_out], or [K, K, n_in, n_out] of a convolution, float32.
        limit: Glorot's coefficient, the size that binary weights tend to stay below.
        binary: whether the signs are used.
    """

    def __init__(self, shape: tuple[int, ...], *, binary: bool, rngs: nnx.Rngs):
        *window, n_in, n_out = shape
        self.limit = math.sqrt(1.5 / (math.prod(window) * (n_in + n_out)))
        # Glorot's bound for real weights is sqrt(6 / (fan_in + fan_out)).
        bound = self.limit if binary else 2 * self.limit
        self.kernel = nnx.Param(
            jax.random.uniform(rngs.params(), shape, jnp.float32, -bound, bound)
        )
        self.binary = binary

    @property
    def receptive_window(self) -> Window | None:
        """The pixels that one pixel of the result sees; None of a dense layer."""
        shape = self.kernel.shape
        return Window(shape[0], 1) if len(shape) == 4 else None

    def __call__(
        self, x: Float[Array, "B *sizes n_in"], *, train: bool
    ) -> Float[Array, "B *sizes n_out"]:
        """Multiplies by the weights or their signs; see `base.Model.__call__`."""
        kernel = self.kernel[...]
        if self.binary:
            kernel = binary_weights(kernel, self.limit, train)
        return convolve(x, kernel, 1, "SAME") if kernel.ndim == 4 else x @ kernel


def sign(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """1 for numbers from zero, and -1 for others."""
    one = jnp.ones((), x.dtype)
    return jnp.where(x >= 0, one, -one)


@jax.custom_vjp
def binary_tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The sign, with the gradient of ``clip(x, -1, 1)``."""
    return sign(x)


def _binary_tanh_fwd(x: Array) -> tuple[Array, Array]:
    return sign(x), x


def _binary_tanh_bwd(x: Array, gradient: Array) -> tuple[Array]:
    return (jnp.where(jnp.abs(x) <= 1, gradient, jnp.zeros_like(gradient)),)


binary_tanh.defvjp(_binary_tanh_fwd, _binary_tanh_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def binary_weights(
    w: Float[Array, "..."], limit: float, spread: bool
) -> Float[Array, "..."]:
    """The sign, with the gradient of the identity, but for weights that leave.

    A weight beyond the limit has no gradient that would lead it further out.

    Args:
        w: real weights.
        limit: size that they tend to stay below.
        spread: whether the batch is spread over devices: what a gradient would do is
            known from its mean over `BATCH_AXIS` only.
    """
    return sign(w)


def _binary_weights_fwd(w: Array, limit: float, spread: bool) -> tuple[Array, Array]:
    return sign(w), w


def _binary_weights_bwd(
    limit: float, spread: bool, w: Array, gradient: Array
) -> tuple[Array]:
    if spread:
        gradient = jax.lax.pmean(gradient, BATCH_AXIS)
    # A step goes against the gradient.
    leaves = (jnp.abs(w) > limit) & (gradient * w < 0)
    return (jnp.where(leaves, jnp.zeros_like(gradient), gradient),)


binary_weights.defvjp(_binary_weights_fwd, _binary_weights_bwd)
