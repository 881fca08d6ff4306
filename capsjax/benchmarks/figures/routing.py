"""The figure of the routing benchmark, drawn from its rows."""

import itertools
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from capsjax import figures
from capsjax.benchmarks.routing import OK
from capsjax.runs import results
from capsjax.runs.results import Row

_COLORS = {"reference": "tab:gray", "xla": "tab:blue", "mosaic_gpu": "tab:green"}
_STYLES = {"float32": "-", "bfloat16": "--", "float16": ":"}
# Factor between the positions of the lines, whose bars would otherwise hide each other.
_ASIDE = 1.02


def times(rows: Sequence[Row]) -> Figure:
    """Times against batch sizes: a panel for each workload (row) and mode (column).

    A line is an implementation in one dtype; its bars reach from the fastest call to
    the slowest. Rows without a time are left out.

    Args:
        rows: rows of one run, at least one of them with a time.
    """
    rows = [row for row in rows if row["status"] == OK]
    workloads, modes, names, dtypes = (
        list(dict.fromkeys(row[column] for row in rows))
        for column in ("workload", "mode", "implementation", "dtype")
    )
    groups = results.grouped(rows, "workload", "mode", "implementation", "dtype")
    figure, grid = figures.subplots(
        len(workloads),
        len(modes),
        figsize=(4.2 * len(modes) + 2.2, 3.2 * len(workloads) + 0.6),
        squeeze=False,
        sharex=True,
    )
    figure.suptitle(f"Routing on {results.device_name(rows[0])}, {', '.join(dtypes)}")
    panels = itertools.product(workloads, modes)
    lines = list(itertools.product(names, dtypes))
    columns = ("median_s", "min_s", "max_s")
    for panel, axes in zip(panels, grid.flat, strict=True):
        for index, (name, dtype) in enumerate(lines):
            aside = _ASIDE ** (index - (len(lines) - 1) / 2)
            points = sorted(
                (int(row["B"]), *(1e3 * row.number(column) for column in columns))
                for row in groups.get((*panel, name, dtype), ())
            )
            B, median, low, high = np.reshape(points, (-1, 4)).T
            axes.errorbar(
                B * aside,
                median,
                yerr=[median - low, high - median],
                label=name if len(dtypes) == 1 else f"{name}, {dtype}",
                color=_COLORS.get(name),
                linestyle=_STYLES[dtype],
                marker="o",
                markersize=4,
                elinewidth=1,
                capsize=2,
            )
        axes.set(xscale="log", yscale="log", title=", ".join(panel))
        axes.grid(alpha=0.3)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        low, high = axes.get_ylim()
        axes.set_ylim(low / 1.5, high * 1.5)  # At least two of these ticks.
    sizes = sorted({int(row["B"]) for row in rows})
    for axes in grid[-1]:
        axes.set(xlabel="batch size", xlim=(sizes[0] / 1.3, sizes[-1] * 1.3))
        axes.set_xticks(sizes, sizes)
        axes.minorticks_off()
    for axes in grid[:, 0]:
        axes.set_ylabel(f"{rows[0]['clock']} time of a call, ms")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside right upper")
    return figure
