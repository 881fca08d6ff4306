"""Activation functions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """``max(x, 0)``, whose gradient keeps the result and not the argument.

    The layer after it keeps the result anyway: what is saved is the features of a whole
    batch, once. The gradient at 0 is 0. Reverse-mode gradients only.
    """
    return jax.nn.relu(x)


def _relu_fwd(x: Array) -> tuple[Array, Array]:
    # Behind a barrier, or XLA makes the result again from the argument, which it keeps.
    y = jax.lax.optimization_barrier(relu(x))
    return y, y


def _relu_bwd(y: Array, gradient: Array) -> tuple[Array]:
    return (jnp.where(y > 0, gradient, jnp.zeros_like(gradient)),)


relu.defvjp(_relu_fwd, _relu_bwd)


def scaled_tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """``1.7159 tanh(2 x / 3)``, which maps 1 and -1 to themselves.

    References:
        LeCun, Bottou, Bengio and Haffner 1998, "Gradient-Based Learning Applied to
        Document Recognition", appendix A.
    """
    return 1.7159 * jnp.tanh(x * (2 / 3))
