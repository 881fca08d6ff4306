"""Variational Bayes routing: a mixture of Gaussians with priors on all parameters.

As in EM routing, output capsules are Gaussians with diagonal precisions, fitted to the
votes V of their children i with activations a; but means, precisions and mixing
coefficients have distributions, so that no capsule can shrink onto one vote. With D =
Q dimensions, r times::

    R' = R_ij a_i
    N_j = sum_i R'
    kappa_j = alpha_j = N_j + 1,  nu_j = N_j + D + 1
    mean_jh = sum_i R' V_ijh / kappa_j
    scale_jh = 1 + sum_i R' (V_ijh - mean_jh)^2 + mean_jh^2
    log_det_j = sum_h (digamma((nu_j - h) / 2) + log 2 - log scale_jh), h = 0 .. D - 1
    log_pi_j = digamma(alpha_j) - digamma(sum_j alpha_j)
    log q_ij = log_pi_j + log_det_j / 2 - D / 2 log(2 pi)
               - (D / kappa_j + nu_j sum_h (V_ijh - mean_jh)^2 / scale_jh) / 2
    R_ij = exp(log q_ij) / the sum over all parents of child i    (not the last time)

    score_j = beta_a_j - (exp(log_pi_j) entropy_j + beta_u_j)
    entropy_j = D / 2 log(2 pi e) - log_det_j / 2

The priors are those of the authors' code: alpha0 = kappa0 = 1, mean 0, scale the
identity, nu0 = D + 1. ``scale`` is the same as theirs, without a division by N, which
can be 0. R is 1/J at first. The gradient flows through all iterations.

References:
    Ribeiro, Leontidis and Kollias 2020, "Capsule Routing via Variational Bayes",
    algorithm 1; its code, fabio-deep/Variational-Capsule-Routing.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kernels.dtypes import accumulation_dtype
from kernels.routing import competition
from kernels.routing.votes import Windows


def route(
    votes: Float[Array, "B *N C J Q"],
    activations: Float[Array, "B *N C"],
    beta_u: Float[Array, " J"],
    beta_a: Float[Array, " J"],
    *,
    num_iterations: int = 3,
    windows: Windows | None = None,
    grid: tuple[int, ...] = (),
    least_likelihood: float = 0.0,
) -> tuple[Float[Array, "B *N J Q"], Float[Array, "B *N J"]]:
    """Means and scores of the output capsules, before batch normalisation.

    Args:
        votes: votes of C children for J output capsules of Q dimensions.
        activations: activations of the children, in [0, 1].
        beta_u: subtracted from the scores of each type.
        beta_a: added to the scores of each type.
        num_iterations: updates of the distributions, at least 1.
        windows: the windows of a convolutional layer, or None.
        grid: (H, W) of the capsules below; () without windows.
        least_likelihood: the sum that a child's R is divided by is at least this, so
            that unlikely children drop out; 1e-11 in the authors' code. By default, all
            children count.

    Returns:
        Means in the dtype of the votes; scores in float32 at least. Half precision is
        computed in float32.

    Raises:
        ValueError: sizes that do not agree, or ``num_iterations`` below 1.
    """
    competition.check(
        votes, activations, (beta_u, beta_a), num_iterations, windows, grid
    )
    wide = accumulation_dtype(votes.dtype)
    dtype, votes = votes.dtype, votes.astype(wide)
    J, Q = votes.shape[-2:]
    activations = activations.astype(wide)
    beta_u, beta_a = (
        jnp.expand_dims(beta.astype(wide), range(votes.ndim - 3))
        for beta in (beta_u, beta_a)
    )

    R = jnp.full(votes.shape[:-1], 1 / J, wide)
    for t in range(num_iterations):
        R *= activations[..., None]
        mass = jnp.sum(R, axis=-2)
        kappa, nu = mass + 1, mass + (Q + 1)
        mean = jnp.sum(R[..., None] * votes, axis=-3) / kappa[..., None]
        square = jnp.square(votes - jnp.expand_dims(mean, -3))
        scale = 1 + jnp.sum(R[..., None] * square, axis=-3) + jnp.square(mean)
        log_det = _digammas(nu / 2, Q) - jnp.sum(jnp.log(scale / 2), axis=-1)
        log_pi = _digammas(kappa) - _digammas(jnp.sum(kappa, axis=-1, keepdims=True))
        if t < num_iterations - 1:
            distance = jnp.sum(
                square * jnp.expand_dims(nu[..., None] / scale / 2, -3), axis=-1
            )
            prior = log_pi + (log_det - Q * math.log(2 * math.pi) - Q / kappa) / 2
            R = competition.among_parents(
                jnp.expand_dims(prior, -2) - distance,
                windows,
                grid,
                least_total=least_likelihood,
            )
    entropy = (Q * math.log(2 * math.pi * math.e) - log_det) / 2
    scores = beta_a - (jnp.exp(log_pi) * entropy + beta_u)
    return mean.astype(dtype), scores


# B_2k / 2k of the Bernoulli numbers B, k = 1, 2, ...
_SERIES = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12)


def _digammas(x: Array, count: int = 1) -> Array:
    """``sum_h digamma(x - h / 2)``, h = 0 .. count - 1, where each argument is above 1.

    In place of JAX's digamma, whose derivative is a zeta function: long to compile, and
    to compute for each of the arguments. These are all reduced to two that are above 9,
    by ``digamma(x) = digamma(x + 1) - 1 / x``, and their asymptotic series.
    """
    total = jnp.zeros_like(x)
    for h, n in ((0, (count + 1) // 2), (1, count // 2)):
        if n == 0:
            continue
        # digamma(lowest + i) for i = 0 .. n - 1.
        lowest = x - (h / 2 + n - 1)
        steps = np.arange(max(n, 8))
        below = lowest[..., None] + jnp.asarray(steps, x.dtype)[(None,) * x.ndim]
        factors = jnp.asarray(np.minimum(steps + 1, n), x.dtype)[(None,) * x.ndim]
        z = lowest + len(steps)
        square, tail = 1 / jnp.square(z), jnp.zeros_like(z)
        for factor in reversed(_SERIES):
            tail = (tail + factor) * square
        total += n * (jnp.log(z) - 0.5 / z - tail) - jnp.sum(factors / below, axis=-1)
    return total
