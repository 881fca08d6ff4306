"""Squash nonlinearities and the vector norm, exact and differentiable at zero."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.dtypes import accumulation_dtype


def norm(s: Float[Array, "*n Q"]) -> Float[Array, "*n"]:
    """Euclidean norm over the last axis, with gradient zero at the zero vector.

    ``sqrt`` has an infinite slope at 0, which turns the gradient there into NaN. An
    epsilon under the root would hide that and bias every value; two ``where`` leave
    all values exact.

    Args:
        s: vectors, any floating dtype.

    Returns:
        Their lengths, in the dtype of ``s``; half precision is summed in float32.
    """
    wide = s.astype(accumulation_dtype(s.dtype))
    square = jnp.sum(jnp.square(wide), axis=-1)
    is_zero = square == 0
    root = jnp.sqrt(jnp.where(is_zero, jnp.ones_like(square), square))
    return jnp.where(is_zero, jnp.zeros_like(root), root).astype(s.dtype)


def squash(s: Float[Array, "*n Q"]) -> Float[Array, "*n Q"]:
    """Shrinks vectors to a length below one and keeps their direction.

    ``v = |s|^2 / (1 + |s|^2) * s / |s|``, computed as ``s * |s| / (1 + |s|^2)``, which
    divides by nothing that can be zero: ``squash(0) = 0`` and its Jacobian there is 0,
    both exact.

    Args:
        s: capsules' total inputs, the capsule dimension last; any floating dtype.

    Returns:
        Poses of the shape and dtype of ``s``; half precision is computed in float32.

    References:
        Sabour, Frosst and Hinton 2017, section 2, equation 1.
    """
    wide = s.astype(accumulation_dtype(s.dtype))
    length = jnp.expand_dims(norm(wide), -1)
    return (wide * (length / (1 + jax.lax.square(length)))).astype(s.dtype)


def exponential_squash(s: Float[Array, "*n Q"]) -> Float[Array, "*n Q"]:
    """Shrinks vectors to a length below one, without flattening those near zero.

    ``v = (1 - exp(-|s|)) * s / |s|``. Its Jacobian at 0 is the identity, where that of
    `squash` is 0.

    Args:
        s: capsules' total inputs, the capsule dimension last; any floating dtype.

    Returns:
        Poses of the shape and dtype of ``s``; half precision is computed in float32.

    References:
        Xi, Bing and Jin 2017, "Capsule Network Performance on Complex Data"; Mazzia,
        Salvetti and Chiaberge 2021, "Efficient-CapsNet", equation 2.
    """
    wide = s.astype(accumulation_dtype(s.dtype))
    length = jnp.expand_dims(norm(wide), -1)
    is_zero = length == 0
    safe = jnp.where(is_zero, jnp.ones_like(length), length)
    factor = jnp.where(is_zero, jnp.ones_like(length), -jnp.expm1(-safe) / safe)
    return (wide * factor).astype(s.dtype)
