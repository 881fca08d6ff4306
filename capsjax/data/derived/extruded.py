"""Extruded digits: solid digits in a cube of voxels, turned about random axes.

A test of viewpoints in the manner of smallNORB, in three dimensions and made of digits:
an image of a digit becomes a plate four voxels thick, which is turned in space.
"""

import numpy as np
import numpy.typing as npt

from capsjax.data import names
from capsjax.data.datasets import Dataset, ImageSet, resize
from capsjax.data.known import VOXELS
from capsjax.data.source import Source
from capsjax.data.splits import SPLIT_SEED
from capsjax.errors import UserError

SIDE = VOXELS[0]
"""Voxels of the cube along each axis."""

THICKNESS = 4
"""Voxels of a digit along the third axis, before it is turned."""

FAMILIAR, LARGEST = 30.0, 90.0
"""Degrees: turns by less than the first are familiar; none is larger than the other."""

# Least and largest turn in degrees for training, and for testing.
_TURNS = {
    "": ((0.0, LARGEST), (0.0, LARGEST)),
    "azimuth": ((0.0, FAMILIAR), (FAMILIAR, LARGEST)),
    "azimuth_familiar": ((0.0, FAMILIAR), (0.0, FAMILIAR)),
}

_CHUNK = 1_000


def derive(base: Dataset, source: Source) -> Dataset:
    """Makes the data set from one of digits.

    Digits are resized to 16x16 pixels. Each one is turned once, about an axis drawn
    evenly from all directions, by an angle drawn evenly from a range, which
    `source.novel_viewpoint` chooses:

    ``""``
        Up to 90 degrees, in training and in testing.
    ``"azimuth"``
        Up to 30 degrees in training and validation, 30 to 90 in testing.
    ``"azimuth_familiar"``
        Up to 30 degrees; training and validation digits are those of ``"azimuth"``.

    A volume is an image 16 x 16 with its depth, 16 voxels, as channels: whatever moves
    images moves it in the image's plane.

    Args:
        base: grayscale digits, already split.
        source: the data set's arguments, of which `novel_viewpoint` counts.

    Raises:
        UserError: the digits have colour, or an unknown `novel_viewpoint`.
    """
    novel = source.novel_viewpoint
    if novel not in _TURNS:
        raise UserError(
            f"unknown novel_viewpoint {novel!r} of extruded digits; choose "
            f"{' or '.join(name for name in _TURNS if name)}, or '' for turns of up to "
            f"{LARGEST:g} degrees"
        )
    if base.image_shape[2] != 1:
        raise UserError(
            f"extruded: the images of {base.name} have {base.image_shape[2]} channels; "
            "choose a config.data.base of grayscale digits"
        )
    train_turns, test_turns = _TURNS[novel]
    return Dataset(
        name="extruded",
        train=_turned(base.train, train_turns, seed=5),
        validation=_turned(base.validation, train_turns, seed=6),
        test=_turned(base.test, test_turns, seed=7),
        class_names=base.class_names,
        provenance=(
            f"extruded digits, {SIDE}x{SIDE}x{THICKNESS}, turned in {SIDE} cubed "
            f"voxels, those of training by {_range(train_turns)} and those of testing "
            f"by {_range(test_turns)} degrees; made of {base.provenance}"
        ),
        content=base.content,
        data_dir=base.data_dir,
        title=names.derived("extruded", base.title),
    )


def rotations(
    axes: npt.NDArray[np.float64], degrees: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Matrices of turns by Rodrigues' formula.

    Args:
        axes: [N, 3], of length one.
        degrees: [N], by the right-hand rule.

    Returns:
        [N, 3, 3].
    """
    angles = np.deg2rad(degrees)[:, None, None]
    cross = np.cross(np.eye(3)[None], axes[:, None])  # Its product with v is axis x v.
    return np.eye(3) + np.sin(angles) * cross + (1 - np.cos(angles)) * cross @ cross


def solid(
    images: npt.NDArray[np.uint8], turns: npt.NDArray[np.float64]
) -> npt.NDArray[np.uint8]:
    """Extrudes images and turns them, about the middle of the cube.

    Args:
        images: [N, SIDE, SIDE].
        turns: [N, 3, 3], matrices of coordinates (row, column, depth).

    Returns:
        uint8 [N, SIDE, SIDE, SIDE] of (row, column, depth). Voxels between two of the
        digit are interpolated linearly.
    """
    middle = (SIDE - 1) / 2
    voxels = np.indices((SIDE,) * 3).reshape(3, -1) - middle
    # Where each voxel was before the turn: the inverse of a turn is its transpose.
    row, column, depth = np.moveaxis(turns.swapaxes(1, 2) @ voxels, 1, 0)
    thick = np.clip((THICKNESS + 1) / 2 - np.abs(depth), 0, 1)
    padded = np.pad(images, [(0, 0), (1, 1), (1, 1)]).astype(np.float64)
    number = np.arange(len(images))[:, None]
    total = np.zeros(row.shape)
    # In the padded image, whose border is black as all is beyond it.
    row, column = (np.clip(x + middle + 1, 0, SIDE + 1) for x in (row, column))
    top, left = (np.minimum(x.astype(int), SIDE) for x in (row, column))
    for down in (0, 1):
        for right in (0, 1):
            weight = 1 - np.abs(row - top - down)
            weight *= 1 - np.abs(column - left - right)
            total += weight * padded[number, top + down, left + right]
    return np.rint(thick * total).astype(np.uint8).reshape(-1, *(SIDE,) * 3)


def _turned(digits: ImageSet, degrees: tuple[float, float], seed: int) -> ImageSet:
    rng = np.random.default_rng((SPLIT_SEED, seed))
    axes = rng.normal(size=(len(digits), 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    turns = rotations(axes, rng.uniform(*degrees, len(digits)))
    images = resize(digits, SIDE).images[..., 0]
    parts = [
        solid(images[start : start + _CHUNK], turns[start : start + _CHUNK])
        for start in range(0, len(images), _CHUNK)
    ]
    empty = np.zeros((0, *(SIDE,) * 3), np.uint8)
    return ImageSet(np.concatenate([empty, *parts]), digits.labels)


def _range(degrees: tuple[float, float]) -> str:
    low, high = degrees
    return f"{low:g} to {high:g}"
