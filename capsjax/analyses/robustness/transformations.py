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
from collections.abc import Sequence

import numpy as np

from capsjax.analyses import intervals
from capsjax.analyses.intervals import Interval
from capsjax.analyses.robustness.cells import Cells
from capsjax.analyses.robustness.subjects import Chosen, OnBatch, Subject
from capsjax.analyses.robustness.warps import WARPS, curve_of, warped
from capsjax.data.corruptions import CORRUPTIONS, corrupted

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

    @functools.cached_property
    def accuracies(self) -> list[Interval]:
        """The accuracy at each change, with Wilson's interval."""
        return [intervals.accuracy(right) for right in self.right]

    def less(self, first: "Curve") -> list[Interval]:
        """The accuracy less another run's, image by image, at each change."""
        return [
            intervals.difference(own, other)
            for own, other in zip(self.right, first.right, strict=True)
        ]


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """The curves of a network's trainings under one kind of change.

    Attributes:
        name: name of the network.
        curves: a curve of each training.
    """

    name: str
    curves: Sequence[Curve]

    @property
    def part(self) -> str:
        """The kind of change."""
        return self.curves[0].part

    @property
    def changes(self) -> tuple[float, ...] | tuple[str, ...]:
        """The changes, see `Curve`."""
        return self.curves[0].changes

    @property
    def unchanged(self) -> int:
        """Place of the unchanged images among the changes."""
        if self.part == CORRUPTED:
            return 0
        return self.changes.index(WARPS[self.part].identity)

    @functools.cached_property
    def accuracies(self) -> list[Interval]:
        """The mean accuracy at each change, see `intervals.over_trainings`."""
        return [
            intervals.of_share(intervals.over_trainings(found))
            for found in zip(*(one.accuracies for one in self.curves), strict=True)
        ]

    def less(self, first: "Network") -> list[Interval]:
        """The accuracy less another network's, image by image, at each change.

        The first training is compared with the first, and so on.
        """
        pairs = zip(self.curves, first.curves, strict=False)
        differences = [own.less(other) for own, other in pairs]
        return [
            intervals.over_trainings(found) for found in zip(*differences, strict=True)
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


def halving(network: Network) -> tuple[float | None, float | None]:
    """The amounts, below and above the unchanged, at which accuracy has halved.

    Between two measured amounts accuracy is taken to be linear. None where it does not
    halve, or nothing was measured on that side.
    """
    values = [one.value for one in network.accuracies]
    start = network.unchanged
    below = _first_below(network.changes[start::-1], values[start::-1])
    return below, _first_below(network.changes[start:], values[start:])


def _first_below(
    changes: Sequence[float] | Sequence[str], values: Sequence[float]
) -> float | None:
    half = values[0] / 2
    if not half:
        return None
    for number in range(1, len(values)):
        if values[number] <= half:
            before, after = (float(x) for x in changes[number - 1 : number + 1])
            share = (values[number - 1] - half) / (values[number - 1] - values[number])
            return before + share * (after - before)
    return None


def unmatched(networks: Sequence[Network]) -> list[str]:
    """A sentence for each network whose accuracy on unchanged images is another.

    Args:
        networks: curves under one kind of change, the first network's first.
    """
    sentences = []
    first, *others = networks
    for one in others:
        gap = one.less(first)[one.unchanged]
        if not gap.low <= 0 <= gap.high:
            sentences.append(
                f"Not matched: on unchanged images the accuracy of {one.name} less "
                f"that of {first.name} is {in_points(gap)} percentage points."
            )
    return sentences


def in_points(interval: Interval) -> str:
    """A difference of accuracies in percentage points, with its interval."""
    value, low, high = (100 * number for number in interval)
    return f"{value:+.2f} ({low:+.2f} to {high:+.2f})"
