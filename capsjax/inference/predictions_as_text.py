"""Predictions of image files for people to read: lines, and rows of a CSV file."""

import csv
import io
from collections.abc import Iterator

from capsjax.inference.predict_files import HONEST, FilePredictions, Usual, as_text

_MOST_NAMED = 10  # Files that are not read.


def not_read(found: FilePredictions) -> Iterator[str]:
    """Says how many files are not read, and names the first ones."""
    if found.left_out:
        yield found.left_out
    if not found.unread:
        return
    yield f"not read: {len(found.unread)} of the files, which are no images:"
    for file, why in found.unread[:_MOST_NAMED]:
        yield f"  {as_text(file)}: {why}"
    if (more := len(found.unread) - _MOST_NAMED) > 0:
        yield f"  and {more} more"


def what_is_usual(usual: Usual) -> str:
    """Says from which error on a reconstruction is called unusual."""
    return (
        f"reconstruction error: at most {usual.distance:.4g} for {HONEST:.0%} of "
        f"{usual.images} of the run; a larger one is unusual"
    )


def lines(found: FilePredictions, usual: Usual | None, top: int) -> Iterator[str]:
    """Yields a line for each image.

    Args:
        found: the predictions.
        usual: what its reconstruction is compared with, if it is known.
        top: number of classes that are named.
    """
    for i, classes in enumerate(found.top(top)):
        said = ", ".join(f"{name} {score:.4f}" for name, score in classes)
        line = f"{as_text(found.files[i])}: {said}"
        if found.distances is not None:
            line += f"; reconstruction error {found.distances[i]:.4g}"
            if usual is not None and found.distances[i] > usual.distance:
                line += ", unusual"
        yield line


def csv_rows(found: FilePredictions, usual: Usual | None, top: int) -> str:
    """Returns a CSV file with a row for each image; the arguments are as in `lines`.

    Its columns are file, class, score, class_2, score_2 and so on, the reconstruction's
    error, and whether it is unusual: 0 or 1. They are empty where nothing is known.
    """
    count = min(top, len(found.class_names))
    ranks = ["", *(f"_{rank}" for rank in range(2, count + 1))]
    names = [f"{column}{rank}" for rank in ranks for column in ("class", "score")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", *names, "reconstruction_error", "unusual"])
    for i, classes in enumerate(found.top(count)):
        error: list[object] = ["", ""]
        if found.distances is not None:
            distance = float(found.distances[i])
            error = [distance, "" if usual is None else int(distance > usual.distance)]
        best = [value for pair in classes for value in pair]
        writer.writerow([as_text(found.files[i]), *best, *error])
    return text.getvalue()
