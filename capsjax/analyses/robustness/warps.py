"""Images turned, scaled, sheared and shifted by known amounts.

Every network sees the same uint8 images: moved in float32, about the centre, bilinear
with zeros outside, and rounded.
"""

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jaxtyping import Array, Float, UInt8

from capsjax.training import augment, geometry

_CHUNK = 256  # Images that are moved at a time.


class Warp(NamedTuple):
    """A kind of movement.

    Attributes:
        unit: what its amounts are, in words.
        identity: the amount that changes nothing.
        curve: ascending amounts at which accuracy is measured; ``identity`` is one.
        small: amounts at which poses are compared with those of upright images.
    """

    unit: str
    identity: float
    curve: tuple[float, ...]
    small: tuple[float, ...]


WARPS: Mapping[str, Warp] = MappingProxyType(
    {
        "rotation": Warp(
            "degrees counterclockwise",
            0.0,
            tuple(float(angle) for angle in range(0, 190, 10)),
            (5.0, 10.0, 15.0, 20.0, 30.0),
        ),
        "scale": Warp(
            "times as large",
            1.0,
            tuple(tenths / 10 for tenths in range(5, 16)),
            (0.8, 0.9, 1.1, 1.2),
        ),
        "shear": Warp(
            "pixels to the right for each one down",
            0.0,
            tuple(tenths / 10 for tenths in range(-10, 12, 2)),
            (-0.2, -0.1, 0.1, 0.2),
        ),
        "shift": Warp(
            "pixels to the right",
            0.0,
            tuple(float(pixels) for pixels in range(-8, 9)),
            (1.0, 2.0),
        ),
    }
)


def curve_of(name: str, width: int) -> tuple[float, ...]:
    """The amounts of a warp's curve; shifts by at most half of the images' width."""
    if name == "shift":
        return tuple(x for x in WARPS[name].curve if abs(x) <= width // 2)
    return WARPS[name].curve


def warped(
    images: npt.NDArray[np.uint8], name: str, amount: float
) -> npt.NDArray[np.uint8]:
    """Moves images by the same amount.

    Args:
        images: uint8 [N, H, W, C].
        name: a name in `WARPS`.
        amount: amount in the warp's unit.

    Returns:
        uint8 [N, H, W, C].
    """
    parts = []
    for start in range(0, len(images), _CHUNK):
        part = images[start : start + _CHUNK]
        # Filled up, so that one program serves for all parts.
        padding = [(0, _CHUNK - len(part)), (0, 0), (0, 0), (0, 0)]
        moved = _warp(np.pad(part, padding), np.float32(amount), name)
        parts.append(np.asarray(moved)[: len(part)])
    return np.concatenate(parts)


@functools.partial(jax.jit, static_argnames="name")
def _warp(
    images: UInt8[Array, "B H W C"], amount: Float[Array, ""], name: str
) -> UInt8[Array, "B H W C"]:
    one, zero = jnp.ones_like(amount), jnp.zeros_like(amount)
    matrix = geometry.affine_matrix(
        amount if name == "rotation" else zero,
        jnp.stack([amount if name == "scale" else one] * 2),
        amount if name == "shear" else zero,
    )

    def moved(image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        if name != "shift":
            return geometry.affine(image, matrix)
        H, W, _ = image.shape
        rows, columns = (jnp.arange(size, dtype=jnp.float32) for size in (H, W))
        places = jnp.meshgrid(rows, columns - amount, indexing="ij")
        return geometry.sample(image, places)

    values = jax.vmap(moved)(augment.to_unit_range(images))
    return jnp.round(255 * jnp.clip(values, 0, 1)).astype(jnp.uint8)
