"""The figure of what the dimensions of a class capsule mean: a row for each."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from capsjax import figures
from capsjax.analyses.figures.pictures import shown

_TILE_INCHES = 0.6


def dimensions(
    title: str, image: np.ndarray, drawn: np.ndarray, deltas: Sequence[float]
) -> Figure:
    """Reconstructions in rows (dimensions) and columns (deltas), the input beside.

    Args:
        title: title of the figure.
        image: [H, W, C] in [0, 1]; the input.
        drawn: [Q, D, h, w, C] in [0, 1]; the reconstructions.
        deltas: D numbers, what each column adds to a dimension.

    References:
        Sabour, Frosst and Hinton 2017, figure 4.
    """
    Q, D, h, w, C = drawn.shape
    gap = max(1, w // 12)
    gaps = [(0, 0), (0, 0), (0, gap), (0, gap), (0, 0)]
    tiles = np.pad(drawn, gaps, constant_values=1.0)  # White between them.
    mosaic = tiles.swapaxes(1, 2).reshape(Q * (h + gap), D * (w + gap), C)
    width = _TILE_INCHES * D
    height = _TILE_INCHES * Q * h / w
    figure = figures.new(figsize=(width + 3.4, height + 1.6))
    figure.suptitle(title)
    beside, grid = figure.subplots(1, 2, width_ratios=(1.7, width))

    beside.imshow(shown(image), cmap="gray", vmin=0, vmax=1)
    beside.set_title("input", fontsize=10)
    beside.set_axis_off()
    beside.set_anchor("N")

    grid.imshow(shown(mosaic[:-gap, :-gap]), cmap="gray", vmin=0, vmax=1)
    grid.set_anchor("N")
    # Pixel coordinates are those of their centres.
    middles = (w - 1) / 2 + (w + gap) * np.arange(D)
    grid.set_xticks(middles, [f"{delta:+.3g}" if delta else "0" for delta in deltas])
    middles = (h - 1) / 2 + (h + gap) * np.arange(Q)
    grid.set_yticks(middles, [f"dimension {q}" for q in range(1, Q + 1)])
    grid.tick_params(length=0, labeltop=True)
    grid.xaxis.set_label_position("top")
    grid.set_xlabel("added to the dimension")
    grid.spines[:].set_visible(False)
    return figure
