"""The figure of test errors against the number of training images."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from capsjax import figures
from capsjax.analyses.power_law import Curve


def errors(curves: Sequence[Curve], data: str) -> Figure:
    """Mean errors with bands of 95 % and fitted laws, on logarithmic axes.

    Args:
        curves: a curve for each network.
        data: name of the data set in words.
    """
    figure, axes = figures.subplots(figsize=(7.5, 5))
    # Errors of zero, and what an interval has below it, have no logarithm.
    positive = [e.value for curve in curves for e in curve.errors if e.value > 0]
    floor = 0.5 * min(positive, default=0.1)
    for number, curve in enumerate(curves):
        color = f"C{number}"
        n = np.array(curve.images)
        values, low, high = np.clip(np.array(curve.errors).T, floor, 100)
        label = curve.network
        if curve.law:
            a, b = curve.law
            label += f": {a:.3g} n^-{b:.2f}"
            axes.plot(n, np.minimum(a * n**-b, 100.0), ":", color=color)
        axes.plot(n, values, "o-", color=color, markersize=4, label=label)
        if all(np.isfinite(error.low) for error in curve.errors):
            axes.fill_between(n, low, high, color=color, alpha=0.15, linewidth=0)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="training images of each class",
        ylabel="test error, %",
        title=f"Test error on {data} against training images",
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    images = sorted({n for curve in curves for n in curve.images})
    axes.set_xticks(images, [f"{n:,}" for n in images])
    axes.minorticks_off()
    low, high = axes.get_ylim()
    ticks = [x * 10.0**p for p in range(-3, 3) for x in (1, 2, 5)]
    shown = [x for x in ticks if low <= x <= high]
    axes.set_yticks(shown, [f"{x:g}" for x in shown])
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
