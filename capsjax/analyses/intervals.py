"""Confidence intervals of accuracies."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.stats


class Interval(NamedTuple):
    """An estimate and the interval that holds the true value with 95 % confidence."""

    value: float
    low: float
    high: float


def accuracy(
    right: npt.NDArray[np.bool_], groups: npt.NDArray[np.integer] | None = None
) -> Interval:
    """The share of images that were recognised.

    Wilson's interval where images are independent; where several are made from one
    original, and so are not, from the variance between the originals' shares.

    Args:
        right: [N], of each image.
        groups: [N], the original of each image.
    """
    if groups is None or len(np.unique(groups)) == len(groups):
        found = scipy.stats.binomtest(int(right.sum()), len(right))
        low, high = found.proportion_ci(method="wilson")
        return Interval(float(np.mean(right)), float(low), float(high))
    return _of_means(right.astype(np.float64), groups)


def difference(
    first: npt.NDArray[np.bool_],
    second: npt.NDArray[np.bool_],
    groups: npt.NDArray[np.integer] | None = None,
) -> Interval:
    """How much larger the first model's share is, on the same images.

    The images' differences are taken one by one, so that what makes an image hard for
    both models cancels.

    Args:
        first: [N], which images the first model recognised.
        second: [N], which the second did.
        groups: [N], see `accuracy`.
    """
    differences = first.astype(np.float64) - second
    each = np.arange(len(differences)) if groups is None else groups
    return _of_means(differences, each)


def _of_means(
    values: npt.NDArray[np.float64], groups: npt.NDArray[np.integer]
) -> Interval:
    """A mean whose groups, of about equal size, are independent of each other."""
    _, index = np.unique(groups, return_inverse=True)
    means = np.bincount(index, values) / np.bincount(index)
    mean = float(np.mean(means))
    if len(means) < 2:
        return Interval(mean, -np.inf, np.inf)
    half = scipy.stats.t.ppf(0.975, len(means) - 1) * np.std(means, ddof=1)
    half /= len(means) ** 0.5
    return Interval(mean, float(mean - half), float(mean + half))
