"""What the compiler makes of the routing op on an H200, found out without one.

python -m kernels.routing.dynamic.compile_check WORKLOAD BATCH DTYPE

prints one line of JSON. It has to be started with the variables of
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

# The fused implementation and what it is compared with.
FUSED, TEXTBOOK = "mosaic_gpu", "reference"
CUSTOM_CALL = 'custom_call_target="mosaic_gpu_v2"'

_ROOT = pathlib.Path(__file__).parents[3]
_TAIL_LINES = 15


class Program(NamedTuple):
    """A compiled program.

    Attributes:
        temp_bytes: XLA's temporaries in the device's memory.
        custom_calls: how many fused kernels it runs.
        compile_s: seconds of tracing and compiling.
    """

    temp_bytes: int
    custom_calls: int
    compile_s: float


class Programs(NamedTuple):
    """An implementation's programs.

    Attributes:
        forward: the poses.
        both: the poses and the gradients of inputs, weights and bias.
    """

    forward: Program
    both: Program


class Check(NamedTuple):
    """What was found about a workload.

    Attributes:
        workload: its name.
        sizes: of the workload.
        batch: examples.
        dtype: of the arguments.
        config: of the fused kernels, as chosen for an H200.
        kernels: by name; of several with one name, the largest numbers.
        serialized: whether the assembler made matrix products wait for each other.
        fused: programs of the fused implementation.
        textbook: programs of the reference.
        jax: the version that compiled them.
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
    """Compiles a workload's programs in another process.

    Args:
        workload: a name from `WORKLOADS`.
        batch: examples.
        dtype: of the arguments.
        python: an interpreter with the packages to compile with.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    found = run_child(python, __name__, workload, str(batch), dtype)
    return _from_json(found)


def has_compiler(python: str) -> bool:
    """Whether an interpreter has the packages to compile with."""
    command = [python, "-c", "import jax_cuda13_plugin, jaxtyping"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def run_child(python: str, module: str, *arguments: str) -> Any:
    """The JSON on the last line of what ``python -m module arguments`` prints.

    It starts with the variables that compiling ahead of time needs, in this checkout.

    Raises:
        RuntimeError: it failed; with the end of what it said.
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
        tail = "\n".join(process.stderr.strip().splitlines()[-_TAIL_LINES:])
        raise RuntimeError(
            f"{module} {' '.join(arguments)} exited with {process.returncode}:\n{tail}"
        )
    return json.loads(process.stdout.splitlines()[-1])


def to_json(found: Check) -> dict[str, Any]:
    """What the other process prints."""
    return found._asdict() | {
        "sizes": found.sizes._asdict(),
        "kernels": {name: x._asdict() for name, x in found.kernels.items()},
        "fused": {name: x._asdict() for name, x in found.fused._asdict().items()},
        "textbook": {name: x._asdict() for name, x in found.textbook._asdict().items()},
    }


def _compile(workload: str, batch: int, dtype: str) -> Check:
    """What `check` returns, in this process."""
    sizes = WORKLOADS[workload]
    I, P, J, Q, leaky, num_iterations = sizes
    inputs, weights, bias, gradient = (
        jax.ShapeDtypeStruct(shape, dtype)
        for shape in [(batch, I, P), (I, J, Q, P), (J, Q), (batch, J, Q)]
    )
    mesh = ahead_of_time.mesh(1)
    kernels: dict[str, Kernel] = {}
    serialized = False

    def compile_programs(implementation: str) -> Programs:
        forward = functools.partial(
            route,
            num_iterations=num_iterations,
            leaky=leaky,
            implementation=implementation,
        )

        def both(gradient, *arguments):
            poses, pullback = jax.vjp(forward, *arguments)
            return poses, pullback(gradient)

        # Of equal kernels in one process the assembler reports on the first only: the
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
        fused=compile_programs(FUSED),
        textbook=compile_programs(TEXTBOOK),
        kernels=kernels,
        serialized=serialized,
        jax=jax.__version__,
    )


def _from_json(found: dict[str, Any]) -> Check:
    def programs(of: dict[str, Any]) -> Programs:
        return Programs(**{name: Program(**x) for name, x in of.items()})

    return Check(
        **found
        | {
            "sizes": Workload(**found["sizes"]),
            "kernels": {name: Kernel(**x) for name, x in found["kernels"].items()},
            "fused": programs(found["fused"]),
            "textbook": programs(found["textbook"]),
        }
    )


if __name__ == "__main__":
    name, batch, dtype = sys.argv[1:]
    print(json.dumps(to_json(_compile(name, int(batch), dtype))))
