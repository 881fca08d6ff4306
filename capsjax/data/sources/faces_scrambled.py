"""The test faces with their parts in the wrong places, for tests of trained networks.

All kinds show the same faces, in the same order, so that networks and kinds can be
compared face by face.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from capsjax.data.sources import faces_scenes
from capsjax.data.sources.faces_drawing import draw
from capsjax.data.sources.faces_scenes import (
    MIDDLE,
    PARTS,
    Floats,
    Numbers,
    Scenes,
    rotated,
)
from capsjax.errors import UserError

TEST_SEED = (1_742, 1)
"""Numbers from which the test images are made."""

NUM_TEST = 2_000
"""Test images, of which those with odd numbers are faces."""

KINDS: Mapping[str, float] = {
    "correct": 0.0,
    "swapped": 0.0,
    "shuffled": 0.0,
    "turned": 180.0,
    "moved": 8.0,
    "upside_down": 0.0,
}
"""The kinds, and of those with an amount the largest and usual one.

``"correct"``
    The faces as they are.
``"swapped"``
    The mouth and one of the eyes are in each other's place.
``"shuffled"``
    No part is where one of its kind belongs: the places of the eyes have nose and
    mouth, and theirs have the eyes. (Eyes that change places would be a face.)
``"turned"``
    Each part is turned about its middle, by an angle drawn evenly from all up to the
    amount in degrees, either way. Some remain almost as they were.
``"moved"``
    Each part is moved by the amount in pixels of the image, in a direction of its own
    that keeps its middle inside the image. It is the same for all amounts.
``"upside_down"``
    The whole face is turned by 180 degrees, which may be called a face or not.
"""

# Kinds have streams of random numbers of their own, those of `TEST_SEED` and these.
_STREAMS = {"swapped": 2, "shuffled": 3, "turned": 4, "moved": 5}
_MARGIN = 2.0  # Pixels between the middle of a moved part and the image's edge.
_TRIES = 24  # Directions, of which a moved part takes the first that is possible.
_EYES_ELSEWHERE = np.array([[2, 3, 0, 1], [2, 3, 1, 0], [3, 2, 0, 1], [3, 2, 1, 0]])


class Faces(NamedTuple):
    """N images, and where their parts are.

    Attributes:
        images: uint8 [N, 28, 28, 1].
        positions: float64 [N, 4, 2], row and column in pixels of the middle of each of
            `PARTS`.
    """

    images: npt.NDArray[np.uint8]
    positions: Floats


def scrambled(kind: str, amount: float | None = None, count: int = 1_000) -> Faces:
    """The first of the test faces, scrambled in one way.

    Args:
        kind: one of `KINDS`.
        amount: degrees or pixels, of the kinds that have an amount; by default the
            largest.
        count: number of faces, at most 1,000.

    Raises:
        UserError: an unknown kind, or an amount or count that it does not have.
    """
    if kind not in KINDS:
        raise UserError(
            f"there are no faces {kind!r}; choose {' or '.join(map(repr, KINDS))}"
        )
    most = KINDS[kind]
    amount = most if amount is None else amount
    if not 0 <= amount <= most:
        raise UserError(
            f"faces {kind!r} have no amount {amount:g}; choose 0 to {most:g}"
        )
    if not 1 <= count <= NUM_TEST // 2:
        raise UserError(
            f"there are {NUM_TEST // 2:,} test faces; choose a count of 1 to that "
            f"many in place of {count}"
        )
    indices = 2 * np.arange(count) + 1
    scenes = faces_scenes.faces(TEST_SEED, indices)
    scenes = scramble(scenes, kind, amount, TEST_SEED, indices)
    return Faces(draw(scenes), scenes.positions())


def scramble(
    scenes: Scenes,
    kind: str,
    amount: float,
    seed: Sequence[int],
    indices: npt.NDArray[np.integer],
) -> Scenes:
    """Scrambles scenes.

    Args:
        scenes: N faces.
        kind: one of `KINDS`.
        amount: degrees or pixels, of the kinds that have an amount.
        seed: numbers of the set of images.
        indices: [N], number of each image in the set.
    """
    if kind == "correct":
        return scenes
    if kind == "upside_down":
        return dataclasses.replace(scenes, turn=scenes.turn + np.pi)
    numbers = Numbers([*seed, _STREAMS[kind]], indices)
    if kind == "turned":
        angles = [numbers.uniform(-amount, amount) for _ in PARTS]
        turned = np.radians(np.stack(angles, axis=1))[:, :, None]
        return dataclasses.replace(scenes, strokes=rotated(scenes.strokes, turned))
    if kind == "moved":
        moves = amount / scenes.scale[:, None, None] * _directions(scenes, numbers)
        return dataclasses.replace(scenes, places=scenes.places + moves)
    order = (
        _shuffled(numbers.uniform(0, len(_EYES_ELSEWHERE)))
        if kind == "shuffled"
        else _swapped(numbers.uniform(0, 1) < 0.5)
    )
    places = np.take_along_axis(scenes.places, order[:, :, None], axis=1)
    return dataclasses.replace(scenes, places=places)


def _swapped(left: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """The place of each part [N, 4] after the mouth changed it with an eye."""
    return np.where(left[:, None], [[3, 1, 2, 0]], [[0, 3, 2, 1]])


def _shuffled(choice: Floats) -> npt.NDArray[np.intp]:
    """The place of each part [N, 4]: those of the other kind."""
    return _EYES_ELSEWHERE[choice.astype(int)]


def _directions(scenes: Scenes, numbers: Numbers) -> Floats:
    """Unit vectors [N, 4, 2] in the face's coordinates."""
    first = np.stack([numbers.uniform(0, 2 * np.pi) for _ in PARTS], axis=1)
    tries = first[..., None] + 2 * np.pi / _TRIES * np.arange(_TRIES)
    units = np.stack([np.sin(tries), np.cos(tries)], axis=-1)
    at = scenes.positions()[:, :, None] + KINDS["moved"] * units
    inside = np.all(np.abs(at - MIDDLE) <= MIDDLE - _MARGIN, axis=-1)
    chosen = np.argmax(inside, axis=-1)[..., None, None]
    unit = np.take_along_axis(units, chosen, axis=2)[:, :, 0]
    return rotated(unit, -scenes.turn[:, None])
