"""Rows, tables and figure of accuracies on changed images."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from capsjax import figures
from capsjax.analyses.affnist import in_percent
from capsjax.analyses.figures import transformations as plots
from capsjax.analyses.intervals import Interval
from capsjax.analyses.robustness.subjects import Chosen, Subject
from capsjax.analyses.robustness.transformations import (
    CORRUPTED,
    Curve,
    halving,
    in_points,
    unmatched,
)
from capsjax.analyses.robustness.warps import WARPS
from capsjax.runs import results
from capsjax.runs.results import Row


def rows(
    subjects: Mapping[str, Subject], chosen: Chosen, curves: Sequence[Sequence[Curve]]
) -> list[Row]:
    """A row for each network and change, with the network's provenance."""
    found = []
    for same in curves:
        for curve in same:
            about = about_row(subjects[curve.run], chosen)
            unit = WARPS[curve.part].unit if curve.part in WARPS else ""
            for place, difference in enumerate(curve.less(same[0])):
                measured = {
                    "transformation": curve.part,
                    "change": curve.changes[place],
                    "unit": unit,
                    **_columns("accuracy", curve.accuracies[place]),
                }
                if curve is not same[0]:
                    measured |= {"less_than": same[0].run}
                    measured |= _columns("difference", difference)
                own = {**about, **measured, "tested_commit": curve.commit}
                found.append(results.row(subjects[curve.run].folder.load_env(), own))
    return found


def about_row(subject: Subject, chosen: Chosen) -> dict[str, object]:
    """Columns that say which network was tested, and on what."""
    config = subject.model.config
    return {
        "data": subject.folder.load_env()["data"],
        "run": subject.name,
        **config.model.columns(),
        "seed": config.seed,
        "steps": subject.model.step,
        "params_sha256": subject.identity["checkpoint"]["params_sha256"],
        "images": len(chosen.images),
        "images_seed": chosen.seed,
        "without_classes": " ".join(chosen.without),
    }


def _columns(name: str, interval: Interval) -> dict[str, float]:
    names = (name, f"{name}_low", f"{name}_high")
    return dict(zip(names, interval, strict=True))


def table(chosen: Chosen, curves: Sequence[Sequence[Curve]]) -> str:
    """Markdown: where accuracies halve, and a table for each kind of change."""
    parts = []
    warps = [same for same in curves if same[0].part in WARPS]
    if warps:
        header = ["accuracy halves at", *(curve.run for curve in curves[0])]
        lines = [
            [
                f"{same[0].part}, {WARPS[same[0].part].unit}",
                *(_halving_in_words(curve) for curve in same),
            ]
            for same in warps
        ]
        parts.append(results.markdown_table(header, lines, numeric=header[1:]))
    parts += [_part_table(same) for same in curves]
    parts += unmatched(curves[0])
    notes = (
        f"On {chosen.in_words()}, the same for all, chosen with the seed {chosen.seed}."
        " Accuracies in percent and, in brackets, their 95 % intervals over images; "
        "differences in percentage points, image by image. The intervals do not hold "
        "the spread over trainings."
    )
    if any(same[0].part == CORRUPTED for same in curves):
        notes += " The corruptions are written after MNIST-C's definitions."
    return "\n\n".join([*parts, notes]) + "\n"


def _part_table(same: Sequence[Curve]) -> str:
    first = same[0]
    header = [first.part, *(curve.run for curve in same)]
    header += [f"{curve.run} less {first.run}" for curve in same[1:]]
    lines = [
        [
            _in_words(first.changes[place]),
            *(in_percent(curve.accuracies[place]) for curve in same),
            *(in_points(curve.less(first)[place]) for curve in same[1:]),
        ]
        for place in range(len(first.changes))
    ]
    if first.part == CORRUPTED:
        means = [100 * np.mean(curve.right[1:]) for curve in same]
        gaps = [f"{mean - means[0]:+.2f}" for mean in means[1:]]
        lines.append(["mean of the corruptions", *(f"{x:.2f}" for x in means), *gaps])
    return results.markdown_table(header, lines, numeric=header[1:])


def _halving_in_words(curve: Curve) -> str:
    below, above = halving(curve)
    words = []
    if curve.unchanged > 0:
        words.append("none below" if below is None else f"{below:.3g}")
    words.append("none above" if above is None else f"{above:.3g}")
    return " and ".join(words)


def _in_words(change: float | str) -> str:
    return change if isinstance(change, str) else f"{change:g}"


def write(
    output: pathlib.Path,
    subjects: Mapping[str, Subject],
    chosen: Chosen,
    curves: Sequence[Sequence[Curve]],
) -> tuple[str, dict[str, str]]:
    """Writes ``transformations.csv``, ``.md`` and ``.png`` into a folder.

    Args:
        output: the folder.
        subjects: the networks by name.
        chosen: the images.
        curves: for each kind of change a curve of each network, in the same order.

    Returns:
        The table as Markdown, and the figure's caption by its file's name.
    """
    output.mkdir(parents=True, exist_ok=True)
    results.write(output / "transformations.csv", rows(subjects, chosen, curves))
    text = table(chosen, curves)
    (output / "transformations.md").write_text(text)
    panels = [
        plots.Panel(
            title=same[0].part,
            unit=WARPS[same[0].part].unit if same[0].part in WARPS else "",
            changes=same[0].changes,
            accuracies={curve.run: curve.accuracies for curve in same},
        )
        for same in curves
    ]
    figure = plots.accuracies(panels, chosen.data)
    figures.save(figure, output / "transformations.png")
    caption = (
        f"Accuracy on {chosen.in_words()} that are changed, the same for all networks, "
        f"with 95 % intervals over images. {' '.join(unmatched(curves[0]))}"
    )
    return text, {"transformations.png": caption.rstrip()}
