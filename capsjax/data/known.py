"""Sizes of data sets that are known without loading them."""

from typing import NamedTuple


class Sizes(NamedTuple):
    """Shape (H, W, C) of a data set's images, and its number of classes."""

    image_shape: tuple[int, int, int]
    num_classes: int


_STORED = {
    "digits": Sizes((8, 8, 1), 10),
    "mnist": Sizes((28, 28, 1), 10),
    "fashion_mnist": Sizes((28, 28, 1), 10),
    "kmnist": Sizes((28, 28, 1), 10),
    "cifar10": Sizes((32, 32, 3), 10),
    "svhn_cropped": Sizes((32, 32, 3), 10),
    "smallnorb": Sizes((48, 48, 2), 5),
    "mnist1d": Sizes((1, 40, 2), 10),
    "faces": Sizes((28, 28, 1), 2),
    "spoken_digits": Sizes((1, 8_000, 2), 10),
}
VOXELS = (16, 16, 16)
"""Shape of extruded digits: rows, columns, and their depth in place of channels."""

_ON_CANVAS = ("multimnist", "expanded", "affnist")


def known_sizes(name: str, image_size: int, base: str, canvas: int) -> Sizes | None:
    """Sizes of a data set as `capsjax.data.load` returns it with these arguments.

    Args:
        name: the data set's name.
        image_size: side in pixels to which images are resized; 0 keeps them as stored.
        base: the data set that derived data sets are made from.
        canvas: side in pixels of those.

    Returns:
        None for the user's own images, data sets made from them, and unknown names.
    """
    on_canvas = name in _ON_CANVAS
    stored = _STORED.get(base if on_canvas or name == "extruded" else name)
    if stored is None:
        return None
    if name == "extruded":
        return stored._replace(image_shape=VOXELS)
    H, W, C = stored.image_shape
    side = canvas if on_canvas else image_size
    return stored._replace(image_shape=(side or H, side or W, C))
