"""The figures of what a network has learned and what it costs."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from capsjax import figures
from capsjax.analyses import layer_times
from capsjax.analyses.couplings import Couplings
from capsjax.analyses.figures import pictures
from capsjax.analyses.filters import Features, Units, unit_range
from capsjax.analyses.layer_graph import (
    CAPSULES,
    CONVOLUTION,
    DENSE,
    NORMALIZATION,
    OTHER,
    POOLING,
    Node,
)
from capsjax.analyses.layer_times import LayerTime
from capsjax.analyses.precision import Found
from capsjax.analyses.receptive_field import Field

COLORS = {
    CONVOLUTION: "tab:blue",
    DENSE: "tab:orange",
    POOLING: "tab:green",
    NORMALIZATION: "tab:gray",
    CAPSULES: "tab:purple",
    OTHER: "tab:brown",
}
_GAP_COLOR = (0.78, 0.86, 0.95)
_MAX_FILTERS = 96
_MAX_MAPS = 10
_MAX_ROWS = 12
_MAX_LAYERS = 40


def filters(title: str, kernels: Mapping[str, np.ndarray]) -> Figure:
    """The filters of a layer, a panel for each moment, each scaled to its own range.

    Args:
        title: title of the figure.
        kernels: kernels [K, K, C, F] by their names.
    """
    count = min(next(iter(kernels.values())).shape[3], _MAX_FILTERS)
    columns = math.ceil(math.sqrt(count))
    figure, axes = figures.subplots(
        1, len(kernels), figsize=(4.6 * len(kernels), 5.3), squeeze=False
    )
    figure.suptitle(title)
    for panel, (name, kernel) in zip(axes[0], kernels.items(), strict=True):
        tiles = unit_range(np.moveaxis(kernel, 3, 0)[:count])
        panel.imshow(_mosaic(tiles, columns))
        panel.set_title(name)
        panel.set_axis_off()
    if engine := figure.get_layout_engine():
        engine.set(wspace=0.06)
    return figure


def feature_maps(title: str, image: np.ndarray, found: Sequence[Features]) -> Figure:
    """What each layer receives, a row for each: its most varied maps, by depth.

    Args:
        title: title of the figure.
        image: [H, W, C] in [0, 1].
        found: features by depth; the first may be the image itself.
    """
    found = [one for one in found if one.maps.shape != image.shape]
    if len(found) > _MAX_ROWS:
        places = np.linspace(0, len(found) - 1, _MAX_ROWS).round().astype(int)
        found = [found[place] for place in places]
    rows = len(found) + 1
    figure = figures.new(figsize=(_MAX_MAPS + 2.6, 0.95 * rows + 0.8))
    figure.suptitle(title)
    grid = pictures.grid(figure, rows, _MAX_MAPS, gridspec_kw={"wspace": 0.04})
    grid[0, 0].imshow(pictures.shown(image), cmap="gray", vmin=0, vmax=1)
    pictures.name_row(grid[0, 0], "image")
    for row, one in zip(grid[1:], found, strict=True):
        order = np.argsort(-one.maps.std(axis=(0, 1)), kind="stable")[:_MAX_MAPS]
        h, w, C = one.maps.shape
        name = figures.shortened(one.name, 28)
        pictures.name_row(row[0], f"into {name}\n{h}x{w}, {C} maps", fontsize=8)
        for axes, channel in zip(row, order, strict=False):
            axes.imshow(one.maps[:, :, channel], cmap="magma")
    return figure


def preferred_of_classes(
    title: str, images: np.ndarray, names: Sequence[str], scores: np.ndarray
) -> Figure:
    """The image that each class prefers, with the scores that it gets.

    Args:
        title: title of the figure.
        images: [J, H, W, C] in [0, 1].
        names: names of the classes.
        scores: [J] of the classes for their own images.
    """
    columns = min(len(images), 5)
    rows = -(-len(images) // columns)
    figure = figures.new(figsize=(1.9 * columns + 0.4, 2.1 * rows + 0.8))
    figure.suptitle(title)
    grid = pictures.grid(figure, rows, columns)
    for axes, image, name, score in zip(grid.flat, images, names, scores, strict=False):
        axes.imshow(pictures.shown(image), cmap="gray", vmin=0, vmax=1)
        axes.set_title(f"{figures.shortened(name, 14)}: {score:.3g}", fontsize=10)
    return figure


def preferred_of_units(
    title: str, images: np.ndarray, units: Sequence[Units]
) -> Figure:
    """The image that each unit prefers, a row for each layer."""
    columns = max(len(some.channels) for some in units)
    figure = figures.new(figsize=(1.2 * columns + 2.4, 1.35 * len(units) + 0.8))
    figure.suptitle(title)
    grid = pictures.grid(figure, len(units), columns)
    number = 0
    for row, some in zip(grid, units, strict=True):
        pictures.name_row(row[0], figures.shortened(some.layer, 24), fontsize=9)
        for axes, channel in zip(row, some.channels, strict=False):
            axes.imshow(pictures.shown(images[number]), cmap="gray", vmin=0, vmax=1)
            axes.set_title(f"map {channel}", fontsize=8)
            number += 1
    return figure


def couplings(
    title: str,
    images: np.ndarray,
    found: Couplings,
    names: Sequence[str],
    labels: Sequence[int],
) -> Figure:
    """The coupling of each place of the primary capsules to each class.

    Args:
        title: title of the figure.
        images: [B, H, W, C] in [0, 1].
        found: their couplings.
        names: names of the classes.
        labels: int [B], whose columns are marked.
    """
    J = min(len(names), 10)
    figure = figures.new(figsize=(1.12 * (J + 1) + 1.6, 1.3 * len(images) + 1.0))
    figure.suptitle(title)
    grid = pictures.grid(figure, len(images), J + 1, gridspec_kw={"wspace": 0.06})
    maps = found.maps
    picture = None
    # White where routing has changed nothing.
    norm = TwoSlopeNorm(found.start, 0, max(float(maps.max()), 1.01 * found.start))
    for row, image, sent, label in zip(grid, images, maps, labels, strict=True):
        row[0].imshow(pictures.shown(image), cmap="gray", vmin=0, vmax=1)
        row[0].set_title("image", fontsize=9)
        for j in range(J):
            picture = row[j + 1].imshow(sent[:, :, j], cmap="RdBu_r", norm=norm)
            color = pictures.RIGHT if j == label else "black"
            row[j + 1].set_title(
                figures.shortened(names[j], 10), fontsize=9, color=color
            )
    if picture is not None:
        ticks = [0, found.start, norm.vmax]
        bar = figure.colorbar(picture, ax=grid[:, -1].tolist(), shrink=0.8, ticks=ticks)
        bar.ax.set_yticklabels([f"{tick:.2g}" for tick in ticks], fontsize=8)
        bar.set_label("coupling", fontsize=8)
    return figure


def receptive_fields(
    title: str,
    nodes: Sequence[Node],
    fields: Sequence[Field],
    image_shape: tuple[int, int, int],
) -> Figure:
    """What each layer sees, beside the image's size, and its parameters."""
    H, W, _ = image_shape
    shown = [*zip(nodes, fields, strict=True)]
    shown = [(n, f) for n, f in shown if n.kind != NORMALIZATION or n.window is None]
    shown = shown[:_MAX_LAYERS]
    figure, (left, right) = figures.subplots(
        1, 2, figsize=(10.5, 1.5 + 0.27 * len(shown)), sharey=True
    )
    figure.suptitle(title)
    side = max(H, W)
    rows = np.arange(len(shown))
    colors = [COLORS[node.kind] for node, _ in shown]
    sizes = [field.size or side for _, field in shown]
    left.barh(rows, sizes, color=colors)
    for row, (_, field) in zip(rows, shown, strict=True):
        text = f"{field.size}" if field.size else "whole image"
        left.text(sizes[row], row, f" {text}", va="center", fontsize=8)
    left.axvline(side, color="black", linewidth=1, linestyle="--")
    left.set(xlabel="pixels (dashed: the image)", title="One place sees")
    left.set_xlim(0, 1.25 * max(*sizes, side))
    left.set_yticks(rows, [figures.shortened(node.name, 30) for node, _ in shown])
    left.invert_yaxis()
    counts = [node.parameters for node, _ in shown]
    right.barh(rows, [max(count, 1) for count in counts], color=colors)
    for row, count in zip(rows, counts, strict=True):
        right.text(max(count, 1), row, f" {count:,}", va="center", fontsize=8)
    right.set(xlabel="parameters", title="Parameters", xscale="log")
    right.set_xlim(1, 30 * max(*counts, 1))
    _name_kinds(figure, [node.kind for node, _ in shown])
    return figure


def times(title: str, found: Sequence[LayerTime], whole: LayerTime) -> Figure:
    """Shares of the kinds of layers, forward and backward, and each layer's time."""
    shown = sorted(found, key=lambda one: -(one.forward + one.backward))[:_MAX_LAYERS]
    names = {one.name for one in shown}
    shown = [one for one in found if one.name in names][:_MAX_LAYERS]
    figure = figures.new(figsize=(11.5, max(5.2, 1.7 + 0.25 * len(shown))))
    figure.suptitle(title)
    pies, bars = figure.subfigures(1, 2, squeeze=False, width_ratios=(1, 1.7))[0]
    kinds = layer_times.by_kind(found)
    for place, (axes, name) in enumerate(
        zip(pies.subplots(2, 1), ("forward", "backward"), strict=True)
    ):
        values = [seconds[place] for seconds in kinds.values()]
        total, of_whole = sum(values), (whole.forward, whole.backward)[place]
        axes.pie(
            values,
            colors=[COLORS[kind] for kind in kinds],
            autopct=lambda share: f"{share:.0f} %" if share >= 4 else "",
            pctdistance=0.7,
            startangle=90,
            counterclock=False,
            textprops={"color": "white", "fontsize": 9},
        )
        axes.set_title(
            f"{name}: layers {1e3 * total:.3g} ms,\nwhole network "
            f"{1e3 * of_whole:.3g} ms",
            fontsize=10,
        )
    axes = bars.subplots()
    rows = np.arange(len(shown))
    colors = [COLORS[one.kind] for one in shown]
    forward = [1e3 * one.forward for one in shown]
    axes.barh(rows, forward, color=colors)
    axes.barh(
        rows,
        [1e3 * one.backward for one in shown],
        left=forward,
        color=colors,
        alpha=0.5,
    )
    axes.set_yticks(rows, [figures.shortened(one.name, 30) for one in shown])
    axes.invert_yaxis()
    axes.grid(alpha=0.3, axis="x")
    axes.set_axisbelow(True)
    axes.set(xlabel="ms; dark: forward, light: backward")
    _name_kinds(figure, list(kinds))
    return figure


def precision(title: str, found: Sequence[Found]) -> Figure:
    """Test error against the bits of a weight, with 95 % intervals."""
    figure, axes = figures.subplots(figsize=(7, 3.8))
    places = np.arange(len(found))
    errors = np.array([one.error for one in found])
    axes.errorbar(
        places,
        errors[:, 0],
        yerr=[errors[:, 0] - errors[:, 1], errors[:, 2] - errors[:, 0]],
        fmt="o",
        capsize=4,
    )
    for place, one in zip(places, found, strict=True):
        axes.annotate(
            f"{one.error.value:.2f} %",
            (place, one.error.value),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    names = [f"{one.format}\n{one.weights_mb:.3g} MB" for one in found]
    axes.set_xticks(places, names)
    axes.set_xlim(-0.4, len(found) - 0.3)
    if errors[:, 0].max() > 10 * max(errors[:, 0].min(), 0.1):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)
    axes.set(title=title, xlabel="weights, after training", ylabel="test error, %")
    return figure


def _name_kinds(figure: Figure, kinds: Sequence[str]) -> None:
    named = [kind for kind in COLORS if kind in kinds]
    figure.legend(
        [Rectangle((0, 0), 1, 1, color=COLORS[kind]) for kind in named],
        named,
        loc="outside lower center",
        ncols=len(named),
        fontsize=9,
    )


def _mosaic(tiles: np.ndarray, columns: int) -> np.ndarray:
    """Pictures [N, h, w, C] in rows of ``columns``, as one in colours [H, W, 3]."""
    N, h, w, C = tiles.shape
    if C not in (1, 3):
        # Neither grey nor colour: the channels stand side by side.
        tiles = np.concatenate(np.split(tiles, C, axis=3), axis=2)
        w *= C
    # Gaps are thin beside the pixels of a small kernel.
    scale = max(24 // h, 1)
    tiles = tiles.repeat(scale, axis=1).repeat(scale, axis=2)
    h, w, gap = scale * h, scale * w, 3
    rows = -(-N // columns)
    whole = np.ones((rows * (h + gap) - gap, columns * (w + gap) - gap, 3))
    whole *= _GAP_COLOR
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        top, left = row * (h + gap), column * (w + gap)
        whole[top : top + h, left : left + w] = tile
    return whole
