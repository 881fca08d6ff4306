"""Self-attention routing of Efficient-CapsNet: one pass, no iterations.

The agreement of a vote with all votes for the same output capsule is its scalar product
with their sum, so that the matrix of all pairs of votes is not needed::

    logits_ij = votes_ij . (sum_k votes_kj) / sqrt(Q)
    c = softmax(logits, over output capsules) + routing_bias
    poses = exponential_squash(sum_i c_ij votes_ij + bias_j)

The bias is added after the softmax: coupling coefficients can be negative, and those of
an input capsule need not add up to 1.

References:
    Mazzia, Salvetti and Chiaberge 2021, "Efficient-CapsNet: capsule network with
    self-attention routing", equations 5 to 7.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.dtypes import accumulation_dtype
from kernels.routing.squash import exponential_squash


def route(
    votes: Float[Array, "B *N C J Q"],
    routing_bias: Float[Array, "C J"],
    bias: Float[Array, "J Q"] | None = None,
) -> Float[Array, "B *N J Q"]:
    """Poses of the output capsules.

    Args:
        votes: votes of C input capsules for J output capsules of Q dimensions.
        routing_bias: added to the coupling coefficients.
        bias: added to each output capsule's total input, or None.

    Returns:
        Poses in the dtype of the votes; half precision is computed in float32.

    Raises:
        ValueError: sizes that do not agree.
    """
    C, J, Q = votes.shape[-3:]
    if votes.ndim < 4 or routing_bias.shape != (C, J):
        raise ValueError(
            f"self-attention routing takes votes [B, *N, C, J, Q] and a routing bias "
            f"[C, J]; got {votes.shape} and {routing_bias.shape}"
        )
    if bias is not None and bias.shape != (J, Q):
        raise ValueError(
            f"self-attention routing takes a bias [J, Q]; got {bias.shape} for votes "
            f"{votes.shape}"
        )
    wide = accumulation_dtype(votes.dtype)
    dtype, votes = votes.dtype, votes.astype(wide)
    total = jnp.sum(votes, axis=-3)
    logits = jnp.einsum("...cjq,...jq->...cj", votes, total) / Q**0.5
    coupling = jax.nn.softmax(logits, axis=-1)
    coupling += jnp.expand_dims(routing_bias.astype(wide), range(votes.ndim - 3))
    s = jnp.einsum("...cj,...cjq->...jq", coupling, votes)
    if bias is not None:
        s += jnp.expand_dims(bias.astype(wide), range(s.ndim - 2))
    return exponential_squash(s).astype(dtype)
