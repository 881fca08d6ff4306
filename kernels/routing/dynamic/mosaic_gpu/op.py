"""The fused routing op: which kernels run, in which order, and its gradient.

The mathematics is that of `dynamic.xla`; docs/routing_kernel.md has it in full.
Forward, for r iterations: one pass and one small reduction an iteration. Backward: a
pass and a reduction for each iteration but the first, then one kernel for the gradients
of inputs and weights. Nothing larger than [B, J, Q] is kept between the two.
"""

import functools
import itertools
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float

from kernels import gpu
from kernels.partitioning import (
    refuse_automatic_partitioning,
    varying,
    varying_axes,
)
from kernels.routing.arguments import UnsupportedError
from kernels.routing.dynamic.mosaic_gpu import config as configs
from kernels.routing.dynamic.mosaic_gpu import layout, softmax, tile
from kernels.routing.dynamic.mosaic_gpu.config import Config
from kernels.routing.dynamic.mosaic_gpu.gradients import Terms, operand_gradients
from kernels.routing.dynamic.mosaic_gpu.passes import Pass, sum_pass
from kernels.routing.dynamic.mosaic_gpu.reduction import reduce_gradients, reduce_poses
from kernels.routing.dynamic.mosaic_gpu.tile import ROWS
from kernels.routing.squash import squash

# float16 gradients are scaled by a power of two, so that the largest ds of the last
# iteration lies between 2^4 and 2^5: 2^11 below overflow, for what earlier iterations
# add to it, and 2^18 above the smallest normal number.
_LARGEST_EXPONENT = 4


def route(
    inputs: Float[Array, "B I P"],
    weights: Float[Array, "I J Q P"],
    bias: Float[Array, "J Q"] | None,
    *,
    num_iterations: int,
    leaky: bool,
    stop_gradient: bool,
    config: Config | None = None,
) -> Float[Array, "B J Q"]:
    """See `kernels.routing.route`. First-order reverse-mode gradients only.

    float32 arguments are rounded to float16 for the matrix products, whose sums are
    float32 like everything else; so no input or weight may exceed 65,504 (beyond, poses
    are NaN). The arguments are those of `kernels.routing.route`, and:

    Args:
        inputs: input poses in float32, bfloat16 or float16.
        weights: transformation matrices of the same dtype.
        bias: bias of the same dtype, or None.
        num_iterations: number of routing iterations r.
        leaky: leaky routing.
        stop_gradient: constant coupling coefficients in the gradient.
        config: the kernels' config; None for the measured or estimated best.

    Raises:
        UnsupportedError: sizes, a dtype or a device that the kernels do not support.
    """
    reason = unsupported(inputs, weights)
    if reason is not None:
        raise UnsupportedError(
            f"mosaic_gpu routing: {reason} (inputs {inputs.shape} {inputs.dtype}, "
            f"weights {weights.shape}); use another implementation"
        )
    if gpu.interpreted():
        _warn_of_interpreter()
    problem = configs.Problem.of(inputs, weights)
    if config is None:
        config = configs.choose(problem, gpu.device_kind())
    if bias is None:
        bias = jnp.zeros(weights.shape[1:3], weights.dtype)
    options = _Options(num_iterations, leaky, stop_gradient, problem, config)
    arguments = (inputs, weights, bias)
    return _route(options, *varying(varying_axes(arguments), arguments))


def unsupported(inputs: Array, weights: Array) -> str | None:
    """Returns the reason why the kernels cannot run on these arguments, or None."""
    return gpu.without_hopper() or layout.unsupported(inputs, weights)


@functools.cache
def _warn_of_interpreter() -> None:
    warnings.warn(
        "mosaic_gpu routing without a GPU runs in an interpreter: very slow, and for "
        "checking only",
        stacklevel=2,
    )


class _Options(NamedTuple):
    num_iterations: int
    leaky: bool
    stop_gradient: bool
    problem: configs.Problem
    config: Config


class _Residuals(NamedTuple):
    """The forward pass's results that the backward pass needs.

    Attributes:
        s: total inputs of each iteration, [J, B, Q] float32, padded.
        V: V * log2(e) of each iteration but the first, [J, B, Q] 16-bit, padded.
    """

    s: tuple[Array, ...]
    V: tuple[Array, ...]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _route(options: _Options, inputs: Array, weights: Array, bias: Array) -> Array:
    return _forward(options, inputs, weights, bias)[0]


def _route_fwd(options: _Options, *arguments: Array):
    poses, residuals = _forward(options, *arguments)
    return poses, (arguments, residuals)


def _route_bwd(options: _Options, saved, gradient: Array):
    arguments, residuals = saved
    return _backward(options, *arguments, residuals, gradient)


_route.defvjp(_route_fwd, _route_bwd)


def _with_kernels(function):
    """Wraps ``function(options, interpret, ...)``, which contains kernels.

    It is interpreted where there is no GPU. Transformations that kernels do not support
    are avoided or rejected: automatic partitioning, differentiation, and a batch
    dimension from `jax.vmap`, which would exceed the copy engine's five dimensions (so
    the function runs once for each element).
    """

    @functools.wraps(function)
    def wrapped(options: _Options, *arguments: Any) -> Any:
        # The interpreter looks for races.
        interpret = (
            plgpu.InterpretGPUParams(detect_races=True) if gpu.interpreted() else None
        )

        @jax.custom_jvp
        @jax.custom_batching.sequential_vmap
        def run(inputs: Array, *others: Any) -> Any:
            inputs = refuse_automatic_partitioning(inputs, "mosaic_gpu routing")
            return function(options, interpret, inputs, *others)

        @run.defjvp
        def _(primals, tangents):
            raise NotImplementedError(
                "mosaic_gpu routing has no second derivatives; use "
                'implementation="xla" for them'
            )

        # The results of a kernel are not marked as varying.
        return varying(varying_axes(arguments), run(*arguments))

    return wrapped


@_with_kernels
def _forward(
    options: _Options, interpret: Any, inputs: Array, weights: Array, bias: Array
) -> tuple[Array, _Residuals]:
    config, (B, _, _, J, Q, _) = options.config, options.problem
    sizes, dtype = options.problem.sizes(config), layout.operand_dtype(inputs.dtype)
    build = functools.partial(
        sum_pass, sizes=sizes, config=config, dtype=dtype, interpret=interpret
    )
    first = build(Pass("routing_first", 0, scale=1 / (J + options.leaky)))
    later = build(Pass("routing_pass", 1, sizes.chunks > 1, options.leaky))
    splits = sizes.G // config.groups_per_block
    reduce = reduce_poses(sizes, splits, dtype, interpret)

    u = layout.group_inputs(inputs, sizes, dtype)
    w = layout.group_weights(weights, sizes, dtype)
    bias_rows = jnp.broadcast_to(bias.astype(jnp.float32)[None], (ROWS, J, Q))
    bias_rows = layout.pad_outputs(bias_rows, sizes, ROWS)
    V = jnp.zeros((sizes.J, sizes.B, sizes.Q), jnp.float32)
    (parts,) = first(u, w)
    s, V, operand, poses = reduce(parts, bias_rows, V)
    all_s, all_V = [s], []
    for _ in range(options.num_iterations - 1):
        all_V.append(operand)
        stats = _stats_if_split(options, interpret, u, w, operand)
        (parts,) = later(u, w, operand, *stats)
        s, V, operand, poses = reduce(parts, bias_rows, V)
        all_s.append(s)
    residuals = _Residuals(tuple(all_s), tuple(all_V))
    return poses[:B, :J, :Q].astype(inputs.dtype), residuals


@_with_kernels
def _backward(
    options: _Options,
    interpret: Any,
    inputs: Array,
    weights: Array,
    bias: Array,
    residuals: _Residuals,
    gradient: Array,
) -> tuple[Array, Array, Array]:
    config, (_, _, _, J, Q, _) = options.config, options.problem
    sizes, dtype = options.problem.sizes(config), layout.operand_dtype(inputs.dtype)
    u = layout.group_inputs(inputs, sizes, dtype)
    w = layout.group_weights(weights, sizes, dtype)
    gradient = layout.pad_outputs(gradient.astype(jnp.float32), sizes, sizes.B)
    (ds,) = jax.vjp(squash, residuals.s[-1])[1](gradient)
    scale = _gradient_scale(ds) if dtype == jnp.float16 else jnp.ones(())
    ds = ds * scale[None, None, None]

    coupled: list[Sequence[Array]] = []
    all_ds = [ds]
    if options.num_iterations > 1 and options.stop_gradient:
        V, operand = residuals.V[-1], ds.astype(dtype)
        coupled.append((V, operand, *_softmax_stats(options, interpret, u, w, V)))
    elif options.num_iterations > 1:
        which = Pass("routing_gradient_pass", 2, sizes.chunks > 1, options.leaky)
        gradient_pass = sum_pass(which, sizes, config, dtype, interpret)
        splits = sizes.G // config.groups_per_block
        reduce = reduce_gradients(sizes, splits, dtype, interpret)
        operand, D = ds.astype(dtype), jnp.zeros_like(ds)
        for V, s in zip(residuals.V[::-1], residuals.s[-2::-1], strict=True):
            stats = _stats_if_split(options, interpret, u, w, V, operand)
            parts, *found = gradient_pass(u, w, V, operand, *stats)
            coupled.append((V, operand, *stats, *found))
            D, ds, operand = reduce(parts, D, s)
            all_ds.append(ds)

    terms = Terms(
        uniform=options.num_iterations == 1 or not options.stop_gradient,
        coupled=len(coupled),
        through_coupling=not options.stop_gradient,
    )
    operands = [u, w]
    if terms.uniform:
        operands.append((ds / (J + options.leaky)).astype(dtype))
    operands += itertools.chain.from_iterable(coupled)
    du, dw = operand_gradients(terms, sizes, config, dtype, interpret)(*operands)
    # Added one by one: XLA fuses additions with the transpositions that follow, but not
    # a reduction.
    du = tile.add(jnp.unstack(du.reshape(-1, sizes.G, *du.shape[1:])))
    dw = tile.add(
        jnp.unstack(dw.reshape(config.final_row_blocks, sizes.G, -1, sizes.Q))
    )
    gradients = (
        layout.ungroup_inputs(du, inputs.shape),
        layout.ungroup_weights(dw, weights.shape),
        jnp.sum(jnp.stack(all_ds), axis=(0, 2))[:J, :Q],
    )
    return tuple((x / scale).astype(inputs.dtype) for x in gradients)  # type: ignore[return-value]


def _softmax_stats(
    options: _Options, interpret: Any, u: Array, w: Array, *directions: Array
) -> tuple[Array, ...]:
    """The softmax's statistics over all output capsules, by a separate kernel."""
    sizes = options.problem.sizes(options.config)
    kernel = softmax.softmax_stats(
        len(directions), sizes, options.config, u.dtype, interpret
    )
    return softmax.combine(kernel(u, w, *directions), sizes, options.leaky)


def _stats_if_split(
    options: _Options, interpret: Any, *arrays: Array
) -> tuple[Array, ...]:
    """Returns `_softmax_stats` if a pass does not compute them itself, else ()."""
    if options.problem.sizes(options.config).chunks == 1:
        return ()
    return _softmax_stats(options, interpret, *arrays)


def _gradient_scale(ds: Array) -> Array:
    """The power of two that gives the largest |ds| the exponent `_LARGEST_EXPONENT`.

    Computed with bits: exp2 and log2 are not exact on every device, and a scale that is
    not a power of two would cost precision.
    """
    largest = jax.lax.bitcast_convert_type(jnp.max(jnp.abs(ds)), jnp.int32)
    exponent = (largest >> 23) - 127
    doublings = jnp.clip(_LARGEST_EXPONENT - exponent, -126, 126)
    return jax.lax.bitcast_convert_type((doublings + 127) << 23, jnp.float32)
