"""Several models that differ in their seed, and their predictions together.

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
from capsjax.training.trained import evaluate, restore

_MAX_LISTED = 10


class Ensemble(NamedTuple):
    """Errors on the test images, in percent.

    Attributes:
        single: error of each model.
        first: error of the first 1, 2, ... models together.
        low: lower end of the 95 % interval of the whole ensemble's error.
        high: upper end of that interval.
    """

    single: list[float]
    first: list[float]
    low: float
    high: float


def members_scores(
    folders: Sequence[RunFolder], data: Dataset
) -> list[Float[np.ndarray, "N J"]]:
    """The scores of each run's last parameters on the test images.

    They are lengths of the class capsules, or probabilities of a CNN.
    """
    found = []
    with Progress("testing", len(folders) * len(data.test), unit="images") as progress:
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
        scores: scores of each model, from `members_scores`.
        labels: int [N].
    """
    # In float64: rounding would decide between equal sums.
    sums = np.cumsum(np.asarray(scores, np.float64), axis=0)
    wrong = np.argmax(sums, axis=2) != labels
    whole = intervals.accuracy(wrong[-1])
    return Ensemble(
        single=(100 * np.mean(np.argmax(scores, axis=2) != labels, axis=1)).tolist(),
        first=(100 * np.mean(wrong, axis=1)).tolist(),
        low=100 * whole.low,
        high=100 * whole.high,
    )


def table(found: Ensemble, data: Dataset) -> str:
    """The result in a few lines of Markdown."""
    count = len(found.single)
    lines = [
        (f"single models, mean ± std of {count}", results.mean_and_std(found.single)),
        (
            f"{count} models together (95 % interval)",
            f"{found.first[-1]:.2f} ({found.low:.2f} to {found.high:.2f})",
        ),
    ]
    header = ("", "test error, %")
    each = results.listed([f"{error:.2f}" for error in found.single], _MAX_LISTED)
    return (
        f"{results.markdown_table(header, lines, numeric=header)}\n\n"
        f"Single models: {each}{', in ensemble.csv' * (count > _MAX_LISTED)}. "
        f"On {len(data.test):,} test images. Data: {data.provenance}.\n"
    )


def write(workdir: pathlib.Path, folders: Sequence[RunFolder], data: Dataset) -> str:
    """Tests the models and writes rows, table and figure; returns the table.

    The files are ``ensemble.csv`` (a row for each model, with the error of the models
    up to it), ``ensemble.md``, ``ensemble.png`` and ``captions.json``.
    """
    found = together(members_scores(folders, data), data.test.labels)
    rows = [
        results.training_row(folder, {"members": n, "ensemble_error_percent": error})
        for n, (folder, error) in enumerate(zip(folders, found.first, strict=True), 1)
    ]
    results.write(workdir / "ensemble.csv", rows)
    text = table(found, data)
    (workdir / "ensemble.md").write_text(text)
    drawn = figure.errors(found.single, found.first, data.title)
    figures.save(drawn, workdir / "ensemble.png")
    caption = (
        "Test error of models that differ in their seed: each alone, and the first N "
        "together, which predict the class with the largest sum of scores."
    )
    write_json(workdir / "captions.json", {"ensemble.png": caption})
    return text
