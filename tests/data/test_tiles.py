"""Tiles that change places."""

import math

import numpy as np
import pytest

from capsjax.data import ImageSet, tiles
from capsjax.errors import UserError


def made(count=30, height=12, width=8, channels=2) -> ImageSet:
    rng = np.random.default_rng(0)
    shape = count, height, width, channels
    images = rng.integers(0, 256, shape, dtype=np.uint8)
    return ImageSet(images, np.arange(count, dtype=np.int32) % 10)


@pytest.mark.parametrize("grid", [2, 4])
def test_tiles_are_the_parts_of_the_image(grid):
    images = made().images
    parts = tiles.cut(images, grid)
    h, w = 12 // grid, 8 // grid
    for number in range(grid**2):
        row, column = divmod(number, grid)
        expected = images[:, row * h : (row + 1) * h, column * w : (column + 1) * w]
        np.testing.assert_array_equal(parts[:, number], expected)
    np.testing.assert_array_equal(tiles.joined(parts, grid), images)


@pytest.mark.parametrize("grid", [2, 4])
def test_the_inverse_order_restores_the_images(grid):
    images = made()
    moved = tiles.permuted(images, grid)
    np.testing.assert_array_equal(moved.labels, images.labels)
    order = tiles.derangements(len(images), grid**2)
    before, after = tiles.cut(images.images, grid), tiles.cut(moved.images, grid)
    back = np.take_along_axis(after, np.argsort(order)[:, :, None, None, None], axis=1)
    np.testing.assert_array_equal(back, before)
    # No tile is where it was.
    assert np.all(np.any(after != before, axis=(2, 3, 4)))


def test_orders_move_everything_and_are_equally_likely():
    orders = tiles.derangements(1_800, 4)
    assert np.all(orders != np.arange(4))
    np.testing.assert_array_equal(np.sort(orders), np.tile(np.arange(4), (1_800, 1)))
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 9  # The subfactorial of 4.
    assert np.all(np.abs(counts - 200) < 5 * math.sqrt(200))


def test_an_order_is_a_function_of_the_images_number():
    np.testing.assert_array_equal(
        tiles.permuted(made()).images[:7],
        tiles.permuted(made().take(np.arange(7))).images,
    )


@pytest.mark.parametrize(("side", "grid"), [(9, 2), (8, 1), (12, 5)])
def test_grids_that_do_not_divide_are_refused(side, grid):
    with pytest.raises(UserError, match=rf"{side}x{side} pixels.*{grid}x{grid} tiles"):
        tiles.permuted(made(3, side, side, 1), grid)
