"""Parts shared by the kernels: tile sizes, the column order, shared-memory tiles.

A tile is 64 batch rows, the M of one warpgroup's matrix product (wgmma), by the 64
columns ``p * 8 + i`` of a group of 8 input capsules i with 8 dimensions p each. In the
register layout of wgmma a thread holds, of each 8 columns, the same two. So with p the
outer index, columns ``8p .. 8p + 7`` of a product are themselves an array [64, 8] over
(example, input capsule) in that layout, and the sum over p adds 8 such arrays: no
thread needs another thread's numbers.
"""

import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.typing import DTypeLike

ROWS = 64  # batch rows of a tile
GROUP = 8  # input capsules of a group
IN_DIM = 8  # P, padded with zeros
COLUMNS = IN_DIM * GROUP
# Logits are kept in units of ln 2, so that the softmax needs exp2 alone, which is one
# instruction: V is multiplied by this before it is rounded to 16 bits.
LOG2E = 1.4426950408889634

_REGISTERS = plgpu.Layout.WGMMA
# Largest shared memory of a block on compute capability 9.0, in bytes.
_MOST_SHARED_BYTES = 232_448
_BARRIER_BYTES = 8

_LOGGER = logging.getLogger(__name__)


class Sizes(NamedTuple):
    """Sizes of a problem that has been padded with zeros to whole tiles.

    Attributes:
        B: examples, a multiple of 64.
        G: groups of 8 input capsules.
        J: output capsules, a multiple of ``chunk``.
        Q: dimensions of an output capsule: 16, 32 or 64.
        chunk: output capsules whose sums one thread block holds in its registers.
        real_outputs: output capsules that are not padding.
    """

    B: int
    G: int
    J: int
    Q: int
    chunk: int
    real_outputs: int

    @property
    def row_tiles(self) -> int:
        """Tiles that the batch has."""
        return self.B // ROWS

    @property
    def chunks(self) -> int:
        """Chunks that the output capsules have."""
        return self.J // self.chunk


def block_rows(tile: Any) -> Any:
    """The slice of a batch dimension that a tile covers."""
    return pl.ds(tile * ROWS, ROWS)


def shared_tile(
    shape: Sequence[int], dtype: DTypeLike, swizzle: int | None = None
) -> Any:
    """A shared-memory array in the order that wgmma and the copy engine need.

    Args:
        shape: the array's shape; the last two dimensions are the tile.
        dtype: the elements' dtype.
        swizzle: bytes; both operands of a product need the same. By default the bytes
            of a row, at most 128.
    """
    itemsize = jnp.dtype(dtype).itemsize
    swizzle = swizzle or min(128, shape[-1] * itemsize)
    return plgpu.SMEM(
        tuple(shape),
        dtype,
        transforms=(
            plgpu.TilingTransform((8, swizzle // itemsize)),  # type: ignore[abstract]
            plgpu.SwizzleTransform(swizzle),  # type: ignore[abstract]
        ),
    )


def operand_tile(shape: Sequence[int], dtype: DTypeLike, Q: int) -> Any:
    """A shared-memory operand of a product: swizzled by the weights' rows of Q."""
    return shared_tile(shape, dtype, swizzle=Q * jnp.dtype(dtype).itemsize)


def in_registers(x: Any) -> Any:
    """A tile in the register layout of wgmma."""
    return plgpu.layout_cast(x, _REGISTERS)


def full(value: float, columns: int = GROUP) -> Any:
    """A constant float32 array [64, columns] in registers."""
    return in_registers(jnp.full((ROWS, columns), value, jnp.float32))


def add(terms: Sequence[Any]) -> Any:
    """Sum of the terms."""
    return functools.reduce(jnp.add, terms)


def beside(parts: Sequence[Any]) -> Any:
    """Arrays [64, n] side by side."""
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)


def over_dims(k: Any) -> Any:
    """Coefficients [64, 8] of (example, input capsule), repeated for each dimension."""
    return beside([k] * IN_DIM)


def dot_dims(u: Any, t: Any) -> Any:
    """Sum over the dimensions p of u * t, both [64, 64]: [64, 8]."""
    product = u * t
    return add([product[:, p * GROUP : (p + 1) * GROUP] for p in range(IN_DIM)])


def product(a: Any, b: Any) -> Any:
    """The matrix product of two shared-memory tiles, [64, 64] float32 in registers."""

    def scope(acc):
        plgpu.wgmma(acc, a, b)
        return acc[...]

    return pl.run_scoped(scope, plgpu.ACC((ROWS, COLUMNS), jnp.float32))


def write_out(arrays: Sequence[Any], shared: Any, targets: Sequence[Any]) -> None:
    """Starts copies from registers to the device's memory, through shared memory.

    Args:
        arrays: arrays in registers.
        shared: shared memory, a tile for each of them.
        targets: references to the device's memory, one for each of them.
    """
    # The copies before must have read the tiles.
    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
    plgpu.commit_smem()
    for n, array in enumerate(arrays):
        shared[n] = array
    plgpu.commit_smem()
    for n, target in enumerate(targets):
        plgpu.copy_smem_to_gmem(shared.at[n], target)


def launch(
    body: Callable[..., None],
    *,
    name: str,
    grid: dict[str, int],
    out_type: Any,
    scratch: dict[str, Any],
    interpret: Any,
) -> Callable[..., Any]:
    """A kernel of one warpgroup per block, without automatic barriers.

    By default Mosaic puts a barrier before and after every access to shared memory,
    dozens in one loop. These kernels place the needed barriers themselves: a
    `plgpu.commit_smem` between stores and their reads through wgmma or the copy engine,
    and before a copy into a buffer that another warp may still read.

    Args:
        body: the function of references to inputs and outputs, and of the scratch by
            keyword.
        name: the kernel's name in profiles and reports.
        grid: sizes of the grid's axes; the last is the fastest.
        out_type: shapes and dtypes of the outputs.
        scratch: shared memory and barriers.
        interpret: parameters of the interpreter, or None for a GPU.

    Raises:
        NotImplementedError: the scratch exceeds a block's shared memory.
    """
    needed = sum(map(_shared_bytes, scratch.values()))
    _LOGGER.debug("kernel %s: grid %s, %d bytes shared", name, grid, needed)
    if needed > _MOST_SHARED_BYTES:
        raise NotImplementedError(
            f"kernel {name} needs {needed} bytes of shared memory, and a block has "
            f"{_MOST_SHARED_BYTES}; its config must be smaller"
        )
    return plgpu.kernel(
        body,
        out_type=out_type,
        scratch_types=scratch,
        grid=tuple(grid.values()),
        grid_names=tuple(grid),
        num_threads=1,
        thread_name="warpgroup",
        kernel_name=name,
        interpret=interpret,
        compiler_params=plgpu.CompilerParams(
            approx_math=True, unsafe_no_auto_barriers=True
        ),
    )


def _shared_bytes(scratch: Any) -> int:
    if isinstance(scratch, plgpu.Barrier):
        return _BARRIER_BYTES * math.prod(scratch.num_barriers)  # type: ignore[arg-type]
    return math.prod(scratch.shape) * jnp.dtype(scratch.dtype).itemsize


@dataclasses.dataclass(frozen=True)
class Ring:
    """Buffers that the copy engine fills ahead of the loop that reads them.

    The slot is ``step % slots``, which changes with the loop: for a fixed buffer the
    compiler would compute all the descriptors of its products (64 bits each) before the
    loop and keep them in registers, which then spill.

    Attributes:
        slots: number of buffers.
        barriers: barriers, one for each slot.
        copy: function ``copy(step, slot, barrier)`` that starts the copies of a step.
    """

    slots: int
    barriers: Any
    copy: Callable[[Any, Any, Any], None]

    def start(self, steps: int) -> None:
        """Starts the copies of the first steps."""
        for step in range(min(self.slots, steps)):
            self.copy(step, step, self.barriers.at[step])

    def wait(self, step: Any) -> Any:
        """Waits for a step's data and returns its slot."""
        slot = jax.lax.rem(step, jnp.int32(self.slots))
        plgpu.barrier_wait(self.barriers.at[slot])
        return slot

    def refill(self, step: Any, steps: int) -> None:
        """Starts the copies of the next step into the slot that was just read."""
        if steps <= self.slots:
            return
        # One thread starts the copy; all threads must have read the slot.
        plgpu.commit_smem()

        @pl.when(step + self.slots < steps)
        def _():
            slot = jax.lax.rem(step, jnp.int32(self.slots))
            self.copy(step + self.slots, slot, self.barriers.at[slot])
