"""Rows, tables and figures of what networks say to scrambled faces."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from capsjax import figures
from capsjax.analyses.figures import arrangement as plots
from capsjax.analyses.intervals import Interval
from capsjax.analyses.matched import Cell
from capsjax.analyses.robustness import arrangement
from capsjax.analyses.robustness.arrangement import (
    CORRECT,
    MOVES,
    SHOWN,
    Answers,
    Question,
    Summary,
)
from capsjax.runs import results
from capsjax.runs.folder import RunFolder, write_json

_PICTURES = 3  # Faces of each kind in the figure.

_ABOUT = (
    "The score is the length of the capsule of face, or the probability of face by the "
    "softmax. The area is that under the ROC curve of the score of face less that of "
    "the other class, which tells correct faces from the others; 0.5: not at all; its "
    "interval is over the seeds alone. "
    "Upside down is a new pose as much as a wrong one."
)


def write(
    workdir: pathlib.Path,
    found: Sequence[Answers],
    folders: Mapping[Cell, RunFolder],
    images: Mapping[Question, npt.NDArray[np.uint8]],
) -> str:
    """Writes what was found into a folder; returns the tables as Markdown.

    The files are ``arrangement.csv`` with a row for each network, seed and kind,
    ``arrangement.md``, ``arrangement_faces.png``, ``arrangement_kinds.png``,
    ``arrangement_moved.png`` and ``captions.json``.
    """
    results.write(workdir / "arrangement.csv", arrangement.rows(found, folders))
    summaries = arrangement.summarise(found)
    networks = list(dict.fromkeys(network for network, _ in summaries))
    text = markdown(found, summaries)
    (workdir / "arrangement.md").write_text(text)
    words = {question: question.in_words() for question in SHOWN}
    over = _over(found)
    drawn = {
        "arrangement_faces.png": (
            plots.pictures(
                {words[q]: images[q][:_PICTURES] for q in SHOWN},
                {
                    network: {words[q]: _first(found, network, q) for q in SHOWN}
                    for network in networks
                },
            ),
            "Faces and what is made of them, with each network's score of face (seed "
            "0), bold where it calls the image a face.",
        ),
        "arrangement_kinds.png": (
            plots.bars(
                {
                    network: {words[q]: summaries[network, q] for q in SHOWN}
                    for network in networks
                }
            ),
            "Share of the images of each kind that each network calls faces, its mean "
            "score, and how well it tells them from correct faces; bars: 95 % "
            f"intervals over {over}.",
        ),
        "arrangement_moved.png": (
            plots.curves(
                {
                    network: {
                        q.amount: summaries[network, q] for q in (CORRECT, *MOVES)
                    }
                    for network in networks
                }
            ),
            "The same for faces whose parts are moved in random directions, against "
            f"the distance in pixels; bands: 95 % intervals over {over}.",
        ),
    }
    for name, (figure, _) in drawn.items():
        figures.save(figure, workdir / name)
    captions = {name: caption for name, (_, caption) in drawn.items()}
    write_json(workdir / "captions.json", captions)
    return text


def markdown(
    found: Sequence[Answers], summaries: Mapping[tuple[str, Question], Summary]
) -> str:
    """The tables: each network's answers, and differences between networks."""
    networks = list(dict.fromkeys(network for network, _ in summaries))
    header = ["images", *networks]
    parts = []
    for field, title, factor in (
        ("called", "Called faces, %", 100),
        ("score", "Mean score of face", 1),
        ("auc", "Area under the ROC curve, against correct faces", 1),
    ):
        lines = [
            [
                question.in_words(),
                *(
                    _shown(getattr(summaries[network, question], field), factor)
                    for network in networks
                ),
            ]
            for question in SHOWN
        ]
        parts.append(f"{title}:\n\n{results.markdown_table(header, lines)}")
    pairs = arrangement.differences(found)
    if pairs:
        names = [f"{first} less {second}" for first, second in pairs]
        lines = [
            [
                question.in_words(),
                *(_shown(pair[question], 100) for pair in pairs.values()),
            ]
            for question in SHOWN
        ]
        parts.append(
            "Called faces, percentage points, on the same images:\n\n"
            f"{results.markdown_table(['images', *names], lines)}"
        )
    count = len(found[0].called)
    parts.append(
        f"{count:,} images of each kind; 95 % intervals over {_over(found)}. {_ABOUT}"
    )
    return "\n\n".join(parts) + "\n"


def _over(found: Sequence[Answers]) -> str:
    seeds = len({one.cell.seed for one in found})
    return f"the images and {seeds} seeds" if seeds > 1 else "the images of one seed"


def _first(found: Sequence[Answers], network: str, question: Question) -> Answers:
    return next(
        one for one in found if one.cell.network == network and one.question == question
    )


def _shown(interval: Interval, factor: float) -> str:
    digits = 1 if factor > 1 else 3
    value, low, high = (f"{factor * number:.{digits}f}" for number in interval)
    if not np.isfinite(interval.low):
        return value
    return f"{value} ({low} to {high})"
