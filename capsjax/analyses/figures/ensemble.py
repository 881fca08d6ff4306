"""The figure of an ensemble: its error against the number of its models."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from capsjax import figures


def errors(single: Sequence[float], first: Sequence[float], data_name: str) -> Figure:
    """Error against the number of models, and the errors of single ones.

    Args:
        single: errors of each model, in percent.
        first: errors of the first 1, 2, ... models together, in percent.
        data_name: name of the data set in words.
    """
    figure, axes = figures.subplots(figsize=(6.5, 4.2))
    counts = range(1, len(single) + 1)
    axes.plot(counts, first, "o-", label="the first N together")
    axes.plot(counts, single, "x", color="tab:gray", label="each alone")
    axes.set(
        xlabel="models N",
        ylabel="test error in %",
        title=f"Models that differ in their seed, on {data_name}",
    )
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    figures.from_zero(axes)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
