"""Routing as the paper writes it: the votes are formed and kept in memory."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.dtypes import accumulation_dtype
from kernels.routing.squash import squash


def route(
    inputs: Float[Array, "B I P"],
    weights: Float[Array, "I J Q P"],
    bias: Float[Array, "J Q"] | None,
    *,
    num_iterations: int,
    leaky: bool,
    stop_gradient: bool,
) -> Float[Array, "B J Q"]:
    """See `kernels.routing.route`. Needs memory for the votes [B, I, J, Q]."""
    dtype = inputs.dtype
    wide = accumulation_dtype(dtype)  # of every sum and of the logits
    J = weights.shape[1]
    votes = jnp.einsum(
        "ijqp,bip->bijq", weights, inputs, preferred_element_type=wide
    ).astype(dtype)
    logits = jnp.zeros(votes.shape[:3], wide)
    for iteration in range(num_iterations):
        if iteration == 0:  # The softmax of zeros, spelt out to spare its computation.
            c = jnp.full_like(logits, 1 / (J + leaky))
        else:
            c = softmax_over_outputs(logits, leaky)
        if stop_gradient and iteration == num_iterations - 1:
            c = jax.lax.stop_gradient(c)
        s = jnp.einsum(
            "bij,bijq->bjq", c.astype(dtype), votes, preferred_element_type=wide
        )
        if bias is not None:
            s = s + bias.astype(wide)[None]
        poses = squash(s).astype(dtype)
        if iteration < num_iterations - 1:
            logits = logits + jnp.einsum(
                "bijq,bjq->bij", votes, poses, preferred_element_type=wide
            )
    return poses


def softmax_over_outputs(
    logits: Float[Array, "B I J"], leaky: bool
) -> Float[Array, "B I J"]:
    """Coupling coefficients: each input capsule is divided among the outputs."""
    if not leaky:
        return jax.nn.softmax(logits, axis=2)
    leak = jnp.zeros_like(logits[:, :, :1])
    return jax.nn.softmax(jnp.concatenate([logits, leak], axis=2), axis=2)[:, :, :-1]
