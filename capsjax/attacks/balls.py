"""Balls around images, cut by [0, 1]: distances, projections, random points.

What a projection returns lies in the ball exactly, also in exact arithmetic.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from capsjax.attacks.base import Images, Keys, per_example

Norm = Literal["linf", "l2"]
NORMS: tuple[Norm, ...] = ("linf", "l2")

# Relative part of a radius by which an L2 ball is made smaller: the float32 error of a
# sum of squares over all pixels stays below it.
_MARGIN = 1e-5


def distances(images: Images, others: Images, norm: Norm) -> Float[Array, " B"]:
    """Distances between images, pair by pair."""
    difference = jnp.abs(images - others).reshape(len(images), -1)
    if norm == "linf":
        return jnp.max(difference, axis=1)
    return jnp.sqrt(jnp.sum(jnp.square(difference), axis=1))


def project(images: Images, centres: Images, radius: Array, norm: Norm) -> Images:
    """The nearest images in the ball around ``centres`` and in [0, 1].

    In an L2 ball it is the nearest one of the ball, cut off at 0 and 1, which leaves it
    in the ball.

    Args:
        images: any images.
        centres: images in [0, 1].
        radius: radius in units of the full range, [] float32.
        norm: ``"linf"`` for the largest change of a pixel, ``"l2"`` for the Euclidean
            norm of all changes.
    """
    if norm == "linf":
        low, high = _away(centres, -radius), _away(centres, radius)
        return jnp.clip(jnp.clip(images, low, high), 0.0, 1.0)
    change = images - centres
    length = distances(images, centres, norm)
    inner = radius * (1 - _MARGIN)
    factor = jnp.where(length > inner, inner / jnp.where(length > 0, length, 1.0), 1.0)
    return jnp.clip(_away(centres, change * per_example(factor, images)), 0.0, 1.0)


def random_points(centres: Images, keys: Keys, radius: Array, norm: Norm) -> Images:
    """Random points of the ball around each image, evenly distributed, cut by [0, 1].

    Args:
        centres: images in [0, 1].
        keys: random keys, one for each image.
        radius: radius of the balls, [].
        norm: norm of the balls.
    """

    def one(key: Array) -> Array:
        shape = centres.shape[1:]
        if norm == "linf":
            return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)
        direction, length = jax.random.split(key)
        drawn = jax.random.normal(direction, shape)
        # The share of a ball's volume within a radius grows with its d-th power.
        share = jax.random.uniform(length) ** (1 / drawn.size)
        return drawn * (share / jnp.sqrt(jnp.sum(jnp.square(drawn))))

    return project(centres + radius * jax.vmap(one)(keys), centres, radius, norm)


def steepest(gradients: Images, norm: Norm) -> Images:
    """The change of norm 1 that raises the objective most, to first order; or zero."""
    if norm == "linf":
        return jnp.sign(gradients)
    # Scaled first, so that the squares of small gradients do not vanish.
    largest = jnp.max(jnp.abs(gradients), axis=(1, 2, 3), keepdims=True)
    scaled = gradients / jnp.where(largest > 0, largest, 1.0)
    length = jnp.sqrt(jnp.sum(jnp.square(scaled), axis=(1, 2, 3), keepdims=True))
    return scaled / jnp.where(length > 0, length, 1.0)


def _away(centres: Images, change: Array) -> Images:
    """``centres + change``, rounded towards the centres, each pixel by itself."""
    total = centres + change
    # The rounding error of a sum is a float itself (Knuth 1969, section 4.2.2).
    part = total - centres
    error = (centres - (total - part)) + (change - part)
    too_far = jnp.where(change < 0, error > 0, error < 0)
    return jnp.where(too_far, jnp.nextafter(total, centres), total)
