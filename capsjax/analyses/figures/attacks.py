"""The figures of networks under attack."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from capsjax import figures
from capsjax.analyses import intervals
from capsjax.analyses.figures import pictures
from capsjax.analyses.robustness.attack_cells import ATTACKS, Cell
from capsjax.analyses.robustness.attack_evaluation import Evaluated
from capsjax.analyses.robustness.attack_runs import Images, Outcome
from capsjax.attacks.balls import Norm

_STYLES = {"noise": ":", "fgsm": "--", "pgd": "-"}
_EXAMPLES = 8
_NORMS = {"linf": "L-infinity radius", "l2": "L2 radius"}


def norms_of_curves(evaluated: Sequence[Evaluated]) -> list[Norm]:
    """Norms in which any attack that `curves` draws was made."""
    return [
        norm
        for norm in evaluated[0].evidence.focus
        if any(one.evidence.plain(a, norm) for one in evaluated for a in _STYLES)
    ]


def curves(evaluated: Sequence[Evaluated], title: str) -> Figure:
    """Accuracy over the radius, a panel for each norm, with 95 % intervals of PGD."""
    norms = norms_of_curves(evaluated)
    figure, axes = figures.subplots(
        1, len(norms), figsize=(5.6 * len(norms), 4.2), squeeze=False
    )
    figure.suptitle(f"Accuracy under attack, {title}")
    for panel, norm in zip(axes[0], norms, strict=True):
        for number, one in enumerate(evaluated):
            clean = float(np.mean(~one.evidence.wrong))
            for attack, style in _STYLES.items():
                cells = one.evidence.plain(attack, norm)
                if not cells:
                    continue
                radii = [0.0, *(cell.radius for cell in cells)]
                found = [
                    intervals.accuracy(~one.evidence.outcomes[cell].success)
                    for cell in cells
                ]
                name = figures.shortened(one.victim.name)
                panel.plot(
                    radii,
                    [clean, *(x.value for x in found)],
                    style,
                    color=f"C{number}",
                    marker="o" if attack == "pgd" else None,
                    markersize=3,
                    label=f"{name}, {ATTACKS[attack].title}",
                )
                if attack == "pgd":
                    panel.fill_between(
                        radii[1:],
                        [x.low for x in found],
                        [x.high for x in found],
                        color=f"C{number}",
                        alpha=0.15,
                        linewidth=0,
                    )
        panel.set(xlabel=_NORMS[norm], ylabel="accuracy", ylim=(-0.03, 1.03))
        panel.grid(alpha=0.3)
    axes[0][-1].legend(fontsize=7)
    return figure


def examples(
    title: str,
    images: Images,
    names: Sequence[str],
    cells: Sequence[tuple[Cell, Outcome]],
    clean: np.ndarray,
) -> Figure:
    """Clean image, change and found image for each attack, with both predictions.

    Args:
        title: title of the figure.
        images: images of the evaluation.
        names: names of the classes.
        cells: attacks and what they found.
        clean: int [N], predictions without an attack.
    """
    right = clean == images.labels
    cells = [
        (cell, outcome)
        for cell, outcome in cells
        if np.any((outcome.success & right)[: len(outcome.images)])
    ]
    rows = 3 * len(cells)
    figure = figures.new(figsize=(1.15 * _EXAMPLES + 2.2, 1.25 * max(rows, 1) + 0.8))
    figure.suptitle(title)
    if not cells:
        return figure
    grid = pictures.grid(figure, rows, _EXAMPLES)
    for number, (cell, outcome) in enumerate(cells):
        kept = min(len(outcome.images), len(outcome.success))
        # Unselected: the first ones that the attack has turned from right to wrong.
        shown = np.flatnonzero(outcome.success[:kept] & right[:kept])[:_EXAMPLES]
        top, change, found = grid[3 * number : 3 * number + 3]
        bound = f", {cell.radius:g}" if cell.radius else ""
        pictures.name_row(top[0], f"{ATTACKS[cell.attack].title}{bound}", fontsize=8)
        pictures.name_row(change[0], "change", fontsize=8)
        pictures.name_row(found[0], "found", fontsize=8)
        for column, example in enumerate(shown):
            before = images.values[example]
            after = outcome.images[example]
            top[column].imshow(pictures.shown(before), cmap="gray", vmin=0, vmax=1)
            top[column].set_title(
                figures.shortened(names[clean[example]], 12),
                fontsize=8,
                color=pictures.RIGHT,
            )
            size = max(float(np.abs(after - before).max()), 1e-6)
            difference = (after - before) / (2 * size) + 0.5
            change[column].imshow(
                pictures.shown(difference), cmap="RdBu_r", vmin=0, vmax=1
            )
            change[column].set_title(
                f"L2 {np.linalg.norm(after - before):.2f}", fontsize=7
            )
            found[column].imshow(pictures.shown(after), cmap="gray", vmin=0, vmax=1)
            found[column].set_title(
                figures.shortened(names[outcome.predictions[example]], 12),
                fontsize=8,
                color=pictures.WRONG,
            )
    return figure


def pixels(
    title: str,
    images: Images,
    names: Sequence[str],
    cells: Sequence[tuple[Cell, Outcome]],
    clean: np.ndarray,
) -> Figure:
    """Images of which a few pixels were changed, each marked; as for `examples`."""
    cells = [
        (cell, outcome)
        for cell, outcome in cells
        if np.any(outcome.success & (clean == images.labels)[: len(outcome.success)])
    ]
    figure = figures.new(
        figsize=(1.25 * _EXAMPLES + 2.4, 1.5 * max(len(cells), 1) + 0.7)
    )
    figure.suptitle(title)
    if not cells:
        return figure
    grid = pictures.grid(figure, len(cells), _EXAMPLES)
    for row, (cell, outcome) in zip(grid, cells, strict=True):
        count = len(outcome.success)
        right = clean[:count] == images.labels[:count]
        shown = np.flatnonzero(outcome.success & right)[:_EXAMPLES]
        pictures.name_row(row[0], ATTACKS[cell.attack].title, fontsize=8)
        for axes, example in zip(row, shown, strict=False):
            after = outcome.images[example]
            axes.imshow(pictures.shown(after), cmap="gray", vmin=0, vmax=1)
            changed = np.any(after != images.values[example], axis=2)
            for y, x in np.argwhere(changed):
                axes.add_patch(
                    Rectangle((x - 1.5, y - 1.5), 3, 3, fill=False, color="tab:red")
                )
            before, now = names[clean[example]], names[outcome.predictions[example]]
            axes.set_title(
                f"{figures.shortened(before, 9)} → {figures.shortened(now, 9)}",
                fontsize=8,
            )
    return figure


def detector(one: Evaluated, title: str) -> Figure:
    """Distances to reconstructions, and images that deceive network and detector."""
    figure = figures.new(figsize=(9.5, 6.2))
    figure.suptitle(title)
    top, bottom = (
        figure.subfigures(2, 1, height_ratios=[1.5, 1], squeeze=False).ravel().tolist()
    )
    axes = top.subplots()
    bins = np.linspace(0, max(x.distances.max() for x in one.detected.values()), 60)
    knowing = None
    for cell, found in one.detected.items():
        shown, name = found.distances, "clean"
        if cell is not None:
            if cell.attack not in ("pgd", "carlini_wagner") or _in_l2_ball(cell):
                continue
            turned = found.success & ~one.evidence.wrong
            if not np.any(turned):
                continue
            shown, name = shown[turned], ATTACKS[cell.attack].title
            if cell.evades:
                name += f", knowing, weight {cell.distance_weight:g}"
                count = np.sum(found.undetected)
                if knowing is None or count > np.sum(knowing[1].undetected):
                    knowing = cell, found
        axes.hist(shown, bins, histtype="step", label=name, density=True)
    axes.axvline(one.victim.threshold, color="black", linestyle="--", label="threshold")
    axes.set(xlabel="distance of image and reconstruction", ylabel="density")
    axes.legend(fontsize=8)
    grid = pictures.grid(bottom, 2, 10)
    if knowing is not None:
        cell, found = knowing
        shown = np.flatnonzero(found.undetected)[:10]
        images = one.evidence.outcomes[cell].images[shown]
        drawn = one.victim.reconstructions(images)
        pictures.name_row(grid[0, 0], "undetected", fontsize=8)
        pictures.name_row(grid[1, 0], "drawn again", fontsize=8)
        for column, (image, again) in enumerate(zip(images, drawn, strict=True)):
            for row, picture in enumerate((image, again)):
                grid[row, column].imshow(
                    pictures.shown(picture), cmap="gray", vmin=0, vmax=1
                )
    return figure


def _in_l2_ball(cell: Cell) -> bool:
    return cell.norm == "l2" and cell.radius > 0
