"""Elastic distortion of images, like the trembling of a writing hand.

References:
    Simard, Steinkraus and Platt 2003, "Best Practices for Convolutional Neural Networks
    Applied to Visual Document Analysis", section 2.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from capsjax.training import geometry

_RADIUS = 4  # Standard deviations at which the Gaussian ends.


def distort(
    image: Float[Array, "H W C"], key: Key[Array, ""], *, sigma: float, alpha: float
) -> Float[Array, "H W C"]:
    """Moves every pixel a little, neighbours alike; bilinear, zero fill.

    Args:
        image: image of any size; the size does not change.
        key: the image's random key.
        sigma: standard deviation in pixels of the Gaussian that smooths the moves.
        alpha: largest move along each axis before smoothing, in pixels.
    """
    H, W, _ = image.shape
    moves = displacements(jax.random.uniform(key, (2, H, W), minval=-1.0), sigma, alpha)
    row, column = jnp.meshgrid(
        jnp.arange(H, dtype=jnp.float32),
        jnp.arange(W, dtype=jnp.float32),
        indexing="ij",
    )
    return geometry.sample(image, [row + moves[0], column + moves[1]])


def displacements(
    noise: Float[Array, "2 H W"], sigma: float, alpha: float
) -> Float[Array, "2 H W"]:
    """``alpha`` times the noise, smoothed by a Gaussian; zero outside of the image.

    Two matrix products, one along each axis.
    """
    rows, columns = (jnp.asarray(_gaussian(n, sigma)) for n in noise.shape[1:])
    # A GPU would round the products more coarsely.
    highest = jax.lax.Precision.HIGHEST
    smooth = jnp.einsum(
        "ih,ahw,jw->aij", rows, noise, columns, precision=highest, optimize=True
    )
    return alpha * smooth


def _gaussian(size: int, sigma: float) -> Float[np.ndarray, "N N"]:
    """Weights of every pixel's neighbours along an axis, those outside left out."""
    radius = int(_RADIUS * sigma + 0.5)
    weights = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    distance = np.arange(size)[:, None] - np.arange(size)[None]
    near = np.abs(distance) <= radius
    whole = weights[np.where(near, distance, 0) + radius] / weights.sum()
    return np.where(near, whole, 0).astype(np.float32)
