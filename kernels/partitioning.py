"""Makes it an error to leave the partitioning of a kernel to the compiler."""

from typing import Any

from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jaxtyping import Array

_check_p = Primitive("refuse_automatic_partitioning")
_check_p.def_impl(lambda x, *, name: x)
_check_p.def_abstract_eval(lambda x, *, name: x)
batching.defvectorized(_check_p)


def refuse_automatic_partitioning(x: Array, name: str) -> Array:
    """Returns ``x``; an error if the compiler is to divide its computation.

    The compiler cannot look into a kernel. Under `jax.jit` over several devices it
    would gather the whole batch on each of them and have all compute all of it, without
    a word. Inside `jax.shard_map` each device computes its own part.

    Args:
        x: an argument of the kernel.
        name: of the kernel, for the message.

    Raises:
        NotImplementedError: when lowered for several devices outside a shard_map.
    """
    return _check_p.bind(x, name=name)


def _lower(ctx: mlir.LoweringRuleContext, x: Any, *, name: str) -> list[Any]:
    context: Any = ctx.module_context.axis_context
    devices = getattr(context, "num_devices", 1)  # a ShardingContext, outside shard_map
    mesh = getattr(context, "mesh", None)  # an SPMDAxisContext, inside
    if mesh is not None:
        manual = context.manual_axes | set(mesh.manual_axes)
        sizes = dict(zip(mesh.axis_names, mesh.axis_sizes, strict=True))
        devices = 1
        for axis in set(mesh.axis_names) - manual:
            devices *= sizes[axis]
    if devices and devices > 1:
        raise NotImplementedError(
            f"{name} cannot be partitioned by the compiler over {devices} devices: "
            "each would compute the whole batch. Call it inside jax.shard_map over all "
            "axes of the mesh, or use another implementation"
        )
    return [x]


mlir.register_lowering(_check_p, _lower)
