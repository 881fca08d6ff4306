"""The figure of what networks say to images cut into tiles."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from capsjax import figures
from capsjax.analyses.figures import pictures
from capsjax.analyses.intervals import Interval


def stays_confident(
    shares: Mapping[str, Interval],
    images: npt.NDArray[np.uint8],
    said: Mapping[str, Sequence[str]],
) -> Figure:
    """Some cut images with what each network says to them, and shares with intervals.

    Args:
        shares: of each network, the share of images for which it stays confident.
        images: uint8 [n, H, W, C], cut images.
        said: of each network, a text for each of these images.
    """
    figure = figures.new(figsize=(10, 2.2 + 0.2 * len(said) + 0.45 * len(shares)))
    parts = figure.subfigures(2, 1, squeeze=False, height_ratios=(3, 2))
    upper, lower = parts[:, 0]
    for number, axes in enumerate(pictures.grid(upper, 1, len(images))[0]):
        axes.imshow(pictures.shown(images[number]), cmap="gray")
        texts = [said[network][number] for network in said]
        axes.set_title("\n".join(texts), fontsize=8)
    axes = lower.subplots()
    for place, (_, interval) in enumerate(shares.items()):
        value, low, high = (100 * number for number in interval)
        axes.barh(place, value, color=f"C{place}")
        axes.plot([low, high], [place, place], color="black", linewidth=1.5)
    axes.set_yticks(range(len(shares)), [figures.shortened(name) for name in shares])
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="stays confident, % of the cut test images")
    axes.grid(axis="x", alpha=0.3)
    return figure
