"""CapsNet and a CNN on affNIST, stopped at the same accuracy on digits as trained on.

Both models train on expanded MNIST until they reach the same accuracy on its validation
images, or the best that both reach (`capsjax.analyses.matched`). Neither has seen a
digit that was rotated, sheared or scaled.

References:
    Sabour, Frosst and Hinton 2017, section 5.2.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from capsjax.analyses import intervals
from capsjax.analyses.intervals import Interval
from capsjax.data import Dataset
from capsjax.data import names as data_names
from capsjax.data.derived.affnist import Transformed
from capsjax.losses.classification import is_right
from capsjax.runs import results
from capsjax.runs.folder import RunFolder, write_json
from capsjax.runs.progress import Progress
from capsjax.runs.results import Row
from capsjax.training.trained import evaluate, restore

CAPSNET, CNN = "CapsNet", "CNN"

PAPER_ACCURACY = {CAPSNET: (0.9923, 0.79), CNN: (0.9922, 0.66)}
"""On expanded MNIST and on affNIST, in the paper."""


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """A model, and its results on the two sets of test images.

    Attributes:
        name: `CAPSNET` or `CNN`.
        folder: folder of its run.
        validation: validation accuracy at which it stopped.
        step: training step at which it stopped.
        clean: accuracy on the digits as trained on.
        affnist: accuracy on the transformed digits.
        clean_right: bool [N], the recognised ones of the digits as trained on.
        affnist_right: bool [M], the recognised ones of the transformed digits.
    """

    name: str
    folder: RunFolder
    validation: float
    step: int
    clean: Interval
    affnist: Interval
    clean_right: np.ndarray
    affnist_right: np.ndarray


def test(
    name: str, folder: RunFolder, clean: Dataset, transformed: Transformed
) -> Outcome:
    """Tests the best checkpoint of a run on both sets of images."""
    model = restore(folder, clean, "best")
    assert model.best_accuracy is not None  # It is the best one.
    total = len(clean.test) + len(transformed.images)
    with Progress(f"testing the {name}", total, unit="images") as progress:
        clean_right, affnist_right = (
            is_right(evaluate(model, part, progress.advance).predictions, part.labels)
            for part in (clean.test, transformed.images)
        )
    return Outcome(
        name=name,
        folder=folder,
        validation=model.best_accuracy,
        step=model.step,
        clean=intervals.accuracy(clean_right),
        affnist=intervals.accuracy(affnist_right, transformed.originals),
        clean_right=clean_right,
        affnist_right=affnist_right,
    )


def row(outcome: Outcome, transformed: Transformed) -> Row:
    """The row of a model, with its provenance."""
    env, config = outcome.folder.load_env(), outcome.folder.load_config()
    measured = {
        "data": env["data"],
        "model": outcome.name,
        "num_parameters": outcome.folder.load_result()["num_parameters"],
        "seed": config.seed,
        "batch_size": config.batch_size,
        "steps": outcome.step,
        "target_validation_accuracy": config.stop_at_validation_accuracy,
        "validation_accuracy": outcome.validation,
        **_columns("clean", outcome.clean_right, outcome.clean),
        "affnist": transformed.provenance,
        **_columns("affnist", outcome.affnist_right, outcome.affnist),
    }
    return results.row(env, measured)


def _columns(images: str, right: np.ndarray, accuracy: Interval) -> dict[str, float]:
    names = [f"{images}_{name}" for name in ("examples", "accuracy", "low", "high")]
    return dict(zip(names, (len(right), *accuracy), strict=True))


def names(outcomes: Sequence[Outcome], transformed: Transformed) -> tuple[str, str]:
    """The names of the digits as trained on and of the transformed ones, in words."""
    source = outcomes[0].folder.load_config().data
    base = data_names.in_words(source.base, path=source.path)
    return data_names.derived("expanded", base), data_names.derived(
        "affnist", base, generated=not transformed.published
    )


def table(outcomes: Sequence[Outcome], transformed: Transformed) -> str:
    """A Markdown table of the models beside the paper's, and their difference."""
    lines = [
        [
            outcome.name,
            f"{outcome.folder.load_result()['num_parameters']:,}",
            f"{outcome.step:,}",
            f"{100 * outcome.validation:.2f}",
            in_percent(outcome.clean),
            in_percent(outcome.affnist),
            "{:.2%} / {:.0%}".format(*PAPER_ACCURACY[outcome.name]).replace("%", ""),
        ]
        for outcome in outcomes
    ]
    clean, turned = names(outcomes, transformed)
    header = [
        *("model", "parameters", "steps", "validation, %"),
        *(f"{clean}, % (95 %)", f"{turned}, % (95 %)"),
        "the paper's, expanded MNIST / affNIST",
    ]
    first, second = outcomes
    gap = intervals.difference(
        first.affnist_right, second.affnist_right, transformed.originals
    )
    value, low, high = (100 * number for number in gap)
    return (
        f"{results.markdown_table(header, lines, numeric=header[1:])}\n\n"
        f"On {turned} the {first.name}'s accuracy less the {second.name}'s is "
        f"{value:+.2f} percentage points ({low:+.2f} to {high:+.2f}); +13 in the "
        "paper, on the published affNIST.\n\n"
        f"Tested on {transformed.provenance}. Intervals: 95 %, over the test "
        "digits; they do not hold the spread over training seeds.\n"
    )


def in_percent(interval: Interval) -> str:
    """An accuracy in percent, with its interval."""
    value, low, high = (100 * number for number in interval)
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def write(
    workdir: pathlib.Path, outcomes: Sequence[Outcome], transformed: Transformed
) -> str:
    """Writes ``affnist.csv`` and ``affnist.md`` into a folder; returns the table.

    Also ``captions.json`` with the caption of ``affnist.png``, for a report.
    """
    text = table(outcomes, transformed)
    rows = [row(outcome, transformed) for outcome in outcomes]
    results.write(workdir / "affnist.csv", rows)
    (workdir / "affnist.md").write_text(text)
    clean, turned = names(outcomes, transformed)
    caption = (
        f"Accuracy on {clean}, as trained on, and on {turned}, of both models "
        "stopped at the same validation accuracy: points are ours with 95 % intervals, "
        "diamonds the paper's, on expanded MNIST and the published affNIST. Below, "
        "images that only one of them recognises. Tested on "
        f"{transformed.provenance}."
    )
    write_json(workdir / "captions.json", {"affnist.png": caption})
    return text
