"""What networks say to faces whose parts are in the wrong places.

"A CNN takes a face with its parts in the wrong places for a face; a capsule network
does not" is the claim under test. Networks that tell drawn faces from drawings without
some part, equally well, see the same faces scrambled
(`capsjax.data.sources.faces_scrambled`), which none of them has been trained on.

The score of an image is the length of the capsule of "face", or the probability of
"face" by the softmax of logits. How well a network tells correct faces from others is
the area under the ROC curve of the score of "face" less that of "not a face", or of
logits their difference: 1 if every correct face has more than every other image, 0.5 if
the network is blind to what distinguishes them. Capsules of both classes may be long,
so that the score alone, the other column of areas in the rows, can tell less.

A network that is not misled has learned what belongs where, and may have learned it
from the doodles: each lies in the place of a part, and says that this is no face.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from capsjax.analyses import intervals
from capsjax.analyses.intervals import Interval
from capsjax.analyses.matched import Cell
from capsjax.data import Dataset, ImageSet
from capsjax.data.sources import faces
from capsjax.data.sources.faces_scrambled import scrambled
from capsjax.losses.base import Scores
from capsjax.runs import results
from capsjax.runs.folder import RunFolder
from capsjax.runs.progress import Progress
from capsjax.runs.results import Row
from capsjax.training.trained import evaluate, restore

Floats = npt.NDArray[np.float64]


class Question(NamedTuple):
    """A kind of images.

    Attributes:
        kind: one of `capsjax.data.sources.faces_scrambled.KINDS`, or ``"lacking"`` for
            the test images without some part, which are in the training's manner.
        amount: degrees or pixels, of the kinds that have an amount.
    """

    kind: str
    amount: float = 0.0

    def in_words(self) -> str:
        """The kind, and its amount if it has one."""
        amounts = {"moved": " by {:g} px", "turned": " by up to {:g}°"}
        more = amounts.get(self.kind, "").format(self.amount)
        return self.kind.replace("_", " ") + more


CORRECT, LACKING = Question("correct"), Question("lacking")
MOVES = tuple(Question("moved", float(d)) for d in range(1, 9))
SHOWN = (
    CORRECT,
    LACKING,
    Question("swapped"),
    Question("shuffled"),
    Question("turned", 180.0),
    MOVES[3],
    Question("upside_down"),
)
"""Those in the table and the figure of all kinds."""

QUESTIONS = tuple(dict.fromkeys((*SHOWN, *MOVES)))


class Answers(NamedTuple):
    """What a network says to N images.

    Attributes:
        cell: network and seed.
        question: the kind of images.
        score: [N], see the module.
        margin: [N], score of "face" less that of "not a face".
        called: bool [N], whether the network calls them faces.
    """

    cell: Cell
    question: Question
    score: Floats
    margin: Floats
    called: npt.NDArray[np.bool_]


def images(data: Dataset, count: int) -> dict[Question, npt.NDArray[np.uint8]]:
    """The images of each question, uint8 [N, 28, 28, 1].

    All but the lacking ones show the same faces, in the same order.

    Args:
        data: the faces.
        count: images of each kind, at most 1,000.
    """
    lacking = data.test.images[data.test.labels == faces.NOT_A_FACE]
    return {
        question: lacking[:count]
        if question == LACKING
        else scrambled(question.kind, question.amount, count).images
        for question in QUESTIONS
    }


def answers(
    scores: npt.NDArray[np.float32], kind: Scores
) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
    """`Answers`'s score, margin and called of a model's scores.

    Args:
        scores: [N, 2] of "not a face" and "face".
        kind: kind of the scores.
    """
    exact = scores.astype(np.float64)
    shown = softmax(exact, axis=1) if kind == "logits" else exact
    margin = exact[:, faces.FACE] - exact[:, faces.NOT_A_FACE]
    return shown[:, faces.FACE], margin, margin > 0


def ask(
    folders: Mapping[Cell, RunFolder],
    data: Dataset,
    asked: Mapping[Question, npt.NDArray[np.uint8]],
) -> list[Answers]:
    """Asks the best checkpoint of each run.

    Args:
        folders: the runs.
        data: the faces that they were trained on.
        asked: images of each question.
    """
    found = []
    total = len(folders) * sum(map(len, asked.values()))
    with Progress("asking the networks", total, unit="images") as progress:
        for cell, folder in folders.items():
            model = restore(folder, data, "best")
            # All at once, so that each network is compiled once.
            labels = np.zeros(sum(map(len, asked.values())), np.int32)
            everything = ImageSet(np.concatenate([*asked.values()]), labels)
            scores = evaluate(model, everything, progress.advance).scores
            ends = np.cumsum([len(images) for images in asked.values()])
            for question, part in zip(asked, np.split(scores, ends[:-1]), strict=True):
                said = answers(part, model.config.model.scores)
                found.append(Answers(cell, question, *said))
    return found


def auc(correct: Floats, others: Floats) -> float:
    """Area under the ROC curve that tells correct faces from others by a number."""
    # Imported here since it takes a second, which other analyses need not spend.
    from sklearn.metrics import roc_auc_score

    labels = np.repeat([1, 0], [len(correct), len(others)])
    return float(roc_auc_score(labels, np.concatenate([correct, others])))


class Summary(NamedTuple):
    """Answers of a network to a question, over its seeds.

    Attributes:
        called: share of the images called faces.
        score: mean score.
        auc: see `auc`; of the correct faces, 0.5.
    """

    called: Interval
    score: Interval
    auc: Interval


def summarise(found: Sequence[Answers]) -> dict[tuple[str, Question], Summary]:
    """Means of each network, with intervals over the images and the seeds.

    That of the area is over the seeds alone; of a single one there is none.
    """
    correct = {one.cell: one.margin for one in found if one.question == CORRECT}
    summaries = {}
    for key, members in _by_network(found).items():
        called = [intervals.accuracy(one.called) for one in members]
        score = [intervals.mean(one.score) for one in members]
        areas = [auc(correct[one.cell], one.margin) for one in members]
        summaries[key] = Summary(
            intervals.of_share(intervals.over_trainings(called)),
            intervals.of_share(intervals.over_trainings(score)),
            intervals.of_share(intervals.mean(np.array(areas))),
        )
    return summaries


def differences(
    found: Sequence[Answers],
) -> dict[tuple[str, str], dict[Question, Interval]]:
    """Shares called faces of one network less another's, for each pair of networks.

    Differences are taken image by image, so that what makes an image hard for both
    cancels, between trainings with the same seed. Intervals are over the images and the
    seeds.
    """
    groups = _by_network(found)
    networks = dict.fromkeys(network for network, _ in groups)
    questions = dict.fromkeys(question for _, question in groups)
    return {
        (first, second): {
            question: intervals.over_trainings(
                [
                    intervals.difference(one.called, other.called)
                    for one, other in zip(
                        groups[first, question], groups[second, question], strict=True
                    )
                ]
            )
            for question in questions
        }
        for first, second in itertools.combinations(networks, 2)
    }


def rows(found: Sequence[Answers], folders: Mapping[Cell, RunFolder]) -> list[Row]:
    """A row for each network, seed and question, with the provenance of its run."""
    correct = {one.cell: one for one in found if one.question == CORRECT}
    made = []
    for one in found:
        folder = folders[one.cell]
        env, config = folder.load_env(), folder.load_config()
        called = intervals.accuracy(one.called)
        score = intervals.mean(one.score)
        measured = {
            "data": env["data"],
            "network": one.cell.network,
            **config.model.columns(),
            "seed": one.cell.seed,
            "num_parameters": folder.load_result()["num_parameters"],
            "validation_accuracy": folder.load_result()["best_validation_accuracy"],
            "kind": one.question.kind,
            "amount": one.question.amount,
            "images": len(one.called),
            **_columns("called_face", called),
            **_columns("score", score),
            "auc": auc(correct[one.cell].margin, one.margin),
            "auc_of_score_alone": auc(correct[one.cell].score, one.score),
        }
        made.append(results.row(env, measured))
    return made


def _by_network(
    found: Sequence[Answers],
) -> dict[tuple[str, Question], list[Answers]]:
    groups: dict[tuple[str, Question], list[Answers]] = {}
    for one in found:
        groups.setdefault((one.cell.network, one.question), []).append(one)
    return groups


def _columns(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low} | {
        f"{name}_high": interval.high
    }
