"""Augmentation of handwritten digits as Efficient-CapsNet is trained with it.

Amounts are half-normal with a standard deviation of a third of the largest, which is
where they are cut off: most images change little.

References:
    Byerly, Kalganova and Dear 2021, "No Routing Needed Between Capsules", section 4.2;
    Mazzia, Salvetti and Chiaberge 2021, section 4.1, and their released code.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from capsjax.training import geometry

_LARGEST_ANGLE = 30.0  # Degrees.
_LARGEST_SQUISH = 4  # A fraction of the width.
_ERASED = 4  # Pixels along each side.

Image = Float[Array, "H W C"]


def augment(image: Image, key: Array) -> Image:
    """Rotates half of the images, then shifts, squishes and erases a patch of each.

    Args:
        image: float32 [H, W, C], zero where nothing is written.
        key: the image's random key.
    """
    keys = jax.random.split(key, 4)
    image = _rotate(image, keys[0])
    image = _shift_within_margins(image, keys[1])
    image = _squish(image, keys[2])
    return _erase(image, keys[3])


def _amounts(key: Array, count: int) -> Float[Array, " n"]:
    """Signed amounts in (-1, 1)."""
    return jnp.clip(0.33 * jax.random.normal(key, (count,)), -0.9999, 0.9999)


def _rotate(image: Image, key: Array) -> Image:
    amount, turns = _amounts(key, 2)
    angle = jnp.trunc(amount * _LARGEST_ANGLE)
    one = jnp.ones(2, jnp.float32)
    turned = geometry.affine(image, geometry.affine_matrix(angle, one, jnp.zeros(())))
    return jnp.where(turns > 0, image, turned)


def _shift_within_margins(image: Image, key: Array) -> Image:
    """Moves what is written by up to the empty rows and columns around it."""
    amount_key, direction_key = jax.random.split(key)
    amounts = jnp.abs(_amounts(amount_key, 2))
    backwards = jax.random.bernoulli(direction_key, shape=(2,))
    for axis in (0, 1):
        size = image.shape[axis]
        written = jnp.any(image > 0, axis=(1 - axis, 2))
        before = jnp.argmax(written)
        after = jnp.argmax(written[::-1])
        # An empty image may move anywhere.
        back = -jnp.ceil(amounts[axis] * before.astype(jnp.float32))
        on = jnp.floor(amounts[axis] * (1 + after).astype(jnp.float32))
        shift = jnp.where(backwards[axis], back, on).astype(jnp.int32)
        places = (jnp.arange(size) - shift) % size
        image = jnp.take(image, places, axis=axis)
    return image


def _squish(image: Image, key: Array) -> Image:
    """Makes the image narrower by up to a quarter and puts it near the middle."""
    H, W, C = image.shape
    amounts = jnp.abs(_amounts(key, 2))
    lost = jnp.floor(amounts[0] * (W / _LARGEST_SQUISH) + 1)
    offset = jnp.floor(lost / 2) + jnp.floor(2 * amounts[1])
    scale = jnp.stack([(W - lost) / W])
    squished = jax.image.scale_and_translate(
        image, (H, W, C), (1,), scale, jnp.stack([offset]), "lanczos3"
    )
    return jnp.clip(squished, 0, 1)


def _erase(image: Image, key: Array) -> Image:
    """Sets a small square to zero, at least its own size from the left and the top."""
    H, W, _ = image.shape
    limits = jnp.array([H - 2 * _ERASED - 1, W - 2 * _ERASED - 1])
    row, column = _ERASED + jax.random.randint(key, (2,), 0, limits)
    rows = (jnp.arange(H) >= row) & (jnp.arange(H) < row + _ERASED)
    columns = (jnp.arange(W) >= column) & (jnp.arange(W) < column + _ERASED)
    erased = rows[:, None] & columns[None]
    return jnp.where(erased[:, :, None], jnp.zeros_like(image), image)
