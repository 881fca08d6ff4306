"""The pose that a network has of an image, and of the same image moved.

With capsules, it is the pose of the capsule whose class is predicted on the upright
image, also where another one wins after the movement. Without, it is the input of the
last dense layer, in as many numbers by principal component analysis.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from capsjax import models
from capsjax.analyses.robustness.cells import Cells
from capsjax.analyses.robustness.subjects import Chosen, OnBatch, Subject
from capsjax.analyses.robustness.warps import WARPS, warped
from capsjax.errors import NotApplicableError
from capsjax.layers import recording
from capsjax.models import Variables
from capsjax.training import augment
from capsjax.training.trained import TrainedModel

WIDTH = 16
"""Numbers of a pose, unless a network with capsules has others: the paper's."""

Function = Callable[[Variables, Array], tuple[Array, Array]]
"""From variables and images to scores [B, J], and to poses or features, float32."""

MOVES = tuple((name, amount) for name, warp in WARPS.items() for amount in warp.small)
"""Movements, by name and amount."""


class Poses:
    """Poses of upright and of moved images.

    Attributes:
        run: name of the run.
        classes: int [N], the class that is predicted on each upright image.
        upright: float64 [N, Q].
        moved: float64 [M, N, Q], for each of `MOVES`.
        commit: the commit that computed them.
    """

    def __init__(self, run: str, classes: np.ndarray, poses: np.ndarray, commit: str):
        """Takes the poses of upright and of moved images in one array."""
        self.run, self.commit, self.classes = run, commit, classes
        self.upright, self.moved = poses[0].astype(float), poses[1:].astype(float)


def width_of(networks: Sequence[TrainedModel], image_shape: tuple[int, ...]) -> int:
    """Numbers of a pose of the first network that has capsules, or `WIDTH`."""
    for network in networks:
        if network.config.model.has_capsules:
            images = jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8)
            _, found = jax.eval_shape(
                _capsule_poses(network), network.variables, images
            )
            return found.shape[2]
    return WIDTH


def training_half(count: int, seed: int) -> np.ndarray:
    """Bool [N], the half of the images on which everything is fitted."""
    order = np.random.default_rng((seed, count)).permutation(count)
    return order < count // 2


def finished(
    subject: Subject, width: int, chosen: Chosen, cells: Cells
) -> Poses | None:
    """The poses that an earlier test left, or None."""
    found = cells.read(subject.name, "poses", _key(subject, width, chosen))
    if found is None:
        return None
    return Poses(subject.name, found["classes"], found["poses"], str(found["commit"]))


def image_count(chosen: Chosen) -> int:
    """The number of images that a network sees."""
    return len(chosen.images) * (1 + len(MOVES))


def measure(
    subject: Subject,
    width: int,
    chosen: Chosen,
    cells: Cells,
    on_batch: OnBatch = lambda count: None,
) -> Poses:
    """Computes the poses of a network, and keeps them.

    Raises:
        NotApplicableError: it has neither capsules nor a dense layer; or images show
            several classes each.
    """
    if chosen.images.labels.ndim != 1:
        raise NotApplicableError("images show several classes each")
    model, images = subject.model, chosen.images.images
    features = _features(model)
    batch = min(model.config.batch_size, len(images))

    def all_features(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = []
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            padding = [(0, batch - len(part)), (0, 0), (0, 0), (0, 0)]
            found = jax.device_get(features(np.pad(part, padding)))
            parts.append([x[: len(part)] for x in found])
            on_batch(len(part))
        scores, values = (np.concatenate(x) for x in zip(*parts, strict=True))
        return np.argmax(scores, axis=1), values

    classes, upright = all_features(images)
    pose = _winning(classes)
    if not model.config.model.has_capsules:
        half = training_half(len(images), chosen.seed)
        pose = principal_components(upright[half], width)
    poses = [pose(upright)]
    for name, amount in MOVES:
        poses.append(pose(all_features(warped(images, name, amount))[1]))
    arrays = {"classes": classes, "poses": np.stack(poses)}
    key = _key(subject, width, chosen)
    kept = cells.write(subject.name, "poses", key, arrays)
    return Poses(subject.name, classes, arrays["poses"], str(kept["commit"]))


def _key(subject: Subject, width: int, chosen: Chosen) -> Mapping[str, object]:
    settings = {"width": width, "moves": [list(one) for one in MOVES]}
    return {**subject.identity, **chosen.content, **settings}


def _winning(classes: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The choice of one class's pose out of [N, J, Q] for each image."""
    return lambda poses: poses[np.arange(len(classes)), classes]


def principal_components(
    features: np.ndarray, width: int
) -> Callable[[np.ndarray], np.ndarray]:
    """The projection of features [n, D] onto the directions in which they vary most.

    Args:
        features: features to which it is fitted.
        width: number of directions; at most as many as there are features or examples.
    """
    mean = features.mean(axis=0)
    directions = np.linalg.svd(features - mean, full_matrices=False)[2][:width]
    return lambda given: (given - mean) @ directions.T


def _features(model: TrainedModel) -> Callable[[np.ndarray], tuple[Array, Array]]:
    """The compiled function from images to scores [B, J], poses or dense features.

    Images are uint8 [B, H, W, C]; poses [B, J, Q], or features [B, D], are float32.
    """
    has_capsules = model.config.model.has_capsules
    function = _capsule_poses(model) if has_capsules else _dense_features(model)
    return functools.partial(jax.jit(function), jax.device_put(model.variables))


def _capsule_poses(model: TrainedModel) -> Function:
    def function(variables: Variables, images: Array) -> tuple[Array, Array]:
        seen = augment.for_evaluation(images, model.config)
        output, _ = models.apply(
            model.graphdef, variables, seen, None, model.config.dtype
        )
        assert output.poses is not None  # It has capsules.
        return output.scores, output.poses

    return function


def _dense_features(model: TrainedModel) -> Function:
    def function(variables: Variables, images: Array) -> tuple[Array, Array]:
        dtype = model.config.dtype
        seen = augment.for_evaluation(images, model.config)
        params, seen = jax.tree.map(lambda x: x.astype(dtype), (variables.params, seen))
        network = nnx.merge(model.graphdef, params, variables.model_state, copy=True)
        scores = []
        calls = recording.recorded(network, lambda: scores.append(network(seen).scores))
        dense = [call for call, _ in calls if isinstance(call.layer, nnx.Linear)]
        if not dense:
            raise NotApplicableError(
                f"{model.config.model.name} has neither capsules nor a dense layer"
            )
        features = dense[-1].arguments[0].reshape(len(images), -1)
        return scores[0].astype(jnp.float32), features.astype(jnp.float32)

    return function
