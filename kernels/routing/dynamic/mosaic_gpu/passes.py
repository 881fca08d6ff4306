"""The passes over all inputs and weights: weighted sums of the votes.

With coefficients k of (example, input capsule, output capsule)::

    S(k)_bjq = sum_ip (k_bij u_bip) W_ijqp

where k is constant in the first iteration, the coupling coefficients c in the others,
and the gradients of the logits in the backward pass. The coefficients are computed
where they are used, from::

    T(V)_bijp = sum_q V_bjq W_ijqp,    logits_bij = sum_p u_bip T(V)_bijp

A block takes one tile of 64 examples, some groups of input capsules and a chunk of
output capsules, and keeps its sums in registers to the end. Blocks of different groups
write partial sums, which `kernels.routing.dynamic.mosaic_gpu.reduction` adds up.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.typing import DTypeLike

from kernels.routing.dynamic.mosaic_gpu import tile
from kernels.routing.dynamic.mosaic_gpu.config import Config
from kernels.routing.dynamic.mosaic_gpu.tile import COLUMNS, GROUP, ROWS, Sizes

# Slots for c * u in shared memory. Two would do if each warp of a product read its own
# 16 rows alone, as the hardware does but its manual does not promise; with three, all
# warps have passed a barrier after the product that read the slot.
_SCALED_SLOTS = 3


class Pass(NamedTuple):
    """The properties in which passes differ.

    Attributes:
        name: the kernel's name.
        directions: number of arrays that the inputs are compared with: none in the
            first iteration, V in the others, V and ds in the backward pass.
        normalized: whether the softmax's normalization is given, since the block sees
            only a chunk of the output capsules.
        leaky: leaky routing, see `kernels.routing.route`.
        scale: the factor of the sums.
    """

    name: str
    directions: int
    normalized: bool = False
    leaky: bool = False
    scale: float = 1.0

    @property
    def stats_in(self) -> int:
        """Statistics of the softmax that the pass reads."""
        return self.directions if self.normalized else 0

    @property
    def stats_out(self) -> int:
        """Statistics of the softmax that the pass writes."""
        return 2 if self.directions == 2 and not self.normalized else 0


def sum_pass(
    which: Pass, sizes: Sizes, config: Config, dtype: DTypeLike, interpret: Any
) -> Callable[..., list[jax.Array]]:
    """Makes a pass.

    Returns:
        A function of u [G, B, 64], w [G, J * 64, Q], the directions [J, B, Q], all of
        ``dtype``, and the statistics [G, B, 8] float32, if any. It returns the partial
        sums [J * splits, B, Q] float32, those of one output capsule together; and the
        backward pass also the softmax's statistics [G, B, 8] float32: the logarithm to
        base 2 of its denominator, and the mean of the coefficients' gradients under it.
    """
    B, G, J, Q, chunk = sizes[:5]
    steps = config.groups_per_block
    splits = G // steps
    through_shared = which.directions > 0 and (
        config.scaled_inputs == "shared" or interpret is not None
    )

    def body(u_g, w_g, *refs, u_s, w_s, sums_s, ring_b, **scratch):
        directions_g, refs = refs[: which.directions], refs[which.directions :]
        stats_g, refs = refs[: which.stats_in], refs[which.stats_in :]
        sums_g, stats_out_g = refs[0], refs[1:]
        split = jax.lax.axis_index("split")
        first_j = jax.lax.axis_index("chunk") * chunk
        rows = tile.block_rows(jax.lax.axis_index("rows"))

        def copy(step, slot, barrier):
            g = split * steps + step
            plgpu.copy_gmem_to_smem(u_g.at[g, rows, :], u_s.at[slot], barrier)
            weights = w_g.at[g, pl.ds(first_j * COLUMNS, chunk * COLUMNS)]
            plgpu.copy_gmem_to_smem(weights, w_s.at[slot], barrier)
            for n, stat_g in enumerate(stats_g):
                stat_s = scratch["stats_s"].at[slot, n]
                plgpu.copy_gmem_to_smem(stat_g.at[g, rows, :], stat_s, barrier)

        ring = tile.Ring(config.slots, ring_b, copy)
        ring.start(steps)
        for direction, direction_g in enumerate(directions_g):
            plgpu.copy_gmem_to_smem(
                direction_g.at[pl.ds(first_j, chunk), rows, :],
                scratch["directions_s"].at[direction],
                scratch["directions_b"],
            )
        if directions_g:
            plgpu.barrier_wait(scratch["directions_b"])

        def sum_up(*sums):
            def group(step, _):
                slot = ring.wait(step)
                w = [w_s.at[slot, pl.ds(j * COLUMNS, COLUMNS)] for j in range(chunk)]
                if not which.directions:
                    for j in range(chunk):
                        plgpu.wgmma(sums[j], u_s.at[slot], w[j])
                else:
                    u = tile.in_registers(u_s[slot])
                    k, stats = _coefficients(which, slot, u, w_s, chunk, **scratch)
                    if stats:
                        g = split * steps + step
                        targets = [stat_g.at[g, rows, :] for stat_g in stats_out_g]
                        tile.write_out(stats, scratch["stats_out_s"], targets)
                    for j in range(chunk):
                        x = tile.over_dims(k[j].astype(dtype)) * u
                        _accumulate(sums[j], x, w[j], j, scratch.get("scaled_s"))
                plgpu.wgmma_wait(0)
                ring.refill(step, steps)
                return ()

            jax.lax.fori_loop(0, steps, group, ())
            return [accumulator[...] for accumulator in sums]

        accumulator = plgpu.ACC((ROWS, Q), jnp.float32)
        sums = pl.run_scoped(sum_up, *[accumulator] * chunk)
        for pair in itertools.batched(range(chunk), 2):
            targets = [sums_g.at[(first_j + j) * splits + split, rows, :] for j in pair]
            tile.write_out([sums[j] * which.scale for j in pair], sums_s, targets)
        plgpu.wait_smem_to_gmem(0)

    operand = functools.partial(tile.operand_tile, dtype=dtype, Q=Q)
    scratch = {
        "u_s": operand((config.slots, ROWS, COLUMNS)),
        "w_s": operand((config.slots, chunk * COLUMNS, Q)),
        "sums_s": tile.shared_tile((2, ROWS, Q), jnp.float32),
        "ring_b": plgpu.Barrier(
            num_arrivals=2 + which.stats_in, num_barriers=config.slots
        ),
    }
    if which.directions:
        scratch |= {
            "directions_s": operand((which.directions, chunk, ROWS, Q)),
            "directions_b": plgpu.Barrier(num_arrivals=which.directions),
            "parked_s": tile.shared_tile(
                (which.directions, chunk, ROWS, GROUP), jnp.float32
            ),
        }
    if through_shared:
        scratch["scaled_s"] = operand((_SCALED_SLOTS, ROWS, COLUMNS))
    if which.stats_in:
        scratch["stats_s"] = tile.shared_tile(
            (config.slots, which.stats_in, ROWS, GROUP), jnp.float32
        )
    if which.stats_out:
        scratch["stats_out_s"] = tile.shared_tile((2, ROWS, GROUP), jnp.float32)
    stats_type = jax.ShapeDtypeStruct((G, B, GROUP), jnp.float32)
    return tile.launch(
        body,
        name=which.name,
        grid={"split": splits, "chunk": sizes.chunks, "rows": sizes.row_tiles},
        out_type=[
            jax.ShapeDtypeStruct((J * splits, B, Q), jnp.float32),
            *[stats_type] * which.stats_out,
        ],
        scratch=scratch,
        interpret=interpret,
    )


def _coefficients(which, slot, u, w_s, count, *, directions_s, parked_s, **scratch):
    """Coefficients [64, 8] float32 of each output capsule, and the statistics made."""
    # Converted once: without the barrier the compiler converts at every use.
    u = jax.lax.optimization_barrier(u.astype(jnp.float32))

    def compare(j, top):
        w = w_s.at[slot, pl.ds(j * COLUMNS, COLUMNS)].T
        for n in range(which.directions):
            parked_s[n, j] = tile.dot_dims(u, tile.product(directions_s.at[n, j], w))
        return jnp.maximum(top, tile.in_registers(parked_s[0, j]))

    # A loop and not unrolled, with its results in shared memory: 40 registers fewer.
    # Each thread reads only its own writes, so no barrier is needed between.
    lowest = 0.0 if which.leaky else -1e30
    top = jax.lax.fori_loop(0, count, compare, tile.full(lowest))
    stats: list[jax.Array] = []
    logits = [tile.in_registers(parked_s[0, j]) for j in range(count)]
    if which.normalized:
        log_total = tile.in_registers(scratch["stats_s"][slot, 0])
        c = [jnp.exp2(logit - log_total) for logit in logits]
    else:
        e = [jnp.exp2(logit - top) for logit in logits]
        total = tile.add([*e, jnp.exp2(-top)] if which.leaky else e)
        scale = 1.0 / total
        c = [x * scale for x in e]
    c = jax.lax.optimization_barrier(tuple(c))
    if which.directions == 1:
        return c, stats
    dc = [tile.in_registers(parked_s[1, j]) for j in range(count)]
    if which.normalized:
        mean = tile.in_registers(scratch["stats_s"][slot, 1])
    else:
        mean = tile.add([a * b for a, b in zip(c, dc, strict=True)])
        stats = [top + jnp.log(total) * tile.LOG2E, mean]
    k = tuple(a * (b - mean) for a, b in zip(c, dc, strict=True))
    return jax.lax.optimization_barrier(k), stats


def _accumulate(acc, x, w, n, scaled_s):
    """Adds x @ w to an accumulator; the n-th product of a group."""
    if scaled_s is None:
        x = jax.lax.optimization_barrier(x)
        plgpu.wgmma(acc, x, w)
        # At most one in flight: more operands alive in registers than that, and the
        # assembler makes the products wait for each other (its remark C7512).
        plgpu.wgmma_wait(1)
    else:
        if n > 1:
            plgpu.wgmma_wait(1)
        slot = n % _SCALED_SLOTS
        scaled_s[slot] = x
        plgpu.commit_smem()
        plgpu.wgmma(acc, scaled_s.at[slot], w)
