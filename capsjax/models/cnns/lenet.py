"""LeNet-5, for digits: convolutions and trainable subsampling, with scaled tanh.

    C1 5x5x6 -> S2 -> C3 5x5x16 -> S4 -> C5 120 -> F6 84 -> one unit for each class

The paper's own form has 60,000 parameters on 32x32x1 images: 156, 12, 1,516, 32,
48,120 and 10,164; each map of C3 sees some maps of S2 only, and a class's score is
minus the squared distance of F6 from a fixed code. The form of later textbooks has
61,706: C3 sees all maps, S2 and S4 are means, and the last layer is dense. The paper
reports 0.95 % test error on MNIST, and 0.8 % with distorted images added.

References:
    LeCun, Bottou, Bengio and Haffner 1998, "Gradient-Based Learning Applied to Document
    Recognition", section II and appendix A.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from capsjax.errors import SettingsError
from capsjax.fields import field
from capsjax.layers import average_pool, pooled_size, scaled_tanh
from capsjax.layers.recording import Window
from capsjax.models import base
from capsjax.models.base import ImageShape, ModelOutput, Published
from kernels.convolution import convolve

# Table I: the maps of S2 that each map of C3 sees.
TABLE = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5)),
    *((0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    (0, 1, 2, 3, 4, 5),
)
_KERNEL = 5


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(base.Config):
    """Config of `LeNet`; the defaults are the paper's LeNet-5."""

    name: ClassVar[str] = "lenet"
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # 60,000 parameters on 28x28x1 and on 32x32x1 images, 60,300 on 32x32x3.
        "paper": {},
        # 61,706 parameters on 28x28x1 images, 62,006 on 32x32x3.
        "dense": {
            "connections": "all",
            "subsampling": "mean",
            "classifier": "dense",
        },
    }
    PUBLISHED: ClassVar[Sequence[Published]] = (
        Published("paper", "mnist", 0.95),
        Published("dense", "mnist", None),
    )

    padded_size: int = field(
        32, "Sides in pixels to which smaller images are padded.", at_least=16
    )
    channels: tuple[int, int, int] = field(
        (6, 16, 120), "Maps of C1 and C3, and units of C5.", at_least=1
    )
    dense_units: int = field(84, "Units of F6.", at_least=1)
    connections: str = field(
        "table",
        "Maps of S2 that a map of C3 sees: those of the paper's table, which is for 6 "
        "and 16 maps; or all.",
        choices=("table", "all"),
    )
    subsampling: str = field(
        "trained",
        "S2 and S4: the sum of 2x2 with a trained factor and bias for each map, and "
        "tanh; or its mean.",
        choices=("trained", "mean"),
    )
    classifier: str = field(
        "distances",
        "Scores: minus the squared distances of F6 from fixed codes of the classes, or "
        "a dense layer.",
        choices=("distances", "dense"),
    )

    def build(
        self, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ) -> "LeNet":
        """The network."""
        return LeNet(self, image_shape, num_classes, rngs)

    def smaller(self, size: Literal["quick", "cpu"]) -> Self:
        """A fifth or half of the units of C5 and F6."""
        share = 5 if size == "quick" else 2
        first, second, last = self.channels
        return self.replace(
            channels=(first, second, max(last // share, 1)),
            dense_units=max(self.dense_units // share, 1),
        )


class LeNet(base.Model):
    """Two convolutions with subsampling, two dense layers, and the classes."""

    def __init__(
        self, config: Config, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ):
        """Builds the network; see `base.Config.build`.

        Raises:
            SettingsError: the paper's table does not suit the number of maps, or F6 has
                too few units for as many codes as classes.
        """
        first, second, third = config.channels
        if config.connections == "table" and (first, second) != (6, 16):
            raise SettingsError(
                f"the paper's table is for 6 and 16 maps, not {first} and {second}; "
                "set channels to (6,16,...) or connections to all"
            )
        if config.classifier == "distances":
            codes(num_classes, config.dense_units)  # Raises if there are too few.
        self.padding = tuple(
            (missing // 2, missing - missing // 2)
            for missing in (max(config.padded_size - n, 0) for n in image_shape[:2])
        )
        H, W = (max(config.padded_size, n) for n in image_shape[:2])
        for _ in range(2):
            H, W = (pooled_size(n - _KERNEL + 1, 2, 2) for n in (H, W))
        everything = [range(first)] * second
        self.c1 = PartialConv([range(image_shape[2])] * first, rngs=rngs)
        self.c3 = PartialConv(
            TABLE if config.connections == "table" else everything, rngs=rngs
        )
        s2 = s4 = None
        if config.subsampling == "trained":
            s2, s4 = Subsampling(first), Subsampling(second)
        self.s2, self.s4 = s2, s4
        self.c5 = _linear(H * W * second, third, rngs)
        self.f6 = _linear(third, config.dense_units, rngs)
        self.num_classes = num_classes
        dense = None
        if config.classifier == "dense":
            dense = _linear(config.dense_units, num_classes, rngs)
        self.dense = dense

    def __call__(
        self,
        images: Float[Array, "B H W C"],
        labels: Int[Array, "B *K"] | None = None,
        *,
        train: bool = False,
        step: Int[Array, ""] | int = 0,
        keys: Key[Array, " B"] | None = None,
    ) -> ModelOutput:
        """Classifies a batch."""
        x = jnp.pad(images, [(0, 0), *self.padding, (0, 0)])
        # Section II-B: the background is -0.1 and the foreground 1.175.
        x = scaled_tanh(self.c1(1.275 * x - 0.1))
        x = scaled_tanh(self.c3(self._subsample(self.s2, x)))
        x = self._subsample(self.s4, x)
        x = scaled_tanh(self.c5(x.reshape(x.shape[0], -1)))
        x = scaled_tanh(self.f6(x))
        if self.dense is not None:
            return ModelOutput(self.dense(x))
        # Equation 7. The cross entropy of such scores is equation 9 but for its
        # constant, which counts as one more class.
        centers = jnp.asarray(codes(self.num_classes, x.shape[1]), x.dtype)
        distances = jnp.sum(jnp.square(x[:, None] - centers[None]), axis=2)
        return ModelOutput(-distances)

    @staticmethod
    def _subsample(layer: "Subsampling | None", x: Array) -> Array:
        return average_pool(x, 2) if layer is None else scaled_tanh(layer(x))


class PartialConv(nnx.Module):
    """A 5x5 convolution in which each map of the result sees some maps of the input.

    Attributes:
        kernel: [5, 5, connections] float32, by map of the result, then of the input.
        bias: [C_out] float32.
        connections: maps of the input that each map of the result sees.
    """

    def __init__(self, connections: Sequence[Sequence[int]], *, rngs: nnx.Rngs):
        self.connections = tuple(map(tuple, connections))
        fan_ins = [_KERNEL**2 * len(seen) for seen in self.connections for _ in seen]
        unit = jax.random.uniform(
            rngs.params(), (_KERNEL, _KERNEL, len(fan_ins)), minval=-2.4, maxval=2.4
        )
        fan_in = jnp.asarray(fan_ins, jnp.float32)
        self.kernel = nnx.Param(unit / fan_in[None, None])
        self.bias = nnx.Param(jnp.zeros(len(self.connections)))

    @property
    def receptive_window(self) -> Window:
        """The pixels that one pixel of the result sees."""
        return Window(_KERNEL, 1)

    def __call__(self, x: Float[Array, "B H W C_in"]) -> Float[Array, "B h w C_out"]:
        """Convolves without padding."""
        seen = [(i, o) for o, maps in enumerate(self.connections) for i in maps]
        shape = (_KERNEL, _KERNEL, x.shape[3], len(self.connections))
        i, o = np.array(seen).T
        kernel = jnp.zeros(shape, x.dtype).at[:, :, i, o].set(self.kernel[...])
        return convolve(x, kernel, 1, "VALID") + self.bias[...][None, None, None]


class Subsampling(nnx.Module):
    """The sum of 2x2 pixels, times a factor and plus a bias of each map.

    Attributes:
        factor: [C] float32; a quarter at first, so that the layer starts as a mean.
        bias: [C] float32.
    """

    def __init__(self, channels: int):
        self.factor = nnx.Param(jnp.full(channels, 0.25))
        self.bias = nnx.Param(jnp.zeros(channels))

    @property
    def receptive_window(self) -> Window:
        """The pixels that one pixel of the result sees."""
        return Window(2, 2)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
        """Halves height and width."""
        factor, bias = self.factor[...], self.bias[...]
        total = 4 * average_pool(x, 2)
        return total * factor[None, None, None] + bias[None, None, None]


def codes(num_classes: int, units: int) -> np.ndarray:
    """Codes of the classes, [num_classes, units], of -1 and 1.

    Number d of class c is -1 where ``c + 1`` and d have an odd number of ones in common
    in binary (rows of a Hadamard matrix), so that two codes differ in about half of
    their numbers. The paper's codes are drawings of the digits; it names codes that
    correct errors as another choice, and says that drawings help to confuse similar
    characters only, which isolated digits do not need.

    Raises:
        SettingsError: there are fewer codes of so many units than classes.
    """
    common = (np.arange(num_classes)[:, None] + 1) & np.arange(units)[None]
    found = 1.0 - 2.0 * (np.bitwise_count(common) % 2)
    if len(np.unique(found, axis=0)) < num_classes:
        raise SettingsError(
            f"{units} dense_units are too few for the codes of {num_classes} classes"
        )
    return found


def _linear(n_in: int, n_out: int, rngs: nnx.Rngs) -> nnx.Linear:
    def uniform(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        bound = 2.4 / shape[0]
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return nnx.Linear(n_in, n_out, kernel_init=uniform, rngs=rngs)
