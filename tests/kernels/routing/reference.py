"""Routing by agreement in float64 NumPy, written from the paper's Procedure 1.

It shares nothing with `kernels.routing`: loops over examples, plain formulas, and a
gradient by central differences.
"""

import numpy as np


def squash(s: np.ndarray) -> np.ndarray:
    """Equation 1 of the paper, for vectors that are not zero."""
    length = np.sqrt((s**2).sum(-1, keepdims=True))
    return length**2 / (1 + length**2) * s / length


def route(u, W, bias=None, *, num_iterations=3, leaky=False, frozen_coupling=None):
    """Poses [B, J, Q] and the last coupling coefficients [B, I, J], in float64.

    Args:
        u: inputs [B, I, P].
        W: weights [I, J, Q, P].
        bias: [J, Q] or None.
        num_iterations: r.
        leaky: one more, constant logit.
        frozen_coupling: [B, I, J]; if given, the coupling coefficients, not computed.
    """
    u, W = np.asarray(u, np.float64), np.asarray(W, np.float64)
    poses, couplings = [], []
    for example in range(u.shape[0]):
        v, c = route_votes(
            np.stack([W[i] @ u[example, i] for i in range(len(W))]),
            bias,
            num_iterations=num_iterations,
            leaky=leaky,
            coupling=None if frozen_coupling is None else frozen_coupling[example],
        )
        poses.append(v)
        couplings.append(c)
    return np.stack(poses), np.stack(couplings)


def route_votes(votes, bias=None, *, num_iterations, leaky=False, coupling=None):
    """The same for the votes [I, J, Q] of one example."""
    I, J, Q = votes.shape
    bias = np.zeros((J, Q)) if bias is None else np.asarray(bias, np.float64)
    b = np.zeros((I, J))
    for _ in range(num_iterations):
        e = np.exp(np.concatenate([b, np.zeros((I, int(leaky)))], axis=1))
        c = e[:, :J] / e.sum(axis=1, keepdims=True) if coupling is None else coupling
        v = squash((c[:, :, None] * votes).sum(axis=0) + bias)
        b = b + (votes * v).sum(axis=2)
    return v, c


def directional_derivative(function, arguments, directions, step=1e-6) -> float:
    """d/dt of ``function(arguments + t * directions)`` at 0, by central differences."""
    ahead = function(
        *[a + step * d for a, d in zip(arguments, directions, strict=True)]
    )
    behind = function(
        *[a - step * d for a, d in zip(arguments, directions, strict=True)]
    )
    return (ahead - behind) / (2 * step)
