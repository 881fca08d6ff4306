"""Helpers of custom ops for computations that are partitioned over devices."""

from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jaxtyping import Array

_check_p = Primitive("refuse_automatic_partitioning")
_check_p.def_impl(lambda x, *, name: x)
_check_p.def_abstract_eval(lambda x, *, name: x)
batching.defvectorized(_check_p)


def varying_axes(arrays: Any) -> frozenset[Any]:
    """Axes of a shard_map along which any of the arrays differs between devices.

    Empty outside of a `jax.shard_map`, and in one that does not track them
    (``check_vma=False``).
    """
    types = [jax.typeof(x).manual_axis_type for x in jax.tree.leaves(arrays)]
    return frozenset().union(*(type_.varying for type_ in types))


def varying(axes: frozenset[Any], arrays: Any) -> Any:
    """Marks arrays as different on each device along axes of a shard_map.

    An op with a custom gradient needs the mark on all its arguments: then JAX itself
    sums the gradients of shared weights over the devices.
    """

    def mark(x: Array) -> Array:
        missing = tuple(axes - jax.typeof(x).manual_axis_type.varying)
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(mark, arrays)


def refuse_automatic_partitioning(x: Array, name: str) -> Array:
    """Returns ``x``; raises if the compiler would have to partition its computation.

    The compiler cannot look into a kernel. Under `jax.jit` over several devices it
    would silently gather the whole batch on each device and compute all of it there.
    Inside `jax.shard_map` each device computes its own part.

    Args:
        x: an argument of the kernel.
        name: the kernel's name, for the message.

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
