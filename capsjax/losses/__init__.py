"""Losses, one number for each example.

A batch's loss is the mean over its examples; keeping the examples apart makes masked
evaluation exact.
"""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from capsjax.errors import UserError
from capsjax.losses.classification import presence
from capsjax.losses.margin import margin_loss
from capsjax.losses.reconstruction import reconstruction_loss
from capsjax.models import ModelOutput

NAMES = ("margin", "cross_entropy", "sigmoid_cross_entropy")

CLASS_REDUCTIONS = ("sum", "half_mean")


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
