"""The figure of the scaling benchmark, drawn from its rows."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from capsjax import figures
from capsjax.benchmarks.scaling import SHARED_CORES
from capsjax.runs import results

_MEASURED, _IDEAL = "tab:blue", "tab:gray"


def scaling(rows: Sequence[dict[str, str]]) -> Figure:
    """Images per second (left) and efficiency (right) against the number of devices.

    The bars reach from the slowest call to the fastest. Devices that are made of one
    CPU have a line more: no speed-up, which is what their shared cores allow.

    Args:
        rows: of one measurement.
    """
    rows = sorted(rows, key=lambda row: int(row["devices"]))
    first = rows[0]
    on_cpu = first["device"] == "cpu"
    devices = [int(row["devices"]) for row in rows]
    speeds, slowest, fastest = (
        [int(row["batch_size"]) / float(row[column]) for row in rows]
        for column in ("median_s", "max_s", "min_s")
    )
    times_fewest = [count / devices[0] for count in devices]
    figure, (left, right) = figures.subplots(1, 2, figsize=(10, 4.6), sharex=True)
    figure.suptitle("\n".join(_title(first, on_cpu)), fontsize=11)
    left.errorbar(
        devices,
        speeds,
        yerr=[
            [speed - low for speed, low in zip(speeds, slowest, strict=True)],
            [high - speed for speed, high in zip(speeds, fastest, strict=True)],
        ],
        label="measured: median, slowest to fastest step",
        color=_MEASURED,
        marker="o",
        elinewidth=1,
        capsize=3,
        zorder=3,
    )
    right.plot(
        devices,
        [100 * float(row["efficiency"]) for row in rows],
        "o-",
        color=_MEASURED,
        zorder=3,
    )
    ideal = {"color": _IDEAL, "linestyle": "--"}
    proportional = [speeds[0] * times for times in times_fewest]
    left.plot(devices, proportional, label="ideal: each device adds as much", **ideal)
    right.axhline(100, **ideal)
    if on_cpu:
        free = {"color": _IDEAL, "linestyle": ":"}
        left.plot(
            devices,
            [speeds[0] for _ in devices],
            label="shared cores: no speed-up",
            **free,
        )
        right.plot(devices, [100 / times for times in times_fewest], **free)
    left.set(ylabel="images per second", title="Speed of training")
    left.set_yscale("log", base=2)
    # Whole powers of two, so that there are two ticks at least.
    left.set_ylim(
        2 ** math.floor(math.log2(min(slowest) / 1.1)),
        2 ** math.ceil(math.log2(max(*fastest, *proportional) * 1.1)),
    )
    left.yaxis.set_major_locator(LogLocator(base=2, numticks=20))
    left.yaxis.set_major_formatter("{x:,.7g}")
    right.set(ylabel="efficiency, %", title="Share of the ideal speed")
    right.set_ylim(0, 1.08 * max(right.dataLim.y1, 100))
    left.set_xscale("log", base=2)
    left.set_xlim(devices[0] / 1.15, devices[-1] * 1.15)
    for axes in (left, right):
        axes.set_xlabel("devices")
        axes.set_xticks(devices, [str(count) for count in devices])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.3)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(  # What was measured, which comes last, first.
        [handles[-1], *handles[:-1]],
        [labels[-1], *labels[:-1]],
        loc="outside lower center",
        ncols=3,
        fontsize=9,
    )
    return figure


def _title(row: dict[str, str], on_cpu: bool) -> list[str]:
    batch = int(row["batch_size"])
    if row["scaling"] == "weak":
        batch_size = f"{batch // int(row['devices'])} images for each device"
    else:
        batch_size = f"{batch} images for all devices together"
    lines = [
        f"{row['scaling'].capitalize()} scaling of the train step on "
        f"{results.device_name(row)}",
        f"{row['model']}, {row['dtype']}, {row['parallelism']}, batch of {batch_size}",
    ]
    return [*lines, SHARED_CORES] if on_cpu else lines
