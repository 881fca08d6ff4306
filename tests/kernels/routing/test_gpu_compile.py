"""The fused kernels as NVIDIA's compiler makes them for an H200 that is not there.

Marked gpu_compile: `make test-gpu-compile` runs these, with the environment they need.
"""

import os
import pathlib
from typing import Any

import pytest

from kernels.routing.dynamic import compile_check
from kernels.routing.dynamic.compile_check import Check
from kernels.routing.dynamic.mosaic_gpu import layout
from kernels.routing.dynamic.workloads import WORKLOADS
from kernels.tools.ahead_of_time import Kernel
from tests.kernels.routing import gpu_compile_child as child

pytestmark = pytest.mark.gpu_compile

# Each workload meets both dtypes and both batch sizes; `experiments.compile_routing`
# goes through all four pairs.
PAIRS = ((128, "float32"), (1024, "bfloat16"))
# Registers of a thread, of 255 that there are: as measured, and a little more.
MOST_REGISTERS = {
    "routing_first": 128,
    "routing_pass": 216,
    "routing_reduce_poses": 128,
    "routing_gradient_pass": 240,
    "routing_reduce_gradients": 128,
    "routing_operand_gradients": 255,
    "softmax_stats": 160,
}
MOST_SHARED_BYTES = 232_448  # of a block
# Their votes are so few that the textbook needs little memory, too.
TINY = ("digits", "odd")


@pytest.fixture(scope="session")
def python() -> str:
    """An interpreter to compile with, or the tests are skipped.

    One that is named but absent is an error: who names it wants the tests to run.
    """
    made = pathlib.Path(__file__).parents[3] / ".venv-gpu-compile" / "bin" / "python"
    named = os.environ.get("CAPSJAX_GPU_COMPILE_PYTHON")
    path = pathlib.Path(named or made)
    if not named and not path.exists():
        pytest.skip("needs the environment that `make test-gpu-compile` makes")
    assert path.exists(), f"there is no {path}, named in CAPSJAX_GPU_COMPILE_PYTHON"
    return str(path)


@pytest.mark.parametrize(("batch", "dtype"), PAIRS)
@pytest.mark.parametrize("workload", WORKLOADS)
def test_kernels_fit_the_gpu(python, workload, batch, dtype):
    """No spills, no serialized products, all kernels, and less memory than votes."""
    found = compile_check.check(workload, batch, dtype, python=python)
    assert problems(found) == []


def problems(found: Check) -> list[str]:
    """All that is wrong, so that one run of minutes tells everything."""
    wrong = []
    for name, kernel in found.kernels.items():
        most = Kernel(MOST_REGISTERS.get(name, 0), 0, MOST_SHARED_BYTES)
        if any(a > b for a, b in zip(kernel, most, strict=True)):
            wrong.append(f"{name}: {kernel}, more than {most}")
    if found.serialized:
        wrong.append("the assembler serialized matrix products (C7512)")

    I, _, J, Q, _, r = found.sizes
    split = layout.padded_sizes(found.batch, I, J, Q, 1).chunks > 1
    expected = set(MOST_REGISTERS) - ({"softmax_stats"} if not split else set())
    if set(found.kernels) != expected:
        wrong.append(f"kernels are {sorted(found.kernels)}, not {sorted(expected)}")
    forward = 2 * r + split * (r - 1)
    both = forward + (2 + split) * (r - 1) + 1
    calls = (found.fused.forward.custom_calls, found.fused.both.custom_calls)
    if calls != (forward, both):
        wrong.append(f"{calls} kernels run, not {(forward, both)}")
    if any(program.custom_calls for program in found.textbook):
        wrong.append("the textbook runs fused kernels")

    for fused, textbook in zip(found.fused, found.textbook, strict=True):
        if found.workload not in TINY and fused.temp_bytes >= textbook.temp_bytes:
            wrong.append(f"fused {fused} needs no less memory than {textbook}")
    return wrong


def test_too_many_sums_are_reported_as_spilled(python):
    kernel = Kernel(**run(python, child.spilling))
    assert kernel.registers == 255
    assert kernel.spilled_bytes > 0


def test_too_much_shared_memory_is_refused(python):
    message = run(python, child.too_much_shared)
    assert "kernel routing_pass needs" in message
    assert f"a block has {MOST_SHARED_BYTES}" in message


def test_automatic_partitioning_is_refused(python):
    message = run(python, child.automatic)
    assert "2 devices" in message
    assert "jax.shard_map" in message


@pytest.mark.parametrize("function", [child.checked, child.unchecked])
def test_two_devices_share_the_batch(python, function):
    """Each computes its own examples, and gathers nothing of the other's.

    The gradients of weights that both have are added up by JAX if it checks what
    varies over the mesh; else that is left to the caller, and only the loss is.
    """
    found = run(python, function)
    r = child.WORKLOAD.num_iterations
    assert found["custom_calls"] == 4 * r - 1
    assert child.GLOBAL_BATCH // 2 in found["kernel_dims"]
    assert child.GLOBAL_BATCH not in found["kernel_dims"]
    assert not found["gathers"]
    I, P, J, Q, *_ = child.WORKLOAD
    gradients = I * J * Q * P + J * Q if function is child.checked else 0
    assert found["reduced_elements"] == gradients + 1


def run(python: str, function) -> Any:
    """The result of a function of `gpu_compile_child`, in its process."""
    return compile_check.run_child(python, child.__name__, function.__name__)
