"""Trained models: restored from a run's folder, and evaluated."""

import dataclasses
import functools
import os
from collections.abc import Callable

import jax
from flax import nnx
from jax.typing import ArrayLike

from capsjax.config import Config
from capsjax.data import Dataset, ImageSet
from capsjax.models import Variables
from capsjax.runs import data_record
from capsjax.runs.folder import RunFolder
from capsjax.training import evaluate as evaluation
from capsjax.training import parallel
from capsjax.training import step as train_step
from capsjax.training.checkpoint import Checkpoints, Which
from capsjax.training.evaluate import Evaluation, make_reconstruct
from capsjax.training.views import Views

Reconstruct = Callable[[ArrayLike, ArrayLike], tuple[jax.Array, jax.Array | None]]


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedModel:
    """A trained model.

    Attributes:
        config: its run's config.
        graphdef: its structure.
        variables: its parameters and state, in host memory.
        best_accuracy: accuracy of the best checkpoint on the validation images, or
            None.
    """

    config: Config
    graphdef: nnx.GraphDef
    variables: Variables
    best_accuracy: float | None = None

    @functools.cached_property
    def reconstruct(self) -> Reconstruct:
        """The jitted function from images and classes to seen images, reconstructions.

        Images are uint8 [B, H, W, C], classes int [B] or [B, K]; see
        `capsjax.training.evaluate.make_reconstruct`.
        """
        compiled = make_reconstruct(self.graphdef, self.config)
        return functools.partial(compiled, self.variables)

    @property
    def step(self) -> int:
        """The number of training steps."""
        return int(self.variables.step)


def evaluate(
    model: TrainedModel,
    images: ImageSet,
    on_batch: Callable[[int], None] = lambda examples: None,
    views: Views | None = None,
) -> Evaluation:
    """Computes a trained model's metrics, predictions and scores on all devices.

    Every image counts once. The loss is that of training: the decoder reads the capsule
    of the label.

    Args:
        model: the model, from `restore` or `capsjax.training.train.train`.
        images: images and labels, at least one.
        on_batch: function that is called after each batch with its number of examples.
        views: what the model sees of each image, by default the image.

    Raises:
        UserError: the images do not have such views.
    """
    devices = parallel.Devices(jax.devices(), model.config.parallelism)
    return evaluation.evaluate(
        evaluation.make_eval_step(
            model.graphdef, model.config, devices, views or Views()
        ),
        devices.replicate(model.variables),
        images,
        model.config.batch_size,
        devices,
        on_batch=on_batch,
    )


def restore(
    folder: RunFolder | str | os.PathLike, data: Dataset, which: Which = "last"
) -> TrainedModel:
    """Restores the model of a run, without changing the run's folder.

    Args:
        folder: folder of the run.
        data: data set of the run, or other images of the same shape and classes.
        which: ``"last"`` for the last step's parameters, ``"best"`` for the best ones
            by validation accuracy.

    Raises:
        UserError: there is no run, or no checkpoint that can be restored; or the data
            have other classes or image shapes than the run's, see
            `capsjax.runs.data_record.fitted`.
    """
    if not isinstance(folder, RunFolder):
        folder = RunFolder(folder)
    data_record.check_fits(folder, data)
    return _restored(folder, data.image_shape, data.num_classes, which)


def restore_without_data(folder: RunFolder, which: Which = "last") -> TrainedModel:
    """Restores the model of a run whose data need not be there.

    Args:
        folder: folder of the run.
        which: as in `restore`.

    Raises:
        UserError: there is no run, or no checkpoint that can be restored; or the run is
            of an early version, which did not record the sizes of its data.
    """
    image_shape, num_classes = data_record.recorded_sizes(folder)
    return _restored(folder, image_shape, num_classes, which)


def _restored(
    folder: RunFolder,
    image_shape: tuple[int, int, int],
    num_classes: int,
    which: Which,
) -> TrainedModel:
    config = folder.load_config()
    graphdef, state = train_step.create(config, image_shape, num_classes)
    with Checkpoints(folder, read_only=True) as checkpoints:
        state, record = checkpoints.restore(state, which)
    return TrainedModel(config, graphdef, state.variables, record.best_accuracy)
