"""Draws scenes of faces: strokes by their distance from each pixel, without jags."""

import numpy as np
import numpy.typing as npt

from capsjax.data.sources.faces_scenes import MIDDLE, SIDE, Scenes, rotated

_CHUNK = 250  # Scenes whose arrays fit into a processor's cache.

_Pixels = npt.NDArray[np.float32]


def draw(scenes: Scenes) -> npt.NDArray[np.uint8]:
    """Images uint8 [N, 28, 28, 1] of scenes: white strokes on black.

    A pixel's value is the share of it that the nearest stroke covers, were the stroke's
    edge straight. Where strokes cross, ink does not add up.
    """
    images = [np.zeros((0, SIDE, SIDE, 1), np.uint8)]
    for start in range(0, len(scenes), _CHUNK):
        some = scenes.take(slice(start, start + _CHUNK))
        images.append(_draw(some).reshape(-1, SIDE, SIDE, 1))
    return np.concatenate(images)


def _draw(scenes: Scenes) -> npt.NDArray[np.uint8]:
    """Images [N, SIDE * SIDE]."""
    pixels = np.indices((SIDE, SIDE)).reshape(2, -1).T - MIDDLE
    # From the image's coordinates to the face's.
    seen = rotated(pixels - scenes.shift[:, None], -scenes.turn[:, None])
    seen /= scenes.scale[:, None, None]
    row, column = np.moveaxis(seen.astype(np.float32), -1, 0)
    nearest = _from_outline(row, column, scenes.radii.astype(np.float32))
    places = scenes.places[:, :, None]
    strokes = (scenes.strokes + places).astype(np.float32)
    for part in range(strokes.shape[1]):
        distance = _from_stroke(row, column, strokes[:, part])
        distance[~scenes.drawn[:, part]] = np.inf
        np.minimum(nearest, distance, out=nearest)
    scale, width = scenes.scale[:, None], scenes.widths[:, None]
    ink = np.clip((width + 1) / 2 - nearest * scale, 0, 1)
    return np.rint(255 * ink).astype(np.uint8)


def _from_outline(row: _Pixels, column: _Pixels, radii: _Pixels) -> _Pixels:
    """Distances from an ellipse, to first order: exact where it matters, near it."""
    y, x = radii[:, :1], radii[:, 1:]
    level = np.hypot(row / y, column / x)
    slope = np.hypot(row / y**2, column / x**2)
    return np.abs(level - 1) * level / np.maximum(slope, 1e-6)


def _from_stroke(row: _Pixels, column: _Pixels, stroke: _Pixels) -> _Pixels:
    """Distances from a line through points [N, P, 2]."""
    squares = np.full_like(row, np.inf)
    for point in range(stroke.shape[1] - 1):
        y, x = stroke[:, point, :1], stroke[:, point, 1:]
        dy, dx = stroke[:, point + 1, :1] - y, stroke[:, point + 1, 1:] - x
        if point and not (dy.any() or dx.any()):
            continue  # The padding of a short stroke.
        down, right = row - y, column - x
        along = (down * dy + right * dx) / np.maximum(dy**2 + dx**2, 1e-6)
        np.clip(along, 0, 1, out=along)
        down -= along * dy
        right -= along * dx
        np.minimum(squares, down**2 + right**2, out=squares)
    return np.sqrt(squares)
