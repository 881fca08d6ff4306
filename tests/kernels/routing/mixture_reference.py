"""EM and variational Bayes routing in float64 NumPy, written from the papers.

It shares nothing with `kernels.routing`: loops over examples, positions and children.
A capsule is known by its place and number on the grid below, ``owners`` [n, C].
"""

import math

import numpy as np
from scipy.special import digamma


def owners(grid, windows, types):
    """Which capsule is the child of each position; a number of its own in padding."""
    (H, W), (kernel, stride, padding) = grid, windows
    h, w = ((size + 2 * padding - kernel) // stride + 1 for size in grid)
    found, nobody = [], -1
    for row in range(h):
        for column in range(w):
            children = []
            for k in range(kernel):
                for m in range(kernel):
                    y, x = row * stride + k - padding, column * stride + m - padding
                    for i in range(types):
                        inside = 0 <= y < H and 0 <= x < W
                        children.append((y * W + x) * types + i if inside else nobody)
                        nobody -= not inside
            found.append(children)
    return np.array(found)


def parents(owners):
    """For each capsule, its (position, child)s."""
    found: dict[int, list[tuple[int, int]]] = {}
    for n, children in enumerate(owners):
        for c, owner in enumerate(children):
            found.setdefault(owner, []).append((n, c))
    return found.values()


def shares(logits, owners, competition, least_total=0.0):
    """Exponentials of logits [n, C, J], each over their sum over all that compete."""
    R = np.zeros_like(logits)
    for places in parents(owners):
        for n, c in places:
            rivals = [(n, c)] if competition == "types" else places
            p = np.array([logits[rival] for rival in rivals])
            shift = p.max()
            total = np.exp(p - shift).sum()
            R[n, c] = np.exp(logits[n, c] - shift) / max(
                total, least_total * np.exp(-shift)
            )
    return R


def em(
    votes,
    activations,
    beta_u,
    beta_a,
    *,
    owners,
    num_iterations=3,
    final_lambda=0.01,
    competition="parents",
    start="uniform",
    variance_floor=5e-4,
    mass_epsilon=1e-7,
    mean_momentum=0.0,
    cost_factor=1.0,
):
    """Means [B, n, J, Q] and activations [B, n, J] for votes [B, n, C, J, Q]."""
    B, N, C, J, Q = votes.shape
    means, outputs = np.zeros((B, N, J, Q)), np.zeros((B, N, J))
    for example in range(B):
        R = np.ones((N, C, J))
        if start == "uniform":
            R /= J
            if competition == "parents":
                for places in parents(owners):
                    for n, c in places:
                        R[n, c] /= len(places)
        mean = np.zeros((N, J, Q))
        for t in range(num_iterations):
            inverse_temperature = final_lambda * (1 - 0.95 ** (t + 1))
            variance, a = np.zeros((N, J, Q)), np.zeros((N, J))
            log_p = np.zeros((N, C, J))
            for n in range(N):
                V = votes[example, n]
                for j in range(J):
                    r = R[n, :, j] * activations[example, n]
                    mass = r.sum() + mass_epsilon
                    new = (r[:, None] * V[:, j]).sum(axis=0) / mass
                    mean[n, j] = (1 - mean_momentum) * new + mean_momentum * mean[n, j]
                    square = (V[:, j] - mean[n, j]) ** 2
                    variance[n, j] = (r[:, None] * square).sum(axis=0) / mass
                    variance[n, j] += variance_floor
                    cost = (beta_u[j] + np.log(np.sqrt(variance[n, j]))) * mass
                    logit = beta_a[j] - cost_factor * cost.sum()
                    a[n, j] = 1 / (1 + np.exp(-inverse_temperature * logit))
                    log_p[n, :, j] = np.log(a[n, j])
                    log_p[n, :, j] -= (np.log(2 * math.pi * variance[n, j]) / 2).sum()
                    log_p[n, :, j] -= (square / (2 * variance[n, j])).sum(axis=1)
            R = shares(log_p, owners, competition)
        means[example], outputs[example] = mean, a
    return means, outputs


def variational_bayes(
    votes,
    activations,
    beta_u,
    beta_a,
    *,
    owners,
    num_iterations=3,
    least_likelihood=0.0,
):
    """Means [B, n, J, Q] and scores [B, n, J] for votes [B, n, C, J, Q].

    Ribeiro et al. 2020, algorithm 1 with diagonal covariances and the priors of the
    authors' code: alpha0 = kappa0 = 1, m0 = 0, Psi0 = identity, nu0 = D + 1.
    """
    B, N, C, J, D = votes.shape
    means, scores = np.zeros((B, N, J, D)), np.zeros((B, N, J))
    for example in range(B):
        R = np.full((N, C, J), 1 / J)
        for _ in range(num_iterations):
            log_q = np.zeros((N, C, J))
            for n in range(N):
                V = votes[example, n]
                r = R[n] * activations[example, n][:, None]
                mass = r.sum(axis=0)
                alpha, kappa, nu = 1 + mass, 1 + mass, D + 1 + mass
                for j in range(J):
                    mean = (r[:, j, None] * V[:, j]).sum(axis=0) / mass[j]
                    m = mass[j] / kappa[j] * mean
                    b = 1 + (r[:, j, None] * (V[:, j] - mean) ** 2).sum(axis=0)
                    b += mass[j] / kappa[j] * mean**2
                    log_det = sum(digamma((nu[j] - h) / 2) for h in range(D))
                    log_det += D * np.log(2) - np.log(b).sum()
                    log_pi = digamma(alpha[j]) - digamma(alpha.sum())
                    distance = (V[:, j] - m) ** 2 / b
                    distance = D / kappa[j] + nu[j] * distance.sum(axis=1)
                    log_q[n, :, j] = (
                        log_pi + log_det / 2 - D / 2 * np.log(2 * np.pi) - distance / 2
                    )
                    entropy = D / 2 * np.log(2 * np.pi * np.e) - log_det / 2
                    means[example, n, j] = m
                    scores[example, n, j] = beta_a[j] - (
                        np.exp(log_pi) * entropy + beta_u[j]
                    )
            R = shares(log_q, owners, "parents", least_likelihood)
    return means, scores
