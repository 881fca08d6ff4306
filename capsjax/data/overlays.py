"""What corruptions lay over an image: fog, lines; and the edges that replace it.

References:
    Fournier, Fussell and Carpenter 1982, "Computer Rendering of Stochastic Models", for
    the fractal; Canny 1986, "A Computational Approach to Edge Detection".
"""

import itertools

import numpy as np
import numpy.typing as npt
import scipy.ndimage

Plane = npt.NDArray[np.float64]

_LINE_REACH = 2.3  # MNIST's pixels from a line's middle to where it ends.


def plasma(side: int, decay: float, rng: np.random.Generator) -> Plane:
    """A fractal height map in [0, 1], by the diamond-square algorithm, periodic.

    Args:
        side: least number of rows and columns; there are as many as the next power of
            two.
        decay: factor by which the roughness of finer steps shrinks. Its square counts,
            as in MNIST-C's code, which multiplies the roughness by itself.
        rng: generator.
    """
    size = 1 << (side - 1).bit_length()
    heights = np.zeros((size, size))
    step, roughness = size, 100.0

    def noisy_mean(total: Plane) -> Plane:
        return total / 4 + roughness**2 * rng.uniform(-1, 1, total.shape)

    while step >= 2:
        half = step // 2
        corners = heights[::step, ::step]
        right = corners + np.roll(corners, -1, axis=1)
        centres = noisy_mean(right + np.roll(right, -1, axis=0))
        heights[half::step, half::step] = centres
        # Points between two corners also lie between two of the centres.
        across = centres + np.roll(centres, 1, axis=0) + right
        heights[::step, half::step] = noisy_mean(across)
        down = centres + np.roll(centres, 1, axis=1)
        down += corners + np.roll(corners, -1, axis=0)
        heights[half::step, ::step] = noisy_mean(down)
        step, roughness = half, roughness / decay
    heights -= heights.min()
    return heights / heights.max()


def line(
    shape: tuple[int, ...],
    start: tuple[float, float],
    end: tuple[float, float],
    scale: float,
) -> Plane:
    """A soft line, ``log(1 - d / 2.3) + 1`` at d of MNIST's pixels above or below it.

    Args:
        shape: height and width.
        start: column and row of its left end.
        end: column and row of its right end.
        scale: pixels for each of MNIST's.
    """
    H, W = shape
    if start[0] == end[0]:
        return np.zeros((H, W))
    row, column = np.ogrid[:H, :W]
    slope = (end[1] - start[1]) / (end[0] - start[0])
    away = np.abs(row - start[1] - slope * (column - start[0])) / scale
    away = np.minimum(away, _LINE_REACH - 1e-10)
    result = np.clip(np.log(1 - away / _LINE_REACH) + 1, 0, 1)
    result[:, : max(int(np.floor(start[0])), 0)] = 0
    result[:, max(int(np.ceil(end[0])), 0) :] = 0
    return result


def dotted_line(
    shape: tuple[int, ...], scale: float, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """A line across the image, [H, W, 1]; pieces of 2 of MNIST's pixels are missing."""
    H, W = shape
    left, right = rng.integers(0, H - 1, 2)
    result = line(shape, (0, left), (W - 1, right), scale)
    piece = max(1, round(2 * scale))
    result[:, np.arange(W) // piece % 2 == 0] = 0
    return result[..., None]


def zigzag(
    shape: tuple[int, ...], scale: float, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """A zigzag across the image, [H, W, 1], with teeth of 2 x 2 of MNIST's pixels."""
    H, W = shape
    tooth, margin = 2 * scale, 2 * scale
    top = rng.integers(0, H - 1)
    rise = scale * rng.integers(-5, 5)
    run = W - 1 - 2 * margin
    length = np.hypot(run, rise)
    count = int((length - tooth) // (2 * tooth)) + 1
    along = np.array([0.0, *((2 * i + 1) * tooth for i in range(count)), length])
    aside = np.array([0.0, *((-1) ** i * tooth for i in range(count)), 0.0])
    columns = margin + (run * along - rise * aside) / length
    rows = top + (rise * along + run * aside) / length
    result = np.zeros((H, W))
    for start, end in itertools.pairwise(zip(columns, rows, strict=True)):
        result += line(shape, start, end, scale)
    return np.minimum(result, 1)[..., None]


def canny(image: Plane, sigma: float, low: float = 0.1, high: float = 0.2) -> Plane:
    """The edges of an image with values in [0, 1]: 1 there, 0 elsewhere.

    Smoothed, the image's gradient must be the largest along its own direction and at
    least ``low``; such pixels count if one that they are connected to has ``high``.

    Args:
        image: [H, W].
        sigma: standard deviation of the smoothing, in pixels; zeros around the image
            do not count.
        low: lower threshold of the Sobel filter's gradient.
        high: upper threshold.
    """
    inside = np.ones_like(image)
    smooth, weight = (
        scipy.ndimage.gaussian_filter(x, sigma, mode="constant")
        for x in (image, inside)
    )
    smooth /= weight
    gradient = np.stack([scipy.ndimage.sobel(smooth, axis) for axis in (0, 1)])
    size = np.hypot(*gradient)
    largest = np.abs(gradient).max(axis=0)
    direction = gradient / np.where(largest > 0, largest, 1)
    places = np.indices(image.shape)
    ahead, behind = (
        scipy.ndimage.map_coordinates(size, places + way * direction, order=1)
        for way in (1, -1)
    )
    is_edge = (size >= ahead) & (size >= behind) & (size >= low)
    is_edge[[0, -1]] = is_edge[:, [0, -1]] = False
    parts, _ = scipy.ndimage.label(is_edge, np.ones((3, 3)))
    strong = np.unique(parts[is_edge & (size >= high)])
    return np.isin(parts, strong[strong > 0]).astype(np.float64)
