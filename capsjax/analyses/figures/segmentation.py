"""The figure of overlapping digits taken apart.

References:
    Sabour, Frosst and Hinton 2017, section 6.2 and figure 5.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure, SubFigure

from capsjax import figures
from capsjax.analyses.figures import pictures
from capsjax.data import Dataset
from capsjax.losses.classification import is_right
from capsjax.training.trained import Reconstruct

_COLUMNS = 10


def segmentations(
    data: Dataset, predictions: np.ndarray, reconstruct: Reconstruct
) -> Figure:
    """Input pairs, and below each the two digits that the model draws, red and green.

    The blocks show pairs that were recognised; pairs that were not, drawn from the
    prediction and from the label; and recognised pairs with one class replaced by a
    class that the image does not show (marked *): nothing that looks like a digit
    should be drawn from such a capsule. Without a decoder only the inputs are shown.

    Args:
        data: data set of pairs; its test images are shown.
        predictions: int [N, 2], of the test images, ascending.
        reconstruct: function of `capsjax.training.trained.TrainedModel`.
    """
    labels = data.test.labels
    right = is_right(predictions, labels)
    known, forced = np.split(np.flatnonzero(right)[: 2 * _COLUMNS], [_COLUMNS])
    missed = np.flatnonzero(~right)[:_COLUMNS]
    predicted = _aligned(predictions[missed], labels[missed])
    absent = _absent(labels[forced], data.num_classes)
    one_forced = np.stack([labels[forced, 0], absent], axis=1)
    blocks = [
        ("Recognised", known, {"drawn": labels[known]}),
        (
            "Not recognised",
            missed,
            {"from prediction": predicted, "from label": labels[missed]},
        ),
        ("One class forced that is not there (*)", forced, {"drawn": one_forced}),
    ]
    figure = figures.new(figsize=(12, 11))
    figure.suptitle(
        f"Overlapping digits ({data.title}): {100 * np.mean(~right):.1f} % of "
        f"{len(labels):,} test pairs not recognised\n"
        "L: the classes of the image; R: the classes drawn, in red and in green"
    )
    height_ratios = [1 + len(rows) for _, _, rows in blocks]
    parts = figure.subfigures(
        len(blocks), 1, squeeze=False, height_ratios=height_ratios
    )
    for part, (title, pairs, rows) in zip(parts[:, 0], blocks, strict=True):
        part.suptitle(title, fontsize=12, fontweight="bold")
        _draw_block(part, data, pairs, rows, reconstruct)
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


def _draw_block(
    part: SubFigure,
    data: Dataset,
    pairs: np.ndarray,
    rows: Mapping[str, np.ndarray],
    reconstruct: Reconstruct,
) -> None:
    """Draws test pairs, and rows of pictures of two classes [n, 2] for each pair."""
    grid = pictures.grid(part, 1 + len(rows), _COLUMNS)
    if not len(pairs):
        grid[0, 0].text(0.5, 0.5, "none", ha="center")
        return
    images, labels = data.test.images[pairs], data.test.labels[pairs]
    pictures.name_row(grid[0, 0], "input")
    for axes, image, label in zip(grid[0], images, labels, strict=False):
        axes.imshow(image[:, :, 0], cmap="gray", vmin=0, vmax=255)
        axes.set_title(f"L: {_listed(label, label, data.class_names)}", fontsize=10)
    for row, (name, classes) in zip(grid[1:], rows.items(), strict=True):
        _, drawn = pictures.reconstructed(reconstruct, images, classes, _COLUMNS)
        if drawn is None:
            continue
        pictures.name_row(row[0], name)
        for axes, both, c, label in zip(row, drawn, classes, labels, strict=False):
            axes.imshow(overlay(both))
            color = pictures.RIGHT if set(c) == set(label) else pictures.WRONG
            title = f"R: {_listed(c, label, data.class_names)}"
            axes.set_title(title, fontsize=10, color=color)


def _listed(
    classes: Iterable[int], label: np.ndarray, class_names: Sequence[str]
) -> str:
    """The classes' names, with a star at those that are not in the label."""
    return ", ".join(class_names[c] + ("" if c in label else "*") for c in classes)


def _aligned(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The predicted classes, with correct ones in the place of their label."""
    swap = (predictions[:, 0] == labels[:, 1]) | (predictions[:, 1] == labels[:, 0])
    return np.where(swap[:, None], predictions[:, ::-1], predictions)


def _absent(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """The class that follows each image's second one and is not shown."""
    following = (labels[:, 1] + 1) % num_classes
    return np.where(following == labels[:, 0], (following + 1) % num_classes, following)
