"""The models, by name and with one calling convention.

``model(images, labels, dropout_keys=...)`` returns a `ModelOutput`. Labels choose which
capsule the decoder reads (training), or which K, one after the other; without them it
reads the predicted class's.
`apply` does so in the dtype of a run's config.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from capsjax.errors import UserError
from capsjax.models.base import ModelOutput, apply, num_parameters
from capsjax.models.baseline_cnn import BaselineCNN
from capsjax.models.capsnet import CapsNet

__all__ = [
    "MODELS",
    "BaselineCNN",
    "CapsNet",
    "ModelOutput",
    "apply",
    "build",
    "num_parameters",
]


MODELS: dict[str, type[CapsNet] | type[BaselineCNN]] = {
    "capsnet": CapsNet,
    "baseline_cnn": BaselineCNN,
}


def build(
    config: ConfigDict,
    image_shape: tuple[int, int, int],
    num_classes: int,
    rngs: nnx.Rngs,
) -> nnx.Module:
    """Builds the model that ``config`` (a run's ``config.model``) describes.

    Args:
        config: ``name`` and that model's keyword arguments, one field each.
        image_shape: (H, W, C) as the model sees images.
        num_classes: of the data set.
        rngs: starts the parameters.

    Raises:
        UserError: unknown name, or settings that do not fit together.
    """
    options = config.to_dict()
    name = options.pop("name")
    if name not in MODELS:
        raise UserError(
            f"unknown model {name!r} in config.model.name; "
            f"choose one of {', '.join(MODELS)}"
        )
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    try:
        model = MODELS[name](image_shape, num_classes, **options, rngs=rngs)
        # What only shows when the model is called should show before training starts.
        jax.eval_shape(lambda images: model(images).scores, images)
        return model
    except (ArithmeticError, NotImplementedError, TypeError, ValueError) as error:
        raise UserError(f"config.model does not fit: {error}") from error
