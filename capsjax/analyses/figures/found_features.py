"""The figure of features that hidden units find."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from capsjax import figures
from capsjax.analyses.found_features import SHAPE, SQUARES, Found, chance_share


def found_features(found: Sequence[Found]) -> Figure:
    """Weights with few and many images; angles, weights inside, and errors."""
    counts = sorted({one.images for one in found})
    decays = sorted({one.weight_decay for one in found})
    figure = figures.new(figsize=(11, 6.6))
    figure.suptitle(
        "Two hidden units that see every pixel come to look at the squares that matter"
    )
    axes = figure.subplots(2, 3)
    best = decays[-1]
    shown = dict.fromkeys((counts[0], counts[len(counts) // 2], counts[-1]))
    for panel, count in zip(axes[0], shown, strict=False):
        one = next(
            x
            for x in found
            if x.images == count and x.weight_decay == best and x.seed == 0
        )
        _draw_weights(panel, one)
    for panel in axes[0, len(shown) :]:
        panel.set_axis_off()
    angle, share, error = axes[1]
    for number, decay in enumerate(decays):
        style = {"color": f"C{number}", "label": f"weight decay {decay:g}"}
        _line(angle, found, decay, lambda one: one.angles[1], **style)
        dashed = {"color": style["color"], "linestyle": "--"}
        _line(angle, found, decay, lambda one: one.angles[0], **dashed)
        _line(share, found, decay, lambda one: 100 * one.share, **style)
        _line(error, found, decay, lambda one: one.error, **style)
    handmade = {"color": "black", "label": "hand-made features"}
    _line(error, found, decays[0], lambda one: one.handmade_error, **handmade)
    share.axhline(
        100 * chance_share(), color="gray", linestyle="--", label="spread evenly"
    )
    angle.set(
        title="Both angles to the plane of the features", ylabel="degrees", ylim=(0, 92)
    )
    share.set(
        title="Weight inside the squares", ylabel="% of all weights", ylim=(0, None)
    )
    error.set(title="Test error", ylabel="%", ylim=(0, None))
    for panel in axes[1]:
        panel.set(xscale="log", xlabel="training images")
        panel.set_xticks(counts, [_short(n) for n in counts], fontsize=8)
        panel.minorticks_off()
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    return figure


def _short(count: int) -> str:
    return f"{count / 1000:g}k" if count >= 1000 else f"{count}"


def _draw_weights(axes: Axes, one: Found) -> None:
    """The weights of both units at each pixel, as one length."""
    size = np.linalg.norm(one.weights.reshape(*SHAPE[:2], -1), axis=2)
    axes.imshow(size, cmap="magma", vmin=0)
    for rows, columns in SQUARES:
        axes.add_patch(
            Rectangle(
                (columns.start - 0.5, rows.start - 0.5),
                columns.stop - columns.start,
                rows.stop - rows.start,
                fill=False,
                edgecolor="cyan",
                linewidth=1.2,
            )
        )
    axes.set_title(
        f"Weights after {one.images:,} images: {one.angles[1]:.0f}° off", fontsize=10
    )
    axes.set_axis_off()


def _line(
    axes: Axes,
    found: Sequence[Found],
    decay: float,
    value: Callable[[Found], float],
    *,
    color: str,
    label: str | None = None,
    linestyle: str = "-",
) -> None:
    """The mean over the seeds, and each seed as a faint dot."""
    counts = sorted({one.images for one in found})
    groups = [
        [value(x) for x in found if x.images == n and x.weight_decay == decay]
        for n in counts
    ]
    means = [float(np.mean(x)) for x in groups]
    axes.plot(counts, means, linestyle, color=color, label=label)
    for n, values in zip(counts, groups, strict=True):
        axes.plot([n] * len(values), values, ".", color=color, alpha=0.5)
