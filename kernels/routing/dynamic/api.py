"""The door to the routing op: checks the arguments and picks an implementation."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels import gpu
from kernels.routing.dynamic import mosaic_gpu, reference, xla


class Implementation(Protocol):
    """One way to compute the op; its arguments have been checked."""

    def __call__(
        self,
        inputs: Array,
        weights: Array,
        bias: Array | None,
        *,
        num_iterations: int,
        leaky: bool,
        stop_gradient: bool,
    ) -> Array:
        """Computes the poses [B, J, Q]; see `route`."""


# "mosaic_gpu" has limits, which it names; the others take every input that passes the
# checks below, on every backend.
IMPLEMENTATIONS: Mapping[str, Implementation] = MappingProxyType(
    {"mosaic_gpu": mosaic_gpu.route, "xla": xla.route, "reference": reference.route}
)


def route(
    inputs: Float[Array, "B I P"],
    weights: Float[Array, "I J Q P"],
    bias: Float[Array, "J Q"] | None = None,
    *,
    num_iterations: int = 3,
    leaky: bool = False,
    stop_gradient: bool = False,
    implementation: str | None = None,
) -> Float[Array, "B J Q"]:
    """Routing by agreement between two layers of capsules.

    Every input capsule i votes for every output capsule j, ``votes_ij = W_ij u_i``. The
    coupling coefficients c say how much of i goes to j; they start uniform and are
    refined by the agreement of the votes with the outputs::

        logits = 0
        repeat num_iterations times:
            c = softmax(logits, over output capsules)
            poses = squash(sum_i c_ij votes_ij + bias_j)
            logits += votes . poses          (not after the last iteration)

    Args:
        inputs: poses u of the input capsules; B examples, I capsules of P dimensions.
        weights: transformation matrices W, one for each pair of an input and one of J
            output capsules of Q dimensions; the dtype of ``inputs``.
        bias: added to each output capsule's total input, or None; same dtype.
        num_iterations: routing iterations r, at least 1.
        leaky: adds one more logit, constant 0, to each softmax and drops its share, so
            that an input capsule may be routed to "none of the above".
        stop_gradient: treats the last iteration's coupling coefficients as constants
            when differentiating. By default the gradient flows through all iterations,
            as in the code that the paper's authors released.
        implementation: a name from `IMPLEMENTATIONS`; or None for the fused kernels,
            ``"mosaic_gpu"``, on a Hopper GPU and sizes that they support, and else
            ``"xla"``.

    Returns:
        Poses of the output capsules, in the dtype of ``inputs``; half precision is
        accumulated in float32. The fused kernels multiply float32 arguments in float16
        and sum in float32.

    Raises:
        NotImplementedError: ``"mosaic_gpu"`` was named and does not support the sizes,
            the dtype, the device, or automatic partitioning over several devices.
        ValueError: wrong ranks, sizes or dtypes that do not agree, ``num_iterations``
            below 1, or an unknown implementation.

    References:
        Sabour, Frosst and Hinton 2017, section 2, Procedure 1.
    """
    check(inputs, weights, bias, num_iterations)
    if implementation is None:
        implementation = _best(inputs, weights)
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"unknown routing implementation {implementation!r}; "
            f"choose one of {', '.join(IMPLEMENTATIONS)}"
        )
    return IMPLEMENTATIONS[implementation](
        inputs,
        weights,
        bias,
        num_iterations=num_iterations,
        leaky=leaky,
        stop_gradient=stop_gradient,
    )


def _best(inputs: Array, weights: Array) -> str:
    fused = not gpu.interpreted() and mosaic_gpu.unsupported(inputs, weights) is None
    return "mosaic_gpu" if fused else "xla"


def check(
    inputs: Array, weights: Array, bias: Array | None, num_iterations: int
) -> None:
    """Refuses arguments that no routing can take.

    Raises:
        ValueError: wrong ranks, sizes or dtypes that do not agree, or
            ``num_iterations`` below 1.
    """
    shapes = f"inputs {inputs.shape}, weights {weights.shape}" + (
        "" if bias is None else f", bias {bias.shape}"
    )
    if inputs.ndim != 3 or weights.ndim != 4 or (bias is not None and bias.ndim != 2):
        raise ValueError(
            f"routing takes inputs [B, I, P], weights [I, J, Q, P], bias [J, Q]; "
            f"got {shapes}"
        )
    if (
        inputs.shape[1:] != (weights.shape[0], weights.shape[3])
        or (bias is not None and bias.shape != weights.shape[1:3])
        or 0 in inputs.shape + weights.shape
    ):
        raise ValueError(
            f"routing sizes do not agree or are zero: inputs [B, I, P], weights "
            f"[I, J, Q, P], bias [J, Q]; got {shapes}"
        )
    dtypes = [x.dtype for x in (inputs, weights, bias) if x is not None]
    if len(set(dtypes)) > 1 or not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise ValueError(
            f"routing takes one floating dtype for all arguments; "
            f"got {', '.join(str(dtype) for dtype in dtypes)} for {shapes}"
        )
    if isinstance(num_iterations, bool) or not isinstance(num_iterations, int):
        raise ValueError(f"num_iterations must be an int; got {num_iterations!r}")
    if num_iterations < 1:
        raise ValueError(
            f"num_iterations must be at least 1; got {num_iterations} for {shapes}"
        )
