"""The figure of what scaling is possible on paper."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from capsjax import figures
from capsjax.benchmarks import scaling_model
from capsjax.benchmarks.scaling_model import BATCHES, DEVICES, Costs, Machine

_STYLES = ("-", "--", ":")


def efficiency(found: Sequence[Costs], machine: Machine, dtype: str) -> Figure:
    """Efficiency against the number of devices, for each network and batch.

    Args:
        found: the networks.
        machine: the GPUs.
        dtype: dtype of the products.
    """
    figure, grid = figures.subplots(
        1, len(found), figsize=(4.2 * len(found), 4), sharey=True, squeeze=False
    )
    for axes, costs in zip(grid[0], found, strict=True):
        for batch, style in zip(BATCHES, _STYLES, strict=True):
            values = [
                100 * scaling_model.predict(costs, machine, dtype, n, batch).efficiency
                for n in DEVICES
            ]
            axes.plot(DEVICES, values, style, marker=".", label=f"{batch:,} on each")
        axes.axvline(machine.node, color="gray", linewidth=0.8)
        axes.set_xscale("log", base=2)
        axes.set_xticks(DEVICES[::2], [f"{n:,}" for n in DEVICES[::2]])
        axes.set(title=costs.name, xlabel=f"{machine.name}s", ylim=(0, 105))
        axes.grid(alpha=0.3)
    grid[0, 0].set_ylabel("efficiency at best, %")
    grid[0, -1].legend(title="images", loc="lower left")
    figure.suptitle(
        f"Weak scaling on paper, {dtype}: the gray line is the end of a node"
    )
    return figure
