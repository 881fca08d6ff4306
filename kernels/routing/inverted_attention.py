"""Inverted dot-product attention: output capsules compete for each input capsule.

A vote's agreement with an output capsule's pose is their scalar product, and what comes
out is normalised, not squashed::

    poses_j = layer_norm(sum_i votes_ij / J)                          (the first pass)
    c_ij = softmax(votes_ij . poses_j / sqrt(Q), over output capsules)
    poses_j = layer_norm(sum_i c_ij votes_ij)                         (each later pass)

Unlike those of dynamic routing, logits are not summed over the passes. Capsules have no
activations.

`route` makes all passes of one layer (sequential routing). In concurrent routing, the
default of the paper, all layers of a network make each pass together: `first_pass` from
the bottom up, and then, any number of times, `next_pass` with the votes of the previous
pass's poses below and the layer's own previous poses.

The authors' released code reads the windows of its convolutional layers in another
order than it has written them, which mixes the elements of poses with their places.
These functions take votes and have no part in that.

References:
    Tsai, Srivastava, Goh and Salakhutdinov 2020, "Capsules with Inverted Dot-Product
    Attention Routing", algorithms 1 and 2.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.dtypes import accumulation_dtype

_EPSILON = 1e-5


def route(
    votes: Float[Array, "B *N C J Q"],
    norm_scale: Float[Array, " Q"],
    norm_bias: Float[Array, " Q"],
    *,
    num_iterations: int = 2,
) -> Float[Array, "B *N J Q"]:
    """Poses of the output capsules after some passes.

    Args:
        votes: votes of C input capsules for J output capsules of Q dimensions.
        norm_scale: of the layer normalisation, the same for all output capsules.
        norm_bias: of the layer normalisation.
        num_iterations: number of passes, at least 1. After the first, all coupling
            coefficients have been 1/J.

    Returns:
        Poses in the dtype of the votes; half precision is computed in float32. Capsules
        of one dimension are not normalised, as nothing of them would be left.

    Raises:
        ValueError: sizes that do not agree, or ``num_iterations`` is not an int of at
            least 1.
    """
    if isinstance(num_iterations, bool) or not isinstance(num_iterations, int):
        raise ValueError(f"num_iterations must be an int; got {num_iterations!r}")
    if num_iterations < 1:
        raise ValueError(
            f"num_iterations must be at least 1; got {num_iterations} for votes "
            f"{votes.shape}"
        )
    _check(votes, norm_scale, norm_bias)
    wide = votes.astype(accumulation_dtype(votes.dtype))
    poses = first_pass(wide, norm_scale, norm_bias)
    for _ in range(num_iterations - 1):
        poses = next_pass(wide, poses, norm_scale, norm_bias)
    return poses.astype(votes.dtype)


def first_pass(
    votes: Float[Array, "B *N C J Q"],
    norm_scale: Float[Array, " Q"],
    norm_bias: Float[Array, " Q"],
) -> Float[Array, "B *N J Q"]:
    """Poses from coupling coefficients 1/J; `route` describes the arguments."""
    _check(votes, norm_scale, norm_bias)
    wide = accumulation_dtype(votes.dtype)
    s = jnp.sum(votes, axis=-3, dtype=wide) / votes.shape[-2]
    return _normalised(s, norm_scale, norm_bias).astype(votes.dtype)


def next_pass(
    votes: Float[Array, "B *N C J Q"],
    poses: Float[Array, "B *N J Q"],
    norm_scale: Float[Array, " Q"],
    norm_bias: Float[Array, " Q"],
) -> Float[Array, "B *N J Q"]:
    """Poses from the votes' agreement with the previous pass's poses.

    Args:
        votes: votes of the input capsules; in concurrent routing of their previous
            poses.
        poses: the output capsules' poses of the previous pass.
        norm_scale: of the layer normalisation.
        norm_bias: of the layer normalisation.

    Returns:
        Poses in the dtype of the votes; half precision is computed in float32.

    Raises:
        ValueError: sizes that do not agree.
    """
    _check(votes, norm_scale, norm_bias)
    if poses.shape != (*votes.shape[:-3], *votes.shape[-2:]):
        raise ValueError(
            f"inverted attention takes votes [B, *N, C, J, Q] and poses [B, *N, J, Q]; "
            f"got {votes.shape} and {poses.shape}"
        )
    dtype, wide = votes.dtype, accumulation_dtype(votes.dtype)
    votes, poses = votes.astype(wide), poses.astype(wide)
    logits = jnp.einsum("...cjq,...jq->...cj", votes, poses) / votes.shape[-1] ** 0.5
    coupling = jax.nn.softmax(logits, axis=-1)
    s = jnp.einsum("...cj,...cjq->...jq", coupling, votes)
    return _normalised(s, norm_scale, norm_bias).astype(dtype)


def _check(votes: Array, norm_scale: Array, norm_bias: Array) -> None:
    if votes.ndim < 4 or not (
        norm_scale.shape == norm_bias.shape == (votes.shape[-1],)
    ):
        raise ValueError(
            f"inverted attention takes votes [B, *N, C, J, Q] and a scale and a bias "
            f"[Q]; got {votes.shape}, {norm_scale.shape} and {norm_bias.shape}"
        )


def _normalised(s: Array, scale: Array, bias: Array) -> Array:
    if s.shape[-1] == 1:
        return s
    s -= jnp.mean(s, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(s), axis=-1, keepdims=True)
    scale, bias = (
        jnp.expand_dims(x.astype(s.dtype), range(s.ndim - 1)) for x in (scale, bias)
    )
    return s * jax.lax.rsqrt(variance + _EPSILON) * scale + bias
