"""Grids of pictures, shared by the figures of what a model sees and draws."""

from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from capsjax.training.trained import Reconstruct

# Height and width of the picture of a signal.
_BARS = 96

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
    """An image [H, W, C] as matplotlib shows it: with one, three or four channels.

    A signal, of one row, becomes bars as high as it is loud; a volume, with its depth
    as more than four channels, the brightest of its voxels along the depth.
    """
    if len(image) == 1:
        return _bars(image[0])
    if image.shape[2] > 4:
        return image.max(axis=2)
    return image if image.shape[2] in (3, 4) else image[:, :, 0]


def _bars(signal: np.ndarray) -> np.ndarray:
    """A picture [H, W] of a signal [L, C] with values in [0, 1]."""
    starts = np.linspace(0, len(signal), min(len(signal), _BARS), endpoint=False)
    loudness = np.maximum.reduceat(signal.max(axis=1), starts.astype(int))
    middle = (_BARS - 1) / 2
    distances = np.abs(np.arange(_BARS) - middle) / middle
    return (distances[:, None] <= loudness).astype(np.float32)


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
