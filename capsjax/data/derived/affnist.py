"""affNIST: MNIST's test digits, each transformed at random, on 40x40 pixels.

The published files are read where they are available. Otherwise such a set is generated
by their recipe, and its provenance says so.

References:
    Tieleman, "affNIST", 2013; Sabour, Frosst and Hinton 2017, section 5.2.
"""

import dataclasses
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.io
import scipy.ndimage
from tqdm import tqdm

from capsjax.data import names
from capsjax.data.datasets import Dataset, ImageSet
from capsjax.data.derived import expanded
from capsjax.data.source import Source
from capsjax.data.splits import SPLIT_SEED
from capsjax.errors import UserError

SIDE = 40
"""Pixels of the published images."""

ROTATION = 20.0
"""Largest rotation either way in degrees."""

SHEAR = 0.2
"""Largest shear either way."""

SCALE = (0.8, 1.2)
"""Smallest and largest factor of size along each axis."""


@dataclasses.dataclass(frozen=True, eq=False)
class Transformed:
    """Transformed test digits.

    Attributes:
        images: N images.
        originals: int [N], the index of the digit that each image was made from;
            versions of one digit are not independent of each other.
        provenance: the images' origin, in one line.
        published: True for the published images, False for generated ones.
    """

    images: ImageSet
    originals: npt.NDArray[np.int64]
    provenance: str
    published: bool = False


def derive(base: Dataset, source: Source) -> Dataset:
    """Expanded MNIST, see `expanded`, with affNIST as its test set.

    Raises:
        UserError: the digits do not fit on the canvas, or affNIST's files are damaged.
    """
    clean = expanded.derive(base, source)
    transformed = load_test(base, source)
    return dataclasses.replace(
        clean,
        name="affnist",
        test=transformed.images,
        provenance=f"tested on {transformed.provenance}; trained on {clean.provenance}",
        content=f"{clean.content}; {transformed.provenance}",
        title=names.derived("affnist", base.title, generated=not transformed.published),
    )


def load_test(base: Dataset, source: Source) -> Transformed:
    """Returns the transformed test digits: the published ones, or else generated ones.

    The published files are ``affnist/test.mat`` or ``affnist/test_batches/*.mat`` in
    the data directory. They are used only if the digits are MNIST's and the canvas has
    40x40 pixels.

    Args:
        base: single digits; the test digits are transformed.
        source: the data set's settings: `canvas` and `versions_per_digit` for generated
            digits.

    Raises:
        UserError: a file is damaged or is not affNIST's.
    """
    files = _published(base.data_dir)
    if files and base.name == "mnist" and source.canvas == SIDE:
        return _read(files)
    images, originals = generate(base.test, source.canvas, source.versions_per_digit)
    return Transformed(
        images,
        originals,
        f"affNIST generated here by its recipe (not the published files), "
        f"{source.versions_per_digit} of each of {len(base.test):,} test digits",
    )


def generate(
    digits: ImageSet, side: int, versions: int
) -> tuple[ImageSet, npt.NDArray[np.int64]]:
    """Transforms digits by affNIST's recipe, the same in every run.

    Rotation, shear and two scales are drawn uniformly from their ranges, then a
    translation uniformly from those that keep all ink on the canvas. Bilinear.

    Args:
        digits: N grayscale images.
        side: the canvas's height and width in pixels.
        versions: the number V of versions of each digit.

    Returns:
        V * N images uint8 [side, side, 1], and the digit of each.
    """
    rng = np.random.default_rng((SPLIT_SEED, 5))
    originals = np.tile(np.arange(len(digits)), versions)
    images = np.zeros((len(originals), side, side, 1), np.uint8)
    progress = tqdm(originals, desc="generating affNIST", unit="image", disable=None)
    for target, original in zip(images, progress, strict=True):
        target[:, :, 0] = _transform(digits.images[original, :, :, 0], side, rng)
    return ImageSet(images, digits.labels[originals]), originals


def matrix(
    rotation: float, shear: float, scale: tuple[float, float]
) -> npt.NDArray[np.float64]:
    """Returns the linear map from a digit's (row, column) to the canvas's.

    Args:
        rotation: the angle in degrees, counter-clockwise as seen.
        shear: the columns that a row moves for each row of distance from the centre.
        scale: the factors of rows and columns.
    """
    angle = np.deg2rad(rotation)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return turn @ np.array([[1.0, 0.0], [shear, 1.0]]) @ np.diag(scale)


def _transform(
    digit: npt.NDArray[np.uint8], side: int, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    linear = matrix(
        rng.uniform(-ROTATION, ROTATION),
        rng.uniform(-SHEAR, SHEAR),
        (rng.uniform(*SCALE), rng.uniform(*SCALE)),
    )
    inverse = np.linalg.inv(linear)
    # On a canvas that nothing can leave; cut to its size below.
    room = 2 * max(digit.shape)
    centre = (np.array(digit.shape) - 1) / 2
    offset = centre - inverse @ np.full(2, (room - 1) / 2)
    large = scipy.ndimage.affine_transform(
        digit.astype(np.float64), inverse, offset, (room, room), order=1
    )
    large = np.rint(large).astype(np.uint8)
    cut = [_window(large.any(axis=1 - axis), side, rng) for axis in range(2)]
    window = large[tuple(slice(max(start, 0), max(start + side, 0)) for start in cut)]
    canvas = np.zeros((side, side), np.uint8)
    row, column = (max(-start, 0) for start in cut)
    canvas[row : row + window.shape[0], column : column + window.shape[1]] = window
    return canvas


def _window(ink: npt.NDArray[np.bool_], side: int, rng: np.random.Generator) -> int:
    """Draws the start of a window of `side` that holds as much of the ink as fits."""
    if not ink.any():
        return 0
    first, last = ink.argmax(), len(ink) - ink[::-1].argmax() - 1
    lowest, highest = sorted((int(last) + 1 - side, int(first)))
    return int(rng.integers(lowest, highest + 1))


def _published(data_dir: str | None) -> list[Path]:
    root = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    folder = Path(root).expanduser() / "affnist"
    if (folder / "test.mat").is_file():
        return [folder / "test.mat"]
    batches = (folder / "test_batches").glob("*.mat")
    return sorted(batches, key=lambda path: (len(path.name), path.name))


def _read(files: list[Path]) -> Transformed:
    images, labels, originals = [], [], []
    for path in tqdm(files, desc="reading affNIST", unit="file", disable=None):
        found = _read_mat(path)
        images.append(found["image"].T.reshape(-1, SIDE, SIDE, 1))
        labels.append(found["label_int"].ravel().astype(np.int32))
        originals.append(found["original_id"].ravel().astype(np.int64))
    image_set = ImageSet(np.concatenate(images), np.concatenate(labels))
    return Transformed(
        image_set,
        np.concatenate(originals),
        f"the published affNIST, {len(image_set):,} test images in "
        f"{len(files)} file{'s' * (len(files) > 1)}",
        published=True,
    )


def _read_mat(path: Path) -> dict[str, np.ndarray]:
    """Reads the fields of one published file and checks their sizes."""
    remedy = "fetch it again, or remove it to have affNIST generated"
    try:
        contents = scipy.io.loadmat(path, variable_names=["affNISTdata"])
        struct = contents["affNISTdata"][0, 0]
        found = {
            name: np.asarray(struct[name])
            for name in ("image", "label_int", "original_id")
        }
    # SciPy meets a file that it cannot read with several kinds of error.
    except Exception as error:
        raise UserError(
            f"cannot read {path} as a file of affNIST ({error}); {remedy}"
        ) from error
    image, labels = found["image"], found["label_int"]
    n = labels.size
    if (
        image.shape != (SIDE * SIDE, n)
        or image.dtype != np.uint8
        or found["original_id"].size != n
    ):
        raise UserError(
            f"{path} holds images of shape {image.shape} and dtype {image.dtype} for "
            f"{n} labels and {found['original_id'].size} originals; wanted uint8 "
            f"{(SIDE * SIDE, n)} and {n}: {remedy}"
        )
    return found
