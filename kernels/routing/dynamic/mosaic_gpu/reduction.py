"""The small kernels between the passes: partial sums, squash, the sum of poses V.

Each block takes one output capsule and 64 examples, adds up the partial sums that a
pass left, and computes the next pass's operands.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.typing import DTypeLike

from kernels.routing.dynamic.mosaic_gpu import tile
from kernels.routing.dynamic.mosaic_gpu.tile import LOG2E, ROWS, Sizes

# The ring that brings in the partial sums.
_SLOTS = 2
_SLOT_BYTES = 48 * 1024
# Keeps 1 / |s| finite at s = 0, where its factor is zero.
_TINY = 1e-30


def reduce_poses(
    sizes: Sizes, splits: int, dtype: DTypeLike, interpret: Any
) -> Callable[..., list[jax.Array]]:
    """Makes the kernel after a pass of the forward computation.

    It computes::

        s = bias + sum of parts;  v = squash(s);  V_next = V + v

    Returns:
        A function of the parts [J * splits, B, Q], the bias [J, 64, Q], repeated for
        each row of a tile, and V [J, B, Q], all float32. It returns s and V_next
        [J, B, Q] float32, V_next * log2(e) [J, B, Q] in ``dtype``, and v [B, J, Q]
        float32.
    """
    B, _, J, Q, *_ = sizes

    def body(parts_g, bias_g, V_g, s_g, V_next_g, operand_g, poses_g, **scratch):
        f32_s, operand_s = scratch["f32_s"], scratch["operand_s"]
        j, rows = _block()
        plgpu.copy_gmem_to_smem(bias_g.at[j], f32_s.at[0], scratch["inputs_b"])
        plgpu.copy_gmem_to_smem(V_g.at[j, rows, :], f32_s.at[1], scratch["inputs_b"])
        total = _sum_parts(parts_g, splits, **scratch)
        s = total + tile.in_registers(f32_s[0])
        square = jnp.sum(s * s, axis=1)
        scale = jnp.sqrt(square) / (1.0 + square)
        v = s * _per_row(scale, Q)
        V = tile.in_registers(f32_s[1]) + v
        # Each thread overwrites what it alone has read.
        f32_s[0], f32_s[1], f32_s[2] = s, V, v
        operand_s[...] = (V * LOG2E).astype(dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(f32_s.at[0], s_g.at[j, rows, :])
        plgpu.copy_smem_to_gmem(f32_s.at[1], V_next_g.at[j, rows, :])
        plgpu.copy_smem_to_gmem(operand_s, operand_g.at[j, rows, :])
        plgpu.copy_smem_to_gmem(f32_s.at[2], poses_g.at[rows, j, :])
        plgpu.wait_smem_to_gmem(0)

    wide = jax.ShapeDtypeStruct((J, B, Q), jnp.float32)
    return _launch(
        body,
        "routing_reduce_poses",
        sizes,
        splits,
        dtype,
        out_type=[
            wide,
            wide,
            jax.ShapeDtypeStruct((J, B, Q), dtype),
            jax.ShapeDtypeStruct((B, J, Q), jnp.float32),
        ],
        interpret=interpret,
    )


def reduce_gradients(
    sizes: Sizes, splits: int, dtype: DTypeLike, interpret: Any
) -> Callable[..., list[jax.Array]]:
    """Makes the kernel after a pass of the backward computation.

    It computes::

        D_next = D + sum of parts;  ds = squash's VJP at s of D_next

    With n = |s| and f(n) = n / (1 + n^2), squash(s) = f(n) s, so
    ``ds = f(n) D + f'(n) / n (s . D) s`` with ``f'(n) = (1 - n^2) / (1 + n^2)^2``.

    Returns:
        A function of the parts [J * splits, B, Q], D and s [J, B, Q], all float32. It
        returns D_next and ds [J, B, Q] float32, and ds in ``dtype``.
    """
    B, _, J, Q, *_ = sizes

    def body(parts_g, D_g, s_g, D_next_g, ds_g, operand_g, **scratch):
        f32_s, operand_s = scratch["f32_s"], scratch["operand_s"]
        j, rows = _block()
        plgpu.copy_gmem_to_smem(D_g.at[j, rows, :], f32_s.at[0], scratch["inputs_b"])
        plgpu.copy_gmem_to_smem(s_g.at[j, rows, :], f32_s.at[1], scratch["inputs_b"])
        total = _sum_parts(parts_g, splits, **scratch)
        D = total + tile.in_registers(f32_s[0])
        s = tile.in_registers(f32_s[1])
        square = jnp.sum(s * s, axis=1)
        along = jnp.sum(s * D, axis=1)
        inverse = 1.0 / (1.0 + square)
        length_inverse = jax.lax.rsqrt(square + _TINY)
        slope = (1.0 - square) * inverse * inverse * length_inverse
        ds = (
            _per_row(jnp.sqrt(square) * inverse, Q) * D + _per_row(slope * along, Q) * s
        )
        # Each thread overwrites what it alone has read.
        f32_s[0], f32_s[1] = D, ds
        operand_s[...] = ds.astype(dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(f32_s.at[0], D_next_g.at[j, rows, :])
        plgpu.copy_smem_to_gmem(f32_s.at[1], ds_g.at[j, rows, :])
        plgpu.copy_smem_to_gmem(operand_s, operand_g.at[j, rows, :])
        plgpu.wait_smem_to_gmem(0)

    wide = jax.ShapeDtypeStruct((J, B, Q), jnp.float32)
    return _launch(
        body,
        "routing_reduce_gradients",
        sizes,
        splits,
        dtype,
        out_type=[wide, wide, jax.ShapeDtypeStruct((J, B, Q), dtype)],
        interpret=interpret,
    )


def _block() -> tuple[Any, Any]:
    """The output capsule and the rows of this block."""
    return jax.lax.axis_index("j"), tile.block_rows(jax.lax.axis_index("rows"))


def _per_row(x: Any, Q: int) -> Any:
    return jax.lax.broadcast_in_dim(x, (ROWS, Q), [0])


def _parts_per_step(splits: int, Q: int) -> int:
    most = _SLOT_BYTES // (4 * ROWS * Q)
    return max(n for n in range(1, most + 1) if splits % n == 0)


def _sum_parts(parts_g, splits, *, parts_s, ring_b, inputs_b, **_) -> Any:
    """Sums the block's parts and waits for its other inputs."""
    j, rows = _block()
    parts, steps = parts_s.shape[1], splits // parts_s.shape[1]

    def copy(step, slot, barrier):
        first = j * splits + step * parts
        plgpu.copy_gmem_to_smem(
            parts_g.at[pl.ds(first, parts), rows, :], parts_s.at[slot], barrier
        )

    ring = tile.Ring(_SLOTS, ring_b, copy)
    ring.start(steps)

    def add(step, total):
        slot = ring.wait(step)
        for part in range(parts):
            total = total + tile.in_registers(parts_s[slot, part])
        ring.refill(step, steps)
        return total

    total = jax.lax.fori_loop(0, steps, add, tile.full(0, parts_s.shape[-1]))
    plgpu.barrier_wait(inputs_b)
    return total


def _launch(body, name, sizes, splits, dtype, *, out_type, interpret):
    Q, parts = sizes.Q, _parts_per_step(splits, sizes.Q)
    return tile.launch(
        body,
        name=name,
        grid={"j": sizes.J, "rows": sizes.row_tiles},
        out_type=out_type,
        scratch={
            "parts_s": tile.shared_tile((_SLOTS, parts, ROWS, Q), jnp.float32),
            "f32_s": tile.shared_tile((3, ROWS, Q), jnp.float32),
            "operand_s": tile.operand_tile((ROWS, Q), dtype, Q),
            "ring_b": plgpu.Barrier(num_barriers=_SLOTS),
            "inputs_b": plgpu.Barrier(num_arrivals=2),
        },
        interpret=interpret,
    )
