"""A trained model out of its run's folder, and what it says of images."""

import dataclasses
from collections.abc import Callable

import jax
from flax import nnx
from ml_collections import ConfigDict

from capsjax.data import Dataset, ImageSet
from capsjax.runs.folder import RunFolder
from capsjax.training import parallel
from capsjax.training import step as train_step
from capsjax.training.checkpoint import Checkpoints, Which
from capsjax.training.evaluate import Evaluation, evaluate, make_eval_step


@dataclasses.dataclass(frozen=True, eq=False)
class Restored:
    """A trained model.

    Attributes:
        config: its run's.
        graphdef: the model's structure.
        params: its parameters, in host memory.
        step: after which they were saved.
        best_accuracy: on the validation images, of the best checkpoint; or None.
    """

    config: ConfigDict
    graphdef: nnx.GraphDef
    params: nnx.State
    step: int
    best_accuracy: float | None

    def evaluate(
        self, images: ImageSet, on_batch: Callable[[int], None] = lambda examples: None
    ) -> Evaluation:
        """What the model makes of images, on all devices; see `evaluate`."""
        devices = parallel.Devices(jax.devices(), self.config.parallelism)
        return evaluate(
            make_eval_step(self.graphdef, self.config, devices),
            devices.replicate(self.params),
            images,
            self.config.batch_size,
            devices,
            on_batch=on_batch,
        )


def restore(folder: RunFolder, data: Dataset, which: Which) -> Restored:
    """Restores a run's model, and leaves the folder as it is.

    Args:
        folder: the run's.
        data: the run's, or other images of the same shape and classes.
        which: the last parameters or the best by validation.

    Raises:
        UserError: there is no run, or no checkpoint that can be restored.
    """
    config = folder.load_config()
    graphdef, state = train_step.create(config, data.image_shape, data.num_classes)
    with Checkpoints(folder, read_only=True) as checkpoints:
        state, record = checkpoints.restore(state, which)
    return Restored(
        config, graphdef, state.params, int(state.step), record.best_accuracy
    )
