"""Several models that differ in their seed, and what they say together.

The prediction of an ensemble is the class whose capsule lengths (or, of CNNs, softmax
probabilities) have the largest sum over the models.

References:
    Sabour, Frosst and Hinton 2017, section 7: "an ensemble of 7 models" on CIFAR-10.
"""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Float
from scipy.special import softmax

from capsjax import figures
from capsjax.analyses import intervals
from capsjax.analyses.figures import ensemble as figure
from capsjax.data import Dataset
from capsjax.runs import results
from capsjax.runs.folder import RunFolder, write_json
from capsjax.runs.progress import Progress
from capsjax.runs.results import Row
from capsjax.training.trained import evaluate, restore


class Ensemble(NamedTuple):
    """Errors on the test images, in percent.

    Attributes:
        single: of each model.
        first: of the first 1, 2, ... models together.
        low: lower end of the 95 % interval of the whole ensemble's error.
        high: its upper end.
    """

    single: list[float]
    first: list[float]
    low: float
    high: float


def members_scores(
    folders: Sequence[RunFolder], data: Dataset
) -> list[Float[np.ndarray, "N J"]]:
    """What each model, with its last parameters, says of each test image.

    Args:
        folders: of the models' runs.
        data: theirs.

    Returns:
        Lengths of the class capsules, or probabilities of a CNN.
    """
    found = []
    total = len(folders) * len(data.test)
    with Progress("testing", total, unit="images") as progress:
        for folder in folders:
            model = restore(folder, data, "last")
            scores = evaluate(model, data.test, progress.advance).scores
            is_logits = model.config.model.scores == "logits"
            found.append(softmax(scores, axis=1) if is_logits else scores)
    return found


def together(
    scores: Sequence[Float[np.ndarray, "N J"]], labels: npt.NDArray[np.integer]
) -> Ensemble:
    """The errors of models, one by one and together.

    Args:
        scores: of each model, from `members_scores`.
        labels: int [N].
    """

    def wrong(summed: np.ndarray) -> npt.NDArray[np.bool_]:
        return np.argmax(summed, axis=1) != labels

    # In float64: of equal sums, rounding would decide.
    sums = np.cumsum(np.asarray(scores, np.float64), axis=0)
    whole = intervals.accuracy(wrong(sums[-1]))
    return Ensemble(
        single=[100 * float(np.mean(wrong(each))) for each in scores],
        first=[100 * float(np.mean(wrong(summed))) for summed in sums],
        low=100 * whole.low,
        high=100 * whole.high,
    )


def rows(folders: Sequence[RunFolder], found: Ensemble) -> list[Row]:
    """A row for each model: its own result, and that of the models up to it."""
    return [
        results.training_row(
            folder, {"members": count, "ensemble_error_percent": error}
        )
        for count, (folder, error) in enumerate(
            zip(folders, found.first, strict=True), start=1
        )
    ]


def table(found: Ensemble, data: Dataset) -> str:
    """The result in a few lines of Markdown."""
    count = len(found.single)
    each = ", ".join(f"{error:.2f}" for error in found.single)
    lines = [
        (f"single models, mean ± std of {count}", results.mean_and_std(found.single)),
        (
            f"{count} models together (95 % interval)",
            f"{found.first[-1]:.2f} ({found.low:.2f} to {found.high:.2f})",
        ),
    ]
    header = ("", "test error, %")
    result = results.markdown_table(header, lines, numeric=header)
    return (
        f"{result}\n\nSingle models: {each}. On {len(data.test):,} test images. "
        f"Data: {data.provenance}.\n"
    )


def write(workdir: pathlib.Path, folders: Sequence[RunFolder], data: Dataset) -> str:
    """Tests the models and writes rows, table and figure; returns the table.

    ``ensemble.csv``, ``ensemble.md``, ``ensemble.png`` and ``captions.json``.
    """
    found = together(members_scores(folders, data), data.test.labels)
    text = table(found, data)
    results.write(workdir / "ensemble.csv", rows(folders, found))
    (workdir / "ensemble.md").write_text(text)
    figures.save(
        figure.errors(found.single, found.first, data.name), workdir / "ensemble.png"
    )
    caption = (
        "Test error of models that differ in their seed: each alone, and the first so "
        "many together, which predict the class with the largest sum of scores."
    )
    write_json(workdir / "captions.json", {"ensemble.png": caption})
    return text
