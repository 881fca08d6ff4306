"""The figure of gradients in networks of several layers of capsules."""

import math
from collections.abc import Sequence

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from capsjax import figures
from capsjax.analyses.figures.routing_comparison import title
from capsjax.runs import results
from capsjax.runs.results import Row


def norms(rows: Sequence[Row], data: str) -> Figure:
    """Gradient norm against the layer, a panel for each routing, a line for each depth.

    Args:
        rows: rows of `capsjax.analyses.gradient_flow.rows`.
        data: name of the data set in words.
    """
    routings = list(dict.fromkeys(row["routing"] for row in rows))
    depths = sorted({int(row["depth"]) for row in rows})
    columns = min(len(routings), 4)
    lines = -(-len(routings) // columns)
    figure, axes = figures.subplots(
        lines,
        columns,
        figsize=(2.2 + 2.4 * columns, 1 + 2.5 * lines),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    colors = colormaps["viridis"]
    groups = results.grouped(rows, "routing", "depth", "when")
    for panel, routing in zip(axes.flat, routings, strict=False):
        for place, depth in enumerate(depths):
            color = colors(0.85 * place / max(len(depths) - 1, 1))
            name = f"{depth} layer{'s' * (depth > 1)}"
            for when, style in (("start", "--"), ("end", "-")):
                layers = groups.get((routing, str(depth), when), [])
                panel.semilogy(
                    [int(row["layer"]) for row in layers],
                    # A zero would be a line down to the edge.
                    [row.number("gradient_norm") or math.nan for row in layers],
                    style,
                    marker="o",
                    markersize=3,
                    color=color,
                    label=name if when == "end" else None,
                )
        panel.set_title(title(routing))
        panel.grid(alpha=0.3)
        panel.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    for panel in axes.flat[len(routings) :]:
        panel.set_visible(False)
    axes.flat[0].legend(fontsize="small")
    figure.suptitle(f"Gradients by layer on {data}: dashed at the start, solid trained")
    figure.supxlabel("routed layer, from the lowest to the classes'")
    figure.supylabel("gradient norm")
    return figure
