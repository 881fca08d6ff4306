"""Tests networks on changed images: what is left to do, its cost, and the files."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from tqdm import tqdm

from capsjax.analyses.robustness import (
    equivariance,
    equivariance_table,
    poses,
    transformations,
    transformations_table,
)
from capsjax.analyses.robustness.cells import Cells
from capsjax.analyses.robustness.equivariance import Equivariance
from capsjax.analyses.robustness.subjects import Chosen, Subject
from capsjax.errors import NotApplicableError
from capsjax.runs.folder import write_json
from capsjax.runs.progress import Progress

EQUIVARIANCE = "equivariance"
PARTS = (*transformations.PARTS, EQUIVARIANCE)
"""Whatever a network can be tested on."""


class Findings(NamedTuple):
    """What a test has found.

    Attributes:
        text: tables as Markdown.
        left_out: sentences on what could not be measured.
    """

    text: str
    left_out: list[str]


def examine(
    subjects: Mapping[str, Subject],
    chosen: Chosen,
    parts: Sequence[str],
    output: pathlib.Path,
    say: Callable[[str], None],
) -> Findings:
    """Tests networks, and writes rows, tables, figures and captions into a folder.

    What an earlier test in the folder has found out, of the same networks and images,
    is not computed again.

    Args:
        subjects: the networks by name; the others are compared with the first.
        chosen: the images.
        parts: some of `PARTS`.
        output: the folder.
        say: takes lines on the cost, before the work begins.

    Raises:
        UserError: the images are too small to be corrupted.
    """
    cells = Cells(output / "cells")
    names = [part for part in transformations.PARTS if part in parts]
    left_out: list[str] = []
    curves = {
        (name, part): transformations.finished(subject, part, chosen, cells)
        for part in names
        for name, subject in subjects.items()
    }
    width, found_poses = 0, {}
    if EQUIVARIANCE in parts:
        width = _width(subjects, chosen)
        found_poses = {
            name: poses.finished(subject, width, chosen, cells)
            for name, subject in subjects.items()
        }
    missing = {
        part: [one for one in subjects.values() if curves[one.name, part] is None]
        for part in names
    }
    unseen = [subjects[name] for name, one in found_poses.items() if one is None]
    counts = dict.fromkeys(subjects, 0)
    for part, some in missing.items():
        for subject in some:
            counts[subject.name] += transformations.image_count(part, chosen)
    for subject in unseen:
        counts[subject.name] += poses.image_count(chosen)
    _say_cost(counts, subjects, chosen, say)
    with Progress("testing", sum(counts.values()), unit="images") as progress:
        for part in names:
            if not missing[part]:
                continue
            progress.show(now=part)
            made = transformations.measure(
                missing[part], part, chosen, cells, progress.advance
            )
            curves |= {(one.run, part): one for one in made}
        for subject in unseen:
            progress.show(now=EQUIVARIANCE)
            try:
                found_poses[subject.name] = poses.measure(
                    subject, width, chosen, cells, progress.advance
                )
            except NotApplicableError as error:
                left_out.append(f"{EQUIVARIANCE} of {subject.name}: {error}")
    text = ""
    captions: dict[str, str] = {}
    if names:
        by_part = [
            [one for name in subjects if (one := curves[name, part])] for part in names
        ]
        text, captions = transformations_table.write(output, subjects, chosen, by_part)
    if known := [one for one in found_poses.values() if one]:
        found = _analysed(known, chosen)
        more, caption = equivariance_table.write(
            output, subjects, chosen, found, left_out
        )
        text, captions = f"{text}\n{more}" if text else more, captions | caption
    write_json(output / "captions.json", captions)
    return Findings(text, left_out)


def _width(subjects: Mapping[str, Subject], chosen: Chosen) -> int:
    models = [subject.model for subject in subjects.values()]
    return poses.width_of(models, chosen.images.image_shape)


def _analysed(known: Sequence[poses.Poses], chosen: Chosen) -> list[Equivariance]:
    half = poses.training_half(len(chosen.images), chosen.seed)
    return [equivariance.analyse(one, half, chosen.seed) for one in known]


def _say_cost(
    counts: Mapping[str, int],
    subjects: Mapping[str, Subject],
    chosen: Chosen,
    say: Callable[[str], None],
) -> None:
    """Says how many images networks are to see, and how long that takes.

    The time is that of a batch of each network, which is computed for it.
    """
    total = sum(counts.values())
    if not total:
        say("all of it has been measured before")
        return
    images = len(chosen.images)
    views = sorted({count // images for count in counts.values() if count})
    some = " or ".join(map(str, views))
    running = [subjects[name] for name, count in counts.items() if count]
    say(
        f"{images:,} images x {some} changes of them x {len(running)} "
        f"run{'s' * (len(running) > 1)}: networks see {total:,} images"
    )
    seconds = sum(
        counts[one.name] * one.seconds_per_image(chosen.images) for one in running
    )
    say(f"that takes about {tqdm.format_interval(seconds)} after compiling")
