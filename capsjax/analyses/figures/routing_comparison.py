"""The figure of the comparison of routing algorithms."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from capsjax import figures


def errors(lines: Sequence[Mapping[str, object]], data: str) -> Figure:
    """Test errors of each algorithm, and their differences to the control.

    Args:
        lines: lines of the table, see `capsjax.analyses.routing_comparison.write`.
        data: name of the data set in words.
    """
    lines = [line for line in lines if line["n"]]
    names = [
        str(line["routing"]).replace("_", " ").replace(":", ", ") for line in lines
    ]
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
    right.axvline(0, color="gray", linewidth=1)
    right.set(xlabel="points", title="Error less that of uniform routing")
    for axes in (left, right):
        axes.grid(alpha=0.3, axis="x")
    return figure
