"""Diagnosis of routing, iteration by iteration, computed separately from the op."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.dtypes import accumulation_dtype
from kernels.routing.dynamic.api import check
from kernels.routing.squash import squash


class Diagnosis(NamedTuple):
    """Averages over the capsules for each of the r routing iterations.

    Attributes:
        logit_changes: [r]; the amount the iteration adds to a logit,
            ``|votes . poses|``, mean over examples, input and output capsules. For the
            last iteration, the amount it would add.
        coupling_entropies: [r] in nats; entropy of an input capsule's coupling
            coefficients in the iteration, mean over examples and input capsules. With
            leaky routing the dropped share counts as one more outcome.
    """

    logit_changes: Float[Array, " r"]
    coupling_entropies: Float[Array, " r"]


def diagnose(
    inputs: Float[Array, "B I P"],
    weights: Float[Array, "I J Q P"],
    bias: Float[Array, "J Q"] | None = None,
    *,
    num_iterations: int,
    leaky: bool = False,
) -> Diagnosis:
    """Follows the routing of a few dozen examples through its iterations.

    Examples are processed one after another, so that only one example's votes,
    [I, J, Q], are in memory: a large batch takes time, not memory.

    Args:
        inputs: poses of the input capsules; see `kernels.routing.route`.
        weights: transformation matrices, of the dtype of ``inputs``.
        bias: bias of the output capsules, of the same dtype, or None.
        num_iterations: number of routing iterations r, at least 1.
        leaky: adds one more logit, constant 0, to each softmax.

    Returns:
        Two numbers for each iteration; float32 at least.

    Raises:
        ValueError: wrong ranks, sizes or dtypes that do not agree, or
            ``num_iterations`` below 1.

    References:
        Sabour, Frosst and Hinton 2017, appendix A, figure A.1: the average change of
        each routing logit by each routing iteration.
    """
    check(inputs, weights, bias, num_iterations)

    def of_example(u: Float[Array, "I P"]) -> Diagnosis:
        changes, entropies = [], []
        for log_c, change in _iterations(u, weights, bias, num_iterations, leaky):
            entropies.append(-jnp.mean(jnp.sum(jnp.exp(log_c) * log_c, axis=1)))
            changes.append(jnp.mean(jnp.abs(change)))
        return Diagnosis(jnp.stack(changes), jnp.stack(entropies))

    # One example after another, where vmap would hold the votes of all.
    found = jax.lax.map(of_example, inputs)
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), found)


def couplings(
    inputs: Float[Array, "B I P"],
    weights: Float[Array, "I J Q P"],
    bias: Float[Array, "J Q"] | None = None,
    *,
    num_iterations: int,
    leaky: bool = False,
) -> Float[Array, "B I J"]:
    """The coupling coefficients of the last iteration, float32 at least.

    Arguments and errors are those of `diagnose`. With leaky routing those of an input
    capsule add up to less than 1.
    """
    check(inputs, weights, bias, num_iterations)

    def of_example(u: Float[Array, "I P"]) -> Float[Array, "I J"]:
        log_c, _ = _iterations(u, weights, bias, num_iterations, leaky)[-1]
        return jnp.exp(log_c[:, : weights.shape[1]])

    return jax.lax.map(of_example, inputs)


def _iterations(
    u: Float[Array, "I P"],
    weights: Float[Array, "I J Q P"],
    bias: Float[Array, "J Q"] | None,
    num_iterations: int,
    leaky: bool,
) -> list[tuple[Array, Array]]:
    """Logarithms of the coupling coefficients, and what is added to the logits.

    Of one example in each iteration: [I, J], or [I, J + 1] if leaky; and [I, J].
    """
    dtype = u.dtype
    wide = accumulation_dtype(dtype)
    I, J, _, _ = weights.shape
    votes = jnp.einsum("ijqp,ip->ijq", weights, u, preferred_element_type=wide).astype(
        dtype
    )
    logits = jnp.zeros((I, J + leaky), wide)
    found = []
    for _ in range(num_iterations):
        # This way the logarithm of a share that is zero is finite.
        log_c = jax.nn.log_softmax(logits, axis=1)
        s = jnp.einsum(
            "ij,ijq->jq",
            jnp.exp(log_c[:, :J]).astype(dtype),
            votes,
            preferred_element_type=wide,
        )
        if bias is not None:
            s = s + bias.astype(wide)
        poses = squash(s).astype(dtype)
        change = jnp.einsum("ijq,jq->ij", votes, poses, preferred_element_type=wide)
        logits = logits.at[:, :J].add(change)
        found.append((log_c, change))
    return found
