"""Losses by name, one number for each example.

A batch's loss is the mean over its examples; keeping the examples apart makes masked
evaluation exact. To add a loss: a file here with its config, and a line in `LOSSES`.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from capsjax.losses import (
    cross_entropy,
    margin,
    negative_log_likelihood,
    spread,
    squared_hinge,
)
from capsjax.losses.base import Config, Scores
from capsjax.losses.classification import presence
from capsjax.losses.reconstruction import reconstruction_loss

__all__ = [
    "LOSSES",
    "Config",
    "Scores",
    "per_example",
    "presence",
    "reconstruction_loss",
]

LOSSES: Mapping[str, type[Config]] = MappingProxyType(
    {
        config.name: config
        for config in (
            margin.Config,
            cross_entropy.Softmax,
            cross_entropy.Sigmoid,
            negative_log_likelihood.Config,
            spread.Config,
            squared_hinge.Config,
        )
    }
)


def per_example(
    config: Config,
    scores: Float[Array, "B J"],
    labels: Int[Array, "B *K"],
    *,
    reconstructions: Float[Array, "B ... H W C"] | None = None,
    targets: Float[Array, "B ... H W C"] | None = None,
    auxiliary_scores: Sequence[Float[Array, "B J"]] = (),
    auxiliary_weight: float = 0.0,
    step: Int[Array, ""] | int = 0,
    train: bool = False,
) -> dict[str, Float[Array, " B"]]:
    """The loss of a batch and its parts.

    Args:
        config: the run's ``config.loss``.
        scores: the model's scores, of a kind that the loss takes.
        labels: class of each image, or its K classes.
        reconstructions: the decoder's images, or None.
        targets: the decoder's targets: the images that the model saw, or the K parts of
            each; in [0, 1].
        auxiliary_scores: scores of further classifiers.
        auxiliary_weight: weight of the loss of each of them.
        step: number of training steps taken so far, for annealing.
        train: whether this is for training or for evaluation.

    Returns:
        ``"loss"``; the loss of the scores by its name, such as ``"margin_loss"``; and,
        not weighted, with reconstructions ``"reconstruction_loss"`` and with further
        classifiers ``"auxiliary_loss"``, the sum of theirs.
    """
    loss = config.classification(scores, labels, step=step, train=train)
    parts = {f"{config.name}_loss": loss}
    if reconstructions is not None and targets is not None:
        parts["reconstruction_loss"] = reconstruction_loss(reconstructions, targets)
        loss = loss + config.reconstruction_weight * parts["reconstruction_loss"]
    if auxiliary_scores:
        auxiliary = [
            config.classification(scores, labels, step=step, train=train)
            for scores in auxiliary_scores
        ]
        parts["auxiliary_loss"] = jnp.sum(jnp.stack(auxiliary), axis=0)
        loss = loss + auxiliary_weight * parts["auxiliary_loss"]
    return {"loss": loss} | parts
