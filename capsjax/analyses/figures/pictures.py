"""Grids of pictures, shared by the figures of what a model sees and draws."""

from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from capsjax.training.trained import Reconstruct

RIGHT, WRONG = "tab:green", "tab:red"
"""Colours of predictions."""


def grid(
    figure: Figure | SubFigure, rows: int, columns: int, **options: Any
) -> np.ndarray:
    """Axes [rows, columns] without frames; ``options`` as for ``Figure.subplots``."""
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for one in axes.flat:
        one.set_axis_off()
    return axes


def name_row(axes: Axes, name: str, x: float = -0.1, **style: Any) -> None:
    """Writes a name to the left of a row's first picture."""
    style |= {"transform": axes.transAxes, "ha": "right", "va": "center"}
    axes.text(x, 0.5, name, **style)


def shown(image: np.ndarray) -> np.ndarray:
    """An image [H, W, C] as matplotlib shows it: with one, three or four channels."""
    return image if image.shape[2] in (3, 4) else image[:, :, 0]


def reconstructed(
    reconstruct: Reconstruct, images: np.ndarray, classes: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Images as the model sees them, and its reconstructions if it has a decoder.

    Args:
        reconstruct: function of `capsjax.training.trained.TrainedModel`.
        images: uint8 [n, H, W, C].
        classes: int [n] or [n, K], the classes to draw.
        size: batch size, at least n; the function compiles once for each size.
    """

    def padded(array: np.ndarray) -> np.ndarray:
        return np.pad(array, [(0, size - len(array))] + [(0, 0)] * (array.ndim - 1))

    def cut(batch: jax.Array) -> np.ndarray:
        return np.asarray(batch)[: len(images)]

    seen, drawn = reconstruct(padded(images), padded(classes))
    return cut(seen), None if drawn is None else cut(drawn)
