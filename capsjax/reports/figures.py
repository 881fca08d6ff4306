"""The figures of a report: curves and test errors of groups of runs."""

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatter

from capsjax import figures
from capsjax.reports.runs import Group, Run, spread

_MAX_POINTS = 200
_MAX_MARKERS = 30
_MAX_LABEL = 60
_LEGEND_WIDTH = 150  # In letters, of a line of the legend.


def learning_curves(groups: Sequence[Group]) -> Figure:
    """Training loss (left) and validation error (right) against the step.

    A group is a thick line, the mean over its runs at the steps that all of them have,
    with a thin line for each run. Runs that have not ended are dashed, and in no mean.
    Of a long training the mean of neighbouring rows is drawn.
    """
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
    drawn = [np.min(np.asarray(line.get_ydata())) for line in error.lines]
    lowest = min(drawn, default=0.0)
    error.set_ylim(bottom=0 if lowest < 0.1 else lowest / 1.2)
    for axes in (loss, error):
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(_MinorFormatter(minor_thresholds=(1.5, 0.6)))
        axes.tick_params(axis="y", which="both", labelsize=9)
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
    """The test error of each group: dots are runs, the bar is mean ± std.

    Args:
        groups: those with a run that has ended are drawn.
    """
    colors = _colors(len(groups))  # As in the curves.
    drawn = [pair for pair in zip(groups, colors, strict=True) if pair[0].ended]
    names = [_name(group) for group, _ in drawn]
    size = (6 + 0.08 * max(map(len, names)), 0.36 * len(drawn) + 1.3)
    figure, axes = figures.subplots(figsize=size)
    for y, (group, color) in enumerate(drawn):
        errors = group.test_errors
        found = spread(errors)
        axes.errorbar(
            found.mean,
            y,
            xerr=found.std,
            color=color,
            marker="|",
            markersize=13,
            markeredgewidth=2,
            elinewidth=1.5,
            capsize=4,
        )
        axes.scatter(errors, [y] * len(errors), color=color, s=22, alpha=0.55, zorder=3)
    errors = [error for group, _ in drawn for error in group.test_errors]
    if max(errors) > 20 * max(min(errors), 0.1):
        axes.set_xscale("symlog", linthresh=0.1)
        axes.set_xlim(left=0)
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
    figure.savefig(file, format="png", dpi=130)
    return file.getvalue()


class _MinorFormatter(LogFormatter):
    """Numbers between the powers of ten where few of these are in view."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def _name(group: Group) -> str:
    """Number and label, as matplotlib can write them: no mathematics, not too long."""
    label = group.label.encode("utf-8", "replace").decode()
    return f"{group.number}: {label[:_MAX_LABEL]}".replace("$", r"\$")


def _draw(axes: Axes, group: Group, split: str, metric: str, color: str) -> None:
    averaged = group.ended or group.runs
    alone = len(averaged) == 1
    for run in group.runs:
        if alone and run is averaged[0]:
            continue
        style = "-" if run.ended else "--"
        thin = {"linestyle": style, "linewidth": 0.7, "alpha": 0.45}
        _line(axes, *run.curve(split, metric), color, thin)
    steps, values = _mean(averaged, split, metric)
    if len(steps):
        thick = {"linewidth": 1.8, "linestyle": "-" if averaged[0].ended else "--"}
        if len(steps) <= _MAX_MARKERS:
            thick |= {"marker": "o", "markersize": 3.5}
        _line(axes, steps, values, color, thick)


def _line(axes: Axes, steps, values, color: str, style: dict) -> None:
    if len(steps) == 1:
        style = {"marker": "."} | style
    if len(steps):
        axes.plot(*_thinned(steps, values), color=color, **style)


def _mean(
    runs: Sequence[Run], split: str, metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """Means over runs at the steps that all of them have; none without such steps."""
    curves = [dict(zip(*run.curve(split, metric), strict=True)) for run in runs]
    common = sorted(set.intersection(*(set(curve) for curve in curves)))
    values = [[curve[step] for step in common] for curve in curves]
    return np.array(common), np.mean(np.array(values, np.float64), axis=0)


def _thinned(steps, values) -> tuple[np.ndarray, np.ndarray]:
    """At most so many points as an eye can follow, each the mean of neighbours."""
    steps, values = np.asarray(steps, np.float64), np.asarray(values, np.float64)
    width = -(-len(steps) // _MAX_POINTS)
    if width <= 1:
        return steps, values
    starts = np.arange(0, len(steps), width)
    counts = np.diff(np.append(starts, len(steps)))
    return (
        np.add.reduceat(steps, starts) / counts,
        np.add.reduceat(values, starts) / counts,
    )


def _colors(count: int) -> list:
    """Well told apart up to ten, along a colormap beyond."""
    if count <= 10:
        return list(matplotlib.colormaps["tab10"].colors[:count])  # type: ignore[attr-defined]
    # Without its end, which is pale on white.
    return list(matplotlib.colormaps["viridis"](np.linspace(0, 0.93, count)))
