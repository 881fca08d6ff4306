"""The softmax's normalization where no block sees all output capsules.

With more output capsules than a block can hold sums of, each pass runs on chunks of
them. Then this kernel goes first. It finds, for each example, input capsule and chunk,
the logarithm of the sum of the exponentials; `combine` puts the chunks together. The
backward pass also needs the mean of the coefficients' gradients dc under the softmax.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.typing import DTypeLike

from kernels.routing.dynamic.mosaic_gpu import tile
from kernels.routing.dynamic.mosaic_gpu.config import Config
from kernels.routing.dynamic.mosaic_gpu.tile import COLUMNS, GROUP, ROWS, Sizes


def softmax_stats(
    directions: int, sizes: Sizes, config: Config, dtype: DTypeLike, interpret: Any
) -> Callable[..., list[jax.Array]]:
    """Makes the kernel, for the directions V, or V and ds.

    Returns:
        A function of u [G, B, 64], w [G, J * 64, Q] and the directions [J, B, Q]. It
        returns for each direction an array [chunks * G, B, 8] float32: the logarithm to
        base 2 of the sum over the chunk of 2 ** logit, and the mean of dc under it.
    """
    B, G, _, Q, chunk, real_outputs = sizes
    steps = config.groups_per_block

    def body(u_g, w_g, *refs, u_s, w_s, directions_s, stats_s, ring_b, directions_b):
        directions_g, stats_g = refs[:directions], refs[directions:]
        split, c = jax.lax.axis_index("split"), jax.lax.axis_index("chunk")
        rows = tile.block_rows(jax.lax.axis_index("rows"))

        def copy(step, slot, barrier):
            g = split * steps + step
            plgpu.copy_gmem_to_smem(u_g.at[g, rows, :], u_s.at[slot], barrier)
            weights = w_g.at[g, pl.ds(c * (chunk * COLUMNS), chunk * COLUMNS)]
            plgpu.copy_gmem_to_smem(weights, w_s.at[slot], barrier)

        ring = tile.Ring(config.slots, ring_b, copy)
        ring.start(steps)
        for n, direction_g in enumerate(directions_g):
            plgpu.copy_gmem_to_smem(
                direction_g.at[pl.ds(c * chunk, chunk), rows, :],
                directions_s.at[n],
                directions_b,
            )
        plgpu.barrier_wait(directions_b)

        def group(step, _):
            slot = ring.wait(step)
            u = tile.in_registers(u_s[slot]).astype(jnp.float32)

            def compare(j, carry):
                top, total, weighted = carry
                w = w_s.at[slot, pl.ds(j * COLUMNS, COLUMNS)].T
                logit, *dc = [
                    tile.dot_dims(u, tile.product(directions_s.at[n, j], w))
                    for n in range(directions)
                ]
                higher = jnp.maximum(top, logit)
                shrink, e = jnp.exp2(top - higher), jnp.exp2(logit - higher)
                total = total * shrink + e
                weighted = weighted * shrink + e * dc[0] if dc else weighted
                return higher, total, weighted

            # The last chunk may hold padding, which the softmax must not see.
            count = jnp.minimum(chunk, real_outputs - c * chunk)
            start = (tile.full(-1e30), tile.full(0), tile.full(0))
            top, total, weighted = jax.lax.fori_loop(0, count, compare, start)
            stats = (top + jnp.log(total) * tile.LOG2E, weighted / total)
            g = c * G + split * steps + step
            targets = [stat_g.at[g, rows, :] for stat_g in stats_g]
            tile.write_out(stats[:directions], stats_s, targets)
            ring.refill(step, steps)
            return ()

        jax.lax.fori_loop(0, steps, group, ())
        plgpu.wait_smem_to_gmem(0)

    operand = functools.partial(tile.operand_tile, dtype=dtype, Q=Q)
    stat = jax.ShapeDtypeStruct((sizes.chunks * G, B, GROUP), jnp.float32)
    return tile.launch(
        body,
        name="softmax_stats",
        grid={
            "split": G // steps,
            "chunk": sizes.chunks,
            "rows": sizes.row_tiles,
        },
        out_type=[stat] * directions,
        scratch={
            "u_s": operand((config.slots, ROWS, COLUMNS)),
            "w_s": operand((config.slots, chunk * COLUMNS, Q)),
            "directions_s": operand((directions, chunk, ROWS, Q)),
            "stats_s": tile.shared_tile((directions, ROWS, GROUP), jnp.float32),
            "ring_b": plgpu.Barrier(num_arrivals=2, num_barriers=config.slots),
            "directions_b": plgpu.Barrier(num_arrivals=directions),
        },
        interpret=interpret,
    )


def combine(
    stats: Sequence[jax.Array], sizes: Sizes, leaky: bool
) -> tuple[jax.Array, ...]:
    """Combines the chunks' statistics, in plain JAX.

    Args:
        stats: the statistics that `softmax_stats` returns.
        sizes: the problem's sizes.
        leaky: includes the additional logit, 0.

    Returns:
        For each direction an array [G, B, 8] float32, as the unsplit backward pass
        writes them.
    """
    parts = [x.reshape(sizes.chunks, sizes.G, sizes.B, GROUP) for x in stats]
    logs = parts[0]
    if leaky:
        logs = jnp.concatenate([logs, jnp.zeros_like(logs[:1])])
    top = jnp.max(logs, axis=0)
    log_total = top + jnp.log2(jnp.sum(jnp.exp2(logs - top[None]), axis=0))
    means = [
        jnp.sum(jnp.exp2(parts[0] - log_total[None]) * mean, axis=0)
        for mean in parts[1:]
    ]
    return (log_total, *means)
