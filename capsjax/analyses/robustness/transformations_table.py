"""Rows, tables and figure of accuracies on changed images."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from capsjax import figures
from capsjax.analyses import matched
from capsjax.analyses.affnist import in_percent
from capsjax.analyses.figures import transformations as plots
from capsjax.analyses.intervals import Interval
from capsjax.analyses.robustness.subjects import Chosen, Subject
from capsjax.analyses.robustness.transformations import (
    CORRUPTED,
    Curve,
    Network,
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


def table(chosen: Chosen, networks: Sequence[Sequence[Network]]) -> str:
    """Markdown: where accuracies halve, and a table for each kind of change."""
    parts = []
    warps = [same for same in networks if same[0].part in WARPS]
    if warps:
        header = ["accuracy halves at", *(one.name for one in networks[0])]
        lines = [
            [
                f"{same[0].part}, {WARPS[same[0].part].unit}",
                *(_halving_in_words(one) for one in same),
            ]
            for same in warps
        ]
        parts.append(results.markdown_table(header, lines, numeric=header[1:]))
    parts += [_part_table(same) for same in networks]
    parts += unmatched(networks[0])
    notes = (
        f"On {chosen.in_words()}, the same for all, chosen with the seed {chosen.seed}."
        f" {trainings_in_words(networks[0])} Accuracies in percent and, in brackets, "
        f"their 95 % intervals over {over(networks[0])}; differences in percentage "
        "points, image by image."
    )
    if any(same[0].part == CORRUPTED for same in networks):
        notes += " The corruptions are written after MNIST-C's definitions."
    return "\n\n".join([*parts, notes]) + "\n"


def trainings_in_words(networks: Sequence[Network]) -> str:
    """A sentence on the number of trainings of each network."""
    counts = {len(one.curves) for one in networks}
    if counts == {1}:
        return "One training of each network."
    if len(counts) == 1:
        return f"Means over {counts.pop()} trainings of each network."
    each = results.listed([f"{one.name} {len(one.curves)}" for one in networks])
    return f"Means over trainings: {each}."


def over(networks: Sequence[Network]) -> str:
    """What intervals are over, in words."""
    several = any(len(one.curves) > 1 for one in networks)
    return "images and trainings" if several else "images, without trainings' spread"


def _part_table(same: Sequence[Network]) -> str:
    first = same[0]
    header = [first.part, *(one.name for one in same)]
    header += [f"{one.name} less {first.name}" for one in same[1:]]
    lines = [
        [
            _in_words(first.changes[place]),
            *(in_percent(one.accuracies[place]) for one in same),
            *(in_points(one.less(first)[place]) for one in same[1:]),
        ]
        for place in range(len(first.changes))
    ]
    if first.part == CORRUPTED:
        means = [100 * np.mean([x.value for x in one.accuracies[1:]]) for one in same]
        gaps = [f"{mean - means[0]:+.2f}" for mean in means[1:]]
        lines.append(["mean of the corruptions", *(f"{x:.2f}" for x in means), *gaps])
    return results.markdown_table(header, lines, numeric=header[1:])


def _halving_in_words(network: Network) -> str:
    below, above = halving(network)
    words = []
    if network.unchanged > 0:
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
        curves: for each kind of change a curve of each run, in the same order.

    Returns:
        The table as Markdown, and the figure's caption by its file's name.
    """
    output.mkdir(parents=True, exist_ok=True)
    results.write(output / "transformations.csv", rows(subjects, chosen, curves))
    groups = matched.by_network({run: one.folder for run, one in subjects.items()})
    networks = [
        [
            Network(name, [one for one in same if one.run in runs])
            for name, runs in groups.items()
        ]
        for same in curves
    ]
    text = table(chosen, networks)
    (output / "transformations.md").write_text(text)
    panels = [
        plots.Panel(
            title=same[0].part,
            unit=WARPS[same[0].part].unit if same[0].part in WARPS else "",
            changes=same[0].changes,
            accuracies={one.name: one.accuracies for one in same},
        )
        for same in networks
    ]
    figure = plots.accuracies(panels, chosen.data)
    figures.save(figure, output / "transformations.png")
    sentences = [trainings_in_words(networks[0]), *unmatched(networks[0])]
    caption = (
        f"Accuracy on {chosen.in_words()} that are changed, the same for all networks, "
        f"with 95 % intervals over {over(networks[0])}. {' '.join(sentences)}"
    )
    return text, {"transformations.png": caption}
