"""The inference function: images in, scores and poses out."""

from collections.abc import Callable

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, UInt8

from capsjax import models
from capsjax.config import Config
from capsjax.errors import UserError
from capsjax.models import Variables
from capsjax.training import augment
from capsjax.training.trained import TrainedModel

Images = UInt8[Array, "B H W C"]
Predict = Callable[[Variables, Images], dict[str, Array]]


def make_predict(
    graphdef: nnx.GraphDef, config: Config, *, reconstruct: bool = False
) -> Predict:
    """Returns the function, not yet compiled, from variables and images to results.

    Images are uint8 [B, H, W, C], as the data set has them: the function includes the
    preprocessing. The results, in float32:

    - ``"scores"`` [B, J], of the kind that the model's config declares;
    - ``"poses"`` [B, J, Q] of the class capsules, if the model has them;
    - ``"reconstructions"`` of the predicted class [B, h, w, c], if ``reconstruct`` and
      the model has a decoder. Nothing is computed for a result that is left out.

    Args:
        graphdef: the model's structure.
        config: the run's config.
        reconstruct: whether reconstructions are among the results.
    """

    def predict(variables: Variables, images: Images) -> dict[str, Array]:
        seen = augment.for_evaluation(images, config)
        output, _ = models.apply(graphdef, variables, seen, None, config.dtype)
        results = {"scores": output.scores, "poses": output.poses}
        if reconstruct:
            results["reconstructions"] = output.reconstructions
        return {name: x for name, x in results.items() if x is not None}

    return predict


def predict(
    model: TrainedModel, images: np.ndarray, *, reconstruct: bool = False
) -> dict[str, np.ndarray]:
    """Returns a trained model's scores, poses and perhaps reconstructions of images.

    Runs on one device in batches of the run's batch size.

    Args:
        model: the model, from `capsjax.restore` or `capsjax.train`.
        images: uint8 [N, H, W, C], as the data set has them.
        reconstruct: whether reconstructions are among the results.

    Returns:
        float32 arrays with a row for each image; see `make_predict`. The prediction is
        the class with the largest score.

    Raises:
        UserError: the images are not uint8 [N, H, W, C], or there are none.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        raise UserError(
            f"images have dtype {images.dtype} and shape {images.shape}; wanted uint8 "
            "[N, H, W, C] with values 0 to 255"
        )
    batch_size = min(model.config.batch_size, len(images))
    predict_batch = jax.jit(
        make_predict(model.graphdef, model.config, reconstruct=reconstruct)
    )
    parts = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        filled = filled_up(batch, batch_size)
        found = jax.device_get(predict_batch(model.variables, filled))
        parts.append({name: rows[: len(batch)] for name, rows in found.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def filled_up(batch: np.ndarray, batch_size: int) -> np.ndarray:
    """Repeats the last image, so that one compiled program takes every batch.

    Args:
        batch: images [B, H, W, C], at least one.
        batch_size: number of images in the result.
    """
    padding = [(0, batch_size - len(batch)), (0, 0), (0, 0), (0, 0)]
    return np.pad(batch, padding, mode="edge")
