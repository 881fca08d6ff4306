"""Compilations for test_gpu_compile.py, each in a process that is made for it.

python -m tests.kernels.routing.gpu_compile_child NAME

Needs no pytest, which the environment to compile in does not have.
"""

import json
import math
import re
import sys

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from kernels.routing import route
from kernels.routing.dynamic.compile_check import CUSTOM_CALL
from kernels.routing.dynamic.mosaic_gpu.config import Config
from kernels.routing.dynamic.mosaic_gpu.passes import Pass, sum_pass
from kernels.routing.dynamic.mosaic_gpu.tile import COLUMNS, Sizes
from kernels.routing.dynamic.workloads import WORKLOADS
from kernels.tools import ahead_of_time

GLOBAL_BATCH = 256
WORKLOAD = WORKLOADS["mnist"]


def spilling() -> dict[str, int]:
    """A pass that sums twice as many output capsules as fit into its registers."""
    return _pass(Sizes(B=64, G=2, J=20, Q=16, chunk=20, real_outputs=20), slots=2)


def too_much_shared() -> str:
    """A pass with more buffers than there is shared memory."""
    sizes = Sizes(B=64, G=16, J=10, Q=16, chunk=10, real_outputs=10)
    return _error_of(lambda: _pass(sizes, slots=16))


def automatic() -> str:
    """Routing on two devices whose partitioning is left to the compiler."""
    return _error_of(lambda: _on_two_devices(_loss_and_gradients))


def checked() -> dict[str, object]:
    """Routing on two devices in a shard_map that knows what differs between them."""
    return _sharded(check_vma=True)


def unchecked() -> dict[str, object]:
    """The same in one that does not."""
    return _sharded(check_vma=False)


def _pass(sizes: Sizes, slots: int) -> dict[str, int]:
    config = Config(
        groups_per_block=sizes.G,
        slots=slots,
        scaled_inputs="registers",
        final_chunk=sizes.chunk,
        final_row_blocks=1,
    )

    def function(*arguments):
        which = Pass("routing_pass", directions=1)
        return sum_pass(which, sizes, config, jnp.bfloat16, None)(*arguments)

    B, G, J, Q, *_ = sizes
    compiled = ahead_of_time.compile_for_h200(
        function,
        [
            jax.ShapeDtypeStruct(shape, jnp.bfloat16)
            for shape in [(G, B, COLUMNS), (G, J * COLUMNS, Q), (J, B, Q)]
        ],
        mesh=ahead_of_time.mesh(1),
    )
    return compiled.kernels["routing_pass"]._asdict()


def _error_of(function) -> str:
    try:
        function()
    except NotImplementedError as error:
        return str(error)
    return "no error"


def _loss_and_gradients(*arguments):
    def loss(*arguments):
        poses = route(*arguments, implementation="mosaic_gpu")
        return jnp.sum(jnp.square(poses))

    return jax.value_and_grad(loss, argnums=(0, 1, 2))(*arguments)


def _on_two_devices(function, **shard_map):
    split, shared = PartitionSpec("data"), PartitionSpec()
    specs, mesh = (split, shared, shared), ahead_of_time.mesh(2)
    if shard_map:
        function = jax.shard_map(
            function,
            mesh=mesh,
            in_specs=specs,
            out_specs=(shared, specs),
            **shard_map,
        )
    I, P, J, Q, *_ = WORKLOAD
    arguments = [
        jax.ShapeDtypeStruct(shape, jnp.float32)
        for shape in [(GLOBAL_BATCH, I, P), (I, J, Q, P), (J, Q)]
    ]
    return ahead_of_time.compile_for_h200(function, arguments, mesh=mesh, specs=specs)


def _sharded(check_vma: bool) -> dict[str, object]:
    def function(*arguments):
        loss, gradients = _loss_and_gradients(*arguments)
        return jax.lax.psum(loss, "data"), gradients

    text = _on_two_devices(function, check_vma=check_vma).text
    kernels = [line for line in text.splitlines() if CUSTOM_CALL in line]
    reduced = re.findall(r"= (.*?) all-reduce(?:-done)?\(", text)
    return {
        "custom_calls": len(kernels),
        "kernel_dims": sorted({dim for line in kernels for dim in _dims(line)}),
        "reduced_elements": sum(math.prod(_dims(shape)) for shape in reduced),
        "gathers": "all-gather" in text,
    }


def _dims(text: str) -> list[int]:
    """All dimensions of the arrays that a piece of a program speaks of."""
    shapes = re.findall(r"\b[a-z]+\d+\[([\d,]+)\]", text)
    return [int(dim) for shape in shapes for dim in shape.split(",")]


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]]()))
