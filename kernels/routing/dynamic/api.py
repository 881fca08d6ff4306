"""The routing op's entry point: checks the arguments and picks an implementation."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from jaxtyping import Array, Float

from kernels import gpu
from kernels.routing import arguments
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


# "mosaic_gpu" has limits, which its errors name; the others take every input that
# passes the checks below, on every backend.
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
        UnsupportedError: ``"mosaic_gpu"`` was named and does not support the sizes, the
            dtype or the device.
        NotImplementedError: ``"mosaic_gpu"`` was named, and would be partitioned
            automatically over several devices.
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
    """Rejects arguments that are invalid for every implementation.

    Raises:
        ValueError: see `kernels.routing.arguments.check`; or ``num_iterations`` is not
            an int of at least 1.
    """
    shapes = arguments.check(inputs, weights, bias)
    if isinstance(num_iterations, bool) or not isinstance(num_iterations, int):
        raise ValueError(f"num_iterations must be an int; got {num_iterations!r}")
    if num_iterations < 1:
        raise ValueError(
            f"num_iterations must be at least 1; got {num_iterations} for {shapes}"
        )
