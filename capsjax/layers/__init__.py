"""The layers that models are made of."""

from capsjax.layers.activations import relu
from capsjax.layers.capsules import ConvCapsules, RoutedCapsules
from capsjax.layers.convolution import Conv
from capsjax.layers.decoder import MaskedDecoder
from capsjax.layers.initializers import INITIALIZERS, Initializers
from capsjax.layers.primary_capsules import (
    DepthwisePrimaryCapsules,
    PrimaryCapsules,
    primary_grid,
)
from capsjax.normalization import BATCH_AXIS, BatchNorm, InstanceNorm

__all__ = [
    "BATCH_AXIS",
    "INITIALIZERS",
    "BatchNorm",
    "Conv",
    "ConvCapsules",
    "DepthwisePrimaryCapsules",
    "Initializers",
    "InstanceNorm",
    "MaskedDecoder",
    "PrimaryCapsules",
    "RoutedCapsules",
    "primary_grid",
    "relu",
]
