"""Corruptions of images that leave their class as it was, after MNIST-C.

The fifteen of MNIST-C, written anew from its definitions: the arrays that its authors
publish have other random numbers. What a corruption does to an image depends on the
image, a seed and the image's number alone, so that batches and subsets change nothing.

Lengths in pixels are MNIST-C's at 28x28 pixels and grow with an image's shorter side.
Noise is drawn for each number of a pixel; whatever lies over an image, such as fog or a
line, covers all of its channels; blurs, moves and edges are each channel's own.

References:
    Mu and Gilmer 2019, "MNIST-C: A Robustness Benchmark for Computer Vision", and the
    levels of severity of its code.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.ndimage

from capsjax.data import overlays
from capsjax.errors import UserError

Image = npt.NDArray[np.float64]
"""Values in [0, 1], [H, W, C]."""

_LEAST_SIDE = 4  # Of images that have quarters.


class Corruption(NamedTuple):
    """A way to corrupt images.

    Attributes:
        number: its number in random seeds, which must not change.
        function: function of an image, a level and a generator to the corrupted image,
            whose values may leave [0, 1].
        levels: what the function takes at each severity, from 1; one of None for a
            corruption that has no severities.
        severity: the severity that MNIST-C has.
    """

    number: int
    function: Callable[[Image, Any, np.random.Generator], Image]
    levels: tuple[Any, ...] = (None,)
    severity: int = 1


def corrupted(
    images: npt.NDArray[np.uint8],
    name: str,
    *,
    seed: int = 0,
    numbers: npt.NDArray[np.integer] | None = None,
    severity: int | None = None,
) -> npt.NDArray[np.uint8]:
    """Corrupts images.

    Args:
        images: uint8 [N, H, W, C].
        name: a name in `CORRUPTIONS`.
        seed: seed of all random numbers.
        numbers: [N], each image's number in its data set; by default 0 .. N - 1.
        severity: from 1, the mildest; by default MNIST-C's.

    Returns:
        uint8 [N, H, W, C].

    Raises:
        UserError: there is no such corruption or severity, or images are too small.
    """
    if name not in CORRUPTIONS:
        raise UserError(
            f"there is no corruption {name!r}; choose from {', '.join(CORRUPTIONS)}"
        )
    one = CORRUPTIONS[name]
    severity = one.severity if severity is None else severity
    if not 1 <= severity <= len(one.levels):
        raise UserError(
            f"{name} has no severity {severity}; give one from 1 to {len(one.levels)}"
        )
    if min(images.shape[1:3]) < _LEAST_SIDE:
        height, width = images.shape[1:3]
        raise UserError(
            f"corruptions are for images of at least {_LEAST_SIDE}x{_LEAST_SIDE} "
            f"pixels, and these have {width}x{height}; leave corruptions out"
        )
    result = np.empty_like(images)
    numbers = np.arange(len(images)) if numbers is None else numbers
    for image, target, number in zip(images, result, numbers, strict=True):
        rng = np.random.default_rng((seed, one.number, int(number)))
        found = one.function(image / 255.0, one.levels[severity - 1], rng)
        target[...] = np.rint(255 * np.clip(found, 0, 1))
    return result


def _scale_of(image: Image) -> float:
    """Pixels for each of MNIST's."""
    return min(image.shape[:2]) / 28


def _shot_noise(image: Image, photons: float, rng: np.random.Generator) -> Image:
    return rng.poisson(image * photons) / photons


def _impulse_noise(image: Image, share: float, rng: np.random.Generator) -> Image:
    is_hit = rng.random(image.shape) < share
    return np.where(is_hit, rng.random(image.shape) < 0.5, image)


def _blurred(image: Image, sigma: float) -> Image:
    return scipy.ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="nearest")


def _glass_blur(
    image: Image, level: tuple[float, int, int], rng: np.random.Generator
) -> Image:
    """Blurs, swaps pixels with near ones, and blurs again.

    As in MNIST-C's code, a partner lies to the left or above, never further down or
    right, and the first rows and columns are partners alone.
    """
    sigma, distance, rounds = level
    scale = _scale_of(image)
    distance = max(1, round(distance * scale))
    pixels = np.floor(255 * _blurred(image, sigma * scale)) / 255
    H, W, C = pixels.shape
    # Numbers of pixels move, in a list: arrays take far longer one by one.
    order = list(range(H * W))
    for _ in range(rounds):
        swaps = (rng.random((H, W)) < 0.5).tolist()
        moves = (rng.integers(-distance, distance, (H, W, 2)) @ (W, 1)).tolist()
        for row in range(H - distance, distance, -1):
            for column in range(W - distance, distance, -1):
                if swaps[row][column]:
                    here = row * W + column
                    there = here + moves[row][column]
                    order[here], order[there] = order[there], order[here]
    pixels = pixels.reshape(H * W, C)[order].reshape(H, W, C)
    return _blurred(pixels, sigma * scale)


def _motion_blur(
    image: Image, level: tuple[float, float], rng: np.random.Generator
) -> Image:
    """Means along a line to one side, as ImageMagick's motion blur takes them."""
    scale = _scale_of(image)
    reach, sigma = max(1, round(level[0] * scale)), level[1] * scale
    angle = np.deg2rad(rng.uniform(-45, 45))
    steps = np.arange(2 * reach + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    downs, rights = (
        np.ceil(steps * part - 0.5).astype(int)
        for part in (np.sin(angle), np.cos(angle))
    )
    H, W, _ = image.shape
    result = np.zeros_like(image)
    for weight, down, right in zip(weights / weights.sum(), downs, rights, strict=True):
        rows = np.clip(np.arange(H) + down, 0, H - 1)
        columns = np.clip(np.arange(W) + right, 0, W - 1)
        result += weight * image[np.ix_(rows, columns)]
    return result


def _mapped(image: Image, matrix: npt.NDArray[np.float64]) -> Image:
    """The image at ``matrix`` times each pixel's (row, column) from the centre."""
    centre = (np.array(image.shape[:2]) - 1) / 2
    offset = centre - matrix @ centre
    channels = [
        scipy.ndimage.affine_transform(
            image[..., channel], matrix, offset, order=1, mode="grid-constant"
        )
        for channel in range(image.shape[2])
    ]
    return np.stack(channels, axis=-1)


def _shear(image: Image, radians: float, rng: np.random.Generator) -> Image:
    """Shears as scikit-image 0.14 does, whose sheared images also grow in height."""
    angle = rng.choice([-1, 1]) * radians
    return _mapped(image, np.array([[np.cos(angle), 0], [-np.sin(angle), 1]]))


def _shrink(image: Image, factor: float, rng: np.random.Generator) -> Image:
    return _mapped(image, np.eye(2) / factor)


def _rotate(image: Image, radians: float, rng: np.random.Generator) -> Image:
    angle = rng.choice([-1, 1]) * radians
    cos, sin = np.cos(angle), np.sin(angle)
    return _mapped(image, np.array([[cos, sin], [-sin, cos]]))


def _translate(image: Image, pixels: int, rng: np.random.Generator) -> Image:
    most = max(1, round(pixels * _scale_of(image)))
    down, right = most * rng.choice([-1, 1], 2)
    return scipy.ndimage.shift(image, (down, right, 0), order=0)


def _brightness(image: Image, amount: float, rng: np.random.Generator) -> Image:
    """Adds to the value of HSV, a pixel's largest number; hue, saturation stay."""
    value = image.max(axis=2, keepdims=True)
    brighter = np.minimum(value + amount, 1)
    ratio = brighter / np.where(value > 0, value, 1)
    return np.where(value > 0, image * ratio, brighter)


def _stripe(image: Image, _: None, rng: np.random.Generator) -> Image:
    """Inverts the quarters of the columns at both sides."""
    quarter = image.shape[1] // 4
    result = image.copy()
    for part in (result[:, :quarter], result[:, -quarter:]):
        part[...] = 1 - part
    return result


def _fog(image: Image, level: tuple[float, float], rng: np.random.Generator) -> Image:
    amount, decay = level
    H, W, _ = image.shape
    highest = image.max()
    fog = overlays.plasma(max(H, W, 256), decay, rng)[:H, :W, None]
    return (image + amount * fog) * highest / (highest + amount)


def _spatter(
    image: Image,
    level: tuple[float, float, float, float, float],
    rng: np.random.Generator,
) -> Image:
    """Drops of mud, of a dark grey."""
    mean, deviation, sigma, threshold, edge = level
    scale = _scale_of(image)
    noise = rng.normal(mean, deviation, (*image.shape[:2], 1))
    drops = (_blurred(noise, sigma * scale) > threshold).astype(np.float64)
    mask = _blurred(drops, edge * scale)
    mask[mask < 0.8] = 0
    return image * (1 - mask) + 63 / 255 * mask


def _dotted_line(image: Image, _: None, rng: np.random.Generator) -> Image:
    return image + overlays.dotted_line(image.shape[:2], _scale_of(image), rng)


def _zigzag(image: Image, _: None, rng: np.random.Generator) -> Image:
    return image + overlays.zigzag(image.shape[:2], _scale_of(image), rng)


def _canny_edges(image: Image, _: None, rng: np.random.Generator) -> Image:
    edges = [overlays.canny(image[..., c], 1.0) for c in range(image.shape[2])]
    return np.stack(edges, axis=-1)


_ANGLES = (0.2, 0.4, 0.6, 0.8, 1.0)  # Radians.
CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType(
    {
        "shot_noise": Corruption(0, _shot_noise, (60, 25, 12, 5, 3), 5),
        "impulse_noise": Corruption(
            1, _impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27), 4
        ),
        "glass_blur": Corruption(
            2,
            _glass_blur,
            ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        ),
        "motion_blur": Corruption(
            3, _motion_blur, ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))
        ),
        "shear": Corruption(4, _shear, _ANGLES, 2),
        "scale": Corruption(5, _shrink, (0.9, 0.8, 0.7, 0.6, 0.5), 3),
        "rotate": Corruption(6, _rotate, _ANGLES, 2),
        "brightness": Corruption(7, _brightness, (0.1, 0.2, 0.3, 0.4, 0.5), 5),
        "translate": Corruption(8, _translate, (1, 2, 3, 4, 5), 3),
        "stripe": Corruption(9, _stripe),
        "fog": Corruption(
            10, _fog, ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)), 5
        ),
        "spatter": Corruption(
            11,
            _spatter,
            (
                (0.65, 0.3, 4.0, 0.69, 0.6),
                (0.65, 0.3, 3.0, 0.68, 0.6),
                (0.65, 0.3, 2.0, 0.68, 0.5),
                (0.65, 0.3, 1.0, 0.65, 1.5),
                (0.67, 0.4, 1.0, 0.65, 1.5),
            ),
            4,
        ),
        "dotted_line": Corruption(12, _dotted_line),
        "zigzag": Corruption(13, _zigzag),
        "canny_edges": Corruption(14, _canny_edges),
    }
)
"""By name, in MNIST-C's order."""
