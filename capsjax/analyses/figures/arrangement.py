"""Figures of what networks say to images whose parts are in the wrong places."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from capsjax import figures
from capsjax.analyses.figures import pictures as grids
from capsjax.analyses.intervals import Interval
from capsjax.analyses.robustness.arrangement import Answers, Summary

_MEASURES = (
    ("called", "share called faces"),
    ("score", "mean score of face"),
    ("auc", "area under the ROC curve"),
)


def pictures(
    images: Mapping[str, npt.NDArray[np.uint8]],
    answers: Mapping[str, Mapping[str, Answers]],
) -> Figure:
    """Some images of each kind, with each network's score under them.

    Args:
        images: uint8 [n, H, W, 1] of each kind; n is the same for all.
        answers: those of each network to each kind, to at least n images.
    """
    count = len(next(iter(images.values())))
    line = 0.17  # Height of a line of text in inches.
    figure = figures.new(
        figsize=(1.25 * len(images) + 1.6, (1.2 + line * len(answers)) * count + 0.5)
    )
    axes = grids.grid(figure, count, len(images))
    for number, (kind, shown) in enumerate(images.items()):
        axes[0, number].set_title(kind, fontsize=9)
        for row, (one, image) in enumerate(zip(axes[:, number], shown, strict=True)):
            one.imshow(image[..., 0], cmap="gray", vmin=0, vmax=255)
            for place, (network, found) in enumerate(answers.items()):
                at = -3 - 72 * line * place
                style: dict[str, Any] = {
                    "color": f"C{place}",
                    "fontsize": 8,
                    "xycoords": "axes fraction",
                    "textcoords": "offset points",
                    "va": "top",
                }
                said = found[kind]
                one.annotate(
                    f"{said.score[row]:.2f}",
                    (0.5, 0),
                    (0, at),
                    ha="center",
                    fontweight="bold" if said.called[row] else "normal",
                    **style,
                )
                if not number:
                    name = figures.shortened(network)
                    one.annotate(name, (0, 0), (-6, at), ha="right", **style)
    return figure


def bars(summaries: Mapping[str, Mapping[str, Summary]]) -> Figure:
    """Shares, scores and areas of each network and kind, with intervals.

    Args:
        summaries: of each network, those of each kind.
    """
    figure, axes = figures.subplots(
        len(_MEASURES), 1, figsize=(10, 9), sharex=True, squeeze=False
    )
    kinds = list(next(iter(summaries.values())))
    width = 0.8 / len(summaries)
    for one, (measure, label) in zip(axes[:, 0], _MEASURES, strict=True):
        for place, (network, found) in enumerate(summaries.items()):
            at = np.arange(len(kinds)) + (place - (len(summaries) - 1) / 2) * width
            spread = [getattr(found[kind], measure) for kind in kinds]
            values = [interval.value for interval in spread]
            one.bar(
                at,
                values,
                width,
                yerr=_ends(spread),
                color=f"C{place}",
                label=network,
                capsize=2,
                error_kw={"elinewidth": 1},
            )
        _finish(one, label)
    axes[-1, 0].set_xticks(
        range(len(kinds)), [kind.replace(" by ", "\nby ") for kind in kinds]
    )
    axes[-1, 0].axhline(0.5, color="tab:gray", linestyle=":")
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, ncols=len(summaries), loc="outside upper center")
    return figure


def curves(summaries: Mapping[str, Mapping[float, Summary]]) -> Figure:
    """Shares, scores and areas of each network against an amount.

    Args:
        summaries: of each network, those of each distance in pixels, ascending.
    """
    figure, axes = figures.subplots(1, len(_MEASURES), figsize=(13, 4), squeeze=False)
    for one, (measure, label) in zip(axes[0], _MEASURES, strict=True):
        for place, (network, found) in enumerate(summaries.items()):
            spread = [getattr(summary, measure) for summary in found.values()]
            values, low, high = np.array(spread).T
            color = f"C{place}"
            one.plot([*found], values, "o-", color=color, markersize=4, label=network)
            if np.all(np.isfinite(low)):
                one.fill_between(
                    [*found], low, high, color=color, alpha=0.15, linewidth=0
                )
        _finish(one, label)
        one.set_xlabel("pixels by which each part is moved")
    axes[0, 0].legend(fontsize=8)
    return figure


def _ends(spread: list[Interval]) -> np.ndarray | None:
    """Lengths of the error bars below and above, or None without any."""
    values, low, high = np.array(spread).T
    if not np.all(np.isfinite(low)):
        return None
    return np.maximum([values - low, high - values], 0)


def _finish(axes: Axes, label: str) -> None:
    axes.set(ylabel=label, ylim=(-0.03, 1.05))
    axes.grid(axis="y", alpha=0.3)
