"""Images cut into tiles that change places: the content stays, the arrangement goes.

A test of whether a trained network cares where things are. Which tile goes where is
drawn for each image, and no tile stays in its place.
"""

import numpy as np
import numpy.typing as npt

from capsjax.data.datasets import ImageSet
from capsjax.errors import UserError

_SEED = 2_412


def permuted(images: ImageSet, grid: int = 2) -> ImageSet:
    """Images [N, H, W, C] whose tiles have changed places.

    Args:
        images: N images of one class each or several.
        grid: tiles along each side, at least 2.

    Returns:
        As many images of the same shape, with their labels.

    Raises:
        UserError: the grid does not divide the images' sides, or has a single tile.
    """
    tiles = cut(images.images, grid)
    order = derangements(len(tiles), grid**2)
    moved = np.take_along_axis(tiles, order[:, :, None, None, None], axis=1)
    return ImageSet(joined(moved, grid), images.labels, keys=images.keys)


def cut(images: npt.NDArray[np.uint8], grid: int) -> npt.NDArray[np.uint8]:
    """Tiles [N, grid * grid, h, w, C], row by row, of images [N, H, W, C].

    Raises:
        UserError: the grid does not divide the images' sides, or has a single tile.
    """
    N, H, W, C = images.shape
    if grid < 2 or H % grid or W % grid:
        raise UserError(
            f"images of {H}x{W} pixels cannot be cut into {grid}x{grid} tiles; choose "
            "a grid of at least 2 that divides both sides, or resize the images "
            "(config.data.image_size)"
        )
    rows = images.reshape(N, grid, H // grid, grid, W // grid, C)
    return rows.swapaxes(2, 3).reshape(N, grid**2, H // grid, W // grid, C)


def joined(tiles: npt.NDArray[np.uint8], grid: int) -> npt.NDArray[np.uint8]:
    """Images [N, H, W, C] of tiles [N, grid * grid, h, w, C]: the inverse of `cut`."""
    N, _, h, w, C = tiles.shape
    rows = tiles.reshape(N, grid, grid, h, w, C).swapaxes(2, 3)
    return rows.reshape(N, grid * h, grid * w, C)


def derangements(count: int, items: int) -> npt.NDArray[np.intp]:
    """[count, items]: for each number below ``count``, an order that moves every item.

    A row is a function of its number; all orders without a fixed point are as likely.

    Args:
        count: number of orders.
        items: items of each, at least 2.
    """
    orders = np.empty((count, items), np.intp)
    places = np.arange(items)
    for number in range(count):
        rng = np.random.default_rng([_SEED, number])
        order = rng.permutation(items)
        while np.any(order == places):
            order = rng.permutation(items)
        orders[number] = order
    return orders
