"""A CNN of three-dimensional convolutions, for volumes.

    convolution 3x3x3x16, pooling 2 -> convolution 3x3x3x32, pooling 2 -> dense 64
    -> classes

A volume is an image whose channels are its depth, as in
`capsjax.data.derived.extruded`. 146,090 parameters on 16x16x16 voxels with 10 classes;
images of one or three channels are volumes of that depth. Our own sizes, without a
published error.

References:
    Ji, Xu, Yang and Yu 2010, "3D Convolutional Neural Networks for Human Action
    Recognition"; Maturana and Scherer 2015, "VoxNet", for networks of this form.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import jax
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from capsjax.errors import SettingsError
from capsjax.fields import field
from capsjax.layers import ConvBlock, Dropout, max_pool, relu
from capsjax.models import base
from capsjax.models.base import ImageShape, ModelOutput, Published


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(base.Config):
    """Config of `VoxelCNN`."""

    name: ClassVar[str] = "voxel_cnn"
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # 146,090 parameters on 16x16x16 voxels; 115,370 on 28x28x1 images and 146,090
        # on 32x32x3.
        "voxels": {},
    }
    PUBLISHED: ClassVar[Sequence[Published]] = (Published("voxels", "extruded", None),)

    channels: tuple[int, ...] = field(
        (16, 32),
        "Channels of each 3x3x3 convolution; pooling halves each axis after it, unless "
        "a single voxel is left of it.",
        at_least=1,
    )
    dense_units: int = field(64, "Units of the hidden dense layer.", at_least=1)
    dropout_rate: float = field(0.0, "Dropout rate after it.", at_least=0, at_most=1)

    def build(
        self, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ) -> "VoxelCNN":
        """The network."""
        return VoxelCNN(self, image_shape, num_classes, rngs)

    def smaller(self, size: Literal["quick", "cpu"]) -> Self:
        """A quarter or half of the channels, and of the dense units."""
        return self.divided(4 if size == "quick" else 2, "channels", "dense_units")


class VoxelCNN(base.Model):
    """3x3x3 convolutions with pooling, and two dense layers."""

    def __init__(
        self, config: Config, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
    ):
        """Builds the network; see `base.Config.build`.

        Raises:
            SettingsError: the image is too small to be halved that often.
        """
        H, W, D = image_shape
        n_in, blocks, windows = 1, [], []
        for n_out in config.channels:
            blocks.append(ConvBlock(n_in, n_out, 3, dimensions=3, rngs=rngs))
            windows.append((2, 2, 2 if D > 1 else 1))
            H, W, D = H // 2, W // 2, max(D // 2, 1)
            n_in = n_out
        if min(H, W) < 1:
            raise SettingsError(
                f"images of {image_shape[0]}x{image_shape[1]} pixels cannot be halved "
                f"{len(config.channels)} times; use fewer channels"
            )
        self.blocks, self.windows = nnx.List(blocks), tuple(windows)
        init = jax.nn.initializers.he_normal()
        self.dense = nnx.Linear(
            H * W * D * n_in, config.dense_units, kernel_init=init, rngs=rngs
        )
        self.logits = nnx.Linear(
            config.dense_units, num_classes, kernel_init=init, rngs=rngs
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
        """Classifies a batch of volumes, whose depth is the images' channels."""
        x = images[..., None]
        for block, window in zip(self.blocks, self.windows, strict=True):
            x = max_pool(block(x, train=train), window)
        x = relu(self.dense(x.reshape(x.shape[0], -1)))
        return ModelOutput(self.logits(self.dropout(x, keys)))
