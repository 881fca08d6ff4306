"""Rows, table and figure of how equivariant networks are."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from capsjax import figures
from capsjax.analyses import matched
from capsjax.analyses.figures import equivariance as plots
from capsjax.analyses.robustness.equivariance import (
    R2,
    READINGS,
    Equivariance,
    over_trainings,
)
from capsjax.analyses.robustness.poses import MOVES
from capsjax.analyses.robustness.subjects import Chosen, Subject
from capsjax.analyses.robustness.transformations_table import about_row
from capsjax.analyses.robustness.warps import WARPS
from capsjax.runs import results
from capsjax.runs.results import Row


def rows(
    subjects: Mapping[str, Subject], chosen: Chosen, found: Sequence[Equivariance]
) -> list[Row]:
    """A row for each network and movement, and one for each kind's amount."""
    result = []
    for one in found:
        env = subjects[one.run].folder.load_env()
        about = about_row(subjects[one.run], chosen)
        about |= {"pose_width": one.width, "tested_commit": one.commit}
        for (name, amount), moved in one.moved.items():
            own = {"transformation": name, "change": amount, "unit": WARPS[name].unit}
            own["images_held_out"] = moved.images
            for reading in READINGS:
                own |= _columns(f"r2_{reading}", getattr(moved, reading))
            result.append(results.row(env, about | own))
        for name, r2 in one.amounts.items():
            own = {"transformation": name, "unit": WARPS[name].unit}
            result.append(results.row(env, about | own | _columns("r2_amount", r2)))
    return result


def _columns(name: str, r2: R2) -> dict[str, float | None]:
    values = [None if np.isnan(x) else x for x in r2]
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


def table(chosen: Chosen, found: Sequence[Equivariance]) -> str:
    """Markdown: a table for each reading."""
    header = ["movement", "network", "change", "class's mean", "beyond it", "pose"]
    lines = [
        [
            f"{name} {amount:g}",
            one.run,
            *(_in_words(getattr(one.moved[name, amount], x)) for x in READINGS),
        ]
        for name, amount in MOVES
        for one in found
    ]
    first = results.markdown_table(header, lines, numeric=header[2:])
    header = ["amount read from the pose, R2", *(one.run for one in found)]
    lines = [
        [f"{name}, {warp.unit}", *(_in_words(one.amounts[name]) for one in found)]
        for name, warp in WARPS.items()
    ]
    second = results.markdown_table(header, lines, numeric=header[1:])
    return (
        f"{first}\n\n{second}\n\n"
        f"On {chosen.in_words()}; everything is fitted to one half and tested on the "
        "other, for each predicted class. Poses have "
        f"{results.listed(sorted({str(one.width) for one in found}))} numbers. R2, of "
        "several trainings of a network the mean, with 95 % intervals over the tested "
        'images and the trainings. "change": of the pose\'s change, by a '
        'linear map of the pose; "class\'s mean": by the mean change alone; "beyond '
        'it": what the map adds to the mean; "pose": of the moved image\'s pose '
        "about its class's mean, by the same map.\n"
    )


def _in_words(r2: R2) -> str:
    if np.isnan(r2.value):
        return ""
    return f"{r2.value:.2f} ({r2.low:.2f} to {r2.high:.2f})"


def write(
    output: pathlib.Path,
    subjects: Mapping[str, Subject],
    chosen: Chosen,
    found: Sequence[Equivariance],
    left_out: Sequence[str],
) -> tuple[str, dict[str, str]]:
    """Writes ``equivariance.csv``, ``.md`` and ``.png`` into a folder.

    Args:
        output: the folder.
        subjects: the networks by name.
        chosen: the images.
        found: what was found of each run.
        left_out: sentences on runs of which nothing was found.

    Returns:
        The tables as Markdown, and the figure's caption by its file's name.
    """
    output.mkdir(parents=True, exist_ok=True)
    results.write(output / "equivariance.csv", rows(subjects, chosen, found))
    folders = {one.run: subjects[one.run].folder for one in found}
    by_run = {one.run: one for one in found}
    means = [
        over_trainings(name, [by_run[run] for run in runs])
        for name, runs in matched.by_network(folders).items()
    ]
    text = table(chosen, means)
    text += "".join(f"\nLeft out: {sentence}\n" for sentence in left_out)
    (output / "equivariance.md").write_text(text)
    figures.save(plots.readings(means, chosen.data), output / "equivariance.png")
    caption = (
        f"What movements of images do to poses, on half of {chosen.in_words()}; maps "
        "are fitted to the other half. Above: R2 of the pose's change by a linear map "
        "of the pose (dots), and by the class's mean change (crosses). In the middle: "
        "R2 of the moved image's pose about its class's mean. Below: how well a linear "
        "function of the pose tells the amount of the movement. Bars: 95 % intervals "
        "over images "
        "and trainings."
    )
    return text, {"equivariance.png": caption}
