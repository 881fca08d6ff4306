"""The figures of a run: learning curves, reconstructions, errors, confusion matrix.

Of images that show two classes there are segmentations instead, see
`capsjax.analyses.figures.segmentation`.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from capsjax import figures
from capsjax.analyses.figures import segmentation as plots_segmentation
from capsjax.data import Dataset, ImageSet
from capsjax.runs.folder import RunFolder
from capsjax.runs.metrics import read_metrics
from capsjax.training.train import TrainingResult

_COLUMNS = 12
_MAX_ERRORS = 48
_RIGHT, _WRONG = "tab:green", "tab:red"


def write_all(folder: RunFolder, data: Dataset, trained: TrainingResult) -> None:
    """Writes all figures of a run that has ended into its ``plots`` folder.

    Args:
        folder: the run's; its metrics are read.
        data: the run's; the test images are shown.
        trained: what training returned.
    """
    predictions, reconstruct = trained.test.predictions, trained.model.reconstruct
    folder.plots.mkdir(exist_ok=True)
    figures.save(
        learning_curves(read_metrics(folder.metrics)), folder.plots / "curves.png"
    )
    if data.test.labels.ndim == 2:
        figure = plots_segmentation.segmentations(
            data, predictions=predictions, reconstruct=reconstruct
        )
        figures.save(figure, folder.plots / "segmentations.png")
        return
    figures.save(
        confusion_matrix(data.test.labels, predictions, data.class_names),
        folder.plots / "confusion_matrix.png",
    )

    def pictures(indices: np.ndarray, classes: np.ndarray):
        # One shape for all calls, so that the function compiles once.
        padding = (0, _MAX_ERRORS - len(indices))
        images = np.pad(data.test.images[indices], [padding, (0, 0), (0, 0), (0, 0)])
        seen, drawn = reconstruct(images, np.pad(classes, padding))
        count = len(indices)
        return (
            np.asarray(seen)[:count],
            None if drawn is None else np.asarray(drawn)[:count],
        )

    labels = data.test.labels
    shown = _a_few_of_each_class(data.test, 2 * _COLUMNS)
    seen, drawn = pictures(shown, predictions[shown])
    rows = [("input", seen)] + ([] if drawn is None else [("reconstruction", drawn)])
    figures.save(
        gallery(
            f"Test images of {data.name}"
            + ("" if drawn is None else " and their reconstructions"),
            rows,
            labels[shown],
            predictions[shown],
            data.class_names,
        ),
        folder.plots / "reconstructions.png",
    )

    wrong = np.flatnonzero(predictions != labels)
    shown = wrong[:_MAX_ERRORS]
    seen, drawn = pictures(shown, predictions[shown])
    rows = [("input", seen)]
    if drawn is not None:
        from_label = pictures(shown, labels[shown])[1]
        rows += [("from prediction", drawn), ("from label", from_label)]
    title = f"{len(wrong)} of {len(labels)} test images of {data.name} misclassified"
    if len(wrong) > len(shown):
        title += f", the first {len(shown)}"
    figures.save(
        gallery(title, rows, labels[shown], predictions[shown], data.class_names),
        folder.plots / "errors.png",
    )


def learning_curves(rows: Sequence[dict]) -> Figure:
    """Loss and error against the step, for each split in rows of metrics."""
    figure, (loss, error) = figures.subplots(1, 2, figsize=(10, 4), sharex=True)
    for split, style in {"train": "-", "validation": "o-", "test": "s"}.items():
        found = [row for row in rows if row["split"] == split]
        if not found:
            continue
        steps = [row["step"] for row in found]
        options = {"label": split, "linewidth": 1.2, "markersize": 4}
        loss.plot(steps, [row["loss"] for row in found], style, **options)
        error.plot(
            steps, [100 * (1 - row["accuracy"]) for row in found], style, **options
        )
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
    """How often each class (row) was taken for each (column)."""
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
    if J <= 30:
        for row, column in np.argwhere(counts):
            axes.text(
                column,
                row,
                counts[row, column],
                ha="center",
                va="center",
                fontsize=8,
                color="white" if share[row, column] > 0.5 else "black",
            )
    return figure


def gallery(
    title: str,
    rows: Sequence[tuple[str, np.ndarray]],
    labels: np.ndarray,
    predictions: np.ndarray,
    class_names: Sequence[str],
) -> Figure:
    """Pictures side by side, ``label -> prediction`` above each column.

    Args:
        title: of the figure.
        rows: name and images [N, H, W, C] of each row; the same N everywhere.
        labels: int [N].
        predictions: int [N].
        class_names: of the classes.
    """
    count = len(labels)
    bands = max(-(-count // _COLUMNS), 1)
    height = 1.15 * bands * len(rows) + 0.35 * bands + 0.8
    figure = figures.new(figsize=(1.0 * _COLUMNS + 1.4, height))
    figure.suptitle(title)
    grid = figure.subplots(
        bands * len(rows), _COLUMNS, squeeze=False, gridspec_kw={"wspace": 0.05}
    )
    for axes in grid.flat:
        axes.set_axis_off()
    for index in range(count):
        band, column = divmod(index, _COLUMNS)
        for row, (name, images) in enumerate(rows):
            axes = grid[band * len(rows) + row, column]
            axes.imshow(_displayable(images[index]), cmap="gray", vmin=0, vmax=1)
            if column == 0:
                axes.text(
                    -0.12, 0.5, name, transform=axes.transAxes, ha="right", va="center"
                )
            if row == 0:
                label, prediction = labels[index], predictions[index]
                axes.set_title(
                    f"{class_names[label]} → {class_names[prediction]}",
                    fontsize=8 if _long(class_names) else 10,
                    color=_RIGHT if label == prediction else _WRONG,
                )
    if not count:
        grid[0, 0].text(0.5, 0.5, "none", ha="center")
    else:
        figure.supxlabel("above each column: label → prediction", fontsize=9)
    return figure


def _displayable(image: np.ndarray) -> np.ndarray:
    """An image as matplotlib shows it: in [0, 1], one, three or four channels."""
    low, high = min(image.min(), 0.0), max(image.max(), 1.0)
    image = (image - low) / (high - low)  # Changes standardised images only.
    return image if image.shape[2] in (3, 4) else image[:, :, 0]


def _a_few_of_each_class(image_set: ImageSet, count: int) -> np.ndarray:
    """Indices of images, the classes taking turns."""
    rank = np.zeros(len(image_set), int)
    for label in np.unique(image_set.labels):
        members = image_set.labels == label
        rank[members] = np.arange(members.sum())
    order = np.lexsort((image_set.labels, rank))
    return order[:count]


def _long(class_names: Sequence[str]) -> bool:
    return max(len(name) for name in class_names) > 3
