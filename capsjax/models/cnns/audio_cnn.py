"""A CNN of one-dimensional convolutions, for recorded sounds.

    convolution 80x32 with stride 4, pooling 4 -> convolution 3x64, pooling 4
    -> convolution 3x64, pooling 4 -> mean over time -> classes

24,522 parameters on one second of speech at 8 kHz, its positive and negative half as
two channels, with 10 classes. The first kernel sees 10 ms, as the windows of speech
recognition do. No error of it is published; see experiments/configs/spoken_digits.py.

The presets ``f``, ``a_f``, ``a_b_f`` and ``a_pool_b_f`` are the figure sequence by
which such networks are explained: a fully connected layer F on the samples themselves;
on what one convolution A makes of every window; of two, A and B; and with pooling
between them, so that B reads twelve of A's results in place of three. They have no mean
over time and no normalisation.

References:
    Dai, Dai, Qu, Li and Das 2017, "Very Deep Convolutional Neural Networks for Raw
    Waveforms", for networks of this form (M3 .. M34); Olah 2014, "Conv Nets: A Modular
    Perspective", for the figure sequence.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from capsjax.fields import field
from capsjax.layers import Dropout, SignalBlock, SignalFeatures
from capsjax.models import base
from capsjax.models.base import ImageShape, ModelOutput, Published, check_counts

_FIGURE = {"batch_norm": False, "global_average": False, "dropout_rate": 0.0}


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(base.Config):
    """Config of `AudioCNN`; the defaults are for a second of sound at 8 kHz."""

    name: ClassVar[str] = "audio_cnn"
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # 24,522 parameters on 8,000 samples of two channels with 10 classes.
        "audio": {},
        # A fourth convolution, so that a place sees 0.22 s: 49,994.
        "deeper": {
            "channels": (32, 64, 64, 128),
            "kernel_sizes": (80, 3, 3, 3),
            "strides": (4, 1, 1, 1),
            "pools": (4, 4, 4, 4),
            "dropout_rate": 0.2,
        },
        # 160,010 parameters.
        "f": {
            **_FIGURE,
            "channels": (),
            "kernel_sizes": (),
            "strides": (),
            "pools": (),
        },
        # 645,162.
        "a_f": {
            **_FIGURE,
            "channels": (32,),
            "kernel_sizes": (80,),
            "strides": (4,),
            "pools": (1,),
        },
        # 1,291,370.
        "a_b_f": {
            **_FIGURE,
            "channels": (32, 64),
            "kernel_sizes": (80, 3),
            "strides": (4, 1),
            "pools": (1, 1),
        },
        # 331,370.
        "a_pool_b_f": {
            **_FIGURE,
            "channels": (32, 64),
            "kernel_sizes": (80, 3),
            "strides": (4, 1),
            "pools": (4, 1),
        },
        # The CNN of MNIST-1D's authors, for its signals of 40 samples, but for the
        # first padding, which makes 19 places of them there and 20 here; 5,335
        # parameters, since a sample has two channels here.
        "mnist1d": {
            **_FIGURE,
            "channels": (25, 25, 25),
            "kernel_sizes": (5, 3, 3),
            "strides": (2, 2, 2),
            "pools": (1, 1, 1),
        },
        # The pixels of images, one after the other: 19,690 parameters on 28x28x1
        # images, 20,266 on 32x32x3.
        "pixels": {"kernel_sizes": (9, 3, 3), "strides": (1, 1, 1)},
    }
    PUBLISHED: ClassVar[Sequence[Published]] = (
        Published("mnist1d", "mnist1d", 6, "without moved signals"),
        Published("audio", "spoken_digits", None),
        Published("deeper", "spoken_digits", None),
    )

    channels: tuple[int, ...] = field(
        (32, 64, 64), "Channels of each convolution.", at_least=1
    )
    kernel_sizes: tuple[int, ...] = field(
        (80, 3, 3),
        "Size of each convolution's kernel, in samples or places.",
        at_least=1,
    )
    strides: tuple[int, ...] = field(
        (4, 1, 1), "Stride of each convolution.", at_least=1
    )
    pools: tuple[int, ...] = field(
        (4, 4, 4), "Size of the maximum pooling after each; 1: none.", at_least=1
    )
    batch_norm: bool = field(
        True, "Batch normalisation after each convolution, in place of biases."
    )
    global_average: bool = field(
        True, "Mean of the features over time before the dense layer; else all of them."
    )
    dropout_rate: float = field(
        0.0, "Dropout rate before the dense layer.", at_least=0, at_most=1
    )

    def build(
        self, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ) -> "AudioCNN":
        """The network."""
        return AudioCNN(self, image_shape, num_classes, rngs)

    def smaller(self, size: Literal["quick", "cpu"]) -> Self:
        """An eighth or half of the channels."""
        return self.divided(8 if size == "quick" else 2, "channels")


class AudioCNN(base.Model):
    """Convolutions along a signal, mean over time, and a dense layer."""

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
        self.global_average = config.global_average
        self.logits = nnx.Linear(
            channels if config.global_average else length * channels,
            num_classes,
            kernel_init=jax.nn.initializers.lecun_normal(),
            rngs=rngs,
        )
        self.dropout = Dropout(config.dropout_rate)

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
        x = self.features(images, train=train)
        x = jnp.mean(x, axis=1) if self.global_average else x.reshape(x.shape[0], -1)
        return ModelOutput(self.logits(self.dropout(x, keys)))
