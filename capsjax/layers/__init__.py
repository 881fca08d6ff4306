"""The layers that models are made of."""

from capsjax.layers.activations import relu
from capsjax.layers.blocks import ConvBlock
from capsjax.layers.capsules import ConvCapsules, RoutedCapsules
from capsjax.layers.convolution import Conv
from capsjax.layers.decoder import MaskedDecoder
from capsjax.layers.dropout import Dropout
from capsjax.layers.initializers import INITIALIZERS, Initializers
from capsjax.layers.pooling import average_pool, max_pool, pooled_size
from capsjax.layers.primary_capsules import (
    DepthwisePrimaryCapsules,
    GridPrimaryCapsules,
    PrimaryCapsules,
    primary_grid,
)
from capsjax.layers.residual import conv3x3, residual_blocks
from capsjax.layers.response_normalization import local_response_normalization
from capsjax.layers.signals import SignalBlock, SignalFeatures
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
    "ConvBlock",
    "ConvCapsules",
    "DepthwisePrimaryCapsules",
    "Dropout",
    "GridPrimaryCapsules",
    "Initializers",
    "InstanceNorm",
    "LayerNorm",
    "MaskedDecoder",
    "PoseNorm",
    "PrimaryCapsules",
    "RoutedCapsules",
    "SignalBlock",
    "SignalFeatures",
    "average_pool",
    "conv3x3",
    "local_response_normalization",
    "max_pool",
    "pooled_size",
    "primary_grid",
    "relu",
    "residual_blocks",
]
