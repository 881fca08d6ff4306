"""The figures of the routing sweep, drawn from its rows and its runs' metrics."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from capsjax import figures

# By whether there is a decoder.
_COLORS = {False: "tab:orange", True: "tab:blue"}
_LABELS = {False: "without reconstruction", True: "with reconstruction"}
# By the place among the numbers of iterations shown.
_R_COLORS = ("tab:green", "tab:purple")
# Horizontal distance of the points, whose bars would otherwise hide each other.
_ASIDE = 0.07
# Part of a curve that its moving average takes in.
_SMOOTHED_PART = 0.03
_MAX_TICKS = 12
# Iterations that the legend of the logits names.
_MAX_NAMED = 10


def errors(rows: Sequence[Mapping[str, str]], data: str) -> Figure:
    """Test error against routing iterations, a line with and one without a decoder.

    The bars are a standard deviation over the seeds to either side; each seed, a row of
    a run that has ended, is a faint dot. ``data`` names the data set in words.
    """
    figure, axes = figures.subplots(figsize=(7, 4.8))
    runs = pd.DataFrame(
        {
            "r": [int(row["routing_iterations"]) for row in rows],
            "decoder": [row["reconstruction"] == "true" for row in rows],
            "error": [float(row["test_error_percent"]) for row in rows],
        }
    )
    asides = {False: -_ASIDE, True: _ASIDE} if runs["decoder"].nunique() > 1 else {}
    for decoder in sorted(set(runs["decoder"])):
        r, error = (
            runs.loc[runs["decoder"] == decoder, name] for name in ("r", "error")
        )
        by_iterations, aside = error.groupby(r), asides.get(decoder, 0.0)
        means, stds = by_iterations.mean(), by_iterations.std().fillna(0)
        style: dict[str, Any] = {"color": _COLORS[decoder], "marker": "o"}
        axes.plot(r + aside, error, linestyle="", alpha=0.3, ms=4, **style)
        style |= {"label": _LABELS[decoder], "elinewidth": 1, "capsize": 3}
        axes.errorbar(means.index + aside, means, stds, **style)
    if len(different := sorted(set(runs["r"]))) <= _MAX_TICKS:
        axes.set_xticks(different)
    else:
        axes.xaxis.set_major_locator(_whole_numbers())
    most = runs.groupby(["decoder", "r"]).size().max()
    seeds = "one seed" if most == 1 else f"mean ± std of up to {most} seeds"
    size = min(int(row["test_examples"]) for row in rows)
    one = f"one of {size:,} test images is {100 / size:.2g} %"
    axes.set(
        title=f"Test error on {data}\n({seeds}; {one})",
        xlabel="routing iterations r",
        ylabel="test error, %",
    )
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def losses(
    runs: Mapping[tuple[int, bool], Sequence[Sequence[dict]]], data: str
) -> Figure:
    """Margin loss in training, few routing iterations against about three.

    There is a panel with and one without a decoder, whose loss the margin loss leaves
    out. The lines are means over the seeds, smoothed; behind them, faint, unsmoothed.
    ``runs`` are the metrics of each seed, by iterations and whether there is a decoder;
    ``data`` names the data set in words.
    """
    settings = sorted({setting for _, setting in runs})
    size = (5 * len(settings) + 1, 4.2)
    options = {"squeeze": False, "sharex": True, "sharey": True}
    figure, panels = figures.subplots(1, len(settings), figsize=size, **options)
    for setting, axes in zip(settings, panels[0], strict=True):
        for r, color in zip(_shown(runs, setting), _R_COLORS, strict=False):
            mean = _mean_over_seeds(runs[r, setting], "margin_loss")
            axes.plot(mean, color=color, alpha=0.25, linewidth=1)
            smoothed, label = smooth(mean.to_numpy()), f"r = {r}"
            axes.plot(mean.index, smoothed, color=color, linewidth=1.5, label=label)
        axes.set_yscale("log", nonpositive="mask")
        _name_powers(axes)
        axes.set(title=_LABELS[setting].capitalize(), xlabel="training step")
        axes.xaxis.set_major_locator(_whole_numbers())
        axes.grid(alpha=0.3)
        axes.legend(title="routing iterations")
    panels[0, 0].set_ylabel("margin loss, mean over the seeds")
    figure.suptitle(f"Margin loss in training on {data}")
    return figure


def last_losses(
    runs: Mapping[tuple[int, bool], Sequence[Sequence[dict]]],
) -> dict[tuple[int, bool], float]:
    """The last points of the curves in `losses`, by the keys of ``runs``."""
    return {
        (r, setting): _mean_over_seeds(runs[r, setting], "margin_loss").iloc[-1]
        for setting in sorted({setting for _, setting in runs})
        for r in _shown(runs, setting)
    }


def _shown(runs: Iterable[tuple[int, bool]], setting: bool) -> list[int]:
    return fewest_and_about_three([r for r, other in runs if other == setting])


def logits(rows: Sequence[dict], data: str) -> Figure:
    """Effects of each routing iteration while a network learns, and at the end.

    The upper panels show the steps of training: how much each iteration changes the
    logits, and the entropy of the coupling coefficients that it used. The lower ones
    show that change at the end of training against the iteration, on a linear and on a
    logarithmic scale. Some of the ``rows`` of metrics have the split ``"routing"``;
    ``data`` names the data set in words.

    References:
        Sabour, Frosst and Hinton 2017, appendix A, figure A.1.
    """
    named = named_iterations(rows)
    routing = pd.DataFrame([row for row in rows if row["split"] == "routing"])
    steps = routing["step"]
    change = routing.filter(regex="^logit_change_")
    count = change.shape[1]
    iterations = range(1, count + 1)
    figure, panels = figures.subplots(2, 2, figsize=(11, 8))
    changes, entropies, linear, log = panels.flat
    figure.suptitle(f"What the routing iterations do in training on {data}")
    colors = colormaps["viridis"](np.linspace(0, 0.9, count))
    for i, color in zip(iterations, colors, strict=True):
        style = {"color": color, "linewidth": 1.3, "marker": "o", "markersize": 3}
        label = str(i) if i in named else None
        changes.plot(steps, change[f"logit_change_{i}"], label=label, **style)
        entropies.plot(steps, routing[f"coupling_entropy_{i}"], **style)
    change_label = "mean |change| of a logit"
    last = [change[f"logit_change_{i}"].iloc[-1] for i in iterations]
    for axes in (linear, log):
        axes.plot(iterations, last, color="gray", linewidth=1, zorder=1)
        axes.scatter(iterations, last, c=colors, zorder=2)
        axes.set(xlabel="routing iteration", ylabel=change_label)
        axes.xaxis.set_major_locator(_whole_numbers())
    linear.set(title=f"Change of the logits after step {steps.iloc[-1]}")
    figures.from_zero(linear)
    log.set(title="The same on a logarithmic scale")
    changes.set(title="Change of the logits by each iteration", ylabel=change_label)
    entropies.set(
        title="Entropy of the coupling coefficients",
        ylabel="mean entropy in an iteration, nats",
    )
    for axes in (changes, entropies):
        axes.set_xlabel("training step")
        axes.xaxis.set_major_locator(_whole_numbers())
    for axes in (changes, log):
        axes.set_yscale("log", nonpositive="mask")
        _name_powers(axes)
    for axes in panels.flat:
        axes.grid(alpha=0.3)
    handles, labels = changes.get_legend_handles_labels()
    figure.legend(handles, labels, title="iteration", loc="outside right upper")
    return figure


def named_iterations(rows: Sequence[dict]) -> list[int]:
    """The iterations that the legend of `logits` names: all, or some of many."""
    diagnosed = next(row for row in rows if row["split"] == "routing")
    count = sum(name.startswith("logit_change_") for name in diagnosed)
    return [*range(1, count + 1, -(-count // _MAX_NAMED))]


def fewest_and_about_three(iterations: Sequence[int]) -> list[int]:
    """The smallest number and, of the others, the one nearest three."""
    first, *others = sorted(iterations)
    return [first, *sorted(others, key=lambda r: abs(r - 3))[:1]]


def _whole_numbers() -> MaxNLocator:
    """Ticks of steps or iterations, of which there are no halves."""
    return MaxNLocator("auto", integer=True, min_n_ticks=1, steps=(1, 2, 5, 10))


def _name_powers(axes: Axes) -> None:
    """Numbers at a logarithmic scale: powers of ten, and more between a few of them."""
    low, high = axes.get_ylim()
    subs = (1, 2, 3, 5) if high < 1000 * low else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def smooth(values: np.ndarray) -> np.ndarray:
    """A moving average over a small part of all values, ever shorter at both ends."""
    count = len(values)
    sums = np.cumsum([0.0, *values])
    centers = np.arange(count)
    to_the_ends = np.minimum(centers, count - 1 - centers)
    reach = np.minimum(math.ceil(_SMOOTHED_PART * count / 2), to_the_ends)
    return (sums[centers + reach + 1] - sums[centers - reach]) / (2 * reach + 1)


def _mean_over_seeds(runs: Sequence[Sequence[dict]], name: str) -> pd.Series:
    """The mean of a training metric at the steps that all the runs have."""
    curves = [
        pd.Series({row["step"]: row[name] for row in rows if row["split"] == "train"})
        for rows in runs
    ]
    return pd.concat(curves, axis=1, join="inner").mean(axis=1).sort_index()
