"""The routing op as compiled for an H200, without one.

python -m kernels.routing.dynamic.compile_check WORKLOAD BATCH DTYPE

prints one line of JSON. It must be started with the variables of
`kernels.tools.ahead_of_time.environment`, by a Python that has the packages to compile
with; `check` does so.
"""

import dataclasses
import functools
import json
import pathlib
import subprocess
import sys
import time
from typing import Any, NamedTuple

import jax

from kernels.routing.dynamic.api import route
from kernels.routing.dynamic.mosaic_gpu import config as configs
from kernels.routing.dynamic.workloads import WORKLOADS, Workload
from kernels.tools import ahead_of_time
from kernels.tools.ahead_of_time import Kernel, largest

CUSTOM_CALL = 'custom_call_target="mosaic_gpu_v2"'

_ROOT = pathlib.Path(__file__).parents[3]


class Program(NamedTuple):
    """Costs of a compiled program.

    Attributes:
        temp_bytes: XLA's temporaries in the device's memory.
        custom_calls: number of fused kernels that it runs.
        compile_s: seconds of tracing and compiling.
    """

    temp_bytes: int
    custom_calls: int
    compile_s: float


class Programs(NamedTuple):
    """Programs for the poses, and for both the poses and all gradients."""

    forward: Program
    both: Program


class Check(NamedTuple):
    """The results for a workload.

    Attributes:
        config: config of the fused kernels, as chosen for an H200.
        kernels: kernels by name; of several with one name, the largest numbers.
        serialized: whether the assembler made matrix products wait for each other.
        fused: programs of the fused implementation.
        textbook: programs of the reference.
        jax: the version of JAX that compiled them.
    """

    workload: str
    sizes: Workload
    batch: int
    dtype: str
    config: dict[str, Any]
    kernels: dict[str, Kernel]
    serialized: bool
    fused: Programs
    textbook: Programs
    jax: str


def check(
    workload: str, batch: int, dtype: str, *, python: str = sys.executable
) -> Check:
    """Compiles a named workload's programs in another process.

    ``python`` is an interpreter with the packages to compile with.

    Raises:
        RuntimeError: the process failed; with the end of its error output.
    """
    found = run_child(python, __name__, workload, str(batch), dtype)
    found["sizes"] = Workload(**found["sizes"])
    found["kernels"] = {name: Kernel(**x) for name, x in found["kernels"].items()}
    for name in ("fused", "textbook"):
        programs = {key: Program(**x) for key, x in found[name].items()}
        found[name] = Programs(**programs)
    return Check(**found)


def has_compiler(python: str) -> bool:
    """Returns whether an interpreter has the packages to compile with."""
    command = [python, "-c", "import jax_cuda13_plugin, jaxtyping"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def run_child(python: str, module: str, *arguments: str) -> Any:
    """The JSON on the last line of the output of ``python -m module arguments``.

    Runs in this checkout, with the variables that compiling ahead of time needs.

    Raises:
        RuntimeError: the process failed; with the end of its error output.
    """
    process = subprocess.run(
        [python, "-m", module, *arguments],
        cwd=_ROOT,
        env=ahead_of_time.environment() | {"PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode != 0:
        tail = "\n".join(process.stderr.strip().splitlines()[-15:])
        raise RuntimeError(
            f"{module} {' '.join(arguments)} exited with {process.returncode}:\n{tail}"
        )
    return json.loads(process.stdout.splitlines()[-1])


def to_json(found: Any) -> Any:
    """Named tuples as dictionaries, at any depth."""
    if hasattr(found, "_asdict"):
        found = found._asdict()
    if isinstance(found, dict):
        return {name: to_json(x) for name, x in found.items()}
    return found


def _compile(workload: str, batch: int, dtype: str) -> Check:
    """Returns the result of `check`, in this process."""
    sizes = WORKLOADS[workload]
    I, P, J, Q, *_ = sizes
    inputs, weights, bias, gradient = (
        jax.ShapeDtypeStruct(shape, dtype)
        for shape in [(batch, I, P), (I, J, Q, P), (J, Q), (batch, J, Q)]
    )
    mesh = ahead_of_time.mesh(1)
    kernels: dict[str, Kernel] = {}
    serialized = False

    def compile_programs(implementation: str) -> Programs:
        forward = functools.partial(
            route, **sizes.options, implementation=implementation
        )

        def both(gradient, *arguments):
            poses, pullback = jax.vjp(forward, *arguments)
            return poses, pullback(gradient)

        # The assembler reports only the first of equal kernels in one process, so the
        # program that has all of them comes first.
        return Programs(
            both=compile_program(both, gradient, inputs, weights, bias),
            forward=compile_program(forward, inputs, weights, bias),
        )

    def compile_program(function, *arguments) -> Program:
        nonlocal serialized
        start = time.perf_counter()
        compiled = ahead_of_time.compile_for_h200(function, arguments, mesh=mesh)
        seconds = time.perf_counter() - start
        for name, kernel in compiled.kernels.items():
            kernels[name] = largest([kernel, kernels.get(name, kernel)])
        serialized |= compiled.serialized
        return Program(compiled.temp_bytes, compiled.text.count(CUSTOM_CALL), seconds)

    problem = configs.Problem.of(inputs, weights)
    config = configs.choose(problem, ahead_of_time.DEVICE_KIND)
    return Check(
        workload=workload,
        sizes=sizes,
        batch=batch,
        dtype=dtype,
        config=dataclasses.asdict(config),
        fused=compile_programs("mosaic_gpu"),
        textbook=compile_programs("reference"),
        kernels=kernels,
        serialized=serialized,
        jax=jax.__version__,
    )


if __name__ == "__main__":
    name, batch, dtype = sys.argv[1:]
    print(json.dumps(to_json(_compile(name, int(batch), dtype))))
