"""Losses, one number for each example.

A batch's loss is the mean over its examples; keeping the examples apart makes masked
evaluation exact.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from capsjax.errors import UserError
from capsjax.models import ModelOutput

CLASS_REDUCTIONS = ("sum", "half_mean")


def margin_loss(
    lengths: Float[Array, "B J"],
    labels: Int[Array, " B"],
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
        labels: classes present.
        positive_margin: m+, a present class's capsule should be at least that long.
        negative_margin: m-, an absent class's capsule should be at most that long.
        absent_weight: lambda, weight of the absent classes.
        class_reduction: ``"sum"`` of the L_j as in the paper; ``"half_mean"``, half of
            their mean, as in the authors' released code.

    References:
        Sabour, Frosst and Hinton 2017, section 3, equation 4.
    """
    present = jax.nn.one_hot(labels, lengths.shape[1], dtype=lengths.dtype)
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
    reconstructions: Float[Array, "B H W C"], images: Float[Array, "B H W C"]
) -> Float[Array, " B"]:
    """Sum of squared differences over all pixels and channels of an image.

    References:
        Sabour, Frosst and Hinton 2017, section 4.1.
    """
    return jnp.sum(jnp.square(reconstructions - images), axis=(1, 2, 3))


def per_example(
    output: ModelOutput,
    images: Float[Array, "B H W C"],
    labels: Int[Array, " B"],
    config: ConfigDict,
) -> dict[str, Float[Array, " B"]]:
    """The loss that ``config`` (a run's ``config.loss``) describes, and its parts.

    Args:
        output: the model's.
        images: what the model saw, in [0, 1] where it reconstructs them.
        labels: classes.
        config: ``name``, ``"margin"`` or ``"cross_entropy"``, and its settings.

    Returns:
        ``"loss"``, and for a CapsNet ``"margin_loss"`` and, with a decoder,
        ``"reconstruction_loss"`` (not weighted).
    """
    if config.name == "cross_entropy":
        losses = optax.softmax_cross_entropy_with_integer_labels(output.scores, labels)
        return {"loss": losses}
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
    reconstruction = reconstruction_loss(output.reconstructions, images)
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
    if config.name not in ("margin", "cross_entropy"):
        raise UserError(
            f"unknown loss {config.name!r} in config.loss.name; "
            "choose margin or cross_entropy"
        )
    if config.name == "margin" and config.class_reduction not in CLASS_REDUCTIONS:
        raise UserError(
            f"unknown config.loss.class_reduction {config.class_reduction!r}; "
            f"choose one of {', '.join(CLASS_REDUCTIONS)}"
        )
