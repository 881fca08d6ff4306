"""The figure of overlapping digits taken apart.

References:
    Sabour, Frosst and Hinton 2017, section 6.2 and figure 5.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from capsjax import figures
from capsjax.data import Dataset
from capsjax.losses.classification import is_right
from capsjax.training.trained import Reconstruct

_COLUMNS = 10
_RIGHT, _WRONG = "tab:green", "tab:red"


class _Row(NamedTuple):
    """Pictures of some pairs, drawn from the capsules of two classes each.

    Attributes:
        name: of the row.
        pairs: int [n], which test images.
        classes: int [n, 2], drawn in red and in green.
    """

    name: str
    pairs: np.ndarray
    classes: np.ndarray


def segmentations(
    data: Dataset,
    *,
    predictions: np.ndarray,
    reconstruct: Reconstruct,
) -> Figure:
    """Input pairs, and below each the two digits that the model draws, red and green.

    Pairs that were recognised; pairs that were not, drawn from the prediction and from
    the label; and recognised ones of which one class is replaced by a class that the
    image does not show (marked *): of such a capsule nothing should be drawn that looks
    like a digit. A model without a decoder shows the inputs alone.

    Args:
        data: of pairs; the test images are shown.
        predictions: int [N, 2], of the test images, ascending.
        reconstruct: see `capsjax.training.trained.TrainedModel.reconstruct`.
    """
    labels = data.test.labels
    right = is_right(predictions, labels)
    known, missed = (np.flatnonzero(which)[:_COLUMNS] for which in (right, ~right))
    forced = np.flatnonzero(right)[_COLUMNS : 2 * _COLUMNS]
    absent = _absent(labels[forced], data.num_classes)
    blocks = [
        ("Recognised", known, [_Row("drawn", known, labels[known])]),
        (
            "Not recognised",
            missed,
            [
                _Row(
                    "from prediction",
                    missed,
                    _aligned(predictions[missed], labels[missed]),
                ),
                _Row("from label", missed, labels[missed]),
            ],
        ),
        (
            "One class forced that is not there (*)",
            forced,
            [_Row("drawn", forced, np.stack([labels[forced, 0], absent], axis=1))],
        ),
    ]
    share = 100 * np.mean(~right)
    height_ratios = [1 + len(rows) for _, _, rows in blocks]
    figure = figures.new(figsize=(12, 11))
    figure.suptitle(
        f"Overlapping digits of {data.name}: {share:.1f} % of "
        f"{len(labels):,} test pairs not recognised\n"
        "L: the classes of the image; R: the classes drawn, in red and in green"
    )
    parts = figure.subfigures(
        len(blocks), 1, squeeze=False, height_ratios=height_ratios
    )
    for part, (title, pairs, rows) in zip(parts[:, 0], blocks, strict=True):
        part.suptitle(title, fontsize=12, fontweight="bold")
        grid = part.subplots(1 + len(rows), _COLUMNS, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        if not len(pairs):
            grid[0, 0].text(0.5, 0.5, "none", ha="center")
            continue
        _inputs(grid[0], data.test.images[pairs], labels[pairs], data.class_names)
        for axes_of_row, row in zip(grid[1:], rows, strict=True):
            drawn = _draw(reconstruct, data.test.images[pairs], row.classes)
            if drawn is not None:
                _overlays(axes_of_row, row, drawn, labels[pairs], data.class_names)
    return figure


def overlay(drawn: np.ndarray) -> np.ndarray:
    """Two grayscale pictures as one: the first in red, the second in green.

    Args:
        drawn: [2, H, W, 1] in [0, 1].

    Returns:
        [H, W, 3]; where both are bright it is yellow.
    """
    first, second = drawn[..., 0]
    return np.stack([first, second, np.zeros_like(first)], axis=-1)


def _draw(
    reconstruct: Reconstruct,
    images: np.ndarray,
    classes: np.ndarray,
) -> np.ndarray | None:
    # One shape for all rows, so that the function compiles once.
    padding = (0, _COLUMNS - len(images))
    images = np.pad(images, [padding, (0, 0), (0, 0), (0, 0)])
    _, drawn = reconstruct(images, np.pad(classes, [padding, (0, 0)]))
    return None if drawn is None else np.asarray(drawn)


def _inputs(
    axes_of_row: Sequence[Axes],
    images: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
) -> None:
    _name(axes_of_row[0], "input")
    for axes, image, label in zip(axes_of_row, images, labels, strict=False):
        axes.imshow(image[:, :, 0], cmap="gray", vmin=0, vmax=255)
        axes.set_title(f"L: {_listed(label, class_names)}", fontsize=10)


def _overlays(
    axes_of_row: Sequence[Axes],
    row: _Row,
    drawn: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
) -> None:
    _name(axes_of_row[0], row.name)
    for axes, pictures, classes, label in zip(
        axes_of_row, drawn, row.classes, labels, strict=False
    ):
        axes.imshow(overlay(pictures))
        right = set(classes) == set(label)
        axes.set_title(
            f"R: {_listed(classes, class_names, shown=label)}",
            fontsize=10,
            color=_RIGHT if right else _WRONG,
        )


def _listed(
    classes: np.ndarray,
    class_names: Sequence[str],
    shown: np.ndarray | None = None,
) -> str:
    """The classes' names, with a star at those that the image does not show."""
    stars = ["" if shown is None or c in shown else "*" for c in classes]
    names = [class_names[c] + star for c, star in zip(classes, stars, strict=True)]
    return ", ".join(names)


def _name(axes: Axes, text: str) -> None:
    axes.text(-0.1, 0.5, text, transform=axes.transAxes, ha="right", va="center")


def _aligned(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The predicted classes, those that are right in the place of their label."""
    swap = (predictions[:, 0] == labels[:, 1]) | (predictions[:, 1] == labels[:, 0])
    return np.where(swap[:, None], predictions[:, ::-1], predictions)


def _absent(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """For each image the class that follows its second one and is not shown."""
    following = (labels[:, 1] + 1) % num_classes
    return np.where(following == labels[:, 0], (following + 1) % num_classes, following)
