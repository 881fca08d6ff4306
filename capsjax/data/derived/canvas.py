"""Digits on a larger canvas, for MultiMNIST, expanded MNIST and affNIST."""

import numpy as np
import numpy.typing as npt

from capsjax.data.datasets import ImageSet
from capsjax.errors import UserError


def check(image_set: ImageSet, side: int, shift: int, what: str) -> None:
    """Refuses a canvas that is too small for the digits.

    Args:
        image_set: the digits.
        side: the canvas's height and width in pixels.
        shift: the largest shift from its centre in pixels.
        what: the data set to be made, for the error text.

    Raises:
        UserError: the canvas is smaller than the digits, or the shift could move a
            digit off it.
    """
    height, width, _ = image_set.image_shape
    if side < max(height, width):
        raise UserError(
            f"{what}: config.data.canvas is {side}, but the digits have "
            f"{height}x{width} pixels; choose at least {max(height, width)}"
        )
    if not 0 <= shift <= side // 2:
        raise UserError(
            f"{what}: config.data.shift is {shift}; choose 0..{side // 2}, half of "
            f"config.data.canvas"
        )


def centre(images: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """Puts images in the middle of black canvases.

    Args:
        images: [N, H, W, C].
        side: the canvas's height and width in pixels, at least H and W.

    Returns:
        uint8 [N, side, side, C].
    """
    margins = [
        ((side - size) // 2, side - size - (side - size) // 2)
        for size in images.shape[1:3]
    ]
    return np.pad(images, [(0, 0), *margins, (0, 0)])


def shift(
    images: npt.NDArray[np.uint8], shifts: npt.NDArray[np.integer]
) -> npt.NDArray[np.uint8]:
    """Moves each image by whole pixels, filling with zeros.

    Args:
        images: [N, H, W, C].
        shifts: [N, 2], pixels down and to the right.

    Returns:
        uint8 [N, H, W, C].
    """
    n, height, width, _ = images.shape
    most = int(np.abs(shifts).max(initial=0))
    padded = np.pad(images, [(0, 0), (most, most), (most, most), (0, 0)])
    rows = most - shifts[:, :1] + np.arange(height)
    columns = most - shifts[:, 1:] + np.arange(width)
    return padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
