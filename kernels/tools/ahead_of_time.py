"""Compiles for an H200 on a machine without a GPU, and reads the assembler's report.

Needs the packages of the extra ``gpu-compile`` in a separate environment: where they
are installed, JAX complains about the missing GPU whenever it starts. Registers, spills
and the compiler's remarks come from the assembler's own output, which must be requested
before JAX is imported; see `environment`.
"""

import logging
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from kernels import gpu

DEVICE_KIND = "NVIDIA H200"

_TARGET = pathlib.Path(__file__).parent / "targets" / "nvidia_h200.txtpb"
_DUMP = "MOSAIC_GPU_DUMP_PTXAS"


class Kernel(NamedTuple):
    """The assembler's report on a kernel.

    Attributes:
        registers: registers of each thread.
        spilled_bytes: bytes stored to and loaded from memory for lack of registers.
        shared_bytes: shared memory of a block.
    """

    registers: int
    spilled_bytes: int
    shared_bytes: int


def largest(kernels: Iterable[Kernel]) -> Kernel:
    """The maximum of each number."""
    return Kernel(*map(max, zip(*kernels, strict=True)))


class Compilation(NamedTuple):
    """A function compiled for an H200.

    Attributes:
        kernels: kernels by name; of several with one name, the largest numbers. Of
            equal kernels in one process only the first is reported.
        serialized: whether the assembler made matrix products wait for each other.
        temp_bytes: XLA's temporaries in the device's memory.
        text: text of the optimized program.
    """

    kernels: dict[str, Kernel]
    serialized: bool
    temp_bytes: int
    text: str


def environment() -> dict[str, str]:
    """Environment variables with which a process that compiles must be started."""
    return {
        **os.environ,
        _DUMP: "1",
        "JAX_PLATFORMS": "cpu",
        "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
    }


def mesh(num_devices: int) -> Mesh:
    """A mesh of absent H200s with the axis ``data``."""
    topology = topologies.get_topology_desc(
        platform="cuda",
        target_config=_TARGET.read_text(),
        topology=f"1x1x{num_devices}",
    )
    return Mesh(topology.devices, ("data",), axis_types=(AxisType.Auto,))


def compile_for_h200(
    function: Callable[..., Any],
    arguments: Sequence[jax.ShapeDtypeStruct],
    *,
    mesh: Mesh,
    specs: Sequence[PartitionSpec] | None = None,
) -> Compilation:
    """Compiles ``jax.jit(function)`` for arguments of these shapes and dtypes.

    ``specs`` places each argument on the mesh; by default they are replicated.

    Raises:
        RuntimeError: this process was not started with `environment`.
    """
    if _DUMP not in os.environ:
        raise RuntimeError(f"{_DUMP} must be set before JAX is imported")
    specs = specs or [PartitionSpec()] * len(arguments)
    placed = [
        jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))
        for x, spec in zip(arguments, specs, strict=True)
    ]
    shared: dict[str, int] = {}
    with gpu.ahead_of_time(DEVICE_KIND), _logged_kernels(shared), _output() as output:
        compiled = jax.jit(function).lower(*placed).compile()
    memory: Any = compiled.memory_analysis()
    report = output[0]
    return Compilation(
        kernels=_kernels(report, shared),
        serialized="C7512" in report,
        temp_bytes=memory.temp_size_in_bytes,
        text=compiled.as_text() or "",
    )


def _kernels(report: str, shared: dict[str, int]) -> dict[str, Kernel]:
    kernels: dict[str, Kernel] = {}
    # A kernel's report begins with its name and ends where the next one begins.
    for entry in report.split("Compiling entry function '")[1:]:
        name = entry.split("'")[0].removesuffix("_mosaic_gpu_kernel")
        registers = re.search(r"Used (\d+) registers", entry)
        spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", entry)
        if name in shared and registers and spills:
            spilled = int(spills[1]) + int(spills[2])
            kernel = Kernel(int(registers[1]), spilled, shared[name])
            kernels[name] = largest([kernel, kernels.get(name, kernel)])
    return kernels


@contextmanager
def _logged_kernels(shared: dict[str, int]) -> Iterator[None]:
    """Records the shared memory of each kernel that is built in the context."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if isinstance(record.args, tuple) and "bytes shared" in record.msg:
                name, _, size = record.args
                shared[str(name)] = max(int(str(size)), shared.get(str(name), 0))

    logger, handler = logging.getLogger("kernels"), Handler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def _output() -> Iterator[list[str]]:
    """Captures all output of the process in the context, not only Python's."""
    caught: list[str] = []
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        saved = {stream: os.dup(stream) for stream in (1, 2)}
        try:
            for stream in saved:
                os.dup2(file.fileno(), stream)
            yield caught
        finally:
            for stream, old in saved.items():
                os.dup2(old, stream)
                os.close(old)
        file.seek(0)
        caught.append(file.read().decode(errors="replace"))
