"""The layers that models are made of."""

from capsjax.layers.activations import relu
from capsjax.layers.capsules import PrimaryCapsules, RoutedCapsules, primary_grid
from capsjax.layers.convolution import Conv
from capsjax.layers.decoder import MaskedDecoder
from capsjax.layers.initializers import INITIALIZERS, Initializers
from capsjax.layers.normalization import BATCH_AXIS, BatchNorm

__all__ = [
    "BATCH_AXIS",
    "INITIALIZERS",
    "BatchNorm",
    "Conv",
    "Initializers",
    "MaskedDecoder",
    "PrimaryCapsules",
    "RoutedCapsules",
    "primary_grid",
    "relu",
]
