"""The layers that models are made of."""

from capsjax.layers.activations import relu
from capsjax.layers.capsules import ConvCapsules, RoutedCapsules
from capsjax.layers.convolution import Conv
from capsjax.layers.decoder import MaskedDecoder
from capsjax.layers.initializers import INITIALIZERS, Initializers
from capsjax.layers.primary_capsules import (
    DepthwisePrimaryCapsules,
    GridPrimaryCapsules,
    PrimaryCapsules,
    primary_grid,
)
from capsjax.layers.residual import conv3x3, residual_blocks
from capsjax.normalization import (
    BATCH_AXIS,
    BatchNorm,
    InstanceNorm,
    LayerNorm,
    PoseNorm,
)

__all__ = [
    "BATCH_AXIS",
    "INITIALIZERS",
    "BatchNorm",
    "Conv",
    "ConvCapsules",
    "DepthwisePrimaryCapsules",
    "GridPrimaryCapsules",
    "Initializers",
    "InstanceNorm",
    "LayerNorm",
    "MaskedDecoder",
    "PoseNorm",
    "PrimaryCapsules",
    "RoutedCapsules",
    "conv3x3",
    "primary_grid",
    "relu",
    "residual_blocks",
]
