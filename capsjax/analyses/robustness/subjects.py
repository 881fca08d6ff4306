"""The networks under test, and the test images that all of them see."""

import dataclasses
import functools
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from capsjax.analyses.robustness import cells
from capsjax.data import Dataset, ImageSet
from capsjax.errors import UserError
from capsjax.losses.classification import is_right
from capsjax.runs.folder import RunFolder
from capsjax.training import evaluate as evaluation
from capsjax.training import parallel
from capsjax.training.trained import TrainedModel

OnBatch = Callable[[int], None]
"""Called after each batch with its number of images."""


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A trained network under test.

    Attributes:
        name: name of the run, unique among those compared.
        folder: the run's folder.
        model: the network.
    """

    name: str
    folder: RunFolder
    model: TrainedModel

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """What tells this network from every other one."""
        return cells.identity(self.model)

    @functools.cached_property
    def _evaluate(self) -> Callable[[ImageSet, OnBatch], evaluation.Evaluation]:
        """Compiled once for all the images that follow."""
        config = self.model.config
        devices = parallel.Devices(jax.devices(), config.parallelism)
        step = evaluation.make_eval_step(self.model.graphdef, config, devices)
        variables = devices.replicate(self.model.variables)
        return lambda images, on_batch: evaluation.evaluate(
            step, variables, images, config.batch_size, devices, on_batch
        )

    def right(
        self, images: ImageSet, on_batch: OnBatch = lambda count: None
    ) -> np.ndarray:
        """Bool [N], whether each image is recognised."""
        return is_right(self._evaluate(images, on_batch).predictions, images.labels)

    def seconds_per_image(self, images: ImageSet) -> float:
        """Seconds for an image of a batch, after one in which programs are compiled."""
        batch = images.take(np.arange(min(self.model.config.batch_size, len(images))))
        self.right(batch)
        started = time.perf_counter()
        self.right(batch)
        return (time.perf_counter() - started) / len(batch)


@dataclasses.dataclass(frozen=True, eq=False)
class Chosen:
    """The test images that all networks see.

    Attributes:
        images: images and labels.
        numbers: int [N], their places among the test images.
        class_names: names of all classes.
        without: names of the classes that were left out.
        seed: seed of the choice and of whatever is random in the images.
        data: the data set's name in words.
        content: what tells these images from any others.
    """

    images: ImageSet
    numbers: np.ndarray
    class_names: tuple[str, ...]
    without: tuple[str, ...]
    seed: int
    data: str
    content: Mapping[str, Any]

    def with_images(self, images: np.ndarray) -> ImageSet:
        """Other images with the same labels."""
        return ImageSet(images, self.images.labels)

    def in_words(self) -> str:
        """What the images are, for captions."""
        left_out = f" without the classes {', '.join(self.without)}" * bool(
            self.without
        )
        return f"{len(self.images):,} test images of {self.data}{left_out}"


def choose(
    data: Dataset, count: int = 0, *, seed: int = 0, without: Sequence[str] = ()
) -> Chosen:
    """Chooses test images at random.

    Args:
        data: the data set.
        count: number of images; 0 for all of them.
        seed: seed of the choice.
        without: names of classes to leave out, such as 6 and 9, which a turn by 180
            degrees makes of each other.

    Raises:
        UserError: there is no such class, no image is left, or the images are signals
            of one row.
    """
    labels = data.test.labels
    if data.image_shape[0] == 1:
        raise UserError(
            f"{data.name} has signals of one row, which cannot be turned; choose runs "
            "on images"
        )
    if unknown := [name for name in without if name not in data.class_names]:
        raise UserError(
            f"{data.name} has no class {unknown[0]!r} to leave out; its classes are "
            f"{', '.join(data.class_names[:20])}"
        )
    left_out = [data.class_names.index(name) for name in without]
    kept = ~np.isin(labels, left_out)
    numbers = np.flatnonzero(kept if kept.ndim == 1 else kept.all(axis=1))
    if not len(numbers):
        raise UserError("no test images are left; leave fewer classes out")
    rng = np.random.default_rng(seed)
    if 0 < count < len(numbers):
        numbers = np.sort(rng.choice(numbers, count, replace=False))
    images = data.test.take(numbers)
    digest = hashlib.sha256(np.ascontiguousarray(images.images).tobytes())
    digest.update(images.labels.tobytes())
    content = {
        "number of images": len(images),
        "images": digest.hexdigest(),
        "seed": seed,
        "classes left out": list(without),
    }
    return Chosen(
        images=ImageSet(images.images, images.labels),
        numbers=numbers,
        class_names=data.class_names,
        without=tuple(without),
        seed=seed,
        data=data.title,
        content=content,
    )
