"""The figure of models on digits as trained on, and on transformed ones."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure, SubFigure

from capsjax import figures
from capsjax.analyses.affnist import PAPER_ACCURACY, Outcome
from capsjax.data.derived.affnist import Transformed

_COLUMNS = 12
_COLOURS = ("tab:blue", "tab:orange")


def comparison(outcomes: Sequence[Outcome], transformed: Transformed) -> Figure:
    """Accuracies of both models with their intervals, the paper's, and some images.

    Args:
        outcomes: of the two models.
        transformed: the images of affNIST.
    """
    figure = figures.new(figsize=(12, 7))
    parts = figure.subfigures(2, 1, squeeze=False, height_ratios=(3, 2))
    upper, lower = parts[:, 0]
    axes = upper.subplots()
    for index, (outcome, colour) in enumerate(zip(outcomes, _COLOURS, strict=True)):
        for place, found in enumerate((outcome.clean, outcome.affnist)):
            value, low, high = (100 * number for number in found)
            at = place + 0.16 * (index - 0.5)
            axes.errorbar(
                at,
                value,
                [[value - low], [high - value]],
                fmt="o",
                color=colour,
                capsize=4,
                label=f"{outcome.name}, {outcome.step:,} steps" if not place else None,
            )
            axes.plot(
                at,
                100 * PAPER_ACCURACY[outcome.name][place],
                marker="D",
                color="none",
                markeredgecolor=colour,
                label=f"{outcome.name}, the paper" if not place else None,
            )
            axes.annotate(
                f"{value:.1f}",
                (at, value),
                (9 if index else -9, 0),
                textcoords="offset points",
                ha="left" if index else "right",
                va="center",
            )
    axes.set_xticks(
        (0, 1),
        (
            "expanded MNIST, as in training\n(digits moved)",
            "affNIST\n(digits moved, turned, sheared, scaled)",
        ),
    )
    axes.set_xlim(-0.5, 1.5)
    axes.set(
        ylabel="test accuracy in %",
        title="Stopped at the same accuracy on digits as trained on: "
        "which model recognises transformed ones?\n(bars: 95 % intervals)",
    )
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="lower left")
    _images(lower, outcomes, transformed)
    return figure


def _images(
    figure: SubFigure, outcomes: Sequence[Outcome], transformed: Transformed
) -> None:
    """Images that one of the models does not recognise, and which."""
    first, second = outcomes
    figure.suptitle("Images of affNIST that only one of them recognises")
    grid = figure.subplots(2, _COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for row, colour, (better, worse) in zip(
        grid, _COLOURS, ((first, second), (second, first)), strict=True
    ):
        row[0].text(
            -0.1,
            0.5,
            f"only the\n{better.name}",
            transform=row[0].transAxes,
            ha="right",
            va="center",
            color=colour,
        )
        shown = np.flatnonzero(better.affnist_right & ~worse.affnist_right)
        for axes, index in zip(row, shown[:_COLUMNS], strict=False):
            axes.imshow(transformed.images.images[index, :, :, 0], cmap="gray")
            axes.set_title(str(transformed.images.labels[index]), fontsize=9)
