"""Capsules with variational Bayes routing, in the network of matrix capsules.

References:
    Ribeiro, Leontidis and Kollias 2020, "Capsule Routing via Variational Bayes".
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from capsjax import routings
from capsjax.fields import field
from capsjax.models.base import Published
from capsjax.models.capsules import matrix_capsules
from capsjax.normalization import POSE_NORMALIZATIONS
from capsjax.routings import ROUTINGS, variational_bayes


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(matrix_capsules.Config):
    """Config of `matrix_capsules.MatrixCapsules` with the paper's defaults.

    Batch normalisation takes the place of biases, and the routing is another one.
    """

    name: ClassVar[str] = "vb_capsules"
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # 68,714 parameters on 32x32x2 patches with 5 classes.
        "released": {},
        # 169,642 parameters, as many as the network that the paper calls 169K.
        "large": {"primary_types": 16, "capsule_types": (32, 16)},
        # Ours, for 8x8 images.
        "digits": {
            "conv_channels": 16,
            "conv_kernel": 3,
            "conv_stride": 1,
            "primary_types": 4,
            "capsule_types": (4, 4),
            "capsule_strides": (1, 1),
        },
    }
    PUBLISHED: ClassVar[Sequence[Published]] = (
        Published("released", "smallnorb", 1.3, "of the released code", side=32),
    )

    conv_channels: int = field(64, "Channels A of the convolution.", at_least=1)
    primary_types: int = field(
        8, "Types B of primary capsules at each place.", at_least=1
    )
    capsule_types: tuple[int, ...] = field(
        (16, 16),
        "Types C, D, ... of capsules in each convolutional layer of capsules.",
        at_least=1,
    )
    normalization: str | None = field(
        "types",
        "Batch normalisation of the convolution and of the primary capsules: types, "
        "elements of the poses, or none.",
        choices=(None, *POSE_NORMALIZATIONS),
    )
    routing: routings.Config = field(
        variational_bayes.Config,
        "Routing between all layers of capsules.",
        registry=ROUTINGS,
    )
