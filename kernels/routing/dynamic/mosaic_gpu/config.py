"""The kernels' division of the work: choices, a heuristic, measured entries."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from kernels.routing.dynamic.mosaic_gpu import layout
from kernels.routing.dynamic.mosaic_gpu.tile import Sizes

# One file for each device kind, written by `python -m experiments.benchmark_routing
# --tune`.
_TUNED = pathlib.Path(__file__).parent / "tuned"


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the kernels; none of them changes results beyond rounding.

    Attributes:
        groups_per_block: groups of 8 input capsules that a thread block of a pass sums
            over. The more, the fewer partial sums to write and read again, and the
            fewer blocks to fill the device with.
        slots: buffers of the ring through which a pass streams inputs and weights.
        scaled_inputs: the place where a pass keeps ``c * u``, the left operand of its
            sums. ``"registers"`` saves the way through shared memory; the interpreter
            does not support it and uses ``"shared"``.
        final_chunk: output capsules of a block of the last kernel of the backward pass;
            divides the chunk of the passes.
        final_row_blocks: blocks among which that kernel divides the batch; each writes
            separate weight gradients, which are then summed. Divides the number of
            tiles of 64 examples.
    """

    groups_per_block: int
    slots: int
    scaled_inputs: Literal["registers", "shared"]
    final_chunk: int
    final_row_blocks: int


class Problem(NamedTuple):
    """The op's sizes and dtype, on which the choice depends."""

    B: int
    I: int
    P: int
    J: int
    Q: int
    dtype: str

    @classmethod
    def of(cls, inputs: Any, weights: Any) -> "Problem":
        """From the op's arguments, or anything with their shapes and dtypes."""
        B, I, P = inputs.shape
        J, Q = weights.shape[1:3]
        return cls(B, I, P, J, Q, str(jnp.dtype(inputs.dtype)))

    def sizes(self, config: Config | None = None) -> Sizes:
        """Returns the sizes padded to whole tiles and, given a config, whole blocks."""
        multiple = 1 if config is None else config.groups_per_block
        return layout.padded_sizes(self.B, self.I, self.J, self.Q, multiple)


def choose(problem: Problem, device_kind: str) -> Config:
    """The measured config of a problem on a device kind, or else the heuristic's."""
    return tuned(device_kind).get(problem) or heuristic(problem)


# The heuristic's model: an H100 or H200 with two blocks on each multiprocessor (most
# kernels' registers and memory allow it). The times are estimates from instruction
# counts and bandwidths, in microseconds; only their order matters.
_BLOCKS_AT_ONCE = 2 * 132
_PASS_STEP_US = 1.5
_FINAL_STEP_US = 3.0
_BYTES_PER_US = 3e6
# Float32 columns of weight gradients that let two blocks of the last kernel share a
# multiprocessor.
_FINAL_COLUMNS = 112


def heuristic(problem: Problem) -> Config:
    """The config with the least estimated time."""
    sizes = problem.sizes()

    def pass_time(groups: int) -> float:
        splits = -(-sizes.G // groups)
        parts_bytes = 8 * splits * sizes.J * sizes.B * sizes.Q
        blocks = splits * sizes.chunks * sizes.row_tiles
        return _waves(blocks) * groups * _PASS_STEP_US + parts_bytes / _BYTES_PER_US

    final_chunk = max(_final_chunks(sizes))

    def final_time(row_blocks: int) -> float:
        blocks = sizes.G * (sizes.J // final_chunk) * row_blocks
        tiles = sizes.row_tiles // row_blocks
        dw_bytes = 8 * row_blocks * sizes.G * sizes.J * 64 * sizes.Q
        return _waves(blocks) * tiles * _FINAL_STEP_US + dw_bytes / _BYTES_PER_US

    return Config(
        groups_per_block=min(_groups_per_block(sizes), key=pass_time),
        slots=2,
        scaled_inputs="registers",
        final_chunk=final_chunk,
        final_row_blocks=min(_divisors(sizes.row_tiles), key=final_time),
    )


def candidates(problem: Problem) -> Iterator[Config]:
    """Configs worth measuring: each choice for the passes, each for the last kernel.

    The two do not influence each other, so one is varied while the other is the
    heuristic's.
    """
    start, sizes = heuristic(problem), problem.sizes()
    yield start
    for groups in _groups_per_block(sizes):
        for slots in (2, 3):
            for scaled_inputs in ("registers", "shared"):
                yield dataclasses.replace(
                    start,
                    groups_per_block=groups,
                    slots=slots,
                    scaled_inputs=scaled_inputs,
                )
    for final_chunk in _divisors(sizes.chunk):
        for row_blocks in _divisors(sizes.row_tiles):
            yield dataclasses.replace(
                start, final_chunk=final_chunk, final_row_blocks=row_blocks
            )


@functools.cache
def tuned(device_kind: str) -> dict[Problem, Config]:
    """The measured configs of a device kind; empty if it has no file."""
    path = tuned_path(device_kind)
    if not path.exists():
        return {}
    return {
        Problem(**entry["problem"]): Config(**entry["config"])
        for entry in json.loads(path.read_text())
    }


def tuned_path(device_kind: str) -> pathlib.Path:
    """The file of a device kind's measured configs."""
    return _TUNED / f"{device_kind.lower().replace(' ', '_')}.json"


def save_tuned(device_kind: str, found: dict[Problem, Config]) -> pathlib.Path:
    """Adds measured configs to the device kind's file; new ones replace old ones."""
    entries = tuned(device_kind) | found
    path = tuned_path(device_kind)
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        json.dumps(
            [
                {"problem": problem._asdict(), "config": dataclasses.asdict(config)}
                for problem, config in sorted(entries.items())
            ],
            indent=1,
        )
        + "\n"
    )
    tuned.cache_clear()
    return path


def _waves(blocks: int) -> int:
    return -(-blocks // _BLOCKS_AT_ONCE)


def _groups_per_block(sizes: Sizes) -> list[int]:
    """Numbers of groups that pad the input capsules by at most an eighth."""
    return [n for n in range(1, min(sizes.G, 64) + 1) if 8 * (-sizes.G % n) <= sizes.G]


def _final_chunks(sizes: Sizes) -> list[int]:
    """Chunks for the last kernel, of which the largest is the best guess."""
    small = [n for n in _divisors(sizes.chunk) if n * sizes.Q <= _FINAL_COLUMNS]
    return small if max(small) > 1 else [sizes.chunk]


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
