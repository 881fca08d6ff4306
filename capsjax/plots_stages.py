"""The figure of the times of a train step's stages, drawn from their rows."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from capsjax import results
from capsjax.benchmark_stages import (
    BACKWARD,
    FORWARD,
    OPTIMIZER,
    STEP,
    TRAIN,
    summarize,
)
from capsjax.plots import plt

_COLORS = {
    FORWARD: "tab:blue",
    BACKWARD: "tab:orange",
    OPTIMIZER: "tab:green",
    STEP: "tab:gray",
}


def times(rows: Sequence[dict[str, str]]) -> Figure:
    """Medians of each stage, and below them their sum and the whole step.

    Args:
        rows: of one run, from `capsjax.benchmark_stages.rows`.
    """
    summary = summarize(rows)
    # The optimizer is its own part, with a color.
    stages = {
        name: {name if mode == TRAIN else mode: s for mode, s in modes.items()}
        for name, modes in summary.stages.items()
    }
    parts = dict.fromkeys((FORWARD, BACKWARD, OPTIMIZER), 0.0)
    for lengths in stages.values():
        for part, seconds in lengths.items():
            parts[part] += seconds

    figure, axes = plt.subplots(
        figsize=(9, 0.5 * len(stages) + 2.9), layout="constrained"
    )
    labelled: set[str] = set()

    def bar(y: float, lengths: Mapping[str, float], comment: str = "") -> None:
        end = 0.0
        for part, seconds in lengths.items():
            label = None if part in labelled else part
            axes.barh(y, seconds, left=end, color=_COLORS[part], label=label)
            labelled.add(part)
            end += seconds
        text = EngFormatter(unit="s")(float(f"{end:.3g}")) + comment
        axes.annotate(
            text, (end, y), (4, 0), textcoords="offset points", va="center", fontsize=9
        )

    for index, (name, lengths) in enumerate(stages.items()):
        bar(index, lengths, f", {100 * summary.shares[name]:.1f} %")
    below = len(stages) + 0.5
    bar(below, parts, f", {summary.total / summary.step:.2f} times the step")
    bar(below + 1, {STEP: summary.step})
    axes.axhline(below - 0.75, color="black", linewidth=0.8)
    axes.set_yticks(
        [*range(len(stages)), below, below + 1],
        [*stages, "sum of the stages", "whole step"],
    )
    axes.invert_yaxis()
    # Room for the words at the longest bar.
    axes.set_xlim(0, 1.4 * max(summary.total, summary.step))
    axes.xaxis.set_major_formatter(EngFormatter(unit="s"))
    axes.set_xlabel("median time of a call; % of the sum of the stages")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    row = rows[0]
    axes.set_title(
        f"Train step of {row['model']}, batch size {row['batch_size']}, "
        f"{row['dtype']}, {row['routing_implementation']} routing\n"
        f"on {results.device_name(row)}"
    )
    axes.legend(loc="upper right")
    return figure
