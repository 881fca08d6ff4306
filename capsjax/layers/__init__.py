"""The layers that models are made of."""

from capsjax.layers.activations import relu
from capsjax.layers.capsules import PrimaryCapsules, RoutedCapsules, primary_grid
from capsjax.layers.convolution import Conv
from capsjax.layers.decoder import MaskedDecoder
from capsjax.layers.initializers import INITIALIZERS, Initializers

__all__ = [
    "INITIALIZERS",
    "Conv",
    "Initializers",
    "MaskedDecoder",
    "PrimaryCapsules",
    "RoutedCapsules",
    "primary_grid",
    "relu",
]
