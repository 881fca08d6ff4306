"""The figure of models on digits as trained on, and on transformed ones."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure, SubFigure

from capsjax import figures
from capsjax.analyses.affnist import PAPER_ACCURACY, Outcome, names
from capsjax.analyses.figures import pictures
from capsjax.data.derived.affnist import Transformed

_COLUMNS = 12
_COLOURS = ("tab:blue", "tab:orange")


def comparison(outcomes: Sequence[Outcome], transformed: Transformed) -> Figure:
    """Accuracies of both models with their intervals, the paper's, and some images."""
    clean, turned = names(outcomes, transformed)
    figure = figures.new(figsize=(12, 7))
    parts = figure.subfigures(2, 1, squeeze=False, height_ratios=(3, 2))
    upper, lower = parts[:, 0]
    axes = upper.subplots()
    sides = ((-0.08, -9, "right"), (0.08, 9, "left"))
    for outcome, colour, (aside, offset, align) in zip(
        outcomes, _COLOURS, sides, strict=True
    ):
        name = outcome.name
        values, low, high = 100 * np.array([outcome.clean, outcome.affnist]).T
        at = np.arange(2) + aside
        ends, label = [values - low, high - values], f"{name}, {outcome.step:,} steps"
        axes.errorbar(at, values, ends, fmt="o", color=colour, capsize=4, label=label)
        paper = 100 * np.array(PAPER_ACCURACY[name])
        style = {"color": "none", "markeredgecolor": colour}
        axes.plot(
            at, paper, "D", label=f"{name}, the paper (published affNIST)", **style
        )
        text = {"textcoords": "offset points", "ha": align, "va": "center"}
        for point in zip(at, values, strict=True):
            axes.annotate(f"{point[1]:.1f}", point, (offset, 0), **text)
    axes.set(
        xticks=(0, 1),
        xticklabels=(
            f"{clean}, as in training\n(digits moved)",
            f"{turned}\n(digits moved, turned, sheared, scaled)",
        ),
        xlim=(-0.5, 1.5),
        ylabel="test accuracy in %",
        title="Stopped at the same accuracy on digits as trained on: "
        "which model recognises transformed ones?\n(bars: 95 % intervals)",
    )
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="center")  # Nothing is drawn between the two sets.
    lower.suptitle(f"Images of {turned} that only one of them recognises")
    _draw_images(lower, outcomes, transformed)
    return figure


def _draw_images(
    figure: SubFigure, outcomes: Sequence[Outcome], transformed: Transformed
) -> None:
    """Draws images that only one of the models recognises, a row for each model."""
    rows = pictures.grid(figure, 2, _COLUMNS)
    for row, colour, better, worse in zip(
        rows, _COLOURS, outcomes, reversed(outcomes), strict=True
    ):
        pictures.name_row(row[0], f"only the\n{better.name}", color=colour)
        shown = np.flatnonzero(better.affnist_right & ~worse.affnist_right)
        for axes, index in zip(row, shown[:_COLUMNS], strict=False):
            axes.imshow(transformed.images.images[index, :, :, 0], cmap="gray")
            axes.set_title(str(transformed.images.labels[index]), fontsize=9)
