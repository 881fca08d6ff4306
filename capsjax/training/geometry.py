"""Linear maps of images, and images sampled between their pixels."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def affine(
    image: Float[Array, "H W C"], matrix: Float[Array, "2 2"]
) -> Float[Array, "H W C"]:
    """Applies a linear map about the image's centre; bilinear, zero fill.

    Args:
        image: image of any size; the size does not change.
        matrix: invertible map from a pixel's (row, column) offset from the centre to
            its new offset.
    """
    (a, b), (c, d) = matrix
    determinant = a * d - b * c
    H, W, _ = image.shape
    centre = (H - 1) / 2, (W - 1) / 2
    # Explicit products and sums: a GPU would round a matrix product more coarsely.
    row, column = jnp.meshgrid(
        jnp.arange(H, dtype=jnp.float32) - centre[0],
        jnp.arange(W, dtype=jnp.float32) - centre[1],
        indexing="ij",
    )
    places = [
        (d * row - b * column) / determinant + centre[0],
        (a * column - c * row) / determinant + centre[1],
    ]
    return sample(image, places)


def sample(
    image: Float[Array, "H W C"], places: Sequence[Float[Array, "h w"]]
) -> Float[Array, "h w C"]:
    """The image between its pixels; bilinear, zero outside.

    Args:
        image: image of any size.
        places: row and column of each pixel of the result.
    """
    return jax.vmap(
        lambda channel: jax.scipy.ndimage.map_coordinates(channel, places, order=1),
        in_axes=2,
        out_axes=2,
    )(image)


def affine_matrix(
    angle: Float[Array, ""], scale: Float[Array, " 2"], shear: Float[Array, ""]
) -> Float[Array, "2 2"]:
    """Returns the matrix for `affine` that scales, then shears, then rotates.

    Args:
        angle: counterclockwise angle in degrees.
        scale: factors of the image's height and width.
        shear: pixels that a row moves to the right per pixel below the centre.
    """
    radians = jnp.deg2rad(angle)
    cos, sin = jnp.cos(radians), jnp.sin(radians)
    # rotation [[cos, -sin], [sin, cos]] times shear [[1, 0], [shear, 1]].
    turned = jnp.array([[cos - sin * shear, -sin], [sin + cos * shear, cos]])
    return turned * scale[None]
