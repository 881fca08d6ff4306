"""The figure of what movements of images do to poses."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from capsjax import figures
from capsjax.analyses.robustness.equivariance import R2, Equivariance
from capsjax.analyses.robustness.poses import MOVES
from capsjax.analyses.robustness.warps import WARPS

# Less says no more than that the map is of no use; it would hide the rest.
_LOWEST = -0.5


def readings(found: Sequence[Equivariance], data: str) -> Figure:
    """Both readings of equivariance, each network beside the others.

    Args:
        found: what was found of each network.
        data: name of the data set in words.
    """
    figure, (change, pose, amount) = figures.subplots(3, 1, figsize=(12, 10))
    names = [f"{name}\n{amount:g}" for name, amount in MOVES]
    for number, one in enumerate(found):
        aside = 0.6 * ((number + 0.5) / len(found) - 0.5)
        moved = [one.moved[move] for move in MOVES]
        label = figures.shortened(one.run, 40)
        _points(change, [x.change for x in moved], aside, number, label)
        _points(change, [x.mean for x in moved], aside, number, "", marker="x")
        _points(pose, [x.pose for x in moved], aside, number, label)
        _points(amount, [*one.amounts.values()], aside, number, label)
    titles = {
        change: "R2 of the pose's change: by a linear map of the pose (dots), by the "
        "class's mean change (crosses)",
        pose: "R2 of the moved image's pose about its class's mean, by the linear map",
        amount: "R2 of the amount of the movement, read from the pose",
    }
    for axes, title in titles.items():
        ticks = [*WARPS] if axes is amount else names
        axes.set_xticks(range(len(ticks)), ticks)
        axes.set(title=title, ylabel="R2, held-out images", ylim=(_LOWEST - 0.05, 1.05))
        axes.axhline(0, color="black", linewidth=0.8)
        axes.grid(axis="y", alpha=0.3)
    change.legend()
    figure.suptitle(f"Equivariance on {data}")
    return figure


def _points(
    axes: Axes,
    found: Sequence[R2],
    aside: float,
    number: int,
    label: str,
    marker: str = "o",
) -> None:
    values, low, high = np.maximum(np.array(found).T, _LOWEST)
    axes.errorbar(
        np.arange(len(found)) + aside,
        values,
        yerr=np.maximum([values - low, high - values], 0),
        fmt=marker,
        ms=4,
        elinewidth=1,
        color=f"C{number}",
        label=label or None,
    )
