"""Dropout of single numbers, each example by a random key of its own."""

import jax
from flax import nnx
from jaxtyping import Array, Float, Key


class Dropout(nnx.Module):
    """Sets a share of the numbers to zero in training, and scales up the others.

    Attributes:
        dropout: Flax's layer.
        place: number of this layer among those of a network that share the examples'
            keys, or None for the only one.

    References:
        Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks from
        Overfitting".
    """

    def __init__(self, rate: float, place: int | None = None):
        self.dropout = nnx.Dropout(rate)
        self.place = place

    def __call__(
        self, x: Float[Array, "B *n"], keys: Key[Array, " B"] | None
    ) -> Float[Array, "B *n"]:
        """Drops where keys are given, one for each example; else returns ``x``."""
        if keys is None:
            return x

        def of_one(x: Array, key: Array) -> Array:
            own = key if self.place is None else jax.random.fold_in(key, self.place)
            return self.dropout(x, rngs=own)

        return jax.vmap(of_one)(x, keys)
