"""The figures of a run: learning curves, reconstructions, errors, confusion matrix.

Images that show two classes have segmentations instead of the last three, see
`capsjax.analyses.figures.segmentation`.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from capsjax import figures
from capsjax.analyses.figures import pictures
from capsjax.analyses.figures.segmentation import segmentations
from capsjax.data import Dataset, ImageSet
from capsjax.runs.folder import RunFolder
from capsjax.runs.metrics import read_metrics
from capsjax.training.train import TrainingResult

_COLUMNS = 12
_MAX_ERRORS = 48
_MAX_CLASSES = 40


def write_all(folder: RunFolder, data: Dataset, trained: TrainingResult) -> None:
    """Writes all figures of a run that has ended into its ``plots`` folder."""
    folder.plots.mkdir(exist_ok=True)
    for name, figure in _all(folder, data, trained):
        figures.save(figure, folder.plots / f"{name}.png")


def _all(
    folder: RunFolder, data: Dataset, trained: TrainingResult
) -> Iterator[tuple[str, Figure]]:
    """The names and figures of a run."""
    yield "curves", learning_curves(read_metrics(folder.metrics))
    predictions, reconstruct = trained.test.predictions, trained.model.reconstruct
    labels = data.test.labels
    if labels.ndim == 2:
        yield "segmentations", segmentations(data, predictions, reconstruct)
        return
    yield "confusion_matrix", confusion_matrix(labels, predictions, data.class_names)

    def shown(
        title: str, indices: np.ndarray, classes: Mapping[str, np.ndarray]
    ) -> Figure:
        """Images, and what is drawn from some classes of theirs in each further row."""
        images, rows = data.test.images[indices], {}
        for name, of_images in classes.items():
            rows["input"], drawn = pictures.reconstructed(
                reconstruct, images, of_images[indices], _MAX_ERRORS
            )
            if drawn is not None:
                rows[name] = drawn
        return gallery(
            title, rows, labels[indices], predictions[indices], data.class_names
        )

    title = f"Test images of {data.title}"
    if trained.model.config.model.has_decoder:
        title += " and their reconstructions"
    some = _a_few_of_each_class(data.test, 2 * _COLUMNS)
    yield "reconstructions", shown(title, some, {"reconstruction": predictions})

    wrong = np.flatnonzero(predictions != labels)
    title = f"{len(wrong)} of {len(labels)} test images of {data.title} misclassified"
    if len(wrong) > _MAX_ERRORS:
        title += f", the first {_MAX_ERRORS}"
    classes = {"from prediction": predictions, "from label": labels}
    yield "errors", shown(title, wrong[:_MAX_ERRORS], classes)


def learning_curves(rows: Sequence[dict]) -> Figure:
    """Loss and error against the step, for each split in rows of metrics."""
    figure, (loss, error) = figures.subplots(1, 2, figsize=(10, 4), sharex=True)
    for split, style in {"train": "-", "validation": "o-", "test": "s"}.items():
        found = [row for row in rows if row["split"] == split]
        if not found:
            continue
        steps = [row["step"] for row in found]
        errors = [100 * (1 - row["accuracy"]) for row in found]
        options = {"label": split, "linewidth": 1.2, "markersize": 4}
        loss.plot(steps, [row["loss"] for row in found], style, **options)
        error.plot(steps, errors, style, **options)
    loss.set(title="Loss", xlabel="step", ylabel="loss", yscale="log")
    error.set(title="Classification error", xlabel="step", ylabel="error in %")
    lowest = min((np.min(line.get_ydata()) for line in error.lines), default=0.0)
    if lowest < 5:
        # Linear below one error in a thousand images, so that zero can be drawn.
        error.set_yscale("symlog", linthresh=0.1)
    figures.from_zero(error)
    error.yaxis.set_major_formatter("{x:g}")
    error.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    for axes in (loss, error):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    return figure


def confusion_matrix(
    labels: np.ndarray, predictions: np.ndarray, class_names: Sequence[str]
) -> Figure:
    """Counts of how often each class (row) was taken for each class (column).

    Of more than 40 classes it shows the 39 most often confused, and the others
    together.
    """
    labels, predictions, names = _most_confused(labels, predictions, class_names)
    J = len(names)
    counts = np.zeros((J, J), int)
    np.add.at(counts, (labels, predictions), 1)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(5.0, 0.45 * J + 1.5)
    figure, axes = figures.subplots(figsize=(side, side))
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, ax=axes, shrink=0.8, label="share of the class")
    title = "Confusion matrix, test images"
    if len(class_names) > J:
        title += f"\nthe {J - 1} most often confused of {len(class_names)} classes"
    axes.set(xlabel="prediction", ylabel="label", title=title)
    axes.set_xticks(range(J), names, rotation=90 if _long(names) else 0)
    axes.set_yticks(range(J), names)
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8}
    for row, column in np.argwhere(counts) if J <= 30 else ():
        color = "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, counts[row, column], color=color, **style)
    return figure


def _most_confused(
    labels: np.ndarray, predictions: np.ndarray, class_names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Puts all but the most often confused of many classes into one, the last."""
    names = [figures.shortened(name) for name in class_names]
    if len(names) <= _MAX_CLASSES:
        return labels, predictions, names
    wrong = labels != predictions
    confused = np.bincount(
        np.concatenate([labels[wrong], predictions[wrong]]), minlength=len(names)
    )
    most = _MAX_CLASSES - 1
    kept = np.sort(np.argsort(-confused, kind="stable")[:most])
    numbers = np.full(len(names), most)
    numbers[kept] = np.arange(most)
    shown = [*(names[label] for label in kept), f"{len(names) - most} others"]
    return numbers[labels], numbers[predictions], shown


def gallery(
    title: str,
    rows: Mapping[str, np.ndarray],
    labels: np.ndarray,
    predictions: np.ndarray,
    class_names: Sequence[str],
) -> Figure:
    """Pictures side by side, ``label -> prediction`` above each column.

    Args:
        title: title of the figure.
        rows: images [N, H, W, C] by the names of their rows.
        labels: int [N].
        predictions: int [N].
        class_names: names of the classes.
    """
    count = len(labels)
    columns = min(_COLUMNS, max(count, 4))
    names = [figures.shortened(name, 12) for name in class_names]
    bands = max(-(-count // columns), 1)
    height = 1.15 * bands * len(rows) + 0.35 * bands + 0.8
    figure = figures.new(figsize=(columns + 1.4, height if count else 1.5))
    figure.suptitle(textwrap.fill(title, 8 * columns, break_on_hyphens=False))
    if not count:
        figure.text(0.5, 0.25, "none", ha="center")
        return figure
    space = {"wspace": 0.05}
    grid = pictures.grid(figure, bands * len(rows), columns, gridspec_kw=space)
    figure.supxlabel("above each column: label → prediction", fontsize=9)
    for index, (label, prediction) in enumerate(zip(labels, predictions, strict=True)):
        band, column = divmod(index, columns)
        column_axes = grid[band * len(rows) :, column]
        for axes, (name, images) in zip(column_axes, rows.items(), strict=False):
            axes.imshow(_displayable(images[index]), cmap="gray", vmin=0, vmax=1)
            if column == 0:
                pictures.name_row(axes, name, x=-0.12)
        column_axes[0].set_title(
            f"{names[label]} → {names[prediction]}",
            fontsize=_letter_size(names),
            color=pictures.RIGHT if label == prediction else pictures.WRONG,
        )
    return figure


def _displayable(image: np.ndarray) -> np.ndarray:
    """An image in [0, 1], as matplotlib shows it."""
    low, high = min(image.min(), 0.0), max(image.max(), 1.0)
    # This changes standardised images only.
    return pictures.shown((image - low) / (high - low))


def _a_few_of_each_class(image_set: ImageSet, count: int) -> np.ndarray:
    """Indices of images, the classes taking turns."""
    rank = np.zeros(len(image_set), int)
    for label in np.unique(image_set.labels):
        members = image_set.labels == label
        rank[members] = np.arange(members.sum())
    return np.lexsort((image_set.labels, rank))[:count]


def _long(class_names: Sequence[str]) -> bool:
    return max(map(len, class_names)) > 3


def _letter_size(class_names: Sequence[str]) -> float:
    """Size of ``label → prediction`` above a picture, in points."""
    longest = max(map(len, class_names))
    return 10 if longest <= 3 else 8 if longest <= 7 else 6
