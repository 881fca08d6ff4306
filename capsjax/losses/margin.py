"""The margin loss on the lengths of class capsules."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from capsjax.losses.classification import presence


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
