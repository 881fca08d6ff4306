"""The figures of a run: learning curves, reconstructions, errors, confusion matrix.

Images that show two classes have segmentations instead of the last three, see
`capsjax.analyses.figures.segmentation`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from capsjax import figures
from capsjax.analyses.figures import pictures
from capsjax.analyses.figures.segmentation import segmentations
from capsjax.data import Dataset, ImageSet
from capsjax.runs.folder import RunFolder
from capsjax.runs.metrics import read_metrics
from capsjax.training.train import TrainingResult

_COLUMNS = 12
_MAX_ERRORS = 48


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

    title = f"Test images of {data.name}"
    if trained.model.config.model.has_decoder:
        title += " and their reconstructions"
    some = _a_few_of_each_class(data.test, 2 * _COLUMNS)
    yield "reconstructions", shown(title, some, {"reconstruction": predictions})

    wrong = np.flatnonzero(predictions != labels)
    title = f"{len(wrong)} of {len(labels)} test images of {data.name} misclassified"
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
    error.set_ylim(bottom=0)
    error.yaxis.set_major_formatter("{x:g}")
    for axes in (loss, error):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    return figure


def confusion_matrix(
    labels: np.ndarray, predictions: np.ndarray, class_names: Sequence[str]
) -> Figure:
    """Counts of how often each class (row) was taken for each class (column)."""
    J = len(class_names)
    counts = np.zeros((J, J), int)
    np.add.at(counts, (labels, predictions), 1)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(5.0, 0.45 * J + 1.5)
    figure, axes = figures.subplots(figsize=(side, side))
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, ax=axes, shrink=0.8, label="share of the class")
    axes.set(xlabel="prediction", ylabel="label", title="Confusion matrix, test images")
    axes.set_xticks(range(J), class_names, rotation=90 if _long(class_names) else 0)
    axes.set_yticks(range(J), class_names)
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8}
    for row, column in np.argwhere(counts) if J <= 30 else ():
        color = "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, counts[row, column], color=color, **style)
    return figure


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
    bands = max(-(-count // _COLUMNS), 1)
    height = 1.15 * bands * len(rows) + 0.35 * bands + 0.8
    figure = figures.new(figsize=(_COLUMNS + 1.4, height))
    figure.suptitle(title)
    space = {"wspace": 0.05}
    grid = pictures.grid(figure, bands * len(rows), _COLUMNS, gridspec_kw=space)
    if not count:
        grid[0, 0].text(0.5, 0.5, "none", ha="center")
        return figure
    figure.supxlabel("above each column: label → prediction", fontsize=9)
    for index, (label, prediction) in enumerate(zip(labels, predictions, strict=True)):
        band, column = divmod(index, _COLUMNS)
        column_axes = grid[band * len(rows) :, column]
        for axes, (name, images) in zip(column_axes, rows.items(), strict=False):
            axes.imshow(_displayable(images[index]), cmap="gray", vmin=0, vmax=1)
            if column == 0:
                pictures.name_row(axes, name, x=-0.12)
        column_axes[0].set_title(
            f"{class_names[label]} → {class_names[prediction]}",
            fontsize=8 if _long(class_names) else 10,
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
