"""The figures of a train step's times, drawn from their rows."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from capsjax import figures
from capsjax.benchmarks import against as benchmark_against
from capsjax.benchmarks.stages import (
    BACKWARD,
    FORWARD,
    OPTIMIZER,
    STEP,
    TRAIN,
    summarize,
)
from capsjax.runs import results
from capsjax.runs.results import Row

_COLORS = {
    FORWARD: "tab:blue",
    BACKWARD: "tab:orange",
    OPTIMIZER: "tab:green",
    STEP: "tab:gray",
}
_COMBINATION = (
    "model",
    "routing_implementation",
    "image_shape",
    "batch_size",
    "dtype",
)


def can_draw(rows: Sequence[Row]) -> bool:
    """Whether the rows of a run hold the stages of a step."""
    return any(row["mode"] == FORWARD for row in rows)


def draw(rows: Sequence[Row]) -> Figure:
    """The figure that suits a run: `times` of one combination, else `comparison`."""
    alone = len(_by_combination(rows)) == 1
    others = any(row["mode"] == benchmark_against.MODE for row in rows)
    return times(rows) if alone and not others else comparison(rows)


def comparison(rows: Sequence[Row]) -> Figure:
    """A bar for each combination, of its stages, and one for each other program.

    A stage's piece is its forward and its backward. A black line marks the whole step,
    which is compiled as one. Lengths are for one image, so that batches of all sizes
    compare.

    Args:
        rows: of one run; combinations without stages are left out.
    """
    combinations = _by_combination(rows)
    outside = [
        row
        for row in rows
        if row["mode"] == benchmark_against.MODE and not row["dtype"]
    ]
    figure, axes = figures.subplots(
        figsize=(9.5, 0.55 * (len(combinations) + len(outside)) + 2.2),
    )
    names = list(summarize(next(iter(combinations.values()))).stages)
    colors = {name: f"C{index}" for index, name in enumerate(names)}
    ends = []
    labels = []
    for index, (key, members) in enumerate(combinations.items()):
        summary, images = summarize(members), int(members[0]["batch_size"])
        end = 0.0
        for name, modes in summary.stages.items():
            length = 1e3 * sum(modes.values()) / images
            label = None if index else name.replace("_", " ")
            axes.barh(index, length, left=end, color=colors[name], label=label)
            end += length
        step = 1e3 * summary.step / images
        axes.plot(
            [step, step],
            [index - 0.4, index + 0.4],
            color="black",
            label=None if index else "whole step",
        )
        ends.append((index, max(end, step), step))
        model, implementation, shape, batch, dtype = key
        labels.append(f"{model} {shape}, {implementation}\nbatch {batch}, {dtype}")
    for index, row in enumerate(outside, len(combinations)):
        length = 1e3 * float(row["median_s"]) / int(row["batch_size"])
        axes.barh(index, length, color="lightgray", hatch="//", edgecolor="gray")
        ends.append((index, length, length))
        labels.append(f"{row['model']}\n{row['stage'].replace('_', ' ')}")
    for index, end, step in ends:
        axes.annotate(
            f"{step:.2f} ms",
            (end, index),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(end for _, end, _ in ends))
    axes.set_xlabel("milliseconds for one image of a train step (medians)")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.set_title(f"Train steps on {results.device_name(rows[0])}")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
    return figure


def _by_combination(
    rows: Sequence[Row],
) -> dict[tuple[str, ...], list[Row]]:
    """Rows that have stages, by model, implementation, size and dtype."""
    staged = (row for row in rows if row["mode"] in (FORWARD, BACKWARD, TRAIN))
    groups = results.grouped(staged, *_COMBINATION)
    return {key: found for key, found in groups.items() if can_draw(found)}


def times(rows: Sequence[Row]) -> Figure:
    """Medians of each stage, and below them their sum and the whole step.

    Args:
        rows: of one run and combination.
    """
    summary = summarize(rows)
    # The optimizer is its own part, with a color.
    stages = {
        name: {name if mode == TRAIN else mode: s for mode, s in modes.items()}
        for name, modes in summary.stages.items()
    }
    parts = dict.fromkeys((FORWARD, BACKWARD, OPTIMIZER), 0.0)
    for lengths in stages.values():
        for part, seconds in lengths.items():
            parts[part] += seconds

    figure, axes = figures.subplots(figsize=(9, 0.5 * len(stages) + 2.9))
    labelled: set[str] = set()

    def bar(y: float, lengths: Mapping[str, float], comment: str = "") -> None:
        end = 0.0
        for part, seconds in lengths.items():
            label = None if part in labelled else part
            axes.barh(y, seconds, left=end, color=_COLORS[part], label=label)
            labelled.add(part)
            end += seconds
        text = EngFormatter(unit="s")(float(f"{end:.3g}")) + comment
        axes.annotate(
            text, (end, y), (4, 0), textcoords="offset points", va="center", fontsize=9
        )

    for index, (name, lengths) in enumerate(stages.items()):
        bar(index, lengths, f", {100 * summary.shares[name]:.1f} %")
    below = len(stages) + 0.5
    bar(below, parts, f", {summary.total / summary.step:.2f} times the step")
    bar(below + 1, {STEP: summary.step})
    axes.axhline(below - 0.75, color="black", linewidth=0.8)
    axes.set_yticks(
        [*range(len(stages)), below, below + 1],
        [*stages, "sum of the stages", "whole step"],
    )
    axes.invert_yaxis()
    # Room for the words at the longest bar.
    axes.set_xlim(0, 1.4 * max(summary.total, summary.step))
    axes.xaxis.set_major_formatter(EngFormatter(unit="s"))
    axes.set_xlabel("median time of a call; % of the sum of the stages")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    row = rows[0]
    axes.set_title(
        f"Train step of {row['model']}, batch size {row['batch_size']}, "
        f"{row['dtype']}, {row['routing_implementation']} routing\n"
        f"on {results.device_name(row)}"
    )
    axes.legend(loc="upper right")
    return figure
