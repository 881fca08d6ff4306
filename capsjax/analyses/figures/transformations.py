"""The figure of accuracies on changed images."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from capsjax import figures
from capsjax.analyses.intervals import Interval

_COLUMNS = 2


class Panel(NamedTuple):
    """One kind of change.

    Attributes:
        title: its name.
        unit: what its amounts are; empty for changes that have names.
        changes: V amounts, ascending, or names.
        accuracies: V accuracies of each network, by its name.
    """

    title: str
    unit: str
    changes: Sequence[float] | Sequence[str]
    accuracies: Mapping[str, Sequence[Interval]]


def accuracies(panels: Sequence[Panel], data: str) -> Figure:
    """A curve with its band for each network; of named changes, points with bars.

    Args:
        panels: at least one kind of change.
        data: name of the data set in words.
    """
    rows = -(-len(panels) // _COLUMNS)
    figure, grid = figures.subplots(
        rows, min(_COLUMNS, len(panels)), figsize=(12, 4.2 * rows), squeeze=False
    )
    for axes, panel in zip(grid.flat, panels, strict=False):
        draw = _curves if panel.unit else _points
        draw(axes, panel)
        axes.set_title(panel.title)
        axes.grid(alpha=0.3)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    grid.flat[0].legend()
    figure.suptitle(f"Test accuracy on {data} after changes of the images")
    return figure


def _curves(axes: Axes, panel: Panel) -> None:
    for number, (name, found) in enumerate(panel.accuracies.items()):
        values, low, high = 100 * np.array(found).T
        color = f"C{number}"
        axes.plot(panel.changes, values, "o-", ms=3, label=_short(name), color=color)
        axes.fill_between(
            panel.changes, low, high, alpha=0.15, linewidth=0, color=color
        )
    axes.set(xlabel=panel.unit, ylabel="test accuracy, %", ylim=(-2, 102))


def _points(axes: Axes, panel: Panel) -> None:
    count = len(panel.accuracies)
    places = np.arange(len(panel.changes))
    for number, (name, found) in enumerate(panel.accuracies.items()):
        values, low, high = 100 * np.array(found).T
        aside = 0.6 * ((number + 0.5) / count - 0.5)
        axes.errorbar(
            values,
            places + aside,
            xerr=np.maximum([values - low, high - values], 0),
            fmt="o",
            ms=3,
            color=f"C{number}",
            label=_short(name),
        )
    names = [str(name).replace("_", " ") for name in panel.changes]
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="test accuracy, %", xlim=(-2, 102))


def _short(name: str) -> str:
    return figures.shortened(name, 40)
