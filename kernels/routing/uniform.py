"""Uniform routing: every coupling coefficient is 1/J, independent of the votes.

The control experiment for every routing algorithm. Since each input capsule is divided
equally, the sum of the votes is one matrix product, and no vote is formed::

    s = jnp.einsum("bip,ijqp->bjq", u, W) / J + bias
    v = squash(s)

References:
    Paik, Kwak and Kim 2019, "Capsule Networks Need an Improved Routing Algorithm";
    Sabour, Frosst and Hinton 2017, section 2, procedure 1 with one iteration.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.dtypes import accumulation_dtype
from kernels.routing import arguments
from kernels.routing.squash import squash


def route(
    inputs: Float[Array, "B I P"],
    weights: Float[Array, "I J Q P"],
    bias: Float[Array, "J Q"] | None = None,
    *,
    leaky: bool = False,
) -> Float[Array, "B J Q"]:
    """Poses of the output capsules where every coupling coefficient is 1/J.

    Args:
        inputs: poses u of the input capsules; B examples, I capsules of P dimensions.
        weights: transformation matrices W, one for each pair of an input and one of J
            output capsules of Q dimensions; the dtype of ``inputs``.
        bias: added to each output capsule's total input, or None; same dtype.
        leaky: counts "none of the above" as one more output capsule: 1/(J + 1).

    Returns:
        Poses of the output capsules, in the dtype of ``inputs``; half precision is
        accumulated in float32.

    Raises:
        ValueError: wrong ranks, or sizes or dtypes that do not agree.
    """
    arguments.check(inputs, weights, bias)
    wide = accumulation_dtype(inputs.dtype)
    s = jnp.einsum("bip,ijqp->bjq", inputs, weights, preferred_element_type=wide)
    s /= weights.shape[1] + leaky
    if bias is not None:
        s += bias.astype(wide)[None]
    return squash(s).astype(inputs.dtype)
