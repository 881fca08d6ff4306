"""The figure of the comparison of routing algorithms."""

import statistics
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from capsjax import figures

_TICKS = [x * 10**n for n in (-1, 0, 1) for x in (1, 2, 5)]


def errors(lines: Sequence[Mapping[str, object]], data: str) -> Figure:
    """Test errors of each algorithm, and their differences to the control.

    Args:
        lines: lines of the table, see `capsjax.analyses.routing_comparison.write`.
        data: name of the data set in words.
    """
    lines = [line for line in lines if line["n"]]
    names = [title(str(line["routing"])) for line in lines]
    figure, (left, right) = figures.subplots(
        1, 2, figsize=(9.5, 1.6 + 0.45 * len(lines)), sharey=True
    )
    for place, line in enumerate(lines):
        values = [float(x) for x in str(line["errors_percent"]).split()]
        left.plot(values, [place] * len(values), "o", color="tab:blue", alpha=0.5)
        mean = float(str(line["mean_error_percent"]))
        left.plot([mean, mean], [place - 0.3, place + 0.3], color="tab:blue")
        if isinstance(line["difference"], float):
            low, high = (
                float(str(line[f"difference_{end}"])) for end in ("low", "high")
            )
            right.plot([low, high], [place, place], color="tab:orange")
            right.plot(line["difference"], place, "o", color="tab:orange")
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    left.set(xlabel="test error, %", title=f"Test error on {data}")
    if _spread([float(str(line["mean_error_percent"])) for line in lines]):
        left.set_xscale("log")
        # Differences of up to a point keep their scale; a larger one is only large.
        right.set_xscale("symlog", linthresh=1, linscale=2)
        for axes in (left, right):
            _label(axes)
    right.axvline(0, color="gray", linewidth=1)
    right.set(xlabel="points", title="Error less that of uniform routing")
    for axes in (left, right):
        axes.grid(alpha=0.3, axis="x")
    return figure


def title(routing: str) -> str:
    """An algorithm, ``NAME`` or ``NAME:PRESET``, in words."""
    return routing.replace("_", " ").replace(":", ", ")


def _label(axes: Axes) -> None:
    """Puts ticks at round numbers within the limits."""
    axes.margins(x=0.08)
    low, high = axes.get_xlim()
    found = [x for x in (*(-x for x in _TICKS), 0, *_TICKS) if low <= x <= high]
    # Near zero they would stand too close in a scale that is linear there.
    small = 0.5 if axes.get_xscale() == "symlog" else 0
    shown = [x for x in found if x == 0 or abs(x) >= small]
    axes.set_xticks(shown, [f"{x:g}" for x in shown])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(low, high)


def _spread(values: Sequence[float]) -> bool:
    """Whether one value would squeeze the others into a corner of a linear scale."""
    return bool(values) and max(values) > 4 * statistics.median(values) > 0
