"""What is lowered for a Hopper GPU, where there is none and nothing can compile it."""

import functools
import math
import re

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from kernels import gpu
from kernels.routing import route
from kernels.routing.dynamic.mosaic_gpu import layout
from kernels.routing.dynamic.workloads import WORKLOADS, Workload

BATCH = 128
KERNEL = "mosaic_gpu_v2"


def arguments(workload: Workload, **placed) -> list[jax.ShapeDtypeStruct]:
    """Inputs, weights, bias and the gradient of the poses."""
    I, P, J, Q, *_ = workload
    shapes = [(BATCH, I, P), (I, J, Q, P), (J, Q), (BATCH, J, Q)]
    return [jax.ShapeDtypeStruct(shape, "float32", **placed) for shape in shapes]


def lowered(workload: Workload, implementation: str, backward: bool, **placed) -> str:
    """The program for a GPU, before any compiler has seen it."""
    forward = functools.partial(
        route,
        num_iterations=workload.num_iterations,
        leaky=workload.leaky,
        implementation=implementation,
    )

    def both(inputs, weights, bias, gradient):
        poses, pullback = jax.vjp(forward, inputs, weights, bias)
        return poses, pullback(gradient)

    shapes = arguments(workload, **placed)
    function, shapes = (both, shapes) if backward else (forward, shapes[:3])
    with gpu.ahead_of_time("NVIDIA H200"):
        traced = jax.jit(function).trace(*shapes)
        return traced.lower(lowering_platforms=("cuda",)).as_text()


def dot_sizes(text: str) -> list[int]:
    """The number of elements of each matrix product's result."""
    results = re.findall(r"stablehlo\.dot_general.*-> tensor<([\dx]+)x\w+>", text)
    return [math.prod(map(int, shape.split("x"))) for shape in results]


def num_votes(workload: Workload) -> int:
    return BATCH * workload.I * workload.J * workload.Q


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("name", WORKLOADS)
def test_fused_program_is_kernels_and_forms_no_votes(name, backward):
    """A pass and a reduction an iteration, another pair for each gradient through it.

    Where the output capsules are split, the softmax has one more kernel each time.
    """
    workload = WORKLOADS[name]
    text = lowered(workload, "mosaic_gpu", backward)
    r, split = (
        workload.num_iterations,
        layout.padded_sizes(BATCH, workload.I, workload.J, workload.Q, 1).chunks > 1,
    )
    expected = 2 * r + split * (r - 1)
    if backward:
        expected += (2 + split) * (r - 1) + 1
    assert text.count(KERNEL) == expected
    assert max(dot_sizes(text), default=0) < num_votes(workload)


def test_other_implementations_are_told_apart():
    """What the test above looks for is there, or not, where it should be."""
    workload = WORKLOADS["mnist"]
    assert KERNEL not in lowered(workload, "xla", backward=True)
    textbook = lowered(workload, "reference", backward=False)
    assert max(dot_sizes(textbook)) == num_votes(workload)


@pytest.mark.parametrize("backward", [False, True])
def test_automatic_partitioning_is_refused(backward):
    mesh = AbstractMesh((2,), ("data",), axis_types=(AxisType.Auto,))
    placed = NamedSharding(mesh, PartitionSpec())
    with pytest.raises(NotImplementedError, match=r"2 devices.*jax\.shard_map"):
        lowered(WORKLOADS["odd"], "mosaic_gpu", backward, sharding=placed)
