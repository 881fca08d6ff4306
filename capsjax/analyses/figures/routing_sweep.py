"""The figures of the routing sweep, drawn from its rows and its runs' metrics."""

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from capsjax import figures

# By whether there is a decoder.
_COLORS = {False: "tab:orange", True: "tab:blue"}
_LABELS = {False: "without reconstruction", True: "with reconstruction"}
# Stand side by side, or their bars would hide each other.
_ASIDE = 0.07
# The moving average of a curve takes in so large a part of it.
_SMOOTHED_PART = 0.03


def errors(rows: Sequence[Mapping[str, str]]) -> Figure:
    """Test error against routing iterations, a line with and one without a decoder.

    The bars are a standard deviation over the seeds to either side; each seed is a
    faint dot.

    Args:
        rows: of runs that have ended, from `capsjax.analyses.routing_sweep.rows`.
    """
    figure, axes = figures.subplots(figsize=(7, 4.8))
    by_setting: dict[bool, dict[int, list[float]]] = {}
    for row in rows:
        cells = by_setting.setdefault(row["reconstruction"] == "true", {})
        members = cells.setdefault(int(row["routing_iterations"]), [])
        members.append(float(row["test_error_percent"]))
    for setting, cells in sorted(by_setting.items()):
        aside = (_ASIDE if setting else -_ASIDE) if len(by_setting) > 1 else 0.0
        color, iterations = _COLORS[setting], sorted(cells)
        for r in iterations:
            axes.plot(
                [r + aside] * len(cells[r]), cells[r], "o", color=color, alpha=0.3, ms=4
            )
        axes.errorbar(
            [r + aside for r in iterations],
            [statistics.mean(cells[r]) for r in iterations],
            yerr=[
                statistics.stdev(cells[r]) if len(cells[r]) > 1 else 0.0
                for r in iterations
            ],
            label=_LABELS[setting],
            color=color,
            marker="o",
            elinewidth=1,
            capsize=3,
        )
    ticks = sorted({r for cells in by_setting.values() for r in cells})
    axes.set_xticks(ticks, [str(r) for r in ticks])
    most = max(
        len(members) for cells in by_setting.values() for members in cells.values()
    )
    seeds = "one seed" if most == 1 else f"mean ± std of up to {most} seeds"
    sizes = sorted({int(row["test_examples"]) for row in rows})
    one = f"one of {sizes[0]:,} test images is {100 / sizes[0]:.2g} %"
    axes.set(
        title=f"Test error against routing iterations\n({seeds}; {one})",
        xlabel="routing iterations r",
        ylabel="test error, %",
    )
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def losses(runs: Mapping[tuple[int, bool], Sequence[Sequence[dict]]]) -> Figure:
    """Margin loss in training, few routing iterations against about three.

    A panel with and one without a decoder, whose loss the margin loss leaves out. The
    lines are means over the seeds, smoothed; behind them, faint, as they are.

    Args:
        runs: rows of metrics of each seed, by routing iterations and whether there is a
            decoder.
    """
    settings = sorted({setting for _, setting in runs})
    figure, panels = figures.subplots(
        1,
        len(settings),
        figsize=(5 * len(settings) + 1, 4.2),
        squeeze=False,
        sharex=True,
        sharey=True,
    )
    for setting, axes in zip(settings, panels[0], strict=True):
        shown = fewest_and_about_three([r for r, other in runs if other == setting])
        for r, color in zip(shown, ("tab:green", "tab:purple"), strict=False):
            steps, means = _mean_over_seeds(runs[r, setting], "margin_loss")
            axes.plot(steps, means, color=color, alpha=0.25, linewidth=1)
            axes.plot(
                steps, smooth(means), color=color, linewidth=1.5, label=f"r = {r}"
            )
        axes.set_yscale("log", nonpositive="mask")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set(title=_LABELS[setting].capitalize(), xlabel="training step")
        axes.grid(alpha=0.3)
        axes.legend(title="routing iterations")
    panels[0, 0].set_ylabel("margin loss, mean over the seeds")
    figure.suptitle("Margin loss in training by the number of routing iterations")
    return figure


def logits(rows: Sequence[dict]) -> Figure:
    """What each routing iteration does while a network learns, and at the end.

    The upper panels show the steps of training: how much each iteration changes the
    logits, and the entropy of the coupling coefficients that it used. The lower ones
    show that change at the end of training against the iteration, on a linear and on a
    logarithmic scale.

    Args:
        rows: of a run's metrics, some of them of the split ``"routing"``.

    References:
        Sabour, Frosst and Hinton 2017, appendix A, figure A.1.
    """
    rows = [row for row in rows if row["split"] == "routing"]
    steps = [row["step"] for row in rows]
    count = sum(name.startswith("logit_change_") for name in rows[0])
    iterations = range(1, count + 1)
    figure, ((changes, entropies), (linear, log)) = figures.subplots(
        2, 2, figsize=(11, 8)
    )
    figure.suptitle(f"What each of {count} routing iterations does in training")
    colors = colormaps["viridis"](np.linspace(0, 0.9, count))
    for i, color in zip(iterations, colors, strict=True):
        style = {"color": color, "linewidth": 1.3, "marker": "o", "markersize": 3}
        changes.plot(
            steps, [row[f"logit_change_{i}"] for row in rows], label=str(i), **style
        )
        entropies.plot(steps, [row[f"coupling_entropy_{i}"] for row in rows], **style)
    last = [rows[-1][f"logit_change_{i}"] for i in iterations]
    for axes in (linear, log):
        axes.plot(iterations, last, color="gray", linewidth=1, zorder=1)
        axes.scatter(iterations, last, c=colors, zorder=2)
        axes.set(xlabel="routing iteration", ylabel="mean |change| of a logit")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    linear.set(title=f"Change of the logits after step {steps[-1]}")
    linear.set_ylim(bottom=0)
    log.set(title="The same on a logarithmic scale")
    changes.set(
        title="Change of the logits by each iteration",
        xlabel="training step",
        ylabel="mean |change| of a logit",
    )
    entropies.set(
        title="Entropy of the coupling coefficients",
        xlabel="training step",
        ylabel="mean entropy in an iteration, nats",
    )
    for axes in (changes, log):
        axes.set_yscale("log", nonpositive="mask")
    for axes in (changes, entropies, linear, log):
        axes.grid(alpha=0.3)
    figure.legend(
        *changes.get_legend_handles_labels(),
        title="iteration",
        loc="outside right upper",
    )
    return figure


def fewest_and_about_three(iterations: Sequence[int]) -> list[int]:
    """The smallest number and, of the others, the one nearest three."""
    first, *others = sorted(iterations)
    return [first, *sorted(others, key=lambda r: abs(r - 3))[:1]]


def smooth(values: Sequence[float]) -> np.ndarray:
    """A moving average over a small part of all values, ever shorter at both ends."""
    count = len(values)
    sums = np.cumsum([0.0, *values])
    centers = np.arange(count)
    to_the_ends = np.minimum(centers, count - 1 - centers)
    reach = np.minimum(math.ceil(_SMOOTHED_PART * count / 2), to_the_ends)
    return (sums[centers + reach + 1] - sums[centers - reach]) / (2 * reach + 1)


def _mean_over_seeds(
    runs: Sequence[Sequence[dict]], name: str
) -> tuple[list[int], list[float]]:
    """Of training rows, at the steps that all the runs have."""
    values: dict[int, list[float]] = {}
    for rows in runs:
        for row in rows:
            if row["split"] == "train":
                values.setdefault(row["step"], []).append(row[name])
    steps = [step for step, found in sorted(values.items()) if len(found) == len(runs)]
    return steps, [statistics.mean(values[step]) for step in steps]
