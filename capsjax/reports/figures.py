"""The figures of a report: curves and test errors of groups of runs."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatter, MaxNLocator

from capsjax import figures
from capsjax.reports.runs import Group

MAX_GROUPS = 20
"""Groups that a figure can show, so that its legend and its height end."""

_MAX_POINTS = 200
_MAX_MARKERS = 30
_MAX_LABEL = 90
_LEGEND_WIDTH = 150  # In letters, of a line of the legend.


def learning_curves(groups: Sequence[Group]) -> Figure:
    """Training loss (left) and validation error (right) against the step.

    A group is a thick line, the mean over its runs at the steps that all of them have,
    with a thin line for each run. Runs that have not ended are dashed, and in no mean.
    Of a long training the mean of neighbouring rows is drawn, and of many groups the
    first `MAX_GROUPS`.
    """
    groups = groups[:MAX_GROUPS]
    names = [_name(group) for group in groups]
    legend_columns = max(1, min(4, _LEGEND_WIDTH // (max(map(len, names)) + 8)))
    legend_rows = -(-len(names) // legend_columns)
    figure, (loss, error) = figures.subplots(
        1, 2, figsize=(11, 4.3 + 0.22 * legend_rows), sharex=True
    )
    colors = _colors(len(groups))
    for group, color in zip(groups, colors, strict=True):
        _draw(loss, group, "train", "loss", color)
        _draw(error, group, "validation", "error_percent", color)
    loss.set(title="Training loss", xlabel="step", ylabel="loss", yscale="log")
    error.set(title="Validation error", xlabel="step", ylabel="error in %")
    # Linear below one error in a thousand images, so that zero can be drawn.
    error.set_yscale("symlog", linthresh=0.1, linscale=0.4, subs=range(2, 10))
    drawn = [np.asarray(line.get_ydata(), float) for line in error.lines]
    lowest = min(map(np.min, drawn), default=0.0)
    highest = max(map(np.max, drawn), default=100.0)
    # No line lies on the frame, which would hide half of it.
    bottom = -0.02 if lowest < 0.1 else lowest / 1.2
    error.set_ylim(bottom, max(1.2 * highest, 0.1))
    for axes in (loss, error):
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(_MinorFormatter(minor_thresholds=(1.5, 0.6)))
        axes.tick_params(axis="y", which="both", labelsize=9)
        axes.xaxis.set_major_locator(_whole_numbers())
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.grid(alpha=0.3)
        axes.grid(which="minor", axis="y", alpha=0.12)
        if not axes.lines:
            axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center")
    figure.legend(
        [Line2D([], [], color=color, linewidth=2) for color in colors],
        names,
        loc="outside lower center",
        ncols=legend_columns,
        fontsize=9,
    )
    return figure


def final_errors(groups: Sequence[Group]) -> Figure:
    """Test errors of groups with ended runs: dots are runs, bars are mean ± std.

    Of many groups it shows the first `MAX_GROUPS`.
    """
    groups = groups[:MAX_GROUPS]
    colors = _colors(len(groups))  # As in the curves.
    drawn = [pair for pair in zip(groups, colors, strict=True) if pair[0].ended]
    names = [_name(group) for group, _ in drawn]
    size = (6 + 0.08 * max(map(len, names)), 0.36 * len(drawn) + 1.3)
    figure, axes = figures.subplots(figsize=size)
    style: dict[str, Any] = {"marker": "|", "markersize": 13, "markeredgewidth": 2}
    style |= {"elinewidth": 1.5, "capsize": 4}
    for y, (group, color) in enumerate(drawn):
        errors = group.test_errors
        std = None if len(errors) == 1 else errors.std()
        axes.errorbar(errors.mean(), y, xerr=std, color=color, **style)
        axes.scatter(errors, [y] * len(errors), color=color, s=22, alpha=0.55, zorder=3)
    every = pd.concat([group.test_errors for group, _ in drawn])
    if every.max() > 20 * max(every.min(), 0.1):
        axes.set_xscale("symlog", linthresh=0.1)
        axes.set_xlim(left=-0.02)  # Half of a dot on the frame would be hidden.
        axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(range(len(drawn)), names)
    axes.set_ylim(len(drawn) - 0.4, -0.6)
    axes.set(xlabel="test error in %")
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    return figure


def png(figure: Figure) -> bytes:
    """A figure as a PNG file; frees it."""
    file = io.BytesIO()
    figures.save(figure, file, dpi=130)
    return file.getvalue()


class _MinorFormatter(LogFormatter):
    """Numbers between the powers of ten where few of these are in view."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def _name(group: Group) -> str:
    """Number and label, as matplotlib can write them: no mathematics, not too long."""
    label = group.label.encode("utf-8", "replace").decode()
    # Fonts have no glyphs for control characters.
    hidden = "\N{REPLACEMENT CHARACTER}"
    label = "".join(c if c.isprintable() else hidden for c in label)
    return f"{group.number}: {figures.shortened(label, _MAX_LABEL)}"


def _draw(axes: Axes, group: Group, split: str, metric: str, color: Any) -> None:
    averaged = group.ended or group.runs
    for run in group.runs:
        if averaged != (run,):
            style = {"linestyle": "-" if run.ended else "--", "linewidth": 0.7}
            _line(axes, run.curve(split, metric), color=color, alpha=0.45, **style)
    curves = [run.curve(split, metric) for run in averaged]
    mean = pd.concat(curves, axis=1, join="inner").mean(axis=1).sort_index()
    style = {"linestyle": "-" if averaged[0].ended else "--", "linewidth": 1.8}
    _line(axes, mean, color=color, **style)


def _line(axes: Axes, curve: pd.Series, **style: Any) -> None:
    """Draws a curve of at most as many points as an eye can follow."""
    if curve.empty:
        return
    neighbours = np.arange(len(curve)) // -(-len(curve) // _MAX_POINTS)
    points = curve.rename_axis("step").reset_index().groupby(neighbours).mean()
    marker = "." if len(curve) <= _MAX_MARKERS else ""
    axes.plot(*points.to_numpy().T, marker=marker, **style)


def _whole_numbers() -> MaxNLocator:
    """Ticks of steps, of which there are no halves."""
    return MaxNLocator("auto", integer=True, min_n_ticks=1, steps=(1, 2, 5, 10))


def _colors(count: int) -> np.ndarray:
    """Well told apart up to ten, along a colormap beyond."""
    if count <= 10:
        return matplotlib.colormaps["tab10"](range(count))
    # Without its end, which is pale on white.
    return matplotlib.colormaps["viridis"](np.linspace(0, 0.93, count))
