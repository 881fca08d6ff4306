"""Reconstructions of perturbed poses, which show the meaning of their dimensions."""

import shlex
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from capsjax import models
from capsjax.config import Config
from capsjax.data import Dataset
from capsjax.errors import UserError
from capsjax.runs import results
from capsjax.training import augment

DELTAS = tuple(step / 20 for step in range(-5, 6))
"""The paper's: [-0.25, 0.25] in steps of 0.05."""

MAX_CLASSES = 10
"""Classes that are drawn if none is named."""

_MAX_NAMES = 50

Perturbations = Callable[..., Float[Array, "Q D H W C"]]


def make_perturbations(graphdef: nnx.GraphDef, config: Config) -> Perturbations:
    """The jitted function from variables, an image and a class to reconstructions.

    In each reconstruction one dimension of the pose of that class's capsule is changed;
    the poses of all other classes are masked out, as in training.

    The function takes:

    - the model's variables, on one device or in host memory;
    - an image, uint8 [H, W, C] as stored; it is preprocessed and not augmented;
    - the class whose pose is perturbed;
    - D numbers, each added to each of the pose's Q dimensions; by default `DELTAS`;

    and returns float32 [Q, D, H, W, C] in [0, 1], in the size that the model sees.

    Raises:
        UserError: the model has no decoder.

    References:
        Sabour, Frosst and Hinton 2017, section 5.1 and figure 4.
    """
    if not config.model.has_decoder:
        raise UserError(
            f"this run's {config.model.name} has no decoder to draw with; choose a run "
            "with one, such as a CapsNet"
        )

    @jax.jit
    def perturbations(
        variables: models.Variables,
        image: Array,
        label: Array,
        deltas: ArrayLike | Sequence[float] = DELTAS,
    ) -> Float[Array, "Q D H W C"]:
        seen = augment.for_evaluation(image[None], config)
        output, _ = models.apply(
            graphdef, variables, seen, jnp.asarray(label)[None], config.dtype
        )
        assert output.poses is not None
        deltas = jnp.asarray(deltas, jnp.float32)
        _, J, Q = output.poses.shape
        D = len(deltas)
        pose = output.poses[0, label]
        changed = pose[None, None] + jnp.eye(Q)[:, None] * deltas[None, :, None]
        # The decoder masks out the other classes' poses, whatever they are.
        poses = jnp.broadcast_to(changed.reshape(Q * D, 1, Q), (Q * D, J, Q))
        labels = jnp.broadcast_to(label, Q * D)
        images = models.decode(graphdef, variables, poses, labels, config.dtype)
        return images.reshape(Q, D, *images.shape[1:])

    return perturbations


def classes_of(data: Dataset, class_name: str | None = None) -> list[int]:
    """The class of a name, or the first `MAX_CLASSES`.

    Raises:
        UserError: no class has this name, or images have several labels each.
    """
    if data.test.labels.ndim != 1:
        raise UserError(
            f"images of {data.name} have several labels each; choose a run on images "
            "with one"
        )
    if class_name is None:
        return list(range(data.num_classes))[:MAX_CLASSES]
    if class_name not in data.class_names:
        raise UserError(
            f"{data.name} has no class {class_name!r}; "
            f"choose one of {results.listed(data.class_names, _MAX_NAMES)}"
        )
    return [data.class_names.index(class_name)]


def left_out(data: Dataset) -> str:
    """A sentence on the classes that are not drawn unless named; empty without any."""
    names = data.class_names[MAX_CLASSES:]
    if not names:
        return ""
    return (
        f"left out are {len(names):,} classes: {results.listed(names)}; "
        f"--class_name={shlex.quote(names[0])} draws one"
    )


def example_of(data: Dataset, label: int, example: int) -> np.ndarray:
    """The test image number ``example`` of a class, from 0; uint8 [H, W, C].

    Raises:
        UserError: the class has fewer examples.
    """
    found = np.flatnonzero(data.test.labels == label)
    if not 0 <= example < len(found):
        raise UserError(
            f"there is no example {example} of class {data.class_names[label]!r}: "
            f"{data.name} has {len(found)} test images of it, counted from 0"
        )
    return data.test.images[found[example]]
