"""The loss of the decoder's reconstructions."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def reconstruction_loss(
    reconstructions: Float[Array, "B *K H W C"], targets: Float[Array, "B *K H W C"]
) -> Float[Array, " B"]:
    """Sum of squared differences over all pixels and channels of an image.

    If K digits are drawn for each image, the sum is over all of them.

    References:
        Sabour, Frosst and Hinton 2017, sections 4.1 and 6.
    """
    pixels = tuple(range(1, targets.ndim))
    return jnp.sum(jnp.square(reconstructions - targets), axis=pixels)
