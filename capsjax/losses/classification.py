"""Predicted classes from scores, and their accuracy.

An image shows one class, or K of them. The prediction is then the K classes of the
largest scores, and right only if these are all the image's classes (exact match).
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int


def predict(
    scores: Float[Array, "B J"], labels: Int[Array, "B *K"]
) -> Int[Array, "B *K"]:
    """The classes of the largest scores, as many as there are labels, ascending."""
    if labels.ndim == 1:
        return jnp.argmax(scores, axis=1).astype(jnp.int32)
    classes = jax.lax.top_k(scores, labels.shape[1])[1]
    return jnp.sort(classes, axis=1).astype(jnp.int32)


def metrics(
    predictions: Int[Array, "B *K"], labels: Int[Array, "B *K"]
) -> dict[str, Float[Array, " B"]]:
    """Returns ``"accuracy"``, 1 or 0 for each image, and further metrics.

    For images that show several classes, this is ``"digit_accuracy"``, the share of
    each image's classes that were found.

    References:
        Sabour, Frosst and Hinton 2017, section 6.
    """
    if labels.ndim == 1:
        return {"accuracy": (predictions == labels).astype(jnp.float32)}
    found = jnp.any(labels[:, :, None] == predictions[:, None, :], axis=2)
    return {
        "accuracy": jnp.all(found, axis=1).astype(jnp.float32),
        "digit_accuracy": jnp.mean(found.astype(jnp.float32), axis=1),
    }


def is_right(
    predictions: npt.NDArray[np.integer], labels: npt.NDArray[np.integer]
) -> npt.NDArray[np.bool_]:
    """Returns which predictions, [N] or [N, K], are right, for NumPy arrays."""
    if labels.ndim == 1:
        return predictions == labels
    return np.all(np.sort(predictions, axis=1) == np.sort(labels, axis=1), axis=1)


def presence(
    labels: Int[Array, "B *K"], num_classes: int, dtype: DTypeLike
) -> Float[Array, "B J"]:
    """1 for the classes that an image shows and 0 for the others.

    Args:
        labels: class of each image, or its K classes.
        num_classes: number of classes J.
        dtype: dtype of the result.
    """
    one_hot = jax.nn.one_hot(labels, num_classes, dtype=dtype)
    return jnp.max(one_hot, axis=tuple(range(1, labels.ndim)))
