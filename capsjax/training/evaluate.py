"""Exact evaluation: every example counts once, whatever the batch size."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from capsjax import losses, models
from capsjax.config import Config
from capsjax.data import ImageSet, eval_batches
from capsjax.losses import classification
from capsjax.models import Variables
from capsjax.training import augment, parallel
from capsjax.training.parallel import Devices
from capsjax.training.step import Batch
from capsjax.training.views import Views

_ONE = Views()

EvalStep = Callable[[Variables, Batch], dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The results of a model on a set of images.

    Attributes:
        metrics: means over the examples: the losses, ``"accuracy"``,
            ``"error_percent"`` and the others of `classification.metrics`.
        predictions: int32 [N], classes; or [N, K] where images show K.
        scores: float32 [N, J], see `capsjax.models.ModelOutput`.
    """

    metrics: dict[str, float]
    predictions: np.ndarray
    scores: np.ndarray


def make_eval_step(
    graphdef: nnx.GraphDef, config: Config, devices: Devices, views: Views = _ONE
) -> EvalStep:
    """Returns the compiled function from variables and a batch to results by example.

    These are the losses and other metrics, [B] each, ``"prediction"`` int32 [B] or
    [B, K], and ``"score"`` [B, J], of the whole batch on every device. The loss is that
    of training: the decoder reads the capsule of the label. With several ``views`` the
    scores are their mean.

    Raises:
        UserError: the run's images do not have such views.
    """
    views.check(config)

    def eval_step(variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        labels = batch["label"]
        images = augment.for_evaluation(batch["image"], config)
        output, _ = models.apply(graphdef, variables, images, labels, config.dtype)
        if views.name != "one":

            def scores_of(seen: jax.Array) -> jax.Array:
                return models.apply(graphdef, variables, seen, labels, config.dtype)[
                    0
                ].scores

            scores = views.averaged(scores_of, batch["image"], config)
            output = dataclasses.replace(output, scores=scores)
        result = losses.per_example(
            config.loss,
            output.scores,
            labels,
            reconstructions=output.reconstructions,
            targets=augment.targets(batch, images),
            step=variables.step,
        )
        predictions = classification.predict(output.scores, labels)
        result |= classification.metrics(predictions, labels)
        result |= {"prediction": predictions, "score": output.scores}
        return parallel.gather(result)

    return devices.spread(eval_step)


def evaluate(
    eval_step: EvalStep,
    variables: Variables,
    image_set: ImageSet,
    batch_size: int,
    devices: Devices,
    on_batch: Callable[[int], None] = lambda examples: None,
) -> Evaluation:
    """Evaluates all images of a set.

    Args:
        eval_step: the step, from `make_eval_step`.
        variables: the model's variables, on all devices.
        image_set: images and labels, at least one.
        batch_size: size of every batch, rounded up to a multiple of the number of
            devices; the last batch is padded, and its padding masked out.
        devices: the devices of ``eval_step``. Every process evaluates its part and gets
            all results.
        on_batch: function that is called after each batch with its number of examples.
    """
    columns: dict[str, list[np.ndarray]] = {}
    batch_size = -(-batch_size // devices.count) * devices.count
    rows = devices.rows(batch_size)
    for batch in eval_batches(image_set, batch_size):
        real = batch.pop("mask") > 0
        share = devices.shard({name: x[rows] for name, x in batch.items()})
        found = jax.device_get(eval_step(variables, share))
        for name, values in found.items():
            columns.setdefault(name, []).append(values[real])
        on_batch(int(real.sum()))
    per_example = {name: np.concatenate(parts) for name, parts in columns.items()}
    predictions, scores = per_example.pop("prediction"), per_example.pop("score")
    metrics = {
        name: float(np.mean(values, dtype=np.float64))
        for name, values in per_example.items()
    }
    right = classification.is_right(predictions, image_set.labels)
    wrong = int(np.sum(~right))
    metrics["accuracy"] = 1 - wrong / len(predictions)
    metrics["error_percent"] = 100 * wrong / len(predictions)
    return Evaluation(metrics, predictions, scores)


def make_reconstruct(
    graphdef: nnx.GraphDef, config: Config
) -> Callable[[Variables, ArrayLike, ArrayLike], tuple[jax.Array, jax.Array | None]]:
    """Returns the jitted function from variables, images, classes to reconstructions.

    It runs on one device, and takes variables from that device or host memory. Images
    are uint8 [B, H, W, C]; it returns them as the model sees them, and the
    reconstructions from the capsules of the given classes (None for a model without a
    decoder), both [B, h, w, C]. For classes [B, K] there are K, [B, K, h, w, C].
    """

    @jax.jit
    def reconstruct(variables: Variables, images: jax.Array, classes: jax.Array):
        seen = augment.for_evaluation(images, config)
        output, _ = models.apply(graphdef, variables, seen, classes, config.dtype)
        return seen, output.reconstructions

    return reconstruct
