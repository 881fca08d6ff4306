"""In which dtype sums are taken."""

import jax.numpy as jnp
from jax.typing import DTypeLike


def accumulation_dtype(dtype: DTypeLike) -> jnp.dtype:
    """float32 for half precision, else the dtype itself."""
    return jnp.dtype(jnp.float64 if dtype == jnp.float64 else jnp.float32)
