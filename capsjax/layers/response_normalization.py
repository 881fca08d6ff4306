"""Local response normalisation, over neighbouring channels."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from capsjax.layers.recording import Window, layer_function
from kernels.dtypes import accumulation_dtype


@layer_function(lambda arguments: Window(1, 1))
def local_response_normalization(
    x: Float[Array, "B H W C"],
    *,
    channels: int = 5,
    k: float = 2.0,
    alpha: float = 1e-4,
    beta: float = 0.75,
) -> Float[Array, "B H W C"]:
    """Divides each number by a power of the squares of its neighbours in channel.

    ``b_c = a_c / (k + alpha * sum over n neighbours c' of a_c'^2)^beta``, the paper's
    form and constants. Caffe and PyTorch divide their alpha by n.

    Args:
        x: features.
        channels: number n of neighbours, the channel itself among them.
        k: constant under the power.
        alpha: weight of the sum of squares.
        beta: the power.

    References:
        Krizhevsky, Sutskever and Hinton 2012, "ImageNet Classification with Deep
        Convolutional Neural Networks", section 3.3.
    """
    wide = x.astype(accumulation_dtype(x.dtype))
    before = (channels - 1) // 2
    squares = jnp.pad(wide**2, [(0, 0)] * 3 + [(before, channels - 1 - before)])
    C = x.shape[3]
    total = sum(squares[..., i : i + C] for i in range(channels))
    return (wide * _power(k + alpha * total, beta)).astype(x.dtype)


def _power(base: Array | float, beta: float) -> Array:
    """``base ** -beta``; roots are several times as fast as a power on a CPU."""
    if beta != 0.75:
        return base**-beta
    root = jax.lax.rsqrt(base)
    return root * jnp.sqrt(root)
