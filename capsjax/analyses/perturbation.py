"""What the dimensions of a class capsule mean: reconstructions of perturbed poses."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Float
from ml_collections import ConfigDict, FrozenConfigDict

from capsjax import models
from capsjax.data import Dataset
from capsjax.errors import UserError
from capsjax.training import augment

# The paper's: [-0.25, 0.25] in steps of 0.05.
DELTAS = tuple(step / 20 for step in range(-5, 6))


def perturbations(
    graphdef: nnx.GraphDef,
    config: ConfigDict,
    params: nnx.State,
    image: ArrayLike,
    label: int,
    deltas: Sequence[float] = DELTAS,
) -> Float[Array, "Q D H W C"]:
    """Reconstructions of an image; in each, one dimension of its pose is changed.

    The pose is that of the given class's capsule; those of all other classes are masked
    out, as in training.

    Args:
        graphdef: of a CapsNet with a decoder.
        config: the run's.
        params: the model's, on one device or in host memory.
        image: uint8 [H, W, C] as stored; it is preprocessed and not augmented.
        label: the class whose pose is perturbed.
        deltas: D numbers, each added to each of the pose's Q dimensions.

    Returns:
        float32 in [0, 1], in the size that the model sees.

    Raises:
        UserError: the model has no decoder.

    References:
        Sabour, Frosst and Hinton 2017, section 5.1 and figure 4.
    """
    if not config.model.get("decoder_units"):
        raise UserError(
            f"this run's {config.model.name} has no decoder to draw with; choose a run "
            "with a CapsNet whose config.model.decoder_units is not empty"
        )
    return _perturbations(
        graphdef, FrozenConfigDict(config), params, image, label, jnp.array(deltas)
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _perturbations(
    graphdef: nnx.GraphDef,
    config: FrozenConfigDict,
    params: nnx.State,
    image: Array,
    label: Array,
    deltas: Float[Array, " D"],
) -> Float[Array, "Q D H W C"]:
    """Compiled once for all images and classes of a run."""
    seen = augment.for_evaluation(image[None], config)
    output = models.apply(graphdef, params, seen, label[None], config.dtype)
    assert output.poses is not None
    _, J, Q = output.poses.shape
    D = len(deltas)
    pose = output.poses[0, label]
    changed = pose[None, None] + jnp.eye(Q)[:, None] * deltas[None, :, None]
    # The decoder masks out the other classes' poses, whatever they are.
    poses = jnp.broadcast_to(changed.reshape(Q * D, 1, Q), (Q * D, J, Q))
    params, poses = jax.tree.map(lambda x: x.astype(config.dtype), (params, poses))
    decoder = nnx.merge(graphdef, params).decoder
    images = decoder(poses, jnp.broadcast_to(label, Q * D))
    return images.reshape(Q, D, *images.shape[1:])


def classes_of(data: Dataset, class_name: str | None = None) -> list[int]:
    """The class of a name; without one, all classes.

    Raises:
        UserError: no class has this name, or images have several labels each.
    """
    if data.test.labels.ndim != 1:
        raise UserError(
            f"images of {data.name} have several labels each; choose a run on images "
            "with one"
        )
    if class_name is None:
        return list(range(data.num_classes))
    if class_name not in data.class_names:
        raise UserError(
            f"{data.name} has no class {class_name!r}; "
            f"choose one of {', '.join(data.class_names)}"
        )
    return [data.class_names.index(class_name)]


def example_of(data: Dataset, label: int, example: int) -> np.ndarray:
    """A test image of a class, uint8 [H, W, C].

    Args:
        data: with one label an image.
        label: the class.
        example: which of its images, counted from 0.

    Raises:
        UserError: the class has not so many.
    """
    found = np.flatnonzero(data.test.labels == label)
    if not 0 <= example < len(found):
        raise UserError(
            f"there is no example {example} of class {data.class_names[label]!r}: "
            f"{data.name} has {len(found)} test images of it, counted from 0"
        )
    return data.test.images[found[example]]
