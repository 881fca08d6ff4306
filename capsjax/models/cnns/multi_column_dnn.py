"""A column of a multi-column deep neural network.

    29x29 pixels -> 20 convolutions 4x4 -> max 2x2 -> 40 convolutions 5x5 -> max 3x3
    -> 150 units -> classes

76,040 parameters. The paper's ensemble has 35 columns: five for each of seven
preparations of the digits, which are the original and six in which every digit is as
wide as 10, 12, .. 20 pixels. Its mean of all has 0.23 % test error on MNIST. Here the
preparation is part of the network, so that runs which differ in ``digit_width`` and
seed are an ensemble like any other.

References:
    Ciresan, Meier and Schmidhuber 2012, "Multi-column Deep Neural Networks for Image
    Classification", sections 2 and 3.1, and table 1.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from capsjax.errors import SettingsError
from capsjax.fields import field
from capsjax.layers import Conv, max_pool, pooled_size, scaled_tanh
from capsjax.models import base
from capsjax.models.base import ImageShape, ModelOutput, Published
from kernels.convolution import output_size
from kernels.dtypes import at_least_float32

# Fainter pixels, such as those of a smoothed edge, do not count as a digit's.
_INK = 0.2


def _uniform(
    key: Array,
    shape: Sequence[int | Any],
    dtype: Any = jnp.float32,
    out_sharding: Any = None,
) -> Array:
    """The authors' initial weights."""
    return jax.random.uniform(
        key, shape, dtype, minval=-0.05, maxval=0.05, out_sharding=out_sharding
    )


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(base.Config):
    """Config of `Column`; the defaults are a column for MNIST's original digits."""

    name: ClassVar[str] = "multi_column_dnn"
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "mnist": {},
        # 1,660,710 parameters on 32x32x3 images; the paper: 11.21 % for eight columns.
        "cifar10": {
            "padded_size": 32,
            "conv_channels": (300, 300, 300, 300),
            "kernel_sizes": (3, 2, 3, 2),
            "pool_sizes": (2, 2, 2, 2),
            "dense_units": (300, 100),
        },
    }
    PUBLISHED: ClassVar[Sequence[Published]] = (
        Published("mnist", "mnist", 0.23, "mean of 35 columns"),
        Published("cifar10", "cifar10", 11.21, "mean of eight columns"),
    )

    padded_size: int = field(
        29, "Side in pixels to which zeros enlarge the images.", at_least=1
    )
    digit_width: int = field(
        0,
        "Width in pixels that every digit is stretched or squeezed to, 0: as it is.",
        at_least=0,
    )
    conv_channels: tuple[int, ...] = field(
        (20, 40), "Channels of each convolution.", at_least=1
    )
    kernel_sizes: tuple[int, ...] = field(
        (4, 5), "Size of each convolution's kernel in pixels, no padding.", at_least=1
    )
    pool_sizes: tuple[int, ...] = field(
        (2, 3), "Side of the pooling windows after each convolution.", at_least=1
    )
    dense_units: tuple[int, ...] = field(
        (150,), "Units of the hidden dense layers.", at_least=1
    )

    def build(
        self, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ) -> "Column":
        """The network."""
        return Column(self, image_shape, num_classes, rngs)

    def smaller(self, size: Literal["quick", "cpu"]) -> Self:
        """A quarter or half of the channels and units."""
        return self.divided(4 if size == "quick" else 2, "conv_channels", "dense_units")


class Column(base.Model):
    """Convolutions with max pooling and dense layers, of scaled hyperbolic tangents."""

    def __init__(
        self, config: Config, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ):
        """Builds the network; see `base.Config.build`.

        Raises:
            SettingsError: fields of different lengths; or the images are larger than
                padded_size, or that too small for the layers or the digits.
        """
        base.check_counts(
            config, "conv_channels", "kernel_sizes", "pool_sizes", of="convolution"
        )
        side = config.padded_size
        if max(*image_shape[:2], config.digit_width) > side:
            raise SettingsError(
                f"images of {image_shape[0]}x{image_shape[1]} pixels with digits of "
                f"width {config.digit_width} do not fit into padded_size {side}"
            )
        self.side, self.digit_width = side, config.digit_width
        self.pool_sizes = config.pool_sizes
        channels = [image_shape[2], *config.conv_channels]
        for kernel, window in zip(config.kernel_sizes, config.pool_sizes, strict=True):
            side = output_size(side, kernel, 1)
            side = pooled_size(side, window, window, ceil=True)
        self.convs = nnx.List(
            Conv(
                n_in,
                n_out,
                kernel,
                kernel_init=_uniform,
                bias_init=_uniform,
                rngs=rngs,
            )
            for (n_in, n_out), kernel in zip(
                itertools.pairwise(channels), config.kernel_sizes, strict=True
            )
        )
        units = [side**2 * channels[-1], *config.dense_units, num_classes]
        self.dense = nnx.List(
            nnx.Linear(n_in, n_out, kernel_init=_uniform, bias_init=_uniform, rngs=rngs)
            for n_in, n_out in itertools.pairwise(units)
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
        """Classifies a batch of images in [0, 1]."""
        x = images
        if self.digit_width:
            x = with_digit_width(x, self.digit_width, self.side)
        margins = [(n // 2, n - n // 2) for n in (self.side - m for m in x.shape[1:3])]
        x = jnp.pad(x, [(0, 0), *margins, (0, 0)])
        for conv, window in zip(self.convs, self.pool_sizes, strict=True):
            x = scaled_tanh(max_pool(conv(x), window, ceil=True))
        x = x.reshape(x.shape[0], -1)
        for dense in list(self.dense)[:-1]:
            x = scaled_tanh(dense(x))
        return ModelOutput(self.dense[-1](x))


def with_digit_width(
    images: Float[Array, "B H W C"], width: int, side: int
) -> Float[Array, "B H side C"]:
    """Stretches or squeezes each digit to one width, in the middle of new columns.

    A digit reaches from the first to the last column with a pixel above a fifth.

    Args:
        images: images in [0, 1]; an empty one stays empty.
        width: columns of the digits.
        side: columns of the result.
    """

    def one(image: Array) -> Array:
        H, W, C = image.shape
        is_inked = jnp.any(image > _INK, axis=(0, 2))
        first = jnp.argmax(is_inked)
        last = W - 1 - jnp.argmax(is_inked[::-1])
        scale = width / (last - first + 1).astype(jnp.float32)
        start = (side - width) // 2 - first.astype(jnp.float32) * scale
        return jax.image.scale_and_translate(
            image, (H, side, C), (1,), scale[None], start[None], "linear"
        )

    return jax.vmap(one)(at_least_float32(images)).astype(images.dtype)
