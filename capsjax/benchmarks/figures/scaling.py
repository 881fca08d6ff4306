"""The figure of the scaling benchmark, drawn from its rows."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from capsjax import figures
from capsjax.benchmarks import scaling as benchmark_scaling
from capsjax.benchmarks.scaling import SHARED_CORES
from capsjax.runs import results
from capsjax.runs.results import Row

_MEASURED, _IDEAL = "tab:blue", "tab:gray"


def scaling(rows: Sequence[Row]) -> Figure:
    """Images per second (left) and efficiency (right) against the number of devices.

    The bars reach from the slowest call to the fastest. For virtual devices of one CPU
    there is another line: no speed-up, which is what their shared cores allow.

    Args:
        rows: rows of one measurement.
    """
    rows = sorted(rows, key=lambda row: int(row["devices"]))
    on_cpu = rows[0]["device"] == "cpu"
    devices = [int(row["devices"]) for row in rows]
    efficiency = [100 * row.number("efficiency") for row in rows]
    times = [[row.number(c) for c in ("median_s", "max_s", "min_s")] for row in rows]
    batch_sizes = np.array([[int(row["batch_size"])] for row in rows])
    speeds, slowest, fastest = (batch_sizes / times).T
    times_fewest = np.array(devices) / devices[0]
    proportional = speeds[0] * times_fewest

    figure, (left, right) = figures.subplots(1, 2, figsize=(10, 4.6), sharex=True)
    figure.suptitle(_title(rows[0]), fontsize=11)
    measured = left.errorbar(
        devices,
        speeds,
        yerr=[speeds - slowest, fastest - speeds],
        label="measured: median, slowest to fastest step",
        color=_MEASURED,
        marker="o",
        elinewidth=1,
        capsize=3,
        zorder=3,
    )
    right.plot(devices, efficiency, "o-", color=_MEASURED, zorder=3)
    ideal = {"color": _IDEAL, "linestyle": "--"}
    lines = left.plot(
        devices, proportional, label="ideal: each device adds as much", **ideal
    )
    right.axhline(100, **ideal)
    if on_cpu:
        free = {"color": _IDEAL, "linestyle": ":"}
        lines += left.plot(
            devices,
            np.full_like(speeds, speeds[0]),
            label="shared cores: no speed-up",
            **free,
        )
        right.plot(devices, 100 / times_fewest, **free)
    left.set(ylabel="images per second", title="Speed of training")
    left.set_yscale("log", base=2)
    # Whole powers of two, so that there are two ticks at least.
    left.set_ylim(
        2 ** np.floor(np.log2(min(slowest) / 1.1)),
        2 ** np.ceil(np.log2(max(*fastest, *proportional) * 1.1)),
    )
    left.yaxis.set_major_locator(LogLocator(base=2, numticks=20))
    left.yaxis.set_major_formatter("{x:,.7g}")
    right.set(ylabel="efficiency, %", title="Share of the ideal speed")
    right.set_ylim(0, 1.08 * max(right.dataLim.y1, 100))
    left.set_xscale("log", base=2)
    left.set_xlim(devices[0] / 1.15, devices[-1] * 1.15)
    for axes in (left, right):
        axes.set_xlabel("devices")
        axes.set_xticks(devices, devices)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.legend(
        handles=[measured, *lines], loc="outside lower center", ncols=3, fontsize=9
    )
    return figure


def _title(row: Row) -> str:
    title = (
        f"{row['scaling'].capitalize()} scaling of the train step on "
        f"{results.device_name(row)}\n{benchmark_scaling.title(row)}"
    )
    return f"{title}\n{SHARED_CORES}" if row["device"] == "cpu" else title
