"""The figure of what the dimensions of a class capsule mean: a row for each."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from capsjax import figures

_TILE_INCHES = 0.6
_WHITE = 1.0


def dimensions(
    title: str,
    image: np.ndarray,
    drawn: np.ndarray,
    deltas: Sequence[float],
) -> Figure:
    """Reconstructions in rows (dimensions) and columns (deltas), the input beside.

    Args:
        title: of the figure.
        image: [H, W, C] in [0, 1]; the input.
        drawn: [Q, D, h, w, C] in [0, 1], from `perturbations`.
        deltas: D numbers, what each column adds to a dimension.

    References:
        Sabour, Frosst and Hinton 2017, figure 4.
    """
    Q, D, h, w, _ = drawn.shape
    gap = max(1, w // 12)
    mosaic = _mosaic(drawn, gap)
    width = _TILE_INCHES * D
    height = _TILE_INCHES * Q * h / w
    figure = figures.new(figsize=(width + 3.4, height + 1.6))
    figure.suptitle(title)
    beside, grid = figure.subplots(1, 2, width_ratios=(1.7, width))

    beside.imshow(_shown(image), cmap="gray", vmin=0, vmax=1)
    beside.set_title("input", fontsize=10)
    beside.set_axis_off()
    beside.set_anchor("N")

    grid.imshow(mosaic, cmap="gray", vmin=0, vmax=1)
    grid.set_anchor("N")
    # Pixels are counted at their centres.
    middles = (w - 1) / 2 + (w + gap) * np.arange(D)
    grid.set_xticks(middles, [f"{delta:+.3g}" if delta else "0" for delta in deltas])
    middles = (h - 1) / 2 + (h + gap) * np.arange(Q)
    grid.set_yticks(middles, [f"dimension {q}" for q in range(1, Q + 1)])
    grid.tick_params(length=0, labeltop=True)
    grid.xaxis.set_label_position("top")
    grid.set_xlabel("added to the dimension")
    grid.spines[:].set_visible(False)
    return figure


def _mosaic(drawn: np.ndarray, gap: int) -> np.ndarray:
    """All images in one, white between them."""
    Q, D, h, w, C = drawn.shape
    tiles = np.pad(
        drawn, [(0, 0), (0, 0), (0, gap), (0, gap), (0, 0)], constant_values=_WHITE
    )
    rows = tiles.swapaxes(1, 2).reshape(Q * (h + gap), D * (w + gap), C)
    return _shown(rows[:-gap, :-gap])


def _shown(image: np.ndarray) -> np.ndarray:
    """An image as matplotlib shows it: one, three or four channels."""
    return image if image.shape[2] in (3, 4) else image[:, :, 0]
