"""How output capsules compete for a child: coupling coefficients from logits.

The parents of a child are the J output capsules of every position whose window contains
it. Likelihoods are relative to that of the child's likeliest parent, so that none is
too small: each child's coefficients add up to 1 however unlikely all its parents are.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from kernels.routing.votes import Windows


def among_types(logits: Float[Array, "B *N C J"]) -> Float[Array, "B *N C J"]:
    """Coefficients of which those of one child and position add up to 1."""
    return jax.nn.softmax(logits, axis=-1)


def among_parents(
    logits: Float[Array, "B *N C J"],
    windows: Windows | None = None,
    grid: tuple[int, ...] = (),
    *,
    least_total: float = 0.0,
) -> Float[Array, "B *N C J"]:
    """Coefficients of which those of one child, of all its parents, add up to 1.

    Args:
        logits: logarithms of what each parent's share is proportional to.
        windows: the windows of a convolutional layer, or None. A child in the padding
            has the parents of one position only.
        grid: (H, W) of the capsules below; () without windows.
        least_total: the sum by which a child's shares are divided is at least this, so
            that the coefficients of a child without any likely parent vanish. 0 for
            none.

    Returns:
        Coefficients from 0 to 1, of the dtype of the logits.
    """
    likeliest = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
    if windows is not None:
        likeliest = _over_windows(windows.largest, likeliest, windows, grid)
    # Each child has a parent of likelihood 1.
    likelihoods = jnp.exp(logits - likeliest[..., None])
    total = jnp.sum(likelihoods, axis=-1)
    if windows is not None:
        total = _over_windows(windows.total, total, windows, grid)
    if least_total:
        total = jnp.maximum(total, least_total * jnp.exp(-likeliest))
    return likelihoods / total[..., None]


def parents(
    windows: Windows | None, grid: tuple[int, ...], children: int, dtype: DTypeLike
) -> Float[Array, "*n C"]:
    """The number of positions whose windows contain each child.

    Args:
        windows: the windows of a convolutional layer, or None.
        grid: (H, W) of the capsules below; () without windows.
        children: C.
        dtype: dtype of the result.

    Returns:
        [1, C] or [1, h, w, C]. At least 1, in the padding too.
    """
    if windows is None:
        return jnp.ones((1, children), dtype)
    H, W = grid
    counts = np.maximum(windows.counts((H, W)), 1)
    counts = np.repeat(counts, children // windows.kernel**2, axis=-1)
    return jnp.asarray(counts, dtype)[None]


def check(
    votes: Array,
    activations: Array,
    betas: tuple[Array, Array],
    num_iterations: int,
    windows: Windows | None,
    grid: tuple[int, ...],
) -> None:
    """Rejects arguments that suit no routing by competition of positions.

    Args:
        votes: should be [B, C, J, Q], or [B, h, w, C, J, Q] with windows.
        activations: should be votes' [B, C] or [B, h, w, C].
        betas: should be two arrays [J].
        num_iterations: should be at least 1.
        windows: the windows of a convolutional layer, or None.
        grid: should be (H, W) with windows; else ().

    Raises:
        ValueError: they are not.
    """
    shapes = (
        f"votes {votes.shape}, activations {activations.shape}, betas "
        f"{betas[0].shape} and {betas[1].shape}, windows {windows}, grid {grid}"
    )
    if votes.ndim != (4 if windows is None else 6) or (
        activations.shape != votes.shape[:-2]
        or any(beta.shape != votes.shape[-2:-1] for beta in betas)
        or 0 in votes.shape
    ):
        raise ValueError(
            "routing takes votes [B, *N, C, J, Q], activations [B, *N, C] and betas "
            f"[J], with two positions in N if and only if there are windows; "
            f"got {shapes}"
        )
    if (windows is None) != (len(grid) == 0) or (
        windows is not None
        and (
            len(grid) != 2
            or tuple(map(windows.size, grid)) != votes.shape[1:3]
            or votes.shape[3] % windows.kernel**2
        )
    ):
        raise ValueError(f"windows and the grid below do not suit votes: {shapes}")
    dtypes = [x.dtype for x in (votes, activations, *betas)]
    if not all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes):
        raise ValueError(
            f"routing takes floating dtypes; got {', '.join(map(str, dtypes))}"
        )
    if isinstance(num_iterations, bool) or not isinstance(num_iterations, int):
        raise ValueError(f"num_iterations must be an int; got {num_iterations!r}")
    if num_iterations < 1:
        raise ValueError(
            f"num_iterations must be at least 1; got {num_iterations} for {shapes}"
        )


def _over_windows(
    join: Callable[[Array, tuple[int, int]], Array],
    x: Float[Array, "B h w C"],
    windows: Windows,
    grid: tuple[int, ...],
) -> Float[Array, "B h w C"]:
    """A child's sum or maximum over all positions; in the padding, its own value."""
    H, W = grid
    found = windows.children(join(x, (H, W)))
    if windows.padding == 0:
        return found
    counts = np.repeat(windows.counts((H, W)), x.shape[3] // windows.kernel**2, -1)
    return jnp.where(jnp.broadcast_to(counts > 0, x.shape), found, x)
