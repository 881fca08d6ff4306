"""The figures of a train step's times, drawn from their rows."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from capsjax import figures
from capsjax.benchmarks.programs import AGAINST, STEP, TRAIN
from capsjax.benchmarks.stages import BACKWARD, FORWARD, OPTIMIZER, summarize
from capsjax.runs import results
from capsjax.runs.results import Row

_COLORS = {
    FORWARD: "tab:blue",
    BACKWARD: "tab:orange",
    OPTIMIZER: "tab:green",
    STEP: "tab:gray",
}


def can_draw(rows: Sequence[Row]) -> bool:
    """Returns whether the rows of a run include the stages of a step."""
    return any(row["mode"] == FORWARD for row in rows)


def draw(rows: Sequence[Row]) -> Figure:
    """The figure that suits a run: `times` of one combination, else `comparison`."""
    alone = len(_by_combination(rows)) == 1
    others = any(row["mode"] == AGAINST for row in rows)
    return times(rows) if alone and not others else comparison(rows)


def comparison(rows: Sequence[Row]) -> Figure:
    """A bar for each combination, of its stages, and one for each other program.

    A bar is as long as the whole step, which is compiled as one. The stages, forward
    and backward, divide it in proportion to their times, whose sum may be another.
    Lengths are per image, so that batches of all sizes compare.

    Args:
        rows: rows of one run; combinations without stages are left out.
    """
    combinations = _by_combination(rows)
    outside = [row for row in rows if row["mode"] == AGAINST and not row["dtype"]]
    figure, axes = figures.subplots(
        figsize=(9.5, 0.7 * (len(combinations) + len(outside)) + 2.2),
    )
    names = list(summarize(next(iter(combinations.values()))).stages)
    colors = {name: f"C{index}" for index, name in enumerate(names)}
    ends = []
    labels = []
    for index, (key, members) in enumerate(combinations.items()):
        summary = summarize(members)
        step = 1e3 * summary.step / int(members[0]["batch_size"])
        lengths = {name: share * step for name, share in summary.shares.items()}
        _write(axes, index, _stack(axes, index, lengths, colors), f"{step:.2f} ms")
        ends.append(step)
        model, implementation, shape, classes, batch, dtype = key
        labels.append(
            f"{model}, {implementation}\n{shape}, {classes} classes\n"
            f"batch {batch}, {dtype}"
        )
    for index, row in enumerate(outside, len(combinations)):
        length = 1e3 * row.number("median_s") / int(row["batch_size"])
        axes.barh(index, length, color="lightgray", hatch="//", edgecolor="gray")
        _write(axes, index, length, f"{length:.2f} ms")
        ends.append(length)
        labels.append(f"{row['model']}\n{row['stage'].replace('_', ' ')}")
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_xlim(0, 1.15 * max(ends))
    axes.set_xlabel(
        "milliseconds for one image of a train step (medians), divided as its stages "
        "take when timed alone"
    )
    axes.set_title(f"Train steps on {results.device_name(rows[0])}")
    _finish(axes, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
    return figure


def times(rows: Sequence[Row]) -> Figure:
    """Medians of each stage, and below them their sum and the whole step.

    Args:
        rows: rows of one run and combination.
    """
    summary = summarize(rows)
    # The optimizer is a part with its own color.
    stages = {
        name: {name if mode == TRAIN else mode: s for mode, s in modes.items()}
        for name, modes in summary.stages.items()
    }
    parts = {
        part: sum(lengths.get(part, 0.0) for lengths in stages.values())
        for part in (FORWARD, BACKWARD, OPTIMIZER)
    }
    below = len(stages) + 0.5
    bars: list[tuple[float, str, Mapping[str, float], str]] = [
        (index, name, lengths, f", {100 * summary.shares[name]:.1f} %")
        for index, (name, lengths) in enumerate(stages.items())
    ]
    ratio = f", {summary.total / summary.step:.2f} times the step"
    bars.append((below, "sum of the stages", parts, ratio))
    bars.append((below + 1, "whole step", {STEP: summary.step}, ""))

    figure, axes = figures.subplots(figsize=(9, 0.5 * len(stages) + 2.9))
    for y, _, lengths, comment in bars:
        end = _stack(axes, y, lengths, _COLORS)
        _write(axes, y, end, EngFormatter(unit="s")(float(f"{end:.3g}")) + comment)
    axes.axhline(below - 0.75, color="black", linewidth=0.8)
    axes.set_yticks([y for y, *_ in bars], [name for _, name, *_ in bars])
    # Room for the text beside the longest bar.
    axes.set_xlim(0, 1.4 * max(summary.total, summary.step))
    axes.xaxis.set_major_formatter(EngFormatter(unit="s"))
    axes.set_xlabel("median time of a call; % of the sum of the stages")
    row = rows[0]
    axes.set_title(
        f"Train step of {row['model']}, {row['image_shape']} images, "
        f"{row['num_classes']} classes, batch size {row['batch_size']},\n"
        f"{row['dtype']}, {row['routing_implementation']} routing, "
        f"on {results.device_name(row)}"
    )
    _finish(axes, loc="upper right")
    return figure


def _by_combination(rows: Sequence[Row]) -> dict[tuple[str, ...], list[Row]]:
    """Rows with stages by model, implementation, images, batch size and dtype."""
    staged = (row for row in rows if row["mode"] in (FORWARD, BACKWARD, TRAIN))
    groups = results.grouped(
        staged,
        *("model", "routing_implementation", "image_shape", "num_classes"),
        *("batch_size", "dtype"),
    )
    return {key: found for key, found in groups.items() if can_draw(found)}


def _stack(
    axes: Axes, y: float, lengths: Mapping[str, float], colors: Mapping[str, str]
) -> float:
    """Draws a bar piece by piece; returns its end."""
    end = 0.0
    for name, length in lengths.items():
        label = name.replace("_", " ")
        axes.barh(y, length, left=end, color=colors[name], label=label)
        end += length
    return end


def _write(axes: Axes, y: float, end: float, text: str) -> None:
    """Writes a text beside the end of a bar."""
    axes.annotate(
        text, (end, y), (4, 0), textcoords="offset points", va="center", fontsize=9
    )


def _finish(axes: Axes, **legend: Any) -> None:
    """Draws the first bar at the top, a grid, and a legend with each label once."""
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axes.legend(unique.values(), unique.keys(), **legend)
