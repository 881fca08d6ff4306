"""Max pooling that divides height and width by a factor between 1 and 2.

References:
    Graham 2014, "Fractional Max-Pooling", section 2.
"""

import functools
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from capsjax.errors import SettingsError
from capsjax.layers.recording import Window, layer_function

Sequences = Literal["pseudorandom", "random"]
"""How the regions are drawn, see `region_starts`."""


def region_starts(
    size: int, regions: int, sequence: Sequences, key: Key[Array, ""] | None
) -> Int[Array, " starts"]:
    """Where regions of one or two steps begin that cover a number of steps.

    The paper's sequences ``a_0 = 0, ..., a_n = size``, with increments of 1 and 2.
    ``"pseudorandom"`` ones are ``ceil(alpha * (i + u)) - ceil(alpha * u)`` with
    ``alpha = size / regions`` and a random u, so that increments of 2 lie at equal
    distances; ``"random"`` ones have their increments in any order. The former are
    computed with whole numbers, of which rounding cannot change the last.

    Args:
        size: steps to cover, from ``regions`` to twice as many.
        regions: number n of regions.
        sequence: how to draw.
        key: random key; without one, the pseudorandom sequence in the middle.
    """
    if key is not None and sequence == "random":
        order = jnp.argsort(jax.random.uniform(key, (regions,)))
        increments = 1 + (order < size - regions).astype(jnp.int32)
        return jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(increments)])
    offset = regions // 2 if key is None else jax.random.randint(key, (), 0, regions)
    return (jnp.arange(regions + 1) * size + offset) // regions


def _widest(arguments: Mapping[str, Any]) -> Window:
    """A bound: regions have one or two steps."""
    return Window(2 + arguments["overlapping"], 2)


@layer_function(_widest)
def fractional_max_pool(
    x: Float[Array, "B H W C"],
    size: tuple[int, int],
    keys: Key[Array, " B"] | None,
    *,
    overlapping: bool = True,
    sequence: Sequences = "pseudorandom",
) -> Float[Array, "B h w C"]:
    """The largest of each region; regions are rows' regions times columns' regions.

    Args:
        x: features.
        size: numbers h and w of regions.
        keys: random keys, one for each example, which draw its regions; None for
            fixed regions.
        overlapping: whether a region shares its last row and column with the next
            one: 2 or 3 pixels along each axis, instead of 1 or 2.
        sequence: how the regions are drawn, see `region_starts`.

    Raises:
        SettingsError: the regions cannot cover the image.
    """
    steps = tuple(n - overlapping for n in x.shape[1:3])
    if not all(n <= step <= 2 * n for n, step in zip(size, steps, strict=True)):
        raise SettingsError(
            f"{x.shape[1]}x{x.shape[2]} pixels cannot be divided into "
            f"{size[0]}x{size[1]} regions of 1 or 2 steps"
        )
    for axis, (n, step) in enumerate(zip(size, steps, strict=True)):
        if keys is None:
            starts = region_starts(step, n, sequence, None)[None]
        else:
            own = jax.vmap(jax.random.fold_in, (0, None))(keys, axis)
            draw = functools.partial(region_starts, step, n, sequence)
            starts = jax.vmap(draw)(own)
        x = _pool_rows(x, starts, overlapping).swapaxes(1, 2)
    return x


def _pool_rows(
    x: Float[Array, "B H W C"], starts: Int[Array, "b starts"], overlapping: bool
) -> Float[Array, "B n W C"]:
    """Maxima of regions of rows; ``b`` is B or 1.

    The maximum is taken over a region from every row on, by shifts alone, and then the
    rows where regions begin are picked out by a matrix product with zeros and ones:
    XLA's gathers, and the scatters of their gradients, are slow on a CPU.
    """
    B, H, W, C = x.shape
    first = starts[:, :-1, None] == jnp.arange(H)[None, None]
    doubled = (starts[:, 1:] - starts[:, :-1] == 2)[:, :, None]
    long = jnp.any(first & doubled, axis=1)[:, :, None, None]
    one_more = jnp.maximum(x, _rows_after(x, 1))
    if overlapping:
        largest = jnp.where(long, jnp.maximum(one_more, _rows_after(x, 2)), one_more)
    else:
        largest = jnp.where(long, one_more, x)
    picked = jnp.matmul(
        first.astype(x.dtype),
        largest.reshape(B, H, W * C),
        # So that a GPU, too, returns the very numbers.
        precision=jax.lax.Precision.HIGHEST,
    )
    return picked.reshape(B, -1, W, C)


def _rows_after(x: Array, count: int) -> Array:
    """Each row's later neighbour; zeros where there is none, which no region has."""
    return jnp.pad(x[:, count:], [(0, 0), (0, count), (0, 0), (0, 0)])
