"""The layers that models are made of."""

from capsjax.layers.activations import relu, scaled_tanh
from capsjax.layers.blocks import ConvBlock
from capsjax.layers.capsules import ConvCapsules, RoutedCapsules
from capsjax.layers.convolution import Conv
from capsjax.layers.decoder import MaskedDecoder
from capsjax.layers.drop_connect import DropConnect
from capsjax.layers.dropout import Dropout
from capsjax.layers.fractional_max_pooling import fractional_max_pool
from capsjax.layers.initializers import INITIALIZERS, Initializers
from capsjax.layers.learned_pooling import GatedPool, MixedPool, TreePool
from capsjax.layers.mlpconv import mlpconv_channels
from capsjax.layers.pooling import average_pool, max_pool, pooled_size
from capsjax.layers.primary_capsules import (
    DepthwisePrimaryCapsules,
    GridPrimaryCapsules,
    PrimaryCapsules,
    primary_grid,
)
from capsjax.layers.residual import (
    BottleneckBlock,
    ResidualBlock,
    conv3x3,
    residual_blocks,
)
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
    "BottleneckBlock",
    "Conv",
    "ConvBlock",
    "ConvCapsules",
    "DepthwisePrimaryCapsules",
    "DropConnect",
    "Dropout",
    "GatedPool",
    "GridPrimaryCapsules",
    "Initializers",
    "InstanceNorm",
    "LayerNorm",
    "MaskedDecoder",
    "MixedPool",
    "PoseNorm",
    "PrimaryCapsules",
    "ResidualBlock",
    "RoutedCapsules",
    "SignalBlock",
    "SignalFeatures",
    "TreePool",
    "average_pool",
    "conv3x3",
    "fractional_max_pool",
    "local_response_normalization",
    "max_pool",
    "mlpconv_channels",
    "pooled_size",
    "primary_grid",
    "relu",
    "residual_blocks",
    "scaled_tanh",
]
