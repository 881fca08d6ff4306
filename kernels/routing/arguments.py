"""The arguments that routing ops share: poses, transformation matrices, a bias."""

import jax.numpy as jnp
from jaxtyping import Array


class UnsupportedError(NotImplementedError):
    """An implementation of an op does not support the sizes, dtype or device."""


def check(inputs: Array, weights: Array, bias: Array | None) -> str:
    """Rejects arguments that are invalid for every routing op.

    Args:
        inputs: poses of the input capsules; should be [B, I, P].
        weights: transformation matrices; should be [I, J, Q, P].
        bias: bias of the output capsules; should be [J, Q] or None.

    Returns:
        A description of the shapes, for further errors.

    Raises:
        ValueError: wrong ranks, or sizes or dtypes that do not agree.
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
    return shapes
