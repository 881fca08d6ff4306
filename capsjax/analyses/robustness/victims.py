"""Trained networks as attacks see them: functions of pixels.

A network is attacked in float32, whatever dtype it was trained in, and an image before
its preprocessing: standardisation and crops are part of the network.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from capsjax import models
from capsjax.analyses.robustness import cells
from capsjax.attacks import Attacked, objectives
from capsjax.attacks.base import Images
from capsjax.errors import NotApplicableError
from capsjax.models import ModelOutput, Variables
from capsjax.models.base import Gradient
from capsjax.training import augment
from capsjax.training import step as train_step
from capsjax.training.trained import TrainedModel

_DTYPE = "float32"


@dataclasses.dataclass(frozen=True, eq=False)
class Victim:
    """A trained network under attack.

    Attributes:
        name: name of its run, unique among those attacked.
        model: the network.
        image_shape: shape of the data set's images.
        num_classes: number of classes J.
        threshold: distance of an image to its reconstruction beyond which it is
            refused, see `capsjax.analyses.robustness.detection`; None without that.
    """

    name: str
    model: TrainedModel
    image_shape: tuple[int, int, int]
    num_classes: int
    threshold: float | None = None

    @functools.cached_property
    def variables(self) -> Variables:
        """Its variables on the device."""
        # Also where it is first asked for while a program is traced.
        with jax.ensure_compile_time_eval():
            return jax.device_put(self.model.variables)

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """What tells this network from every other one."""
        return cells.identity(self.model)

    @functools.cached_property
    def _predict(self) -> Callable[[Variables, Array], Array]:
        def predict(variables: Variables, images: Array) -> Array:
            return jnp.argmax(self.output(variables, images).scores, axis=1)

        return jax.jit(predict)

    def predictions(self, images: np.ndarray, batch_size: int) -> np.ndarray:
        """The predicted class of each image, int [N].

        Args:
            images: float32 [N, H, W, C] in [0, 1].
            batch_size: images of a batch; the last one is filled up.
        """
        found = [
            np.asarray(self._predict(self.variables, jnp.asarray(batch)))[:real]
            for batch, real in batches(images, batch_size)
        ]
        return np.concatenate(found)

    @functools.cached_property
    def _distances(self) -> Callable[[Variables, Array], Array]:
        def distances(variables: Variables, images: Array) -> Array:
            return jnp.sqrt(self.squared_distances(variables, images))

        return jax.jit(distances)

    def distances(self, images: np.ndarray, batch_size: int) -> np.ndarray:
        """Euclidean distances of images to their reconstructions, float32 [N].

        For networks with a decoder; the arguments are those of `predictions`.
        """
        found = [
            np.asarray(self._distances(self.variables, jnp.asarray(batch)))[:real]
            for batch, real in batches(images, batch_size)
        ]
        return np.concatenate(found)

    def reconstructions(self, images: np.ndarray) -> np.ndarray:
        """Reconstructions of the predicted classes, for a few images [n, H, W, C]."""
        found = jax.jit(self.output)(self.variables, jnp.asarray(images))
        return np.asarray(found.reconstructions)

    def squared_distances(
        self, variables: Variables, images: Images
    ) -> Float[Array, " B"]:
        """Squared distances of images to their reconstructions, [B].

        The decoder reads the pose of the predicted class.
        """
        reconstructions = self.output(variables, images).reconstructions
        assert reconstructions is not None
        seen = augment.preprocessed(images, self.model.config)
        return jnp.sum(jnp.square(seen - reconstructions), axis=(1, 2, 3))

    def output(
        self, variables: Variables, images: Images, gradient: Gradient = "routing"
    ) -> ModelOutput:
        """What the network makes of images in [0, 1].

        Raises:
            NotApplicableError: its routing does not have that gradient.
        """
        seen = augment.preprocessed(images, self.model.config)
        graphdef = self.graphdef(gradient)
        return models.apply(graphdef, variables, seen, None, _DTYPE)[0]

    def graphdef(self, gradient: Gradient) -> nnx.GraphDef:
        """The structure of the network, or of the one whose gradient is taken."""
        model = self.model.config.model
        if model.with_gradient(gradient) == model:
            return self.model.graphdef
        return self._others(gradient)

    @functools.cached_property
    def _others(self) -> Callable[[Gradient], nnx.GraphDef]:
        @functools.cache
        def build(gradient: Gradient) -> nnx.GraphDef:
            config = self.model.config
            model = config.model.with_gradient(gradient)
            graphdef, state = train_step.create(
                config.replace(model=model), self.image_shape, self.num_classes
            )
            own, new = (
                jax.tree.map(jax.numpy.shape, params)
                for params in (self.model.variables.params, state.params)
            )
            if own != new:
                raise NotApplicableError(f"{model.name} would have other parameters")
            return graphdef

        return build

    @functools.cached_property
    def attacked(self) -> Callable[..., Attacked]:
        """See `_attacked`; functions stay the same, so that steps stay compiled."""
        return functools.cache(self._attacked)

    def _attacked(
        self,
        objective: objectives.Name,
        gradient: Gradient = "routing",
        *,
        targeted: bool = False,
        evades: bool = False,
        distance_weight: float = 0.0,
    ) -> Attacked:
        """The network for attacks.

        Args:
            objective: what attacks raise.
            gradient: what the objective's gradient goes through.
            targeted: whether attacks have targets.
            evades: whether attacks count only where the image passes the detector.
            distance_weight: weight of the squared distance to the reconstruction, which
                is subtracted from the objective.

        Raises:
            NotApplicableError: its routing does not have that gradient.
        """
        config = self.model.config
        kind = config.model.scores

        def scores(variables: Variables, images: Images) -> Array:
            return self.output(variables, images).scores

        def surrogate(variables: Variables, images: Images) -> Array:
            return self.output(variables, images, gradient).scores

        def penalty(variables: Variables, images: Images) -> Array:
            return distance_weight * self.squared_distances(variables, images)

        def passes(variables: Variables, images: Images) -> Array:
            assert self.threshold is not None
            return self.squared_distances(variables, images) <= self.threshold**2

        return Attacked(
            scores=scores,
            variables=self.variables,
            objective_of=objectives.of_name(
                objective,
                kind,
                config.loss,
                targeted=targeted,
                step=self.variables.step,
            ),
            logits_of=lambda scores: objectives.logits(scores, kind),
            surrogate=None if gradient == "routing" else surrogate,
            penalty=penalty if distance_weight else None,
            evades=passes if evades else None,
            targeted=targeted,
        )


def batches(images: np.ndarray, batch_size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Batches of equal size, the last one filled up, each with its real number."""
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        missing = batch_size - len(batch)
        padding = [(0, missing), *[(0, 0)] * (batch.ndim - 1)]
        yield np.pad(batch, padding, mode="edge"), len(batch)
