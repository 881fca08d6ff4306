"""EM routing of matrix capsules: output capsules are clusters of votes.

Each output capsule j is a Gaussian with a diagonal covariance, fitted to the votes V of
its children i, whose activations are a. Expectation maximisation, t = 0, 1, ...::

    M step:
        R' = R_ij a_i
        mass_j = sum_i R'
        mean_jh = sum_i R' V_ijh / mass_j
        variance_jh = sum_i R' (V_ijh - mean_jh)^2 / mass_j
        cost_j = sum_h (beta_u_j + log(variance_jh) / 2) mass_j
        a_j = logistic(lambda_t (beta_a_j - cost_j))
        lambda_t = final_lambda (1 - 0.95^(t + 1))
    E step (not after the last M step):
        R_ij = a_j N(V_ij; mean_j, variance_j) / the sum over all parents of child i

At first R is the same for all parents of a child. The parents are the J types at every
position whose window contains the child. The gradient flows through all steps.

References:
    Hinton, Sabour and Frosst 2018, "Matrix capsules with EM routing", section 3 and
    procedure 1; the schedule of lambda is that of its authors' code.
    Gritzman 2019, "Avoiding Implementation Pitfalls of ... EM Routing".
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.dtypes import accumulation_dtype
from kernels.routing import competition as competing
from kernels.routing.votes import Windows

COMPETITIONS = ("parents", "types", "positions")
STARTS = ("uniform", "ones")


def route(
    votes: Float[Array, "B *N C J Q"],
    activations: Float[Array, "B *N C"],
    beta_u: Float[Array, " J"],
    beta_a: Float[Array, " J"],
    *,
    num_iterations: int = 3,
    windows: Windows | None = None,
    grid: tuple[int, ...] = (),
    final_lambda: float = 0.01,
    competition: str = "parents",
    start: str = "uniform",
    variance_floor: float = 5e-4,
    mass_epsilon: float = 1e-7,
    mean_momentum: float = 0.0,
    cost_factor: float = 1.0,
) -> tuple[Float[Array, "B *N J Q"], Float[Array, "B *N J"]]:
    """Poses and activations of the output capsules.

    Args:
        votes: votes of C children for J output capsules of Q dimensions.
        activations: activations of the children, in [0, 1].
        beta_u: cost of describing a vote, for each type.
        beta_a: cost of not activating a capsule, for each type.
        num_iterations: M steps, at least 1.
        windows: the windows of a convolutional layer, or None.
        grid: (H, W) of the capsules below; () without windows.
        final_lambda: the inverse temperature that lambda approaches.
        competition: over what a child's R adds up to 1: ``"parents"``, types and
            positions, as in the paper; ``"types"`` in each window by itself; or
            ``"positions"``, for each type by itself, as in the convolutional layers of
            the authors' code. There, R also vanishes where the likelihood is below 1e-7
            of the map's largest. Without windows all of them are the same.
        start: R at first: ``"uniform"``, 1 over the number of a child's parents (with
            another competition than ``"parents"`` 1/J); or ``"ones"``.
        variance_floor: added to each variance. A capsule with one child has variance 0,
            and would draw all of it with infinite likelihood. The default is that of
            the authors' code, and above the variance that bfloat16 gives to equal votes
            of size 1.
        mass_epsilon: added to each mass, for capsules without active children.
        mean_momentum: share of the previous iteration's mean, 0 at first, in a mean;
            0.1 in the authors' code.
        cost_factor: factor of the cost; 2 in the authors' code, which leaves out 1/2.

    Returns:
        Poses, the means, in the dtype of the votes; activations in float32 at least.
        Half precision is computed in float32.

    Raises:
        ValueError: sizes that do not agree, ``num_iterations`` below 1, or an unknown
            competition or start.
    """
    competing.check(votes, activations, (beta_u, beta_a), num_iterations, windows, grid)
    for name, value, known in (
        ("competition", competition, COMPETITIONS),
        ("start", start, STARTS),
    ):
        if value not in known:
            raise ValueError(
                f"unknown {name} {value!r}; choose one of {', '.join(known)}"
            )
    wide = accumulation_dtype(votes.dtype)
    dtype, votes = votes.dtype, votes.astype(wide)
    J, Q = votes.shape[-2:]
    activations = activations.astype(wide)
    beta_u, beta_a = (
        jnp.expand_dims(beta.astype(wide), range(votes.ndim - 3))
        for beta in (beta_u, beta_a)
    )

    def m_step(R: Array, mean: Array | None, t: int) -> tuple[Array, Array, Array]:
        R = R * activations[..., None]
        mass = jnp.sum(R, axis=-2) + mass_epsilon
        fitted = jnp.sum(R[..., None] * votes, axis=-3) / mass[..., None]
        if mean_momentum:
            fitted *= 1 - mean_momentum
            mean = fitted if mean is None else fitted + mean_momentum * mean
        else:
            mean = fitted
        square = jnp.square(votes - jnp.expand_dims(mean, -3))
        variance = jnp.sum(R[..., None] * square, axis=-3) / mass[..., None]
        variance += variance_floor
        cost = (Q * beta_u + jnp.sum(jnp.log(variance), axis=-1) / 2) * mass
        inverse_temperature = final_lambda * (1 - 0.95 ** (t + 1))
        logits = inverse_temperature * (beta_a - cost_factor * cost)
        return mean, variance, logits

    def e_step(mean: Array, variance: Array, logits: Array) -> Array:
        prior = jax.nn.log_sigmoid(logits)
        prior -= jnp.sum(jnp.log(2 * math.pi * variance), axis=-1) / 2
        square = jnp.square(votes - jnp.expand_dims(mean, -3))
        distance = jnp.sum(square * jnp.expand_dims(0.5 / variance, -3), axis=-1)
        log_likelihoods = jnp.expand_dims(prior, -2) - distance
        if windows is None or competition == "types":
            return competing.among_types(log_likelihoods)
        if competition == "parents":
            return competing.among_parents(log_likelihoods, windows, grid)
        return _among_positions(log_likelihoods, windows, grid)

    R = jnp.ones((1,) * (votes.ndim - 1), wide)
    if start == "uniform":
        R /= J
        if competition == "parents":
            C = votes.shape[-3]
            R /= competing.parents(windows, grid, C, wide)[..., None]
    R = jnp.broadcast_to(R, votes.shape[:-1])
    mean, variance, logits = m_step(R, None, 0)
    for t in range(1, num_iterations):
        R = e_step(mean, variance, logits)
        mean, variance, logits = m_step(R, mean, t)
    return mean.astype(dtype), jax.nn.sigmoid(logits)


def _among_positions(
    logits: Float[Array, "B h w C J"], windows: Windows, grid: tuple[int, ...]
) -> Float[Array, "B h w C J"]:
    """Competition of the positions of one type, as in the authors' code."""
    H, W = grid
    B, h, w, _, J = logits.shape
    by_capsule = logits.reshape(B, h * w * windows.kernel**2, -1, J)
    largest = jnp.max(by_capsule, axis=1, keepdims=True)
    likelihoods = jnp.exp(by_capsule - largest).reshape(logits.shape)
    total = windows.total(likelihoods, (H, W)) + 1e-7
    total = windows.children(total)
    return likelihoods / jnp.where(total > 0, total, 1)
