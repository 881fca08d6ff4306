"""Accuracy of networks on turned, scaled, sheared, shifted and corrupted images.

Capsules are said to generalise over viewpoints. All networks see the same images, so
they are compared image by image, which leaves out what makes an image hard for all. A
fair comparison is one of networks whose accuracy on unchanged images is the same.

References:
    Sabour, Frosst and Hinton 2017, section 5.2, for the claim; Mu and Gilmer 2019,
    "MNIST-C", for the corruptions.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from capsjax import figures
from capsjax.analyses import intervals
from capsjax.analyses.affnist import in_percent
from capsjax.analyses.figures import transformations as plots
from capsjax.analyses.intervals import Interval
from capsjax.analyses.robustness.cells import Cells
from capsjax.analyses.robustness.subjects import Chosen, OnBatch, Subject
from capsjax.analyses.robustness.warps import WARPS, curve_of, warped
from capsjax.data.corruptions import CORRUPTIONS, corrupted
from capsjax.runs import results
from capsjax.runs.results import Row

CORRUPTED = "corruptions"
UNCHANGED = "none"
"""In place of a corruption's name."""

PARTS = (*WARPS, CORRUPTED)
"""Kinds of change, a curve each."""


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """What a network recognises under one kind of change.

    Attributes:
        run: name of the run.
        part: the kind, out of `PARTS`.
        changes: V amounts of a warp, ascending; or names of corruptions, before them
            `UNCHANGED`.
        right: bool [V, N], whether each image is recognised.
        commit: the commit that computed it.
    """

    run: str
    part: str
    changes: tuple[float, ...] | tuple[str, ...]
    right: np.ndarray
    commit: str

    @property
    def unchanged(self) -> int:
        """Place of the unchanged images among the changes."""
        if self.part == CORRUPTED:
            return 0
        return self.changes.index(WARPS[self.part].identity)

    @functools.cached_property
    def accuracies(self) -> list[Interval]:
        """The accuracy at each change, with Wilson's interval."""
        return [intervals.accuracy(right) for right in self.right]

    def less(self, first: "Curve") -> list[Interval]:
        """The accuracy less another network's, image by image, at each change."""
        return [
            intervals.difference(own, other)
            for own, other in zip(self.right, first.right, strict=True)
        ]


def changes_of(part: str, chosen: Chosen) -> tuple[float, ...] | tuple[str, ...]:
    """The amounts, or names, of a kind of change."""
    if part == CORRUPTED:
        return UNCHANGED, *CORRUPTIONS
    return curve_of(part, chosen.images.image_shape[1])


def image_count(part: str, chosen: Chosen) -> int:
    """The number of images that a network sees for a kind of change."""
    return len(chosen.images) * len(changes_of(part, chosen))


def changed(part: str, change: float | str, chosen: Chosen) -> np.ndarray:
    """The images after a change, uint8 [N, H, W, C].

    Raises:
        UserError: the images are too small to be corrupted.
    """
    images = chosen.images.images
    if isinstance(change, str):
        if change == UNCHANGED:
            return images
        return corrupted(images, change, seed=chosen.seed, numbers=chosen.numbers)
    return warped(images, part, change)


def finished(subject: Subject, part: str, chosen: Chosen, cells: Cells) -> Curve | None:
    """The curve that an earlier test left, or None."""
    changes = changes_of(part, chosen)
    found = cells.read(subject.name, part, _key(subject, changes, chosen))
    if found is None:
        return None
    commit = str(found["commit"])
    return Curve(subject.name, part, changes, found["right"], commit)


def measure(
    subjects: Sequence[Subject],
    part: str,
    chosen: Chosen,
    cells: Cells,
    on_batch: OnBatch = lambda count: None,
) -> list[Curve]:
    """Tests networks on the same changed images, and keeps each one's result.

    Args:
        subjects: the networks.
        part: kind of change.
        chosen: the images.
        cells: where results are kept.
        on_batch: called after each batch with its number of images.
    """
    changes = changes_of(part, chosen)
    images = [chosen.with_images(changed(part, one, chosen)) for one in changes]
    curves = []
    for subject in subjects:
        right = np.stack([subject.right(one, on_batch) for one in images])
        key = _key(subject, changes, chosen)
        kept = cells.write(subject.name, part, key, {"right": right})
        commit = str(kept["commit"])
        curves.append(Curve(subject.name, part, changes, right, commit))
    return curves


def _key(
    subject: Subject, changes: Sequence[float | str], chosen: Chosen
) -> dict[str, object]:
    return {**subject.identity, **chosen.content, "changes": list(changes)}


def halving(curve: Curve) -> tuple[float | None, float | None]:
    """The amounts, below and above the unchanged, at which accuracy has halved.

    Between two measured amounts accuracy is taken to be linear. None where it does not
    halve, or nothing was measured on that side.
    """
    values = [one.value for one in curve.accuracies]
    start = curve.unchanged
    below = _first_below(curve.changes[start::-1], values[start::-1])
    return below, _first_below(curve.changes[start:], values[start:])


def _first_below(
    changes: Sequence[float] | Sequence[str], values: Sequence[float]
) -> float | None:
    half = values[0] / 2
    for number in range(1, len(values)):
        if values[number] <= half:
            before, after = (float(x) for x in changes[number - 1 : number + 1])
            share = (values[number - 1] - half) / (values[number - 1] - values[number])
            return before + share * (after - before)
    return None


def unmatched(curves: Sequence[Curve]) -> list[str]:
    """A sentence for each network whose accuracy on unchanged images is another.

    Args:
        curves: curves of one kind, the first network's first.
    """
    sentences = []
    for curve in curves[1:]:
        value, low, high = curve.less(curves[0])[curve.unchanged]
        if not low <= 0 <= high:
            sentences.append(
                f"Not matched: on unchanged images the accuracy of {curve.run} less "
                f"that of {curves[0].run} is {_points(Interval(value, low, high))} "
                "percentage points."
            )
    return sentences


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
            *(_points(curve.less(first)[place]) for curve in same[1:]),
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
        words.append("never below" if below is None else f"{below:.3g}")
    words.append("never above" if above is None else f"{above:.3g}")
    return ", ".join(words)


def _in_words(change: float | str) -> str:
    return change if isinstance(change, str) else f"{change:g}"


def _points(interval: Interval) -> str:
    value, low, high = (100 * number for number in interval)
    return f"{value:+.2f} ({low:+.2f} to {high:+.2f})"


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
