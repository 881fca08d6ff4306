"""Losses, one number for each example.

A batch's loss is the mean over its examples; keeping the examples apart makes masked
evaluation exact.
"""

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from capsjax.errors import UserError
from capsjax.models import ModelOutput

NAMES = ("margin", "cross_entropy", "sigmoid_cross_entropy")
CLASS_REDUCTIONS = ("sum", "half_mean")


def presence(
    labels: Int[Array, "B *K"], num_classes: int, dtype: DTypeLike
) -> Float[Array, "B J"]:
    """1 for the classes that an image shows and 0 for the others.

    Args:
        labels: the class of each image, or its K classes.
        num_classes: J.
        dtype: of the result.
    """
    one_hot = jax.nn.one_hot(labels, num_classes, dtype=dtype)
    return jnp.max(one_hot, axis=tuple(range(1, labels.ndim)))


def margin_loss(
    lengths: Float[Array, "B J"],
    labels: Int[Array, "B *K"],
    *,
    positive_margin: float = 0.9,
    negative_margin: float = 0.1,
    absent_weight: float = 0.5,
    class_reduction: str = "sum",
) -> Float[Array, " B"]:
    """How far the class capsules' lengths are from what the labels ask for.

    ``L_j = T_j max(0, m+ - |v_j|)^2 + lambda (1 - T_j) max(0, |v_j| - m-)^2``

    Args:
        lengths: of the class capsules, in [0, 1).
        labels: the class present, or the K that are.
        positive_margin: m+, a present class's capsule should be at least that long.
        negative_margin: m-, an absent class's capsule should be at most that long.
        absent_weight: lambda, weight of the absent classes.
        class_reduction: ``"sum"`` of the L_j as in the paper; ``"half_mean"``, half of
            their mean, as in the authors' released code.

    References:
        Sabour, Frosst and Hinton 2017, section 3, equation 4.
    """
    present = presence(labels, lengths.shape[1], lengths.dtype)
    losses = present * jnp.square(jax.nn.relu(positive_margin - lengths))
    losses += (
        absent_weight
        * (1 - present)
        * jnp.square(jax.nn.relu(lengths - negative_margin))
    )
    if class_reduction == "sum":
        return jnp.sum(losses, axis=1)
    return jnp.mean(losses, axis=1) / 2


def reconstruction_loss(
    reconstructions: Float[Array, "B *K H W C"], targets: Float[Array, "B *K H W C"]
) -> Float[Array, " B"]:
    """Sum of squared differences over all pixels and channels of an image.

    Where K digits are drawn for each image, over those of all of them.

    References:
        Sabour, Frosst and Hinton 2017, sections 4.1 and 6.
    """
    pixels = tuple(range(1, targets.ndim))
    return jnp.sum(jnp.square(reconstructions - targets), axis=pixels)


def per_example(
    output: ModelOutput,
    targets: Float[Array, "B ... H W C"],
    labels: Int[Array, "B *K"],
    config: ConfigDict,
) -> dict[str, Float[Array, " B"]]:
    """The loss that ``config`` (a run's ``config.loss``) describes, and its parts.

    Args:
        output: the model's.
        targets: what the decoder should draw: the images that the model saw, or the K
            parts of each; in [0, 1].
        labels: the class of each image, or its K classes.
        config: ``name``, one of `NAMES`, and its settings.

    Returns:
        ``"loss"``, and for a CapsNet ``"margin_loss"`` and, with a decoder,
        ``"reconstruction_loss"`` (not weighted).
    """
    if config.name == "cross_entropy":
        losses = optax.softmax_cross_entropy_with_integer_labels(output.scores, labels)
        return {"loss": losses}
    if config.name == "sigmoid_cross_entropy":
        present = presence(labels, output.scores.shape[1], output.scores.dtype)
        losses = optax.sigmoid_binary_cross_entropy(output.scores, present)
        return {"loss": jnp.sum(losses, axis=1)}
    margin = margin_loss(
        output.scores,
        labels,
        positive_margin=config.positive_margin,
        negative_margin=config.negative_margin,
        absent_weight=config.absent_weight,
        class_reduction=config.class_reduction,
    )
    if output.reconstructions is None:
        return {"loss": margin, "margin_loss": margin}
    reconstruction = reconstruction_loss(output.reconstructions, targets)
    return {
        "loss": margin + config.reconstruction_weight * reconstruction,
        "margin_loss": margin,
        "reconstruction_loss": reconstruction,
    }


def check(config: ConfigDict) -> None:
    """Refuses an unknown loss or reduction.

    Raises:
        UserError: with the known names.
    """
    if config.name not in NAMES:
        raise UserError(
            f"unknown loss {config.name!r} in config.loss.name; "
            f"choose one of {', '.join(NAMES)}"
        )
    if config.name == "margin" and config.class_reduction not in CLASS_REDUCTIONS:
        raise UserError(
            f"unknown config.loss.class_reduction {config.class_reduction!r}; "
            f"choose one of {', '.join(CLASS_REDUCTIONS)}"
        )
