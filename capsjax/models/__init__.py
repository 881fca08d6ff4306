"""All models by name, with one calling convention.

To add one: a file in `capsules` or `cnns` with its config and its module, and a line in
`MODELS`.
"""

from collections.abc import Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
from flax import nnx

from capsjax import fields
from capsjax.errors import SettingsError, UserError
from capsjax.models.base import (
    Config,
    ImageShape,
    Model,
    ModelOutput,
    Stage,
    Variables,
    apply,
    decode,
    num_parameters,
    split,
)
from capsjax.models.capsules import (
    audio_capsnet,
    capsnet,
    efficient_capsnet,
    inverted_attention_capsnet,
    matrix_capsules,
    self_routing_resnet,
    vb_capsules,
)
from capsjax.models.cnns import (
    alexnet,
    audio_cnn,
    baseline_cnn,
    binarized_net,
    deep_convnet,
    drop_connect,
    fractional_max_pooling,
    googlenet,
    lenet,
    maxout_nin,
    multi_column_dnn,
    nin,
    pooling_cnn,
    recurrent_cnn,
    resnet,
    vgg,
    voxel_cnn,
)
from kernels.routing import UnsupportedError

__all__ = [
    "MODELS",
    "Config",
    "Model",
    "ModelOutput",
    "Stage",
    "Variables",
    "apply",
    "build",
    "decode",
    "num_parameters",
    "split",
]

MODELS: Mapping[str, type[Config]] = MappingProxyType(
    {
        config.name: config
        for config in (
            capsnet.Config,
            baseline_cnn.Config,
            deep_convnet.Config,
            alexnet.Config,
            vgg.Config,
            googlenet.Config,
            resnet.Config,
            lenet.Config,
            nin.Config,
            maxout_nin.Config,
            drop_connect.Config,
            binarized_net.Config,
            pooling_cnn.Config,
            fractional_max_pooling.Config,
            recurrent_cnn.Config,
            multi_column_dnn.Config,
            audio_cnn.Config,
            voxel_cnn.Config,
            efficient_capsnet.Config,
            matrix_capsules.Config,
            self_routing_resnet.Config,
            inverted_attention_capsnet.Config,
            vb_capsules.Config,
            audio_capsnet.Config,
        )
    }
)


def build(
    config: Config, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs
) -> Model:
    """Builds the model that ``config`` (a run's ``config.model``) describes.

    Args:
        config: the model's config.
        image_shape: shape of the images that the model sees.
        num_classes: number of classes of the data set.
        rngs: generator whose ``params`` stream initialises the parameters.

    Raises:
        UserError: values out of bounds, or settings that do not fit together.
    """
    fields.check(config, "config.model")
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    try:
        model = config.build(image_shape, num_classes, rngs)
        # Errors that only a call raises should be raised before training starts.
        jax.eval_shape(lambda images: model(images).scores, images)
        return model
    except (SettingsError, UnsupportedError) as error:
        raise UserError(f"config.model does not fit: {error}") from error
