"""Self-routing: each input capsule decides by itself, without regard to the others.

A small linear network of each child says from its pose where it belongs. There is no
agreement to look for, so there are no iterations::

    c_i = softmax(routing_weights_i u_i + routing_bias_i, over output capsules)
    activations_j = sum_i a_i c_ij / sum_i a_i
    poses_j = sum_i a_i c_ij votes_ij / sum_i a_i c_ij

The activations of the output capsules at a position add up to 1. Where the paper
divides zero by zero, as all children are inactive or none is routed to an output
capsule, poses, activations and their gradients are 0.

References:
    Hahn, Pyeon and Kim 2019, "Self-Routing Capsule Networks".
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.dtypes import accumulation_dtype


def route(
    votes: Float[Array, "B *N C J Q"],
    activations: Float[Array, "B *N C"],
    poses: Float[Array, "B *N C P"],
    routing_weights: Float[Array, "C J P"],
    routing_bias: Float[Array, "C J"],
) -> tuple[Float[Array, "B *N J Q"], Float[Array, "B *N J"]]:
    """Poses and activations of the output capsules.

    Args:
        votes: votes of C children for J output capsules of Q dimensions.
        activations: activations a of the children, at least 0; of any floating dtype,
            like all that follow.
        poses: poses u of the children, of P dimensions.
        routing_weights: for each child, from its pose to the logits of its coupling
            coefficients; shared by all positions.
        routing_bias: added to the logits.

    Returns:
        Poses in the dtype of the votes, and activations in float32 or wider. Half
        precision is computed in float32.

    Raises:
        ValueError: sizes that do not agree.
    """
    if (
        votes.shape[:-2] != activations.shape
        or votes.shape[-2:-1] != (routing_weights.shape[1:2])
    ):
        raise ValueError(
            f"self-routing takes votes [B, *N, C, J, Q], activations [B, *N, C] and "
            f"routing weights [C, J, P]; got {votes.shape}, {activations.shape} and "
            f"{routing_weights.shape}"
        )
    shares, total = _shares(activations, poses, routing_weights, routing_bias)
    mass = jnp.sum(shares, axis=-2)
    wide = accumulation_dtype(votes.dtype)
    s = jnp.einsum("...cj,...cjq->...jq", shares.astype(wide), votes.astype(wide))
    means = _divided(s, mass.astype(wide)[..., None])
    return means.astype(votes.dtype), _divided(mass, total[..., None])


def route_activations(
    activations: Float[Array, "B *N C"],
    poses: Float[Array, "B *N C P"],
    routing_weights: Float[Array, "C J P"],
    routing_bias: Float[Array, "C J"],
) -> Float[Array, "B *N J"]:
    """Activations of the output capsules of `route`, which need no votes.

    They are all that is needed of a network's last layer.

    Args:
        activations: activations a of the children, at least 0.
        poses: poses u of the children.
        routing_weights: from a pose to logits.
        routing_bias: added to the logits.

    Returns:
        float32 or wider.

    Raises:
        ValueError: sizes that do not agree.
    """
    shares, total = _shares(activations, poses, routing_weights, routing_bias)
    return _divided(jnp.sum(shares, axis=-2), total[..., None])


def _shares(
    activations: Array, poses: Array, routing_weights: Array, routing_bias: Array
) -> tuple[Array, Array]:
    """How much of each child goes to each output capsule, and the sum of all.

    [B, *N, C, J] and [B, *N], float32 or wider.
    """
    C, P = poses.shape[-2:]
    if (
        poses.ndim < 3
        or activations.shape != poses.shape[:-1]
        or routing_weights.ndim != 3
        or routing_weights.shape[::2] != (C, P)
        or routing_bias.shape != routing_weights.shape[:2]
    ):
        raise ValueError(
            f"self-routing takes activations [B, *N, C], poses [B, *N, C, P], routing "
            f"weights [C, J, P] and a routing bias [C, J]; got {activations.shape}, "
            f"{poses.shape}, {routing_weights.shape} and {routing_bias.shape}"
        )
    wide = accumulation_dtype(poses.dtype)
    activations, poses, routing_weights, routing_bias = (
        x.astype(wide) for x in (activations, poses, routing_weights, routing_bias)
    )
    logits = jnp.einsum("...cp,cjp->...cj", poses, routing_weights)
    logits += jnp.expand_dims(routing_bias, range(logits.ndim - 2))
    coupling = jax.nn.softmax(logits, axis=-1)
    return activations[..., None] * coupling, jnp.sum(activations, axis=-1)


def _divided(x: Array, total: Array) -> Array:
    """The quotient; 0 with gradient 0 where the total is as good as 0."""
    # The gradient divides by the square of the total, which must be a normal number.
    is_zero = total < jnp.finfo(total.dtype).tiny ** 0.5
    total = jnp.where(is_zero, jnp.ones_like(total), total)
    return jnp.where(is_zero, jnp.zeros_like(x), x / total)
