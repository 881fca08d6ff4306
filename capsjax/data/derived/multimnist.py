"""MultiMNIST: two digits of different classes on top of each other.

References:
    Sabour, Frosst and Hinton 2017, section 6.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

from capsjax.data import names
from capsjax.data.datasets import Dataset, Examples, ImageSet
from capsjax.data.derived import canvas
from capsjax.data.source import Source
from capsjax.data.splits import SPLIT_SEED
from capsjax.errors import UserError


class Pairs:
    """Pairs of digits, overlaid on access.

    An image is ``min(a + b, 255)``, pixel by pixel, of two independently shifted
    digits; its label is the two classes, and its parts are the two shifted digits, in
    the same order.
    """

    def __init__(
        self, digits: ImageSet, most: int, rng: np.random.Generator, versions: int = 1
    ):
        """Draws the partner of each digit, and the shifts of both.

        Args:
            digits: N single digits on the canvas, of at least two classes.
            most: the largest shift along each axis in pixels; all shifts are equally
                likely.
            rng: the generator of all choices.
            versions: the number of pairs that each digit is the first of.
        """
        self._digits = digits
        first = np.tile(np.arange(len(digits)), versions)
        self.members = np.stack([first, _partners(digits.labels, first, rng)], axis=1)
        self.shifts = rng.integers(-most, most + 1, (len(first), 2, 2))

    def __len__(self) -> int:
        return len(self.members)

    def batch(self, indices: npt.NDArray[np.integer]) -> dict[str, np.ndarray]:
        """See `Examples.batch`; K is 2."""
        members, shifts = self.members[indices], self.shifts[indices]
        parts = np.stack(
            [
                canvas.shift(self._digits.images[members[:, k]], shifts[:, k])
                for k in range(2)
            ],
            axis=1,
        )
        # This is min(a + b, 255) within the range of uint8.
        first, second = parts[:, 0], parts[:, 1]
        merged = np.minimum(first, 255 - second) + second
        return {"image": merged, "label": self._digits.labels[members], "parts": parts}


@dataclasses.dataclass(frozen=True, eq=False)
class PairSet(ImageSet):
    """Fixed pairs, for validation and testing.

    Attributes:
        parts: uint8 [N, 2, H, W, C], the two digits that each image is made of.
    """

    parts: npt.NDArray[np.uint8]

    def batch(self, indices: npt.NDArray[np.integer]) -> dict[str, np.ndarray]:
        """See `Examples.batch`; K is 2."""
        return super().batch(indices) | {"parts": self.parts[indices]}

    def take(self, indices: npt.NDArray[np.integer]) -> "PairSet":
        """Returns the pairs at `indices`, integers [M], in that order."""
        return PairSet(self.images[indices], self.labels[indices], self.parts[indices])


@dataclasses.dataclass(frozen=True, eq=False)
class PairedDigits(ImageSet):
    """Single digits on the canvas, paired anew in every epoch.

    An epoch has one pair for each digit, with a new random partner; a thousand epochs
    correspond to the paper's thousand pairs per digit.

    Attributes:
        most_shift: the largest shift along each axis in pixels.
    """

    most_shift: int

    def for_epoch(self, rng: np.random.Generator) -> Examples:
        """See `ImageSet.for_epoch`."""
        return Pairs(self, self.most_shift, rng)


def derive(base: Dataset, source: Source) -> Dataset:
    """Makes the data set of pairs from one of single digits.

    Training pairs are made of training digits alone, validation pairs of validation
    digits, test pairs of test digits.

    Args:
        base: single digits, already split.
        source: `canvas`, `shift` and, for validation and test, `versions_per_digit`;
            36, 4 and 1000 in the paper.

    Raises:
        UserError: the digits do not fit, or there is a single class.
    """
    what = f"multimnist of {base.name}"
    canvas.check(base.train, source.canvas, source.shift, what)
    for split, digits in (("training", base.train), ("test", base.test)):
        if len(np.unique(digits.labels)) < 2:
            raise UserError(
                f"{what}: all {split} digits are of one class, and a pair needs two "
                "classes; choose another config.data.base"
            )

    def fixed(digits: ImageSet, seed: int) -> PairSet:
        on_canvas = ImageSet(canvas.centre(digits.images, source.canvas), digits.labels)
        rng = np.random.default_rng((SPLIT_SEED, seed))
        versions = source.versions_per_digit if len(digits) else 1
        pairs = Pairs(on_canvas, source.shift, rng, versions)
        whole = pairs.batch(np.arange(len(pairs)))
        return PairSet(whole["image"], whole["label"], whole["parts"])

    test = fixed(base.test, 1)
    frames, ink = overlap(test.parts, base.train.image_shape[:2], source)
    return Dataset(
        name="multimnist",
        train=PairedDigits(
            canvas.centre(base.train.images, source.canvas),
            base.train.labels,
            source.shift,
        ),
        validation=fixed(base.validation, 2),
        test=test,
        class_names=base.class_names,
        provenance=(
            f"pairs of digits, each shifted by up to {source.shift} pixels, on "
            f"{source.canvas}x{source.canvas}; the digits' frames overlap by "
            f"{100 * frames:.0f} % on average, the boxes around their ink by "
            f"{100 * ink:.0f} %; made of {base.provenance}"
        ),
        content=base.content,
        data_dir=base.data_dir,
        title=names.derived("multimnist", base.title),
    )


def overlap(
    parts: npt.NDArray[np.uint8], digit_size: tuple[int, int], source: Source
) -> tuple[float, float]:
    """Measures how much the two digits of a pair overlap, on average over the pairs.

    Args:
        parts: [N, 2, H, W, C], the digits of each pair.
        digit_size: height and width of the digits before they were put on the canvas.
        source: the data set's arguments, of which `shift` counts.

    Returns:
        The expected share of a digit's frame (its image before it was put on the
        canvas, 28x28 pixels for MNIST) that lies in the other digit's frame: the 80 %
        of the paper. And the same for the boxes around the ink, as measured: the area
        of their intersection over the mean of their areas.
    """
    steps = 2 * source.shift + 1
    # The expected distance of two numbers that are drawn uniformly from 1..steps.
    distance = (steps**2 - 1) / (3 * steps)
    height, width = digit_size
    frames = max(1 - distance / height, 0.0) * max(1 - distance / width, 0.0)

    ink = parts.any(axis=4)
    tops, bottoms = _extent(ink.any(axis=3))
    lefts, rights = _extent(ink.any(axis=2))
    areas = (bottoms - tops) * (rights - lefts)
    heights = np.minimum(*bottoms.T) - np.maximum(*tops.T)
    widths = np.minimum(*rights.T) - np.maximum(*lefts.T)
    common = np.maximum(heights, 0) * np.maximum(widths, 0)
    return frames, float(np.mean(common / np.maximum(areas.mean(axis=1), 1)))


def _extent(ink: npt.NDArray[np.bool_]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first index with ink along the last axis, and one past the last."""
    size = ink.shape[-1]
    return ink.argmax(axis=-1), size - ink[..., ::-1].argmax(axis=-1)


def _partners(
    labels: npt.NDArray[np.int32],
    first: npt.NDArray[np.integer],
    rng: np.random.Generator,
) -> npt.NDArray[np.integer]:
    """Draws a digit of another class for each of `first`, uniformly."""
    partners = rng.integers(0, max(len(labels), 1), len(first))
    alike = np.flatnonzero(labels[first] == labels[partners])
    while len(alike):
        partners[alike] = rng.integers(0, len(labels), len(alike))
        alike = alike[labels[first[alike]] == labels[partners[alike]]]
    return partners
