"""Scenes of drawn faces: what lies where, before and after anybody rearranges it.

A scene is an outline and four parts, two eyes, a nose and a mouth, each a stroke. All
of it is a pure function of the image's number, so that sets of any length agree, and
arrays hold many scenes at once.

Coordinates are (row, column) in pixels. Those of a *face* have their origin in its
middle, before it is scaled, turned and moved; those of an *image* begin in the middle
of the pixel in its upper left corner.
"""

import dataclasses
from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

PARTS = ("left eye", "right eye", "nose", "mouth")
"""The parts in the order of all arrays, and the names of their places."""

SIDE = 28
"""Height and width of an image in pixels."""

MIDDLE = (SIDE - 1) / 2

_LEFT_EYE, _RIGHT_EYE, _NOSE, _MOUTH = range(4)
_POINTS = 9  # Of each stroke; shorter ones repeat their last point.
_COLUMNS = 48  # Random numbers of each image.
_DOODLE = 4  # Points of a doodle.
# Degrees by which a doodle turns at its corners: one in the place of an eye, a ring, is
# open, and the others are folded, so that none looks like the part.
_OPEN, _FOLDED = (30, 80), (110, 150)


@dataclasses.dataclass(frozen=True, eq=False)
class Scenes:
    """N scenes; see the module for coordinates.

    Attributes:
        radii: [N, 2] of the outline, an ellipse.
        widths: [N] of all strokes, in pixels of the image.
        strokes: [N, 4, P, 2], points of each part's stroke around the part's place, in
            the face's coordinates.
        places: [N, 4, 2], the middle of each part, in the face's coordinates.
        drawn: bool [N, 4]; the other parts are not there.
        turn: [N], radians by which the face is turned, counter-clockwise.
        scale: [N].
        shift: [N, 2], from the middle of the image.
    """

    radii: Floats
    widths: Floats
    strokes: Floats
    places: Floats
    drawn: npt.NDArray[np.bool_]
    turn: Floats
    scale: Floats
    shift: Floats

    def __len__(self) -> int:
        return len(self.widths)

    def take(self, indices: npt.NDArray[np.integer] | slice) -> Self:
        """The scenes at some indices."""
        fields = dataclasses.fields(self)
        return dataclasses.replace(
            self, **{field.name: getattr(self, field.name)[indices] for field in fields}
        )

    def replaced(self, where: npt.NDArray[np.bool_], other: "Scenes") -> "Scenes":
        """The scenes with those of another, as many, where bool [N] says so."""

        def chosen(name: str) -> np.ndarray:
            mine, others = getattr(self, name), getattr(other, name)
            return np.where(where.reshape(-1, *[1] * (mine.ndim - 1)), others, mine)

        return Scenes(**{f.name: chosen(f.name) for f in dataclasses.fields(self)})

    def positions(self) -> Floats:
        """[N, 4, 2], the middle of each part in the image's coordinates."""
        turned = rotated(self.places, self.turn[:, None])
        return MIDDLE + self.shift[:, None] + self.scale[:, None, None] * turned


class Numbers:
    """Random numbers of each image, each a function of its number and its purpose."""

    def __init__(self, seed: Sequence[int], indices: npt.NDArray[np.integer]):
        """Draws them.

        Args:
            seed: numbers of the purpose.
            indices: [N], number of each image.
        """
        drawn = [
            np.random.default_rng([*seed, index]).random(_COLUMNS)
            for index in indices.tolist()
        ]
        self._numbers = np.array(drawn).reshape(-1, _COLUMNS)
        self._used = 0

    def uniform(self, low: float, high: float) -> Floats:
        """[N], numbers between two others that have not been used yet."""
        self._used += 1
        return low + (high - low) * self._numbers[:, self._used - 1]

    def order(self, count: int) -> npt.NDArray[np.intp]:
        """[N, count], the numbers below ``count`` in a random order."""
        keys = [self.uniform(0, 1) for _ in range(count)]
        return np.argsort(np.stack(keys, axis=1), axis=1)


def rotated(points: Floats, angle: Floats) -> Floats:
    """Points [..., 2], as (row, column), turned counter-clockwise about the origin.

    Args:
        points: coordinates.
        angle: radians, [...] or any shape that broadcasts to it.
    """
    row, column = np.moveaxis(points, -1, 0)
    sine, cosine = np.sin(angle), np.cos(angle)
    return np.stack(
        [cosine * row - sine * column, sine * row + cosine * column], axis=-1
    )


def faces(seed: Sequence[int], indices: npt.NDArray[np.integer]) -> Scenes:
    """Faces: all parts in their places.

    Args:
        seed: numbers of the set of images.
        indices: [N], number of each image in the set.
    """
    numbers = Numbers(seed, indices)
    draw = numbers.uniform
    count = len(indices)
    aside, height = draw(3.4, 4.4), draw(-4.2, -2.8)
    places = np.zeros((count, len(PARTS), 2))
    places[:, _LEFT_EYE] = np.stack([height, -aside], axis=1)
    places[:, _RIGHT_EYE] = np.stack([height, aside], axis=1)
    places[:, _NOSE] = np.stack([draw(-0.4, 0.6), draw(-0.5, 0.5)], axis=1)
    places[:, _MOUTH] = np.stack([draw(5.0, 6.2), draw(-0.7, 0.7)], axis=1)
    eye = _eye(draw(0.9, 1.7), draw(1.3, 2.1), np.radians(draw(-25, 25)))
    strokes = np.zeros((count, len(PARTS), _POINTS, 2))
    strokes[:, _LEFT_EYE] = eye
    strokes[:, _RIGHT_EYE] = eye * [1, -1]
    strokes[:, _NOSE] = _nose(draw(2.4, 3.6), draw(-0.6, 0.6), draw(-1.7, 1.7))
    mouth = _mouth(draw(2.5, 3.9), draw(-1.6, 2.2))
    strokes[:, _MOUTH] = rotated(mouth, np.radians(draw(-10, 10))[:, None])
    return Scenes(
        radii=np.stack([draw(10.0, 11.2), draw(8.4, 10.4)], axis=1),
        widths=draw(0.9, 1.35),
        strokes=strokes,
        places=places,
        drawn=np.ones((count, len(PARTS)), bool),
        turn=np.radians(draw(-15, 15)),
        scale=draw(0.85, 1.08),
        shift=np.stack([draw(-1.5, 1.5), draw(-1.5, 1.5)], axis=1),
    )


def without_parts(
    scenes: Scenes,
    seed: Sequence[int],
    indices: npt.NDArray[np.integer],
    doodle_share: float,
) -> Scenes:
    """The same scenes without some of their parts, at least one.

    Two of three lack one part, the others two or three. In the place of each is
    nothing, or a doodle, a zigzag about as long as the part's stroke, with which the
    amount of ink tells less.

    Args:
        scenes: N faces.
        seed: numbers of the set of images.
        indices: [N], number of each image in the set.
        doodle_share: share of the missing parts that a doodle replaces.
    """
    numbers = Numbers(seed, indices)
    count = 1 + np.searchsorted([0.67, 0.9], numbers.uniform(0, 1))
    missing = numbers.order(len(PARTS)) < count[:, None]
    strokes, drawn = scenes.strokes.copy(), scenes.drawn.copy()
    for part in range(len(PARTS)):
        is_doodle = numbers.uniform(0, 1) < doodle_share
        turns = _OPEN if part in (_LEFT_EYE, _RIGHT_EYE) else _FOLDED
        doodle = _doodle(numbers, lengths(scenes.strokes[:, part]), turns)
        lacks = missing[:, part]
        drawn[:, part] &= ~lacks | is_doodle
        strokes[:, part] = np.where(
            (lacks & is_doodle)[:, None, None], doodle, strokes[:, part]
        )
    return dataclasses.replace(scenes, strokes=strokes, drawn=drawn)


def lengths(strokes: Floats) -> Floats:
    """Lengths [...] in pixels of strokes [..., P, 2]."""
    return np.linalg.norm(np.diff(strokes, axis=-2), axis=-1).sum(axis=-1)


def _eye(height: Floats, width: Floats, tilt: Floats) -> Floats:
    """A closed ring, or almost a dot; all strokes are [N, P, 2]."""
    angle = np.linspace(0, 2 * np.pi, _POINTS)
    ring = [np.outer(height, np.sin(angle)), np.outer(width, np.cos(angle))]
    return rotated(np.stack(ring, axis=-1), tilt[:, None])


def _nose(length: Floats, skew: Floats, foot: Floats) -> Floats:
    """A line downwards with a short foot to one side."""
    # No foot is so short that it cannot be seen.
    foot = foot + 0.5 * np.sign(foot)
    rows = np.stack([-length / 2, length / 2, length / 2], axis=1)
    columns = np.stack([-skew, skew, skew + foot], axis=1)
    return _padded(np.stack([rows, columns - foot[:, None] / 3], axis=-1))


def _mouth(half_width: Floats, bend: Floats) -> Floats:
    """An arc: it smiles if the bend is positive."""
    along = np.linspace(-1, 1, _POINTS)
    rows = np.outer(bend, 0.5 - along**2)
    return np.stack([rows, np.outer(half_width, along)], axis=-1)


def _doodle(numbers: Numbers, length: Floats, turns: tuple[float, float]) -> Floats:
    """A zigzag of some length; ``turns`` bounds its corners, in degrees."""
    angle = numbers.uniform(0, 2 * np.pi)
    side = np.where(numbers.uniform(0, 1) < 0.5, -1, 1)
    points = [np.zeros((len(length), 2))]
    for _ in range(_DOODLE - 1):
        step = np.stack([np.sin(angle), np.cos(angle)], axis=1)
        points.append(points[-1] + length[:, None] / (_DOODLE - 1) * step)
        angle = angle + side * np.radians(numbers.uniform(*turns))
        side = -side
    stroke = np.stack(points, axis=1)
    return _padded(stroke - stroke.mean(axis=1, keepdims=True))


def _padded(stroke: Floats) -> Floats:
    missing = _POINTS - stroke.shape[1]
    return np.pad(stroke, [(0, 0), (0, missing), (0, 0)], mode="edge")
