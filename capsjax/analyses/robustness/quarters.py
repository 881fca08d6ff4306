"""What networks say to images cut into quarters that have changed places.

A network that was trained on whole images "stays confident" if it gives the cut image
the class that it gave to the whole one, with a score above a threshold. That is chosen
for each network such that 95 % of the validation images which it recognises have more.
The score is the largest one: a capsule's length, or a probability of the softmax.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from capsjax import figures
from capsjax.analyses import intervals
from capsjax.analyses.figures import quarters as plots
from capsjax.analyses.intervals import Interval
from capsjax.data import Dataset, ImageSet, tiles
from capsjax.errors import UserError
from capsjax.losses.base import Scores
from capsjax.runs import results
from capsjax.runs.folder import RunFolder, write_json
from capsjax.runs.progress import Progress
from capsjax.runs.results import Row
from capsjax.training.trained import evaluate, restore

Floats = npt.NDArray[np.float64]

KEPT = 0.95
"""Share of the recognised validation images whose score is above the threshold."""

_PICTURES = 8


class Answer(NamedTuple):
    """What a network says to N images, whole and cut.

    Attributes:
        network: name of the network, the same for all its seeds.
        folder: folder of its run.
        threshold: score above which it is confident.
        right: bool [N], the recognised ones of the whole images.
        confident: bool [N], the whole images whose score is above the threshold.
        stays: bool [N], the cut images that it gives the same class as the whole one,
            with a score above the threshold.
        scores: [2, N], the largest score of each image, whole and cut.
        entropies: [2, N], in bits, of the scores divided by their sum.
        predicted: int [2, N], the classes.
    """

    network: str
    folder: RunFolder
    threshold: float
    right: npt.NDArray[np.bool_]
    confident: npt.NDArray[np.bool_]
    stays: npt.NDArray[np.bool_]
    scores: Floats
    entropies: Floats
    predicted: npt.NDArray[np.integer]


def ask(network: str, folder: RunFolder, data: Dataset, grid: int = 2) -> Answer:
    """Asks the best checkpoint of a run.

    Args:
        network: name of its network.
        folder: the run.
        data: its data, with one class in each image.
        grid: tiles along each side.

    Raises:
        UserError: no validation images, several classes in each image, none of the
            validation images is recognised, or the grid does not divide the images.
    """
    if not len(data.validation) or data.test.labels.ndim > 1:
        raise UserError(
            f"the run in {folder.path} needs validation images for the threshold, and "
            "one class in each image; choose another run"
        )
    model = restore(folder, data, "best")
    kind = model.config.model.scores
    parts = (data.validation, data.test, tiles.permuted(data.test, grid))
    total = sum(map(len, parts))
    with Progress(f"asking {folder.path.name}", total, unit="images") as progress:
        known, whole, cut = (
            shares(evaluate(model, part, progress.advance).scores, kind)
            for part in parts
        )
    limit = threshold(known, data.validation)
    predicted = np.stack([whole.argmax(axis=1), cut.argmax(axis=1)])
    scores = np.stack([whole.max(axis=1), cut.max(axis=1)])
    return Answer(
        network=network,
        folder=folder,
        threshold=limit,
        right=predicted[0] == data.test.labels,
        confident=scores[0] > limit,
        stays=(predicted[0] == predicted[1]) & (scores[1] > limit),
        scores=scores,
        entropies=np.stack([entropy(whole), entropy(cut)]),
        predicted=predicted,
    )


def shares(scores: npt.NDArray[np.float32], kind: Scores) -> Floats:
    """Scores [N, J] between 0 and 1: of logits, the probabilities of the softmax."""
    exact = scores.astype(np.float64)
    return softmax(exact, axis=1) if kind == "logits" else exact


def threshold(scores: Floats, images: ImageSet) -> float:
    """The largest score that 95 % of the recognised images have more than.

    Args:
        scores: [N, J] of the images.
        images: N images, which the network has not been trained on.

    Raises:
        UserError: none of the images is recognised.
    """
    right = scores.argmax(axis=1) == images.labels
    if not right.any():
        raise UserError(
            "the network recognises no validation image, so there is no threshold; "
            "train it for longer"
        )
    return float(np.quantile(scores.max(axis=1)[right], 1 - KEPT, method="lower"))


def entropy(scores: Floats) -> Floats:
    """Entropy [N] in bits of scores [N, J], which are divided by their sum."""
    p = scores / scores.sum(axis=1, keepdims=True)
    return -np.sum(p * np.log2(np.maximum(p, 1e-30)), axis=1)


def row(answer: Answer, grid: int) -> Row:
    """The row of a run, with its provenance."""
    env, config = answer.folder.load_env(), answer.folder.load_config()
    measured = {
        "data": env["data"],
        "network": answer.network,
        **config.model.columns(),
        "seed": config.seed,
        "grid": grid,
        "images": len(answer.stays),
        "threshold": answer.threshold,
        "accuracy": float(answer.right.mean()),
        "confident_whole": float(answer.confident.mean()),
    }
    columns = ("stays_confident", "stays_confident_low", "stays_confident_high")
    measured |= dict(zip(columns, intervals.accuracy(answer.stays), strict=True))
    for number, kind in enumerate(("whole", "cut")):
        measured[f"largest_score_{kind}"] = float(answer.scores[number].mean())
        measured[f"entropy_bits_{kind}"] = float(answer.entropies[number].mean())
    return results.row(env, measured)


def write(
    workdir: pathlib.Path,
    found: Sequence[Answer],
    images: ImageSet,
    title: str,
    grid: int = 2,
) -> str:
    """Writes rows, table and figure into a folder; returns the table as Markdown.

    The files are ``quarters.csv``, ``quarters.md``, ``quarters.png`` and
    ``captions.json``.

    Args:
        workdir: the folder.
        found: the answers, of which those of one network differ in the seed.
        images: the whole images.
        title: name of the data in words.
        grid: tiles along each side.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    results.write(workdir / "quarters.csv", [row(answer, grid) for answer in found])
    groups: dict[str, list[Answer]] = {}
    for answer in found:
        groups.setdefault(answer.network, []).append(answer)
    text = _markdown(groups, title, grid)
    (workdir / "quarters.md").write_text(text)
    first = {network: members[0] for network, members in groups.items()}
    cut = tiles.permuted(images.take(np.arange(_PICTURES)), grid).images
    said = {
        network: [
            f"{answer.predicted[1, n]}: {answer.scores[1, n]:.2f}"
            for n in range(len(cut))
        ]
        for network, answer in first.items()
    }
    shown = {network: _stays(members) for network, members in groups.items()}
    figures.save(plots.stays_confident(shown, cut, said), workdir / "quarters.png")
    caption = (
        f"Images of {title} cut into {grid}x{grid} tiles that have changed places, "
        "with the class that each network gives them and its score, in the order of "
        "the bars; and the share of all test images for which it stays confident of "
        "the whole image's class."
    )
    write_json(workdir / "captions.json", {"quarters.png": caption})
    return text


def _markdown(groups: Mapping[str, Sequence[Answer]], title: str, grid: int) -> str:
    lines = []
    (_, first), *_ = groups.items()
    for network, members in groups.items():
        whole, cut = (
            [
                np.mean([getattr(one, field)[n].mean() for one in members])
                for field in ("scores", "entropies")
            ]
            for n in (0, 1)
        )
        gap = intervals.over_trainings(
            [
                intervals.difference(one.stays, other.stays)
                for one, other in zip(members, first, strict=False)
            ]
        )
        lines.append(
            [
                network,
                str(len(members)),
                f"{100 * np.mean([one.right.mean() for one in members]):.2f}",
                f"{100 * np.mean([one.confident.mean() for one in members]):.1f}",
                _percent(_stays(members)),
                "" if members is first else _percent(gap),
                f"{whole[0]:.3f} / {cut[0]:.3f}",
                f"{whole[1]:.3f} / {cut[1]:.3f}",
            ]
        )
    header = (
        *("network", "seeds", "accuracy, %", "confident, whole, %"),
        *("stays confident, cut, %", "less the first network's, points"),
        *("largest score, whole / cut", "entropy in bits, whole / cut"),
    )
    return (
        f"{results.markdown_table(header, lines, numeric=header[1:])}\n\n"
        f"Test images of {title}, cut into {grid}x{grid} tiles that have changed "
        "places. Intervals: 95 %, over the images and the seeds. Confident: above the "
        f"score that {KEPT:.0%} of the recognised validation images have.\n"
    )


def _stays(members: Sequence[Answer]) -> Interval:
    found = [intervals.accuracy(one.stays) for one in members]
    return intervals.of_share(intervals.over_trainings(found))


def _percent(interval: Interval) -> str:
    value, low, high = (100 * number for number in interval)
    return f"{value:.1f} ({low:.1f} to {high:.1f})"
