"""The dtypes in which sums are taken."""

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array


def accumulation_dtype(dtype: DTypeLike) -> jnp.dtype:
    """float32 for half precision, else the dtype itself."""
    return jnp.dtype(jnp.float64 if dtype == jnp.float64 else jnp.float32)


def at_least_float32(x: Array) -> Array:
    """The array in float32, or in its own dtype if that is wider."""
    return x.astype(accumulation_dtype(x.dtype))
