"""The last kernel of the backward pass: gradients of the inputs and the weights.

With all else known, V^t, ds^t and the softmax's statistics of each iteration t::

    du_bip  = sum_jt  c_bij T(ds)_bijp + dlogits_bij T(V)_bijp
    dW_ijqp = sum_bt  ds_bjq c_bij u_bip + V_bjq dlogits_bij u_bip

A block takes one group of input capsules, a chunk of output capsules and some tiles of
the batch. The gradient of its weights stays in registers to the end; that of the inputs
is complete, but for the other chunks, after each tile. Since the statistics are given,
an output capsule's coefficients depend on no other capsule: one walk over j computes
T(V) and T(ds), the coefficients from them, and their share of both gradients.
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
from kernels.routing.dynamic.mosaic_gpu.tile import COLUMNS, GROUP, LOG2E, ROWS, Sizes

_SLOTS = 2  # of the ring of terms


class Terms(NamedTuple):
    """The terms of the sums over the iterations.

    Attributes:
        uniform: whether the first iteration, whose c is the same for all, has a term.
        coupled: the number of iterations after it that have terms.
        through_coupling: whether these include the terms with dlogits.
    """

    uniform: bool
    coupled: int
    through_coupling: bool


def operand_gradients(
    terms: Terms, sizes: Sizes, config: Config, dtype: DTypeLike, interpret: Any
) -> Callable[..., list[jax.Array]]:
    """Makes the kernel.

    Returns:
        A function of u [G, B, 64] and w [G, J * 64, Q]; with the uniform term, of
        c * ds [J, B, Q]; and for each coupled term, of its V * log2(e) and ds
        [J, B, Q], the logarithm to base 2 of the softmax's denominator [G, B, 8], and
        through the coupling also the mean of dc, alike. All are ``dtype`` but the last
        two, which are float32.

        It returns du [chunks * G, B, 64], to be summed over the chunks of
        ``config.final_chunk`` output capsules, and dw [row_blocks * G * J * 64, Q], to
        be summed over the row blocks; float32.
    """
    B, G, J, Q = sizes[:4]
    chunk, row_blocks = config.final_chunk, config.final_row_blocks
    tiles = sizes.row_tiles // row_blocks
    steps = tiles * terms.coupled
    num_stats = 1 + terms.through_coupling

    def body(zero_g, u_g, w_g, *refs, u_s, w_s, dw_s, weights_b, tile_b, **scratch):
        *inputs_g, du_g, dw_g = refs
        uniform_g = inputs_g[: int(terms.uniform)]
        coupled_g = list(itertools.batched(inputs_g[len(uniform_g) :], 2 + num_stats))
        g, c = jax.lax.axis_index("group"), jax.lax.axis_index("chunk")
        first_tile = jax.lax.axis_index("rows") * tiles
        outputs = pl.ds(c * chunk, chunk)
        # Zero, but the compiler does not know it: see `tile.Ring` on fixed buffers.
        zero = zero_g[0]

        def copy_tile(row_tile, slot, barrier):
            rows = tile.block_rows(first_tile + row_tile)
            plgpu.copy_gmem_to_smem(u_g.at[g, rows, :], u_s.at[slot], barrier)
            for x_g in uniform_g:
                target = scratch["uniform_s"].at[slot]
                plgpu.copy_gmem_to_smem(x_g.at[outputs, rows, :], target, barrier)

        def copy_term(step, slot, barrier):
            row_tile = jax.lax.div(step, jnp.int32(terms.coupled))
            rows = tile.block_rows(first_tile + row_tile)

            def copy(V_g, ds_g, *stats_g):
                for n, x_g in enumerate((V_g, ds_g)):
                    target = scratch["directions_s"].at[slot, n]
                    plgpu.copy_gmem_to_smem(x_g.at[outputs, rows, :], target, barrier)
                for n, x_g in enumerate(stats_g):
                    target = scratch["stats_s"].at[slot, n]
                    plgpu.copy_gmem_to_smem(x_g.at[g, rows, :], target, barrier)

            term = jax.lax.rem(step, jnp.int32(terms.coupled))
            for index, arrays_g in enumerate(coupled_g):
                pl.when(term == index)(functools.partial(copy, *arrays_g))

        weights_g = w_g.at[g, pl.ds(c * (chunk * COLUMNS), chunk * COLUMNS)]
        plgpu.copy_gmem_to_smem(weights_g, w_s.at[0], weights_b)
        tile_ring = tile.Ring(1, tile_b, copy_tile)
        tile_ring.start(tiles)
        term_ring = tile.Ring(_SLOTS, scratch.get("term_b"), copy_term)
        if terms.coupled:
            term_ring.start(steps)
        plgpu.barrier_wait(weights_b)

        def scope(*dw):
            def one_tile(row_tile, _):
                slot = tile_ring.wait(row_tile) + row_tile * zero
                u = tile.in_registers(u_s[slot])
                if terms.uniform:
                    directions_s = scratch["uniform_s"].at[slot]
                    du = _uniform_term(dw, u_s.at[slot], w_s.at[slot], directions_s)
                else:
                    du = tile.full(0, COLUMNS)
                tile_ring.refill(row_tile, tiles)

                def term(index, du):
                    step = row_tile * terms.coupled + index
                    slot = term_ring.wait(step)
                    du = _coupled_term(
                        du,
                        dw,
                        u,
                        w_s.at[step * zero],
                        scratch["directions_s"].at[slot],
                        scratch["stats_s"].at[slot],
                        scratch["parked_s"],
                        scratch["scaled_s"].at[step * zero],
                        terms.through_coupling,
                    )
                    term_ring.refill(step, steps)
                    return du

                if terms.coupled:
                    du = jax.lax.fori_loop(0, terms.coupled, term, du)
                du_g[c * G + g, tile.block_rows(first_tile + row_tile), :] = du
                return ()

            jax.lax.fori_loop(0, tiles, one_tile, ())
            return [accumulator[...] for accumulator in dw]

        dw = pl.run_scoped(scope, *[plgpu.ACC((COLUMNS, Q), jnp.float32)] * chunk)
        part = jax.lax.axis_index("rows") * G + g
        for j in range(chunk):
            first = (part * J + c * chunk + j) * COLUMNS
            tile.write_out([dw[j]], dw_s, [dw_g.at[pl.ds(first, COLUMNS), :]])
        plgpu.wait_smem_to_gmem(0)

    operand = functools.partial(tile.operand_tile, dtype=dtype, Q=Q)
    scratch = {
        "u_s": operand((1, ROWS, COLUMNS)),
        "w_s": operand((1, chunk * COLUMNS, Q)),
        "dw_s": tile.shared_tile((1, COLUMNS, Q), jnp.float32),
        "weights_b": plgpu.Barrier(),
        "tile_b": plgpu.Barrier(num_arrivals=1 + terms.uniform, num_barriers=1),
    }
    if terms.uniform:
        scratch["uniform_s"] = operand((1, chunk, ROWS, Q))
    if terms.coupled:
        stats_shape = (_SLOTS, num_stats, ROWS, GROUP)
        scratch |= {
            "directions_s": operand((_SLOTS, 2, chunk, ROWS, Q)),
            "stats_s": tile.shared_tile(stats_shape, jnp.float32),
            "parked_s": tile.shared_tile((chunk, ROWS, 2 * GROUP), dtype),
            "scaled_s": operand((1, 2, ROWS, COLUMNS)),
            "term_b": plgpu.Barrier(num_arrivals=2 + num_stats, num_barriers=_SLOTS),
        }
    kernel = tile.launch(
        body,
        name="routing_operand_gradients",
        grid={"group": G, "rows": row_blocks, "chunk": J // chunk},
        out_type=[
            jax.ShapeDtypeStruct((J // chunk * G, B, COLUMNS), jnp.float32),
            jax.ShapeDtypeStruct((row_blocks * G * J * COLUMNS, Q), jnp.float32),
        ],
        scratch=scratch,
        interpret=interpret,
    )
    return functools.partial(kernel, jnp.zeros((1,), jnp.int32))


def _uniform_term(dw, u_s, w_s, directions_s) -> Any:
    """Du = sum_j (c ds)_j w_j and dw_j += u^T (c ds)_j, with c in the directions."""

    def scope(du):
        for j in range(len(dw)):
            plgpu.wgmma(du, directions_s.at[j], w_s.at[pl.ds(j * COLUMNS, COLUMNS)].T)
        for j, acc in enumerate(dw):
            plgpu.wgmma(acc, u_s.T, directions_s.at[j])
        return du[...]

    return pl.run_scoped(scope, plgpu.ACC((ROWS, COLUMNS), jnp.float32))


def _coupled_term(
    du, dw, u, w_s, directions_s, stats_s, parked_s, scaled_s, through_coupling
) -> Any:
    """Adds one iteration's terms to dw, and to du, which it returns."""
    dtype = u.dtype
    u_wide = jax.lax.optimization_barrier(u.astype(jnp.float32))
    log_total = tile.in_registers(stats_s[0])

    # A loop and not unrolled, for the registers. So it cannot choose among accumulators
    # and parks the coefficients, each thread its own, for the products with them.
    def walk(j, du):
        w = w_s.at[pl.ds(j * COLUMNS, COLUMNS)].T
        T = tile.product(directions_s.at[0, j], w)
        R = tile.product(directions_s.at[1, j], w)
        c = jnp.exp2(tile.dot_dims(u_wide, T) - log_total)
        du = du + tile.over_dims(c) * R
        coefficients = [c]
        if through_coupling:
            # V, and so T, holds a factor log2(e).
            mean = tile.in_registers(stats_s[1])
            dlogits = c * (tile.dot_dims(u_wide, R) - mean) * (1 / LOG2E)
            du = du + tile.over_dims(dlogits) * T
            coefficients.append(dlogits)
        # Rows of 16 bytes cannot be swizzled, so a lone c is stored twice.
        pair = (coefficients * 2)[:2]
        parked_s[j] = tile.beside([k.astype(dtype) for k in pair])
        return du

    du = jax.lax.fori_loop(0, len(dw), walk, du)
    n = 0
    for j, acc in enumerate(dw):
        parked = tile.in_registers(parked_s[j])
        # c goes with ds, dlogits with V.
        for k in range(1 + through_coupling):
            x = tile.over_dims(parked[:, k * GROUP : (k + 1) * GROUP]) * u
            # All warps read all rows of a slot. It is free when each has waited for the
            # product of two before, and then passed the barrier of the last.
            plgpu.wgmma_wait(0)
            scaled_s[n % 2] = x
            plgpu.commit_smem()
            plgpu.wgmma(acc, scaled_s.at[n % 2].T, directions_s.at[1 - k, j])
            n += 1
    plgpu.wgmma_wait(0)
    return du
